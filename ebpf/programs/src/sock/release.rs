//! cgroup/sock_release: a socket is closed; the agent need not know it any more. Also with the load balancer off.

use aya_ebpf::{macros::cgroup_sock, programs::SockContext};

use super::{ALLOW, registry};

#[cgroup_sock(sock_release)]
pub fn sock_release(ctx: SockContext) -> i32 {
    registry::leave(&ctx);
    ALLOW
}
