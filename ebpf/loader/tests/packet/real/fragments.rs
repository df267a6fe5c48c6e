//! Datagrams in pieces on wires, the pieces in every order: the kernel that puts them together is the judge.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use thalweg_abi::Counter;
use thalweg_lab::{netns::Netns, packet::Packet, topology::UPLINK};

use super::{
    NODE_PORT, PORT, TARGET, assert_no_drops, both,
    lab::{self, Lab, Macs},
    name, serve,
    sockets::udp,
};
use crate::node::at;

/// Every order of three pieces.
const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

/// Whoever sends frames of its own making.
struct Sender<'a> {
    netns: &'a Netns,
    link: &'a str,
    macs: Macs,
}

impl Sender<'_> {
    /// Sends a datagram in three pieces. The number tells it from others, in its payload and its identification.
    fn send(&self, src: SocketAddr, dst: SocketAddr, number: u16, order: [usize; 3], text: &str) -> Result<()> {
        let datagram = Packet::udp(src, dst, text.as_bytes()).id(number).macs(self.macs.own, self.macs.peer);
        let pieces = datagram.pieces(&[24, 16]);
        ensure!(pieces.len() == 3, "{} pieces of {text:?}", pieces.len());
        for index in order {
            self.netns.enter(|| lab::send_frame(self.link, &pieces[index]))??;
        }
        Ok(())
    }
}

fn text(number: u16) -> String {
    format!("datagram {number}, of which there are three pieces and some")
}

fn pod(lab: &Lab, node: usize, pod: usize) -> Sender<'_> {
    let pod = &lab.nodes[node].pods[pod];
    Sender { netns: &pod.netns, link: "eth0", macs: pod.macs }
}

/// The answer to a question in pieces, on the socket whose port it was sent from.
fn answer(socket: &std::net::UdpSocket, number: u16) -> Result<String> {
    let mut buffer = [0; 1024];
    let read = socket.recv(&mut buffer).with_context(|| format!("answer to datagram {number}"))?;
    let all = String::from_utf8_lossy(&buffer[..read]);
    let (banner, echoed) = all.split_once('\n').context("no banner")?;
    ensure!(echoed == text(number), "{echoed:?} for datagram {number}");
    Ok(banner.split(' ').next().unwrap_or_default().to_owned())
}

fn counted(lab: &Lab, counter: Counter) -> Result<u64> {
    lab.nodes.iter().map(|node| node.tables.counter(counter)).sum()
}

/// cilium#25709, #43781
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn pods_datagrams_reach_local_and_remote_backends_whatever_the_order_of_their_pieces() -> Result<()> {
    both(|family| {
        for place in [(0, 1), (1, 0)] {
            let (lab, _servers) = serve(family, &[place])?;
            let vip = at(lab.vip(), PORT);
            let client = pod(&lab, 0, 0);
            let socket = udp(client.netns, vip)?;
            for (number, order) in (1..).zip(ORDERS) {
                client.send(socket.local_addr()?, vip, number, order, &text(number))?;
                assert_eq!(answer(&socket, number).with_context(|| format!("{order:?}"))?, name(place.0, place.1));
            }
            // Of six orders, two begin with the first piece; in two one waits, and in two both do.
            assert!(counted(&lab, Counter::TcFragmentHeld)? >= 6);
            assert_eq!(counted(&lab, Counter::TcFragmentHeld)?, counted(&lab, Counter::TcFragmentReleased)?);
            assert_no_drops(&lab)?;
        }
        Ok(())
    })
}

/// cilium#25709: the answer too.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn backends_answers_reach_the_pod_from_the_service_whatever_the_order_of_their_pieces() -> Result<()> {
    both(|family| {
        for (node, index) in [(0, 1), (1, 0)] {
            let (lab, _servers) = serve(family, &[(node, index)])?;
            let vip = at(lab.vip(), PORT);
            let socket = udp(&lab.nodes[0].pods[0].netns, vip)?;
            socket.send(b"a question")?;
            socket.recv(&mut [0; 100])?;
            let backend = pod(&lab, node, index);
            let from = at(lab.nodes[node].pods[index].addr, TARGET);
            for (number, order) in (1..).zip(ORDERS) {
                backend.send(from, socket.local_addr()?, number, order, &text(number))?;
                let mut buffer = [0; 1024];
                // The socket is connected: it takes only what comes from the service.
                let read = socket.recv(&mut buffer).with_context(|| format!("{order:?}"))?;
                assert_eq!(&buffer[..read], text(number).as_bytes());
            }
            assert_no_drops(&lab)?;
        }
        Ok(())
    })
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn clients_datagrams_reach_node_ports_backends_whatever_the_order_of_their_pieces() -> Result<()> {
    both(|family| {
        let (lab, _servers) = serve(family, &[(0, 0)])?;
        let (own, _) = lab::link_of(lab.client(), UPLINK)?;
        for node in 0..2 {
            let (peer, _) = lab::link_of(lab.host(node), UPLINK)?;
            let client = Sender { netns: lab.client(), link: UPLINK, macs: Macs { own, peer } };
            let port = at(lab.nodes[node].addr, NODE_PORT);
            let socket = udp(client.netns, port)?;
            for (number, order) in (1..).zip(ORDERS) {
                client.send(socket.local_addr()?, port, number, order, &text(number))?;
                assert_eq!(answer(&socket, number).with_context(|| format!("{order:?}"))?, name(0, 0));
            }
        }
        assert_no_drops(&lab)
    })
}

/// As kernels send and answer them, longer than any link takes.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn long_datagrams_of_real_stacks_come_and_go() -> Result<()> {
    both(|family| {
        let (lab, _servers) = serve(family, &[(1, 0)])?;
        for to in [at(lab.vip(), PORT), at(lab.nodes[0].addr, NODE_PORT)] {
            let from = if to.port() == PORT { &lab.nodes[0].pods[0].netns } else { lab.client() };
            for length in [1473, 1900] {
                super::ask_udp(from, to, &vec![7; length]).with_context(|| format!("{length} bytes to {to}"))?;
            }
        }
        assert_no_drops(&lab)
    })
}
