//! cgroup/getpeername and cgroup/recvmsg of both families: a socket asks for its peer, or where a datagram came from; it
//! is told what it dialled. Also with the load balancer off: sockets that were translated before still live.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};
use thalweg_abi::Proto;

use super::{
    ALLOW,
    call::{Call, Inet, Inet6, Mapped, is_mapped},
    memory, protocol, registry,
};

#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    show::<Inet>(&ctx)
}

#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    show6(&ctx)
}

#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(ctx: SockAddrContext) -> i32 {
    show::<Inet>(&ctx)
}

#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(ctx: SockAddrContext) -> i32 {
    show6(&ctx)
}

#[inline(always)]
fn show6(ctx: &SockAddrContext) -> i32 {
    if is_mapped(ctx) { show::<Mapped>(ctx) } else { show::<Inet6>(ctx) }
}

#[inline(always)]
fn show<C: Call>(ctx: &SockAddrContext) -> i32 {
    if protocol(ctx) == Some(Proto::TCP)
        && let Some(dialled) = registry::dialled(ctx, C::destination(ctx))
    {
        C::redirect(ctx, dialled);
    } else if let Some(nat) = memory::find::<C::Addr>(ctx)
        && let Some(dialled) = memory::by_backend(nat, C::destination(ctx))
    {
        C::redirect(ctx, dialled);
    }
    ALLOW
}
