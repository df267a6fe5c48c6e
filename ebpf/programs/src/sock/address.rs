//! The two families: which tables an address is looked up in, and how it is known where one table serves both.

use aya_ebpf::btf_maps::SkStorage;
use thalweg_abi::{Be32, Be128, Frontend, FrontendKey, Netns, SockNat};

use crate::{
    config::{NODE_ADDR, NODE_ADDR6},
    maps::{FRONTENDS, FRONTENDS6, SOCK_NAT, SOCK_NAT6},
};

/// What sockets remember, by family.
pub type Storage<A> = SkStorage<SockNat<A>>;

/// An address of one family.
pub trait Address: Copy + PartialEq + 'static {
    /// The frontend of a key, or of an address's wildcard: to be copied at once.
    fn frontend(key: &FrontendKey<Self>) -> Option<&'static Frontend>;

    /// The memory of sockets for this family.
    fn storage() -> &'static Storage<Self>;

    /// The node's own; zero when it has none.
    fn node() -> Self;

    /// That of a network namespace; zero when it has none.
    fn of(netns: &Netns) -> Self;

    /// As one table for both families has it.
    fn wide(self) -> Be128;

    /// The reverse of [`Address::wide`].
    fn narrow(wide: Be128) -> Self;

    /// Whether every network namespace has this address for itself.
    fn is_loopback(self) -> bool;

    /// The address that a socket is bound to when it takes what comes to any.
    fn is_any(self) -> bool;
}

// === impl Address ===

impl Address for Be32 {
    #[inline(always)]
    fn frontend(key: &FrontendKey) -> Option<&'static Frontend> {
        // SAFETY: the element stays readable for the whole program; user space replaces a value as a whole.
        unsafe { FRONTENDS.get(key) }
    }

    #[inline(always)]
    fn storage() -> &'static Storage<Self> {
        &SOCK_NAT
    }

    #[inline(always)]
    fn node() -> Self {
        Self(NODE_ADDR.load())
    }

    #[inline(always)]
    fn of(netns: &Netns) -> Self {
        netns.addr
    }

    #[inline(always)]
    fn wide(self) -> Be128 {
        Be128::mapped(self)
    }

    #[inline(always)]
    fn narrow(wide: Be128) -> Self {
        wide.v4()
    }

    #[inline(always)]
    fn is_loopback(self) -> bool {
        self.octets()[0] == 127
    }

    #[inline(always)]
    fn is_any(self) -> bool {
        self == Self::ZERO
    }
}

impl Address for Be128 {
    #[inline(always)]
    fn frontend(key: &FrontendKey<Self>) -> Option<&'static Frontend> {
        // SAFETY: as for IPv4.
        unsafe { FRONTENDS6.get(key) }
    }

    #[inline(always)]
    fn storage() -> &'static Storage<Self> {
        &SOCK_NAT6
    }

    #[inline(always)]
    fn node() -> Self {
        Self(NODE_ADDR6.load())
    }

    #[inline(always)]
    fn of(netns: &Netns) -> Self {
        netns.addr6
    }

    #[inline(always)]
    fn wide(self) -> Be128 {
        self
    }

    #[inline(always)]
    fn narrow(wide: Be128) -> Self {
        wide
    }

    #[inline(always)]
    fn is_loopback(self) -> bool {
        self == Self([0, 0, 0, 1_u32.to_be()])
    }

    #[inline(always)]
    fn is_any(self) -> bool {
        self.is_zero()
    }
}
