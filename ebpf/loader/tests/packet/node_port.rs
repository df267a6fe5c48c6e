//! Clients outside that dial a node, and what else comes by the wire.

use std::net::SocketAddr;

use anyhow::Result;
use thalweg_abi::{
    Counter, CtDirection, CtEntry, CtFlags, CtState, DropReason, FrontendFlags, Proto, SNAT_PORT_MAX, SNAT_PORT_MIN, Scope,
};
use thalweg_lab::packet::{ACK, Packet, SYN, assert_frame};
use thalweg_loader::Table;

use super::{
    node::{
        CLIENT, CLIENT6, DROP, NODE, NODE6, Node, PASS, POD_A, REDIRECT, REMOTE, VIP, at, host_mac, pod_mac, tuple, tuple_of,
        tuple4,
    },
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
            // Last seen in a moment that is yet to come, so never idle.
            let entry = CtEntry { to, direction: CtDirection::REPLY, last_seen: i32::MAX as u32, ..Default::default() };
            (tuple4(tuple(Proto::TCP, at(REMOTE, 8080), at(NODE, port))), entry)
        })
        .collect();
    node.maps.conntrack.update(&taken)?;
    let out = node.wire_brings(&Packet::tcp(at(CLIENT, 50_000), at(NODE, 30_080), SYN))?;
    assert_eq!(out.verdict, DROP);
    assert_eq!(node.drops()?, [(DropReason::NoSourcePort, 1)]);
    assert_eq!(node.tracked()?, taken.len());
    // Ports of flows that are over, or of which nobody has heard for too long, are free.
    let over: [fn(&mut CtEntry); 2] = [|entry| entry.state = CtState::CLOSED, |entry| entry.last_seen = u32::MAX - 60];
    for (sport, over) in (50_000..).zip(over) {
        let mut taken = taken.clone();
        taken.iter_mut().for_each(|(_, entry)| over(entry));
        node.maps.conntrack.update(&taken)?;
        let syn = Packet::tcp(at(CLIENT, sport), at(NODE, 30_080), SYN);
        assert_eq!(node.wire_brings(&syn)?.verdict, REDIRECT);
        node.pair(&syn)?;
        assert_eq!(node.tracked()?, taken.len() + 1, "one reply entry gave way to another");
        let both = [tuple_of(&syn), node.pair(&syn)?.0.to.reversed()];
        both.into_iter().try_for_each(|key| node.remove_flow(key))?;
    }
    Ok(())
}

/// What could come back only by way of the node cannot begin when the node has no address of the family.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_node_without_an_address_lends_none() -> Result<()> {
    let mut node = Node::without_addresses()?;
    serve_node_port(&mut node, Proto::TCP, &[at(REMOTE, 8080)])?;
    assert_eq!(node.wire_brings(&Packet::tcp(at(CLIENT, 50_000), at(NODE, 30_080), SYN))?.verdict, DROP);
    assert_eq!(node.drops()?, [(DropReason::NoRoute, 1)]);
    assert_eq!(node.tracked()?, 0);
    // What it says of a packet comes from whom that was for.
    node.serve(served(Proto::UDP, VIP, 80), &[at(REMOTE, 8080)])?;
    let probe = Packet::udp(at(POD_A, 40_000), at(VIP, 80), b"traceroute").ttl(1);
    let out = node.pod_sends(&probe)?;
    let told = probe.quoted_by(VIP, 11, 0, [0; 4], 8).id(0).dont_fragment().macs(probe.mac_dst, probe.mac_src);
    assert_frame("time exceeded", &out.packet, &told);
    Ok(())
}

/// Nobody here can fragment what has another source by then.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn what_is_too_big_for_the_way_to_a_remote_backend_is_answered_though_it_may_be_fragmented() -> Result<()> {
    let mut node = Node::new()?;
    node.netns.ip("link set eth0 mtu 1400")?;
    serve_node_port(&mut node, Proto::UDP, &[at(REMOTE, 8080)])?;
    let big = Packet::udp(at(CLIENT, 50_000), at(NODE, 30_080), &[7; 1400]);
    let out = node.wire_brings(&big)?;
    assert_eq!(out.verdict, REDIRECT);
    let mtu = [0, 0, (1400 >> 8) as u8, (1400 & 0xff) as u8];
    let told = big.quoted_by(NODE, 3, 4, mtu, 8).id(0).dont_fragment().macs(big.mac_dst, big.mac_src);
    assert_frame("fragmentation needed", &out.packet, &told);
    assert_eq!(node.drops()?, []);
    Ok(())
}

/// A link that listens to everything shows packets to other machines too.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_frame_for_another_machine_is_left_alone() -> Result<()> {
    let mut node = Node::new()?;
    serve_node_port(&mut node, Proto::TCP, &[at(POD_A, 8080)])?;
    let known = Packet::tcp(at(CLIENT, 50_000), at(NODE, 30_080), SYN);
    assert_eq!(node.wire_brings(&known)?.verdict, REDIRECT);
    let flows = node.tracked()?;
    for port in [50_000, 50_001] {
        for (src, dst) in [(at(CLIENT, port), at(NODE, 30_080)), (at(CLIENT6, port), at(NODE6, 30_080))] {
            let others = Packet::tcp(src, dst, SYN).macs([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 3]);
            let out = node.wire_brings(&others)?;
            assert_eq!(out.verdict, PASS);
            assert_frame("untouched", &out.packet, &others);
        }
    }
    assert_eq!(node.tracked()?, flows);
    assert_eq!(node.drops()?, []);
    Ok(())
}
