//! UDP: one socket per worker and address, all bound to the same port, and system calls that move a batch.
//!
//! The kernel spreads clients over the sockets (`SO_REUSEPORT`), so workers share nothing but the zone's snapshot. A socket
//! is bound to the very address that clients ask, hence replies leave from it. Nothing is allocated per query.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, SocketAddrV6, TcpListener, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg};
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, SocketAddrAny, sendmmsg};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::runtime::Handle;

use crate::answer::{Outcome, respond, servfail};
use crate::counters::Counters;
use crate::forward::Pending;
use crate::gate::{Admission, Gate};
use crate::log::QueryLog;
use crate::names::Names;
use crate::query::{MAX_UDP, Query, Rotation, Transport};
use crate::server::Shared;
use crate::traffic::Traffic;
use crate::whole::{self, Begun};
use crate::zone::Zone;

/// Messages per system call.
const BATCH: usize = 32;
/// A query is rarely above 100 octets; what is longer than this is cut, and then malformed.
const MAX_QUERY: usize = 2048;
/// How often an idle worker looks whether it should stop.
const IDLE: Duration = Duration::from_millis(200);
/// Room for a burst while a worker is busy.
const RECEIVE_BUFFER: usize = 1 << 20;
const TCP_BACKLOG: i32 = 1024;

/// Answers the queries of one socket.
#[derive(Clone)]
pub struct UdpWorker {
    pub socket: Arc<UdpSocket>,
    pub shared: Arc<Shared>,
    pub counters: Arc<Counters>,
    pub traffic: Arc<Traffic>,
    /// For what takes longer.
    pub runtime: Handle,
}

/// What a batch is answered by, looked up once for all of it.
#[derive(Clone, Copy)]
struct Now<'a> {
    zone: &'a Zone,
    gate: &'a Gate,
    names: &'a Names,
    log: &'a QueryLog,
}

/// Replies of one batch. Buffers keep their capacity.
struct Outbox {
    replies: [Vec<u8>; BATCH],
    peers: [SocketAddrAny; BATCH],
    count: usize,
}

/// A UDP socket that shares its address with its siblings, and with those of an older process that is about to end.
pub fn bind_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = shared_socket(address, Type::DGRAM, Protocol::UDP)?;
    // The kernel caps it at net.core.rmem_max; less is no reason not to serve.
    if let Err(error) = socket.set_recv_buffer_size(RECEIVE_BUFFER) {
        tracing::debug!(%address, %error, "the receive buffer keeps its default size");
    }
    socket.bind(&address.into())?;
    socket.set_read_timeout(Some(IDLE))?;
    Ok(socket.into())
}

/// A listening TCP socket, shared likewise, ready for an asynchronous runtime.
pub fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = shared_socket(address, Type::STREAM, Protocol::TCP)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(TCP_BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Lets this process open as many files as it may: each question to an upstream has a socket of its own, and so has each
/// connection. What it starts later inherits this.
pub fn raise_open_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| match soft < hard {
        true => setrlimit(Resource::RLIMIT_NOFILE, hard, hard),
        false => Ok(()),
    });
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

fn shared_socket(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

// === impl UdpWorker ===

impl UdpWorker {
    /// Serves until the server stops, then answers what has arrived already.
    pub fn run(&self) {
        let mut inbox = Box::new([[0u8; MAX_QUERY]; BATCH]);
        let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(BATCH, None);
        let mut outbox = Outbox::default();
        let rotation = Rotation::default();
        loop {
            let stopping = self.shared.stopping.load(Ordering::Acquire);
            let flags = if stopping { MsgFlags::MSG_DONTWAIT } else { MsgFlags::MSG_WAITFORONE };
            let received = match self.receive(&mut headers, &mut inbox, flags) {
                Ok(received) => received,
                Err(Errno::EAGAIN | Errno::EINTR) if stopping => return,
                Err(Errno::EAGAIN | Errno::EINTR) => continue,
                Err(error) if stopping => {
                    tracing::debug!(%error, "DNS socket failed while stopping");
                    return;
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot receive DNS queries; trying again");
                    std::thread::sleep(IDLE);
                    continue;
                }
            };
            self.counters.udp.fetch_add(received.count as u64, Ordering::Relaxed);
            let began = Instant::now();
            {
                let (zone, gate) = (self.shared.zone.load(), self.shared.gate.load());
                let (names, log) = (self.shared.names.load(), self.shared.log.load());
                let now = Now { zone: &zone, gate: &gate, names: &names, log: &log };
                for (packet, message) in inbox.iter().zip(&received.messages[..received.count]) {
                    let Some((length, peer)) = *message else { continue };
                    if self.answer(&packet[..length], peer, now, rotation.next(), outbox.next()) {
                        outbox.push(peer);
                    }
                }
            }
            // One look at the clock for all of a batch: they were answered together.
            let took = began.elapsed();
            outbox.replies[..outbox.count].iter().for_each(|reply| self.traffic.response(reply, took));
            self.send(&mut outbox);
        }
    }

    /// Writes the answer; false: nothing is to be sent, now or at all.
    fn answer(&self, packet: &[u8], peer: SocketAddr, now: Now<'_>, rotation: u32, out: &mut Vec<u8>) -> bool {
        let Now { zone, gate, names, log } = now;
        self.traffic.request(packet, Transport::Udp, peer.ip());
        let admission = self.shared.admit(gate, packet, Transport::Udp, peer.ip(), &self.traffic);
        if admission != Admission::Pass {
            return gate.turn_away(admission, packet, Transport::Udp, out);
        }
        if !names.is_empty()
            && let Ok(query) = Query::parse(packet, Transport::Udp)
        {
            if names.rewrite(&query).is_some() {
                let answered = self.answer_rewritten(packet, peer, rotation, zone, out);
                if answered {
                    self.shared.note(log, packet, out, Transport::Udp, peer);
                }
                return answered;
            }
            if names.answer(&query, out) {
                self.counters.count(Outcome::Answer);
                self.shared.note(log, packet, out, Transport::Udp, peer);
                return true;
            }
        }
        let mut outcome = respond(packet, Transport::Udp, rotation, zone, out);
        if matches!(outcome, Outcome::Forward | Outcome::ForwardTarget) {
            match self.forward(packet, outcome, out, peer, zone) {
                Some(instead) => outcome = instead,
                None => {
                    self.counters.count(outcome);
                    return false;
                }
            }
        }
        self.counters.count(outcome);
        let answered = outcome != Outcome::Drop && !out.is_empty();
        if answered {
            self.shared.note(log, packet, out, Transport::Udp, peer);
        }
        answered
    }

    /// Writes the answer to a query that rules rewrite, if nobody has to be asked for it; false: nothing is to be sent, now or
    /// at all.
    fn answer_rewritten(&self, packet: &[u8], peer: SocketAddr, rotation: u32, zone: &Zone, out: &mut Vec<u8>) -> bool {
        let reply = match whole::begin(&self.shared, packet, Transport::Udp, rotation, &self.counters) {
            Begun::Done(reply) => reply,
            Begun::Forward(forwarded) => match self.shared.waiting.enter() {
                Some(place) => {
                    let (worker, packet, began) = (self.clone(), packet.to_vec(), Instant::now());
                    self.runtime.spawn(async move {
                        if let Some(reply) = forwarded.finish(place).await {
                            worker.finish(&packet, &reply, peer, began);
                        }
                    });
                    None
                }
                None => forwarded.give_up(zone),
            },
        };
        out.clear();
        out.extend_from_slice(reply.as_deref().unwrap_or_default());
        !out.is_empty()
    }

    /// Sends a reply that was waited for.
    fn finish(&self, packet: &[u8], reply: &[u8], peer: SocketAddr, began: Instant) {
        self.traffic.response(reply, began.elapsed());
        self.shared.note(&self.shared.log.load(), packet, reply, Transport::Udp, peer);
        if self.socket.send_to(reply, peer).is_err() {
            self.counters.send_errors.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn receive(
        &self,
        headers: &mut MultiHeaders<SockaddrStorage>,
        inbox: &mut [[u8; MAX_QUERY]; BATCH],
        flags: MsgFlags,
    ) -> nix::Result<Received> {
        let mut slices = inbox.each_mut().map(|buffer| [IoSliceMut::new(buffer)]);
        let results = recvmmsg(self.socket.as_raw_fd(), headers, slices.iter_mut(), flags, None)?;
        let mut received = Received { messages: [None; BATCH], count: 0 };
        for (message, result) in received.messages.iter_mut().zip(results) {
            *message = result.address.as_ref().and_then(socket_address).map(|peer| (result.bytes.min(MAX_QUERY), peer));
            received.count += 1;
        }
        Ok(received)
    }

    /// Writes the answer to a query that is not ours if it is known, or hands the query over and says `None`.
    fn forward(&self, packet: &[u8], outcome: Outcome, out: &mut Vec<u8>, peer: SocketAddr, zone: &Zone) -> Option<Outcome> {
        let Ok(query) = Query::parse(packet, Transport::Udp) else { return Some(Outcome::Drop) };
        let forwarder = self.shared.forwarder.load();
        if let Some(forwarder) = forwarder.as_ref()
            && outcome == Outcome::Forward
            && forwarder.answer_at_once(&query, out)
        {
            return Some(Outcome::Forward);
        }
        // Nobody is to be asked any more, or too many wait.
        let Some((forwarder, place)) = forwarder.as_ref().and_then(|it| Some((it, self.shared.waiting.enter()?))) else {
            return Some(match outcome {
                // The alias alone is an answer.
                Outcome::ForwardTarget => Outcome::Answer,
                _ => servfail(&query, zone, out),
            });
        };
        let partial = (outcome == Outcome::ForwardTarget).then(|| out.clone());
        let pending = Pending { packet: packet.to_vec(), partial, transport: Transport::Udp };
        let (worker, began) = (self.clone(), Instant::now());
        forwarder.submit(pending, place, move |packet, reply| worker.finish(packet, reply, peer, began));
        None
    }

    /// Sends the replies. One that the kernel refuses (a client without a route, port 0) does not hold up the others.
    fn send(&self, outbox: &mut Outbox) {
        let slices = outbox.replies.each_ref().map(|reply| [IoSlice::new(reply)]);
        let mut controls: [_; BATCH] = std::array::from_fn(|_| SendAncillaryBuffer::default());
        let mut index = 0;
        let mut messages = controls.each_mut().map(|control| {
            index += 1;
            MMsgHdr::new_with_addr(&outbox.peers[index - 1], &slices[index - 1], control)
        });
        let mut sent = 0;
        while sent < outbox.count {
            match sendmmsg(&self.socket, &mut messages[sent..outbox.count], SendFlags::empty()) {
                Ok(count) => sent += count.max(1),
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => {
                    self.counters.send_errors.fetch_add(1, Ordering::Relaxed);
                    sent += 1;
                }
            }
        }
        outbox.count = 0;
    }
}

/// What one system call brought.
struct Received {
    messages: [Option<(usize, SocketAddr)>; BATCH],
    count: usize,
}

// === impl Outbox ===

impl Default for Outbox {
    fn default() -> Self {
        let nobody = SocketAddrAny::from(SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0)));
        Self {
            replies: std::array::from_fn(|_| Vec::with_capacity(MAX_UDP)),
            peers: std::array::from_fn(|_| nobody.clone()),
            count: 0,
        }
    }
}

impl Outbox {
    /// The buffer for the next reply; it is only sent after [`Self::push`]. There are as many as queries in a batch.
    fn next(&mut self) -> &mut Vec<u8> {
        &mut self.replies[self.count]
    }

    fn push(&mut self, peer: SocketAddr) {
        self.peers[self.count] = peer.into();
        self.count += 1;
    }
}

fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(SocketAddrV4::from(*v4).into());
    }
    address.as_sockaddr_in6().map(|v6| SocketAddrV6::from(*v6).into())
}
