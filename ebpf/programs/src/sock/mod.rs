//! Socket load balancing: a destination is translated once, when a socket names it, and back when the socket asks
//! who its peer is. Packets then flow as if the client had dialled the backend.
//!
//! A pure optimisation: what passes here untranslated is handled by the tc programs.

mod connect4;
mod getpeername4;
mod memory;
mod recvmsg4;
mod select;
mod sendmsg4;

use aya_ebpf::{bindings::bpf_sock_addr, helpers::generated::bpf_set_retval, programs::SockAddrContext};
use thalweg_abi::{Be16, Be32, Proto};

/// Return values of cgroup/sock_addr programs.
const ALLOW: i32 = 1;
const DENY: i32 = 0;

const ECONNREFUSED: i32 = 111;
const IPPROTO_TCP: u32 = 6;
const IPPROTO_UDP: u32 = 17;
/// An MPTCP socket dials TCP; its subflows inherit the translated address.
const IPPROTO_MPTCP: u32 = 262;

/// The address that a socket call names.
#[derive(Clone, Copy)]
struct Destination {
    addr: Be32,
    port: Be16,
}

/// The call's address as the context holds it. Fields are read and written whole: the kernel rewrites each access
/// and accepts no other width for a store.
#[inline(always)]
fn destination(ctx: &SockAddrContext) -> Destination {
    let raw: *const bpf_sock_addr = ctx.sock_addr;
    // SAFETY: the context is valid for the whole program.
    let (addr, port) = unsafe { ((&raw const (*raw).user_ip4).read_volatile(), (&raw const (*raw).user_port).read_volatile()) };
    Destination { addr: Be32(addr), port: Be16(port as u16) }
}

#[inline(always)]
fn set_destination(ctx: &SockAddrContext, destination: Destination) {
    let raw = ctx.sock_addr;
    // SAFETY: the context is valid for the whole program, and these fields are writable in every hook used here.
    unsafe {
        (&raw mut (*raw).user_ip4).write_volatile(destination.addr.0);
        (&raw mut (*raw).user_port).write_volatile(u32::from(destination.port.0));
    }
}

/// The socket's protocol if it is one that is balanced.
#[inline(always)]
fn protocol(ctx: &SockAddrContext) -> Option<Proto> {
    let raw: *const bpf_sock_addr = ctx.sock_addr;
    // SAFETY: the context is valid for the whole program.
    match unsafe { (&raw const (*raw).protocol).read_volatile() } {
        IPPROTO_TCP | IPPROTO_MPTCP => Some(Proto::TCP),
        IPPROTO_UDP => Some(Proto::UDP),
        _ => None,
    }
}

/// Makes the call fail with ECONNREFUSED, as if a RST or an ICMP port-unreachable had come back.
#[inline(always)]
fn refuse() -> i32 {
    // SAFETY: a helper without pointers, allowed in connect and sendmsg hooks.
    unsafe { bpf_set_retval(-ECONNREFUSED) };
    DENY
}
