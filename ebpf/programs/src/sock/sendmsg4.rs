//! cgroup/sendmsg4: a UDP socket sends a datagram to an address it names in the call.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};
use thalweg_abi::{Counter, Proto};

use super::{
    ALLOW, Destination, destination, memory, protocol, refuse,
    select::{Frontdoor, choose, is_alive, knock},
    set_destination,
};
use crate::{config::SOCKET_LB, count::count};

#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    if SOCKET_LB.load() == 0 || protocol(&ctx) != Some(Proto::UDP) {
        return ALLOW;
    }
    let dialled = destination(&ctx);
    let (base, slots) = match knock(dialled, Proto::UDP) {
        Frontdoor::Open { base, count } => (base, count),
        Frontdoor::Refused => return refused(),
        Frontdoor::Foreign | Frontdoor::Dropped => return ALLOW,
    };
    // Without memory the answer would show the backend's address, and the client would discard it.
    let Some(nat) = memory::find_or_make(&ctx) else { return ALLOW };
    if let Some(known) = memory::by_dialled(nat, dialled) {
        if !is_alive(known) {
            let Some(slot) = choose(base, slots) else { return refused() };
            memory::rebind(known, dialled, &slot);
        }
        set_destination(&ctx, Destination { addr: known.backend_addr, port: known.backend_port });
    } else {
        let Some(slot) = choose(base, slots) else { return refused() };
        memory::remember(nat, dialled, &slot);
        set_destination(&ctx, Destination { addr: slot.addr.v4(), port: slot.port });
    }
    count(Counter::SockTranslated);
    ALLOW
}

#[inline(always)]
fn refused() -> i32 {
    count(Counter::SockRefused);
    refuse()
}
