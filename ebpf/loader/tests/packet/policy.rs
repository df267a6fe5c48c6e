//! Whom a service serves, and by which backend: affinity, source ranges, addresses that nobody has, statistics.

use std::{collections::BTreeSet, net::IpAddr};

use anyhow::{Context, Result, ensure};
use thalweg_abi::{
    AffinityKey, BackendState, Be16, Be32, Be128, Counter, DropReason, FrontendFlags, Proto, Range, Scope, ServiceRanges,
    SourceRange, SourceRangeKey,
};
use thalweg_lab::packet::{Packet, SYN, assert_frame};
use thalweg_loader::Table;

use super::{
    node::{DROP, Node, PASS, POD_A, POD_A6, POD_B, REDIRECT, VIP, at, nets},
    tables::{FIRST_BACKEND, SERVICE, SERVICE_PORT, served},
};

const SECONDS: u32 = 600;
/// Enough that ten backends at random would not be one and the same but for one run in 10^30.
const CONNECTIONS: u16 = 30;

/// What may happen to what a client remembers, or to the backend of that id.
type Change = fn(&mut Node, AffinityKey, u32) -> Result<()>;

/// The port of the backend that a new connection of `client` gets; backends differ by their ports.
fn dial(node: &Node, client: IpAddr, from: u16, to: IpAddr, port: u16) -> Result<u16> {
    let syn = Packet::tcp(at(client, from), at(to, port), SYN);
    let out = node.pod_sends(&syn)?;
    ensure!(out.verdict == REDIRECT, "verdict {} from {client}", out.verdict);
    Ok(node.pair(&syn)?.0.to.dport.to_host())
}

fn key(client: IpAddr, proto: Proto, local: u8) -> AffinityKey {
    AffinityKey { client: client.into(), service: SERVICE, port: Be16::from_host(SERVICE_PORT), proto, local }
}

/// cilium#26709, #35254
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_client_keeps_its_backend_over_ports_and_addresses_of_one_service_port() -> Result<()> {
    for net in nets() {
        let mut node = Node::with_conntrack(1024)?;
        let backends: Vec<_> = (8000..8010).map(|port| at(net.remote, port)).collect();
        node.serve(served(Proto::TCP, net.vip, 80).affinity(SECONDS), &backends)?;
        node.serve(served(Proto::TCP, net.node, 30_080).affinity(SECONDS), &backends)?;
        for client in net.pods {
            let first = dial(&node, client, 40_000, net.vip, 80)?;
            for port in 40_001..40_000 + CONNECTIONS {
                let (to, to_port) = if port % 2 == 0 { (net.vip, 80) } else { (net.node, 30_080) };
                assert_eq!(dial(&node, client, port, to, to_port)?, first, "{client}:{port}");
            }
            let kept = node.maps.affinity.get(&key(client, Proto::TCP, 0))?.context("nothing remembered")?;
            assert_eq!((kept.backend, kept.seconds), (FIRST_BACKEND + u32::from(first) - 8000, SECONDS));
        }
        assert_eq!(node.maps.affinity.entries()?.len(), 2);
        assert_eq!(node.counter(Counter::AffinityHit)?, 2 * u64::from(CONNECTIONS - 1));
        assert_eq!(node.drops()?, []);
    }
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn without_affinity_nothing_is_remembered_and_switching_it_on_and_off_counts_at_once() -> Result<()> {
    for net in nets() {
        let mut node = Node::with_conntrack(1024)?;
        let backends: Vec<_> = (8000..8010).map(|port| at(net.remote, port)).collect();
        let [client, _] = net.pods;
        let dial_all = |node: &Node, from: u16| -> Result<BTreeSet<u16>> {
            (from..from + CONNECTIONS).map(|port| dial(node, client, port, net.vip, 80)).collect()
        };
        node.serve(served(Proto::TCP, net.vip, 80), &backends)?;
        assert!(dial_all(&node, 40_000)?.len() > 1);
        assert_eq!(node.maps.affinity.entries()?, []);
        node.serve(served(Proto::TCP, net.vip, 80).affinity(SECONDS), &backends)?;
        assert_eq!(dial_all(&node, 41_000)?.len(), 1);
        node.serve(served(Proto::TCP, net.vip, 80), &backends)?;
        assert!(dial_all(&node, 42_000)?.len() > 1);
    }
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn affinity_survives_a_new_range_that_still_holds_the_backend() -> Result<()> {
    for net in nets() {
        let mut node = Node::with_conntrack(1024)?;
        let [client, _] = net.pods;
        let backends: Vec<_> = (8000..8010).map(|port| at(net.remote, port)).collect();
        node.serve(served(Proto::TCP, net.vip, 80).affinity(SECONDS), &backends)?;
        let kept = dial(&node, client, 40_000, net.vip, 80)?;
        // In other places: alone, last, first, and in the middle of many.
        let around: Vec<Vec<u16>> = vec![
            vec![kept],
            (7000..7007).chain([kept]).collect(),
            [kept].into_iter().chain(9000..9007).collect(),
            (7000..9000).step_by(100).chain([kept]).collect(),
        ];
        for (port, mut ports) in (41_000..).zip(around) {
            ports.sort_unstable();
            ports.dedup();
            let range: Vec<_> = ports.iter().map(|port| at(net.remote, *port)).collect();
            node.serve(served(Proto::TCP, net.vip, 80).affinity(SECONDS), &range)?;
            assert_eq!(dial(&node, client, port, net.vip, 80)?, kept, "{ports:?}");
            let offset = node.maps.affinity.get(&key(client, Proto::TCP, 0))?.context("forgotten")?.offset;
            assert_eq!(ports.get(offset as usize), Some(&kept), "where it was found is remembered");
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn affinity_ends_with_its_time_and_with_its_backend() -> Result<()> {
    for net in nets() {
        let mut node = Node::with_conntrack(1024)?;
        let [client, _] = net.pods;
        let service = served(Proto::TCP, net.vip, 80).affinity(SECONDS);
        let (first, second) = ([at(net.remote, 8000)], [at(net.remote, 8001)]);
        let both = [first, second].concat();
        let id = |port: u16| FIRST_BACKEND + u32::from(port) - 8000;
        let mut port = 40_000;
        // What each case does to the backend on port 8000, which the client has: its next connection is a new choice.
        let cases: [(&str, Change); 3] = [
            ("time", |node, key, _| {
                let mut entry = node.maps.affinity.get(&key)?.context("entry")?;
                entry.last_seen = entry.last_seen.wrapping_sub(SECONDS + 1);
                Ok(node.maps.affinity.update(&[(key, entry)])?)
            }),
            ("gone", |node, _, id| node.set_backend(id, BackendState::FREE, 1)),
            ("reused id", |node, _, id| node.set_backend(id, BackendState::READY, 2)),
        ];
        for (what, change) in cases {
            node.serve(service, &first)?;
            assert_eq!(dial(&node, client, port, net.vip, 80)?, 8000, "{what}");
            node.serve(service, &both)?;
            assert_eq!(dial(&node, client, port + 1, net.vip, 80)?, 8000, "{what}");
            let hits = node.counter(Counter::AffinityHit)?;
            change(&mut node, key(client, Proto::TCP, 0), id(8000))?;
            dial(&node, client, port + 2, net.vip, 80)?;
            assert_eq!(node.counter(Counter::AffinityHit)?, hits, "{what}");
            port += 3;
        }
        // One that drains is kept while it is in the range: it is there only when nobody else is left.
        node.serve(service, &first)?;
        assert_eq!(dial(&node, client, port, net.vip, 80)?, 8000);
        node.serve(service, &both)?;
        let hits = node.counter(Counter::AffinityHit)?;
        for port in 8000..8002 {
            node.set_backend(id(port), BackendState::DRAINING, 1)?;
        }
        assert_eq!(dial(&node, client, port + 1, net.vip, 80)?, 8000);
        assert_eq!(node.counter(Counter::AffinityHit)?, hits + 1);
        port += 2;
        // Not in the range any more, though it lives.
        node.serve(service, &first)?;
        assert_eq!(dial(&node, client, port, net.vip, 80)?, 8000);
        node.serve(service, &second)?;
        assert_eq!(dial(&node, client, port + 1, net.vip, 80)?, 8001);
    }
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_local_set_has_its_own_affinity_and_a_full_table_serves_on() -> Result<()> {
    for net in nets() {
        let mut node = Node::with_conntrack(2048)?;
        let [pod, _] = net.pods;
        let all = [at(net.remote, 8001)];
        node.serve(served(Proto::TCP, net.vip, 80).affinity(SECONDS), &all)?;
        let local = served(Proto::TCP, net.vip, 81).flags(FrontendFlags::LOCAL_SET).affinity(SECONDS);
        node.serve(local, &[at(pod, 8000)])?;
        assert_eq!(dial(&node, pod, 40_000, net.vip, 80)?, 8001);
        assert_eq!(dial(&node, pod, 40_001, net.vip, 81)?, 8000);
        assert_eq!(dial(&node, pod, 40_002, net.vip, 80)?, 8001);
        assert!(node.maps.affinity.get(&key(pod, Proto::TCP, 1))?.is_some());
        assert!(node.maps.affinity.get(&key(pod, Proto::TCP, 0))?.is_some());

        // Fill the table with clients that will not come.
        for client in 0.. {
            let client = key(IpAddr::from([10, 9, (client >> 8) as u8, client as u8]), Proto::UDP, 0);
            if node.maps.affinity.update(&[(client, Default::default())]).is_err() {
                break;
            }
        }
        let datagram = Packet::udp(at(pod, 40_000), at(net.vip, 53), b"x");
        node.serve(served(Proto::UDP, net.vip, 53).affinity(SECONDS), &all)?;
        assert_eq!(node.pod_sends(&datagram)?.verdict, REDIRECT);
        assert_eq!(node.counter(Counter::AffinityFull)?, 1);
        assert_eq!(node.drops()?, []);
    }
    Ok(())
}

fn admit(node: &mut Node, addr: IpAddr, bits: u32) -> Result<()> {
    let prefix = 32 + if addr.is_ipv4() { 96 } else { 0 } + bits;
    let key = SourceRangeKey { prefix, range: SourceRange { service: SERVICE, addr: addr.into() } };
    Ok(node.maps.source_ranges.update(&[(key, 0)])?)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn only_clients_in_a_services_ranges_are_served() -> Result<()> {
    for net in nets() {
        let mut node = Node::new()?;
        let [pod, other] = net.pods;
        let service = served(Proto::TCP, net.vip, 80).flags(FrontendFlags::CHECK_SOURCE);
        node.serve(service, &[at(pod, 8080)])?;
        node.serve(service.scope(Scope::EXTERNAL), &[at(pod, 8080)])?;
        let inside = Packet::tcp(at(other, 40_000), at(net.vip, 80), SYN);
        let outside = Packet::tcp(at(net.client, 40_000), at(net.vip, 80), SYN);
        // Nobody is admitted by no range.
        assert_eq!(node.pod_sends(&inside)?.verdict, DROP);
        assert_eq!(node.wire_brings(&outside)?.verdict, DROP);
        assert_eq!(node.drops()?, [(DropReason::SourceRange, 2)]);
        assert_eq!(node.tracked()?, 0);
        // One client; then its whole network, as wide as a prefix is.
        admit(&mut node, other, if other.is_ipv4() { 32 } else { 128 })?;
        assert_eq!(node.pod_sends(&inside)?.verdict, REDIRECT);
        assert_eq!(node.wire_brings(&outside)?.verdict, DROP);
        admit(&mut node, net.node, if other.is_ipv4() { 24 } else { 64 })?;
        assert_eq!(node.wire_brings(&outside)?.verdict, REDIRECT);
        assert_eq!(node.drops()?, [(DropReason::SourceRange, 3)]);
    }
    // Another service's range, or the other family's, admits nobody.
    let mut node = Node::new()?;
    let service = served(Proto::TCP, VIP, 80).flags(FrontendFlags::CHECK_SOURCE);
    node.serve(service, &[at(POD_B, 8080)])?;
    let foreign = SourceRange { service: SERVICE + 1, addr: Be128::from(IpAddr::from(POD_A)) };
    node.maps.source_ranges.update(&[(SourceRangeKey { prefix: SourceRange::WHOLE, range: foreign }, 0)])?;
    admit(&mut node, POD_A6.into(), 0)?;
    assert_eq!(node.pod_sends(&Packet::tcp(at(POD_A, 40_000), at(VIP, 80), SYN))?.verdict, REDIRECT, "::/0 covers mapped ones");
    Ok(())
}

fn claim_ranges(node: &mut Node) -> Result<()> {
    let mut ranges = ServiceRanges { used: 2, used6: 1, ..Default::default() };
    let range4 = |addr: [u8; 4]| Range { addr: Be32::from_octets(addr), mask: Be32::from_octets([255, 255, 0, 0]) };
    (ranges.v4[0], ranges.v4[1]) = (range4([10, 200, 0, 0]), range4([10, 96, 0, 0]));
    let words = |words: [u32; 4]| Be128(words.map(u32::to_be));
    ranges.v6[0] = Range { addr: words([0xfd00_0096, 0, 0, 0]), mask: words([u32::MAX, u32::MAX, 0, 0]) };
    Ok(node.maps.service_ranges.update(&[(0, ranges)])?)
}

/// cilium#13329, #14118
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn addresses_of_the_service_ranges_that_nobody_has_are_dropped() -> Result<()> {
    for net in nets() {
        let mut node = Node::new()?;
        node.serve(served(Proto::TCP, net.vip, 80), &[at(net.remote, 8080)])?;
        let nobodys: IpAddr = if net.vip.is_ipv4() { [10, 96, 7, 7].into() } else { [0xfd00, 0x96, 0, 0, 7, 0, 0, 7].into() };
        let [pod, _] = net.pods;
        let echo = if pod.is_ipv4() { 8 } else { 128 };
        let packets = [
            Packet::tcp(at(pod, 40_000), at(nobodys, 80), SYN),
            Packet::udp(at(pod, 40_000), at(nobodys, 80), b"x"),
            Packet::icmp(pod, nobodys, echo, 0, [0, 1, 0, 1], b"ping"),
        ];
        // Not known to be services': somebody else's.
        for packet in &packets {
            assert_eq!(node.pod_sends(packet)?.verdict, PASS);
        }
        claim_ranges(&mut node)?;
        for packet in &packets {
            assert_eq!(node.pod_sends(packet)?.verdict, DROP, "{packet:?}");
            let mut from_outside = packet.clone();
            from_outside.src = net.client;
            assert_eq!(node.wire_brings(&from_outside)?.verdict, DROP, "{packet:?}");
            // A process of the node that the socket load balancer has not seen.
            let mut own = packet.clone();
            own.src = net.node;
            assert_eq!(node.stack_sends_out(&own)?.verdict, DROP, "{packet:?}");
        }
        assert_eq!(node.drops()?, [(DropReason::NoService, 9)]);
        // What has an owner is served or refused, and what is outside passes.
        assert_eq!(node.pod_sends(&Packet::tcp(at(pod, 40_000), at(net.vip, 80), SYN))?.verdict, REDIRECT);
        assert_eq!(node.pod_sends(&Packet::tcp(at(pod, 40_000), at(net.vip, 81), SYN))?.verdict, REDIRECT);
        assert_eq!(node.counter(Counter::TcRefused)?, 1);
        assert_eq!(node.pod_sends(&Packet::tcp(at(pod, 40_000), at(net.client, 80), SYN))?.verdict, PASS);
    }
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn flows_are_counted_on_their_service() -> Result<()> {
    for net in nets() {
        let mut node = Node::new()?;
        node.serve(served(Proto::UDP, net.vip, 53), &[at(net.remote, 5353)])?;
        for port in [40_000, 40_000, 40_001, 40_002] {
            node.pod_sends(&Packet::udp(at(net.pods[0], port), at(net.vip, 53), b"x"))?;
        }
        node.pod_sends(&Packet::udp(at(net.pods[0], 40_003), at(net.vip, 54), b"refused"))?;
        node.pod_sends(&Packet::udp(at(net.pods[0], 40_004), at(net.pods[1], 53), b"direct"))?;
        let stats = node.maps.service_stats.get(&SERVICE)?.context("no statistics")?;
        assert_eq!((stats.flows, stats.sockets), (3, 0));
    }
    Ok(())
}

/// A listener may have any address of the node; it is no remote backend, and its answers are translated on their way out.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn node_ports_are_served_by_processes_on_every_address_of_the_node() -> Result<()> {
    for net in nets() {
        let mut node = Node::new()?;
        let listener: IpAddr =
            if net.vip.is_ipv4() { [172, 31, 0, 77].into() } else { [0xfd00, 0x31, 0, 0, 0, 0, 0, 0x77].into() };
        let length = if net.vip.is_ipv4() { "32" } else { "128 nodad" };
        node.netns.ip(&format!("addr add {listener}/{length} dev eth0"))?;
        let port = served(Proto::UDP, net.node, 30_053);
        node.serve(port, &[at(listener, 5353)])?;
        node.serve(port.scope(Scope::EXTERNAL), &[at(listener, 5353)])?;
        let question = Packet::udp(at(net.client, 50_000), at(net.node, 30_053), b"question");
        let out = node.wire_brings(&question)?;
        assert_eq!(out.verdict, PASS);
        assert_frame("to the stack", &out.packet, &question.to(at(listener, 5353)));
        let answer = Packet::udp(at(listener, 5353), at(net.client, 50_000), b"answer");
        let out = node.stack_sends_out(&answer)?;
        assert_eq!(out.verdict, PASS);
        assert_frame("back to the client", &out.packet, &answer.from(at(net.node, 30_053)));
        assert_eq!(node.drops()?, []);
    }
    Ok(())
}
