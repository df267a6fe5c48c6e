//! Socket load balancing: a destination is translated once, when a socket names it, and back when the socket asks
//! who its peer is. Packets then flow as if the client had dialled the backend.
//!
//! A pure optimisation: what passes here untranslated is handled by the tc programs.
//!
//! Each hook exists once for both families: [`call`] reads and writes the address of a call, [`address`] knows the
//! tables of a family. A socket of IPv6 that dials `::ffff:a.b.c.d` is a client of IPv4 whose addresses are shown mapped.

mod address;
mod answer;
mod bind;
mod call;
mod client;
mod connect;
mod memory;
mod registry;
mod release;
mod select;
mod sendmsg;

use aya_ebpf::{EbpfContext, bindings::bpf_sock_addr, helpers::generated::bpf_set_retval, programs::SockAddrContext};
use thalweg_abi::Proto;

/// Return values of cgroup programs.
const ALLOW: i32 = 1;
const DENY: i32 = 0;

const EADDRINUSE: i32 = 98;
const ECONNREFUSED: i32 = 111;

const IPPROTO_TCP: u32 = 6;
const IPPROTO_UDP: u32 = 17;
/// An MPTCP socket dials TCP; its subflows inherit the translated address.
const IPPROTO_MPTCP: u32 = 262;

/// A socket's protocol if it is one that is balanced.
#[inline(always)]
fn balanced(protocol: u32) -> Option<Proto> {
    match protocol {
        IPPROTO_TCP | IPPROTO_MPTCP => Some(Proto::TCP),
        IPPROTO_UDP => Some(Proto::UDP),
        _ => None,
    }
}

/// The protocol of the socket that makes a call.
#[inline(always)]
fn protocol(ctx: &SockAddrContext) -> Option<Proto> {
    let raw: *const bpf_sock_addr = ctx.sock_addr;
    // SAFETY: the context is valid for the whole program.
    balanced(unsafe { (&raw const (*raw).protocol).read_volatile() })
}

/// Makes the call fail with this error.
#[inline(always)]
fn fail(errno: i32) -> i32 {
    // SAFETY: a helper without pointers, allowed in the connect, sendmsg and bind hooks.
    unsafe { bpf_set_retval(-errno) };
    DENY
}

/// The cookie of the network namespace of the socket that makes a call.
#[inline(always)]
fn netns_cookie(ctx: &impl EbpfContext) -> u64 {
    // SAFETY: the helper takes the context of a cgroup program.
    unsafe { aya_ebpf::helpers::generated::bpf_get_netns_cookie(ctx.as_ptr()) }
}

/// The cookie of the socket that makes a call.
#[inline(always)]
fn socket_cookie(ctx: &impl EbpfContext) -> u64 {
    // SAFETY: as above.
    unsafe { aya_ebpf::helpers::generated::bpf_get_socket_cookie(ctx.as_ptr()) }
}
