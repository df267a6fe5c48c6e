//! Two nodes on one wire: pods reach each other across them by routes that follow the cluster's nodes.

mod kit;

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use kit::{DUAL, Node, Pod, eventually, knock, ping6, talk};
use thalweg_cluster::{Change, Dirty, Node as ClusterNode, World};
use thalweg_lab::netns::Netns;

fn cluster_node(name: &str, address: &str, cidr: &str) -> ClusterNode {
    dual_node(name, &[address], &[cidr])
}

fn dual_node(name: &str, addresses: &[&str], cidrs: &[&str]) -> ClusterNode {
    ClusterNode {
        name: name.into(),
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        pod_cidrs: cidrs.iter().map(|text| text.parse().unwrap()).collect(),
        zone: None,
        deleting: false,
        taints: Vec::new(),
    }
}

fn set(world: &mut World, name: &str, node: Option<ClusterNode>) {
    world.apply(Change::Node(name.into(), node.map(Arc::new)), &mut Dirty::default());
}

/// A namespace whose `eth0` is the other end of `a`'s.
fn neighbour_of(a: &Node, test: &str) -> Node {
    let name = format!("tw-{test}-peer");
    let netns = Netns::create(&name).unwrap();
    a.netns.ip(&format!("link set lan0 netns {name}")).unwrap();
    for step in ["link set lan0 name eth0", "address add 172.30.0.12/24 dev eth0", "link set eth0 up"] {
        netns.ip(step).unwrap();
    }
    Node { network: None, datapath: Arc::default(), state: tempfile::tempdir().unwrap(), name, netns }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn pods_of_two_nodes_talk() {
    let mut a = Node::stopped("two");
    let mut b = neighbour_of(&a, "two");
    a.start(&["10.244.0.0/24"]);
    b.start(&["10.244.1.0/24"]);
    let (pod_a, pod_b) = (Pod::new("two", 1), Pod::new("two", 2));
    let (ip_a, ip_b) = (a.add(&pod_a).succeeded().address(), b.add(&pod_b).succeeded().address());
    assert_ne!(knock(&pod_a.netns, ip_b), ErrorKind::ConnectionRefused, "no route yet");

    let mut world = World::default();
    set(&mut world, &a.name, Some(cluster_node(&a.name, "172.30.0.11", "10.244.0.0/24")));
    set(&mut world, &b.name, Some(cluster_node(&b.name, "172.30.0.12", "10.244.1.0/24")));
    for node in [&a, &b] {
        node.network().update_nodes(&world).unwrap();
    }
    assert_eq!(talk(&pod_a.netns, &pod_b.netns, ip_b), ip_a, "the source is preserved across nodes");
    assert_eq!(talk(&pod_b.netns, &pod_a.netns, ip_a), ip_b);
    assert_eq!(talk(&a.netns, &pod_b.netns, ip_b).to_string(), "172.30.0.11", "from a node to a pod of another");

    // A restart keeps the routes before it knows the nodes again, and takes up what changed meanwhile.
    a.netns.ip("route add 10.99.0.0/24 via 172.30.0.12").unwrap();
    a.stop();
    a.start(&["10.244.0.0/24"]);
    assert_eq!(talk(&pod_a.netns, &pod_b.netns, ip_b), ip_a);

    set(&mut world, &b.name, None);
    set(&mut world, "far", Some(cluster_node("far", "192.0.2.9", "10.244.9.0/24")));
    a.network().update_nodes(&world).unwrap();
    let routes = a.netns.ip("route show").unwrap();
    assert!(!routes.contains("10.244.1.0/24") && !routes.contains("10.244.9.0/24"), "{routes}");
    assert!(routes.contains("10.99.0.0/24") && routes.contains("unreachable 10.244.0.0/24"), "others' routes stay: {routes}");

    // The CIDR of a node moves to another address.
    set(&mut world, &b.name, Some(cluster_node(&b.name, "172.30.0.99", "10.244.1.0/24")));
    a.network().update_nodes(&world).unwrap();
    set(&mut world, &b.name, Some(cluster_node(&b.name, "172.30.0.12", "10.244.1.0/24")));
    a.network().update_nodes(&world).unwrap();
    assert_eq!(talk(&pod_a.netns, &pod_b.netns, ip_b), ip_a);
    let lines = a.netns.ip("route show 10.244.1.0/24").unwrap().lines().count();
    assert_eq!(lines, 1, "replaced, not added");
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn pods_of_two_nodes_talk_in_both_families() {
    const OTHER: [&str; 2] = ["10.244.2.0/24", "fd00:244:2::/64"];
    let mut a = Node::stopped("two6");
    let mut b = neighbour_of(&a, "two6");
    a.netns.ip("address add fd30::11/64 dev eth0 nodad").unwrap();
    b.netns.ip("address add fd30::12/64 dev eth0 nodad").unwrap();
    // Before that, the kernel asks for no neighbour; a real uplink is long past it.
    for netns in [&a.netns, &b.netns] {
        let tentative = || netns.ip("-6 address show dev eth0 tentative").unwrap();
        eventually("the uplinks' own addresses are no duplicates", Duration::from_secs(10), || tentative().is_empty());
    }
    a.start(&DUAL);
    b.start(&OTHER);
    let (pod_a, pod_b) = (Pod::new("two6", 1), Pod::new("two6", 2));
    let (ips_a, ips_b) = (a.add(&pod_a).succeeded().addresses(), b.add(&pod_b).succeeded().addresses());
    let mut world = World::default();
    set(&mut world, &a.name, Some(dual_node(&a.name, &["172.30.0.11", "fd30::11"], &DUAL)));
    set(&mut world, &b.name, Some(dual_node(&b.name, &["172.30.0.12", "fd30::12"], &OTHER)));
    for node in [&a, &b] {
        node.network().update_nodes(&world).unwrap();
    }
    let all_talk = || {
        for (ip_a, ip_b) in ips_a.iter().zip(&ips_b) {
            assert_eq!(talk(&pod_a.netns, &pod_b.netns, *ip_b), *ip_a, "the source is preserved across nodes");
            assert_eq!(talk(&pod_b.netns, &pod_a.netns, *ip_a), *ip_b);
        }
        ping6(&pod_a.netns, ips_b[1]);
        ping6(&pod_b.netns, ips_a[1]);
    };
    all_talk();
    assert_eq!(talk(&a.netns, &pod_b.netns, ips_b[1]).to_string(), "fd30::11", "from a node to a pod of another");
    let nobody = "fd00:244:2::99".parse().unwrap();
    assert_eq!(knock(&pod_a.netns, nobody), ErrorKind::NetworkUnreachable, "the other node says that nobody is there");

    a.stop();
    a.start(&DUAL);
    all_talk();

    // The other node moves, loses its IPv6 address, and goes.
    let route = || a.netns.ip("-6 route show fd00:244:2::/64").unwrap();
    set(&mut world, &b.name, Some(dual_node(&b.name, &["172.30.0.12", "fd30::99"], &OTHER)));
    a.network().update_nodes(&world).unwrap();
    assert!(route().contains("via fd30::99 dev eth0") && route().lines().count() == 1, "replaced, not added: {}", route());
    set(&mut world, &b.name, Some(dual_node(&b.name, &["172.30.0.12"], &OTHER)));
    a.network().update_nodes(&world).unwrap();
    assert_eq!(route(), "");
    assert_eq!(talk(&pod_a.netns, &pod_b.netns, ips_b[0]), ips_a[0], "IPv4 does not mind");
    set(&mut world, &b.name, Some(dual_node(&b.name, &["fd30::12", "172.30.0.12"], &OTHER)));
    a.network().update_nodes(&world).unwrap();
    all_talk();
    set(&mut world, &b.name, None);
    a.network().update_nodes(&world).unwrap();
    assert_eq!(route(), "");
}
