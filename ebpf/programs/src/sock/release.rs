//! cgroup/sock_release: a socket is closed; the agent need not know it any more. Also with the load balancer off.

use aya_ebpf::{macros::cgroup_sock, programs::SockContext};
use thalweg_abi::{Be32, Be128};

use super::{ALLOW, memory, registry};

#[cgroup_sock(sock_release)]
pub fn sock_release(ctx: SockContext) -> i32 {
    // Nearly every socket that is closed was never translated; two look-ups in its own storage tell.
    if memory::was_used::<Be32>(&ctx) || memory::was_used::<Be128>(&ctx) {
        registry::leave(&ctx);
    }
    ALLOW
}
