//! SCTP: ports like the others', a checksum of its own, and no kernel here that speaks it.

use std::net::IpAddr;

use anyhow::Result;
use thalweg_abi::{BackendState, Counter, CtState, DropReason, Proto, SNAT_PORT_MIN, Scope};
use thalweg_lab::packet::{Packet, assert_frame};

use super::{
    node::{
        CLIENT, CLIENT6, DROP, NODE, NODE6, Node, POD_A, POD_A6, POD_B, POD_B6, REDIRECT, REMOTE, REMOTE6, VIP, VIP6, at,
        host_mac, pod_mac,
    },
    tables::{FIRST_BACKEND, served},
};

const DATA: u8 = 0;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;
const SHUTDOWN_COMPLETE: u8 = 14;

/// VIP, the node, a client outside, two pods and a remote one, of each family.
fn nets() -> [[IpAddr; 6]; 2] {
    [
        [VIP.into(), NODE.into(), CLIENT.into(), POD_A.into(), POD_B.into(), REMOTE.into()],
        [VIP6.into(), NODE6.into(), CLIENT6.into(), POD_A6.into(), POD_B6.into(), REMOTE6.into()],
    ]
}

fn into_pod(packet: Packet, pod: IpAddr) -> Packet {
    packet.ttl(63).macs(host_mac(pod), pod_mac(pod))
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn pod_to_cluster_ip_is_translated_with_its_checksum_whatever_the_length() -> Result<()> {
    for [vip, _, _, pod, backend, _] in nets() {
        let mut node = Node::new()?;
        node.serve(served(Proto::SCTP, vip, 80), &[at(backend, 9899)])?;
        let init = Packet::sctp(at(pod, 40_000), at(vip, 80), INIT, &[7; 16]);
        let out = node.pod_sends(&init)?;
        assert_eq!(out.verdict, REDIRECT);
        assert_frame("to the backend", &out.packet, &into_pod(init.clone().to(at(backend, 9899)), backend));
        assert_eq!(node.pair(&init)?.0.state, CtState::NEW);
        let answer = Packet::sctp(at(backend, 9899), at(pod, 40_000), INIT_ACK, &[8; 300]);
        let out = node.pod_sends(&answer)?;
        assert_frame("back to the client", &out.packet, &into_pod(answer.from(at(vip, 80)), pod));
        assert_eq!(node.pair(&init)?.0.state, CtState::ESTABLISHED);
        let bytes: Vec<u8> = (0..1400_u32).map(|index| ((index * 31) >> 3) as u8).collect();
        for length in (0..20).chain([240, 241, 255, 256, 1000, 1400]) {
            let data = Packet::sctp(at(pod, 40_000), at(vip, 80), DATA, &bytes[..length]);
            for data in [data.clone(), data.without_checksum()] {
                let out = node.pod_sends(&data)?;
                assert_frame("data", &out.packet, &into_pod(data.to(at(backend, 9899)), backend));
            }
        }
        assert_eq!((node.counter(Counter::TcFlow)?, node.counter(Counter::TcRefused)?), (1, 0));
        assert_eq!(node.drops()?, []);
    }
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn outside_to_node_port_with_a_remote_backend_goes_and_comes_back_through_the_node() -> Result<()> {
    for [_, own, client, _, _, remote] in nets() {
        let mut node = Node::new()?;
        node.serve(served(Proto::SCTP, own, 30_080).scope(Scope::EXTERNAL), &[at(remote, 9899)])?;
        let init = Packet::sctp(at(client, 50_000), at(own, 30_080), INIT, &[7; 16]);
        let out = node.wire_brings(&init)?;
        let port = node.pair(&init)?.0.to.sport.to_host();
        assert!(port >= SNAT_PORT_MIN, "{port}");
        assert_frame("to the backend", &out.packet, &init.clone().from(at(own, port)).to(at(remote, 9899)).ttl(63));
        let answer = Packet::sctp(at(remote, 9899), at(own, port), INIT_ACK, &[8; 33]);
        let out = node.wire_brings(&answer)?;
        assert_frame("to the client", &out.packet, &answer.from(at(own, 30_080)).to(at(client, 50_000)).ttl(63));
        assert_eq!(node.drops()?, []);
    }
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn an_association_ends_and_begins_again() -> Result<()> {
    for [vip, _, _, pod, backend, remote] in nets() {
        for last in [ABORT, SHUTDOWN_COMPLETE] {
            let mut node = Node::new()?;
            node.serve(served(Proto::SCTP, vip, 80), &[at(backend, 9899)])?;
            let says = |chunk| Packet::sctp(at(pod, 40_000), at(vip, 80), chunk, &[7; 16]);
            node.pod_sends(&says(INIT))?;
            node.pod_sends(&says(last))?;
            assert_eq!(node.pair(&says(INIT))?.0.state, CtState::CLOSED);
            // The next one may go elsewhere.
            node.serve(served(Proto::SCTP, vip, 80), &[at(remote, 9899)])?;
            let out = node.pod_sends(&says(INIT))?;
            assert_frame("to another backend", &out.packet, &says(INIT).to(at(remote, 9899)).ttl(63));
            assert_eq!(node.counter(Counter::TcFlow)?, 2);
            // Its backend goes: who serves now will tell the client that it knows nothing of it.
            node.set_backend(FIRST_BACKEND + 1, BackendState::FREE, 1)?;
            node.serve(served(Proto::SCTP, vip, 80), &[at(backend, 9899)])?;
            let out = node.pod_sends(&says(DATA))?;
            assert_frame("to a live backend", &out.packet, &into_pod(says(DATA).to(at(backend, 9899)), backend));
            assert_eq!(node.counter(Counter::TcReselected)?, 1);
            assert_eq!(node.drops()?, []);
        }
    }
    Ok(())
}

/// As kube-proxy's REJECT answers.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_port_nobody_serves_is_told_port_unreachable_and_an_abort_nothing() -> Result<()> {
    for [vip, _, client, pod, backend, _] in nets() {
        let mut node = Node::new()?;
        node.serve(served(Proto::TCP, vip, 80), &[at(backend, 8080)])?;
        for payload in [&b""[..], b"odd", &[5; 1000]] {
            let inside = Packet::sctp(at(pod, 40_000), at(vip, 80), INIT, payload);
            let outside = inside.clone().from(at(client, 40_000));
            for (packet, out) in [(&inside, node.pod_sends(&inside)?), (&outside, node.wire_brings(&outside)?)] {
                assert_eq!(out.verdict, REDIRECT);
                let told = if vip.is_ipv4() {
                    packet.quoted_by(vip, 3, 3, [0; 4], 12).id(0).dont_fragment()
                } else {
                    packet.quoted_by(vip, 1, 4, [0; 4], 12)
                };
                assert_frame("port unreachable", &out.packet, &told.macs(packet.mac_dst, packet.mac_src));
            }
        }
        assert_eq!(node.counter(Counter::TcRefused)?, 6);
        for last in [ABORT, SHUTDOWN_COMPLETE] {
            assert_eq!(node.pod_sends(&Packet::sctp(at(pod, 40_000), at(vip, 80), last, b""))?.verdict, DROP);
        }
        assert_eq!(node.drops()?, [(DropReason::NoFlow, 2)]);
    }
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn messages_about_translated_packets_are_understood_and_short_packets_dropped() -> Result<()> {
    for [vip, _, _, pod, backend, _] in nets() {
        let mut node = Node::new()?;
        node.serve(served(Proto::SCTP, vip, 80), &[at(backend, 9899)])?;
        let init = Packet::sctp(at(pod, 40_000), at(vip, 80), INIT, &[7; 16]);
        node.pod_sends(&init)?;
        let (kind, code) = if vip.is_ipv4() { (3, 3) } else { (1, 4) };
        // Eight bytes: the checksum is not among them.
        let message = init.clone().to(at(backend, 9899)).ttl(63).quoted_by(backend, kind, code, [0; 4], 8);
        let told = init.clone().ttl(63).quoted_by(vip, kind, code, [0; 4], 8);
        assert_frame("to the client", &node.pod_sends(&message)?.packet, &into_pod(told, pod));
        assert_eq!(node.drops()?, []);
        // A header without a chunk.
        let mut short = init.bytes();
        short.truncate(short.len() - 20);
        let length = if vip.is_ipv4() { 17 } else { 19 };
        short[length] -= 20;
        let program = if vip.is_ipv4() { "tc_from_pod" } else { "tc_from_pod6" };
        assert_eq!(node.run(program, node.pod_a, &short)?.verdict, DROP);
        assert_eq!(node.drops()?, [(DropReason::Malformed, 1)]);
    }
    Ok(())
}
