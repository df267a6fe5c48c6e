//! Pods that dial a service's cluster address, and pods that do not.

use std::collections::BTreeMap;

use anyhow::Result;
use thalweg_abi::{Counter, CtDirection, CtFlags, CtState, Proto, SNAT_PORT_MIN};
use thalweg_lab::packet::{ACK, Packet, SYN, assert_frame};

use super::{
    node::{CLIENT, NODE, Node, PASS, POD_A, POD_B, REDIRECT, REMOTE, VIP, at, host_mac, pod_mac, tuple_of},
    tables::{FIRST_BACKEND, SERVICE, served},
};

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn pod_to_cluster_ip_is_translated_and_reply_returns() -> Result<()> {
    let mut node = Node::new()?;
    node.serve(served(Proto::TCP, VIP, 80), &[at(POD_B, 8080)])?;

    let syn = Packet::tcp(at(POD_A, 40_000), at(VIP, 80), SYN);
    let out = node.pod_sends(&syn)?;
    assert_eq!(out.verdict, REDIRECT);
    let arrives = syn.clone().to(at(POD_B, 8080)).ttl(63).macs(host_mac(POD_B), pod_mac(POD_B));
    assert_frame("to the backend", &out.packet, &arrives);
    let (forward, reply) = node.pair(&syn)?;
    assert_eq!(forward.to, tuple_of(&arrives));
    assert_eq!((forward.state, forward.direction, forward.flags.0), (CtState::NEW, CtDirection::FORWARD, 0));
    assert_eq!((forward.service, forward.backend, forward.generation), (SERVICE, FIRST_BACKEND, 1));
    assert_eq!((forward.packets, forward.bytes), (1, syn.bytes().len() as u64));
    assert_eq!((reply.state, reply.direction, reply.packets), (CtState::NEW, CtDirection::REPLY, 0));

    let answer = Packet::tcp(at(POD_B, 8080), at(POD_A, 40_000), SYN | ACK);
    let out = node.pod_sends(&answer)?;
    assert_eq!(out.verdict, REDIRECT);
    let arrives = answer.from(at(VIP, 80)).ttl(63).macs(host_mac(POD_A), pod_mac(POD_A));
    assert_frame("back to the client", &out.packet, &arrives);
    let (forward, reply) = node.pair(&syn)?;
    assert_eq!((forward.state, reply.state), (CtState::ESTABLISHED, CtState::ESTABLISHED));
    assert_eq!((forward.packets, reply.packets), (1, 1));

    for (counter, expected) in [
        (Counter::TcPackets, 2),
        (Counter::TcLookup, 1),
        (Counter::TcFlow, 1),
        (Counter::TcTracked, 1),
        (Counter::TcToPod, 2),
        (Counter::TcToWire, 0),
        (Counter::TcRefused, 0),
    ] {
        assert_eq!(node.counter(counter)?, expected, "{counter:?}");
    }
    assert_eq!(node.drops()?, []);
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn pod_to_remote_backend_leaves_by_the_wire_and_reply_is_delivered_into_the_pod() -> Result<()> {
    let mut node = Node::new()?;
    node.serve(served(Proto::UDP, VIP, 53), &[at(REMOTE, 5353)])?;
    // Odd lengths, and a datagram without a checksum, which stays without.
    let question = Packet::udp(at(POD_A, 40_000), at(VIP, 53), b"question").id(1);
    for question in [question.clone(), question.clone().payload(b"odd"), question.without_checksum()] {
        let out = node.pod_sends(&question)?;
        assert_eq!(out.verdict, REDIRECT);
        assert_frame("to the backend", &out.packet, &question.clone().to(at(REMOTE, 5353)).ttl(63));
    }
    let answer = Packet::udp(at(REMOTE, 5353), at(POD_A, 40_000), b"answer").ttl(63);
    let out = node.wire_brings(&answer)?;
    assert_eq!(out.verdict, REDIRECT);
    let arrives = answer.from(at(VIP, 53)).ttl(62).macs(host_mac(POD_A), pod_mac(POD_A));
    assert_frame("back to the client", &out.packet, &arrives);
    assert_eq!((node.counter(Counter::TcToWire)?, node.counter(Counter::TcToPod)?), (3, 1));
    assert_eq!(node.counter(Counter::TcFlow)?, 1);
    assert_eq!(node.drops()?, []);
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn pod_reaches_itself_through_its_own_service() -> Result<()> {
    let mut node = Node::new()?;
    node.serve(served(Proto::TCP, VIP, 80), &[at(POD_A, 8080)])?;

    let syn = Packet::tcp(at(POD_A, 40_000), at(VIP, 80), SYN);
    let out = node.pod_sends(&syn)?;
    assert_eq!(out.verdict, REDIRECT);
    // From the service's address, or the pod would answer itself directly.
    let arrives = syn.clone().from(at(VIP, 40_000)).to(at(POD_A, 8080)).ttl(63).macs(host_mac(POD_A), pod_mac(POD_A));
    assert_frame("to itself", &out.packet, &arrives);
    let (forward, _) = node.pair(&syn)?;
    assert_eq!(forward.flags.0, CtFlags::HAIRPIN | CtFlags::SNAT);

    let answer = Packet::tcp(at(POD_A, 8080), at(VIP, 40_000), SYN | ACK);
    let out = node.pod_sends(&answer)?;
    assert_eq!(out.verdict, REDIRECT);
    let arrives = answer.from(at(VIP, 80)).to(at(POD_A, 40_000)).ttl(63).macs(host_mac(POD_A), pod_mac(POD_A));
    assert_frame("back to itself", &out.packet, &arrives);
    assert_eq!(node.pair(&syn)?.0.state, CtState::ESTABLISHED);
    assert_eq!(node.drops()?, []);
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn process_of_the_node_serves_a_pod_through_the_hosts_stack() -> Result<()> {
    let mut node = Node::new()?;
    node.serve(served(Proto::TCP, VIP, 443), &[at(NODE, 6443)])?;

    let syn = Packet::tcp(at(POD_A, 40_000), at(VIP, 443), SYN);
    let out = node.pod_sends(&syn)?;
    assert_eq!(out.verdict, PASS);
    assert_frame("to the stack", &out.packet, &syn.clone().to(at(NODE, 6443)));

    let answer = Packet::tcp(at(NODE, 6443), at(POD_A, 40_000), SYN | ACK);
    let out = node.stack_sends_pod_a(&answer)?;
    assert_eq!(out.verdict, PASS);
    assert_frame("back to the client", &out.packet, &answer.from(at(VIP, 443)));
    assert_eq!(node.pair(&syn)?.0.state, CtState::ESTABLISHED);

    // What the host's stack sends otherwise is its own.
    let other = Packet::tcp(at(NODE, 10_250), at(POD_A, 40_000), ACK);
    let out = node.stack_sends_pod_a(&other)?;
    assert_eq!(out.verdict, PASS);
    assert_frame("untouched", &out.packet, &other);
    assert_eq!(node.drops()?, []);
    Ok(())
}

/// The node's DNS listens so.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn listener_on_another_address_of_the_node_is_reached_through_the_stack() -> Result<()> {
    let mut node = Node::new()?;
    let listener = std::net::Ipv4Addr::new(169, 254, 20, 10);
    node.netns.ip(&format!("addr add {listener}/32 dev lo"))?;
    node.serve(served(Proto::UDP, VIP, 53), &[at(listener, 5353)])?;

    let question = Packet::udp(at(POD_A, 40_000), at(VIP, 53), b"question");
    let out = node.pod_sends(&question)?;
    assert_eq!(out.verdict, PASS);
    assert_frame("to the stack", &out.packet, &question.to(at(listener, 5353)));
    let answer = Packet::udp(at(listener, 5353), at(POD_A, 40_000), b"answer");
    let out = node.stack_sends_pod_a(&answer)?;
    assert_eq!(out.verdict, PASS);
    assert_frame("back to the pod", &out.packet, &answer.from(at(VIP, 53)));
    assert_eq!(node.drops()?, []);
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn what_is_not_for_a_service_is_not_translated() -> Result<()> {
    let mut node = Node::new()?;
    node.serve(served(Proto::TCP, VIP, 80), &[at(POD_B, 8080)])?;

    let to_pod = Packet::tcp(at(POD_A, 40_000), at(POD_B, 8080), SYN);
    let out = node.pod_sends(&to_pod)?;
    assert_eq!(out.verdict, REDIRECT);
    assert_frame("into the pod", &out.packet, &to_pod.ttl(63).macs(host_mac(POD_B), pod_mac(POD_B)));

    let ping = Packet::icmp(POD_A, POD_B, 8, 0, [0, 1, 0, 1], b"ping");
    let out = node.pod_sends(&ping)?;
    assert_eq!(out.verdict, REDIRECT);
    assert_frame("into the pod", &out.packet, &ping.ttl(63).macs(host_mac(POD_B), pod_mac(POD_B)));

    // For the stack: other nodes, the node itself, the outside, and what lives no longer.
    for dst in [REMOTE, NODE, CLIENT] {
        let packet = Packet::udp(at(POD_A, 40_000), at(dst, 80), b"x");
        let out = node.pod_sends(&packet)?;
        assert_eq!(out.verdict, PASS, "{dst}");
        assert_frame("to the stack", &out.packet, &packet);
    }
    let dying = Packet::udp(at(POD_A, 40_000), at(POD_B, 80), b"x").ttl(1);
    let out = node.pod_sends(&dying)?;
    assert_eq!(out.verdict, PASS);
    assert_frame("to the stack", &out.packet, &dying);

    assert_eq!(node.tracked()?, 0);
    assert_eq!(node.drops()?, []);
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn flows_spread_over_all_backends() -> Result<()> {
    let mut node = Node::with_conntrack(2048)?;
    let backends = [at(POD_B, 8080), at(REMOTE, 8080), at(REMOTE, 8081), at(NODE, 8080)];
    node.serve(served(Proto::UDP, VIP, 80), &backends)?;
    let mut seen = BTreeMap::new();
    for port in 40_000..40_400 {
        let packet = Packet::udp(at(POD_A, port), at(VIP, 80), b"x");
        node.pod_sends(&packet)?;
        let to = node.pair(&packet)?.0.to;
        *seen.entry((to.dst, to.dport)).or_insert(0) += 1;
    }
    assert_eq!(seen.len(), backends.len());
    // 100 each on average; under 50 happens once in ten billion runs.
    assert!(seen.values().all(|count| *count >= 50), "{seen:?}");
    Ok(())
}

/// cilium#11810, #18632, #47396: one backend behind several addresses, and a client that uses one port for all.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn one_backend_behind_two_addresses_keeps_flows_of_one_client_port_apart() -> Result<()> {
    let mut node = Node::new()?;
    node.serve(served(Proto::UDP, VIP, 80), &[at(POD_B, 8080)])?;
    node.serve(served(Proto::UDP, VIP, 81), &[at(POD_B, 8080)])?;

    let first = Packet::udp(at(POD_A, 40_000), at(VIP, 80), b"first");
    let second = Packet::udp(at(POD_A, 40_000), at(VIP, 81), b"second");
    node.pod_sends(&first)?;
    let out = node.pod_sends(&second)?;
    assert_eq!(node.counter(Counter::TcPortRealloc)?, 1);
    let (forward, _) = node.pair(&second)?;
    let port = forward.to.sport.to_host();
    assert!(port >= SNAT_PORT_MIN, "{port}");
    let arrives = second.from(at(POD_A, port)).to(at(POD_B, 8080)).ttl(63).macs(host_mac(POD_B), pod_mac(POD_B));
    assert_frame("with another source port", &out.packet, &arrives);

    for (to_port, from) in [(40_000, 80), (port, 81)] {
        let answer = Packet::udp(at(POD_B, 8080), at(POD_A, to_port), b"answer");
        let out = node.pod_sends(&answer)?;
        let arrives = answer.from(at(VIP, from)).to(at(POD_A, 40_000)).ttl(63).macs(host_mac(POD_A), pod_mac(POD_A));
        assert_frame("each to its own", &out.packet, &arrives);
    }
    assert_eq!(node.counter(Counter::TcFlow)?, 2);
    assert_eq!(node.drops()?, []);
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn ip_options_stay_in_a_translated_packet() -> Result<()> {
    let mut node = Node::new()?;
    node.serve(served(Proto::TCP, VIP, 80), &[at(POD_B, 8080)])?;
    for options in [&[1; 4][..], &[1; 40]] {
        let syn = Packet::tcp(at(POD_A, 40_000), at(VIP, 80), SYN).options(options).payload(b"fast open");
        let out = node.pod_sends(&syn)?;
        assert_eq!(out.verdict, REDIRECT);
        let arrives = syn.to(at(POD_B, 8080)).ttl(63).macs(host_mac(POD_B), pod_mac(POD_B));
        assert_frame("options kept", &out.packet, &arrives);
    }
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn translated_packet_that_lives_no_longer_is_answered_with_what_was_sent() -> Result<()> {
    let mut node = Node::new()?;
    node.serve(served(Proto::UDP, VIP, 80), &[at(REMOTE, 8080)])?;
    let probe = Packet::udp(at(POD_A, 40_000), at(VIP, 80), b"traceroute").ttl(1);
    let out = node.pod_sends(&probe)?;
    assert_eq!(out.verdict, REDIRECT);
    let (src, dst) = (probe.mac_dst, probe.mac_src);
    let told = probe.quoted_by(NODE, 11, 0, [0; 4], 8).id(0).dont_fragment().macs(src, dst);
    assert_frame("time exceeded", &out.packet, &told);
    assert_eq!(node.counter(Counter::TcAnswered)?, 1);
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn translated_packet_too_big_for_the_next_link_is_answered_with_its_mtu() -> Result<()> {
    let mut node = Node::new()?;
    node.netns.ip("link set eth0 mtu 1400")?;
    node.serve(served(Proto::TCP, VIP, 80), &[at(REMOTE, 8080)])?;
    let big = Packet::tcp(at(POD_A, 40_000), at(VIP, 80), ACK).payload(&[7; 1400]).dont_fragment();
    let out = node.pod_sends(&big)?;
    assert_eq!(out.verdict, REDIRECT);
    let (src, dst) = (big.mac_dst, big.mac_src);
    let mtu = [0, 0, (1400 >> 8) as u8, (1400 & 0xff) as u8];
    let told = big.quoted_by(NODE, 3, 4, mtu, 20).id(0).dont_fragment().macs(src, dst);
    assert_frame("fragmentation needed", &out.packet, &told);
    // What may be fragmented is left to the stack, translated.
    let big = big.fragment(0);
    let out = node.pod_sends(&big)?;
    assert_eq!(out.verdict, PASS);
    assert_frame("to the stack", &out.packet, &big.to(at(REMOTE, 8080)));
    Ok(())
}
