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

impl core::fmt::Debug for Be32 {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let [a, b, c, d] = self.octets();
        write!(f, "{a}.{b}.{c}.{d}")
    }
}

/// An IP protocol number. `Proto::ANY` only occurs in wildcard frontends.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Proto(pub u8);

impl Proto {
    pub const ANY: Self = Self(0);
    pub const ICMP: Self = Self(1);
    pub const TCP: Self = Self(6);
    pub const UDP: Self = Self(17);
    pub const SCTP: Self = Self(132);
}
