//! SOCK_NAT: what a socket dialled and where that went.
//!
//! A connected socket has one entry. An unconnected UDP socket has a ring, so that the answers of several backends
//! are each shown with the address that was dialled.

use aya_ebpf::programs::SockAddrContext;
use thalweg_abi::{Proto, SOCK_NAT_ENTRIES, Slot, SockNat, SockNatEntry};

use super::Destination;
use crate::maps::SOCK_NAT;

/// The ring's size is a power of two: the mask keeps an index inside, and shows the verifier that it is.
const MASK: u32 = SOCK_NAT_ENTRIES as u32 - 1;
const _: () = assert!(SOCK_NAT_ENTRIES.is_power_of_two());

/// The socket's memory, if it has one.
#[inline(always)]
pub fn find(ctx: &SockAddrContext) -> Option<&'static mut SockNat> {
    // SAFETY: the context's socket is valid; storage lives as long as the socket, which outlives this program.
    unsafe { SOCK_NAT.get_ptr_mut(ctx).as_mut() }
}

/// The socket's memory, made (empty) when it has none; `None` when the kernel has no room for it.
#[inline(always)]
pub fn find_or_make(ctx: &SockAddrContext) -> Option<&'static mut SockNat> {
    // SAFETY: as in `find`.
    unsafe { SOCK_NAT.get_or_insert_ptr_mut(ctx, None).as_mut() }
}

#[inline(always)]
pub fn forget(nat: &mut SockNat) {
    nat.used = 0;
    nat.next = 0;
}

/// The only entry of a connected socket.
#[inline(always)]
pub fn remember_connected(nat: &mut SockNat, dialled: Destination, slot: &Slot, proto: Proto) {
    nat.entries[0] = entry(dialled, slot);
    nat.used = 1;
    nat.next = 1;
    nat.proto = proto;
}

/// One more entry of an unconnected socket; the oldest makes room.
#[inline(always)]
pub fn remember(nat: &mut SockNat, dialled: Destination, slot: &Slot) {
    let at = nat.next & MASK;
    nat.entries[at as usize] = entry(dialled, slot);
    nat.next = (at + 1) & MASK;
    nat.used = (nat.used + 1).min(SOCK_NAT_ENTRIES as u32);
    nat.proto = Proto::UDP;
}

/// Replaces the backend that an entry remembers.
#[inline(always)]
pub fn rebind(known: &mut SockNatEntry, dialled: Destination, slot: &Slot) {
    *known = entry(dialled, slot);
}

#[inline(always)]
fn entry(dialled: Destination, slot: &Slot) -> SockNatEntry {
    SockNatEntry {
        vip: dialled.addr,
        vip_port: dialled.port,
        backend_addr: slot.addr.v4(),
        backend_port: slot.port,
        backend: slot.backend,
        generation: slot.generation,
    }
}

/// Where the entry of a dialled address is.
#[inline(always)]
pub fn by_dialled(nat: &mut SockNat, dialled: Destination) -> Option<&mut SockNatEntry> {
    let used = nat.used;
    for (at, known) in nat.entries.iter_mut().enumerate() {
        if at as u32 >= used {
            break;
        }
        if known.vip == dialled.addr && known.vip_port == dialled.port {
            return Some(known);
        }
    }
    None
}

/// What was dialled to reach this peer. The newest entry wins: one backend may stand behind several addresses.
#[inline(always)]
pub fn by_backend(nat: &SockNat, peer: Destination) -> Option<Destination> {
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
