//! From a dialled tuple to a frontend, and from a frontend to a slot.

use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use thalweg_abi::{BackendState, Be32, Counter, DropReason, Frontend, FrontendFlags, FrontendKey, Scope, Slot, Tuple};

use crate::{
    count::count,
    maps::{BACKENDS, FRONTENDS, SLOTS},
};

/// What the frontends say about a tuple.
pub enum Found {
    /// Not one of ours.
    Nothing,
    /// The address is ours, the port is nobody's.
    Wildcard,
    Frontend(Frontend),
}

/// From the wire, the external policy comes first and the internal one serves what has no other: a cluster address
/// dialled through this node.
#[inline(always)]
pub fn find(tuple: &Tuple, from_wire: bool) -> Found {
    count(Counter::TcLookup);
    if from_wire && let Some(frontend) = frontend(tuple, Scope::EXTERNAL) {
        return Found::Frontend(frontend);
    }
    if let Some(frontend) = frontend(tuple, Scope::INTERNAL) {
        return Found::Frontend(frontend);
    }
    if is_ours(tuple.dst) { Found::Wildcard } else { Found::Nothing }
}

#[inline(always)]
fn frontend(tuple: &Tuple, scope: Scope) -> Option<Frontend> {
    let key = FrontendKey { vip: tuple.dst, port: tuple.dport, proto: tuple.proto, scope };
    // SAFETY: copied at once; user space replaces a value as a whole.
    unsafe { FRONTENDS.get(key) }.copied()
}

/// Whether an address belongs to services, whatever the port.
#[inline(always)]
pub fn is_ours(addr: Be32) -> bool {
    // Presence would do, but a pointer that is only compared with null may be merged with other conditions, which
    // the verifier takes for arithmetic on it. A flag that is read is a number.
    // SAFETY: read at once.
    match unsafe { FRONTENDS.get(FrontendKey::wildcard(addr)) } {
        Some(frontend) => frontend.flags.has(FrontendFlags::WILDCARD),
        None => false,
    }
}

/// Why a packet to a service's address that cannot be served here is dropped; `None` for all other addresses.
#[inline(always)]
pub fn stray(tuple: &Tuple) -> Option<DropReason> {
    if !is_ours(tuple.dst) {
        return None;
    }
    match frontend(tuple, Scope::INTERNAL) {
        Some(frontend) if frontend.count == 0 && frontend.flags.has(FrontendFlags::DROP_WHEN_EMPTY) => {
            Some(DropReason::NoLocalEndpoint)
        }
        _ => Some(DropReason::NoFlow),
    }
}

#[inline(always)]
pub fn random() -> u32 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_get_prandom_u32() }
}

/// One slot of a frontend's range, at random. `None` is a defect: the range lies outside the array.
#[inline(always)]
pub fn choose(frontend: &Frontend) -> Option<Slot> {
    // Scaled by multiplication: as even as a remainder, and no division.
    let offset = ((u64::from(random()) * u64::from(frontend.count)) >> 32) as u32;
    SLOTS.get(frontend.base.wrapping_add(offset)).copied()
}

/// Whether a backend id still is who it was. A draining backend keeps its flows.
#[inline(always)]
pub fn is_alive(backend: u32, generation: u32) -> bool {
    match BACKENDS.get(backend) {
        Some(found) => found.generation == generation && found.state != BackendState::FREE,
        None => false,
    }
}
