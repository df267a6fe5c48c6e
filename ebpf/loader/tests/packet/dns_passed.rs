//! Queries that the kernel does not take: they go to the service's backend as if it knew nothing of DNS.

use anyhow::Result;
use thalweg_abi::{Be128, DnsName, DnsOutcome, DnsServer, DnsZone, DnsZoneFlags};
use thalweg_lab::packet::{Body, Packet, SYN, assert_frame};
use thalweg_loader::Table;

use super::{
    dns::{A, AAAA, LONGEST, node, outcomes, query, sent, wire, with_edns, zone},
    node::{DROP, Net, Node, POD_B, REDIRECT, at, host_mac, nets, pod_mac},
};

const WEB: &str = "web.default.svc.cluster.local";

/// The message, from pod A, arrives at the backend as it was sent.
fn passes(node: &Node, net: &Net, what: &str, packet: &Packet) -> Result<()> {
    let out = node.pod_sends(packet)?;
    assert_eq!(out.verdict, REDIRECT, "{what}");
    let [_, backend] = net.pods;
    let arrives = packet.clone().to(at(backend, 53)).ttl(63).macs(host_mac(backend), pod_mac(backend));
    assert_frame(what, &out.packet, &arrives);
    Ok(())
}

/// A query with one octet changed.
fn with(mut message: Vec<u8>, at: usize, octet: u8) -> Vec<u8> {
    message[at] = octet;
    message
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn messages_that_are_no_plain_queries_pass() -> Result<()> {
    let node = node()?;
    let plain = query(WEB, A);
    let edns = with_edns(plain.clone(), 1232, false, &[]);
    let opt = plain.len();
    let forms = [
        ("nothing at all", vec![]),
        ("a header cut short", plain[..11].to_vec()),
        ("a header alone", plain[..12].to_vec()),
        ("no class", plain[..plain.len() - 2].to_vec()),
        ("a reply", with(plain.clone(), 2, 0x81)),
        ("a notification", with(plain.clone(), 2, 0x20)),
        ("an update", with(plain.clone(), 2, 0x28)),
        ("no question", with(plain.clone(), 5, 0)),
        ("two questions", with(plain.clone(), 5, 2)),
        ("an answer", with(plain.clone(), 7, 1)),
        ("an authority", with(plain.clone(), 9, 1)),
        ("an OPT record that is not there", with(plain.clone(), 11, 1)),
        ("something behind it", [&plain[..], b"x"].concat()),
        ("an OPT record that is not counted", with(edns.clone(), 11, 0)),
        ("two records", with(edns.clone(), 11, 2)),
        ("an OPT record with a name", with(edns.clone(), opt, 1)),
        ("another record", with(edns.clone(), opt + 2, 1)),
        ("another version of EDNS", with(edns.clone(), opt + 6, 1)),
        ("options that are not there", with(edns.clone(), opt + 10, 4)),
        ("options that are not counted", [&edns[..], &[0; 4]].concat()),
        ("an OPT record cut short", edns[..edns.len() - 1].to_vec()),
    ];
    let types = [
        ("SRV", query(WEB, 33)),
        ("ANY", query(WEB, 255)),
        ("a type of two octets", query(WEB, 0x0100 | A)),
        ("CHAOS", with(plain.clone(), plain.len() - 1, 3)),
    ];
    let longer = format!("x{LONGEST}");
    let names = [
        ("a name of 129 octets", query(&longer, A)),
        ("17 labels", query("a.b.c.d.e.f.g.h.i.j.k.l.m.n.svc.cluster.local", A)),
        ("the root", query(".", A)),
        ("a compression pointer", with(plain.clone(), 12, 0xc0)),
        ("a label of 64 octets", with(plain.clone(), 12, 64)),
        // The last label goes on to the end of the message.
        ("no root label", with(plain.clone(), 12 + wire(WEB).len() - 1, 3)),
    ];
    let mut passed = 0;
    for net in nets() {
        for (what, message) in forms.iter().chain(&types).chain(&names) {
            let packet = sent(&net, message);
            passes(&node, &net, what, &packet)?;
            passed += 1;
        }
    }
    let outcomes = outcomes(&node)?;
    assert_eq!(outcomes.iter().map(|(_, count)| count).sum::<u64>(), passed);
    let count = |outcome| outcomes.iter().find(|(which, _)| *which == outcome).map_or(0, |(_, count)| *count);
    assert_eq!(count(DnsOutcome::PassedType), 2 * types.len() as u64);
    // Where there is no end to a name within the message, either may be said.
    assert!(count(DnsOutcome::PassedName) >= 2 * (names.len() - 1) as u64, "{outcomes:?}");
    assert!(count(DnsOutcome::PassedForm) >= 2 * (forms.len() - 2) as u64, "{outcomes:?}");
    assert_eq!(node.drops()?, []);
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn names_that_only_user_space_knows_pass() -> Result<()> {
    let node = node()?;
    for net in nets() {
        for (name, kind) in [
            ("big.default.svc.cluster.local", A),
            ("big6.default.svc.cluster.local", AAAA),
            ("pod-0.dual.default.svc.cluster.local", A),
            ("10-0-0-1.default.pod.cluster.local", A),
        ] {
            passes(&node, &net, name, &sent(&net, &query(name, kind)))?;
        }
        for name in ["www.example.com", "local", "xcluster.local", "cluster.local.example", "web.default.svc"] {
            passes(&node, &net, name, &sent(&net, &query(name, A)))?;
        }
    }
    assert_eq!(outcomes(&node)?, [(DnsOutcome::PassedOutside, 10), (DnsOutcome::PassedUnknown, 8)]);
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn nothing_is_denied_in_a_zone_of_which_not_all_is_known() -> Result<()> {
    let mut node = node()?;
    node.maps.dns_zones.update(&[(0, zone(0))])?;
    let net = nets()[0];
    passes(&node, &net, "unknown", &sent(&net, &query("nothing.default.svc.cluster.local", A)))?;
    for kind in [A, AAAA] {
        node.pod_sends(&sent(&net, &query(WEB, kind)))?;
    }
    assert_eq!(outcomes(&node)?, [(DnsOutcome::Answered, 1), (DnsOutcome::NoData, 1), (DnsOutcome::PassedUnknown, 1)]);
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_zone_that_the_agent_has_left_alone_for_too_long_passes() -> Result<()> {
    let mut node = node()?;
    let net = nets()[1];
    // A nanosecond after the machine's start; and not in use.
    for zone in [DnsZone { valid_until: 1, ..zone(DnsZoneFlags::COMPLETE) }, DnsZone::default()] {
        node.maps.dns_zones.update(&[(0, zone)])?;
        for name in [WEB, "nothing.default.svc.cluster.local"] {
            passes(&node, &net, name, &sent(&net, &query(name, A)))?;
        }
    }
    assert_eq!(outcomes(&node)?, [(DnsOutcome::PassedStale, 4)]);
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn packets_that_are_not_for_our_dns_are_not_looked_at() -> Result<()> {
    let mut node = node()?;
    let message = query(WEB, A);
    for net in nets() {
        let [pod, other] = net.pods;
        // To another server, to another port, by another protocol, from nobody.
        let direct = Packet::udp(at(pod, 40_000), at(other, 53), &message);
        let out = node.pod_sends(&direct)?;
        assert_eq!(out.verdict, REDIRECT);
        assert_frame("direct", &out.packet, &direct.clone().ttl(63).macs(host_mac(other), pod_mac(other)));
        assert_eq!(node.pod_sends(&Packet::tcp(at(pod, 40_000), at(other, 53), SYN).payload(&message))?.verdict, REDIRECT);
        let spoofed = Packet::udp(at(net.remote, 40_000), at(net.vip, 53), &message);
        assert_eq!(node.pod_sends(&spoofed)?.verdict, DROP);
        node.maps.dns_servers.delete(&[DnsServer { addr: Be128::from(net.vip) }])?;
        passes(&node, &net, "no DNS of ours any more", &sent(&net, &message))?;
    }
    assert_eq!(outcomes(&node)?, []);
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn pieces_and_odd_headers_pass() -> Result<()> {
    let node = node()?;
    let net = nets()[0];
    let whole = sent(&net, &query(WEB, A));
    passes(&node, &net, "options", &whole.clone().options(&[1; 4]))?;
    let Body::Udp(_) = &whole.body else { panic!("not UDP") };
    // A length of UDP that ends before the packet does.
    let mut frame = whole.bytes();
    frame.extend_from_slice(&[0; 4]);
    frame[17] += 4;
    let out = node.run("tc_from_pod", node.pod_a, &refreshed(frame.clone()))?;
    assert_eq!((out.verdict, out.packet.len()), (REDIRECT, frame.len()));
    assert_eq!(&out.packet[30..34], &POD_B.octets());
    assert_eq!(outcomes(&node)?, [(DnsOutcome::PassedForm, 2)]);
    Ok(())
}

/// The frame with its IP checksum right again.
fn refreshed(mut frame: Vec<u8>) -> Vec<u8> {
    frame[24..26].fill(0);
    let sum = thalweg_lab::packet::checksum(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_name_that_changes_is_answered_anew() -> Result<()> {
    let mut node = node()?;
    let net = nets()[0];
    let key = DnsName::new(&wire(WEB)).expect("a name that is taken");
    for octet in 1..=20 {
        let addr = format!("10.96.1.{octet}");
        node.maps.dns_names.update(&[(key, super::dns::node_of(0, &[&addr]))])?;
        let out = node.pod_sends(&sent(&net, &query(WEB, A)))?;
        assert_eq!(&out.packet[out.packet.len() - 4..], &[10, 96, 1, octet]);
    }
    node.maps.dns_names.delete(&[key])?;
    node.pod_sends(&sent(&net, &query(WEB, A)))?;
    assert_eq!(outcomes(&node)?, [(DnsOutcome::Answered, 20), (DnsOutcome::NxDomain, 1)]);
    Ok(())
}
