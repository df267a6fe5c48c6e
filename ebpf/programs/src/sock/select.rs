//! From a dialled address to a backend: one hash and one array look-up on a hit.

use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use thalweg_abi::{
    Backend, BackendState, Counter, DropReason, Frontend, FrontendFlags, FrontendKey, Proto, Scope, Slot, SockNatEntry,
};

use super::Destination;
use crate::{
    count::{count, count_drop},
    maps::{BACKENDS, FRONTENDS, SLOTS},
};

/// What the frontends say about a destination.
pub enum Frontdoor {
    /// Not one of ours.
    Foreign,
    /// Ours, and there is nobody to answer: refuse.
    Refused,
    /// Ours, and a Local policy allows nobody here: the packet goes on to tc, which drops it.
    Dropped,
    /// Ours; the range of slots to choose from is not empty.
    Open { base: u32, count: u32 },
}

#[inline(always)]
pub fn knock(destination: Destination, proto: Proto) -> Frontdoor {
    count(Counter::SockLookup);
    let key = FrontendKey { vip: destination.addr, port: destination.port, proto, scope: Scope::INTERNAL };
    // SAFETY: nothing here writes to the map; user space replaces a value as a whole.
    if let Some(frontend) = unsafe { FRONTENDS.get(key) } {
        return open(frontend);
    }
    // SAFETY: as above.
    match unsafe { FRONTENDS.get(FrontendKey::wildcard(destination.addr)) } {
        Some(_) => Frontdoor::Refused,
        None => Frontdoor::Foreign,
    }
}

#[inline(always)]
fn open(frontend: &Frontend) -> Frontdoor {
    let Frontend { base, count, flags, .. } = *frontend;
    match count {
        0 if flags.has(FrontendFlags::DROP_WHEN_EMPTY) => Frontdoor::Dropped,
        0 => Frontdoor::Refused,
        _ => Frontdoor::Open { base, count },
    }
}

/// One slot of the range, at random.
#[inline(always)]
pub fn choose(base: u32, count: u32) -> Option<Slot> {
    // SAFETY: a helper without arguments.
    let random = unsafe { bpf_get_prandom_u32() };
    // Scaled by multiplication: as even as a remainder, and no division.
    let offset = ((u64::from(random) * u64::from(count)) >> 32) as u32;
    let slot = SLOTS.get(base.wrapping_add(offset)).copied();
    if slot.is_none() {
        count_drop(DropReason::BadSlot);
    }
    slot
}

/// Whether a remembered backend is still the one that was chosen. A draining one keeps its old flows.
#[inline(always)]
pub fn is_alive(entry: &SockNatEntry) -> bool {
    match BACKENDS.get(entry.backend) {
        Some(Backend { state, generation, .. }) => *generation == entry.generation && *state != BackendState::FREE,
        None => false,
    }
}
