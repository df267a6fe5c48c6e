//! What becomes of a flow: it closes, starts over, loses its backend, finds no room.

use anyhow::{Context, Result};
use thalweg_abi::{BackendState, Counter, CtDirection, CtEntry, CtFlags, CtState, DropReason, Proto, Scope, TCP_NEW_SECONDS};
use thalweg_lab::packet::{ACK, FIN, Packet, RST, SYN, assert_frame};
use thalweg_loader::{Outcome, Table};

use super::{
    node::{DROP, Node, POD_A, POD_B, REDIRECT, REMOTE, VIP, at, host_mac, nets, pod_mac, tuple_of},
    tables::{FIRST_BACKEND, served},
};

fn client(flags: u8) -> Packet {
    Packet::tcp(at(POD_A, 40_000), at(VIP, 80), flags)
}

fn backend(flags: u8) -> Packet {
    Packet::tcp(at(POD_B, 8080), at(POD_A, 40_000), flags)
}

fn datagram() -> Packet {
    Packet::udp(at(POD_A, 40_000), at(VIP, 53), b"x")
}

/// A node that serves TCP 80 and UDP 53 of the VIP by one backend, `FIRST_BACKEND`.
fn node() -> Result<Node> {
    let mut node = Node::new()?;
    node.serve(served(Proto::TCP, VIP, 80), &[at(POD_B, 8080)])?;
    node.serve(served(Proto::UDP, VIP, 53), &[at(POD_B, 8080)])?;
    Ok(node)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn tcp_flow_lives_from_syn_to_the_second_fin() -> Result<()> {
    let node = node()?;
    for (packet, state) in [
        (client(SYN), CtState::NEW),
        (backend(SYN | ACK), CtState::ESTABLISHED),
        (client(ACK), CtState::ESTABLISHED),
        (backend(FIN | ACK), CtState::CLOSING),
        (client(ACK), CtState::CLOSING),
        (client(FIN | ACK), CtState::CLOSED),
        (backend(ACK), CtState::CLOSED),
    ] {
        assert_eq!(node.pod_sends(&packet)?.verdict, REDIRECT);
        let (forward, reply) = node.pair(&client(SYN))?;
        assert_eq!((forward.state, reply.state), (state, state), "after {packet:?}");
        assert_eq!(forward.flags, reply.flags);
    }
    let (forward, reply) = node.pair(&client(SYN))?;
    assert_eq!(forward.flags.0, CtFlags::FIN_CLIENT | CtFlags::FIN_BACKEND);
    assert_eq!((forward.packets, reply.packets), (4, 3));
    assert_eq!(node.tracked()?, 2);
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn reset_from_either_side_closes() -> Result<()> {
    for last in [client(RST), backend(RST | ACK)] {
        let node = node()?;
        node.pod_sends(&client(SYN))?;
        node.pod_sends(&last)?;
        let (forward, reply) = node.pair(&client(SYN))?;
        assert_eq!((forward.state, reply.state), (CtState::CLOSED, CtState::CLOSED));
    }
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_syn_on_a_closed_flow_starts_over_with_a_fresh_choice() -> Result<()> {
    let mut node = node()?;
    node.pod_sends(&client(SYN))?;
    node.pod_sends(&backend(RST | ACK))?;
    // The service has moved meanwhile.
    node.serve(served(Proto::TCP, VIP, 80), &[at(REMOTE, 9090)])?;
    // Not a SYN: still the old flow's.
    let out = node.pod_sends(&client(ACK))?;
    assert_eq!(&out.packet[30..34], POD_B.octets());
    let out = node.pod_sends(&client(SYN))?;
    assert_frame("to the new backend", &out.packet, &client(SYN).to(at(REMOTE, 9090)).ttl(63));
    let (forward, _) = node.pair(&client(SYN))?;
    assert_eq!((forward.state, forward.packets), (CtState::NEW, 1));
    assert_eq!(node.tracked()?, 2);
    assert_eq!(node.counter(Counter::TcFlow)?, 2);
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_syn_repeated_keeps_its_backend_until_nobody_answers_for_long() -> Result<()> {
    let mut node = node()?;
    node.pod_sends(&client(SYN))?;
    node.serve(served(Proto::TCP, VIP, 80), &[at(REMOTE, 9090)])?;
    node.set_backend(FIRST_BACKEND, BackendState::DRAINING, 1)?;
    let out = node.pod_sends(&client(SYN))?;
    assert_eq!(&out.packet[30..34], POD_B.octets());
    let key = tuple_of(&client(SYN));
    let entry = node.flow(key)?.context("entry")?;
    let long_ago = entry.last_seen.wrapping_sub(TCP_NEW_SECONDS);
    node.set_flow(key, CtEntry { last_seen: long_ago, ..entry })?;
    let out = node.pod_sends(&client(SYN))?;
    assert_eq!(&out.packet[30..34], REMOTE.octets());
    assert_eq!(node.tracked()?, 2);
    Ok(())
}

/// kubernetes#59368, #139628, cilium#28820: the next datagram of an old flow reaches a live backend.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn udp_flow_moves_when_its_backend_is_gone() -> Result<()> {
    for (state, generation) in [(BackendState::FREE, 1), (BackendState::READY, 2)] {
        let mut node = node()?;
        node.pod_sends(&datagram())?;
        let old_reply = node.pair(&datagram())?.0.to.reversed();
        node.serve(served(Proto::UDP, VIP, 53), &[at(REMOTE, 5353)])?;
        node.set_backend(FIRST_BACKEND, state, generation)?;
        let out = node.pod_sends(&datagram())?;
        assert_eq!(out.verdict, REDIRECT);
        assert_frame("to the new backend", &out.packet, &datagram().to(at(REMOTE, 5353)).ttl(63));
        assert_eq!(node.counter(Counter::TcReselected)?, 1);
        assert_eq!(node.flow(old_reply)?, None);
        assert_eq!(node.tracked()?, 2);
        assert_eq!(node.drops()?, []);
    }
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn udp_flow_without_any_backend_is_refused_and_comes_back_with_the_first() -> Result<()> {
    let mut node = node()?;
    node.pod_sends(&datagram())?;
    node.set_backend(FIRST_BACKEND, BackendState::FREE, 1)?;
    node.serve(served(Proto::UDP, VIP, 53), &[])?;
    let out = node.pod_sends(&datagram())?;
    let (src, dst) = (datagram().mac_dst, datagram().mac_src);
    let told = datagram().quoted_by(VIP, 3, 3, [0; 4], 8).id(0).dont_fragment().macs(src, dst);
    assert_frame("port unreachable", &out.packet, &told);
    assert_eq!(node.tracked()?, 0);
    node.serve(served(Proto::UDP, VIP, 53), &[at(REMOTE, 5353)])?;
    let out = node.pod_sends(&datagram())?;
    assert_frame("to the new backend", &out.packet, &datagram().to(at(REMOTE, 5353)).ttl(63));
    Ok(())
}

/// kubernetes#46753: TCP to an endpoint that is gone is reset, not left hanging.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn tcp_flow_is_reset_when_its_backend_is_gone() -> Result<()> {
    let mut node = node()?;
    node.pod_sends(&client(SYN))?;
    node.pod_sends(&backend(SYN | ACK))?;
    node.set_backend(FIRST_BACKEND, BackendState::FREE, 1)?;
    let data = client(ACK).payload(b"are you there");
    for _ in 0..2 {
        let out = node.pod_sends(&data)?;
        assert_eq!(out.verdict, REDIRECT);
        let reset = Packet::tcp(at(VIP, 80), at(POD_A, 40_000), RST).numbers(2000, 0).window(0).id(0);
        assert_frame("reset", &out.packet, &reset.dont_fragment().macs(data.mac_dst, data.mac_src));
    }
    // The client's own reset needs no answer.
    assert_eq!(node.pod_sends(&client(RST))?.verdict, DROP);
    let (forward, reply) = node.pair(&client(SYN))?;
    assert_eq!((forward.state, reply.state), (CtState::CLOSED, CtState::CLOSED));
    assert_eq!(node.drops()?, [(DropReason::BackendGone, 3)]);
    assert_eq!(node.counter(Counter::TcRefused)?, 2);
    // A new connection from the same port finds whoever is there now.
    node.serve(served(Proto::TCP, VIP, 80), &[at(REMOTE, 9090)])?;
    let out = node.pod_sends(&client(SYN))?;
    assert_frame("to the new backend", &out.packet, &client(SYN).to(at(REMOTE, 9090)).ttl(63));
    Ok(())
}

/// A segment that went on as it came would be a stranger's to whoever gets it, who would reset the connection.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn segments_out_of_every_window_are_translated_as_long_as_the_flow_is_known() -> Result<()> {
    let node = node()?;
    node.pod_sends(&client(SYN))?;
    for next in [backend(SYN | ACK), client(ACK), backend(FIN | ACK), client(FIN | ACK)] {
        node.pod_sends(&next)?;
        for (sequence, acknowledged) in [(0, u32::MAX), (1 << 31, 0), (u32::MAX - 5, 1 << 30)] {
            let late = backend(ACK).numbers(sequence, acknowledged).payload(b"late");
            let arrives = late.clone().from(at(VIP, 80)).ttl(63).macs(host_mac(POD_A), pod_mac(POD_A));
            assert_frame("to the client", &node.pod_sends(&late)?.packet, &arrives);
            let late = client(ACK).numbers(sequence, acknowledged).payload(b"late");
            let arrives = late.clone().to(at(POD_B, 8080)).ttl(63).macs(host_mac(POD_B), pod_mac(POD_B));
            assert_frame("to the backend", &node.pod_sends(&late)?.packet, &arrives);
        }
    }
    assert_eq!(node.pair(&client(SYN))?.0.state, CtState::CLOSED);
    assert_eq!((node.counter(Counter::TcRefused)?, node.drops()?), (0, vec![]));
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_draining_backend_keeps_its_flows() -> Result<()> {
    let mut node = node()?;
    node.pod_sends(&client(SYN))?;
    node.pod_sends(&datagram())?;
    node.set_backend(FIRST_BACKEND, BackendState::DRAINING, 1)?;
    for packet in [client(ACK), datagram()] {
        let out = node.pod_sends(&packet)?;
        let arrives = packet.to(at(POD_B, 8080)).ttl(63).macs(host_mac(POD_B), pod_mac(POD_B));
        assert_frame("as before", &out.packet, &arrives);
    }
    assert_eq!(node.counter(Counter::TcReselected)?, 0);
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_full_table_drops_new_flows_and_keeps_the_old() -> Result<()> {
    // A hash takes some more than it is sized for (free lists per CPU), so it is filled until it refuses.
    let mut node = Node::with_conntrack(64)?;
    node.serve(served(Proto::UDP, VIP, 53), &[at(POD_B, 8080)])?;
    let flow = |port| Packet::udp(at(POD_A, port), at(VIP, 53), b"x");
    assert_eq!(node.pod_sends(&flow(1000))?.verdict, REDIRECT);
    let refused = (1001..1200).find(|port| node.pod_sends(&flow(*port)).is_ok_and(|out| out.verdict == DROP));
    let refused = refused.context("200 flows fit into 64 entries")?;
    assert_eq!(node.drops()?, [(DropReason::ConntrackFull, 1)]);
    assert_eq!(node.flow(tuple_of(&flow(refused)))?, None);
    assert_eq!(node.pod_sends(&flow(1000))?.verdict, REDIRECT);
    // Nothing is left half done.
    let entries = node.maps.conntrack.entries()?;
    let forward = entries.iter().filter(|(_, entry)| entry.direction == CtDirection::FORWARD).count();
    assert_eq!(forward * 2, entries.len());
    Ok(())
}

/// cilium#31643, #42870: whoever fills the table ends no direction of a flow that has both, nor does it get another source.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_full_table_parts_no_translated_source_from_its_answers() -> Result<()> {
    for net in nets() {
        let mut node = Node::with_conntrack(64)?;
        node.serve(served(Proto::UDP, net.node, 30_053).scope(Scope::EXTERNAL), &[at(net.remote, 5353)])?;
        let asks = |port| Packet::udp(at(net.client, port), at(net.node, 30_053), b"question");
        let ports: Vec<u16> = (1000..1200).collect();
        let served: Vec<u16> = ports.iter().copied().filter(|port| node.wire_brings(&asks(*port)).is_ok_and(is_sent)).collect();
        assert!(served.len() < ports.len(), "200 flows fit into 64 entries");
        let refused = u64::try_from(ports.len() - served.len())?;
        assert_eq!(node.drops()?, [(DropReason::ConntrackFull, refused)]);
        assert_eq!(node.tracked()?, served.len() * 2, "of what has no room, neither direction is there");
        for port in served {
            let source = node.pair(&asks(port))?.0.to.sport.to_host();
            let answers = Packet::udp(at(net.remote, 5353), at(net.node, source), b"answer");
            let out = node.wire_brings(&answers)?;
            assert_frame("back", &out.packet, &answers.from(at(net.node, 30_053)).to(at(net.client, port)).ttl(63));
            let out = node.wire_brings(&asks(port))?;
            assert_frame("on", &out.packet, &asks(port).from(at(net.node, source)).to(at(net.remote, 5353)).ttl(63));
        }
    }
    Ok(())
}

fn is_sent(out: Outcome) -> bool {
    out.verdict == REDIRECT
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_reply_entry_left_alone_is_taken_over() -> Result<()> {
    let mut node = node()?;
    node.pod_sends(&datagram())?;
    node.remove_flow(tuple_of(&datagram()))?;
    let out = node.pod_sends(&datagram())?;
    let arrives = datagram().to(at(POD_B, 8080)).ttl(63).macs(host_mac(POD_B), pod_mac(POD_B));
    assert_frame("with its own port", &out.packet, &arrives);
    assert_eq!(node.counter(Counter::TcPortRealloc)?, 0);
    node.pair(&datagram())?;
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_range_outside_the_slots_is_a_counted_defect() -> Result<()> {
    let mut node = node()?;
    let entries = node.maps.frontends.entries()?;
    for (key, frontend) in entries {
        node.maps.frontends.update(&[(key, thalweg_abi::Frontend { base: 1_000_000, ..frontend })])?;
    }
    assert_eq!(node.pod_sends(&client(SYN))?.verdict, DROP);
    assert_eq!(node.drops()?, [(DropReason::BadSlot, 1)]);
    Ok(())
}
