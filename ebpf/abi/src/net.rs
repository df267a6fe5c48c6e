//! Network byte order as types, and protocol numbers.

use crate::map_type;

/// A 16-bit number in network byte order, as it stands in a packet.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Be16(pub u16);
map_type!(Be16, 2);

impl Be16 {
    pub const ZERO: Self = Self(0);

    #[inline(always)]
    pub const fn from_host(value: u16) -> Self {
        Self(value.to_be())
    }

    #[inline(always)]
    pub const fn to_host(self) -> u16 {
        u16::from_be(self.0)
    }
}

impl core::fmt::Debug for Be16 {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}", self.to_host())
    }
}

/// A 32-bit number in network byte order: an IPv4 address as it stands in a packet.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Be32(pub u32);
map_type!(Be32, 4);

impl Be32 {
    pub const ZERO: Self = Self(0);

    #[inline(always)]
    pub const fn from_host(value: u32) -> Self {
        Self(value.to_be())
    }

    #[inline(always)]
    pub const fn to_host(self) -> u32 {
        u32::from_be(self.0)
    }

    #[inline(always)]
    pub const fn from_octets(octets: [u8; 4]) -> Self {
        Self(u32::from_ne_bytes(octets))
    }

    #[inline(always)]
    pub const fn octets(self) -> [u8; 4] {
        self.0.to_ne_bytes()
    }
}

impl From<core::net::Ipv4Addr> for Be32 {
    #[inline(always)]
    fn from(addr: core::net::Ipv4Addr) -> Self {
        Self::from_octets(addr.octets())
    }
}

impl From<Be32> for core::net::Ipv4Addr {
    #[inline(always)]
    fn from(addr: Be32) -> Self {
        Self::from(addr.octets())
    }
}

impl From<Be32> for core::net::IpAddr {
    fn from(addr: Be32) -> Self {
        Self::V4(addr.into())
    }
}

impl core::fmt::Debug for Be32 {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let [a, b, c, d] = self.octets();
        write!(f, "{a}.{b}.{c}.{d}")
    }
}

/// An IPv6 address as it stands in a packet, in words of 32 bits, or an IPv4 address mapped into IPv6
/// (`::ffff:a.b.c.d`) where one table serves both families.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Be128(pub [u32; 4]);
map_type!(Be128, 16);

impl Be128 {
    pub const ZERO: Self = Self([0; 4]);
    /// The third word of every mapped IPv4 address.
    const MAPPED: u32 = 0x0000_ffff_u32.to_be();

    #[inline(always)]
    pub const fn mapped(addr: Be32) -> Self {
        Self([0, 0, Self::MAPPED, addr.0])
    }

    #[inline(always)]
    pub const fn is_mapped(self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == Self::MAPPED
    }

    /// The IPv4 address, of one that is mapped.
    #[inline(always)]
    pub const fn v4(self) -> Be32 {
        Be32(self.0[3])
    }

    #[inline(always)]
    pub const fn is_zero(self) -> bool {
        self.0[0] | self.0[1] | self.0[2] | self.0[3] == 0
    }

    /// Whether this may be the address of one host: it is not unspecified, of the loopback, of a group, or reserved.
    #[inline(always)]
    pub const fn is_one_host(self) -> bool {
        if self.is_mapped() {
            let first = u32::from_be(self.0[3]) >> 24;
            return first != 0 && first != 127 && first < 224;
        }
        let is_small = self.0[0] | self.0[1] | self.0[2] == 0 && u32::from_be(self.0[3]) <= 1;
        u32::from_be(self.0[0]) >> 24 != 0xff && !is_small
    }

    #[inline(always)]
    pub const fn octets(self) -> [u8; 16] {
        let ([a, b, c, d], [e, f, g, h]) = (self.0[0].to_ne_bytes(), self.0[1].to_ne_bytes());
        let ([i, j, k, l], [m, n, o, p]) = (self.0[2].to_ne_bytes(), self.0[3].to_ne_bytes());
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
    }

    #[inline(always)]
    pub const fn from_octets(octets: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = octets;
        Self([
            u32::from_ne_bytes([a, b, c, d]),
            u32::from_ne_bytes([e, f, g, h]),
            u32::from_ne_bytes([i, j, k, l]),
            u32::from_ne_bytes([m, n, o, p]),
        ])
    }
}

impl From<core::net::Ipv6Addr> for Be128 {
    fn from(addr: core::net::Ipv6Addr) -> Self {
        Self::from_octets(addr.octets())
    }
}

/// IPv4 is mapped.
impl From<core::net::IpAddr> for Be128 {
    fn from(addr: core::net::IpAddr) -> Self {
        match addr {
            core::net::IpAddr::V4(addr) => Self::mapped(addr.into()),
            core::net::IpAddr::V6(addr) => addr.into(),
        }
    }
}

impl From<Be128> for core::net::Ipv6Addr {
    fn from(addr: Be128) -> Self {
        Self::from(addr.octets())
    }
}

/// Mapped is IPv4.
impl From<Be128> for core::net::IpAddr {
    fn from(addr: Be128) -> Self {
        if addr.is_mapped() { Self::V4(addr.v4().into()) } else { Self::V6(addr.into()) }
    }
}

impl core::fmt::Debug for Be128 {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(&core::net::IpAddr::from(*self), f)
    }
}

/// An IP protocol number. `Proto::ANY` only occurs in wildcard frontends.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Proto(pub u8);

impl Proto {
    pub const ANY: Self = Self(0);
    /// Options of IPv6 for every hop.
    pub const HOP_BY_HOP: Self = Self(0);
    pub const ICMP: Self = Self(1);
    pub const TCP: Self = Self(6);
    pub const UDP: Self = Self(17);
    pub const ROUTING: Self = Self(43);
    pub const FRAGMENT: Self = Self(44);
    pub const AUTHENTICATION: Self = Self(51);
    pub const ICMPV6: Self = Self(58);
    /// Options of IPv6 for the destination.
    pub const DESTINATION: Self = Self(60);
    pub const SCTP: Self = Self(132);
}

#[cfg(test)]
mod tests {
    use core::net::IpAddr;

    use super::*;

    #[test]
    fn one_host_is_told_from_none_and_many() {
        fn check(addr: &str, expect: bool) {
            let addr: IpAddr = addr.parse().expect("an address");
            assert_eq!(Be128::from(addr).is_one_host(), expect, "{addr}");
        }
        for host in ["10.0.0.1", "223.255.255.255", "126.0.0.1", "128.0.0.1", "fd00::1", "fe80::1", "::2", "2001:db8::"] {
            check(host, true);
        }
        for other in ["0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "255.255.255.255", "::", "::1", "ff02::1", "ff00::"] {
            check(other, false);
        }
    }
}
