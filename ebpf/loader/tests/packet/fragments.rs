//! Datagrams in pieces, one piece at a time: what is held, what is not, and what absurd pieces do. That held pieces are
//! sent on is for `real` to show.

use std::net::IpAddr;

use anyhow::{Context, Result};
use thalweg_abi::{Counter, CtState, DropReason, HELD_BYTES, HELD_EACH, MAX_FRAGMENTS, Proto};
use thalweg_lab::packet::{Frame, Packet};
use thalweg_loader::{Outcome, Table};

use super::{
    node::{DROP, Net, Node, PASS, REDIRECT, at, host_mac, nets, pod_mac},
    tables::served,
};

impl Net {
    /// A datagram of three pieces from pod A.
    fn datagram(&self, to: IpAddr, id: u16) -> Packet {
        Packet::udp(at(self.pods[0], 40_000), at(to, 53), &(0..60).collect::<Vec<_>>()).id(id)
    }

    /// What the hook's program of this family makes of a frame.
    fn run(&self, node: &Node, hook: &str, link: u32, frame: &[u8]) -> Result<Outcome> {
        let program = if self.vip.is_ipv4() { hook.to_owned() } else { format!("{hook}6") };
        node.run(&program, link, frame)
    }

    fn pod_sends(&self, node: &Node, link: u32, frame: &[u8]) -> Result<Outcome> {
        self.run(node, "tc_from_pod", link, frame)
    }
}

fn pieces(packet: &Packet) -> Vec<Vec<u8>> {
    packet.pieces(&[24, 16])
}

#[track_caller]
fn assert_piece(what: &str, out: &Outcome, verdict: i32, expected: &[u8]) {
    assert_eq!(out.verdict, verdict, "{what}");
    assert!(out.packet == expected, "{what}\ngot      {}\nexpected {}", Frame(&out.packet), Frame(expected));
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn pieces_follow_the_first_to_the_backend_and_back() -> Result<()> {
    for net in nets() {
        let mut node = Node::new()?;
        let [client, backend] = net.pods;
        node.serve(served(Proto::UDP, net.vip, 53), &[at(backend, 5353)])?;
        let question = net.datagram(net.vip, 1);
        let arrives = question.clone().to(at(backend, 5353)).ttl(63).macs(host_mac(backend), pod_mac(backend));
        for (sent, expected) in pieces(&question).iter().zip(pieces(&arrives)) {
            assert_piece("to the backend", &net.pod_sends(&node, node.pod_a, sent)?, REDIRECT, &expected);
        }
        let answer = Packet::udp(at(backend, 5353), at(client, 40_000), &[8; 70]).id(2);
        let arrives = answer.clone().from(at(net.vip, 53)).ttl(63).macs(host_mac(client), pod_mac(client));
        for (sent, expected) in pieces(&answer).iter().zip(pieces(&arrives)) {
            assert_piece("back to the client", &net.pod_sends(&node, node.pod_b, sent)?, REDIRECT, &expected);
        }
        let (forward, reply) = node.pair(&question)?;
        assert_eq!((forward.packets, reply.packets, reply.state), (3, 3, CtState::ESTABLISHED));
        assert_eq!(node.counter(Counter::TcFlow)?, 1);
        assert_eq!(node.maps.fragments.entries()?.len(), 2);
        assert_eq!(node.maps.held.entries()?.len(), 0);
        assert_eq!(node.drops()?, []);
    }
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_process_of_the_node_answers_in_pieces() -> Result<()> {
    for net in nets() {
        let mut node = Node::new()?;
        node.serve(served(Proto::UDP, net.vip, 53), &[at(net.node, 5353)])?;
        let question = net.datagram(net.vip, 1);
        node.pod_sends(&question)?;
        let answer = Packet::udp(at(net.node, 5353), at(net.pods[0], 40_000), &[8; 70]).id(2);
        for (sent, expected) in pieces(&answer).iter().zip(pieces(&answer.clone().from(at(net.vip, 53)))) {
            let out = net.run(&node, "tc_to_pod", node.pod_a, sent)?;
            assert_piece("back to the pod", &out, PASS, &expected);
        }
        // Another datagram's, whose first was not a flow's, passes at once: the stack sends in order.
        let other = Packet::udp(at(net.node, 99), at(net.pods[0], 40_000), &[8; 70]).id(3);
        for sent in pieces(&other).iter().rev() {
            let out = net.run(&node, "tc_to_pod", node.pod_a, sent)?;
            assert_piece("untouched", &out, PASS, sent);
        }
        assert_eq!(node.maps.held.entries()?.len(), 0);
        assert_eq!(node.drops()?, []);
    }
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn pieces_without_a_first_are_held_as_far_as_there_is_room() -> Result<()> {
    for net in nets() {
        let mut node = Node::new()?;
        node.serve(served(Proto::UDP, net.vip, 53), &[at(net.pods[1], 5353)])?;
        let later = pieces(&net.datagram(net.vip, 1)).swap_remove(2);
        for _ in 0..HELD_EACH {
            assert_eq!(net.pod_sends(&node, node.pod_a, &later)?.verdict, DROP);
        }
        assert_eq!(node.drops()?, [], "held, not dropped");
        assert_eq!(node.counter(Counter::TcFragmentHeld)?, u64::from(HELD_EACH));
        let held = node.maps.held.entries()?;
        assert_eq!(held.len(), HELD_EACH as usize);
        for (_, piece) in held {
            assert_eq!(&piece.bytes[..piece.len as usize], later);
        }
        // One more, and one longer than can be held: for a service dropped, for others as they come.
        assert_eq!(net.pod_sends(&node, node.pod_a, &later)?.verdict, DROP);
        let long = |to: IpAddr| {
            let packet = Packet::udp(at(net.pods[0], 40_000), at(to, 53), &[1; HELD_BYTES + 16]).id(2);
            packet.pieces(&[8]).swap_remove(1)
        };
        assert_eq!(net.pod_sends(&node, node.pod_a, &long(net.vip))?.verdict, DROP);
        assert_eq!(node.drops()?, [(DropReason::Fragment, 2)]);
        let away = long(net.client);
        assert_piece("untouched", &net.pod_sends(&node, node.pod_a, &away)?, PASS, &away);
        assert_eq!(node.maps.held.entries()?.len(), HELD_EACH as usize);
    }
    Ok(())
}

/// One that the first cannot become: no packet is that short. It would be met again each time that the first is sent in.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn what_waited_is_gone_whatever_becomes_of_it() -> Result<()> {
    for net in nets() {
        let mut node = Node::new()?;
        node.serve(served(Proto::UDP, net.vip, 53), &[at(net.pods[1], 5353)])?;
        let sent = pieces(&net.datagram(net.vip, 1));
        for _ in 0..2 {
            assert_eq!(net.pod_sends(&node, node.pod_a, &sent[1])?.verdict, DROP);
        }
        let mut held = node.maps.held.entries()?;
        held.sort_unstable_by_key(|(key, _)| *key);
        held[0].1.len = 1;
        node.maps.held.update(&held)?;
        assert_eq!(net.pod_sends(&node, node.pod_a, &sent[0])?.verdict, DROP, "it lives on elsewhere");
        assert_eq!(node.maps.held.entries()?.len(), 0);
        assert_eq!(node.counter(Counter::TcFragmentReleased)?, 1);
        assert_eq!(node.drops()?, [(DropReason::Fragment, 1)]);
        assert_eq!(net.pod_sends(&node, node.pod_a, &sent[0])?.verdict, REDIRECT, "nobody waits");
    }
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn pieces_of_untranslated_datagrams_pass_behind_their_first() -> Result<()> {
    for net in nets() {
        let node = Node::new()?;
        let backend = net.pods[1];
        let datagram = net.datagram(backend, 1);
        let arrives = datagram.clone().ttl(63).macs(host_mac(backend), pod_mac(backend));
        for (sent, expected) in pieces(&datagram).iter().zip(pieces(&arrives)) {
            assert_piece("into the pod", &net.pod_sends(&node, node.pod_a, sent)?, REDIRECT, &expected);
        }
        let away = net.datagram(net.client, 2);
        for sent in &pieces(&away) {
            assert_piece("to the stack", &net.pod_sends(&node, node.pod_a, sent)?, PASS, sent);
        }
        assert_eq!(node.tracked()?, 0);
        assert_eq!(node.drops()?, []);
    }
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn pieces_of_what_is_refused_go_nowhere() -> Result<()> {
    for net in nets() {
        let mut node = Node::new()?;
        node.serve(served(Proto::TCP, net.vip, 80), &[at(net.pods[1], 8080)])?;
        let sent = pieces(&net.datagram(net.vip, 1));
        assert_eq!(net.pod_sends(&node, node.pod_a, &sent[0])?.verdict, REDIRECT);
        assert_eq!(node.counter(Counter::TcRefused)?, 1);
        for piece in &sent[1..] {
            assert_eq!(net.pod_sends(&node, node.pod_a, piece)?.verdict, DROP);
        }
        assert_eq!(node.drops()?, [(DropReason::Fragment, 2)]);
    }
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn pieces_too_long_to_be_held_follow_their_first() -> Result<()> {
    for net in nets() {
        let mut node = Node::new()?;
        let backend = net.pods[1];
        node.serve(served(Proto::UDP, net.vip, 53), &[at(backend, 5353)])?;
        let question = Packet::udp(at(net.pods[0], 40_000), at(net.vip, 53), &[3; 2 * HELD_BYTES + 600]).id(1);
        let arrives = question.clone().to(at(backend, 5353)).ttl(63).macs(host_mac(backend), pod_mac(backend));
        let cut = |packet: &Packet| packet.pieces(&[HELD_BYTES + 64]);
        let sent = cut(&question);
        assert!(sent.iter().all(|piece| piece.len() > HELD_BYTES));
        // One that comes first is lost, and with it this datagram.
        assert_eq!(net.pod_sends(&node, node.pod_a, &sent[1])?.verdict, DROP);
        assert_eq!(node.drops()?, [(DropReason::Fragment, 1)]);
        for (sent, expected) in sent.iter().zip(cut(&arrives)) {
            assert_piece("to the backend", &net.pod_sends(&node, node.pod_a, sent)?, REDIRECT, &expected);
        }
        assert_eq!(node.counter(Counter::TcFragmentHeld)?, 0);
        assert_eq!(node.drops()?, [(DropReason::Fragment, 1)]);
    }
    Ok(())
}

/// Pieces that overlap, repeat, contradict each other or are alone in their datagram: the receiver's kernel judges them.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn absurd_pieces_do_no_harm() -> Result<()> {
    for net in nets() {
        let mut node = Node::new()?;
        let backend = net.pods[1];
        node.serve(served(Proto::UDP, net.vip, 53), &[at(backend, 5353)])?;
        let (small, other) = (net.datagram(net.vip, 1), net.datagram(net.vip, 1).from(at(net.pods[0], 40_001)));
        let overlapping = [small.pieces(&[24]).swap_remove(1), small.pieces(&[8]).swap_remove(1)];
        let firsts = [small.pieces(&[24]).swap_remove(0), other.pieces(&[16]).swap_remove(0)];
        for first in &firsts {
            // A second first one with other ports: what follows is the flow's that spoke last.
            assert_eq!(net.pod_sends(&node, node.pod_a, first)?.verdict, REDIRECT);
            for piece in overlapping.iter().chain(&overlapping) {
                let out = net.pod_sends(&node, node.pod_a, piece)?;
                assert_eq!((out.verdict, out.packet.len()), (REDIRECT, piece.len()));
            }
        }
        assert_eq!(node.counter(Counter::TcFlow)?, 2);
        assert_eq!(node.maps.fragments.entries()?.len(), 1);
        assert_eq!(node.maps.held.entries()?.len(), 0);
        assert_eq!(node.drops()?, []);
    }
    // A fragment header around a whole datagram.
    let net = nets()[1];
    let mut node = Node::new()?;
    node.serve(served(Proto::UDP, net.vip, 53), &[at(net.pods[1], 5353)])?;
    let datagram = net.datagram(net.vip, 1);
    let atomic = |packet: &Packet| packet.pieces(&[]).swap_remove(0);
    let arrives = datagram.clone().to(at(net.pods[1], 5353)).ttl(63).macs(host_mac(net.pods[1]), pod_mac(net.pods[1]));
    assert_piece("whole", &net.pod_sends(&node, node.pod_a, &atomic(&datagram))?, REDIRECT, &atomic(&arrives));
    assert_eq!(node.maps.fragments.entries()?.len(), 0);
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_full_table_forgets_what_is_oldest() -> Result<()> {
    let net = nets()[0];
    let mut node = Node::new()?;
    node.serve(served(Proto::UDP, net.vip, 53), &[at(net.pods[1], 5353)])?;
    let sent = pieces(&net.datagram(net.vip, 1));
    net.pod_sends(&node, node.pod_a, &sent[0])?;
    let (mut key, value) = *node.maps.fragments.entries()?.first().context("an entry")?;
    node.maps.fragments.delete(&[key])?;
    let others: Vec<_> = (0..2 * MAX_FRAGMENTS)
        .map(|id| {
            key.id = id << 16 | 0xffff;
            (key, value)
        })
        .collect();
    node.maps.fragments.update(&others)?;
    for sent in &sent {
        assert_eq!(net.pod_sends(&node, node.pod_a, sent)?.verdict, REDIRECT);
    }
    assert_eq!(node.maps.held.entries()?.len(), 0);
    assert_eq!(node.drops()?, []);
    Ok(())
}

/// From the wire, only what is for a pod, a service or the node itself can be a flow's.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn transit_is_not_held() -> Result<()> {
    for net in nets() {
        let mut node = Node::new()?;
        node.serve(served(Proto::UDP, net.vip, 53), &[at(net.pods[1], 5353)])?;
        let brings = |to: IpAddr| -> Result<(Outcome, Vec<u8>)> {
            let sent = pieces(&Packet::udp(at(net.client, 40_000), at(to, 53), &[1; 60]).id(1)).swap_remove(1);
            Ok((net.run(&node, "tc_from_wire", node.uplink, &sent)?, sent))
        };
        let (out, sent) = brings(net.remote)?;
        assert_piece("onwards", &out, PASS, &sent);
        assert_eq!(node.maps.held.entries()?.len(), 0);
        for to in [net.vip, net.pods[0], net.node] {
            assert_eq!(brings(to)?.0.verdict, DROP, "{to}");
        }
        assert_eq!(node.maps.held.entries()?.len(), 3);
        assert_eq!(node.drops()?, []);
    }
    Ok(())
}
