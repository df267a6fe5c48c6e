//! What a packet with ports becomes: by the entry of its flow, or by a new one.

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST},
    helpers::generated::bpf_ktime_get_coarse_ns,
    programs::TcContext,
};
use thalweg_abi::{
    Be16, Be32, Counter, CtDirection, CtEntry, CtFlags, CtState, DropReason, Frontend, FrontendFlags, LocalPod, Slot, Tuple,
    flow::{PORT_TRIES, advance, restarts, source_port},
    header::TcpFlags,
};

use super::{
    direct::{self, Owner},
    packet::Packet,
    select::{self, Found},
};
use crate::{
    config::NODE_ADDR,
    count::{count, count_drop},
    maps::{CONNTRACK, LOCAL_PODS},
};

const EEXIST: i32 = -17;
const NANOSECONDS: u64 = 1_000_000_000;

/// What is to be done with a packet.
pub enum Decision {
    /// Not ours. With the pod that it is for, if that is on this node.
    Untouched(Option<&'static LocalPod>),
    Translate(Tuple),
    Refuse,
    Drop(DropReason),
}

/// What an entry says about a packet of its tuple.
enum Tracked {
    To(Tuple),
    /// The flow is over or its backend gone, and the packet may start it again; `elsewhere` if another connection has
    /// been met behind the translation.
    Again {
        elsewhere: bool,
    },
    Gone,
    /// The packet is no translated flow's.
    Untracked,
    /// A reset of what is not the sender's.
    Stray,
}

/// What a packet without an entry leads to.
enum Unknown {
    Flow(New),
    Otherwise(Decision),
}

/// A flow to be made.
pub struct New {
    /// What its first packet becomes.
    pub to: Tuple,
    pub service: u32,
    pub backend: u32,
    pub generation: u32,
    pub flags: u16,
    /// Whether the source port has to be another one.
    pub needs_port: bool,
}

/// Seconds since boot.
#[inline(always)]
fn now() -> u32 {
    // SAFETY: a helper without arguments.
    (unsafe { bpf_ktime_get_coarse_ns() } / NANOSECONDS) as u32
}

#[inline(always)]
pub fn node_addr() -> Be32 {
    Be32(NODE_ADDR.load())
}

/// The pod of this node that has this address.
#[inline(always)]
pub fn local_pod(addr: Be32) -> Option<&'static LocalPod> {
    // SAFETY: an element that is removed meanwhile is not reused before the program has ended.
    unsafe { LOCAL_PODS.get(addr) }
}

/// For TCP and UDP with their ports.
#[inline(always)]
pub fn decide(ctx: &TcContext, packet: &Packet, from_wire: bool) -> Decision {
    let now = now();
    let (mut was_ours, mut elsewhere) = (false, false);
    if let Some(entry) = CONNTRACK.get_ptr_mut(packet.tuple) {
        match track(ctx, packet, entry, now) {
            Tracked::To(to) => return Decision::Translate(to),
            Tracked::Gone if packet.tcp.has(TcpFlags::RST) => return Decision::Drop(DropReason::BackendGone),
            Tracked::Gone => {
                count_drop(DropReason::BackendGone);
                return Decision::Refuse;
            }
            Tracked::Again { elsewhere: moves } => (was_ours, elsewhere) = (true, moves),
            Tracked::Untracked => {}
            Tracked::Stray => return Decision::Drop(DropReason::NoFlow),
        }
    }
    let new = match meet(packet, from_wire, was_ours, now) {
        Unknown::Flow(new) => new,
        Unknown::Otherwise(decision) => return decision,
    };
    if elsewhere {
        count(Counter::TcPortRealloc);
    }
    match begin(ctx, packet, &New { needs_port: new.needs_port || elsewhere, ..new }, now) {
        Ok(to) => Decision::Translate(to),
        Err(reason) => Decision::Drop(reason),
    }
}

/// A packet without an entry, of which one may have been removed just now.
#[inline(always)]
fn meet(packet: &Packet, from_wire: bool, was_ours: bool, now: u32) -> Unknown {
    // No pod's address is a service's: traffic between pods pays no look-up of a frontend.
    let pod = local_pod(packet.tuple.dst);
    if pod.is_none() {
        match select::find(&packet.tuple, from_wire) {
            Found::Frontend(frontend) => return serve(packet, &frontend, from_wire),
            Found::Wildcard => return Unknown::Otherwise(Decision::Refuse),
            Found::Nothing if was_ours => return Unknown::Otherwise(Decision::Refuse),
            Found::Nothing => {}
        }
    }
    match direct::beside_a_flow(packet, from_wire, now) {
        Some(new) => Unknown::Flow(new),
        None => Unknown::Otherwise(Decision::Untouched(pod)),
    }
}

/// The flow to one of a frontend's backends.
#[inline(always)]
fn serve(packet: &Packet, frontend: &Frontend, from_wire: bool) -> Unknown {
    if frontend.count == 0 {
        let drops = frontend.flags.has(FrontendFlags::DROP_WHEN_EMPTY);
        return Unknown::Otherwise(if drops { Decision::Drop(DropReason::NoLocalEndpoint) } else { Decision::Refuse });
    }
    match select::choose(frontend) {
        Some(slot) => Unknown::Flow(to_slot(packet, frontend, &slot, from_wire)),
        None => Unknown::Otherwise(Decision::Drop(DropReason::BadSlot)),
    }
}

#[inline(always)]
fn to_slot(packet: &Packet, frontend: &Frontend, slot: &Slot, from_wire: bool) -> New {
    let tuple = packet.tuple;
    let mut new = New {
        to: Tuple { dst: slot.addr.v4(), dport: slot.port, ..tuple },
        service: frontend.service,
        backend: slot.backend,
        generation: slot.generation,
        flags: 0,
        needs_port: false,
    };
    if from_wire {
        new.flags |= CtFlags::EXTERNAL;
        if !frontend.flags.has(FrontendFlags::LOCAL_ONLY) && is_remote(slot.addr.v4()) {
            // The answer must come back through this node.
            new.flags |= CtFlags::SNAT;
            new.to.src = node_addr();
            new.needs_port = true;
        }
    } else if slot.addr.v4() == tuple.src {
        // A pod that reached itself would answer itself directly, past the translation.
        new.flags |= CtFlags::HAIRPIN | CtFlags::SNAT;
        new.to.src = tuple.dst;
    }
    new
}

/// What a packet becomes that this node's own stack sends: only answers to translated flows change.
#[inline(always)]
pub fn decide_reply(ctx: &TcContext, packet: &Packet) -> Option<Tuple> {
    let entry = CONNTRACK.get_ptr_mut(packet.tuple)?;
    // SAFETY: as in `track`.
    let seen = unsafe { *entry };
    if seen.direction != CtDirection::REPLY {
        return None;
    }
    match direct::owner(packet, entry, &seen) {
        Owner::Flow => note(ctx, packet, entry, &seen, now()),
        Owner::Shown => {}
        Owner::Another => return None,
    }
    count(Counter::TcTracked);
    Some(seen.to)
}

#[inline(always)]
fn track(ctx: &TcContext, packet: &Packet, entry: *mut CtEntry, now: u32) -> Tracked {
    // SAFETY: the entry stays readable for the whole program, though it may be another flow's by then if it has been
    // deleted meanwhile; that costs a packet.
    let seen = unsafe { *entry };
    if seen.direction == CtDirection::FORWARD {
        let is_direct = seen.flags.has(CtFlags::DIRECT);
        let is_alive = is_direct || select::is_alive(seen.backend, seen.generation);
        if !is_alive && packet.is_tcp() && !packet.tcp.opens() {
            count(Counter::TcTracked);
            close(entry, &seen);
            return Tracked::Gone;
        }
        if !is_alive || restarts(&seen, packet.tcp, now) {
            count(Counter::TcTracked);
            if !packet.is_tcp() {
                count(Counter::TcReselected);
            }
            // Either may be gone already, with an agent that sweeps at this moment: as well.
            let _ = CONNTRACK.remove(seen.to.reversed());
            let _ = CONNTRACK.remove(packet.tuple);
            if is_direct {
                return Tracked::Untracked;
            }
            // A flow whose SYN met somebody else's connection would meet it again.
            let elsewhere = seen.state == CtState::NEW && seen.flags.has(CtFlags::CONTENDED);
            return Tracked::Again { elsewhere };
        }
        if seen.state == CtState::NEW && seen.flags.has(CtFlags::CONTENDED) && packet.tcp.has(TcpFlags::RST) {
            return Tracked::Stray;
        }
    } else {
        match direct::owner(packet, entry, &seen) {
            Owner::Flow => {}
            Owner::Shown => {
                count(Counter::TcTracked);
                return Tracked::To(seen.to);
            }
            Owner::Another => return Tracked::Untracked,
        }
    }
    count(Counter::TcTracked);
    note(ctx, packet, entry, &seen, now);
    Tracked::To(seen.to)
}

/// Counts a packet on its flow, and advances the flow's state in both entries.
#[inline(always)]
fn note(ctx: &TcContext, packet: &Packet, entry: *mut CtEntry, seen: &CtEntry, now: u32) {
    let (state, flags) = advance(seen.state, seen.flags, seen.direction, packet.tuple.proto, packet.tcp);
    // SAFETY: as in `track`; the fields are written one by one, and a lost count does not matter.
    unsafe {
        (*entry).last_seen = now;
        (*entry).packets = seen.packets.wrapping_add(1);
        (*entry).bytes = seen.bytes.wrapping_add(u64::from(ctx.len()));
    }
    if state != seen.state || flags != seen.flags {
        set_state(entry, state, flags);
        if let Some(other) = CONNTRACK.get_ptr_mut(seen.to.reversed()) {
            set_state(other, state, flags);
        }
    }
}

#[inline(always)]
fn close(entry: *mut CtEntry, seen: &CtEntry) {
    if seen.state == CtState::CLOSED {
        return;
    }
    set_state(entry, CtState::CLOSED, seen.flags);
    if let Some(other) = CONNTRACK.get_ptr_mut(seen.to.reversed()) {
        set_state(other, CtState::CLOSED, seen.flags);
    }
}

#[inline(always)]
pub fn set_state(entry: *mut CtEntry, state: CtState, flags: CtFlags) {
    // SAFETY: as in `note`.
    unsafe {
        (*entry).state = state;
        (*entry).flags = flags;
    }
}

/// Makes both entries, and says what the first packet becomes.
#[inline(always)]
fn begin(ctx: &TcContext, packet: &Packet, new: &New, now: u32) -> Result<Tuple, DropReason> {
    let (tuple, mut to) = (packet.tuple, new.to);
    let in_its_middle = if packet.is_tcp() && !packet.tcp.opens() { CtFlags::PICKED_UP } else { 0 };
    let flags = CtFlags(new.flags | in_its_middle);
    let (state, flags) = advance(CtState::NEW, flags, CtDirection::FORWARD, tuple.proto, packet.tcp);
    let mut entry = CtEntry {
        to: tuple.reversed(),
        service: new.service,
        backend: new.backend,
        generation: new.generation,
        last_seen: now,
        direction: CtDirection::REPLY,
        state,
        flags,
        packets: 0,
        bytes: 0,
    };
    claim_reply(&mut to, &entry, new.needs_port)?;
    entry.to = to;
    entry.direction = CtDirection::FORWARD;
    entry.packets = 1;
    entry.bytes = u64::from(ctx.len());
    match CONNTRACK.insert(tuple, entry, u64::from(BPF_NOEXIST)) {
        Ok(()) => {
            count(Counter::TcFlow);
            Ok(to)
        }
        Err(EEXIST) => Ok(yield_to_other(&tuple, to)),
        Err(_) => {
            let _ = CONNTRACK.remove(to.reversed());
            Err(DropReason::ConntrackFull)
        }
    }
}

/// Another CPU has just made this flow: its choice stands, ours is undone.
#[inline(always)]
fn yield_to_other(tuple: &Tuple, ours: Tuple) -> Tuple {
    let Some(other) = CONNTRACK.get_ptr(*tuple) else { return ours };
    // SAFETY: as in `track`.
    let theirs = unsafe { (*other).to };
    if theirs != ours {
        let _ = CONNTRACK.remove(ours.reversed());
    }
    theirs
}

/// Writes the reply entry, which reserves the translated tuple for this flow: with another source port if another
/// flow has it, and from the start if it must have one (with the node's source address, for example).
///
/// A direct connection has no entry and reserves nothing. What begins on the tuple of one that lives is found out
/// with its answer, see [`direct::owner`].
#[inline(always)]
fn claim_reply(to: &mut Tuple, reply: &CtEntry, needs_port: bool) -> Result<(), DropReason> {
    let random = select::random();
    if needs_port {
        to.sport = Be16::from_host(source_port(random, 0));
    }
    for attempt in 1..=PORT_TRIES {
        let key = to.reversed();
        match CONNTRACK.insert(key, *reply, u64::from(BPF_NOEXIST)) {
            Ok(()) => return Ok(()),
            Err(EEXIST) => {}
            Err(_) => return Err(DropReason::ConntrackFull),
        }
        if let Some(other) = CONNTRACK.get_ptr(key) {
            // SAFETY: as in `track`.
            let other = unsafe { *other };
            // Our own, left by a forward entry that is gone or is being made by another CPU.
            if other.direction == CtDirection::REPLY && other.to == reply.to {
                let _ = CONNTRACK.insert(key, *reply, u64::from(BPF_ANY));
                return Ok(());
            }
            // What is over gives way to the client's own port, for which the next attempt tries again.
            if attempt == 1 && !needs_port && other.direction == CtDirection::REPLY && other.state == CtState::CLOSED {
                direct::forget(key, &other);
                continue;
            }
        }
        count(Counter::TcPortRealloc);
        to.sport = Be16::from_host(source_port(random, attempt));
    }
    Err(DropReason::NoSourcePort)
}

/// Whether a backend is neither a pod of this node nor the node itself.
#[inline(always)]
fn is_remote(addr: Be32) -> bool {
    addr != node_addr() && local_pod(addr).is_none()
}

/// For what cannot be translated: a protocol without ports, or a later fragment.
#[inline(always)]
pub fn decide_portless(packet: &Packet) -> Decision {
    if let Some(pod) = local_pod(packet.tuple.dst) {
        return Decision::Untouched(Some(pod));
    }
    if !select::is_ours(packet.tuple.dst) {
        return Decision::Untouched(None);
    }
    if packet.ip.is_later_fragment() { Decision::Drop(DropReason::Fragment) } else { Decision::Refuse }
}
