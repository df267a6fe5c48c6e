//! What a packet with ports becomes: by the entry of its flow, or by a new one.

use aya_ebpf::programs::TcContext;
use thalweg_abi::{
    Be16, Counter, CtDirection, CtEntry, CtFlags, CtState, DropReason, FrontendFlags, Slot, Tuple,
    flow::{advance, restarts},
    header::TcpFlags,
};

use super::{
    begin::begin,
    direct::{self, Owner},
    family::Family,
    route,
    select::{self, Found},
    work::{New, Work},
};
use crate::{
    count::{count, count_drop},
    policy::{self, now},
};

/// What is to be done with a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Not ours. The pod that it is for, if that is on this node, is in `work.pod`.
    Untouched,
    /// It becomes `work.to`.
    Translate,
    /// It is a message about a packet that becomes `work.to`.
    Quote,
    Refuse,
    /// The reason has been counted.
    Drop,
    /// It lives on elsewhere: what is left is not missed.
    Consumed,
}

/// What an entry says about a packet of its tuple.
enum Tracked {
    /// It becomes `work.to`.
    To,
    /// The flow is over or its backend gone, and the packet may start it again.
    Again,
    /// The same, and another connection has been met behind the translation.
    AgainElsewhere,
    Gone,
    /// The packet is no translated flow's.
    Untracked,
    /// A reset of what is not the sender's.
    Stray,
}

/// What a packet without an entry leads to.
enum Unknown {
    /// The flow in `work.new`.
    Flow,
    Untouched,
    Refuse,
    Drop,
}

impl Decision {
    /// A drop, counted.
    #[inline(always)]
    pub fn drop(reason: DropReason) -> Self {
        count_drop(reason);
        Self::Drop
    }
}

impl Unknown {
    #[inline(always)]
    fn drop(reason: DropReason) -> Self {
        count_drop(reason);
        Self::Drop
    }
}

/// For packets with their ports.
#[inline(always)]
pub fn decide<F: Family>(ctx: &TcContext, work: &mut Work<F>, from_wire: bool) -> Decision {
    let now = now();
    let (mut was_ours, mut elsewhere) = (false, false);
    if let Some(entry) = F::find_flow(&work.packet.tuple) {
        match track(ctx, work, entry, now) {
            Tracked::To => return Decision::Translate,
            Tracked::Gone => {
                count_drop(DropReason::BackendGone);
                return if work.packet.tcp.has(TcpFlags::RST) { Decision::Drop } else { Decision::Refuse };
            }
            Tracked::Again => was_ours = true,
            Tracked::AgainElsewhere => (was_ours, elsewhere) = (true, true),
            Tracked::Untracked => {}
            Tracked::Stray => return Decision::drop(DropReason::NoFlow),
        }
    }
    match meet(ctx, work, from_wire, was_ours, now) {
        Unknown::Flow => {}
        Unknown::Untouched => return Decision::Untouched,
        Unknown::Refuse => return Decision::Refuse,
        Unknown::Drop => return Decision::Drop,
    }
    if elsewhere {
        count(Counter::TcPortRealloc);
        work.new.needs_port = true;
    }
    begin(ctx, work, now)
}

/// A packet without an entry, of which one may have been removed just now.
#[inline(always)]
fn meet<F: Family>(ctx: &TcContext, work: &mut Work<F>, from_wire: bool, was_ours: bool, now: u32) -> Unknown {
    // No pod's address is a service's: traffic between pods pays no look-up of a frontend.
    if !find_pod(work) {
        match select::find(work, from_wire) {
            Found::Frontend => return serve(ctx, work, from_wire, now),
            Found::Wildcard => return Unknown::Refuse,
            _ if was_ours => return Unknown::Refuse,
            Found::Nobodys => return Unknown::drop(DropReason::NoService),
            Found::Nothing => {}
        }
    }
    if direct::beside_a_flow(work, from_wire, now) { Unknown::Flow } else { Unknown::Untouched }
}

/// Looks whether the packet is for a pod of this node, which is then in `work.pod`.
#[inline(always)]
fn find_pod<F: Family>(work: &mut Work<F>) -> bool {
    match F::local_pod(&work.packet.tuple.dst) {
        Some(pod) => {
            work.pod = *pod;
            true
        }
        None => {
            work.pod.ifindex = 0;
            false
        }
    }
}

/// The flow to one of a frontend's backends.
#[inline(always)]
fn serve<F: Family>(ctx: &TcContext, work: &mut Work<F>, from_wire: bool, now: u32) -> Unknown {
    let frontend = &work.frontend;
    if frontend.count == 0 {
        let drops = frontend.flags.has(FrontendFlags::DROP_WHEN_EMPTY);
        return if drops { Unknown::drop(DropReason::NoLocalEndpoint) } else { Unknown::Refuse };
    }
    let client = Some(F::mapped(&work.packet.tuple.src));
    if !policy::admits(frontend, client) {
        return Unknown::drop(DropReason::SourceRange);
    }
    // That there is none has been counted.
    let Some(slot) = policy::choose(frontend, client, work.packet.tuple.proto, now) else { return Unknown::Drop };
    if !to_slot(ctx, work, &slot, from_wire) {
        return Unknown::drop(DropReason::NoRoute);
    }
    Unknown::Flow
}

/// The flow to a backend. Says whether there is a way back: an answer that must come through this node needs an address of
/// its own to come to.
#[inline(always)]
fn to_slot<F: Family>(ctx: &TcContext, work: &mut Work<F>, slot: &Slot, from_wire: bool) -> bool {
    let addr = F::of_slot(slot);
    work.to = work.packet.tuple;
    work.to.dst = addr;
    work.to.dport = slot.port;
    let (mut flags, mut needs_port) = (0, false);
    if from_wire {
        flags |= CtFlags::EXTERNAL;
        if !work.frontend.flags.has(FrontendFlags::LOCAL_ONLY) && is_remote(ctx, work, &addr) {
            // The answer must come back through this node.
            if F::is_unspecified(&F::node_addr()) {
                return false;
            }
            flags |= CtFlags::SNAT;
            work.to.src = F::node_addr();
            needs_port = true;
        }
    } else if addr == work.packet.tuple.src {
        // A pod that reached itself would answer itself directly, past the translation.
        flags |= CtFlags::HAIRPIN | CtFlags::SNAT;
        work.to.src = work.packet.tuple.dst;
    }
    let Slot { backend, generation, .. } = *slot;
    work.new = New { service: work.frontend.service, backend, generation, flags, needs_port };
    true
}

/// Whether a backend is neither a pod of this node nor the node itself, by whichever of its addresses.
#[inline(always)]
fn is_remote<F: Family>(ctx: &TcContext, work: &mut Work<F>, addr: &F::Addr) -> bool {
    *addr != F::node_addr() && F::local_pod(addr).is_none() && !route::is_own(ctx, work, addr)
}

/// What a packet becomes that this node's own stack sends: only answers to translated flows change. Says whether.
#[inline(always)]
pub fn decide_reply<F: Family>(ctx: &TcContext, work: &mut Work<F>) -> bool {
    let Some(entry) = F::find_flow(&work.packet.tuple) else { return false };
    // SAFETY: as in `track`.
    let seen = unsafe { &*entry };
    if seen.direction != CtDirection::REPLY {
        return false;
    }
    match direct::owner(work, entry) {
        Owner::Flow => note(ctx, work, entry, now()),
        Owner::Shown => {}
        Owner::Another => return false,
    }
    count(Counter::TcTracked);
    work.to = seen.to;
    true
}

/// A later fragment of a flow whose ports are known by now: it goes where the others go. Says whether there is a flow.
#[inline(always)]
pub fn follow<F: Family>(ctx: &TcContext, work: &mut Work<F>, only_replies: bool) -> bool {
    let Some(entry) = F::find_flow(&work.packet.tuple) else { return false };
    // SAFETY: as in `track`.
    let seen = unsafe { &*entry };
    if only_replies && seen.direction != CtDirection::REPLY {
        return false;
    }
    count(Counter::TcTracked);
    note(ctx, work, entry, now());
    work.to = seen.to;
    true
}

#[inline(always)]
fn track<F: Family>(ctx: &TcContext, work: &mut Work<F>, entry: *mut CtEntry<F::Addr>, now: u32) -> Tracked {
    // SAFETY: the entry stays readable for the whole program, though it may be another flow's by then if it has been
    // deleted meanwhile; that costs a packet.
    let seen = unsafe { &*entry };
    let packet = &work.packet;
    if seen.direction == CtDirection::FORWARD {
        let is_direct = seen.flags.has(CtFlags::DIRECT);
        let is_alive = is_direct || policy::is_alive(seen.backend, seen.generation);
        if !is_alive && packet.is_tcp() && !packet.tcp.opens() {
            count(Counter::TcTracked);
            close::<F>(entry);
            return Tracked::Gone;
        }
        if !is_alive || restarts(seen, packet.tcp, now) {
            return end(work, seen, is_direct);
        }
        if seen.state == CtState::NEW && seen.flags.has(CtFlags::CONTENDED) && packet.tcp.has(TcpFlags::RST) {
            return Tracked::Stray;
        }
    } else {
        match direct::owner(work, entry) {
            Owner::Flow => {}
            Owner::Shown => {
                count(Counter::TcTracked);
                work.to = seen.to;
                return Tracked::To;
            }
            Owner::Another => return Tracked::Untracked,
        }
    }
    count(Counter::TcTracked);
    note(ctx, work, entry, now);
    work.to = seen.to;
    Tracked::To
}

/// Removes both entries of a flow whose client begins again.
#[inline(always)]
fn end<F: Family>(work: &Work<F>, seen: &CtEntry<F::Addr>, is_direct: bool) -> Tracked {
    count(Counter::TcTracked);
    if !work.packet.is_tcp() && !work.packet.tcp.opens() {
        count(Counter::TcReselected);
    }
    // A flow whose SYN met somebody else's connection would meet it again.
    let elsewhere = seen.state == CtState::NEW && seen.flags.has(CtFlags::CONTENDED);
    F::remove_flow(&seen.to.reversed());
    F::remove_flow(&work.packet.tuple);
    match (is_direct, elsewhere) {
        (true, _) => Tracked::Untracked,
        (false, true) => Tracked::AgainElsewhere,
        (false, false) => Tracked::Again,
    }
}

/// Counts a packet on its flow, and advances the flow's state in both entries.
#[inline(always)]
pub fn note<F: Family>(ctx: &TcContext, work: &Work<F>, entry: *mut CtEntry<F::Addr>, now: u32) {
    // SAFETY: as in `track`.
    let (direction, was, had) = unsafe { ((*entry).direction, (*entry).state, (*entry).flags) };
    let (state, flags) = advance(was, had, direction, work.packet.tuple.proto, work.packet.tcp);
    // SAFETY: as in `track`; the fields are written one by one, and a lost count does not matter.
    unsafe {
        (*entry).last_seen = now;
        (*entry).packets = (*entry).packets.wrapping_add(1);
        (*entry).bytes = (*entry).bytes.wrapping_add(u64::from(ctx.len()));
    }
    if state != was || flags != had {
        set_both::<F>(entry, state, flags);
    }
}

#[inline(always)]
fn close<F: Family>(entry: *mut CtEntry<F::Addr>) {
    // SAFETY: as in `note`.
    let (state, flags) = unsafe { ((*entry).state, (*entry).flags) };
    if state != CtState::CLOSED {
        set_both::<F>(entry, CtState::CLOSED, flags);
    }
}

/// Sets state and flags of an entry and of the other one of its flow.
#[inline(always)]
pub fn set_both<F: Family>(entry: *mut CtEntry<F::Addr>, state: CtState, flags: CtFlags) {
    // SAFETY: as in `note`.
    let other: Tuple<F::Addr> = unsafe { (*entry).to.reversed() };
    set_state(entry, state, flags);
    if let Some(other) = F::find_flow(&other) {
        set_state(other, state, flags);
    }
}

#[inline(always)]
fn set_state<A>(entry: *mut CtEntry<A>, state: CtState, flags: CtFlags) {
    // SAFETY: as in `note`.
    unsafe {
        (*entry).state = state;
        (*entry).flags = flags;
    }
}

/// For what cannot be translated: a protocol without ports, or a later fragment whose ports are not known.
#[inline(always)]
pub fn decide_portless<F: Family>(work: &mut Work<F>) -> Decision {
    work.packet.tuple.sport = Be16::ZERO;
    work.packet.tuple.dport = Be16::ZERO;
    if find_pod(work) {
        return Decision::Untouched;
    }
    let dst = &work.packet.tuple.dst;
    if !select::is_ours::<F>(dst) {
        return if F::is_from_service_ranges(dst) { Decision::drop(DropReason::NoService) } else { Decision::Untouched };
    }
    if work.packet.is_later_fragment() { Decision::drop(DropReason::Fragment) } else { Decision::Refuse }
}
