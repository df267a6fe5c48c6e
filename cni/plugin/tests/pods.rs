//! Real pods on one node, added, checked and removed by the plugin as a runtime runs it.

mod kit;

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use kit::{Node, Pod, QUARANTINE, eventually, knock, talk};
use serde_json::{Value, json};
use thalweg_cni::error::code;
use thalweg_cni::protocol::AttachmentId;

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn two_pods_talk_through_the_host() {
    let node = Node::new("talk", &["10.244.1.0/24"]);
    let pods = [1, 2].map(|number| Pod::new("talk", number));
    let results = pods.each_ref().map(|pod| node.add(pod).succeeded());
    let [a, b] = results.each_ref().map(|result| result.address());
    assert_eq!([a, b].map(|address| address.to_string()), ["10.244.1.1", "10.244.1.2"]);

    assert_eq!(talk(&pods[0].netns, &pods[1].netns, b), a, "the source is preserved");
    assert_eq!(talk(&pods[1].netns, &pods[0].netns, a), b);
    assert_eq!(talk(&node.netns, &pods[0].netns, a).to_string(), "172.30.0.11", "from the node");
    assert_eq!(talk(&pods[0].netns, &pods[0].netns, a), a, "to itself");
    assert_eq!(talk(&pods[0].netns, &node.netns, "172.30.0.11".parse().unwrap()), a, "to the node");
    assert_eq!(knock(&pods[0].netns, "10.244.1.99".parse().unwrap()), ErrorKind::HostUnreachable, "nobody there");

    let result = results[0].json();
    let id = &pods[0].id;
    assert_eq!(result["interfaces"][0]["name"], json!(id.host_ifname()));
    assert_eq!(result["interfaces"][1]["sandbox"], json!(pods[0].netns.path()));
    assert_eq!(result["interfaces"][1]["mtu"], json!(1460), "that of the uplink");
    let link = pods[0].netns.ip("link show eth0").unwrap();
    assert!(link.contains("mtu 1460") && link.contains("02:74:0a:f4:01:01"), "{link}");
    let neighbours = pods[0].netns.ip("neigh show").unwrap();
    assert!(neighbours.contains("169.254.1.1 dev eth0 lladdr 06:74:0a:f4:01:01 PERMANENT"), "{neighbours}");

    let attached = node.datapath.attached.lock().unwrap().clone();
    assert_eq!(attached.len(), 2);
    assert_eq!(
        (attached[0].container_id.as_str(), attached[0].host_ifname.clone()),
        (id.container_id.as_str(), id.host_ifname())
    );
    assert_eq!((attached[0].namespace.as_str(), attached[0].pod_name.as_str()), ("default", "web"));
    assert_eq!(attached[0].pod_uid, format!("u-{}", id.container_id));
    assert_eq!((attached[0].host_mac, attached[0].pod_mac), ([6, 0x74, 10, 244, 1, 1], [2, 0x74, 10, 244, 1, 1]));
    let namespaces = attached.iter().map(|link| link.netns.as_deref());
    assert!(namespaces.eq(pods.iter().map(|pod| Some(pod.netns.path()))), "{attached:?}");
    let cookies: BTreeSet<_> = attached.iter().filter_map(|link| link.netns_cookie).collect();
    assert_eq!(cookies.len(), 2, "a cookie each: {attached:?}");
    assert_eq!(node.network().pods(), attached);

    node.check(&pods[0], &result).succeeded();
    node.check(&pods[1], &results[0].json()).failed(code::INVALID_CONFIG, "prevResult");
    node.netns.ip("route replace 10.244.1.1 dev eth0 proto 116 scope link").unwrap();
    node.check(&pods[0], &result).failed(code::CHANGED, "route to 10.244.1.1");
    node.netns.ip(&format!("route replace 10.244.1.1 dev {} proto 116 scope link", id.host_ifname())).unwrap();
    node.check(&pods[0], &result).succeeded();
    pods[0].netns.ip("route del default").unwrap();
    node.check(&pods[0], &result).failed(code::CHANGED, "default route of its address 10.244.1.1");
    pods[0].netns.ip("address del 10.244.1.1/32 dev eth0").unwrap();
    node.check(&pods[0], &result).failed(code::CHANGED, "10.244.1.1");

    for pod in &pods {
        node.del(pod).succeeded();
    }
    assert_eq!((node.host_links(), node.in_use()), (vec![], 0));
    assert_eq!(*node.datapath.detached.lock().unwrap(), attached);
    node.check(&pods[0], &result).failed(code::UNKNOWN_CONTAINER, "not attached");
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn del_succeeds_whatever_happened_before() {
    let node = Node::new("del", &["10.244.1.0/24"]);
    let pod = Pod::new("del", 1);
    node.del(&pod).succeeded();
    node.add(&pod).succeeded();
    assert_eq!(node.add(&pod).succeeded().address().to_string(), "10.244.1.1", "the same ADD again has the same answer");
    assert_eq!(node.in_use(), 1);

    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| node.del(&pod).succeeded());
        }
    });
    node.del(&pod).succeeded();
    assert_eq!((node.host_links(), node.in_use()), (vec![], 0));

    // Without a namespace; with one that has vanished.
    for netns in ["", "/run/netns/tw-del-vanished"] {
        node.add(&pod).succeeded();
        node.run_with("DEL", &pod.id, netns, &node.config()).succeeded();
        assert_eq!((node.host_links(), node.in_use()), (vec![], 0));
    }
    let vanishing = Pod::new("del", 2);
    node.add(&vanishing).succeeded();
    let id = vanishing.id.clone();
    drop(vanishing);
    node.run_with("DEL", &id, "/run/netns/tw-del-pod2", &node.config()).succeeded();
    assert_eq!(node.in_use(), 0);

    // A DEL that comes late, for an old sandbox of the same pod, does not touch the new one.
    let (old, new) = (Pod::new("del", 3), Pod::new("del", 4));
    node.add(&old).succeeded();
    node.del(&old).succeeded();
    let address = node.add(&new).succeeded().address();
    node.del(&old).succeeded();
    assert_eq!(node.in_use(), 1);
    assert_eq!(knock(&node.netns, address), ErrorKind::ConnectionRefused, "the new one lives");
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_full_range_is_told_with_numbers_and_recovers() {
    let node = Node::new("full", &["10.244.1.0/30"]);
    let pods = [1, 2, 3].map(|number| Pod::new("full", number));
    node.add(&pods[0]).succeeded();
    node.add(&pods[1]).succeeded();
    node.add(&pods[2]).failed(code::TRY_AGAIN, "10.244.1.0/30: 2 of 2 in use, 0 in quarantine");
    assert_eq!(node.host_links().len(), 2);
    node.del(&pods[0]).succeeded();
    node.add(&pods[2]).failed(code::TRY_AGAIN, "1 of 2 in use, 1 in quarantine");
    thread::sleep(QUARANTINE);
    assert_eq!(node.add(&pods[2]).succeeded().address().to_string(), "10.244.1.1");
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn an_add_that_fails_leaves_nothing() {
    let node = Node::new("undo", &["10.244.1.0/24"]);
    let pod = Pod::new("undo", 1);
    node.datapath.refuse.store(true, Ordering::SeqCst);
    node.add(&pod).failed(code::DATAPATH, "refused by the test");
    assert_eq!((node.host_links(), node.in_use(), node.network().pods()), (vec![], 0, vec![]));
    assert_eq!(node.datapath.detached.lock().unwrap().len(), 1);
    let links = pod.netns.ip("-o link show").unwrap();
    assert!(!links.contains("eth0"), "{links}");
    node.datapath.refuse.store(false, Ordering::SeqCst);
    node.add(&pod).succeeded();

    // An interface of that name which is not ours is not touched.
    let other = Pod::new("undo", 2);
    other.netns.ip("link add eth0 type veth peer name other").unwrap();
    node.add(&other).failed(code::INTERFACE_EXISTS, "eth0");
    assert!(other.netns.ip("link show eth0").is_ok());
    assert_eq!((node.host_links().len(), node.in_use()), (1, 1));

    // A host link of that name is a leftover of ours.
    let third = Pod::new("undo", 3);
    node.netns.ip(&format!("link add {} type veth peer name left", third.id.host_ifname())).unwrap();
    let address = node.add(&third).succeeded().address();
    assert_eq!(knock(&node.netns, address), ErrorKind::ConnectionRefused);

    // What is no network namespace.
    node.run_with("ADD", &AttachmentId::new("tw-undo-x", "eth0"), "/dev/null", &node.config())
        .failed(code::INVALID_ENVIRONMENT, "not a network namespace");
    assert_eq!((node.host_links().len(), node.in_use()), (2, 2));
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn before_the_cidr_is_known() {
    let node = Node::new("cidr", &[]);
    let pod = Pod::new("cidr", 1);
    node.add(&pod).failed(code::TRY_AGAIN, "podCIDR");
    node.run("STATUS", &pod, &node.config()).failed(code::UNAVAILABLE, "podCIDR");
    assert!(node.network().set_pod_cidrs(vec!["fd00::/64".parse().unwrap()]).unwrap_err().to_string().contains("fd00::/64"));
    node.network().set_pod_cidrs(vec!["10.244.1.0/24".parse().unwrap()]).unwrap();
    node.run("STATUS", &pod, &node.config()).succeeded();
    node.add(&pod).succeeded();
    let routes = node.netns.ip("route show").unwrap();
    assert!(routes.contains("unreachable 10.244.1.0/24"), "{routes}");
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn requested_addresses() {
    let node = Node::new("ask", &["10.244.1.0/24"]);
    let pods = [1, 2].map(|number| Pod::new("ask", number));
    let mut config = node.config();
    config["runtimeConfig"] = json!({"ips": ["10.244.1.77/24"], "mac": "02:00:00:00:00:77"});
    let result = node.run("ADD", &pods[0], &config).succeeded();
    assert_eq!(result.address().to_string(), "10.244.1.77");
    assert_eq!(result.json()["interfaces"][1]["mac"], json!("02:00:00:00:00:77"));
    assert_eq!(knock(&node.netns, result.address()), ErrorKind::ConnectionRefused);
    node.run("ADD", &pods[1], &config).failed(code::ADDRESS_IN_USE, "10.244.1.77");
    config["runtimeConfig"] = json!({"ips": ["10.9.9.9"]});
    node.run("ADD", &pods[1], &config).failed(code::INVALID_CONFIG, "10.9.9.9");
    assert_eq!(node.in_use(), 1);
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn garbage_collection() {
    let node = Node::new("gc", &["10.244.1.0/24"]);
    let pods = [1, 2, 3].map(|number| Pod::new("gc", number));
    pods.iter().for_each(|pod| drop(node.add(pod).succeeded()));
    let mut config = node.config();
    config["cni.dev/valid-attachments"] = json!([{"containerID": pods[1].id.container_id, "ifname": "eth0"}]);
    let mut other = config.clone();
    other["name"] = json!("another-network");
    node.run("GC", &pods[0], &other).succeeded();
    assert_eq!(node.in_use(), 3, "another network's list says nothing of ours");
    node.run("GC", &pods[0], &config).succeeded();
    assert_eq!(node.host_links(), [pods[1].id.host_ifname()]);
    assert_eq!(node.in_use(), 1);
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_namespace_that_dies_without_a_del_leaks_nothing() {
    let node = Node::new("die", &["10.244.1.0/24"]);
    let (kept, lost) = (Pod::new("die", 1), Pod::new("die", 2));
    node.add(&kept).succeeded();
    node.add(&lost).succeeded();
    drop(lost);
    eventually("the address is freed", Duration::from_secs(20), || node.in_use() == 1);
    assert_eq!(node.host_links(), [kept.id.host_ifname()]);
    assert_eq!(node.network().pods().len(), 1);
    let journal = fs::read_to_string(node.state.path().join("cni/journal")).unwrap();
    assert!(journal.contains("\"drop\""), "{journal}");
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_host_port_is_one_pod_s_until_its_del() {
    let mut node = Node::new("hostport", &["10.244.1.0/24"]);
    let [first, second, third] = [1, 2, 3].map(|number| Pod::new("hostport", number));
    let config = |node: &Node, mappings: Value| {
        let mut config = node.config();
        config["runtimeConfig"] = json!({ "portMappings": mappings });
        config
    };
    let web =
        |node: &Node, ip: &str| config(node, json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": ip}]));
    node.run("ADD", &first, &web(&node, "172.30.0.11")).succeeded();
    let known = node.network().pods().remove(0).host_ports;
    assert_eq!(known.iter().map(ToString::to_string).collect::<Vec<_>>(), ["172.30.0.11:8080/tcp"]);
    assert_eq!(node.datapath.attached.lock().unwrap()[0].host_ports, known);

    // Refused before anything is made.
    node.run("ADD", &second, &web(&node, "")).failed(code::HOST_PORT_IN_USE, "pod default/web's");
    node.run("ADD", &second, &config(&node, json!([{"hostPort": 1}]))).failed(code::INVALID_CONFIG, "containerPort 0");
    assert_eq!((node.in_use(), node.host_links().len()), (1, 1));
    node.run("ADD", &third, &web(&node, "127.0.0.1")).succeeded();

    // CHECK and DEL are given the same; and the journal remembers.
    node.stop();
    node.start(&["10.244.1.0/24"]);
    node.run("ADD", &second, &web(&node, "0.0.0.0")).failed(code::HOST_PORT_IN_USE, "0.0.0.0:8080/tcp");
    let (mut check, result) = (web(&node, "172.30.0.11"), node.run("ADD", &first, &web(&node, "172.30.0.11")).json());
    check["prevResult"] = result;
    node.run("CHECK", &first, &check).succeeded();
    node.run("DEL", &first, &web(&node, "172.30.0.11")).succeeded();
    node.run("ADD", &second, &web(&node, "172.30.0.11")).succeeded();

    // An ADD that fails later gives its port back.
    node.datapath.refuse.store(true, Ordering::SeqCst);
    node.run("ADD", &first, &web(&node, "172.30.0.12")).failed(code::DATAPATH, "refused by the test");
    node.datapath.refuse.store(false, Ordering::SeqCst);
    node.run("DEL", &third, &web(&node, "127.0.0.1")).succeeded();
    node.run("ADD", &third, &web(&node, "172.30.0.12")).succeeded();
}
