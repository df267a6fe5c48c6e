//! Pods with an address of each family on one node: links, routes and switches of IPv6, and that nothing of it is left.

mod kit;

use std::io::ErrorKind;
use std::net::IpAddr;
use std::time::Duration;

use kit::{DUAL, Node, Pod, advertise, eventually, knock, ping6, set_sysctl, sysctl, talk};
use serde_json::json;
use thalweg_cni::error::code;
use thalweg_lab::netns::Netns;
use thalweg_network::cleanup::Removed;

/// Everything that IPv6 routing knows of a namespace's pods.
fn traces(node: &Node) -> String {
    let routes = node.netns.ip("-6 route show table all proto 116").unwrap();
    let neighbours = node.netns.ip("-6 neigh show nud permanent").unwrap();
    format!("{routes}{neighbours}")
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn pods_of_one_node_talk_in_both_families() {
    let node = Node::dual("dual");
    let pods = [1, 2].map(|number| Pod::new("dual", number));
    let before = traces(&node);
    let results = pods.each_ref().map(|pod| node.add(pod).succeeded());
    let [a, b] = results.each_ref().map(|result| result.addresses());
    assert_eq!(b.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.244.1.2", "fd00:244:1::2"]);
    for (from, to) in a.iter().zip(&b) {
        // At once: no duplicate address detection (kubernetes#54800).
        assert_eq!(talk(&pods[0].netns, &pods[1].netns, *to), *from, "the source is preserved");
        assert_eq!(talk(&pods[0].netns, &pods[0].netns, *from), *from, "to itself");
    }
    ping6(&pods[0].netns, b[1]);
    ping6(&pods[1].netns, a[1]);
    ping6(&node.netns, a[1]);
    assert_eq!(talk(&node.netns, &pods[0].netns, a[1]).to_string(), "fd30::11", "from the node");
    assert_eq!(talk(&pods[0].netns, &node.netns, "fd30::11".parse().unwrap()), a[1], "to the node");
    assert_eq!(knock(&pods[0].netns, "fd00:244:1::99".parse().unwrap()), ErrorKind::NetworkUnreachable, "nobody there");

    let result = results[0].json();
    assert_eq!(result["ips"][1], json!({"interface": 1, "address": "fd00:244:1::1/128", "gateway": "fe80::1"}));
    assert_eq!(result["routes"][1], json!({"dst": "::/0", "gw": "fe80::1"}));
    let attached = node.network().pods();
    assert_eq!(attached[0].addr6.map(IpAddr::from), Some(a[1]));

    for pod in &pods {
        node.del(pod).succeeded();
    }
    assert_eq!((node.host_links(), node.in_use(), traces(&node)), (vec![], 0, before), "nothing is left");
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn the_pods_side_needs_no_discovery() {
    let node = Node::dual("quiet");
    let pod = Pod::new("quiet", 1);
    // What runtimes do to containers, and hardened nodes to themselves.
    for interface in ["all", "default", "lo"] {
        set_sysctl(&pod.netns, &format!("ipv6/conf/{interface}/disable_ipv6"), "1");
    }
    set_sysctl(&node.netns, "ipv6/conf/default/disable_ipv6", "1");
    let address = node.add(&pod).succeeded().addresses()[1];
    ping6(&node.netns, address);
    ping6(&pod.netns, "::1".parse().unwrap());

    let addresses = pod.netns.ip("-6 address show dev eth0 scope global").unwrap();
    assert!(addresses.contains("fd00:244:1::1/128") && addresses.contains("nodad"), "{addresses}");
    assert!(!addresses.contains("tentative"), "{addresses}");
    let neighbours = pod.netns.ip("-6 neigh show").unwrap();
    assert!(
        neighbours.contains("fe80::1 dev eth0 lladdr 06:74:0a:f4:01:01") && neighbours.contains("PERMANENT"),
        "{neighbours}"
    );
    let routes = pod.netns.ip("-6 route show default").unwrap();
    assert!(routes.contains("default via fe80::1 dev eth0") && routes.contains("onlink"), "{routes}");
    let end = pod.id.host_ifname();
    let neighbours = node.netns.ip("-6 neigh show nud permanent").unwrap();
    assert!(neighbours.contains(&format!("fd00:244:1::1 dev {end} lladdr 02:74:0a:f4:01:01")), "{neighbours}");
    let routes = node.netns.ip("-6 route show fd00:244:1::1").unwrap();
    assert!(routes.contains(&format!("dev {end} proto 116")), "{routes}");
    for (netns, interface) in [(&pod.netns, "eth0"), (&node.netns, end.as_str())] {
        for switch in ["accept_dad", "accept_ra", "disable_ipv6"] {
            assert_eq!(sysctl(netns, &format!("ipv6/conf/{interface}/{switch}")), "0", "{switch} of {interface}");
        }
    }
    assert_eq!(sysctl(&node.netns, "ipv6/conf/default/disable_ipv6"), "1", "not ours to change");
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn check_looks_at_both_families() {
    let node = Node::dual("check6");
    let pod = Pod::new("check6", 1);
    let result = node.add(&pod).succeeded().json();
    let end = pod.id.host_ifname();
    node.check(&pod, &result).succeeded();
    let mut wrong = result.clone();
    wrong["ips"][1]["address"] = json!("fd00:244:1::7/128");
    node.check(&pod, &wrong).failed(code::CHANGED, "fd00:244:1::7");

    node.netns.ip(&format!("-6 route del fd00:244:1::1 dev {end}")).unwrap();
    node.check(&pod, &result).failed(code::CHANGED, "route to fd00:244:1::1");
    node.netns.ip(&format!("-6 route add fd00:244:1::1 dev {end} proto 116")).unwrap();
    node.check(&pod, &result).succeeded();
    pod.netns.ip("-6 route del default").unwrap();
    node.check(&pod, &result).failed(code::CHANGED, "default route of its address fd00:244:1::1");
    pod.netns.ip("-6 address del fd00:244:1::1/128 dev eth0").unwrap();
    node.check(&pod, &result).failed(code::CHANGED, "lost its address fd00:244:1::1");
}

/// A node that forwards takes no router advertisements by default, and drops the routes that it has from them.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn the_uplinks_router_stays_and_pods_are_none() {
    let mut node = Node::stopped("router");
    let host = Netns::existing(&node.name);
    let router = Pod::new("router", 9);
    host.ip(&format!("link set lan0 netns {}", router.netns.name())).unwrap();
    router.netns.ip("link set lan0 up").unwrap();
    host.ip("link add eth1 type veth peer name lan1").unwrap();
    let default_routes = || host.ip("-6 route show default").unwrap();
    let learns = || {
        eventually("the advertised route is there", Duration::from_secs(10), || {
            advertise(&router.netns, "lan0");
            default_routes().contains("dev eth0 proto ra")
        });
    };
    let switches = || {
        ["all/forwarding", "default/forwarding", "eth0/accept_ra", "eth1/accept_ra", "default/accept_ra"]
            .map(|name| sysctl(&host, &format!("ipv6/conf/{name}")))
    };
    learns();
    assert_eq!(switches(), ["0", "0", "1", "1", "1"]);
    node.start(&DUAL[..1]);
    assert_eq!(switches(), ["0", "0", "1", "1", "1"], "not for IPv4 alone");
    node.stop();
    node.start(&DUAL);
    assert_eq!(switches(), ["1", "1", "2", "2", "1"]);
    assert!(default_routes().contains("dev eth0 proto ra"), "kept: {}", default_routes());
    host.ip("-6 route del default").unwrap();
    learns();

    // CVE-2020-10749: a pod that says it is a router is not believed, even on a node whose
    // new links believe routers.
    set_sysctl(&host, "ipv6/conf/default/accept_ra", "2");
    let pod = Pod::new("router", 1);
    node.add(&pod).succeeded();
    advertise(&pod.netns, "eth0");
    learns();
    assert!(!default_routes().contains(&pod.id.host_ifname()), "{}", default_routes());

    // The next agent finds the switches set, and still knows what they were.
    node.stop();
    node.start(&DUAL);
    let cleanup = || host.enter(|| thalweg_network::cleanup(node.state.path())).unwrap();
    assert!(cleanup().unwrap_err().to_string().contains("still running"));
    node.stop();
    let cleanup = || host.enter(|| thalweg_network::cleanup(node.state.path())).unwrap().unwrap();
    let removed = cleanup();
    assert_eq!(removed.links, [pod.id.host_ifname()]);
    assert_eq!(removed.routes, 2, "the node's own ranges; those to pods went with their links");
    assert_eq!(switches(), ["0", "0", "1", "1", "2"], "as before, but for what another has set");
    assert_eq!((sysctl(&host, "ipv4/ip_forward").as_str(), traces(&node).as_str()), ("0", ""));
    assert_eq!(cleanup(), Removed::default(), "nothing left to remove");
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn ranges_and_links_that_cannot_be() {
    let mut node = Node::stopped("cannot");
    node.netns.ip("link set eth0 mtu 1200").unwrap();
    node.start(&[]);
    let error = node.network().set_pod_cidrs(vec!["fd00:244:1::/64".parse().unwrap()]).unwrap_err().to_string();
    assert!(error.contains("fd00:244:1::/64") && error.contains("IPv4 range"), "{error}");
    node.network().set_pod_cidrs(DUAL.iter().map(|text| text.parse().unwrap()).collect()).unwrap();
    let pod = Pod::new("cannot", 1);
    node.add(&pod).failed(code::LINK, "an MTU of 1200 is too small for IPv6");
    assert_eq!((node.host_links(), node.in_use()), (vec![], 0));
}

/// A node that becomes dual-stack: pods that are there keep what they have, new ones get both.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_second_family_comes_later() {
    let node = Node::new("later", &DUAL[..1]);
    let (old, new) = (Pod::new("later", 1), Pod::new("later", 2));
    let result = node.add(&old).succeeded();
    assert_eq!(result.addresses().len(), 1);
    assert_eq!(old.netns.ip("-6 address show dev eth0 scope global").unwrap(), "");
    node.network().set_pod_cidrs(DUAL.iter().map(|text| text.parse().unwrap()).collect()).unwrap();
    let both = node.add(&new).succeeded().addresses();
    assert_eq!(both.len(), 2);
    ping6(&node.netns, both[1]);
    assert_eq!(talk(&old.netns, &new.netns, both[0]), result.address());
    node.check(&old, &result.json()).succeeded();
    node.del(&old).succeeded();
    node.del(&new).succeeded();
    assert_eq!((node.host_links(), node.in_use()), (vec![], 0));
}
