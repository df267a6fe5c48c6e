//! Host ports beside services, in the kernel's tables: who came first keeps a port, and a restart changes nothing.

mod support;

use std::net::Ipv4Addr;

use support::{Kernel, Node, name, plan};
use thalweg_abi::Proto;
use thalweg_proxy::Backend as _;
use thalweg_proxy::NodeView;
use thalweg_proxy::plan::ServicePlan;
use thalweg_proxy::plan::host_ports::{self, HostPort, PodHostPorts};

/// The node's own address, among those of the tables' services.
const NODE: u8 = 9;

/// Port 8080 of the node leads to the pod `default/web`, whose address is 10.244.0.7.
fn web() -> ServicePlan {
    let view = NodeView {
        node: "n1".into(),
        addresses: vec![Ipv4Addr::new(10, 96, 0, NODE).into()],
        zone: None,
        redirect: None,
        localhost_node_ports: false,
    };
    let port = HostPort { ip: None, port: 8080, target: 80, protocol: Proto::TCP };
    let pod =
        PodHostPorts { pod: name("default/web"), addresses: vec![Ipv4Addr::new(10, 244, 0, 7).into()], ports: vec![port] };
    host_ports::plan(&host_ports::name(&pod.pod), &[pod], &view)
}

#[test]
fn a_service_that_came_first_keeps_its_port_until_it_goes() {
    let mut node = Node::new(Kernel::large());
    node.set(plan("service", &[(NODE, 8080, &[1])], &[]));
    node.apply();
    node.set(web());
    // What the service does not have: the port from outside.
    node.check((1, 1, 1, 0));
    assert_eq!(node.kernel.lock().frontends.map.len(), 3, "with the wildcard of the service");
    node.remove("service");
    node.check((1, 0, 1, 1));
    assert_eq!(node.answers(NODE, 8080), Some(vec![7]));
    node.remove("hostport/default.web");
    node.check((0, 0, 1, 2));
}

#[test]
fn a_pod_that_came_first_keeps_its_port_until_it_goes() {
    let mut node = Node::new(Kernel::large());
    node.set(web());
    node.check((2, 1, 1, 0));
    node.set(plan("service", &[(NODE, 8080, &[1])], &[]));
    node.apply();
    assert_eq!(node.answers(NODE, 8080), Some(vec![7]));
    node.remove("hostport/default.web");
    node.apply();
    assert_eq!(node.answers(NODE, 8080), Some(vec![1]));
}

#[test]
fn a_restart_finds_the_ports_by_their_name() {
    let mut node = Node::new(Kernel::large());
    node.set(web());
    node.check((2, 1, 1, 0));
    node.restart();
    node.set(web());
    node.backend.retain_only_known();
    node.check((0, 0, 0, 0));
    assert_eq!(node.answers(NODE, 8080), Some(vec![7]));
}
