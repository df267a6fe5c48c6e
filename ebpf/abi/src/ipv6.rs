//! IPv6 headers as they stand on the wire, with what may follow the fixed one, and ICMPv6.

use crate::{Be16, Be32, Be128, Proto, checksum::Sum};

pub const IPV6_LEN: usize = 40;
pub const FRAGMENT_LEN: usize = 8;
/// What every link must take.
pub const IPV6_MIN_MTU: u16 = 1280;

pub const ETH_P_IPV6: Be16 = Be16::from_host(0x86dd);

/// The fixed header.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Ipv6Header {
    /// Version, traffic class and flow label.
    pub head: Be32,
    /// Bytes behind this header.
    pub payload_len: Be16,
    pub next: Proto,
    pub hop_limit: u8,
    pub src: Be128,
    pub dst: Be128,
}
const _: () = assert!(core::mem::size_of::<Ipv6Header>() == IPV6_LEN);

impl Ipv6Header {
    #[inline(always)]
    pub const fn is_valid(&self) -> bool {
        self.head.to_host() >> 28 == 6
    }

    /// The sum of the header's 40 bytes.
    #[inline(always)]
    pub const fn sum(&self) -> Sum {
        let fourth = u16::from_ne_bytes([self.next.0, self.hop_limit]) as u32;
        Sum::ZERO.add(self.head.0).add(self.payload_len.0 as u32).add(fourth).plus(self.src.sum()).plus(self.dst.sum())
    }

    /// The header of an answer that we make ourselves.
    #[inline(always)]
    pub const fn answer(src: Be128, dst: Be128, next: Proto, payload: u16) -> Self {
        Self { head: Be32::from_host(6 << 28), payload_len: Be16::from_host(payload), next, hop_limit: 64, src, dst }
    }
}

/// The fragment header.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct FragmentHeader {
    pub next: Proto,
    pub reserved: u8,
    /// Offset in units of 8 bytes in the upper 13 bits, "more fragments" in the last.
    pub offset: Be16,
    pub id: Be32,
}
const _: () = assert!(core::mem::size_of::<FragmentHeader>() == FRAGMENT_LEN);

impl FragmentHeader {
    /// A fragment without the transport header.
    #[inline(always)]
    pub const fn is_later(&self) -> bool {
        self.offset.to_host() & 0xfff8 != 0
    }

    #[inline(always)]
    pub const fn has_more(&self) -> bool {
        self.offset.to_host() & 1 != 0
    }
}

/// Bytes of an extension header whose second byte is `len`; `None` for what is none, or is not walked over: the fragment
/// header has a meaning of its own, and what is encrypted hides what follows.
#[inline(always)]
pub const fn extension_len(proto: Proto, len: u8) -> Option<u32> {
    match proto {
        Proto::HOP_BY_HOP | Proto::ROUTING | Proto::DESTINATION => Some((len as u32 + 1) << 3),
        Proto::AUTHENTICATION => Some((len as u32 + 2) << 2),
        _ => None,
    }
}

/// Types and codes of ICMPv6.
pub mod icmp6 {
    pub const UNREACHABLE: u8 = 1;
    pub const PACKET_TOO_BIG: u8 = 2;
    pub const TIME_EXCEEDED: u8 = 3;
    pub const PARAMETER_PROBLEM: u8 = 4;
    pub const ECHO_REQUEST: u8 = 128;
    pub const CODE_PORT: u8 = 4;

    /// Whether a message quotes the packet that it is about.
    #[inline(always)]
    pub const fn is_error(kind: u8) -> bool {
        matches!(kind, UNREACHABLE | PACKET_TOO_BIG | TIME_EXCEEDED | PARAMETER_PROBLEM)
    }

    /// Whether a message is between neighbours on one link: listeners of groups, routers and neighbours.
    #[inline(always)]
    pub const fn is_of_the_link(kind: u8) -> bool {
        matches!(kind, 130..=137 | 141..=143)
    }
}

// === impl Be128 ===

impl Be128 {
    /// The sum of the address' bytes.
    #[inline(always)]
    pub const fn sum(&self) -> Sum {
        Sum::ZERO.add(self.0[0]).add(self.0[1]).add(self.0[2]).add(self.0[3])
    }

    /// fe80::/10
    #[inline(always)]
    pub const fn is_link_local(&self) -> bool {
        u32::from_be(self.0[0]) >> 22 == 0xfe80 >> 6
    }
}

#[cfg(test)]
mod tests {
    use core::net::Ipv6Addr;

    use super::*;

    const A: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x244, 1, 0, 0, 0, 2);
    const B: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x80);

    #[test]
    fn a_header_is_its_forty_bytes() {
        let header = Ipv6Header::answer(A.into(), B.into(), Proto::TCP, 0x0102);
        assert!(header.is_valid());
        let mut words = [0u16; 20];
        words[0] = 0x6000;
        words[2] = 0x0102;
        words[3] = u16::from_be_bytes([Proto::TCP.0, 64]);
        words[4..12].copy_from_slice(&A.segments());
        words[12..].copy_from_slice(&B.segments());
        let expected = words.iter().fold(Sum::ZERO, |sum, word| sum.add(u32::from(word.to_be())));
        assert_eq!(header.sum().fold(), expected.fold());
        assert!(!Ipv6Header { head: Be32::from_host(0x4500_0000), ..header }.is_valid());
    }

    #[test]
    fn fragments_are_told_by_their_offset() {
        fn check(offset: u16, later: bool, more: bool) {
            let header = FragmentHeader { offset: Be16::from_host(offset), ..Default::default() };
            assert_eq!((header.is_later(), header.has_more()), (later, more), "{offset:#x}");
        }
        // Alone in its fragment header: an atomic fragment.
        check(0, false, false);
        check(1, false, true);
        check(8, true, false);
        check(0xfff9, true, true);
        // Reserved bits mean nothing.
        check(6, false, false);
    }

    #[test]
    fn extension_headers_have_their_lengths() {
        assert_eq!(extension_len(Proto::HOP_BY_HOP, 0), Some(8));
        assert_eq!(extension_len(Proto::ROUTING, 255), Some(2048));
        assert_eq!(extension_len(Proto::DESTINATION, 1), Some(16));
        assert_eq!(extension_len(Proto::AUTHENTICATION, 4), Some(24));
        for other in [Proto::FRAGMENT, Proto::TCP, Proto::UDP, Proto::ICMPV6, Proto(50), Proto(59)] {
            assert_eq!(extension_len(other, 0), None, "{other:?}");
        }
    }

    #[test]
    fn only_fe80_slash_10_is_link_local() {
        fn check(first: u16, expect: bool) {
            assert_eq!(Be128::from(Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, 1)).is_link_local(), expect, "{first:#x}");
        }
        check(0xfe80, true);
        check(0xfebf, true);
        check(0xfec0, false);
        check(0xfe7f, false);
        check(0xfd00, false);
        check(0, false);
    }

    #[test]
    fn messages_of_icmpv6_are_told_apart() {
        for kind in 0..=u8::MAX {
            assert_eq!(icmp6::is_error(kind), (1..=4).contains(&kind), "{kind}");
            assert!(!(icmp6::is_error(kind) && icmp6::is_of_the_link(kind)));
        }
        // Solicitations and advertisements of routers and neighbours.
        assert!((133..=136).all(icmp6::is_of_the_link));
        assert!(!icmp6::is_of_the_link(icmp6::ECHO_REQUEST) && !icmp6::is_of_the_link(icmp6::ECHO_REQUEST + 1));
    }
}
