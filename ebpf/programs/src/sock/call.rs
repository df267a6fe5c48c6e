//! The address that a socket call names, as the context holds it: IPv4, IPv6, or IPv4 in the clothes of IPv6.
//!
//! Fields are read and written whole: the kernel rewrites each access and accepts no other width for a store.

use aya_ebpf::{bindings::bpf_sock_addr, programs::SockAddrContext};
use thalweg_abi::{Be16, Be32, Be128};

use super::address::Address;

/// What a call names.
#[derive(Clone, Copy)]
pub struct Destination<A> {
    pub addr: A,
    pub port: Be16,
}

/// How the address of a call is read and written.
pub trait Call {
    type Addr: Address;

    fn destination(ctx: &SockAddrContext) -> Destination<Self::Addr>;

    fn redirect(ctx: &SockAddrContext, to: Destination<Self::Addr>);
}

/// A call on the hook of IPv4.
pub struct Inet;

/// A call on the hook of IPv6.
pub struct Inet6;

/// A call on the hook of IPv6 that names `::ffff:a.b.c.d`.
pub struct Mapped;

/// Whether a call on the hook of IPv6 is one of [`Mapped`].
#[inline(always)]
pub fn is_mapped(ctx: &SockAddrContext) -> bool {
    Inet6::destination(ctx).addr.is_mapped()
}

#[inline(always)]
fn port(ctx: &SockAddrContext) -> Be16 {
    let raw: *const bpf_sock_addr = ctx.sock_addr;
    // SAFETY: the context is valid for the whole program.
    Be16(unsafe { (&raw const (*raw).user_port).read_volatile() } as u16)
}

#[inline(always)]
fn set_port(ctx: &SockAddrContext, port: Be16) {
    // SAFETY: the context is valid for the whole program, and the field is writable in every hook used here.
    unsafe { (&raw mut (*ctx.sock_addr).user_port).write_volatile(u32::from(port.0)) };
}

#[inline(always)]
fn word(ctx: &SockAddrContext, at: usize) -> u32 {
    let raw: *const bpf_sock_addr = ctx.sock_addr;
    // SAFETY: as in `port`.
    unsafe { (&raw const (*raw).user_ip6[at]).read_volatile() }
}

#[inline(always)]
fn set_word(ctx: &SockAddrContext, at: usize, value: u32) {
    // SAFETY: as in `set_port`.
    unsafe { (&raw mut (*ctx.sock_addr).user_ip6[at]).write_volatile(value) };
}

// === impl Call ===

impl Call for Inet {
    type Addr = Be32;

    #[inline(always)]
    fn destination(ctx: &SockAddrContext) -> Destination<Be32> {
        let raw: *const bpf_sock_addr = ctx.sock_addr;
        // SAFETY: as in `port`.
        let addr = Be32(unsafe { (&raw const (*raw).user_ip4).read_volatile() });
        Destination { addr, port: port(ctx) }
    }

    #[inline(always)]
    fn redirect(ctx: &SockAddrContext, to: Destination<Be32>) {
        // SAFETY: as in `set_port`.
        unsafe { (&raw mut (*ctx.sock_addr).user_ip4).write_volatile(to.addr.0) };
        set_port(ctx, to.port);
    }
}

impl Call for Inet6 {
    type Addr = Be128;

    #[inline(always)]
    fn destination(ctx: &SockAddrContext) -> Destination<Be128> {
        Destination { addr: Be128([word(ctx, 0), word(ctx, 1), word(ctx, 2), word(ctx, 3)]), port: port(ctx) }
    }

    #[inline(always)]
    fn redirect(ctx: &SockAddrContext, to: Destination<Be128>) {
        let [a, b, c, d] = to.addr.0;
        set_word(ctx, 0, a);
        set_word(ctx, 1, b);
        set_word(ctx, 2, c);
        set_word(ctx, 3, d);
        set_port(ctx, to.port);
    }
}

impl Call for Mapped {
    type Addr = Be32;

    #[inline(always)]
    fn destination(ctx: &SockAddrContext) -> Destination<Be32> {
        Destination { addr: Be32(word(ctx, 3)), port: port(ctx) }
    }

    #[inline(always)]
    fn redirect(ctx: &SockAddrContext, to: Destination<Be32>) {
        set_word(ctx, 3, to.addr.0);
        set_port(ctx, to.port);
    }
}
