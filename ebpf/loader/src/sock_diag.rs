//! Connected sockets of a network namespace, and their end: the part of sock_diag(7) that is needed.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};
use thalweg_abi::Proto;

/// A socket as the kernel names it: `struct inet_diag_sockid`. Handed back as it came.
type Id = [u8; ID_LEN];

/// One connected socket.
#[derive(Clone, Copy)]
pub struct Connected {
    family: u8,
    proto: Proto,
    id: Id,
}

/// sock_diag of one network namespace: that of the thread that opened it.
pub struct SockDiag {
    socket: OwnedFd,
}

/// What a message is, by its type.
const NOOP: u16 = 1;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const BY_FAMILY: u16 = 20;
const DESTROY: u16 = 21;

const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;

/// `struct nlmsghdr`: length, type, flags, sequence number, port.
const HEADER_LEN: usize = 16;
/// `struct inet_diag_req_v2`: family, protocol, extensions, padding, states, and the socket.
const REQUEST_LEN: usize = 8 + ID_LEN;
/// Ports, addresses, interface, and at the end the cookie.
const ID_LEN: usize = 48;
const COOKIE: usize = 40;
/// Where `struct inet_diag_msg` has the socket: after family, state, timer and retransmissions.
const MESSAGE_ID: usize = 4;

/// Bits of `idiag_states`, by the numbers of TCP's states: what still has a peer that it waits for. UDP calls a connected
/// socket established.
const WITH_PEER: u32 = 1 << 1 | 1 << 2 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9;

const BUFFER: usize = 64 * 1024;

// === impl Connected ===

impl Connected {
    /// The socket's cookie, as programs know it.
    pub fn cookie(&self) -> u64 {
        let word = |at: usize| u32::from_ne_bytes([self.id[at], self.id[at + 1], self.id[at + 2], self.id[at + 3]]);
        u64::from(word(COOKIE)) | u64::from(word(COOKIE + 4)) << 32
    }

    pub fn proto(&self) -> Proto {
        self.proto
    }

    #[cfg(test)]
    pub fn of_cookie(proto: Proto, cookie: u64) -> Self {
        let mut id = [0; ID_LEN];
        id[COOKIE..].copy_from_slice(&[(cookie as u32).to_ne_bytes(), ((cookie >> 32) as u32).to_ne_bytes()].concat());
        Self { family: AddressFamily::Inet as u8, proto, id }
    }
}

// === impl SockDiag ===

impl SockDiag {
    pub fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkSockDiag)?;
        Ok(Self { socket })
    }

    /// Shows every connected socket of both families, of one protocol.
    pub fn connected(&self, proto: Proto, see: &mut dyn FnMut(Connected)) -> io::Result<()> {
        for family in [AddressFamily::Inet as u8, AddressFamily::Inet6 as u8] {
            self.send(BY_FAMILY, REQUEST | DUMP, &request(family, proto, WITH_PEER, &[0; ID_LEN]))?;
            self.receive(&mut |body| {
                if let Some(id) = body.get(MESSAGE_ID..MESSAGE_ID + ID_LEN).and_then(|id| id.try_into().ok()) {
                    see(Connected { family, proto, id });
                }
            })?;
        }
        Ok(())
    }

    /// Ends a socket: whoever waits on it, or uses it next, gets ECONNABORTED. False when it is gone already, whether or not
    /// another one has its ports since.
    pub fn destroy(&self, socket: &Connected) -> io::Result<bool> {
        self.send(DESTROY, REQUEST | ACK, &request(socket.family, socket.proto, WITH_PEER, &socket.id))?;
        match self.receive(&mut |_| {}) {
            Ok(()) => Ok(true),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESTALE)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn send(&self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        let mut message = Vec::with_capacity(HEADER_LEN + body.len());
        message.extend(((HEADER_LEN + body.len()) as u32).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend([0; 8]);
        message.extend(body);
        send(self.socket.as_raw_fd(), &message, MsgFlags::empty())?;
        Ok(())
    }

    /// Shows the bodies of messages until the end of a dump, or an acknowledgement.
    fn receive(&self, see: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        loop {
            let len = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            if take(&buffer[..len], see)? {
                return Ok(());
            }
        }
    }
}

fn request(family: u8, proto: Proto, states: u32, id: &Id) -> [u8; REQUEST_LEN] {
    let mut request = [0; REQUEST_LEN];
    request[0] = family;
    request[1] = proto.0;
    request[4..8].copy_from_slice(&states.to_ne_bytes());
    request[8..].copy_from_slice(id);
    request
}

/// Goes through the messages of one datagram; whether the last one was among them.
fn take(mut messages: &[u8], see: &mut dyn FnMut(&[u8])) -> io::Result<bool> {
    let cut = || io::Error::new(io::ErrorKind::InvalidData, "a message of sock_diag is cut short");
    while let Some(header) = messages.first_chunk::<HEADER_LEN>() {
        let len = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let body = messages.get(HEADER_LEN..len).ok_or_else(cut)?;
        match u16::from_ne_bytes([header[4], header[5]]) {
            DONE => return Ok(true),
            ERROR => {
                let code = body.first_chunk().copied().map(i32::from_ne_bytes).ok_or_else(cut)?;
                return if code == 0 { Ok(true) } else { Err(io::Error::from_raw_os_error(-code)) };
            }
            NOOP => {}
            _ => see(body),
        }
        messages = messages.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut message = ((HEADER_LEN + body.len()) as u32).to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend([0; 10]);
        message.extend(body);
        message.resize(message.len().next_multiple_of(4), 0);
        message
    }

    fn check(datagram: &[u8], expected: Result<bool, Option<i32>>, bodies: &[&[u8]]) {
        let mut seen = Vec::new();
        let result = take(datagram, &mut |body| seen.push(body.to_vec()));
        assert_eq!(result.map_err(|error| error.raw_os_error()), expected);
        assert_eq!(seen, bodies);
    }

    #[test]
    fn datagrams_of_several_messages_are_read_to_their_end() {
        let two = [message(BY_FAMILY, b"one"), message(BY_FAMILY, b"three")].concat();
        check(&two, Ok(false), &[b"one", b"three"]);
        check(&[two.clone(), message(DONE, &[0; 4])].concat(), Ok(true), &[b"one", b"three"]);
        check(&[message(NOOP, b""), message(BY_FAMILY, b"one")].concat(), Ok(false), &[b"one"]);
        check(&message(ERROR, &0_i32.to_ne_bytes()), Ok(true), &[]);
        check(&message(ERROR, &(-libc::EOPNOTSUPP).to_ne_bytes()), Err(Some(libc::EOPNOTSUPP)), &[]);
        check(&two[..two.len() - 4], Err(None), &[b"one"]);
        check(&[0; HEADER_LEN], Err(None), &[]);
        check(&[], Ok(false), &[]);
    }

    /// Another socket has taken the ports of one that was seen.
    #[test]
    #[ignore = "needs root: run by cargo xtask test"]
    fn a_socket_that_was_replaced_is_gone() {
        let ns = thalweg_lab::netns::Netns::create("tw-sock-diag").expect("a namespace");
        ns.enter(|| {
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("bind");
            socket.connect("127.0.0.1:9").expect("connect");
            let diag = SockDiag::open().expect("open");
            let mut found = Vec::new();
            diag.connected(Proto::UDP, &mut |socket| found.push(socket)).expect("ask");
            let [found] = found[..] else { panic!("one socket") };
            let mut earlier = found;
            earlier.id[COOKIE] ^= 1;
            assert!(!diag.destroy(&earlier).expect("ask"), "it is another one");
            assert!(socket.take_error().expect("ask").is_none() && socket.peer_addr().is_ok(), "left alone");
            assert!(diag.destroy(&found).expect("ask"));
            assert!(!diag.destroy(&found).expect("ask once more"));
        })
        .expect("enter");
    }

    #[test]
    fn a_cookie_is_two_words() {
        let mut id = [0; ID_LEN];
        id[COOKIE..].copy_from_slice(&[1, 0, 0, 0, 2, 0, 0, 0]);
        assert_eq!(Connected { family: 2, proto: Proto::UDP, id }.cookie(), 0x2_0000_0001);
    }
}
