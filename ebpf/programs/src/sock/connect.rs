//! cgroup/connect4, cgroup/connect6: a TCP or UDP socket dials.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};
use thalweg_abi::{Be32, Be128, Counter, Proto};

use super::{
    ALLOW, ECONNREFUSED,
    address::Address,
    call::{Call, Destination, Inet, Inet6, Mapped, is_mapped},
    fail, memory, protocol, registry,
    select::{Verdict, choose, knock},
};
use crate::{
    config::SOCKET_LB,
    count::{count, count_socket},
};

#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    connect::<Inet>(&ctx)
}

#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    if is_mapped(&ctx) { connect::<Mapped>(&ctx) } else { connect::<Inet6>(&ctx) }
}

#[inline(always)]
fn connect<C: Call>(ctx: &SockAddrContext) -> i32 {
    if SOCKET_LB.load() == 0 {
        start_over(ctx);
        return ALLOW;
    }
    let Some(proto) = protocol(ctx) else { return ALLOW };
    let dialled = C::destination(ctx);
    let knock = knock(ctx, dialled, proto);
    match knock.verdict {
        Verdict::Serve => {}
        Verdict::Refuse => return refused(ctx),
        Verdict::Pass => {
            start_over(ctx);
            return ALLOW;
        }
    }
    let Some(slot) = choose(&knock, proto) else { return refused(ctx) };
    let is_entered = registry::enter(ctx, dialled, knock.frontend.service, &slot, proto);
    // Without memory the socket would see the backend as its peer: harmless for TCP, and for UDP the socket is
    // connected, so the kernel itself accepts the answer.
    if (proto == Proto::UDP || !is_entered)
        && let Some(nat) = memory::find_or_make::<C::Addr>(ctx)
    {
        memory::remember_connected(nat, dialled, &slot, proto);
    }
    C::redirect(ctx, Destination { addr: C::Addr::narrow(slot.addr), port: slot.port });
    count(Counter::SockTranslated);
    count_socket(knock.frontend.service);
    ALLOW
}

#[inline(always)]
fn refused(ctx: &SockAddrContext) -> i32 {
    start_over(ctx);
    count(Counter::SockRefused);
    fail(ECONNREFUSED)
}

/// A socket that dials again forgets what it dialled before, of whichever family that was: or a direct connection to a
/// former backend would be shown as one to the VIP, and be ended with it.
#[inline(always)]
fn start_over(ctx: &SockAddrContext) {
    memory::forget::<Be32>(ctx);
    memory::forget::<Be128>(ctx);
    registry::leave(ctx);
}
