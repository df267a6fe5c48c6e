//! Direct packets to a backend, from a port that a translated flow to that backend has too: each keeps its own.

use anyhow::{Context, Result, ensure};
use thalweg_abi::{
    Be16, Counter, CtDirection, CtEntry, CtFlags, CtState, DropReason, FrontendFlags, Proto, SNAT_PORT_MAX, SNAT_PORT_MIN,
    TCP_CLOSED_SECONDS, TCP_ESTABLISHED_SECONDS, Tuple, UDP_NEW_SECONDS,
};
use thalweg_lab::packet::{ACK, Body, FIN, Packet, RST, SYN, assert_frame};

use super::{
    node::{CLIENT, DROP, NODE, Node, OTHER_NODE, PASS, POD_A, POD_B, REDIRECT, REMOTE, VIP, at, host_mac, pod_mac, tuple_of},
    tables::served,
};

const PORT: u16 = 40_000;

fn service(flags: u8) -> Packet {
    Packet::tcp(at(POD_A, PORT), at(VIP, 80), flags)
}

fn direct(flags: u8) -> Packet {
    Packet::tcp(at(POD_A, PORT), at(POD_B, 8080), flags)
}

fn answer(port: u16, flags: u8) -> Packet {
    Packet::tcp(at(POD_B, 8080), at(POD_A, port), flags)
}

fn into_a(packet: &Packet) -> Packet {
    packet.clone().ttl(63).macs(host_mac(POD_A), pod_mac(POD_A))
}

fn into_b(packet: &Packet) -> Packet {
    packet.clone().ttl(63).macs(host_mac(POD_B), pod_mac(POD_B))
}

/// A node that serves TCP 80 and 81 and UDP 53 of the VIP by one pod.
fn node() -> Result<Node> {
    let mut node = Node::new()?;
    for port in [80, 81] {
        node.serve(served(Proto::TCP, VIP, port), &[at(POD_B, 8080)])?;
    }
    node.serve(served(Proto::UDP, VIP, 53), &[at(POD_B, 5353)])?;
    Ok(node)
}

fn established() -> Result<Node> {
    let node = node()?;
    node.pod_sends(&service(SYN))?;
    node.pod_sends(&answer(PORT, SYN | ACK))?;
    Ok(node)
}

/// Both entries look as if they had been idle for so many more seconds.
fn age(node: &mut Node, packet: &Packet, seconds: u32) -> Result<()> {
    let (forward, reply) = node.pair(packet)?;
    for (key, entry) in [(tuple_of(packet), forward), (forward.to.reversed(), reply)] {
        let last_seen = entry.last_seen.wrapping_sub(seconds);
        node.set_flow(key, CtEntry { last_seen, ..entry })?;
    }
    Ok(())
}

/// The port that a packet which the node has let through in either way came out with.
fn source_port(frame: &[u8]) -> u16 {
    u16::from_be_bytes([frame[34], frame[35]])
}

/// Asserts that the packet passes untouched into pod B, without any entry of its own.
fn assert_untouched(node: &Node, packet: &Packet) -> Result<()> {
    let out = node.pod_sends(packet)?;
    assert_eq!(out.verdict, REDIRECT);
    assert_frame("untouched", &out.packet, &into_b(packet));
    assert_eq!(node.flow(tuple_of(packet))?, None);
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn direct_syn_beside_a_live_flow_gets_another_port_and_both_have_their_answers() -> Result<()> {
    let node = established()?;
    let out = node.pod_sends(&direct(SYN))?;
    assert_eq!(out.verdict, REDIRECT);
    let port = source_port(&out.packet);
    assert!((SNAT_PORT_MIN..=SNAT_PORT_MAX).contains(&port), "{port}");
    assert_frame("to the backend", &out.packet, &into_b(&direct(SYN).from(at(POD_A, port))));
    let (forward, reply) = node.pair(&direct(SYN))?;
    assert_eq!((forward.flags.0, reply.flags.0), (CtFlags::DIRECT, CtFlags::DIRECT));
    assert_eq!((forward.service, forward.state, reply.direction), (0, CtState::NEW, CtDirection::REPLY));

    let out = node.pod_sends(&answer(port, SYN | ACK))?;
    assert_frame("back to the direct one", &out.packet, &into_a(&answer(PORT, SYN | ACK)));
    let out = node.pod_sends(&answer(PORT, ACK))?;
    assert_frame("back to the other", &out.packet, &into_a(&answer(PORT, ACK).from(at(VIP, 80))));
    // No backend of a service stands behind it, and it goes on when the other has ended.
    node.pod_sends(&service(RST))?;
    for flags in [ACK, FIN | ACK] {
        let out = node.pod_sends(&direct(flags))?;
        assert_frame("as it began", &out.packet, &into_b(&direct(flags).from(at(POD_A, port))));
    }
    assert_eq!(node.pair(&direct(SYN))?.0.state, CtState::CLOSING);
    assert_eq!((node.counter(Counter::TcPortRealloc)?, node.counter(Counter::TcFlow)?), (1, 2));
    assert_eq!(node.drops()?, []);
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn direct_flow_that_is_over_begins_again_as_it_is() -> Result<()> {
    let node = established()?;
    node.pod_sends(&direct(SYN))?;
    node.pod_sends(&direct(RST))?;
    assert_eq!(node.pair(&direct(SYN))?.0.state, CtState::CLOSED);
    // Still beside a live flow.
    let out = node.pod_sends(&direct(SYN))?;
    assert!(source_port(&out.packet) >= SNAT_PORT_MIN);
    assert_eq!((node.tracked()?, node.pair(&direct(SYN))?.0.state), (4, CtState::NEW));
    // And beside none: also the closed one's entries go.
    node.pod_sends(&direct(RST))?;
    node.pod_sends(&service(RST))?;
    assert_untouched(&node, &direct(SYN))?;
    assert_eq!(node.tracked()?, 0);
    assert_eq!(node.drops()?, []);
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn direct_syn_ends_a_flow_that_is_over_and_goes_untouched() -> Result<()> {
    fn check(end: impl Fn(&mut Node) -> Result<()>) -> Result<()> {
        let mut node = established()?;
        end(&mut node)?;
        assert_untouched(&node, &direct(SYN))?;
        assert_eq!(node.tracked()?, 0);
        let out = node.pod_sends(&answer(PORT, SYN | ACK))?;
        assert_frame("back untouched", &out.packet, &into_a(&answer(PORT, SYN | ACK)));
        assert_eq!((node.counter(Counter::TcPortRealloc)?, node.drops()?), (0, vec![]));
        Ok(())
    }
    check(|node| node.pod_sends(&service(RST)).map(drop))?;
    check(|node| age(node, &service(SYN), TCP_ESTABLISHED_SECONDS + 1))?;
    // Half of a flow.
    check(|node| {
        age(node, &service(SYN), TCP_CLOSED_SECONDS + 1)?;
        node.remove_flow(tuple_of(&service(SYN)))
    })
}

/// One direction may be silent for long.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_flow_is_as_fresh_as_its_fresher_direction() -> Result<()> {
    for is_stale in [CtDirection::FORWARD, CtDirection::REPLY] {
        let mut node = established()?;
        let (forward, _) = node.pair(&service(SYN))?;
        let key = if is_stale == CtDirection::FORWARD { tuple_of(&service(SYN)) } else { forward.to.reversed() };
        let entry = node.flow(key)?.context("entry")?;
        let last_seen = entry.last_seen.wrapping_sub(TCP_ESTABLISHED_SECONDS + 1);
        node.set_flow(key, CtEntry { last_seen, ..entry })?;
        let out = node.pod_sends(&direct(SYN))?;
        assert!(source_port(&out.packet) >= SNAT_PORT_MIN);
        assert_eq!(node.tracked()?, 4);
    }
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn only_a_syn_looks_for_other_flows() -> Result<()> {
    let node = established()?;
    for flags in [ACK, SYN | ACK, FIN | ACK, RST] {
        assert_untouched(&node, &direct(flags))?;
    }
    assert_eq!(node.tracked()?, 2);
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn direct_datagrams_beside_a_live_flow_get_another_port() -> Result<()> {
    let mut node = node()?;
    let service = Packet::udp(at(POD_A, PORT), at(VIP, 53), b"by service");
    let direct = Packet::udp(at(POD_A, PORT), at(POD_B, 5353), b"direct");
    let answer = Packet::udp(at(POD_B, 5353), at(POD_A, PORT), b"answer");
    assert_untouched(&node, &direct)?;
    node.pod_sends(&service)?;
    let mut ports = Vec::new();
    for _ in 0..2 {
        let out = node.pod_sends(&direct)?;
        assert_frame("same", &out.packet, &into_b(&direct.clone().from(at(POD_A, source_port(&out.packet)))));
        ports.push(source_port(&out.packet));
    }
    assert!(ports[0] >= SNAT_PORT_MIN && ports[0] == ports[1], "{ports:?}");
    for (port, from) in [(PORT, at(VIP, 53)), (ports[0], at(POD_B, 5353))] {
        let out = node.pod_sends(&answer.clone().to(at(POD_A, port)))?;
        assert_frame("each to its own", &out.packet, &into_a(&answer.clone().from(from)));
    }
    // Nothing binds it any more once the other has been idle for long, and it has ended itself.
    let (forward, _) = node.pair(&direct)?;
    node.remove_flow(tuple_of(&direct))?;
    node.remove_flow(forward.to.reversed())?;
    let (forward, reply) = node.pair(&service)?;
    for (key, entry) in [(tuple_of(&service), forward), (forward.to.reversed(), reply)] {
        node.set_flow(key, CtEntry { state: CtState::NEW, ..entry })?;
    }
    age(&mut node, &service, UDP_NEW_SECONDS + 1)?;
    assert_untouched(&node, &direct)?;
    assert_eq!((node.tracked()?, node.drops()?), (0, vec![]));
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn direct_syn_to_remote_pods_and_to_the_node_itself_is_kept_apart_too() -> Result<()> {
    for (backend, verdict) in [(at(REMOTE, 8080), REDIRECT), (at(NODE, 6443), PASS)] {
        let mut node = Node::new()?;
        node.serve(served(Proto::TCP, VIP, 80), &[backend])?;
        node.pod_sends(&service(SYN))?;
        let syn = Packet::tcp(at(POD_A, PORT), backend, SYN);
        let out = node.pod_sends(&syn)?;
        assert_eq!(out.verdict, verdict);
        let port = source_port(&out.packet);
        let ttl = if verdict == PASS { 64 } else { 63 };
        assert_frame("on its way", &out.packet, &syn.clone().from(at(POD_A, port)).ttl(ttl));
        assert!(port >= SNAT_PORT_MIN);
        let back = Packet::tcp(backend, at(POD_A, port), SYN | ACK);
        let out = if verdict == PASS { node.stack_sends_pod_a(&back)? } else { node.wire_brings(&back)? };
        let arrives = back.to(at(POD_A, PORT));
        let arrives = if verdict == PASS { arrives } else { into_a(&arrives) };
        assert_frame("back", &out.packet, &arrives);
        assert_eq!(node.pair(&syn)?.0.state, CtState::ESTABLISHED);
        assert_eq!(node.drops()?, []);
    }
    Ok(())
}

/// A process of another node that dials a pod, and the same pod through this node's NodePort.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn direct_syn_from_the_wire_is_kept_apart_too() -> Result<()> {
    let mut node = Node::new()?;
    node.serve(served(Proto::TCP, NODE, 30_080), &[at(POD_B, 8080)])?;
    node.wire_brings(&Packet::tcp(at(OTHER_NODE, PORT), at(NODE, 30_080), SYN))?;
    let syn = Packet::tcp(at(OTHER_NODE, PORT), at(POD_B, 8080), SYN);
    let out = node.wire_brings(&syn)?;
    let port = source_port(&out.packet);
    assert!(port >= SNAT_PORT_MIN, "{port}");
    assert_frame("into the pod", &out.packet, &into_b(&syn.clone().from(at(OTHER_NODE, port))));
    let back = Packet::tcp(at(POD_B, 8080), at(OTHER_NODE, port), SYN | ACK);
    let out = node.pod_sends(&back)?;
    assert_eq!(out.verdict, REDIRECT);
    assert_frame("back", &out.packet, &back.to(at(OTHER_NODE, PORT)).ttl(63));
    assert_eq!(node.drops()?, []);
    Ok(())
}

/// The direct SYN came first and its answer last.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_closed_flow_does_not_catch_a_syn_ack() -> Result<()> {
    let node = established()?;
    node.pod_sends(&service(RST))?;
    // What else comes late is still its own.
    let out = node.pod_sends(&answer(PORT, ACK))?;
    assert_frame("late", &out.packet, &into_a(&answer(PORT, ACK).from(at(VIP, 80))));
    let out = node.pod_sends(&answer(PORT, SYN | ACK))?;
    assert_frame("untouched", &out.packet, &into_a(&answer(PORT, SYN | ACK)));
    assert_eq!(node.tracked()?, 0);
    let out = node.pod_sends(&answer(PORT, ACK))?;
    assert_frame("and what follows", &out.packet, &into_a(&answer(PORT, ACK)));
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_closed_flow_to_a_process_of_the_node_does_not_catch_a_syn_ack() -> Result<()> {
    let mut node = Node::new()?;
    node.serve(served(Proto::TCP, VIP, 80), &[at(NODE, 6443)])?;
    node.pod_sends(&service(SYN))?;
    node.pod_sends(&service(RST))?;
    let back = Packet::tcp(at(NODE, 6443), at(POD_A, PORT), SYN | ACK);
    assert_frame("of the node", &node.stack_sends_pod_a(&back)?.packet, &back);
    assert_eq!(node.tracked()?, 0);
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn new_flow_takes_the_reply_tuple_of_a_closed_one_over() -> Result<()> {
    let node = established()?;
    node.pod_sends(&service(RST))?;
    let other = Packet::tcp(at(POD_A, PORT), at(VIP, 81), SYN);
    let out = node.pod_sends(&other)?;
    assert_frame("with its own port", &out.packet, &into_b(&other.clone().to(at(POD_B, 8080))));
    assert_eq!(node.flow(tuple_of(&service(SYN)))?, None);
    node.pair(&other)?;
    assert_eq!((node.tracked()?, node.counter(Counter::TcPortRealloc)?), (2, 0));
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn what_became_of_the_forward_entry_of_a_flow_taken_over_stays() -> Result<()> {
    let other = Packet::tcp(at(POD_A, PORT), at(VIP, 81), SYN);
    let mut node = established()?;
    node.pod_sends(&service(RST))?;
    let key = tuple_of(&service(SYN));
    let forward = node.flow(key)?.context("entry")?;
    let elsewhere = Tuple { dport: Be16::from_host(9090), ..forward.to };
    node.set_flow(key, CtEntry { to: elsewhere, ..forward })?;
    node.pod_sends(&other)?;
    assert_eq!(node.flow(key)?.context("still there")?.to, elsewhere);
    node.pair(&other)?;
    Ok(())
}

/// A direct connection lives, then a flow to the same backend begins with its port: the backend answers the SYN with
/// an acknowledgement of the connection that it knows.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn flow_that_meets_a_live_direct_connection_moves_with_its_second_syn() -> Result<()> {
    let node = node()?;
    assert_untouched(&node, &direct(SYN))?;
    node.pod_sends(&service(SYN))?;
    let data = answer(PORT, ACK).payload(b"data");
    let out = node.pod_sends(&data)?;
    assert_frame("the direct one's", &out.packet, &into_a(&data));
    assert_eq!(node.pair(&service(SYN))?.0.flags.0, 0);
    // The client shall see that this is no answer to it. What it says to that would hurt the other.
    let out = node.pod_sends(&answer(PORT, ACK))?;
    assert_frame("shown", &out.packet, &into_a(&answer(PORT, ACK).from(at(VIP, 80))));
    assert_eq!(node.pod_sends(&service(RST))?.verdict, DROP);
    assert_eq!(node.drops()?, [(DropReason::NoFlow, 1)]);
    for packet in [answer(PORT, ACK), data, answer(PORT, FIN | ACK)] {
        let out = node.pod_sends(&packet)?;
        assert_frame("the direct one's", &out.packet, &into_a(&packet));
    }
    let (forward, reply) = node.pair(&service(SYN))?;
    assert_eq!((forward.state, forward.flags, reply.state), (CtState::NEW, reply.flags, CtState::NEW));
    assert_eq!(forward.flags.0, CtFlags::CONTENDED);

    let out = node.pod_sends(&service(SYN))?;
    let port = source_port(&out.packet);
    assert!(port >= SNAT_PORT_MIN, "{port}");
    assert_frame("again", &out.packet, &into_b(&service(SYN).from(at(POD_A, port)).to(at(POD_B, 8080))));
    let out = node.pod_sends(&answer(port, SYN | ACK))?;
    assert_frame("answered", &out.packet, &into_a(&answer(PORT, SYN | ACK).from(at(VIP, 80))));
    let out = node.pod_sends(&answer(PORT, ACK))?;
    assert_frame("the direct one's", &out.packet, &into_a(&answer(PORT, ACK)));
    assert_eq!((node.tracked()?, node.pair(&service(SYN))?.0.state), (2, CtState::ESTABLISHED));
    assert_eq!(node.counter(Counter::TcPortRealloc)?, 1);
    // A third SYN is a stray of the handshake.
    assert_eq!(source_port(&node.pod_sends(&service(SYN))?.packet), port);
    // Established, its reset is its own.
    assert_eq!(node.pod_sends(&service(RST))?.verdict, REDIRECT);
    assert_eq!(node.drops()?, [(DropReason::NoFlow, 1)]);
    Ok(())
}

/// With the table lost, or for a flow that was forgotten, the first packet is no SYN and its answer no SYN-ACK.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn flow_picked_up_in_its_middle_is_answered() -> Result<()> {
    let node = node()?;
    node.pod_sends(&service(ACK))?;
    assert_eq!(node.pair(&service(ACK))?.0.flags.0, CtFlags::PICKED_UP);
    let out = node.pod_sends(&answer(PORT, ACK))?;
    assert_frame("answered", &out.packet, &into_a(&answer(PORT, ACK).from(at(VIP, 80))));
    assert_eq!(node.pair(&service(ACK))?.0.state, CtState::ESTABLISHED);
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn packets_of_the_node_to_a_service_do_not_leave_by_the_wire() -> Result<()> {
    let mut node = node()?;
    node.serve(served(Proto::TCP, VIP, 90).flags(FrontendFlags::DROP_WHEN_EMPTY), &[])?;
    for (packet, reason) in [
        (Packet::tcp(at(NODE, PORT), at(VIP, 90), SYN), DropReason::NoLocalEndpoint),
        // A frontend with endpoints, none at all, no ports, not the first fragment, another address of the node.
        (Packet::tcp(at(NODE, PORT), at(VIP, 80), SYN), DropReason::NoFlow),
        (Packet::udp(at(NODE, PORT), at(VIP, 99), b"x"), DropReason::NoFlow),
        (Packet::icmp(NODE, VIP, 8, 0, [0, 1, 0, 1], b"ping"), DropReason::NoFlow),
        (Packet::ip(NODE, VIP, Body::Raw { proto: 132, payload: vec![3; 32] }), DropReason::NoFlow),
        (Packet::udp(at(NODE, PORT), at(VIP, 53), b"12345678").fragment(1), DropReason::NoFlow),
        (Packet::udp(at([169, 254, 20, 10], PORT), at(VIP, 53), b"x"), DropReason::NoFlow),
    ] {
        let count = |node: &Node| -> Result<u64> {
            Ok(node.drops()?.iter().find(|(which, _)| *which == reason).map_or(0, |(_, count)| *count))
        };
        let before = count(&node)?;
        assert_eq!(node.stack_sends_out(&packet)?.verdict, DROP, "{packet:?}");
        ensure!(count(&node)? == before + 1, "{packet:?} was not counted as {reason:?}: {:?}", node.drops()?);
    }
    for packet in [
        Packet::tcp(at(NODE, PORT), at(CLIENT, 80), SYN),
        Packet::udp(at(NODE, PORT), at(OTHER_NODE, 4789), b"tunnel"),
        Packet::icmp(NODE, CLIENT, 8, 0, [0, 1, 0, 1], b"ping"),
    ] {
        let out = node.stack_sends_out(&packet)?;
        assert_eq!(out.verdict, PASS, "{packet:?}");
        assert_frame("untouched", &out.packet, &packet);
    }
    Ok(())
}
