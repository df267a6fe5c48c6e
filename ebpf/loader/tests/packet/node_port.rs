//! Clients outside that dial a node, and what else comes by the wire.

use std::net::SocketAddr;

use anyhow::Result;
use thalweg_abi::{
    Counter, CtDirection, CtEntry, CtFlags, CtState, DropReason, FrontendFlags, Proto, SNAT_PORT_MAX, SNAT_PORT_MIN, Scope,
};
use thalweg_lab::packet::{ACK, Packet, SYN, assert_frame};
use thalweg_loader::Table;

use super::{
    node::{CLIENT, DROP, NODE, Node, PASS, POD_A, REDIRECT, REMOTE, VIP, at, host_mac, pod_mac, tuple, tuple4},
    tables::{Served, served},
};

/// A NodePort in both scopes, as the proxy writes it.
fn serve_node_port(node: &mut Node, proto: Proto, backends: &[SocketAddr]) -> Result<()> {
    for frontend in both_scopes(proto) {
        node.serve(frontend, backends)?;
    }
    Ok(())
}

fn both_scopes(proto: Proto) -> [Served; 2] {
    let frontend = served(proto, NODE, 30_080).flags(FrontendFlags::NODE_PORT);
    [frontend, frontend.scope(Scope::EXTERNAL)]
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn outside_to_node_port_reaches_a_local_pod_with_its_own_address() -> Result<()> {
    let mut node = Node::new()?;
    serve_node_port(&mut node, Proto::TCP, &[at(POD_A, 8080)])?;

    let syn = Packet::tcp(at(CLIENT, 50_000), at(NODE, 30_080), SYN);
    let out = node.wire_brings(&syn)?;
    assert_eq!(out.verdict, REDIRECT);
    let arrives = syn.clone().to(at(POD_A, 8080)).ttl(63).macs(host_mac(POD_A), pod_mac(POD_A));
    assert_frame("into the pod", &out.packet, &arrives);
    assert_eq!(node.pair(&syn)?.0.flags.0, CtFlags::EXTERNAL);

    let answer = Packet::tcp(at(POD_A, 8080), at(CLIENT, 50_000), SYN | ACK);
    let out = node.pod_sends(&answer)?;
    // Not through the stack: a packet from the node's own address that comes in from a pod would be a martian.
    assert_eq!(out.verdict, REDIRECT);
    assert_frame("back to the client", &out.packet, &answer.from(at(NODE, 30_080)).ttl(63));
    assert_eq!((node.counter(Counter::TcToPod)?, node.counter(Counter::TcToWire)?), (1, 1));
    assert_eq!(node.drops()?, []);
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn outside_to_node_port_with_a_remote_backend_goes_and_comes_back_through_the_node() -> Result<()> {
    let mut node = Node::new()?;
    serve_node_port(&mut node, Proto::TCP, &[at(REMOTE, 8080)])?;

    let syn = Packet::tcp(at(CLIENT, 50_000), at(NODE, 30_080), SYN);
    let out = node.wire_brings(&syn)?;
    assert_eq!(out.verdict, REDIRECT);
    let (forward, _) = node.pair(&syn)?;
    assert_eq!(forward.flags.0, CtFlags::EXTERNAL | CtFlags::SNAT);
    let port = forward.to.sport.to_host();
    assert!((SNAT_PORT_MIN..=SNAT_PORT_MAX).contains(&port), "{port}");
    assert_frame("to the backend", &out.packet, &syn.clone().from(at(NODE, port)).to(at(REMOTE, 8080)).ttl(63));

    let answer = Packet::tcp(at(REMOTE, 8080), at(NODE, port), SYN | ACK).ttl(62);
    let out = node.wire_brings(&answer)?;
    assert_eq!(out.verdict, REDIRECT);
    assert_frame("back to the client", &out.packet, &answer.from(at(NODE, 30_080)).to(at(CLIENT, 50_000)).ttl(61));
    assert_eq!(node.pair(&syn)?.0.state, CtState::ESTABLISHED);

    // The next packet keeps its port.
    let ack = Packet::tcp(at(CLIENT, 50_000), at(NODE, 30_080), ACK);
    let out = node.wire_brings(&ack)?;
    assert_frame("again", &out.packet, &ack.from(at(NODE, port)).to(at(REMOTE, 8080)).ttl(63));
    assert_eq!(node.counter(Counter::TcToWire)?, 3);
    assert_eq!(node.drops()?, []);
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn outside_to_node_port_with_a_process_of_the_node_passes_the_stack_both_ways() -> Result<()> {
    let mut node = Node::new()?;
    serve_node_port(&mut node, Proto::UDP, &[at(NODE, 8080)])?;

    let question = Packet::udp(at(CLIENT, 50_000), at(NODE, 30_080), b"question");
    let out = node.wire_brings(&question)?;
    assert_eq!(out.verdict, PASS);
    assert_frame("to the stack", &out.packet, &question.to(at(NODE, 8080)));

    let answer = Packet::udp(at(NODE, 8080), at(CLIENT, 50_000), b"answer");
    let out = node.stack_sends_out(&answer)?;
    assert_eq!(out.verdict, PASS);
    assert_frame("back to the client", &out.packet, &answer.from(at(NODE, 30_080)));

    let other = Packet::udp(at(NODE, 22), at(CLIENT, 50_000), b"of the node");
    let out = node.stack_sends_out(&other)?;
    assert_eq!(out.verdict, PASS);
    assert_frame("untouched", &out.packet, &other);
    assert_eq!(node.drops()?, []);
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn pod_to_node_port_of_its_own_node() -> Result<()> {
    let mut node = Node::new()?;
    serve_node_port(&mut node, Proto::TCP, &[at(REMOTE, 8080)])?;
    let syn = Packet::tcp(at(POD_A, 40_000), at(NODE, 30_080), SYN);
    let out = node.pod_sends(&syn)?;
    assert_eq!(out.verdict, REDIRECT);
    assert_frame("to the backend", &out.packet, &syn.to(at(REMOTE, 8080)).ttl(63));
    let answer = Packet::tcp(at(REMOTE, 8080), at(POD_A, 40_000), SYN | ACK);
    let out = node.wire_brings(&answer)?;
    let arrives = answer.from(at(NODE, 30_080)).ttl(63).macs(host_mac(POD_A), pod_mac(POD_A));
    assert_frame("back to the pod", &out.packet, &arrives);
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn external_policy_comes_first_from_the_wire_and_internal_serves_the_rest() -> Result<()> {
    let mut node = Node::new()?;
    let [internal, external] = both_scopes(Proto::TCP);
    node.serve(internal, &[at(REMOTE, 1)])?;
    node.serve(external, &[at(POD_A, 2)])?;
    let syn = Packet::tcp(at(CLIENT, 50_000), at(NODE, 30_080), SYN);
    let out = node.wire_brings(&syn)?;
    let arrives = syn.to(at(POD_A, 2)).ttl(63).macs(host_mac(POD_A), pod_mac(POD_A));
    assert_frame("by the external entry", &out.packet, &arrives);

    // A cluster address that is dialled through this node, from outside.
    node.serve(served(Proto::TCP, VIP, 80), &[at(POD_A, 3)])?;
    let syn = Packet::tcp(at(CLIENT, 50_000), at(VIP, 80), SYN);
    let out = node.wire_brings(&syn)?;
    let arrives = syn.to(at(POD_A, 3)).ttl(63).macs(host_mac(POD_A), pod_mac(POD_A));
    assert_frame("by the internal entry", &out.packet, &arrives);
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn local_policy_without_an_endpoint_here_drops() -> Result<()> {
    let mut node = Node::new()?;
    let [_, external] = both_scopes(Proto::TCP);
    node.serve(external.flags(FrontendFlags::NODE_PORT | FrontendFlags::DROP_WHEN_EMPTY), &[])?;
    let out = node.wire_brings(&Packet::tcp(at(CLIENT, 50_000), at(NODE, 30_080), SYN))?;
    assert_eq!(out.verdict, DROP);
    assert_eq!(node.drops()?, [(DropReason::NoLocalEndpoint, 1)]);
    assert_eq!(node.tracked()?, 0);
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn from_the_wire_pods_are_reached_directly_and_the_node_keeps_its_own() -> Result<()> {
    let mut node = Node::new()?;
    serve_node_port(&mut node, Proto::TCP, &[at(POD_A, 8080)])?;
    let to_pod = Packet::tcp(at(REMOTE, 40_000), at(POD_A, 8080), SYN);
    let out = node.wire_brings(&to_pod)?;
    assert_eq!(out.verdict, REDIRECT);
    assert_frame("into the pod", &out.packet, &to_pod.ttl(63).macs(host_mac(POD_A), pod_mac(POD_A)));

    for packet in [
        Packet::tcp(at(CLIENT, 50_000), at(NODE, 22), SYN),
        // The port is another protocol's.
        Packet::udp(at(CLIENT, 50_000), at(NODE, 30_080), b"x"),
        Packet::icmp(CLIENT, NODE, 8, 0, [0, 1, 0, 1], b"ping"),
        Packet::tcp(at(CLIENT, 50_000), at(REMOTE, 80), SYN),
        Packet::tcp(at(REMOTE, 40_000), at(POD_A, 8080), SYN).ttl(1),
    ] {
        let out = node.wire_brings(&packet)?;
        assert_eq!(out.verdict, PASS, "{packet:?}");
        assert_frame("to the stack", &out.packet, &packet);
    }
    assert_eq!(node.tracked()?, 0);
    assert_eq!(node.drops()?, []);
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn no_free_source_port_drops_new_flows_and_leaves_nothing() -> Result<()> {
    let mut node = Node::with_conntrack(8192)?;
    serve_node_port(&mut node, Proto::TCP, &[at(REMOTE, 8080)])?;
    let taken: Vec<_> = (SNAT_PORT_MIN..=SNAT_PORT_MAX)
        .map(|port| {
            let to = tuple4(tuple(Proto::TCP, at(NODE, 30_080), at(CLIENT, 1)));
            let entry = CtEntry { to, direction: CtDirection::REPLY, ..Default::default() };
            (tuple4(tuple(Proto::TCP, at(REMOTE, 8080), at(NODE, port))), entry)
        })
        .collect();
    node.maps.conntrack.update(&taken)?;
    let out = node.wire_brings(&Packet::tcp(at(CLIENT, 50_000), at(NODE, 30_080), SYN))?;
    assert_eq!(out.verdict, DROP);
    assert_eq!(node.drops()?, [(DropReason::NoSourcePort, 1)]);
    assert_eq!(node.tracked()?, taken.len());
    Ok(())
}
