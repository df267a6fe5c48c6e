//! cgroup/recvmsg4: a UDP socket asks where a datagram came from; it is told what it dialled. Also with the load
//! balancer off: sockets that were translated before still live.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};

use super::{ALLOW, destination, memory, set_destination};

#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(ctx: SockAddrContext) -> i32 {
    if let Some(nat) = memory::find(&ctx)
        && let Some(dialled) = memory::by_backend(nat, destination(&ctx))
    {
        set_destination(&ctx, dialled);
    }
    ALLOW
}
