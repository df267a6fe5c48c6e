//! From a dialled tuple to a frontend.

use thalweg_abi::{Counter, DropReason, FrontendFlags, FrontendKey, Scope, Tuple};

use super::{family::Family, work::Work};
use crate::count::count;

/// What the frontends say about a tuple.
pub enum Found {
    /// Not one of ours.
    Nothing,
    /// The address is ours, the port is nobody's.
    Wildcard,
    /// The address is from the services' ranges, and nobody's.
    Nobodys,
    /// Now in `work.frontend`.
    Frontend,
}

/// From the wire, the external policy comes first and the internal one serves what has no other: a cluster address
/// dialled through this node.
#[inline(always)]
pub fn find<F: Family>(work: &mut Work<F>, from_wire: bool) -> Found {
    count(Counter::TcLookup);
    let tuple = &work.packet.tuple;
    let found = (if from_wire { F::frontend(&key(tuple, Scope::EXTERNAL)) } else { None })
        .or_else(|| F::frontend(&key(tuple, Scope::INTERNAL)));
    if let Some(frontend) = found {
        // Copied at once: user space replaces a value as a whole.
        work.frontend = *frontend;
        return Found::Frontend;
    }
    if is_ours::<F>(&tuple.dst) {
        Found::Wildcard
    } else if F::is_from_service_ranges(&tuple.dst) {
        Found::Nobodys
    } else {
        Found::Nothing
    }
}

#[inline(always)]
fn key<A: Copy>(tuple: &Tuple<A>, scope: Scope) -> FrontendKey<A> {
    FrontendKey { vip: tuple.dst, port: tuple.dport, proto: tuple.proto, scope }
}

/// Whether an address belongs to services, whatever the port.
#[inline(always)]
pub fn is_ours<F: Family>(addr: &F::Addr) -> bool {
    // Presence would do, but a pointer that is only compared with null may be merged with other conditions, which
    // the verifier takes for arithmetic on it. A flag that is read is a number.
    match F::frontend(&FrontendKey::wildcard(*addr)) {
        Some(frontend) => frontend.flags.has(FrontendFlags::WILDCARD),
        None => false,
    }
}

/// Why a packet to a service's address that cannot be served here is dropped; `None` for all other addresses.
#[inline(always)]
pub fn stray<F: Family>(tuple: &Tuple<F::Addr>) -> Option<DropReason> {
    if !is_ours::<F>(&tuple.dst) {
        return F::is_from_service_ranges(&tuple.dst).then_some(DropReason::NoService);
    }
    match F::frontend(&key(tuple, Scope::INTERNAL)) {
        Some(frontend) if frontend.count == 0 && frontend.flags.has(FrontendFlags::DROP_WHEN_EMPTY) => {
            Some(DropReason::NoLocalEndpoint)
        }
        _ => Some(DropReason::NoFlow),
    }
}
