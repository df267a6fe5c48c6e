//! SOCK_NAT and SOCK_NAT6: what a socket dialled and where that went.
//!
//! A connected UDP socket has one entry; a connected TCP socket is in the registry, and has one here only when that was full.
//! An unconnected UDP socket has a ring, so that the answers of several backends
//! are each shown with the address that was dialled.

use aya_ebpf::programs::SockAddrContext;
use thalweg_abi::{Proto, SOCK_NAT_ENTRIES, Slot, SockNat, SockNatEntry};

use super::{address::Address, call::Destination};

/// The ring's size is a power of two: the mask keeps an index inside, and shows the verifier that it is.
const MASK: u32 = SOCK_NAT_ENTRIES as u32 - 1;
const _: () = assert!(SOCK_NAT_ENTRIES.is_power_of_two());

/// The socket's memory, if it has one.
#[inline(always)]
pub fn find<A: Address>(ctx: &SockAddrContext) -> Option<&'static mut SockNat<A>> {
    // SAFETY: the context's socket is valid; storage lives as long as the socket, which outlives this program.
    unsafe { A::storage().get_ptr_mut(ctx).as_mut() }
}

/// The socket's memory, made (empty) when it has none; `None` when the kernel has no room for it.
#[inline(always)]
pub fn find_or_make<A: Address>(ctx: &SockAddrContext) -> Option<&'static mut SockNat<A>> {
    // SAFETY: as in `find`.
    unsafe { A::storage().get_or_insert_ptr_mut(ctx, None).as_mut() }
}

/// Empties the socket's memory.
#[inline(always)]
pub fn forget<A: Address>(ctx: &SockAddrContext) {
    if let Some(nat) = find::<A>(ctx) {
        nat.used = 0;
        nat.next = 0;
    }
}

/// The only entry of a connected socket.
#[inline(always)]
pub fn remember_connected<A: Address>(nat: &mut SockNat<A>, dialled: Destination<A>, slot: &Slot, proto: Proto) {
    nat.entries[0] = entry(dialled, slot);
    nat.used = 1;
    nat.next = 1;
    nat.proto = proto;
}

/// An entry of an unconnected socket: in the place of an earlier one, or one more; the oldest makes room.
#[inline(always)]
pub fn remember<A: Address>(nat: &mut SockNat<A>, place: Option<u32>, dialled: Destination<A>, slot: &Slot) {
    let at = match place {
        Some(at) => at & MASK,
        None => {
            let at = nat.next & MASK;
            nat.next = (at + 1) & MASK;
            nat.used = (nat.used + 1).min(SOCK_NAT_ENTRIES as u32);
            at
        }
    };
    nat.entries[at as usize] = entry(dialled, slot);
    nat.proto = Proto::UDP;
}

#[inline(always)]
fn entry<A: Address>(dialled: Destination<A>, slot: &Slot) -> SockNatEntry<A> {
    SockNatEntry {
        vip: dialled.addr,
        vip_port: dialled.port,
        backend_addr: A::narrow(slot.addr),
        backend_port: slot.port,
        backend: slot.backend,
        generation: slot.generation,
    }
}

/// Where the entry of a dialled address is.
#[inline(always)]
pub fn by_dialled<A: Address>(nat: &SockNat<A>, dialled: Destination<A>) -> Option<u32> {
    for (at, known) in nat.entries.iter().enumerate() {
        if at as u32 >= nat.used {
            break;
        }
        if known.vip == dialled.addr && known.vip_port == dialled.port {
            return Some(at as u32);
        }
    }
    None
}

/// The entry in one place.
#[inline(always)]
pub fn at<A: Address>(nat: &SockNat<A>, place: u32) -> &SockNatEntry<A> {
    &nat.entries[(place & MASK) as usize]
}

/// What was dialled to reach this peer. The newest entry wins: one backend may stand behind several addresses.
#[inline(always)]
pub fn by_backend<A: Address>(nat: &SockNat<A>, peer: Destination<A>) -> Option<Destination<A>> {
    let (used, next) = (nat.used, nat.next);
    for age in 1..=SOCK_NAT_ENTRIES as u32 {
        if age > used {
            break;
        }
        let known = &nat.entries[(next.wrapping_sub(age) & MASK) as usize];
        if known.backend_addr == peer.addr && known.backend_port == peer.port {
            return Some(Destination { addr: known.vip, port: known.vip_port });
        }
    }
    None
}
