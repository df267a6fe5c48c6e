//! ICMP errors about translated packets, in both directions: the sender must recognise what is quoted.

use anyhow::{Context, Result};
use thalweg_abi::{Counter, Proto};
use thalweg_lab::packet::{ACK, Packet, SYN, assert_frame};

use super::{
    node::{CLIENT, NODE, Node, PASS, POD_A, POD_B, REDIRECT, REMOTE, VIP, at, host_mac, pod_mac, tuple_of},
    tables::served,
};

const PORT: (u8, u8, [u8; 4]) = (3, 3, [0; 4]);
const TOO_BIG: (u8, u8, [u8; 4]) = (3, 4, [0, 0, 5, 120]);
const TIME: (u8, u8, [u8; 4]) = (11, 0, [0; 4]);

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn backend_without_a_listener_tells_the_client_about_its_own_datagram() -> Result<()> {
    let mut node = Node::new()?;
    node.serve(served(Proto::UDP, VIP, 53), &[at(POD_B, 5353)])?;
    let (kind, code, rest) = PORT;
    for question in [
        Packet::udp(at(POD_A, 40_000), at(VIP, 53), b"question"),
        Packet::udp(at(POD_A, 40_000), at(VIP, 53), b"question").without_checksum(),
        Packet::udp(at(POD_A, 40_000), at(VIP, 53), b"question").options(&[1; 4]),
    ] {
        node.pod_sends(&question)?;
        // From the backend, about what it got.
        let got = question.clone().to(at(POD_B, 5353)).ttl(63);
        let message = got.quoted_by(POD_B, kind, code, rest, 8);
        let out = node.pod_sends(&message)?;
        assert_eq!(out.verdict, REDIRECT);
        // From the service, about what was sent.
        let told = question.ttl(63).quoted_by(VIP, kind, code, rest, 8).ttl(63);
        assert_frame("to the client", &out.packet, &told.macs(host_mac(POD_A), pod_mac(POD_A)));
    }
    assert_eq!(node.drops()?, []);
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn routers_on_the_way_to_a_remote_backend_are_understood() -> Result<()> {
    let mut node = Node::new()?;
    node.serve(served(Proto::TCP, VIP, 80), &[at(REMOTE, 8080)])?;
    let sent = Packet::tcp(at(POD_A, 40_000), at(VIP, 80), ACK).payload(&[7; 64]);
    node.pod_sends(&sent)?;
    let router = [172, 31, 0, 1];
    for (kind, code, rest) in [TOO_BIG, TIME] {
        let message = sent.clone().to(at(REMOTE, 8080)).quoted_by(router, kind, code, rest, 8);
        let out = node.wire_brings(&message)?;
        assert_eq!(out.verdict, REDIRECT);
        // The router stays the router.
        let told = sent.quoted_by(router, kind, code, rest, 8).ttl(63);
        assert_frame("to the client", &out.packet, &told.macs(host_mac(POD_A), pod_mac(POD_A)));
    }
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn remote_backend_of_a_node_port_reaches_the_client_outside() -> Result<()> {
    let mut node = Node::new()?;
    node.serve(served(Proto::UDP, NODE, 30_053), &[at(REMOTE, 5353)])?;
    let question = Packet::udp(at(CLIENT, 50_000), at(NODE, 30_053), b"question");
    node.wire_brings(&question)?;
    let port = node.pair(&question)?.0.to.sport.to_host();
    let got = question.clone().from(at(NODE, port)).to(at(REMOTE, 5353)).ttl(62);
    let (kind, code, rest) = PORT;
    let out = node.wire_brings(&got.quoted_by(REMOTE, kind, code, rest, 8))?;
    assert_eq!(out.verdict, REDIRECT);
    assert_frame("to the client", &out.packet, &question.ttl(62).quoted_by(NODE, kind, code, rest, 8).ttl(63));
    assert_eq!(node.counter(Counter::TcToWire)?, 2);
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn client_that_has_gone_tells_the_backend_about_its_own_answer() -> Result<()> {
    let mut node = Node::new()?;
    node.serve(served(Proto::UDP, VIP, 53), &[at(POD_B, 5353)])?;
    node.pod_sends(&Packet::udp(at(POD_A, 40_000), at(VIP, 53), b"question"))?;
    let answer = Packet::udp(at(POD_B, 5353), at(POD_A, 40_000), b"answer");
    let got = answer.clone().from(at(VIP, 53)).ttl(63);
    let (kind, code, rest) = PORT;
    let out = node.pod_sends(&got.quoted_by(POD_A, kind, code, rest, 8))?;
    assert_eq!(out.verdict, REDIRECT);
    let told = answer.ttl(63).quoted_by(POD_A, kind, code, rest, 8).ttl(63);
    assert_frame("to the backend", &out.packet, &told.macs(host_mac(POD_B), pod_mac(POD_B)));
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn the_nodes_own_stack_is_understood_in_both_directions() -> Result<()> {
    let mut node = Node::new()?;
    node.serve(served(Proto::UDP, VIP, 53), &[at(NODE, 5353)])?;
    node.serve(served(Proto::UDP, NODE, 30_053), &[at(NODE, 5353)])?;
    let (kind, code, rest) = PORT;

    let inside = Packet::udp(at(POD_A, 40_000), at(VIP, 53), b"question");
    node.pod_sends(&inside)?;
    let message = inside.clone().to(at(NODE, 5353)).quoted_by(NODE, kind, code, rest, 8);
    let out = node.stack_sends_pod_a(&message)?;
    assert_eq!(out.verdict, PASS);
    assert_frame("to the pod", &out.packet, &inside.quoted_by(VIP, kind, code, rest, 8));

    let outside = Packet::udp(at(CLIENT, 50_000), at(NODE, 30_053), b"question");
    node.wire_brings(&outside)?;
    let message = outside.clone().to(at(NODE, 5353)).quoted_by(NODE, kind, code, rest, 8);
    let out = node.stack_sends_out(&message)?;
    assert_eq!(out.verdict, PASS);
    assert_frame("to the client", &out.packet, &outside.quoted_by(NODE, kind, code, rest, 8));
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn messages_about_untranslated_or_forged_packets_are_left_alone() -> Result<()> {
    let mut node = Node::new()?;
    node.serve(served(Proto::TCP, VIP, 80), &[at(POD_B, 8080)])?;
    let sent = Packet::tcp(at(POD_A, 40_000), at(VIP, 80), SYN);
    node.pod_sends(&sent)?;
    let (kind, code, rest) = PORT;
    let untracked = Packet::tcp(at(POD_A, 1), at(POD_B, 2), SYN).quoted_by(POD_B, kind, code, rest, 8);
    // Quotes a tracked packet, but goes to somebody who did not send it.
    let forged = Packet {
        dst: POD_A.into(),
        src: POD_B.into(),
        ..Packet::tcp(at(REMOTE, 1), at(POD_B, 2), SYN).quoted_by(POD_B, kind, code, rest, 8)
    };
    // Cut short inside the quoted packet.
    let short = sent.clone().to(at(POD_B, 8080)).quoted_by(POD_B, kind, code, rest, 2);
    for message in [untracked, forged, short] {
        let out = node.pod_sends(&message)?;
        assert_eq!(out.verdict, REDIRECT);
        let as_it_was = message.ttl(63).macs(host_mac(POD_A), pod_mac(POD_A));
        assert_frame("delivered as it was", &out.packet, &as_it_was);
    }
    node.flow(tuple_of(&sent))?.context("the flow lives")?;
    Ok(())
}
