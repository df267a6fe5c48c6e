//! cgroup/connect4: a TCP or UDP socket dials an IPv4 address.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};
use thalweg_abi::Counter;

use super::{
    ALLOW, Destination, destination, memory, protocol, refuse,
    select::{Frontdoor, choose, knock},
    set_destination,
};
use crate::{config::SOCKET_LB, count::count};

#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    if SOCKET_LB.load() == 0 {
        return ALLOW;
    }
    let Some(proto) = protocol(&ctx) else { return ALLOW };
    let dialled = destination(&ctx);
    let (base, slots) = match knock(dialled, proto) {
        Frontdoor::Open { base, count } => (base, count),
        Frontdoor::Refused => return refused(&ctx),
        Frontdoor::Foreign | Frontdoor::Dropped => {
            start_over(&ctx);
            return ALLOW;
        }
    };
    let Some(slot) = choose(base, slots) else { return refused(&ctx) };
    // Without memory the socket would see the backend as its peer: harmless for TCP, and for UDP the socket is
    // connected, so the kernel itself accepts the answer.
    if let Some(nat) = memory::find_or_make(&ctx) {
        memory::remember_connected(nat, dialled, &slot, proto);
    }
    set_destination(&ctx, Destination { addr: slot.addr.v4(), port: slot.port });
    count(Counter::SockTranslated);
    ALLOW
}

#[inline(always)]
fn refused(ctx: &SockAddrContext) -> i32 {
    start_over(ctx);
    count(Counter::SockRefused);
    refuse()
}

/// A socket that dials again forgets what it dialled before, or a direct connection to a former backend would be
/// shown as one to the VIP.
#[inline(always)]
fn start_over(ctx: &SockAddrContext) {
    if let Some(nat) = memory::find(ctx) {
        memory::forget(nat);
    }
}
