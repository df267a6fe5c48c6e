//! A blocking rtnetlink socket that sends many messages in one system call and collects their acknowledgements.
//!
//! Setting up a pod is three short batches; a connection task, a channel and a wake-up per message would cost more than
//! the messages do. The kernel handles the messages of one send in order, and goes on after one that failed.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

use crate::namespace;

/// Seconds without an answer of the kernel before we give up.
const TIMEOUT_SECONDS: i64 = 20;
const HEADER: usize = 16;

/// A socket in the namespace in which it was opened, for ever.
#[derive(Debug)]
pub struct Netlink {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

/// One message of a batch.
#[derive(Clone, Debug)]
pub struct Op {
    /// For the error: `add the address 10.244.1.5`.
    pub what: String,
    pub message: RouteNetlinkMessage,
    /// Besides REQUEST and ACK.
    pub flags: u16,
}

/// The first message of a batch that the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}: {source}")]
pub struct OpError {
    pub what: String,
    pub source: io::Error,
}

// === impl OpError ===

impl OpError {
    pub fn new(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self { what: what.into(), source: source.into() }
    }

    pub fn is(&self, errno: Errno) -> bool {
        self.source.raw_os_error() == Some(errno as i32)
    }
}

// === impl Op ===

impl Op {
    pub fn new(what: impl Into<String>, message: RouteNetlinkMessage, flags: u16) -> Self {
        Self { what: what.into(), message, flags }
    }
}

// === impl Netlink ===

impl Netlink {
    /// In the calling thread's namespace.
    ///
    /// # Errors
    /// When the kernel gives no socket.
    pub fn open() -> io::Result<Self> {
        let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::new(TIMEOUT_SECONDS, 0))?;
        Ok(Self { fd, sequence: 0, buffer: vec![0; 64 << 10] })
    }

    /// In another namespace.
    ///
    /// # Errors
    /// When the descriptor is no network namespace, or the kernel gives no socket.
    pub fn open_in(netns: BorrowedFd<'_>) -> io::Result<Self> {
        namespace::within(netns, Self::open)
    }

    /// What the kernel, also in eBPF, calls the namespace that the socket is in.
    ///
    /// # Errors
    /// Before Linux 5.14.
    #[expect(unsafe_code, reason = "no crate of ours knows this socket option")]
    pub fn netns_cookie(&self) -> io::Result<u64> {
        let mut cookie = 0u64;
        let mut length = size_of::<u64>() as libc::socklen_t;
        // SAFETY: both pointers are to live locals, and length is the size of the one that is written to.
        let code = unsafe {
            let value = (&raw mut cookie).cast();
            libc::getsockopt(self.fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_NETNS_COOKIE, value, &raw mut length)
        };
        if code == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
    }

    /// Sends all, waits for all. The answers are in the order of the messages: what a GET found, nothing for the rest.
    ///
    /// # Errors
    /// The first message that failed; those after it were tried all the same.
    pub fn batch(&mut self, ops: Vec<Op>) -> Result<Vec<Option<RouteNetlinkMessage>>, OpError> {
        let results = self.try_batch(ops)?;
        results.into_iter().collect()
    }

    /// Like [`Netlink::batch`], with the outcome of each message.
    ///
    /// # Errors
    /// When the socket itself fails.
    pub fn try_batch(&mut self, ops: Vec<Op>) -> Result<Vec<Result<Option<RouteNetlinkMessage>, OpError>>, OpError> {
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::with_capacity(256 * ops.len());
        let mut names = Vec::with_capacity(ops.len());
        for op in ops {
            self.encode(&mut bytes, op.message, op.flags | NLM_F_ACK);
            names.push(op.what);
        }
        let failed = |error: io::Error, names: &[String]| OpError::new(names.join(", "), error);
        if let Err(error) = self.send(&bytes) {
            return Err(failed(error, &names));
        }
        let mut answers: Vec<Option<RouteNetlinkMessage>> = names.iter().map(|_| None).collect();
        let mut acks: Vec<Option<io::Result<()>>> = names.iter().map(|_| None).collect();
        let mut open = names.len();
        while open > 0 {
            let received = self.receive(|header, payload| {
                let index = header.sequence_number.wrapping_sub(first) as usize;
                match payload {
                    Some(NetlinkPayload::Error(error)) => {
                        if let Some(ack @ None) = acks.get_mut(index) {
                            *ack = Some(if error.code.is_none() { Ok(()) } else { Err(error.to_io()) });
                            open -= 1;
                        }
                    }
                    Some(NetlinkPayload::InnerMessage(message)) => {
                        if let Some(answer) = answers.get_mut(index) {
                            *answer = Some(message);
                        }
                    }
                    _ => {}
                }
            });
            if let Err(error) = received {
                return Err(failed(error, &names));
            }
        }
        let outcomes = names.into_iter().zip(acks).zip(answers);
        Ok(outcomes
            .map(|((what, ack), answer)| match ack {
                Some(Err(error)) => Err(OpError::new(what, error)),
                _ => Ok(answer),
            })
            .collect())
    }

    /// Everything that a GET lists. Entries that this version cannot parse are left out.
    ///
    /// # Errors
    /// When the kernel refuses, or the table changed under five attempts.
    pub fn dump(&mut self, what: &str, request: &RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, OpError> {
        for _ in 0..5 {
            let mut bytes = Vec::new();
            let sequence = self.encode(&mut bytes, request.clone(), NLM_F_DUMP);
            let (mut found, mut done, mut interrupted) = (Vec::new(), None, false);
            self.send(&bytes).map_err(|error| OpError::new(what, error))?;
            while done.is_none() {
                self.receive(|header, payload| {
                    if header.sequence_number != sequence {
                        return;
                    }
                    interrupted |= header.flags & NLM_F_DUMP_INTR != 0;
                    match payload {
                        Some(NetlinkPayload::InnerMessage(message)) => found.push(message),
                        Some(NetlinkPayload::Done(_)) => done = Some(Ok(())),
                        Some(NetlinkPayload::Error(error)) => done = Some(Err(error.to_io())),
                        _ => {}
                    }
                })
                .map_err(|error| OpError::new(what, error))?;
            }
            done.unwrap_or(Ok(())).map_err(|error| OpError::new(what, error))?;
            if !interrupted {
                return Ok(found);
            }
        }
        Err(OpError::new(what, Errno::EINTR))
    }

    fn encode(&mut self, bytes: &mut Vec<u8>, message: RouteNetlinkMessage, flags: u16) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let start = bytes.len();
        let length = message.buffer_len();
        bytes.resize(start + length.next_multiple_of(4), 0);
        message.serialize(&mut bytes[start..start + length]);
        self.sequence
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        sendto(self.fd.as_raw_fd(), bytes, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        Ok(())
    }

    /// One datagram of the kernel, message by message; `None` for a payload that cannot be parsed.
    fn receive(&mut self, mut each: impl FnMut(&NetlinkHeader, Option<NetlinkPayload<RouteNetlinkMessage>>)) -> io::Result<()> {
        let length = loop {
            match recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Ok(length) => break length,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Err(io::ErrorKind::TimedOut.into()),
                Err(error) => return Err(error.into()),
            }
        };
        let mut rest = &self.buffer[..length];
        while rest.len() >= HEADER {
            let field = |at: usize| u32::from_ne_bytes([rest[at], rest[at + 1], rest[at + 2], rest[at + 3]]);
            let size = field(0) as usize;
            if size < HEADER || size > rest.len() {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the kernel's datagram is cut short"));
            }
            match NetlinkMessage::<RouteNetlinkMessage>::deserialize(&rest[..size]) {
                Ok(message) => {
                    let (header, payload) = message.into_parts();
                    each(&header, Some(payload));
                }
                Err(error) => {
                    tracing::debug!(%error, "a netlink message cannot be parsed");
                    let mut header = NetlinkHeader::default();
                    header.flags = u16::from_ne_bytes([rest[6], rest[7]]);
                    header.sequence_number = field(8);
                    each(&header, None);
                }
            }
            rest = &rest[size.next_multiple_of(4).min(rest.len())..];
        }
        Ok(())
    }
}
