//! Packets made by hand: what no well-behaved socket would send, and protocols that this kernel has no sockets for.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use thalweg_lab::netns::Netns;

pub const TCP: u8 = 6;
pub const SCTP: u8 = 132;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

/// Sends and sees all packets of one protocol and family in one namespace.
pub struct Raw {
    /// Not of UDP: the type is the one that std has for sockets of datagrams.
    socket: UdpSocket,
    v6: bool,
}

/// A packet from its transport header on.
#[derive(Clone, Debug)]
pub struct Seen {
    pub from: SocketAddr,
    pub to_port: u16,
    pub bytes: Vec<u8>,
}

// === impl Raw ===

impl Raw {
    pub fn open(netns: &Netns, protocol: u8, v6: bool) -> Self {
        let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
        let open = || Socket::new(domain, Type::RAW, Some(Protocol::from(i32::from(protocol))));
        let socket = netns.enter(open).expect("a namespace").expect("a raw socket; is this root?");
        socket.set_nonblocking(true).expect("a socket");
        Self { socket: socket.into(), v6 }
    }

    pub fn send(&self, to: IpAddr, bytes: &[u8]) {
        assert_eq!(self.socket.send_to(bytes, (to, 0)).expect("sends"), bytes.len());
    }

    /// Everything that came since the last call.
    pub fn drain(&self) -> Vec<Seen> {
        std::iter::from_fn(|| self.next()).collect()
    }

    /// The first packet that will do; waits for it.
    pub fn wait(&self, wanted: impl Fn(&Seen) -> bool) -> Option<Seen> {
        let deadline = Instant::now() + Duration::from_secs(2);
        while Instant::now() < deadline {
            match self.next() {
                Some(seen) if wanted(&seen) => return Some(seen),
                Some(_) => {}
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        None
    }

    fn next(&self) -> Option<Seen> {
        let mut buffer = [0; 2048];
        let (length, from) = self.socket.recv_from(&mut buffer).ok()?;
        // IPv4 hands its own header out, IPv6 does not.
        let skip = if self.v6 { 0 } else { usize::from(buffer[0] & 15) * 4 };
        let bytes = buffer[skip..length].to_vec();
        let port = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        Some(Seen { from: SocketAddr::new(from.ip(), port(0)), to_port: port(2), bytes })
    }
}

// === impl Seen ===

impl Seen {
    pub fn tcp_flags(&self) -> u8 {
        self.bytes[13]
    }

    pub fn tcp_sequence(&self) -> u32 {
        self.word(4)
    }

    pub fn tcp_acknowledged(&self) -> u32 {
        self.word(8)
    }

    fn word(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.bytes[at..at + 4].try_into().expect("four bytes"))
    }
}

/// A TCP segment with one byte of data.
pub fn segment(from: SocketAddr, to: SocketAddr, sequence: u32, acknowledged: u32, flags: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(from.port().to_be_bytes());
    bytes.extend(to.port().to_be_bytes());
    bytes.extend(sequence.to_be_bytes());
    bytes.extend(acknowledged.to_be_bytes());
    bytes.extend([5 << 4, flags, 0x10, 0, 0, 0, 0, 0, b'!']);
    let sum = checksum(from.ip(), to.ip(), TCP, &bytes);
    bytes[16..18].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// The Internet's checksum, over the pseudo header too.
fn checksum(from: IpAddr, to: IpAddr, protocol: u8, bytes: &[u8]) -> u16 {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let length = u16::try_from(bytes.len()).expect("a packet").to_be_bytes();
    let all = [octets(from), octets(to), vec![0, protocol], length.to_vec(), bytes.to_vec(), vec![0; bytes.len() % 2]].concat();
    let mut sum: u32 = all.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// CRC-32C, as SCTP carries it.
pub fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}
