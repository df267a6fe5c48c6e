//! Queries that a pod sends to the cluster's DNS: answered at its link, or let through unchanged.

use std::{collections::BTreeSet, net::IpAddr};

use anyhow::Result;
use thalweg_abi::{Be128, DNS_ADDRESSES, DnsName, DnsNode, DnsNodeFlags, DnsOutcome, DnsServer, DnsZone, DnsZoneFlags, Proto};
use thalweg_lab::packet::{Body, Packet, assert_frame};
use thalweg_loader::Table;

use super::{
    node::{Net, Node, REDIRECT, at, nets},
    tables::{Tables, served},
};

const TTL: u32 = 30;
const SERIAL: u32 = 0x0102_0304;
pub const A: u16 = 1;
pub const AAAA: u16 = 28;

/// A name in wire form, with the casing that it is written in.
pub fn wire(name: &str) -> Vec<u8> {
    let labels = name.split('.').filter(|label| !label.is_empty());
    let mut wire: Vec<u8> = labels.flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat()).collect();
    wire.push(0);
    wire
}

/// A query: recursion desired, no EDNS.
pub fn query(name: &str, kind: u16) -> Vec<u8> {
    [&[0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0], &wire(name)[..], &kind.to_be_bytes(), &[0, 1]].concat()
}

/// The same with an OPT record at its end.
pub fn with_edns(mut query: Vec<u8>, size: u16, dnssec_ok: bool, options: &[u8]) -> Vec<u8> {
    query[11] = 1;
    let [high, low] = size.to_be_bytes();
    query.extend_from_slice(&[0, 0, 41, high, low, 0, 0, if dnssec_ok { 0x80 } else { 0 }, 0]);
    query.extend_from_slice(&(options.len() as u16).to_be_bytes());
    query.extend_from_slice(options);
    query
}

/// The reply to a query without EDNS: code, whether records are answers or authorities, and the records.
fn reply(query: &[u8], rcode: u8, answers: u8, authorities: u8, records: &[u8]) -> Vec<u8> {
    let question = query[12..].windows(5).position(|end| end[0] == 0 && end[3..] == [0, 1]).expect("a question") + 12 + 5;
    let mut reply = query[..question].to_vec();
    reply[2..12].copy_from_slice(&[0x85, rcode, 0, 1, 0, answers, 0, authorities, 0, 0]);
    reply.extend_from_slice(records);
    reply
}

fn address(addr: &str) -> Vec<u8> {
    let ttl = [0, 0, 0, TTL as u8];
    match addr.parse().expect("an address") {
        IpAddr::V4(addr) => [&[0xc0, 12, 0, 1, 0, 1][..], &ttl, &[0, 4], &addr.octets()].concat(),
        IpAddr::V6(addr) => [&[0xc0, 12, 0, 28, 0, 1][..], &ttl, &[0, 16], &addr.octets()].concat(),
    }
}

/// Of cluster.local, which ends a question's name of so many octets.
fn soa(name_len: usize) -> Vec<u8> {
    let zone = (12 + name_len - wire("cluster.local").len()) as u8;
    let mut soa = vec![0xc0, zone, 0, 6, 0, 1, 0, 0, 0, TTL as u8, 0, 42, 2];
    soa.extend_from_slice(b"ns\x03dns\xc0");
    soa.push(zone);
    soa.extend_from_slice(b"\x0ahostmaster\xc0");
    soa.push(zone);
    for number in [SERIAL, 7200, 1800, 86_400, TTL] {
        soa.extend_from_slice(&number.to_be_bytes());
    }
    soa
}

pub fn node_of(flags: u8, addresses: &[&str]) -> DnsNode {
    let mut node = DnsNode { flags: DnsNodeFlags(flags), ..DnsNode::default() };
    for addr in addresses {
        match addr.parse().expect("an address") {
            IpAddr::V4(addr) => {
                node.a[usize::from(node.a_count)] = addr.into();
                node.a_count += 1;
            }
            IpAddr::V6(addr) => {
                node.aaaa[usize::from(node.aaaa_count)] = addr.into();
                node.aaaa_count += 1;
            }
        }
    }
    node
}

const EIGHT: [&str; DNS_ADDRESSES] =
    ["10.244.0.1", "10.244.0.2", "10.244.0.3", "10.244.0.4", "10.244.0.5", "10.244.0.6", "10.244.0.7", "10.244.0.8"];
const EIGHT6: [&str; DNS_ADDRESSES] = ["fd00::1", "fd00::2", "fd00::3", "fd00::4", "fd00::5", "fd00::6", "fd00::7", "fd00::8"];
/// Of 128 octets, and of 16 labels.
pub const LONGEST: &str = "a23456789012345678901234567890123456789012345678901234567890123.\
    b2345678901234567890123456789012345678901234.cluster.local";
pub const DEEPEST: &str = "a.b.c.d.e.f.g.h.i.j.k.l.default.svc.cluster.local";

pub fn zone(flags: u32) -> DnsZone {
    let origin = wire("cluster.local").len() as u8;
    DnsZone { valid_until: u64::MAX, flags: DnsZoneFlags(flags), serial: SERIAL, ttl: TTL, udp_size: 1232, origin, pad: 0 }
}

/// A node with a zone, whose DNS both families reach at their VIP.
pub fn node() -> Result<Node> {
    let mut node = Node::new()?;
    for net in nets() {
        node.maps.dns_servers.update(&[(DnsServer { addr: Be128::from(net.vip) }, 0)])?;
        node.serve(served(Proto::UDP, net.vip, 53), &[at(net.pods[1], 53)])?;
    }
    node.maps.dns_zones.update(&[(0, zone(DnsZoneFlags::COMPLETE))])?;
    let below = DnsNodeFlags::OTHERS_BELOW;
    let names = [
        ("cluster.local", node_of(0, &[])),
        ("svc.cluster.local", node_of(0, &[])),
        ("pod.cluster.local", node_of(below, &[])),
        ("default.svc.cluster.local", node_of(0, &[])),
        ("web.default.svc.cluster.local", node_of(0, &["10.96.0.20"])),
        ("dual.default.svc.cluster.local", node_of(below, &["10.96.0.30", "fd00::30"])),
        ("many.default.svc.cluster.local", node_of(below, &[EIGHT, EIGHT6].concat())),
        ("big.default.svc.cluster.local", node_of(DnsNodeFlags::OTHER_A, &["fd00::31"])),
        ("big6.default.svc.cluster.local", node_of(DnsNodeFlags::OTHER_AAAA, &["10.96.0.31"])),
        (LONGEST, node_of(0, &["10.96.0.40"])),
    ];
    let names: Vec<_> = names.map(|(name, node)| (DnsName::new(&wire(name)).expect("a name that is taken"), node)).into();
    node.maps.dns_names.update(&names)?;
    Ok(node)
}

pub fn sent(net: &Net, message: &[u8]) -> Packet {
    Packet::udp(at(net.pods[0], 40_000), at(net.vip, 53), message)
}

/// The frame that answers `packet`.
pub fn answered(packet: &Packet, message: &[u8]) -> Packet {
    let Body::Udp(udp) = &packet.body else { panic!("not UDP") };
    let reply = Packet::udp(at(packet.dst, udp.dport), at(packet.src, udp.sport), message);
    let reply = reply.macs(packet.mac_dst, packet.mac_src);
    if packet.src.is_ipv4() { reply.id(0).dont_fragment() } else { reply }
}

pub fn outcomes(node: &Tables) -> Result<Vec<(DnsOutcome, u64)>> {
    Ok(node.maps.dns_outcomes()?.into_iter().filter(|(_, count)| *count != 0).collect())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn names_of_the_cluster_are_answered_at_the_pods_link() -> Result<()> {
    let node = node()?;
    let cases = [
        ("web.default.svc.cluster.local", A, Some("10.96.0.20")),
        ("WeB.DeFault.svc.cluster.LOCAL", A, Some("10.96.0.20")),
        ("web.default.svc.cluster.local", AAAA, None),
        ("dual.default.svc.cluster.local", A, Some("10.96.0.30")),
        ("dual.default.svc.cluster.local", AAAA, Some("fd00::30")),
        ("big.default.svc.cluster.local", AAAA, Some("fd00::31")),
        ("big6.default.svc.cluster.local", A, Some("10.96.0.31")),
        (LONGEST, A, Some("10.96.0.40")),
        ("Cluster.Local", A, None),
        ("svc.cluster.local", AAAA, None),
        ("pod.cluster.local", A, None),
        ("default.svc.cluster.local", A, None),
    ];
    for net in nets() {
        for (name, kind, addr) in cases {
            let query = query(name, kind);
            let records = addr.map_or_else(|| soa(wire(name).len()), address);
            let (answers, authorities) = if addr.is_some() { (1, 0) } else { (0, 1) };
            let packet = sent(&net, &query);
            for packet in [packet.clone(), packet.without_checksum()] {
                let out = node.pod_sends(&packet)?;
                assert_eq!(out.verdict, REDIRECT, "{name}");
                assert_frame(name, &out.packet, &answered(&packet, &reply(&query, 0, answers, authorities, &records)));
            }
        }
    }
    assert_eq!(outcomes(&node)?, [(DnsOutcome::Answered, 28), (DnsOutcome::NoData, 20)]);
    assert_eq!((node.tracked()?, node.drops()?), (0, vec![]));
    Ok(())
}

/// In UDP a checksum of 0 means that there is none, which IPv6 does not take.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_checksum_that_comes_to_nothing_is_written_as_all_ones() -> Result<()> {
    let node = node()?;
    for net in nets() {
        let asks = |id: u16| {
            let query = [&id.to_be_bytes(), &query("web.default.svc.cluster.local", A)[2..]].concat();
            let reply = reply(&query, 0, 1, 0, &address("10.96.0.20"));
            let packet = sent(&net, &query);
            let answer = answered(&packet, &reply).bytes();
            (packet, answer)
        };
        let at = 14 + if net.vip.is_ipv4() { 20 } else { 40 } + 6;
        let id = (0..=u16::MAX).find(|id| asks(*id).1[at..at + 2] == [0xff, 0xff]).expect("one of them");
        let (packet, answer) = asks(id);
        assert_eq!(node.pod_sends(&packet)?.packet, answer, "{id}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn names_that_do_not_exist_are_denied_by_the_closest_that_does() -> Result<()> {
    let node = node()?;
    let names = [
        "nothing.default.svc.cluster.local",
        "www.example.com.default.svc.cluster.local",
        "www.Example.com.svc.cluster.local",
        "www.example.com.cluster.local",
        "nowhere.svc.cluster.local",
        // Below a name of which all is known.
        "x.web.default.svc.cluster.local",
        DEEPEST,
    ];
    for net in nets() {
        for name in names {
            for kind in [A, AAAA] {
                let query = query(name, kind);
                let packet = sent(&net, &query);
                let out = node.pod_sends(&packet)?;
                assert_eq!(out.verdict, REDIRECT, "{name}");
                assert_frame(name, &out.packet, &answered(&packet, &reply(&query, 3, 0, 1, &soa(wire(name).len()))));
            }
        }
    }
    assert_eq!(outcomes(&node)?, [(DnsOutcome::NxDomain, 28)]);
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn edns_is_answered_with_what_the_server_takes() -> Result<()> {
    let node = node()?;
    let cookie = [&[0, 10, 0, 8][..], &[7; 8]].concat();
    for net in nets() {
        // Longer and shorter than their replies.
        for (size, dnssec_ok, options) in
            [(512, false, vec![]), (4096, true, vec![]), (0, true, cookie.clone()), (1232, false, vec![1; 300])]
        {
            for (name, records, counts) in [
                ("dual.default.svc.cluster.local", address("fd00::30"), (1, 0)),
                ("web.default.svc.cluster.local", soa(31), (0, 1)),
            ] {
                let plain = query(name, AAAA);
                let mut expected = reply(&plain, 0, counts.0, counts.1, &records);
                expected[11] = 1;
                expected.extend_from_slice(&[0, 0, 41, 4, 0xd0, 0, 0, if dnssec_ok { 0x80 } else { 0 }, 0, 0, 0]);
                let packet = sent(&net, &with_edns(plain, size, dnssec_ok, &options));
                let out = node.pod_sends(&packet)?;
                assert_eq!(out.verdict, REDIRECT, "{name} {size}");
                assert_frame(name, &out.packet, &answered(&packet, &expected));
            }
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn flags_of_the_query_and_of_the_zone_are_in_the_reply() -> Result<()> {
    let mut node = node()?;
    let name = "web.default.svc.cluster.local";
    for (recursion, ra) in [(0, 0), (DnsZoneFlags::RECURSION, 0x80)] {
        node.maps.dns_zones.update(&[(0, zone(DnsZoneFlags::COMPLETE | recursion))])?;
        for (flags, expected) in [([1, 0], [0x85, ra]), ([0, 0x10], [0x84, ra | 0x10]), ([7, 0xff], [0x85, ra | 0x10])] {
            let mut query = query(name, A);
            query[2..4].copy_from_slice(&flags);
            let mut message = reply(&query, 0, 1, 0, &address("10.96.0.20"));
            message[2..4].copy_from_slice(&expected);
            let packet = sent(&nets()[0], &query);
            assert_frame(name, &node.pod_sends(&packet)?.packet, &answered(&packet, &message));
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn addresses_take_turns() -> Result<()> {
    let node = node()?;
    for (kind, addresses) in [(A, EIGHT), (AAAA, EIGHT6)] {
        let query = query("many.default.svc.cluster.local", kind);
        let rotations: Vec<Vec<u8>> = (0..DNS_ADDRESSES)
            .map(|first| (0..DNS_ADDRESSES).flat_map(|at| address(addresses[(first + at) % DNS_ADDRESSES])).collect())
            .collect();
        let mut seen = BTreeSet::new();
        // That one of eight does not come in so many is as likely as one in 10^22.
        for _ in 0..400 {
            let packet = sent(&nets()[1], &query);
            let out = node.pod_sends(&packet)?;
            let first = rotations.iter().position(|records| {
                out.packet == answered(&packet, &reply(&query, 0, DNS_ADDRESSES as u8, 0, records)).bytes()
            });
            seen.insert(first.expect("all addresses, from one of them on and around"));
        }
        assert_eq!(seen.len(), DNS_ADDRESSES);
    }
    Ok(())
}
