//! cgroup/sendmsg4, cgroup/sendmsg6: a UDP socket sends a datagram to an address it names in the call. A socket of IPv6
//! that names a mapped address is on the hook of IPv4: the kernel unwraps the address first.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};
use thalweg_abi::{Counter, Proto};

use super::{
    ALLOW, ECONNREFUSED,
    address::Address,
    call::{Call, Destination, Inet, Inet6},
    fail, memory, protocol,
    select::{Verdict, choose, knock},
};
use crate::{
    config::SOCKET_LB,
    count::{count, count_socket},
    policy,
};

#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    send::<Inet>(&ctx)
}

#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    send::<Inet6>(&ctx)
}

#[inline(always)]
fn send<C: Call>(ctx: &SockAddrContext) -> i32 {
    if SOCKET_LB.load() == 0 || protocol(ctx) != Some(Proto::UDP) {
        return ALLOW;
    }
    let dialled = C::destination(ctx);
    let knock = knock(ctx, dialled, Proto::UDP);
    match knock.verdict {
        Verdict::Serve => {}
        Verdict::Refuse => return refused(),
        Verdict::Pass => return ALLOW,
    }
    // Without memory the answer would show the backend's address, and the client would discard it.
    let Some(nat) = memory::find_or_make::<C::Addr>(ctx) else { return ALLOW };
    let place = memory::by_dialled(nat, dialled);
    let to = match place.map(|at| memory::at(nat, at)) {
        // Whether the service still has it is not asked: to look for it in the range, in each of the places that the socket
        // remembers, takes more steps than the verifier walks.
        Some(known) if policy::is_alive(known.backend, known.generation) => {
            Destination { addr: known.backend_addr, port: known.backend_port }
        }
        // The first datagram to this address, or the first after its backend went.
        _ => {
            let Some(slot) = choose(&knock, Proto::UDP) else { return refused() };
            memory::remember(nat, place, dialled, &slot);
            count_socket(knock.frontend.service);
            Destination { addr: C::Addr::narrow(slot.addr), port: slot.port }
        }
    };
    C::redirect(ctx, to);
    count(Counter::SockTranslated);
    ALLOW
}

#[inline(always)]
fn refused() -> i32 {
    count(Counter::SockRefused);
    fail(ECONNREFUSED)
}
