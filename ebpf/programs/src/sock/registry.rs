//! SOCK_BACKENDS: which connected sockets go to which backend, for the agent that ends them when it is gone.

use aya_ebpf::{EbpfContext, bindings::BPF_ANY, programs::SockAddrContext};
use thalweg_abi::{Counter, Proto, Slot, SockBackend};

use super::socket_cookie;
use crate::{count::count, maps::SOCK_BACKENDS};

/// Enters a socket that connects. A full table is no reason to fail the call: the socket then lives like one without
/// load balancer, and is not ended when its backend goes.
#[inline(always)]
pub fn enter(ctx: &SockAddrContext, slot: &Slot, proto: Proto) {
    let value = SockBackend { backend: slot.backend, generation: slot.generation, proto, pad: [0; 3] };
    if SOCK_BACKENDS.insert(socket_cookie(ctx), value, u64::from(BPF_ANY)).is_err() {
        count(Counter::SockBackendsFull);
    }
}

/// Removes a socket that dials elsewhere, or is released.
#[inline(always)]
pub fn leave(ctx: &impl EbpfContext) {
    let _ = SOCK_BACKENDS.remove(socket_cookie(ctx));
}
