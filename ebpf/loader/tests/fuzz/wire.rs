//! A frame as the standards read it. Nothing here is shared with the data path: the two must agree about every frame.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub const ETH: usize = 14;
pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const FRAGMENT: u8 = 44;
pub const ICMP6: u8 = 58;
pub const SCTP: u8 = 132;

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

/// Extension headers that a node of ours looks behind.
const EXTENSIONS: usize = 6;

pub enum Reading {
    /// No IP packet.
    Foreign,
    Malformed,
    Packet(Packet),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Piece {
    Whole,
    First,
    Later,
}

/// A flow's tuple.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Flow {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub sport: u16,
    pub dport: u16,
    pub proto: u8,
}

/// Where things stand in a well-formed packet.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    /// Offset of the IP header.
    pub start: usize,
    pub is_v6: bool,
    /// Ports are 0 where there are none.
    pub flow: Flow,
    pub ttl: u8,
    pub piece: Piece,
    /// Offset of the transport header.
    pub transport: usize,
    /// Where the packet ends; what is behind it in the frame is padding.
    pub end: usize,
    /// Bytes of the transport header.
    pub header: usize,
    pub tcp_flags: u8,
}

/// What a checksum is worth.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sum {
    Right,
    Wrong,
    /// The sender has made none.
    Absent,
    /// It covers more than there is, or is not known.
    Unknown,
}

// === impl Flow ===

impl Flow {
    pub fn reversed(self) -> Self {
        Self { src: self.dst, dst: self.src, sport: self.dport, dport: self.sport, proto: self.proto }
    }
}

// === impl Packet ===

impl Packet {
    pub fn has_ports(&self) -> bool {
        matches!(self.flow.proto, TCP | UDP | SCTP)
    }

    /// Whether this is ICMP of its family.
    pub fn is_icmp(&self) -> bool {
        self.flow.proto == if self.is_v6 { ICMP6 } else { ICMP }
    }

    /// Type and code.
    pub fn icmp(&self, frame: &[u8]) -> Option<(u8, u8)> {
        (self.is_icmp() && self.piece != Piece::Later).then(|| (frame[self.transport], frame[self.transport + 1]))
    }

    /// Whether this is an ICMP message about another packet: nothing may answer it.
    pub fn is_icmp_error(&self, frame: &[u8]) -> bool {
        self.icmp(frame).is_some_and(|(kind, _)| if self.is_v6 { kind < 128 } else { matches!(kind, 3 | 4 | 5 | 11 | 12) })
    }

    /// Offsets of the addresses.
    pub fn addresses(&self) -> std::ops::Range<usize> {
        if self.is_v6 { self.start + 8..self.start + 40 } else { self.start + 12..self.start + 20 }
    }

    pub fn ttl_at(&self) -> usize {
        self.start + if self.is_v6 { 7 } else { 8 }
    }

    /// Where the transport's checksum stands.
    pub fn sum_at(&self) -> Option<std::ops::Range<usize>> {
        if self.piece == Piece::Later {
            return None;
        }
        let at = match self.flow.proto {
            TCP => 16..18,
            UDP => 6..8,
            SCTP => 8..12,
            _ if self.is_icmp() => 2..4,
            _ => return None,
        };
        Some(self.transport + at.start..self.transport + at.end)
    }

    /// The packet that an ICMP error quotes, as far as it is there.
    pub fn quoted(&self, frame: &[u8]) -> Option<Self> {
        let start = self.transport + 8;
        if !self.is_icmp_error(frame) || start >= self.end {
            return None;
        }
        match read(&frame[..self.end], start, self.is_v6, true) {
            Reading::Packet(packet) => Some(packet),
            _ => None,
        }
    }

    /// Of the IP header; IPv6 has none.
    pub fn header_sum(&self, frame: &[u8]) -> Sum {
        if self.is_v6 {
            return Sum::Absent;
        }
        let end = self.start + usize::from(frame[self.start] & 15) * 4;
        judge(sum(&frame[self.start..end], 0))
    }

    pub fn transport_sum(&self, frame: &[u8]) -> Sum {
        let bytes = &frame[self.transport..self.end];
        match self.flow.proto {
            _ if self.piece != Piece::Whole => Sum::Unknown,
            TCP => judge(sum(bytes, self.pseudo_header(bytes.len()))),
            UDP if bytes[6..8] == [0, 0] => Sum::Absent,
            UDP => {
                let len = usize::from(be16(bytes, 4));
                judge(sum(&bytes[..len], self.pseudo_header(len)))
            }
            SCTP if bytes[8..12] == [0; 4] => Sum::Absent,
            SCTP => {
                let mut plain = bytes.to_vec();
                plain[8..12].fill(0);
                if crc32c(&plain).to_le_bytes() == bytes[8..12] { Sum::Right } else { Sum::Wrong }
            }
            ICMP if !self.is_v6 => judge(sum(bytes, 0)),
            ICMP6 if self.is_v6 => judge(sum(bytes, self.pseudo_header(bytes.len()))),
            _ => Sum::Unknown,
        }
    }

    pub fn pseudo_header(&self, len: usize) -> u32 {
        pseudo_header(self.flow.src, self.flow.dst, self.flow.proto, len)
    }
}

/// Reads a frame.
pub fn read_frame(frame: &[u8]) -> Reading {
    match be16(frame, 12) {
        0x0800 => read(frame, ETH, false, false),
        0x86dd => read(frame, ETH, true, false),
        _ => Reading::Foreign,
    }
}

/// Reads the IP packet at `start`. One that is quoted may be cut off behind its ports, and its lengths are not its own.
fn read(frame: &[u8], start: usize, is_v6: bool, quoted: bool) -> Reading {
    let ip = &frame[start..];
    let packet = if is_v6 { read6(ip, quoted) } else { read4(ip, quoted) };
    let Some(mut packet) = packet else { return Reading::Malformed };
    let payload = packet.end - packet.transport;
    let transport = &ip[packet.transport..packet.end];
    packet.start = start;
    packet.transport += start;
    packet.end += start;
    if packet.piece == Piece::Later {
        return Reading::Packet(packet);
    }
    let least = match packet.flow.proto {
        TCP | UDP | SCTP if quoted => 4,
        TCP => 20,
        UDP => 8,
        // With the head of a chunk: there is no packet without one.
        SCTP => 16,
        _ if packet.is_icmp() => 8,
        _ => 0,
    };
    if payload < least {
        return Reading::Malformed;
    }
    if packet.has_ports() {
        (packet.flow.sport, packet.flow.dport) = (be16(transport, 0), be16(transport, 2));
    }
    if packet.flow.proto == TCP && !quoted {
        packet.header = usize::from(transport[12] >> 4) * 4;
        packet.tcp_flags = transport[13];
        if packet.header < 20 || packet.header > payload {
            return Reading::Malformed;
        }
    }
    if packet.flow.proto == UDP && !quoted {
        packet.header = 8;
        let len = usize::from(be16(transport, 4));
        // The first fragment of a datagram is shorter than the datagram.
        if len < 8 || (len > payload && packet.piece == Piece::Whole) {
            return Reading::Malformed;
        }
    }
    Reading::Packet(packet)
}

/// Offsets from the IP header on.
fn read4(ip: &[u8], quoted: bool) -> Option<Packet> {
    if ip.len() < 20 || ip[0] >> 4 != 4 {
        return None;
    }
    let header = usize::from(ip[0] & 15) * 4;
    let total = if quoted { ip.len() } else { usize::from(be16(ip, 2)) };
    if header < 20 || header > total || total > ip.len() {
        return None;
    }
    let fragment = be16(ip, 6);
    let address = |at: usize| IpAddr::from(Ipv4Addr::new(ip[at], ip[at + 1], ip[at + 2], ip[at + 3]));
    Some(Packet {
        start: 0,
        is_v6: false,
        flow: Flow { src: address(12), dst: address(16), sport: 0, dport: 0, proto: ip[9] },
        ttl: ip[8],
        piece: piece(fragment & 0x1fff != 0, fragment & 0x2000 != 0),
        transport: header,
        end: total,
        header: 0,
        tcp_flags: 0,
    })
}

fn read6(ip: &[u8], quoted: bool) -> Option<Packet> {
    if ip.len() < 40 || ip[0] >> 4 != 6 {
        return None;
    }
    let end = if quoted { ip.len() } else { 40 + usize::from(be16(ip, 4)) };
    if end > ip.len() {
        return None;
    }
    let (mut next, mut at, mut which) = (ip[6], 40, Piece::Whole);
    for _ in 0..EXTENSIONS {
        let header = match next {
            FRAGMENT => ip.get(at..at + 8)?,
            0 | 43 | 51 | 60 => ip.get(at..at + 4)?,
            _ => break,
        };
        // On its way by a list of routers: not at its destination yet.
        if next == 43 && header[3] != 0 {
            break;
        }
        at += match next {
            FRAGMENT => 8,
            51 => (usize::from(header[1]) + 2) * 4,
            _ => (usize::from(header[1]) + 1) * 8,
        };
        if next == FRAGMENT {
            let offset = be16(header, 2);
            if offset & !7 != 0 {
                (which, next) = (Piece::Later, header[0]);
                break;
            }
            if offset & 1 != 0 {
                which = Piece::First;
            }
        }
        next = header[0];
    }
    if at > end {
        return None;
    }
    let address = |at: usize| -> IpAddr {
        let mut octets = [0; 16];
        octets.copy_from_slice(&ip[at..at + 16]);
        Ipv6Addr::from(octets).into()
    };
    Some(Packet {
        start: 0,
        is_v6: true,
        flow: Flow { src: address(8), dst: address(24), sport: 0, dport: 0, proto: next },
        ttl: ip[7],
        piece: which,
        transport: at,
        end,
        header: 0,
        tcp_flags: 0,
    })
}

fn piece(is_later: bool, has_more: bool) -> Piece {
    match (is_later, has_more) {
        (true, _) => Piece::Later,
        (false, true) => Piece::First,
        (false, false) => Piece::Whole,
    }
}

pub fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn judge(sum: u16) -> Sum {
    if sum == 0xffff { Sum::Right } else { Sum::Wrong }
}

/// The folded sum of 16-bit words, `before` included; what holds its own checksum sums to all ones.
pub fn sum(bytes: &[u8], before: u32) -> u16 {
    let mut sum = u64::from(before);
    for pair in bytes.chunks(2) {
        sum += u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn pseudo_header(src: IpAddr, dst: IpAddr, proto: u8, len: usize) -> u32 {
    let octets = |addr: IpAddr| match addr {
        IpAddr::V4(addr) => addr.octets().to_vec(),
        IpAddr::V6(addr) => addr.octets().to_vec(),
    };
    u32::from(sum(&[octets(src), octets(dst)].concat(), len as u32 + u32::from(proto)))
}

pub fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 })
    })
}

#[test]
fn a_crc_is_that_of_rfc_3720() {
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
}
