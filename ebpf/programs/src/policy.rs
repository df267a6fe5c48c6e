//! Who is served, and by whom: source ranges, affinity, and the choice of a slot. The socket load balancer and tc share
//! these rules and the tables behind them. Clients of IPv4 come mapped.

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    btf_maps::lpm_trie::Key,
    helpers::generated::{bpf_get_prandom_u32, bpf_ktime_get_coarse_ns},
};
use thalweg_abi::{
    Affinity, AffinityKey, Backend, BackendState, Be16, Be128, Counter, DropReason, Frontend, FrontendFlags, Proto, Slot,
    SourceRange, flow::idle,
};

use crate::{
    count::{count, count_drop},
    maps::{AFFINITY, BACKENDS, SLOTS, SOURCE_RANGES},
};

const NANOSECONDS: u64 = 1_000_000_000;
const EEXIST: i32 = -17;
/// Halvings that search the largest range.
const HALVINGS: u32 = 20;
/// No slot: no array is that long.
const NONE: u32 = u32::MAX;

/// Seconds since boot.
#[inline(always)]
pub fn now() -> u32 {
    // SAFETY: a helper without arguments.
    (unsafe { bpf_ktime_get_coarse_ns() } / NANOSECONDS) as u32
}

#[inline(always)]
pub fn random() -> u32 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_get_prandom_u32() }
}

/// Whether a backend id still is who it was. A draining backend keeps its flows.
#[inline(always)]
pub fn is_alive(backend: u32, generation: u32) -> bool {
    match BACKENDS.get(backend) {
        Some(found) => found.generation == generation && found.state != BackendState::FREE,
        None => false,
    }
}

/// Whether the service behind a frontend admits a client; one whose address is not known is admitted only where all are.
#[inline(always)]
pub fn admits(frontend: &Frontend, client: Option<Be128>) -> bool {
    if !frontend.flags.has(FrontendFlags::CHECK_SOURCE) {
        return true;
    }
    match client {
        Some(addr) => {
            let key = Key::new(SourceRange::WHOLE, SourceRange { service: frontend.service, addr });
            // A value that is read, because a pointer that is only compared may be merged with other conditions, which
            // the verifier takes for arithmetic on it.
            SOURCE_RANGES.get(&key).is_some_and(|value| *value != NONE)
        }
        None => false,
    }
}

/// A slot of a frontend's range, which must not be empty: the one that the client keeps, where there is affinity and the
/// client is known, else one at random. `None`, counted, is a defect: the range lies outside the array.
#[inline(always)]
pub fn choose(frontend: &Frontend, client: Option<Be128>, proto: Proto, now: u32) -> Option<Slot> {
    let index = match client {
        Some(client) if frontend.affinity_seconds != 0 => {
            let local = u8::from(frontend.flags.has(FrontendFlags::LOCAL_SET));
            let key = AffinityKey { client, service: frontend.service, port: frontend.service_port, proto, local };
            sticky(&key, frontend, now)
        }
        _ => any(frontend),
    };
    let slot = SLOTS.get(index).copied();
    if slot.is_none() {
        count_drop(DropReason::BadSlot);
    }
    slot
}

/// The index of one slot of the range, at random.
#[inline(always)]
fn any(frontend: &Frontend) -> u32 {
    // Scaled by multiplication: as even as a remainder, and no division.
    frontend.base.wrapping_add(((u64::from(random()) * u64::from(frontend.count)) >> 32) as u32)
}

/// The index of the slot that a client keeps, or gets from now on.
///
/// A function of its own: rare, and its stack is not that of the packets without affinity.
#[inline(never)]
fn sticky(key: &AffinityKey, frontend: &Frontend, now: u32) -> u32 {
    let known = AFFINITY.get_ptr_mut(key);
    if let Some(known) = known {
        let index = kept(known, frontend, now);
        if index != NONE {
            return index;
        }
    }
    let index = any(frontend);
    let Some(slot) = SLOTS.get(index) else { return NONE };
    let memory = Affinity {
        backend: slot.backend,
        generation: slot.generation,
        offset: index.wrapping_sub(frontend.base),
        last_seen: now,
        seconds: frontend.affinity_seconds,
    };
    if let Some(known) = known {
        // SAFETY: the element stays readable for the whole program. Whoever reads it half written finds no such backend,
        // and chooses too.
        unsafe { *known = memory };
        return index;
    }
    match AFFINITY.insert(key, memory, u64::from(BPF_NOEXIST)) {
        Ok(()) => index,
        // Two connections of the client at one time: what came first stands.
        Err(EEXIST) => match AFFINITY.get_ptr_mut(key).map(|known| kept(known, frontend, now)) {
            Some(kept) if kept != NONE => kept,
            _ => index,
        },
        Err(_) => {
            count(Counter::AffinityFull);
            index
        }
    }
}

/// The index of the slot that a client has kept, if it may keep it.
#[inline(always)]
fn kept(known: *mut Affinity, frontend: &Frontend, now: u32) -> u32 {
    // SAFETY: as in `sticky`.
    let was = unsafe { *known };
    if idle(was.last_seen, now) > frontend.affinity_seconds {
        return NONE;
    }
    let Some(backend) = BACKENDS.get(was.backend) else { return NONE };
    // The range says who serves: backends that drain are in it when nobody else is left.
    if backend.generation != was.generation || backend.state == BackendState::FREE {
        return NONE;
    }
    let offset = if holds(frontend, was.offset, &was) { was.offset } else { search(frontend, backend, &was) };
    if offset == NONE {
        return NONE;
    }
    // SAFETY: as in `sticky`; written one by one.
    unsafe {
        (*known).offset = offset;
        (*known).last_seen = now;
        (*known).seconds = frontend.affinity_seconds;
    }
    count(Counter::AffinityHit);
    frontend.base.wrapping_add(offset)
}

/// Whether a slot of the range is that backend's.
#[inline(always)]
fn holds(frontend: &Frontend, offset: u32, was: &Affinity) -> bool {
    if offset >= frontend.count {
        return false;
    }
    match SLOTS.get(frontend.base.wrapping_add(offset)) {
        Some(slot) => slot.backend == was.backend && slot.generation == was.generation,
        None => false,
    }
}

/// Where in the range a backend is, by halving: slots ascend by address and port.
#[inline(always)]
fn search(frontend: &Frontend, backend: &Backend, was: &Affinity) -> u32 {
    let (mut low, mut high) = (0, frontend.count);
    for _ in 0..HALVINGS {
        if low >= high {
            break;
        }
        let middle = low + ((high - low) >> 1);
        let Some(slot) = SLOTS.get(frontend.base.wrapping_add(middle)) else { break };
        if is_before(&slot.addr, slot.port, &backend.addr, backend.port) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    if holds(frontend, low, was) { low } else { NONE }
}

/// The order of slots: address, then port, as numbers.
#[inline(always)]
fn is_before(addr: &Be128, port: Be16, other: &Be128, other_port: Be16) -> bool {
    for word in 0..4 {
        let (a, b) = (u32::from_be(addr.0[word]), u32::from_be(other.0[word]));
        if a != b {
            return a < b;
        }
    }
    port.to_host() < other_port.to_host()
}
