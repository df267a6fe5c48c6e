//! SCTP on wires, by frames of our own making: kernels without its sockets carry it all the same.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use thalweg_abi::{Proto, Scope};
use thalweg_lab::{
    netns::Netns,
    packet::{PROTO_SCTP, Packet, assert_frame},
    topology::UPLINK,
};

use super::{
    NODE_PORT, PORT, TARGET, both,
    lab::{self, Lab, Macs},
    sockets::PATIENCE,
};
use crate::{node::at, tables::served};

const INIT: u8 = 1;
const INIT_ACK: u8 = 2;

/// Everything that comes and goes by one link.
struct Tap(OwnedFd);

impl Tap {
    fn open(netns: &Netns, link: &str) -> Result<Self> {
        netns.enter(|| Self::listen(link))?
    }

    /// In the namespace of the calling thread.
    #[expect(unsafe_code, reason = "packet sockets have no safe wrapper here")]
    fn listen(link: &str) -> Result<Self> {
        const ALL: u16 = (libc::ETH_P_ALL as u16).to_be();
        let name = std::ffi::CString::new(link)?;
        // SAFETY: a terminated string.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        // SAFETY: no pointers.
        let raw = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0) };
        ensure!(index != 0 && raw >= 0, "packet socket on {link}: {}", io::Error::last_os_error());
        // SAFETY: just opened, and owned by nobody else.
        let socket = unsafe { OwnedFd::from_raw_fd(raw) };
        // SAFETY: integers only.
        let mut addr: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        addr.sll_family = libc::AF_PACKET as u16;
        addr.sll_protocol = ALL;
        addr.sll_ifindex = i32::try_from(index)?;
        // SAFETY: the address is valid for its size.
        let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const addr).cast(), size_of::<libc::sockaddr_ll>() as u32) };
        ensure!(bound == 0, "bind to {link}: {}", io::Error::last_os_error());
        Ok(Self(socket))
    }

    #[expect(unsafe_code, reason = "as above")]
    fn read(&self) -> Option<Vec<u8>> {
        let mut frame = vec![0; 2048];
        // SAFETY: the buffer is valid for its length.
        let read = unsafe { libc::recv(self.0.as_raw_fd(), frame.as_mut_ptr().cast(), frame.len(), 0) };
        frame.truncate(usize::try_from(read).ok()?);
        Some(frame)
    }

    /// The next frame of SCTP whose chunk is of this kind, to this hardware address.
    fn wait(&self, kind: u8, to: [u8; 6]) -> Result<Vec<u8>> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            match self.read() {
                Some(frame) if frame.starts_with(&to) && chunk(&frame) == Some(kind) => return Ok(frame),
                Some(_) => {}
                None => std::thread::sleep(Duration::from_millis(2)),
            }
        }
        anyhow::bail!("no chunk of kind {kind} within {PATIENCE:?}")
    }
}

/// The kind of the first chunk of a packet of SCTP without options or extensions.
fn chunk(frame: &[u8]) -> Option<u8> {
    let (proto, header) = if *frame.get(12)? == 0x08 { (23, 34) } else { (20, 54) };
    if *frame.get(proto)? == PROTO_SCTP { frame.get(header + 12).copied() } else { None }
}

/// Who a packet of SCTP is from, and its time to live.
fn source(frame: &[u8]) -> (SocketAddr, u8) {
    let port = |offset: usize| u16::from_be_bytes([frame[offset], frame[offset + 1]]);
    let address = |offset: usize| <[u8; 4]>::try_from(&frame[offset..offset + 4]).unwrap_or_default();
    let address6 = |offset: usize| <[u8; 16]>::try_from(&frame[offset..offset + 16]).unwrap_or_default();
    if frame[12] == 0x08 { (at(address(26), port(34)), frame[22]) } else { (at(address6(22), port(54)), frame[21]) }
}

/// By the VIP from a pod and by the NodePort from outside, to a backend on the same node and on the other.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn associations_open_through_vips_and_node_ports() -> Result<()> {
    both(|family| {
        for (node, index) in [(0, 1), (1, 0)] {
            let mut lab = Lab::build(family)?;
            let backend = at(lab.nodes[node].pods[index].addr, TARGET);
            let (vip, entrance) = (at(lab.vip(), PORT), at(lab.nodes[0].addr, NODE_PORT));
            for of in &mut lab.nodes {
                of.tables.serve(served(Proto::SCTP, vip.ip(), vip.port()), &[backend])?;
            }
            lab.nodes[0].tables.serve(served(Proto::SCTP, entrance.ip(), NODE_PORT).scope(Scope::EXTERNAL), &[backend])?;

            let server = &lab.nodes[node].pods[index];
            let at_server = Tap::open(&server.netns, "eth0")?;
            let pod = &lab.nodes[0].pods[0];
            let (own, _) = lab::link_of(lab.client(), UPLINK)?;
            let (peer, _) = lab::link_of(lab.host(0), UPLINK)?;
            let clients = [
                (&pod.netns, "eth0", pod.macs, at(pod.addr, 4000), vip),
                (lab.client(), UPLINK, Macs { own, peer }, at(lab.client_addr(), 4000), entrance),
            ];
            for (netns, link, macs, client, dialled) in clients {
                let case = || format!("{dialled} by {backend}");
                let at_client = Tap::open(netns, link)?;
                let init = Packet::sctp(client, dialled, INIT, &[7; 16]).macs(macs.own, macs.peer);
                netns.enter(|| lab::send_frame(link, &init.bytes()))??;
                let seen = at_server.wait(INIT, server.macs.own).with_context(case)?;
                let (from, ttl) = source(&seen);
                let through = if dialled == entrance && node == 1 { lab.nodes[0].addr } else { client.ip() };
                assert_eq!(from.ip(), through, "{}", case());
                let arrives = init.clone().from(from).to(backend).ttl(ttl).macs(server.macs.peer, server.macs.own);
                assert_frame("at the backend", &seen, &arrives);

                let answer = Packet::sctp(backend, from, INIT_ACK, &[8; 40]).macs(server.macs.own, server.macs.peer);
                server.netns.enter(|| lab::send_frame("eth0", &answer.bytes()))??;
                let seen = at_client.wait(INIT_ACK, macs.own).with_context(case)?;
                let (_, ttl) = source(&seen);
                let arrives = answer.from(dialled).to(client).ttl(ttl).macs(macs.peer, macs.own);
                assert_frame("back at the client", &seen, &arrives);
            }
        }
        Ok(())
    })
}
