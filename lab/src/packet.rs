//! Packets for tests, written as one says them: from whom, to whom, what. `bytes()` gives the frame with every
//! checksum right; what a test expects is a changed copy of what it sent.
//!
//! Nothing here is shared with the data path, so that a test compares two independent ideas of a packet.

use std::{
    fmt::{self, Write as _},
    net::{Ipv4Addr, SocketAddrV4},
};

pub type Mac = [u8; 6];

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

pub const PROTO_ICMP: u8 = 1;
pub const PROTO_TCP: u8 = 6;
pub const PROTO_UDP: u8 = 17;

/// An Ethernet frame with an IPv4 packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Packet {
    pub mac_src: Mac,
    pub mac_dst: Mac,
    pub src: Ipv4Addr,
    pub dst: Ipv4Addr,
    pub ttl: u8,
    pub id: u16,
    /// Flags and offset as they stand in the header.
    pub fragment: u16,
    /// IP options, a multiple of four bytes.
    pub options: Vec<u8>,
    pub body: Body,
}

/// What the IP packet carries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body {
    Tcp(Tcp),
    Udp(Udp),
    Icmp(Icmp),
    Raw { proto: u8, payload: Vec<u8> },
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tcp {
    pub sport: u16,
    pub dport: u16,
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub window: u16,
    pub payload: Vec<u8>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Udp {
    pub sport: u16,
    pub dport: u16,
    /// `false`: sent with checksum 0, "none".
    pub checksum: bool,
    pub payload: Vec<u8>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Icmp {
    pub kind: u8,
    pub code: u8,
    pub rest: [u8; 4],
    pub payload: Vec<u8>,
}

// === impl Packet ===

impl Packet {
    /// A TCP segment with `flags`, sequence number 1000, and acknowledgement 2000 if it has the flag.
    pub fn tcp(src: SocketAddrV4, dst: SocketAddrV4, flags: u8) -> Self {
        let ack = if flags & ACK != 0 { 2000 } else { 0 };
        let tcp = Tcp { sport: src.port(), dport: dst.port(), seq: 1000, ack, flags, window: 64_240, payload: Vec::new() };
        Self::ipv4(*src.ip(), *dst.ip(), Body::Tcp(tcp))
    }

    pub fn udp(src: SocketAddrV4, dst: SocketAddrV4, payload: &[u8]) -> Self {
        let udp = Udp { sport: src.port(), dport: dst.port(), checksum: true, payload: payload.to_vec() };
        Self::ipv4(*src.ip(), *dst.ip(), Body::Udp(udp))
    }

    pub fn icmp(src: Ipv4Addr, dst: Ipv4Addr, kind: u8, code: u8, rest: [u8; 4], payload: &[u8]) -> Self {
        Self::ipv4(src, dst, Body::Icmp(Icmp { kind, code, rest, payload: payload.to_vec() }))
    }

    pub fn ipv4(src: Ipv4Addr, dst: Ipv4Addr, body: Body) -> Self {
        Self {
            mac_src: [2, 0, 0, 0, 0, 1],
            mac_dst: [2, 0, 0, 0, 0, 2],
            src,
            dst,
            ttl: 64,
            id: 0x1234,
            fragment: 0,
            options: Vec::new(),
            body,
        }
    }

    /// An ICMP message from `from` to this packet's sender that quotes this packet's IP header and `bytes` bytes of
    /// what follows.
    pub fn quoted_by(&self, from: Ipv4Addr, kind: u8, code: u8, rest: [u8; 4], bytes: usize) -> Self {
        let frame = self.bytes();
        let end = (14 + 20 + self.options.len() + bytes).min(frame.len());
        Self::icmp(from, self.src, kind, code, rest, &frame[14..end])
    }

    #[must_use]
    pub fn macs(mut self, src: Mac, dst: Mac) -> Self {
        (self.mac_src, self.mac_dst) = (src, dst);
        self
    }

    #[must_use]
    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    #[must_use]
    pub fn id(mut self, id: u16) -> Self {
        self.id = id;
        self
    }

    #[must_use]
    pub fn fragment(mut self, fragment: u16) -> Self {
        self.fragment = fragment;
        self
    }

    #[must_use]
    pub fn dont_fragment(self) -> Self {
        self.fragment(0x4000)
    }

    #[must_use]
    pub fn options(mut self, options: &[u8]) -> Self {
        assert!(options.len().is_multiple_of(4) && options.len() <= 40, "IP options are 0 to 40 bytes, by four");
        self.options = options.to_vec();
        self
    }

    /// The same packet from another address and port.
    #[must_use]
    pub fn from(mut self, src: SocketAddrV4) -> Self {
        self.src = *src.ip();
        match &mut self.body {
            Body::Tcp(tcp) => tcp.sport = src.port(),
            Body::Udp(udp) => udp.sport = src.port(),
            Body::Icmp(_) | Body::Raw { .. } => {}
        }
        self
    }

    /// The same packet to another address and port.
    #[must_use]
    pub fn to(mut self, dst: SocketAddrV4) -> Self {
        self.dst = *dst.ip();
        match &mut self.body {
            Body::Tcp(tcp) => tcp.dport = dst.port(),
            Body::Udp(udp) => udp.dport = dst.port(),
            Body::Icmp(_) | Body::Raw { .. } => {}
        }
        self
    }

    /// Sequence and acknowledgement number of a TCP segment.
    #[must_use]
    pub fn numbers(mut self, seq: u32, ack: u32) -> Self {
        if let Body::Tcp(tcp) = &mut self.body {
            (tcp.seq, tcp.ack) = (seq, ack);
        }
        self
    }

    #[must_use]
    pub fn window(mut self, window: u16) -> Self {
        if let Body::Tcp(tcp) = &mut self.body {
            tcp.window = window;
        }
        self
    }

    #[must_use]
    pub fn payload(mut self, bytes: &[u8]) -> Self {
        match &mut self.body {
            Body::Tcp(Tcp { payload, .. })
            | Body::Udp(Udp { payload, .. })
            | Body::Icmp(Icmp { payload, .. })
            | Body::Raw { payload, .. } => *payload = bytes.to_vec(),
        }
        self
    }

    /// A UDP datagram without a checksum.
    #[must_use]
    pub fn without_checksum(mut self) -> Self {
        if let Body::Udp(udp) = &mut self.body {
            udp.checksum = false;
        }
        self
    }

    /// The frame as it stands on the wire.
    pub fn bytes(&self) -> Vec<u8> {
        let body = self.body.bytes(self.src, self.dst);
        let mut ip = vec![0x45 + (self.options.len() / 4) as u8, 0];
        ip.extend(((20 + self.options.len() + body.len()) as u16).to_be_bytes());
        ip.extend(self.id.to_be_bytes());
        ip.extend(self.fragment.to_be_bytes());
        ip.extend([self.ttl, self.body.proto(), 0, 0]);
        ip.extend(self.src.octets());
        ip.extend(self.dst.octets());
        ip.extend(&self.options);
        let checksum = checksum(&ip);
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());
        let mut frame = [self.mac_dst, self.mac_src].concat();
        frame.extend([0x08, 0x00]);
        frame.extend(ip);
        frame.extend(body);
        frame
    }
}

// === impl Body ===

impl Body {
    pub fn proto(&self) -> u8 {
        match self {
            Self::Tcp(_) => PROTO_TCP,
            Self::Udp(_) => PROTO_UDP,
            Self::Icmp(_) => PROTO_ICMP,
            Self::Raw { proto, .. } => *proto,
        }
    }

    fn bytes(&self, src: Ipv4Addr, dst: Ipv4Addr) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Tcp(tcp) => {
                out.extend(tcp.sport.to_be_bytes());
                out.extend(tcp.dport.to_be_bytes());
                out.extend(tcp.seq.to_be_bytes());
                out.extend(tcp.ack.to_be_bytes());
                out.extend([0x50, tcp.flags]);
                out.extend(tcp.window.to_be_bytes());
                out.extend([0; 4]);
                out.extend(&tcp.payload);
                let sum = checksum(&[pseudo(src, dst, PROTO_TCP, out.len()), out.clone()].concat());
                out[16..18].copy_from_slice(&sum.to_be_bytes());
            }
            Self::Udp(udp) => {
                out.extend(udp.sport.to_be_bytes());
                out.extend(udp.dport.to_be_bytes());
                out.extend(((8 + udp.payload.len()) as u16).to_be_bytes());
                out.extend([0; 2]);
                out.extend(&udp.payload);
                if udp.checksum {
                    let sum = checksum(&[pseudo(src, dst, PROTO_UDP, out.len()), out.clone()].concat());
                    // 0 means "none", so a checksum that is 0 is sent as its other form.
                    let sum = if sum == 0 { 0xffff } else { sum };
                    out[6..8].copy_from_slice(&sum.to_be_bytes());
                }
            }
            Self::Icmp(icmp) => {
                out.extend([icmp.kind, icmp.code, 0, 0]);
                out.extend(icmp.rest);
                out.extend(&icmp.payload);
                let sum = checksum(&out);
                out[2..4].copy_from_slice(&sum.to_be_bytes());
            }
            Self::Raw { payload, .. } => out.extend(payload),
        }
        out
    }
}

fn pseudo(src: Ipv4Addr, dst: Ipv4Addr, proto: u8, len: usize) -> Vec<u8> {
    [&src.octets()[..], &dst.octets(), &[0, proto], &(len as u16).to_be_bytes()].concat()
}

/// The Internet checksum of `bytes`.
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u64 =
        bytes.chunks(2).map(|pair| u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]))).sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// A frame in words, for a failed comparison: the fields that a translation may touch, then all bytes.
pub struct Frame<'a>(pub &'a [u8]);

impl fmt::Display for Frame<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let frame = self.0;
        if frame.len() >= 34 {
            let word = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
            let address = |at: usize| Ipv4Addr::new(frame[at], frame[at + 1], frame[at + 2], frame[at + 3]);
            let transport = 14 + usize::from(frame[14] & 15) * 4;
            let header_sum = frame.get(14..transport).map_or(1, checksum);
            write!(f, "{} > {} proto {} ttl {}", address(26), address(30), frame[23], frame[22])?;
            write!(f, " len {} header sum {}", word(16), if header_sum == 0 { "right" } else { "WRONG" })?;
            if frame.len() >= transport + 4 {
                write!(f, " ports {} > {}", word(transport), word(transport + 2))?;
            }
        }
        let mut hex = String::new();
        for (index, byte) in frame.iter().enumerate() {
            if index % 16 == 0 {
                write!(hex, "\n  {index:3}:")?;
            }
            write!(hex, " {byte:02x}")?;
        }
        f.write_str(&hex)
    }
}

/// # Panics
/// When the frames differ, with both in words.
#[track_caller]
pub fn assert_frame(what: &str, got: &[u8], expected: &Packet) {
    let expected = expected.bytes();
    assert!(got == expected, "{what}\ngot      {}\nexpected {}", Frame(got), Frame(&expected));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(addr: [u8; 4], port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(addr.into(), port)
    }

    /// A SYN as a real stack sent it, without its TCP options.
    #[test]
    fn a_known_frame() {
        let packet = Packet::tcp(at([10, 0, 0, 1], 40_000), at([10, 0, 0, 2], 80), SYN).numbers(1, 0).window(1024);
        let frame = packet.bytes();
        assert_eq!(frame.len(), 54);
        assert_eq!(frame[12..24], [8, 0, 0x45, 0, 0, 40, 0x12, 0x34, 0, 0, 64, 6]);
        // Worked out by hand: 0x4500 + 0x0028 + 0x1234 + 0x4006 + 0x0a00 + 0x0001 + 0x0a00 + 0x0002, complemented.
        assert_eq!(frame[24..26], 0x549a_u16.to_be_bytes());
        // 0x0a00 + 1 + 0x0a00 + 2 + 6 + 20 + 40000 + 80 + 1 + 0x5002 + 1024, complemented.
        assert_eq!(frame[50..52], 0xfb4e_u16.to_be_bytes());
    }

    #[test]
    fn every_checksum_closes() {
        let (a, b) = (at([10, 0, 0, 1], 1), at([10, 0, 0, 2], 2));
        for payload in [&b""[..], b"x", b"xy", b"odd"] {
            let frames = [
                Packet::tcp(a, b, ACK).payload(payload).options(&[1; 8]),
                Packet::udp(a, b, payload),
                Packet::udp(a, b, payload).quoted_by(*b.ip(), 3, 3, [0; 4], 8),
            ];
            for packet in frames {
                let frame = packet.bytes();
                let transport = 34 + packet.options.len();
                assert_eq!(checksum(&frame[14..transport]), 0, "{packet:?}");
                let body = &frame[transport..];
                let head = match packet.body {
                    Body::Icmp(_) => Vec::new(),
                    _ => pseudo(packet.src, packet.dst, packet.body.proto(), body.len()),
                };
                assert_eq!(checksum(&[head, body.to_vec()].concat()), 0, "{packet:?}");
            }
        }
    }
}
