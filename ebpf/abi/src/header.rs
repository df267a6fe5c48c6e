//! Packet headers as they stand on the wire, and what follows from them by arithmetic alone.

use crate::{Be16, Be32, Proto, checksum::Sum};

pub const ETH_LEN: usize = 14;
pub const IPV4_LEN: usize = 20;
pub const TCP_LEN: usize = 20;
pub const UDP_LEN: usize = 8;
pub const ICMP_LEN: usize = 8;
pub const SCTP_LEN: usize = 12;
/// The head of a chunk, of which every SCTP packet has one.
pub const CHUNK_LEN: usize = 4;

pub const ETH_P_IPV4: Be16 = Be16::from_host(0x0800);

/// An IPv4 header without its options.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Ipv4Header {
    /// Version in the upper, header length in 32-bit words in the lower half.
    pub version_ihl: u8,
    pub tos: u8,
    pub total_len: Be16,
    pub id: Be16,
    /// Flags and, in units of 8 bytes, the fragment's offset.
    pub fragment: Be16,
    pub ttl: u8,
    pub proto: Proto,
    pub checksum: u16,
    pub src: Be32,
    pub dst: Be32,
}
const _: () = assert!(core::mem::size_of::<Ipv4Header>() == IPV4_LEN);

impl Ipv4Header {
    /// Header length in bytes, options included.
    #[inline(always)]
    pub const fn header_len(&self) -> u32 {
        ((self.version_ihl & 0x0f) as u32) << 2
    }

    /// Whether this is IPv4 with a header of at least 20 bytes.
    #[inline(always)]
    pub const fn is_valid(&self) -> bool {
        self.version_ihl >> 4 == 4 && self.version_ihl & 0x0f >= 5
    }

    /// A fragment without the transport header.
    #[inline(always)]
    pub const fn is_later_fragment(&self) -> bool {
        self.fragment.to_host() & 0x1fff != 0
    }

    /// The sum of the header's 20 bytes with its checksum as it stands.
    #[inline(always)]
    pub const fn sum(&self) -> Sum {
        let first = u16::from_ne_bytes([self.version_ihl, self.tos]) as u32;
        let fifth = u16::from_ne_bytes([self.ttl, self.proto.0]) as u32;
        Sum::ZERO
            .add(first)
            .add(self.total_len.0 as u32)
            .add(self.id.0 as u32)
            .add(self.fragment.0 as u32)
            .add(fifth)
            .add(self.checksum as u32)
            .add(self.src.0)
            .add(self.dst.0)
    }

    /// A header of 20 bytes for an answer that we make ourselves, checksum included.
    #[inline(always)]
    pub const fn answer(src: Be32, dst: Be32, proto: Proto, payload: u16) -> Self {
        let mut header = Self {
            version_ihl: 0x45,
            tos: 0,
            total_len: Be16::from_host(IPV4_LEN as u16 + payload),
            id: Be16::ZERO,
            // "Don't fragment": so that a zero identification is allowed (RFC 6864).
            fragment: Be16::from_host(0x4000),
            ttl: 64,
            proto,
            checksum: 0,
            src,
            dst,
        };
        header.checksum = header.sum().checksum();
        header
    }
}

/// Bits of a TCP header's flags byte.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    pub const FIN: u8 = 1;
    pub const SYN: u8 = 1 << 1;
    pub const RST: u8 = 1 << 2;
    pub const ACK: u8 = 1 << 4;

    #[inline(always)]
    pub const fn has(self, flag: u8) -> bool {
        self.0 & flag != 0
    }

    /// The first packet of a connection.
    #[inline(always)]
    pub const fn opens(self) -> bool {
        self.0 & (Self::SYN | Self::ACK | Self::RST | Self::FIN) == Self::SYN
    }
}

/// What the first chunk of an SCTP packet says, in terms of TCP: INIT and INIT ACK open an association as SYN and its answer
/// do, ABORT and SHUTDOWN COMPLETE are the last of it and not answered, as RST.
#[inline(always)]
pub const fn sctp_signals(chunk: u8) -> TcpFlags {
    TcpFlags(match chunk {
        1 => TcpFlags::SYN,
        2 => TcpFlags::SYN | TcpFlags::ACK,
        6 | 14 => TcpFlags::RST,
        _ => TcpFlags::ACK,
    })
}

/// A TCP header without options.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct TcpHeader {
    pub sport: Be16,
    pub dport: Be16,
    pub seq: Be32,
    pub ack: Be32,
    /// Header length in 32-bit words in the upper half.
    pub offset: u8,
    pub flags: TcpFlags,
    pub window: Be16,
    pub checksum: u16,
    pub urgent: Be16,
}
const _: () = assert!(core::mem::size_of::<TcpHeader>() == TCP_LEN);

impl TcpHeader {
    /// Header length in bytes, options included.
    #[inline(always)]
    pub const fn header_len(&self) -> u32 {
        ((self.offset >> 4) as u32) << 2
    }

    /// The reset that answers this segment, which carries `payload` bytes (RFC 9293, section 3.10.7.1): it takes
    /// its sequence number from an acknowledgement, or else acknowledges all that came. Checksum left 0.
    #[inline(always)]
    pub const fn reset(&self, payload: u32) -> Self {
        let mut reset = Self {
            sport: self.dport,
            dport: self.sport,
            seq: Be32::ZERO,
            ack: Be32::ZERO,
            offset: (TCP_LEN as u8 / 4) << 4,
            flags: TcpFlags(TcpFlags::RST),
            window: Be16::ZERO,
            checksum: 0,
            urgent: Be16::ZERO,
        };
        if self.flags.has(TcpFlags::ACK) {
            reset.seq = self.ack;
        } else {
            let occupied =
                payload.wrapping_add(self.flags.has(TcpFlags::SYN) as u32).wrapping_add(self.flags.has(TcpFlags::FIN) as u32);
            reset.ack = Be32::from_host(self.seq.to_host().wrapping_add(occupied));
            reset.flags = TcpFlags(TcpFlags::RST | TcpFlags::ACK);
        }
        reset
    }

    /// The sum of the header's 20 bytes with its checksum as it stands.
    #[inline(always)]
    pub const fn sum(&self) -> Sum {
        Sum::ZERO
            .add(self.sport.0 as u32)
            .add(self.dport.0 as u32)
            .add(self.seq.0)
            .add(self.ack.0)
            .add(u16::from_ne_bytes([self.offset, self.flags.0]) as u32)
            .add(self.window.0 as u32)
            .add(self.checksum as u32)
            .add(self.urgent.0 as u32)
    }
}

/// An ICMP header.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct IcmpHeader {
    pub kind: u8,
    pub code: u8,
    pub checksum: u16,
    pub unused: Be16,
    /// For "fragmentation needed": the MTU of the next hop.
    pub mtu: Be16,
}
const _: () = assert!(core::mem::size_of::<IcmpHeader>() == ICMP_LEN);

impl IcmpHeader {
    pub const UNREACHABLE: u8 = 3;
    pub const TIME_EXCEEDED: u8 = 11;
    pub const PARAMETER_PROBLEM: u8 = 12;
    pub const CODE_PROTOCOL: u8 = 2;
    pub const CODE_PORT: u8 = 3;
    pub const CODE_FRAGMENTATION: u8 = 4;

    /// Whether the message quotes the packet that it is about.
    #[inline(always)]
    pub const fn is_error(&self) -> bool {
        matches!(self.kind, Self::UNREACHABLE | Self::TIME_EXCEEDED | Self::PARAMETER_PROBLEM)
    }

    /// The sum of the header's 8 bytes with its checksum as it stands.
    #[inline(always)]
    pub const fn sum(&self) -> Sum {
        Sum::ZERO
            .add(u16::from_ne_bytes([self.kind, self.code]) as u32)
            .add(self.checksum as u32)
            .add(self.unused.0 as u32)
            .add(self.mtu.0 as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_with_its_checksum_sums_to_all_ones() {
        let header = Ipv4Header::answer(Be32::from_octets([10, 96, 0, 1]), Be32::from_octets([10, 244, 1, 2]), Proto::TCP, 20);
        assert_eq!(header.sum().fold(), 0xffff);
        assert_eq!(header.header_len(), 20);
        assert!(header.is_valid() && !header.is_later_fragment());
    }

    #[test]
    fn headers_are_checked() {
        fn check(version_ihl: u8, valid: bool) {
            assert_eq!(Ipv4Header { version_ihl, ..Default::default() }.is_valid(), valid, "{version_ihl:#x}");
        }
        check(0x45, true);
        check(0x4f, true);
        check(0x44, false);
        check(0x40, false);
        check(0x65, false);
    }

    #[test]
    fn later_fragments_are_told_by_their_offset_alone() {
        fn check(fragment: u16, later: bool) {
            assert_eq!(Ipv4Header { fragment: Be16::from_host(fragment), ..Default::default() }.is_later_fragment(), later);
        }
        check(0x0000, false);
        check(0x4000, false);
        check(0x2000, false);
        check(0x2001, true);
        check(0x0001, true);
        check(0x1fff, true);
    }

    #[test]
    fn only_a_bare_syn_opens() {
        assert!(TcpFlags(TcpFlags::SYN).opens());
        // ECN set-up rides on the SYN.
        assert!(TcpFlags(TcpFlags::SYN | 0xc0).opens());
        for other in [TcpFlags::ACK, TcpFlags::RST, TcpFlags::FIN] {
            assert!(!TcpFlags(TcpFlags::SYN | other).opens());
            assert!(!TcpFlags(other).opens());
        }
    }

    #[test]
    fn a_reset_follows_the_rfc() {
        fn check(flags: u8, payload: u32, seq: u32, ack: u32, out: u8) {
            let segment = TcpHeader {
                sport: Be16::from_host(40_000),
                dport: Be16::from_host(80),
                seq: Be32::from_host(u32::MAX),
                ack: Be32::from_host(5_000),
                flags: TcpFlags(flags),
                ..Default::default()
            };
            let reset = segment.reset(payload);
            assert_eq!((reset.seq.to_host(), reset.ack.to_host(), reset.flags.0), (seq, ack, out), "{flags:#x} {payload}");
            assert_eq!((reset.sport, reset.dport), (segment.dport, segment.sport));
            assert_eq!(reset.header_len(), 20);
        }
        const RST_ACK: u8 = TcpFlags::RST | TcpFlags::ACK;
        // The sequence space wraps.
        check(TcpFlags::SYN, 0, 0, 0, RST_ACK);
        check(TcpFlags::SYN | TcpFlags::FIN, 0, 0, 1, RST_ACK);
        check(TcpFlags::FIN, 10, 0, 10, RST_ACK);
        check(0, 100, 0, 99, RST_ACK);
        check(TcpFlags::ACK, 100, 5_000, 0, TcpFlags::RST);
        check(TcpFlags::SYN | TcpFlags::ACK, 0, 5_000, 0, TcpFlags::RST);
    }

    #[test]
    fn only_messages_that_quote_a_packet_are_errors() {
        for kind in 0..=u8::MAX {
            assert_eq!(IcmpHeader { kind, ..Default::default() }.is_error(), matches!(kind, 3 | 11 | 12), "{kind}");
        }
    }
}
