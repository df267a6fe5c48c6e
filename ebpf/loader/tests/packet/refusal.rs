//! What is refused: the whole answer, byte by byte.

use anyhow::Result;
use thalweg_abi::{Counter, DropReason, Proto};
use thalweg_lab::packet::{ACK, Body, FIN, Packet, RST, SYN, assert_frame};

use super::{
    node::{CLIENT, DROP, NODE, Node, PASS, POD_A, POD_B, REDIRECT, VIP, at},
    tables::served,
};

/// The reset that answers `packet`.
fn reset(packet: &Packet, flags: u8, seq: u32, ack: u32) -> Packet {
    let Body::Tcp(tcp) = &packet.body else { panic!("not TCP") };
    Packet::tcp(at(packet.dst, tcp.dport), at(packet.src, tcp.sport), flags)
        .numbers(seq, ack)
        .window(0)
        .id(0)
        .dont_fragment()
        .macs(packet.mac_dst, packet.mac_src)
}

/// The ICMP message that refuses `packet`.
fn unreachable(packet: &Packet, code: u8) -> Packet {
    packet.quoted_by(packet.dst, 3, code, [0; 4], 8).id(0).dont_fragment().macs(packet.mac_dst, packet.mac_src)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn tcp_to_a_port_nobody_serves_is_reset() -> Result<()> {
    let mut node = Node::new()?;
    node.serve(served(Proto::TCP, VIP, 80), &[at(POD_B, 8080)])?;
    let syn = Packet::tcp(at(POD_A, 40_000), at(VIP, 81), SYN);
    let data = Packet::tcp(at(POD_A, 40_000), at(VIP, 81), ACK).payload(&[9; 333]);
    let naked = Packet::tcp(at(POD_A, 40_000), at(VIP, 81), FIN).payload(&[9; 10]);
    let wrapping = syn.clone().numbers(u32::MAX, 0);
    for (packet, expected) in [
        (syn.clone(), reset(&syn, RST | ACK, 0, 1001)),
        (syn.clone().options(&[1; 40]), reset(&syn, RST | ACK, 0, 1001)),
        (data.clone(), reset(&data, RST, 2000, 0)),
        (data.clone().options(&[1; 8]), reset(&data, RST, 2000, 0)),
        (naked.clone(), reset(&naked, RST | ACK, 0, 1011)),
        (wrapping, reset(&syn, RST | ACK, 0, 0)),
    ] {
        let out = node.pod_sends(&packet)?;
        assert_eq!(out.verdict, REDIRECT, "{packet:?}");
        assert_frame("reset", &out.packet, &expected);
    }
    assert_eq!(node.counter(Counter::TcRefused)?, 6);
    assert_eq!(node.tracked()?, 0);
    assert_eq!(node.drops()?, []);
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_service_without_endpoints_refuses_from_both_sides() -> Result<()> {
    let mut node = Node::new()?;
    node.serve(served(Proto::TCP, VIP, 80), &[])?;
    node.serve(served(Proto::TCP, NODE, 30_080), &[])?;
    let inside = Packet::tcp(at(POD_A, 40_000), at(VIP, 80), SYN);
    let out = node.pod_sends(&inside)?;
    assert_eq!(out.verdict, REDIRECT);
    assert_frame("reset", &out.packet, &reset(&inside, RST | ACK, 0, 1001));
    let outside = Packet::tcp(at(CLIENT, 50_000), at(NODE, 30_080), SYN);
    let out = node.wire_brings(&outside)?;
    assert_eq!(out.verdict, REDIRECT);
    assert_frame("reset", &out.packet, &reset(&outside, RST | ACK, 0, 1001));
    assert_eq!(node.counter(Counter::TcRefused)?, 2);
    assert_eq!(node.drops()?, []);
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn udp_to_a_port_nobody_serves_is_told_port_unreachable() -> Result<()> {
    let mut node = Node::new()?;
    node.serve(served(Proto::TCP, VIP, 80), &[at(POD_B, 8080)])?;
    for payload in [&b""[..], b"odd", &[5; 1000]] {
        let packet = Packet::udp(at(POD_A, 40_000), at(VIP, 80), payload);
        for packet in [packet.clone(), packet.clone().options(&[1; 12]), packet.without_checksum()] {
            let out = node.pod_sends(&packet)?;
            assert_eq!(out.verdict, REDIRECT, "{packet:?}");
            assert_frame("port unreachable", &out.packet, &unreachable(&packet, 3));
        }
    }
    let packet = Packet::udp(at(CLIENT, 40_000), at(VIP, 80), b"from outside");
    let out = node.wire_brings(&packet)?;
    assert_eq!(out.verdict, REDIRECT);
    assert_frame("port unreachable", &out.packet, &unreachable(&packet, 3));
    assert_eq!(node.counter(Counter::TcRefused)?, 10);
    assert_eq!(node.drops()?, []);
    Ok(())
}

/// cilium#13329, #14118: what a service's address does not serve must not wander off by a default route.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn what_a_service_address_cannot_serve_is_told_protocol_unreachable() -> Result<()> {
    let mut node = Node::new()?;
    node.serve(served(Proto::TCP, VIP, 80), &[at(POD_B, 8080)])?;
    let ping = Packet::icmp(POD_A, VIP, 8, 0, [0, 1, 0, 1], b"ping");
    let tunnel = Packet::ip(POD_A, VIP, Body::Raw { proto: 47, payload: vec![3; 32] });
    for packet in [ping, tunnel] {
        let out = node.pod_sends(&packet)?;
        assert_eq!(out.verdict, REDIRECT, "{packet:?}");
        assert_frame("protocol unreachable", &out.packet, &unreachable(&packet, 2));
    }
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn answers_are_not_answered() -> Result<()> {
    let mut node = Node::new()?;
    node.serve(served(Proto::TCP, VIP, 80), &[at(POD_B, 8080)])?;
    let sent = Packet::udp(at(VIP, 5), at(POD_A, 6), b"never sent");
    for packet in [
        Packet::tcp(at(POD_A, 40_000), at(VIP, 81), RST),
        Packet::tcp(at(POD_A, 40_000), at(VIP, 81), RST | ACK),
        Packet::icmp(POD_A, VIP, 0, 0, [0, 1, 0, 1], b"echo reply"),
        Packet { src: POD_A.into(), dst: VIP.into(), ..sent.quoted_by(POD_A, 3, 3, [0; 4], 8) },
    ] {
        let out = node.pod_sends(&packet)?;
        assert_eq!(out.verdict, DROP, "{packet:?}");
    }
    assert_eq!(node.drops()?, [(DropReason::NoFlow, 4)]);
    assert_eq!(node.counter(Counter::TcRefused)?, 0);
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_port_of_the_node_that_is_not_a_services_is_the_nodes_to_refuse() -> Result<()> {
    let mut node = Node::new()?;
    node.serve(served(Proto::TCP, NODE, 30_080), &[at(POD_B, 8080)])?;
    let packet = Packet::tcp(at(POD_A, 40_000), at(NODE, 30_081), SYN);
    let out = node.pod_sends(&packet)?;
    assert_eq!(out.verdict, PASS);
    assert_frame("untouched", &out.packet, &packet);
    Ok(())
}
