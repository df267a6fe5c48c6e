//! cilium#44348: what answers a client whose own address and port are a frontend's is no new question to the service.

use std::net::IpAddr;

use anyhow::Result;
use thalweg_abi::{CtDirection, CtFlags, CtState, FrontendFlags, Proto, Scope};
use thalweg_lab::packet::{ACK, FIN, Frame, Packet, RST, SYN, assert_frame};
use thalweg_loader::{Outcome, Table};

use super::{
    node::{Net, Node, PASS, REDIRECT, at, host_mac, nets, pod_mac, tuple_of},
    tables::served,
};

const PORT: u16 = 30_053;

/// A node whose NodePort leads to a backend elsewhere, for datagrams and connections.
fn node(net: &Net) -> Result<Node> {
    let mut node = Node::new()?;
    for proto in [Proto::TCP, Proto::UDP] {
        let frontend = served(proto, net.node, PORT).flags(FrontendFlags::NODE_PORT);
        for frontend in [frontend, frontend.scope(Scope::EXTERNAL)] {
            node.serve(frontend, &[at(net.remote, 5353)])?;
        }
    }
    Ok(node)
}

fn question(net: &Net, to: IpAddr) -> Packet {
    Packet::udp(at(net.node, PORT), at(to, 9000), b"question")
}

/// What comes back to whoever has sent a packet.
fn answer(to: &Packet) -> Packet {
    let asked = tuple_of(to);
    Packet::udp(at(to.dst, asked.dport.to_host()), at(to.src, asked.sport.to_host()), b"answer")
}

#[track_caller]
fn assert_passes(what: &str, out: &Outcome, packet: &Packet) {
    assert_eq!(out.verdict, PASS, "{what}");
    assert_frame(what, &out.packet, packet);
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn answers_to_a_pod_behind_the_nodes_address_reach_it_through_the_stack() -> Result<()> {
    for net in nets() {
        let node = node(&net)?;
        let asks = question(&net, net.client);
        assert_passes("a question", &node.stack_forwards_out(&asks)?, &asks);
        let (forward, reply) = node.pair(&asks)?;
        assert_eq!((forward.flags.0, forward.direction, forward.state), (CtFlags::DIRECT, CtDirection::FORWARD, CtState::NEW));
        assert_eq!((forward.to, reply.to), (tuple_of(&asks), tuple_of(&asks).reversed()), "nothing changes");

        let answers = answer(&asks);
        assert_passes("its answer", &node.wire_brings(&answers)?, &answers);
        assert_passes("another question", &node.stack_forwards_out(&asks)?, &asks);
        let (forward, reply) = node.pair(&asks)?;
        assert_eq!((forward.packets, reply.packets, forward.state), (2, 1, CtState::ESTABLISHED));
        // Whom nobody has asked is a client.
        let others = Packet::udp(at(net.client, 9001), at(net.node, PORT), b"question");
        assert_eq!(node.wire_brings(&others)?.verdict, REDIRECT);
        assert_eq!(node.pair(&others)?.0.flags.0, CtFlags::EXTERNAL | CtFlags::SNAT);
        assert_eq!(node.drops()?, []);
    }
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn answers_in_pieces_reach_whoever_has_asked() -> Result<()> {
    for net in nets() {
        let node = node(&net)?;
        node.stack_forwards_out(&question(&net, net.client))?;
        let answers = Packet::udp(at(net.client, 9000), at(net.node, PORT), &[7; 60]).id(1);
        let program = if net.node.is_ipv4() { "tc_from_wire" } else { "tc_from_wire6" };
        for piece in answers.pieces(&[24, 16]) {
            let out = node.run(program, node.uplink, &piece)?;
            assert!(out.verdict == PASS && out.packet == piece, "{}", Frame(&out.packet));
        }
        assert_eq!(node.tracked()?, 2);
        assert_eq!(node.drops()?, []);
    }
    Ok(())
}

/// A program sends on what a backend answers, from the NodePort: that is no question, and the client stays a client.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn answers_of_a_node_port_are_no_questions() -> Result<()> {
    for net in nets() {
        let node = node(&net)?;
        let asks = answer(&question(&net, net.client));
        assert_eq!(node.wire_brings(&asks)?.verdict, REDIRECT);
        let before = node.pair(&asks)?;
        let answers = answer(&asks);
        assert_passes("an answer", &node.stack_forwards_out(&answers)?, &answers);
        assert_eq!((node.pair(&asks)?, node.tracked()?), (before, 2));
        assert_eq!(node.wire_brings(&asks)?.verdict, REDIRECT);
        // From other ports and other addresses nothing is remembered.
        for other in [at(net.node, 30_054), at(net.pods[0], PORT)] {
            node.stack_forwards_out(&Packet::udp(other, at(net.client, 9000), b"x"))?;
        }
        node.stack_sends_out(&Packet::udp(at(net.node, 30_054), at(net.client, 9000), b"x"))?;
        node.stack_sends_pod_a(&Packet::udp(at(net.node, 30_054), at(net.pods[0], 9000), b"x"))?;
        assert_eq!(node.tracked()?, 2);
    }
    Ok(())
}

/// A socket may be older than the NodePort of its port. What has been taken for a client meanwhile is given back.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn answers_to_a_process_of_the_node_reach_it() -> Result<()> {
    for net in nets() {
        let mut node = node(&net)?;
        let asks = question(&net, net.client);
        let answers = answer(&asks);
        assert_eq!(node.wire_brings(&answers)?.verdict, REDIRECT, "nobody has asked");
        assert_passes("a question", &node.stack_sends_out(&asks)?, &asks);
        assert_passes("its answer", &node.wire_brings(&answers)?, &answers);
        node.pair(&asks)?;
        assert_eq!(node.tracked()?, 2, "of the client that was none nothing is left");

        let asks = question(&net, net.pods[0]);
        assert_passes("to a pod", &node.stack_sends_pod_a(&asks)?, &asks);
        let answers = answer(&asks);
        assert_passes("its answer", &node.pod_sends(&answers)?, &answers);
        // At an address that the node has besides, as NodePorts are.
        let besides = served(Proto::UDP, net.remote, PORT).flags(FrontendFlags::NODE_PORT);
        node.serve(besides, &[at(net.pods[1], 5353)])?;
        let asks = Packet::udp(at(net.remote, PORT), at(net.client, 9000), b"question");
        node.stack_sends_out(&asks)?;
        node.pair(&asks)?;
        assert_eq!(node.drops()?, []);
    }
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn connections_from_a_frontends_port_are_remembered_by_their_first_packet() -> Result<()> {
    for net in nets() {
        let node = node(&net)?;
        let out = |flags| Packet::tcp(at(net.node, PORT), at(net.client, 9000), flags);
        let back = |flags| Packet::tcp(at(net.client, 9000), at(net.node, PORT), flags);
        node.stack_sends_out(&out(ACK))?;
        assert_eq!(node.tracked()?, 0, "its middle says nothing");
        for flags in [SYN | ACK, ACK, FIN | ACK, RST] {
            node.stack_sends_out(&out(SYN))?;
            let packet = back(flags);
            assert_passes("its answer", &node.wire_brings(&packet)?, &packet);
        }
        assert_eq!(node.pair(&out(SYN))?.0.state, CtState::CLOSED);
        node.stack_sends_out(&out(SYN))?;
        assert_eq!(node.pair(&out(SYN))?.0.state, CtState::NEW, "the port came round again");
        assert_eq!((node.tracked()?, node.drops()?), (2, vec![]));
    }
    Ok(())
}

/// Nobody outside has a service's address. An answer to it that left as it is might come back, and leave again.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn what_a_pod_sends_to_a_services_address_is_the_services_whoever_has_asked_from_there() -> Result<()> {
    for net in nets() {
        let mut node = Node::new()?;
        let [pod, backend] = net.pods;
        node.serve(served(Proto::UDP, net.vip, 53), &[at(backend, 5353)])?;
        let asks = Packet::udp(at(net.vip, 53), at(pod, 53), b"question");
        assert_eq!(node.wire_brings(&asks)?.verdict, REDIRECT);
        assert_eq!(node.tracked()?, 0);
        let answers = answer(&asks);
        let out = node.pod_sends(&answers)?;
        let arrives = answers.to(at(backend, 5353)).ttl(63).macs(host_mac(backend), pod_mac(backend));
        assert_frame("to a backend", &out.packet, &arrives);
        // From a node to itself, by one port: there is no other direction to tell.
        let alone = Packet::udp(at(net.node, PORT), at(net.node, PORT), b"x");
        node.serve(served(Proto::UDP, net.node, PORT), &[at(backend, 5353)])?;
        let forged = Packet::udp(at(net.vip, 53), at(pod, 54), b"x");
        assert_passes("from who has it by mistake", &node.stack_sends_pod_a(&forged)?, &forged);
        assert_passes("to itself", &node.stack_sends_pod_a(&alone)?, &alone);
        assert_eq!(node.tracked()?, 2);
    }
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_full_table_remembers_no_half() -> Result<()> {
    let net = nets()[0];
    let mut node = Node::with_conntrack(64)?;
    node.serve(served(Proto::UDP, net.node, PORT), &[at(net.remote, 5353)])?;
    for port in 1..200 {
        let asks = Packet::udp(at(net.node, PORT), at(net.client, port), b"x");
        assert_passes("whatever is remembered", &node.stack_sends_out(&asks)?, &asks);
    }
    let entries = node.maps.conntrack.entries()?;
    let forward = entries.iter().filter(|(_, entry)| entry.direction == CtDirection::FORWARD).count();
    assert!(forward * 2 == entries.len() && forward < 199, "{forward} of {}", entries.len());
    assert_eq!(node.drops()?, []);
    Ok(())
}
