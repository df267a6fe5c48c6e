//! Sockets on wires: the programs attached to two nodes with pods, and the kernel's own TCP as the judge.

mod direct;
mod dns;
mod fragments;
mod lab;
mod sctp;
mod sockets;

use std::{collections::BTreeSet, io, net::SocketAddr, time::Instant};

use anyhow::{Context, Result};
use thalweg_abi::{BackendState, Counter, DropReason, Proto, Scope};
use thalweg_lab::{netns::Netns, packet::Packet, topology::UPLINK};

use self::{
    lab::{Family, Lab},
    sockets::{Answer, PATIENCE, Server, ask_again, ask_tcp, ask_udp, connect, udp},
};
use crate::{
    node::at,
    tables::{FIRST_BACKEND, served},
};

const PORT: u16 = 80;
const NODE_PORT: u16 = 30_080;
/// A NodePort whose service has no endpoints.
const EMPTY_PORT: u16 = 30_081;
/// Where the servers listen.
const TARGET: u16 = 8080;
/// Enough for segments of every size, both ways.
const BULK: usize = 1 << 20;

/// The same with each family.
fn both(test: impl Fn(Family) -> Result<()>) -> Result<()> {
    [Family::Ipv4, Family::Ipv6].into_iter().try_for_each(|family| test(family).with_context(|| format!("{family:?}")))
}

/// The lab with a server in each of the given pods, `(node, pod)`, behind the VIP and the NodePort of both nodes.
fn serve(family: Family, pods: &[(usize, usize)]) -> Result<(Lab, Vec<Server>)> {
    let mut lab = Lab::build(family)?;
    let mut servers = Vec::new();
    let mut backends = Vec::new();
    for (node, pod) in pods {
        let pod_of = &lab.nodes[*node].pods[*pod];
        servers.push(Server::start(&pod_of.netns, pod_of.addr, TARGET, &name(*node, *pod))?);
        backends.push(at(pod_of.addr, TARGET));
    }
    publish(&mut lab, &backends)?;
    Ok((lab, servers))
}

fn name(node: usize, pod: usize) -> String {
    format!("pod{node}{pod}")
}

fn publish(lab: &mut Lab, backends: &[SocketAddr]) -> Result<()> {
    let vip = lab.vip();
    for node in &mut lab.nodes {
        for proto in [Proto::TCP, Proto::UDP] {
            node.tables.serve(served(proto, vip, PORT), backends)?;
            for scope in [Scope::INTERNAL, Scope::EXTERNAL] {
                node.tables.serve(served(proto, node.addr, NODE_PORT).scope(scope), backends)?;
                node.tables.serve(served(proto, node.addr, EMPTY_PORT).scope(scope), &[])?;
            }
        }
    }
    Ok(())
}

/// Over TCP with much data and over UDP.
fn ask_both(from: &Netns, to: SocketAddr) -> Result<[Answer; 2]> {
    Ok([ask_tcp(from, to, BULK)?, ask_udp(from, to, &[7; 1300])?])
}

fn assert_no_drops(lab: &Lab) -> Result<()> {
    for node in &lab.nodes {
        assert_eq!(node.tables.drops()?, [], "{}", node.addr);
    }
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn pod_dials_the_vip_and_reaches_local_and_remote_backends_which_see_its_address() -> Result<()> {
    both(|family| {
        let (lab, _servers) = serve(family, &[(0, 1), (1, 0)])?;
        let vip = lab.vip();
        for complete in [false, true] {
            if complete {
                lab.complete_checksums()?;
            }
            let client = &lab.nodes[0].pods[0];
            let mut servers = BTreeSet::new();
            // Both are met within 40 connections but for one run in 2^40.
            for _ in 0..40 {
                let answer = ask_tcp(&client.netns, at(vip, PORT), 1000)?;
                assert_eq!(answer.seen, answer.own);
                if servers.insert(answer.server) {
                    let [tcp, udp] = ask_both(&client.netns, at(vip, PORT))?;
                    assert_eq!((tcp.seen, udp.seen.ip()), (tcp.own, client.addr));
                }
            }
            assert_eq!(servers, BTreeSet::from([name(0, 1), name(1, 0)]));
        }
        assert_no_drops(&lab)?;
        assert!(lab.nodes[0].tables.counter(Counter::TcToPod)? > 0);
        assert!(lab.nodes[0].tables.counter(Counter::TcToWire)? > 0);
        Ok(())
    })
}

/// RFC 5549: the route is of IPv4, its gateway of IPv6.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn gateways_may_be_of_the_other_family() -> Result<()> {
    let (lab, _servers) = serve(Family::Ipv4, &[(1, 0)])?;
    for (node, pods, gateway) in [(0, "10.244.2.0/24", lab.address6(1)), (1, "10.244.1.0/24", lab.address6(0))] {
        lab.host(node).ip(&format!("route replace {pods} via inet6 {gateway} dev {UPLINK}"))?;
    }
    let client = &lab.nodes[0].pods[0].netns;
    for to in [at(lab.vip(), PORT), at(lab.nodes[0].addr, NODE_PORT)] {
        let answers = ask_both(client, to)?;
        assert_eq!(answers.map(|answer| answer.server), [name(1, 0), name(1, 0)]);
    }
    assert!(lab.nodes[0].tables.counter(Counter::TcToWire)? > 0);
    assert_no_drops(&lab)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn client_outside_dials_node_ports_with_local_and_remote_backends() -> Result<()> {
    both(|family| {
        let (lab, _servers) = serve(family, &[(0, 0)])?;
        for complete in [false, true] {
            if complete {
                lab.complete_checksums()?;
            }
            let [tcp, udp] = ask_both(lab.client(), at(lab.nodes[0].addr, NODE_PORT))?;
            assert_eq!((tcp.seen, udp.seen.ip()), (tcp.own, lab.client_addr()), "a local backend sees the client");
            let [tcp, udp] = ask_both(lab.client(), at(lab.nodes[1].addr, NODE_PORT))?;
            let through = lab.nodes[1].addr;
            assert_eq!((tcp.seen.ip(), udp.seen.ip()), (through, through), "a remote one sees the node");
            assert_eq!([tcp.server, udp.server], [name(0, 0), name(0, 0)]);
        }
        assert_no_drops(&lab)
    })
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn pod_dials_node_ports_of_its_own_and_of_another_node() -> Result<()> {
    both(|family| {
        let (lab, _servers) = serve(family, &[(0, 0), (1, 0)])?;
        for node in &lab.nodes {
            for _ in 0..8 {
                ask_tcp(&lab.nodes[0].pods[1].netns, at(node.addr, NODE_PORT), 10_000)?;
                ask_udp(&lab.nodes[0].pods[1].netns, at(node.addr, NODE_PORT), b"datagram")?;
            }
        }
        assert_no_drops(&lab)
    })
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn pod_reaches_itself_through_its_service() -> Result<()> {
    both(|family| {
        let (lab, _servers) = serve(family, &[(0, 0)])?;
        let vip = lab.vip();
        let pod = &lab.nodes[0].pods[0];
        for to in [at(vip, PORT), at(lab.nodes[0].addr, NODE_PORT)] {
            let [tcp, udp] = ask_both(&pod.netns, to)?;
            assert_eq!((tcp.seen.ip(), udp.seen.ip()), (to.ip(), to.ip()), "the service's address is the client");
        }
        assert_no_drops(&lab)
    })
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn process_of_a_node_serves_pods_and_clients_outside() -> Result<()> {
    both(|family| {
        let mut lab = Lab::build(family)?;
        let vip = lab.vip();
        let addr = lab.nodes[0].addr;
        let _server = Server::start(lab.host(0), addr, TARGET, "host0")?;
        publish(&mut lab, &[at(addr, TARGET)])?;
        for complete in [false, true] {
            if complete {
                lab.complete_checksums()?;
            }
            for node in 0..2 {
                let pod = &lab.nodes[node].pods[0];
                let [tcp, udp] = ask_both(&pod.netns, at(vip, PORT))?;
                assert_eq!((tcp.seen.ip(), udp.seen.ip()), (pod.addr, pod.addr));
                ask_both(lab.client(), at(lab.nodes[node].addr, NODE_PORT))?;
            }
        }
        assert_no_drops(&lab)
    })
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn refusals_reach_pods_and_clients_at_once() -> Result<()> {
    both(|family| {
        let (lab, _servers) = serve(family, &[(0, 0)])?;
        let vip = lab.vip();
        let pod = &lab.nodes[0].pods[1].netns;
        for complete in [false, true] {
            if complete {
                lab.complete_checksums()?;
            }
            for (from, to) in [
                (pod, at(vip, 81)),
                (pod, at(lab.nodes[0].addr, EMPTY_PORT)),
                (pod, at(lab.nodes[1].addr, EMPTY_PORT)),
                (lab.client(), at(lab.nodes[0].addr, EMPTY_PORT)),
                (lab.client(), at(lab.nodes[1].addr, EMPTY_PORT)),
            ] {
                let start = Instant::now();
                let error = connect(from, to).err().with_context(|| format!("TCP to {to} connected"))?;
                assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "TCP to {to}: {error}");
                for payload in [&b""[..], b"odd", &[7; 1400]] {
                    let socket = udp(from, to)?;
                    socket.send(payload)?;
                    let error = socket.recv(&mut [0; 1]).err().with_context(|| format!("UDP to {to} was answered"))?;
                    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "UDP to {to}: {error}");
                }
                assert!(start.elapsed() < PATIENCE / 2, "{to} took {:?}", start.elapsed());
            }
        }
        assert_no_drops(&lab)
    })
}

/// kubernetes#46753 and #139628, on wires.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn when_a_backend_goes_tcp_is_reset_and_udp_moves_on() -> Result<()> {
    both(|family| {
        let (mut lab, _servers) = serve(family, &[(1, 0)])?;
        let vip = lab.vip();
        let other = &lab.nodes[1].pods[1];
        let _other = Server::start(&other.netns, other.addr, TARGET, &name(1, 1))?;
        let target = at(other.addr, TARGET);

        let mut stream = connect(&lab.nodes[0].pods[0].netns, at(vip, PORT))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let socket = udp(&lab.nodes[0].pods[0].netns, at(vip, PORT))?;
        assert_eq!(ask_again(&socket, b"first")?.server, name(1, 0));

        publish(&mut lab, &[target])?;
        for node in &mut lab.nodes {
            node.tables.set_backend(FIRST_BACKEND, BackendState::FREE, 1)?;
        }
        assert_eq!(ask_again(&socket, b"second")?.server, name(1, 1));
        let mut all = Vec::new();
        // The reset may already be there, as the answer to a late acknowledgement.
        let written = io::Write::write_all(&mut stream, b"still there?");
        let error =
            written.and_then(|()| io::Read::read_to_end(&mut stream, &mut all)).err().context("the connection lives")?;
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
        assert_eq!(ask_tcp(&lab.nodes[0].pods[0].netns, at(vip, PORT), 1000)?.server, name(1, 1));
        // Once or more: the client's kernel may answer what the old backend still sends.
        let drops = lab.nodes[0].tables.drops()?;
        assert!(matches!(drops[..], [(DropReason::BackendGone, 1..)]), "{drops:?}");
        Ok(())
    })
}

/// A client behind a smaller link than it knows: told by the node, it sends smaller segments.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn pods_learn_the_mtu_of_the_uplink() -> Result<()> {
    both(|family| {
        let (lab, _servers) = serve(family, &[(1, 0)])?;
        let vip = lab.vip();
        for node in 0..2 {
            lab.host(node).ip("link set eth0 mtu 1400")?;
        }
        ask_tcp(&lab.nodes[0].pods[0].netns, at(vip, PORT), BULK)?;
        assert!(lab.nodes[0].tables.counter(Counter::TcAnswered)? > 0);
        assert_no_drops(&lab)
    })
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn frames_cut_short_are_dropped_and_other_pods_addresses_do_not_leave() -> Result<()> {
    both(|family| {
        let (lab, _servers) = serve(family, &[(0, 1)])?;
        let vip = lab.vip();
        let [sender, other] = [&lab.nodes[0].pods[0], &lab.nodes[0].pods[1]];
        let frame = Packet::udp(at(sender.addr, 1), at(vip, PORT), b"x").bytes();
        let stolen = Packet::udp(at(other.addr, 1), at(vip, PORT), b"x").bytes();
        for frame in [&frame[..15], &frame[..33], &stolen] {
            sender.netns.enter(|| lab::send_frame("eth0", frame))??;
        }
        let deadline = Instant::now() + PATIENCE;
        let expected = [(DropReason::Malformed, 2), (DropReason::Spoofed, 1)];
        while lab.nodes[0].tables.drops()? != expected && Instant::now() < deadline {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert_eq!(lab.nodes[0].tables.drops()?, expected);
        Ok(())
    })
}
