//! Packets for tests, written as one says them: from whom, to whom, what. `bytes()` gives the frame with every
//! checksum right; what a test expects is a changed copy of what it sent.
//!
//! Nothing here is shared with the data path, so that a test compares two independent ideas of a packet.

use std::{
    fmt::{self, Write as _},
    net::{IpAddr, SocketAddr},
};

pub type Mac = [u8; 6];

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

pub const PROTO_ICMP: u8 = 1;
pub const PROTO_TCP: u8 = 6;
pub const PROTO_UDP: u8 = 17;
pub const PROTO_FRAGMENT: u8 = 44;
pub const PROTO_ICMPV6: u8 = 58;
pub const PROTO_SCTP: u8 = 132;

/// An Ethernet frame with an IP packet of either family.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Packet {
    pub mac_src: Mac,
    pub mac_dst: Mac,
    pub src: IpAddr,
    pub dst: IpAddr,
    /// Or hop limit.
    pub ttl: u8,
    pub id: u16,
    /// Flags and offset as they stand in an IPv4 header.
    pub fragment: u16,
    /// IPv4 options, a multiple of four bytes.
    pub options: Vec<u8>,
    /// IPv6 extension headers: the protocol of each and its bytes from the third on, six and a multiple of eight.
    pub extensions: Vec<(u8, Vec<u8>)>,
    pub body: Body,
}

/// What the IP packet carries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body {
    Tcp(Tcp),
    Udp(Udp),
    Sctp(Sctp),
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

/// With one chunk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sctp {
    pub sport: u16,
    pub dport: u16,
    pub tag: u32,
    pub chunk: u8,
    /// `false`: sent with checksum 0, as it stands in a packet whose checksum is left to the hardware.
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
    pub fn tcp(src: SocketAddr, dst: SocketAddr, flags: u8) -> Self {
        let ack = if flags & ACK != 0 { 2000 } else { 0 };
        let tcp = Tcp { sport: src.port(), dport: dst.port(), seq: 1000, ack, flags, window: 64_240, payload: Vec::new() };
        Self::ip(src.ip(), dst.ip(), Body::Tcp(tcp))
    }

    pub fn udp(src: SocketAddr, dst: SocketAddr, payload: &[u8]) -> Self {
        let udp = Udp { sport: src.port(), dport: dst.port(), checksum: true, payload: payload.to_vec() };
        Self::ip(src.ip(), dst.ip(), Body::Udp(udp))
    }

    /// With one chunk of type `chunk`.
    pub fn sctp(src: SocketAddr, dst: SocketAddr, chunk: u8, payload: &[u8]) -> Self {
        let (sport, dport, payload) = (src.port(), dst.port(), payload.to_vec());
        Self::ip(src.ip(), dst.ip(), Body::Sctp(Sctp { sport, dport, tag: 0x0102_0304, chunk, checksum: true, payload }))
    }

    /// ICMP, or ICMPv6.
    pub fn icmp(src: impl Into<IpAddr>, dst: impl Into<IpAddr>, kind: u8, code: u8, rest: [u8; 4], payload: &[u8]) -> Self {
        Self::ip(src.into(), dst.into(), Body::Icmp(Icmp { kind, code, rest, payload: payload.to_vec() }))
    }

    /// # Panics
    /// When the addresses are not of one family.
    pub fn ip(src: impl Into<IpAddr>, dst: impl Into<IpAddr>, body: Body) -> Self {
        let (src, dst) = (src.into(), dst.into());
        assert_eq!(src.is_ipv4(), dst.is_ipv4(), "{src} and {dst} are not of one family");
        Self {
            mac_src: [2, 0, 0, 0, 0, 1],
            mac_dst: [2, 0, 0, 0, 0, 2],
            src,
            dst,
            ttl: 64,
            id: 0x1234,
            fragment: 0,
            options: Vec::new(),
            extensions: Vec::new(),
            body,
        }
    }

    /// An ICMP message from `from` to this packet's sender that quotes this packet's IP header and `bytes` bytes of
    /// what follows.
    pub fn quoted_by(&self, from: impl Into<IpAddr>, kind: u8, code: u8, rest: [u8; 4], bytes: usize) -> Self {
        let frame = self.bytes();
        let end = (self.transport() + bytes).min(frame.len());
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

    /// One more IPv6 extension header, of `len` bytes and a pattern that is easily told.
    #[must_use]
    pub fn extension(mut self, proto: u8, len: usize) -> Self {
        assert!(len.is_multiple_of(8) && len > 0, "extension headers are multiples of eight bytes");
        // PadN: options that mean nothing.
        let mut bytes = vec![0; len - 2];
        (bytes[0], bytes[1]) = (1, (len - 4) as u8);
        self.extensions.push((proto, bytes));
        self
    }

    /// The same packet from another address and port.
    #[must_use]
    pub fn from(mut self, src: SocketAddr) -> Self {
        self.src = src.ip();
        match &mut self.body {
            Body::Tcp(tcp) => tcp.sport = src.port(),
            Body::Udp(udp) => udp.sport = src.port(),
            Body::Sctp(sctp) => sctp.sport = src.port(),
            Body::Icmp(_) | Body::Raw { .. } => {}
        }
        self
    }

    /// The same packet to another address and port.
    #[must_use]
    pub fn to(mut self, dst: SocketAddr) -> Self {
        self.dst = dst.ip();
        match &mut self.body {
            Body::Tcp(tcp) => tcp.dport = dst.port(),
            Body::Udp(udp) => udp.dport = dst.port(),
            Body::Sctp(sctp) => sctp.dport = dst.port(),
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
            | Body::Sctp(Sctp { payload, .. })
            | Body::Icmp(Icmp { payload, .. })
            | Body::Raw { payload, .. } => *payload = bytes.to_vec(),
        }
        self
    }

    /// A UDP datagram, or an SCTP packet, without a checksum.
    #[must_use]
    pub fn without_checksum(mut self) -> Self {
        match &mut self.body {
            Body::Udp(udp) => udp.checksum = false,
            Body::Sctp(sctp) => sctp.checksum = false,
            Body::Tcp(_) | Body::Icmp(_) | Body::Raw { .. } => {}
        }
        self
    }

    /// The frame as it stands on the wire.
    pub fn bytes(&self) -> Vec<u8> {
        self.frame(None, &self.body.bytes(self.src, self.dst))
    }

    /// The frames of the packet in pieces: each takes so many bytes of what follows the IP header, and the last the rest.
    ///
    /// # Panics
    /// When a length that must be a multiple of eight is none.
    pub fn pieces(&self, lengths: &[usize]) -> Vec<Vec<u8>> {
        let body = self.body.bytes(self.src, self.dst);
        let (mut frames, mut offset) = (Vec::new(), 0);
        for length in lengths.iter().copied().chain([body.len()]) {
            let end = (offset + length).min(body.len());
            let more = end < body.len();
            assert!(!more || length.is_multiple_of(8), "a piece of {length} bytes");
            frames.push(self.frame(Some((offset, more)), &body[offset..end]));
            offset = end;
            if !more {
                break;
            }
        }
        frames
    }

    /// Offset of what follows the IP header.
    fn transport(&self) -> usize {
        let ip = if self.src.is_ipv4() { 20 + self.options.len() } else { 40 };
        14 + ip + self.extensions.iter().map(|(_, bytes)| 2 + bytes.len()).sum::<usize>()
    }

    /// A frame around a body, or around a piece of it that begins so many bytes in, with more to follow or not.
    fn frame(&self, piece: Option<(usize, bool)>, body: &[u8]) -> Vec<u8> {
        let mut frame = [self.mac_dst, self.mac_src].concat();
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let fragment = piece.map_or(self.fragment, |(offset, more)| (offset / 8) as u16 | u16::from(more) << 13);
                let mut ip = vec![0x45 + (self.options.len() / 4) as u8, 0];
                ip.extend(((20 + self.options.len() + body.len()) as u16).to_be_bytes());
                ip.extend(self.id.to_be_bytes());
                ip.extend(fragment.to_be_bytes());
                ip.extend([self.ttl, self.proto(), 0, 0]);
                ip.extend(src.octets());
                ip.extend(dst.octets());
                ip.extend(&self.options);
                let checksum = checksum(&ip);
                ip[10..12].copy_from_slice(&checksum.to_be_bytes());
                frame.extend([0x08, 0x00]);
                frame.extend(ip);
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let mut headers = self.extensions.clone();
                if let Some((offset, more)) = piece {
                    let id = u32::from(self.id).to_be_bytes();
                    headers.push((PROTO_FRAGMENT, [&(offset as u16 | u16::from(more)).to_be_bytes()[..], &id].concat()));
                }
                let len: usize = headers.iter().map(|(_, bytes)| 2 + bytes.len()).sum();
                let mut nexts: Vec<u8> = headers.iter().map(|(proto, _)| *proto).chain([self.proto()]).collect();
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                frame.extend(((len + body.len()) as u16).to_be_bytes());
                frame.extend([nexts.remove(0), self.ttl]);
                frame.extend(src.octets());
                frame.extend(dst.octets());
                for ((proto, bytes), next) in headers.iter().zip(nexts) {
                    // The fragment header has no length.
                    let units = if *proto == PROTO_FRAGMENT { 0 } else { (bytes.len() + 2) / 8 - 1 };
                    frame.extend([next, units as u8]);
                    frame.extend(bytes);
                }
            }
            _ => unreachable!("addresses of two families"),
        }
        frame.extend(body);
        frame
    }

    /// The protocol of the body.
    pub fn proto(&self) -> u8 {
        match &self.body {
            Body::Tcp(_) => PROTO_TCP,
            Body::Udp(_) => PROTO_UDP,
            Body::Sctp(_) => PROTO_SCTP,
            Body::Icmp(_) if self.src.is_ipv6() => PROTO_ICMPV6,
            Body::Icmp(_) => PROTO_ICMP,
            Body::Raw { proto, .. } => *proto,
        }
    }
}

// === impl Body ===

impl Body {
    fn bytes(&self, src: IpAddr, dst: IpAddr) -> Vec<u8> {
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
            Self::Sctp(sctp) => {
                out.extend(sctp.sport.to_be_bytes());
                out.extend(sctp.dport.to_be_bytes());
                out.extend(sctp.tag.to_be_bytes());
                out.extend([0, 0, 0, 0, sctp.chunk, 0]);
                out.extend(((4 + sctp.payload.len()) as u16).to_be_bytes());
                out.extend(&sctp.payload);
                if sctp.checksum {
                    let sum = crc32c(&out);
                    out[8..12].copy_from_slice(&sum.to_le_bytes());
                }
            }
            Self::Icmp(icmp) => {
                out.extend([icmp.kind, icmp.code, 0, 0]);
                out.extend(icmp.rest);
                out.extend(&icmp.payload);
                let head = if src.is_ipv6() { pseudo(src, dst, PROTO_ICMPV6, out.len()) } else { Vec::new() };
                let sum = checksum(&[head, out.clone()].concat());
                out[2..4].copy_from_slice(&sum.to_be_bytes());
            }
            Self::Raw { payload, .. } => out.extend(payload),
        }
        out
    }
}

fn pseudo(src: IpAddr, dst: IpAddr, proto: u8, len: usize) -> Vec<u8> {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            [&src.octets()[..], &dst.octets(), &[0, proto], &(len as u16).to_be_bytes()].concat()
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            [&src.octets()[..], &dst.octets(), &(len as u32).to_be_bytes(), &[0, 0, 0, proto]].concat()
        }
        _ => unreachable!("addresses of two families"),
    }
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

/// The checksum of SCTP.
pub fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 0 { crc >> 1 } else { crc >> 1 ^ 0x82f6_3b78 })
    })
}

/// A frame in words, for a failed comparison: the fields that a translation may touch, then all bytes.
pub struct Frame<'a>(pub &'a [u8]);

impl fmt::Display for Frame<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let frame = self.0;
        if frame.len() >= 54 && frame[14] >> 4 == 6 {
            let address = |at: usize| {
                let octets: [u8; 16] = frame[at..at + 16].try_into().unwrap_or_default();
                std::net::Ipv6Addr::from(octets)
            };
            write!(f, "{} > {} next {} hop limit {}", address(22), address(38), frame[20], frame[21])?;
        } else if frame.len() >= 34 {
            let word = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
            let address = |at: usize| std::net::Ipv4Addr::new(frame[at], frame[at + 1], frame[at + 2], frame[at + 3]);
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
mod tests;
