//! SOCK_BACKENDS: which connected sockets go to which backend, and what they dialled. The agent ends the sockets of a backend
//! that is gone by it; TCP sockets need no other memory, which costs half as much as storage of their own.

use aya_ebpf::{EbpfContext, bindings::BPF_ANY, programs::SockAddrContext};
use thalweg_abi::{Counter, Proto, Slot, SockBackend};

use super::{address::Address, call::Destination, socket_cookie};
use crate::{count::count, maps::SOCK_BACKENDS};

/// Enters a socket that connects; false when the table is full. That is no reason to fail the call: the socket then lives
/// like one without load balancer, and is not ended when its backend goes.
#[inline(always)]
pub fn enter<A: Address>(ctx: &SockAddrContext, dialled: Destination<A>, service: u32, slot: &Slot, proto: Proto) -> bool {
    let value = SockBackend {
        vip: dialled.addr.wide(),
        peer: slot.addr,
        vip_port: dialled.port,
        peer_port: slot.port,
        proto,
        pad: [0; 3],
        backend: slot.backend,
        generation: slot.generation,
        service,
    };
    let is_entered = SOCK_BACKENDS.insert(socket_cookie(ctx), value, u64::from(BPF_ANY)).is_ok();
    if !is_entered {
        count(Counter::SockBackendsFull);
    }
    is_entered
}

/// What a socket dialled to reach this peer. One that dialled again while nobody looked (the load balancer was off) has
/// another peer by now.
#[inline(always)]
pub fn dialled<A: Address>(ctx: &SockAddrContext, peer: Destination<A>) -> Option<Destination<A>> {
    // SAFETY: the entry is of this socket, which makes no second call meanwhile that would replace it.
    let known = unsafe { SOCK_BACKENDS.get(socket_cookie(ctx)) }?;
    (known.peer_port == peer.port && known.peer == peer.addr.wide())
        .then(|| Destination { addr: A::narrow(known.vip), port: known.vip_port })
}

/// Removes a socket that dials elsewhere, or is released. Nearly every one was never translated: a look-up tells, and takes
/// no lock.
#[inline(always)]
pub fn leave(ctx: &impl EbpfContext) {
    let cookie = socket_cookie(ctx);
    // SAFETY: nothing of the entry is read.
    if unsafe { SOCK_BACKENDS.get(cookie) }.is_some() {
        let _ = SOCK_BACKENDS.remove(cookie);
    }
}
