//! Two nodes on one wire: pods reach each other across them by routes that follow the cluster's nodes.

mod kit;

use std::io::ErrorKind;
use std::sync::Arc;

use kit::{Node, Pod, knock, talk};
use thalweg_cluster::{Change, Dirty, Node as ClusterNode, World};
use thalweg_lab::netns::Netns;

fn cluster_node(name: &str, address: &str, cidr: &str) -> ClusterNode {
    ClusterNode {
        name: name.into(),
        addresses: vec![address.parse().unwrap()],
        pod_cidrs: vec![cidr.parse().unwrap()],
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
