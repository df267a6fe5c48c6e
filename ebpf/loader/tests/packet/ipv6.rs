//! What is different with IPv6: headers that are chained, messages whose checksum covers addresses, neighbours.

use std::net::{IpAddr, Ipv6Addr};

use anyhow::Result;
use thalweg_abi::{Counter, CtFlags, CtState, DropReason, FrontendFlags, Proto, SNAT_PORT_MIN, Scope};
use thalweg_lab::packet::{ACK, Body, FIN, Packet, RST, SYN, assert_frame};

use super::{
    malformed::are_dropped,
    node::{CLIENT6, DROP, NODE6, Node, PASS, POD_A6, POD_B6, REDIRECT, REMOTE6, VIP6, at, host_mac, pod_mac, tuple_of},
    tables::served,
};

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const DESTINATION: u8 = 60;

const PORT: (u8, u8, [u8; 4]) = (1, 4, [0; 4]);
const TOO_BIG: (u8, u8, [u8; 4]) = (2, 0, [0, 0, 5, 120]);
const TIME: (u8, u8, [u8; 4]) = (3, 0, [0; 4]);

/// Where headers begin in a frame.
const IP: usize = 14;
const BEHIND: usize = 54;

fn into_pod(packet: Packet, pod: Ipv6Addr) -> Packet {
    let ttl = packet.ttl - 1;
    packet.ttl(ttl).macs(host_mac(pod), pod_mac(pod))
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn pod_to_cluster_ip_is_translated_and_reply_returns_with_and_without_extension_headers() -> Result<()> {
    let mut node = Node::new()?;
    node.serve(served(Proto::TCP, VIP6, 80), &[at(POD_B6, 8080)])?;
    node.serve(served(Proto::UDP, VIP6, 53), &[at(REMOTE6, 5353)])?;
    type Dress = fn(Packet) -> Packet;
    let bare: Dress = |packet| packet;
    let one: Dress = |packet| packet.extension(DESTINATION, 24);
    let two: Dress = |packet| packet.extension(HOP_BY_HOP, 8).extension(DESTINATION, 8);
    for (port, dress) in (40_000..).zip([bare, one, two]) {
        let syn = dress(Packet::tcp(at(POD_A6, port), at(VIP6, 80), SYN).payload(b"odd"));
        let out = node.pod_sends(&syn)?;
        assert_eq!(out.verdict, REDIRECT);
        assert_frame("to the backend", &out.packet, &into_pod(syn.clone().to(at(POD_B6, 8080)), POD_B6));
        assert_eq!(node.pair(&syn)?.0.state, CtState::NEW);
        let answer = dress(Packet::tcp(at(POD_B6, 8080), at(POD_A6, port), SYN | ACK));
        let out = node.pod_sends(&answer)?;
        assert_eq!(out.verdict, REDIRECT);
        assert_frame("back to the client", &out.packet, &into_pod(answer.from(at(VIP6, 80)), POD_A6));
        assert_eq!(node.pair(&syn)?.0.state, CtState::ESTABLISHED);

        let question = dress(Packet::udp(at(POD_A6, port), at(VIP6, 53), b"question"));
        let out = node.pod_sends(&question)?;
        assert_eq!(out.verdict, REDIRECT);
        assert_frame("out by the wire", &out.packet, &question.to(at(REMOTE6, 5353)).ttl(63));
        let answer = dress(Packet::udp(at(REMOTE6, 5353), at(POD_A6, port), b"answer").ttl(62));
        let out = node.wire_brings(&answer)?;
        assert_eq!(out.verdict, REDIRECT);
        assert_frame("back to the client", &out.packet, &into_pod(answer.from(at(VIP6, 53)), POD_A6));
    }
    assert_eq!((node.counter(Counter::TcFlow)?, node.counter(Counter::TcTracked)?), (6, 6));
    assert_eq!(node.drops()?, []);
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn outside_to_node_port_with_a_remote_backend_goes_and_comes_back_through_the_node() -> Result<()> {
    let mut node = Node::new()?;
    let port = served(Proto::TCP, NODE6, 30_080).flags(FrontendFlags::NODE_PORT);
    node.serve(port.scope(Scope::EXTERNAL), &[at(REMOTE6, 8080)])?;
    let syn = Packet::tcp(at(CLIENT6, 50_000), at(NODE6, 30_080), SYN);
    let out = node.wire_brings(&syn)?;
    assert_eq!(out.verdict, REDIRECT);
    let (forward, _) = node.pair(&syn)?;
    assert_eq!(forward.flags.0, CtFlags::EXTERNAL | CtFlags::SNAT);
    let source = forward.to.sport.to_host();
    assert!(source >= SNAT_PORT_MIN, "{source}");
    assert_frame("to the backend", &out.packet, &syn.clone().from(at(NODE6, source)).to(at(REMOTE6, 8080)).ttl(63));
    let answer = Packet::tcp(at(REMOTE6, 8080), at(NODE6, source), SYN | ACK);
    let out = node.wire_brings(&answer)?;
    assert_eq!(out.verdict, REDIRECT);
    assert_frame("back to the client", &out.packet, &answer.from(at(NODE6, 30_080)).to(at(CLIENT6, 50_000)).ttl(63));
    assert_eq!(node.drops()?, []);
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_checksum_of_udp_is_never_zero() -> Result<()> {
    let mut node = Node::new()?;
    node.serve(served(Proto::UDP, VIP6, 53), &[at(REMOTE6, 5353)])?;
    let sent = Packet::udp(at(POD_A6, 40_000), at(VIP6, 53), &[0, 0]);
    let becomes = |packet: &Packet| packet.clone().to(at(REMOTE6, 5353)).ttl(63);
    let checksum = |packet: &Packet| packet.bytes()[BEHIND + 6..BEHIND + 8].to_vec();
    let mut met = 0;
    for word in 0..=u16::MAX {
        let packet = sent.clone().payload(&word.to_be_bytes());
        // 0xffff is written for a sum of 0, in what is sent or in what it becomes.
        if checksum(&packet) == [0xff, 0xff] || checksum(&becomes(&packet)) == [0xff, 0xff] {
            let out = node.pod_sends(&packet)?;
            assert_frame("no zero", &out.packet, &becomes(&packet));
            met += 1;
        }
    }
    assert!(met >= 2, "{met}");
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn what_nobody_serves_is_refused() -> Result<()> {
    let mut node = Node::new()?;
    node.serve(served(Proto::TCP, VIP6, 80), &[at(POD_B6, 8080)])?;
    let back = |packet: &Packet, answer: Packet| answer.macs(packet.mac_dst, packet.mac_src);
    let syn = Packet::tcp(at(POD_A6, 40_000), at(VIP6, 81), SYN);
    let data = Packet::tcp(at(POD_A6, 40_000), at(VIP6, 81), ACK).payload(&[9; 333]);
    let naked = Packet::tcp(at(POD_A6, 40_000), at(VIP6, 81), FIN).payload(&[9; 10]);
    for (packet, flags, seq, ack) in [
        (syn.clone(), RST | ACK, 0, 1001),
        (syn.extension(DESTINATION, 16), RST | ACK, 0, 1001),
        (data, RST, 2000, 0),
        (naked, RST | ACK, 0, 1011),
    ] {
        let out = node.pod_sends(&packet)?;
        assert_eq!(out.verdict, REDIRECT);
        let reset = Packet::tcp(at(VIP6, 81), at(POD_A6, 40_000), flags).numbers(seq, ack).window(0);
        assert_frame("reset", &out.packet, &back(&packet, reset));
    }
    let (kind, code, rest) = PORT;
    for payload in [&b""[..], b"odd", &[5; 1000]] {
        let packet = Packet::udp(at(POD_A6, 40_000), at(VIP6, 80), payload);
        for packet in [packet.clone(), packet.clone().extension(DESTINATION, 64), packet.extension(HOP_BY_HOP, 8)] {
            let out = node.pod_sends(&packet)?;
            assert_eq!(out.verdict, REDIRECT);
            assert_frame("port unreachable", &out.packet, &back(&packet, packet.quoted_by(VIP6, kind, code, rest, 8)));
            let mut outside = packet.clone();
            outside.src = CLIENT6.into();
            let out = node.wire_brings(&outside)?;
            assert_eq!(out.verdict, REDIRECT);
            assert_frame("from outside", &out.packet, &back(&outside, outside.quoted_by(VIP6, kind, code, rest, 8)));
        }
    }
    // cilium#13329, #14118: what has no ports must not wander off either.
    let ping = Packet::icmp(POD_A6, VIP6, 128, 0, [0, 1, 0, 1], b"ping");
    let other = Packet::ip(POD_A6, VIP6, Body::Raw { proto: 47, payload: vec![3; 32] });
    for packet in [ping, other] {
        let out = node.pod_sends(&packet)?;
        assert_eq!(out.verdict, REDIRECT, "{packet:?}");
        assert_frame("unreachable", &out.packet, &back(&packet, packet.quoted_by(VIP6, kind, code, rest, 8)));
    }
    assert_eq!(node.counter(Counter::TcRefused)?, 4 + 18 + 2);
    assert_eq!(node.drops()?, []);
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn answers_are_not_answered() -> Result<()> {
    let mut node = Node::new()?;
    node.serve(served(Proto::TCP, VIP6, 80), &[at(POD_B6, 8080)])?;
    let mut about = Packet::udp(at(VIP6, 5), at(POD_A6, 6), b"never sent").quoted_by(POD_A6, 1, 4, [0; 4], 8);
    (about.src, about.dst) = (POD_A6.into(), VIP6.into());
    for packet in [
        Packet::tcp(at(POD_A6, 40_000), at(VIP6, 81), RST),
        Packet::icmp(POD_A6, VIP6, 129, 0, [0, 1, 0, 1], b"echo reply"),
        about,
    ] {
        assert_eq!(node.pod_sends(&packet)?.verdict, DROP, "{packet:?}");
    }
    assert_eq!(node.drops()?, [(DropReason::NoFlow, 3)]);
    Ok(())
}

/// cilium#32601, #48784
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn messages_about_translated_packets_are_understood_in_both_directions() -> Result<()> {
    let mut node = Node::new()?;
    node.serve(served(Proto::UDP, VIP6, 53), &[at(POD_B6, 5353)])?;
    node.serve(served(Proto::TCP, VIP6, 80), &[at(REMOTE6, 8080)])?;
    let (kind, code, rest) = PORT;
    for (port, dress) in (40_000..).zip([false, true]) {
        let dress = |packet: Packet| if dress { packet.extension(DESTINATION, 16) } else { packet };
        // The backend has no listener.
        let question = dress(Packet::udp(at(POD_A6, port), at(VIP6, 53), b"question"));
        node.pod_sends(&question)?;
        let message = question.clone().to(at(POD_B6, 5353)).ttl(63).quoted_by(POD_B6, kind, code, rest, 16);
        let out = node.pod_sends(&message)?;
        assert_eq!(out.verdict, REDIRECT);
        let told = question.clone().ttl(63).quoted_by(VIP6, kind, code, rest, 16);
        assert_frame("to the client", &out.packet, &into_pod(told, POD_A6));
        // The client has gone.
        let answer = dress(Packet::udp(at(POD_B6, 5353), at(POD_A6, port), b"answer"));
        let message = answer.clone().from(at(VIP6, 53)).ttl(63).quoted_by(POD_A6, kind, code, rest, 14);
        let out = node.pod_sends(&message)?;
        assert_eq!(out.verdict, REDIRECT);
        assert_frame("to the backend", &out.packet, &into_pod(answer.ttl(63).quoted_by(POD_A6, kind, code, rest, 14), POD_B6));
        // A router on the way; it stays the router.
        let sent = dress(Packet::tcp(at(POD_A6, port), at(VIP6, 80), ACK).payload(&[7; 64]));
        node.pod_sends(&sent)?;
        let router: IpAddr = [0xfd00, 0x31, 0, 0, 0, 0, 0, 1].into();
        for (kind, code, rest) in [TOO_BIG, TIME] {
            let out = node.wire_brings(&sent.clone().to(at(REMOTE6, 8080)).quoted_by(router, kind, code, rest, 40))?;
            assert_eq!(out.verdict, REDIRECT);
            // Its checksum is in the quote, but nobody verifies it, and it stays as it was.
            let mut told = into_pod(sent.quoted_by(router, kind, code, rest, 40), POD_A6);
            if let (Body::Icmp(told), Body::Tcp(_)) = (&mut told.body, &sent.body) {
                let translated = sent.clone().to(at(REMOTE6, 8080)).quoted_by(router, kind, code, rest, 40);
                let Body::Icmp(translated) = translated.body else { panic!("ICMP") };
                let at = told.payload.len() - 40 + 16;
                told.payload[at..at + 2].copy_from_slice(&translated.payload[at..at + 2]);
            }
            assert_frame("to the client", &out.packet, &told);
        }
    }
    assert_eq!(node.drops()?, []);
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn messages_about_untranslated_or_forged_packets_are_left_alone() -> Result<()> {
    let mut node = Node::new()?;
    node.serve(served(Proto::TCP, VIP6, 80), &[at(POD_B6, 8080)])?;
    let sent = Packet::tcp(at(POD_A6, 40_000), at(VIP6, 80), SYN);
    node.pod_sends(&sent)?;
    let (kind, code, rest) = PORT;
    let untracked = Packet::tcp(at(POD_A6, 1), at(POD_B6, 2), SYN).quoted_by(POD_B6, kind, code, rest, 8);
    let mut forged = Packet::tcp(at(REMOTE6, 1), at(POD_B6, 2), SYN).quoted_by(POD_B6, kind, code, rest, 8);
    (forged.src, forged.dst) = (POD_B6.into(), POD_A6.into());
    let short = sent.clone().to(at(POD_B6, 8080)).quoted_by(POD_B6, kind, code, rest, 2);
    // The quoted chain of headers leads out of the packet, or in a circle of its own.
    let mut lying = sent.clone().to(at(POD_B6, 8080)).extension(DESTINATION, 8).quoted_by(POD_B6, kind, code, rest, 8);
    if let Body::Icmp(icmp) = &mut lying.body {
        icmp.payload[41] = 0xff;
    }
    let mut circle = lying.clone();
    if let Body::Icmp(icmp) = &mut circle.body {
        icmp.payload[40..].fill(0);
    }
    for message in [untracked, forged, short, lying, circle] {
        let out = node.pod_sends(&message)?;
        assert_eq!(out.verdict, REDIRECT, "{message:?}");
        assert_frame("delivered as it was", &out.packet, &into_pod(message, POD_A6));
    }
    assert!(node.flow(tuple_of(&sent))?.is_some());
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn what_is_too_big_or_too_old_for_the_next_link_is_answered_with_what_was_sent() -> Result<()> {
    let mut node = Node::new()?;
    node.netns.ip("link set eth0 mtu 1400")?;
    node.serve(served(Proto::TCP, VIP6, 80), &[at(REMOTE6, 8080)])?;
    let big = Packet::tcp(at(POD_A6, 40_000), at(VIP6, 80), ACK).payload(&[7; 1400]);
    let old = Packet::tcp(at(POD_A6, 40_000), at(VIP6, 80), ACK).ttl(1);
    let mtu = [0, 0, (1400 >> 8) as u8, (1400 & 0xff) as u8];
    for (packet, (kind, code, rest)) in [(big, (2, 0, mtu)), (old, TIME)] {
        let out = node.pod_sends(&packet)?;
        assert_eq!(out.verdict, REDIRECT);
        let told = packet.quoted_by(NODE6, kind, code, rest, 20).macs(packet.mac_dst, packet.mac_src);
        assert_frame("told by the node", &out.packet, &told);
    }
    assert_eq!(node.counter(Counter::TcAnswered)?, 2);
    // What the next link takes without its headers is not what it takes.
    let fits = Packet::tcp(at(POD_A6, 40_000), at(VIP6, 80), ACK).payload(&[7; 1340]);
    assert_frame("just right", &node.pod_sends(&fits)?.packet, &fits.to(at(REMOTE6, 8080)).ttl(63));
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn neighbours_and_what_stays_on_the_link_are_the_stacks() -> Result<()> {
    let mut node = Node::new()?;
    node.serve(served(Proto::TCP, VIP6, 80), &[at(POD_B6, 8080)])?;
    let own: Ipv6Addr = [0xfe80, 0, 0, 0, 0xaa, 0xff, 0xfe00, 2].into();
    let gateway: Ipv6Addr = [0xfe80, 0, 0, 0, 0, 0, 0, 1].into();
    let solicited: Ipv6Addr = [0xff02, 0, 0, 0, 0, 1, 0xff00, 2].into();
    let all_routers: Ipv6Addr = [0xff02, 0, 0, 0, 0, 0, 0, 2].into();
    for packet in [
        // Duplicate address detection, before there is an address; then with it, and from the link-local one.
        Packet::icmp(Ipv6Addr::UNSPECIFIED, solicited, 135, 0, [0; 4], &POD_A6.octets()),
        Packet::icmp(POD_A6, gateway, 135, 0, [0; 4], &gateway.octets()),
        Packet::icmp(own, gateway, 136, 0, [0x60, 0, 0, 0], &own.octets()),
        Packet::icmp(own, all_routers, 133, 0, [0; 4], b""),
        // A report on groups, with a router alert.
        Packet::icmp(own, [0xff02, 0, 0, 0, 0, 0, 0, 0x16], 143, 0, [0; 4], b"").extension(HOP_BY_HOP, 8),
        Packet::icmp(Ipv6Addr::UNSPECIFIED, [0xff02, 0, 0, 0, 0, 0, 0, 0x16], 143, 0, [0; 4], b"").extension(HOP_BY_HOP, 8),
        Packet::icmp(own, gateway, 128, 0, [0, 1, 0, 1], b"ping"),
        Packet::udp(at(own, 546), at([0xff02, 0, 0, 0, 0, 0, 1, 2], 547), b"DHCP"),
        // Whom it is for does not matter: neither another pod nor a service takes part.
        Packet::icmp(POD_A6, POD_B6, 135, 0, [0; 4], &POD_B6.octets()),
        Packet::icmp(POD_A6, VIP6, 135, 0, [0; 4], &VIP6.octets()),
    ] {
        let packet = packet.ttl(255);
        let out = node.pod_sends(&packet)?;
        assert_eq!(out.verdict, PASS, "{packet:?}");
        assert_frame("to the stack", &out.packet, &packet);
        let out = node.wire_brings(&packet)?;
        assert_eq!(out.verdict, PASS, "{packet:?}");
        assert_frame("from the wire", &out.packet, &packet);
    }
    // An address of the link is no way to a service: the stack does not route it.
    let sly = Packet::tcp(at(own, 40_000), at(VIP6, 80), SYN);
    assert_eq!(node.pod_sends(&sly)?.verdict, PASS);
    assert_eq!(node.tracked()?, 0);
    assert_eq!(node.drops()?, []);
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_pod_speaks_only_from_its_own_address_on_its_own_link() -> Result<()> {
    let node = Node::new()?;
    for src in [POD_B6, REMOTE6, CLIENT6, VIP6] {
        let packet = Packet::udp(at(src, 40_000), at(POD_B6, 80), b"x");
        assert_eq!(node.run("tc_from_pod6", node.pod_a, &packet.bytes())?.verdict, DROP, "{src}");
    }
    let own = Packet::udp(at(POD_A6, 40_000), at(POD_B6, 80), b"x");
    assert_eq!(node.run("tc_from_pod6", node.pod_b, &own.bytes())?.verdict, DROP);
    let out = node.pod_sends(&own)?;
    assert_eq!(out.verdict, REDIRECT);
    assert_frame("untouched", &out.packet, &into_pod(own, POD_B6));
    assert_eq!(node.drops()?, [(DropReason::Spoofed, 5)]);
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn malformed_packets_are_dropped_from_pods_and_from_the_wire() -> Result<()> {
    let mut node = Node::new()?;
    node.serve(served(Proto::TCP, VIP6, 80), &[at(POD_B6, 8080)])?;
    let with = |packet: &Packet, changes: &[(usize, u8)]| {
        let mut frame = packet.bytes();
        changes.iter().for_each(|(at, byte)| frame[*at] = *byte);
        frame
    };
    let tcp = Packet::tcp(at(POD_A6, 40_000), at(VIP6, 80), SYN);
    let udp = Packet::udp(at(POD_A6, 40_000), at(VIP6, 80), b"12345678");
    let icmp = Packet::icmp(POD_A6, VIP6, 128, 0, [0; 4], b"");
    let extended = tcp.clone().extension(DESTINATION, 8);
    let cases: &[(&str, Vec<u8>)] = &[
        ("version 4", with(&tcp, &[(IP, 0x45)])),
        ("payload above the frame", with(&tcp, &[(IP + 5, 21)])),
        ("TCP header cut off", with(&tcp, &[(IP + 5, 19)])),
        ("payload 0", with(&tcp, &[(IP + 5, 0)])),
        ("TCP offset below 20", with(&tcp, &[(BEHIND + 12, 0x40)])),
        ("TCP offset above the packet", with(&tcp, &[(BEHIND + 12, 0x60)])),
        ("UDP header cut off", with(&udp, &[(IP + 5, 7)])),
        ("UDP length below 8", with(&udp, &[(BEHIND + 5, 7)])),
        ("UDP length above the packet", with(&udp, &[(BEHIND + 5, 17)])),
        ("ICMP header cut off", with(&icmp, &[(IP + 5, 7)])),
        ("extension header longer than the packet", with(&extended, &[(BEHIND + 1, 9)])),
        ("extension header that takes the whole packet", with(&extended, &[(IP + 5, 8)])),
        (
            "extension headers without end",
            with(&udp, &[(IP + 6, DESTINATION), (BEHIND, DESTINATION), (BEHIND + 8, DESTINATION)]),
        ),
        ("first fragment too short for TCP", {
            let mut frame = tcp.pieces(&[16]).swap_remove(0);
            frame.truncate(BEHIND + 8 + 16);
            frame
        }),
    ];
    are_dropped(&node, "6", cases)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn packets_on_their_way_by_a_list_of_routers_are_not_balanced() -> Result<()> {
    let mut node = Node::new()?;
    node.serve(served(Proto::TCP, VIP6, 80), &[at(POD_B6, 8080)])?;
    // A byte behind the length is the type, and the next one says how many routers are left.
    let listed = |left: u8, dst: Ipv6Addr| {
        let mut packet = Packet::tcp(at(POD_A6, 40_000), at(dst, 80), SYN);
        packet.extensions.push((ROUTING, vec![4, left, 0, 0, 0, 0]));
        packet
    };
    let done = listed(0, VIP6);
    assert_frame("at its end", &node.pod_sends(&done)?.packet, &into_pod(done.clone().to(at(POD_B6, 8080)), POD_B6));
    // Not a connection to the service, but refused as whatever has no ports there.
    let out = node.pod_sends(&listed(1, VIP6))?;
    assert_eq!((out.verdict, node.counter(Counter::TcRefused)?), (REDIRECT, 1));
    let passing = listed(1, CLIENT6);
    let out = node.pod_sends(&passing)?;
    assert_eq!(out.verdict, PASS);
    assert_frame("passes", &out.packet, &passing);
    Ok(())
}
