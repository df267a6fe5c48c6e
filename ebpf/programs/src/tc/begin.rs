//! How a flow begins: both of its entries, and a source port that no other flow has.

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST},
    programs::TcContext,
};
use thalweg_abi::{
    Be16, Counter, CtDirection, CtFlags, CtState, DropReason,
    flow::{PORT_TRIES, advance, source_port},
};

use super::{direct, family::Family, flow::Decision, work::Work};
use crate::{
    count::{count, count_flow},
    policy,
};

const EEXIST: i32 = -17;

enum Claim {
    Ours,
    NoPort,
    Full,
}

/// Makes both entries of the flow in `work.new`; its first packet becomes `work.to`.
///
/// A function of its own: its stack is not that of packets whose flow is known.
#[inline(never)]
pub fn begin<F: Family>(ctx: &TcContext, work: &mut Work<F>, now: u32) -> Decision {
    let new = work.new;
    let packet = &work.packet;
    let in_its_middle = if packet.is_tcp() && !packet.tcp.opens() { CtFlags::PICKED_UP } else { 0 };
    let flags = CtFlags(new.flags | in_its_middle);
    let (state, flags) = advance(CtState::NEW, flags, CtDirection::FORWARD, packet.tuple.proto, packet.tcp);
    let entry = &mut work.entry;
    entry.to = packet.tuple.reversed();
    entry.service = new.service;
    entry.backend = new.backend;
    entry.generation = new.generation;
    entry.last_seen = now;
    entry.direction = CtDirection::REPLY;
    entry.state = state;
    entry.flags = flags;
    entry.packets = 0;
    entry.bytes = 0;
    match claim_reply(work, now) {
        Claim::Ours => {}
        Claim::NoPort => return Decision::drop(DropReason::NoSourcePort),
        Claim::Full => return Decision::drop(DropReason::ConntrackFull),
    }
    work.entry.to = work.to;
    work.entry.direction = CtDirection::FORWARD;
    work.entry.packets = 1;
    work.entry.bytes = u64::from(ctx.len());
    match F::insert_flow(&work.packet.tuple, &work.entry, u64::from(BPF_NOEXIST)) {
        Ok(()) => {
            count(Counter::TcFlow);
            if new.flags & CtFlags::DIRECT == 0 {
                count_flow(new.service);
            }
            Decision::Translate
        }
        Err(EEXIST) => {
            yield_to_other(work);
            Decision::Translate
        }
        Err(_) => {
            F::remove_flow(&work.key);
            Decision::drop(DropReason::ConntrackFull)
        }
    }
}

/// Another CPU has just made this flow: its choice stands, ours is undone.
#[inline(always)]
fn yield_to_other<F: Family>(work: &mut Work<F>) {
    let Some(other) = F::find_flow(&work.packet.tuple) else { return };
    // SAFETY: as in `flow::track`.
    let theirs = unsafe { &*other };
    if theirs.to != work.to {
        F::remove_flow(&work.key);
    }
    work.to = theirs.to;
}

/// Writes the reply entry, which reserves the translated tuple for this flow: with another source port if another
/// flow that lives has it, and from the start if it must have one (with the node's source address, for example).
///
/// A direct connection has no entry and reserves nothing. What begins on the tuple of one that lives is found out
/// with its answer, see [`direct::owner`].
#[inline(always)]
fn claim_reply<F: Family>(work: &mut Work<F>, now: u32) -> Claim {
    let random = policy::random();
    let needs_port = work.new.needs_port;
    if needs_port {
        work.to.sport = Be16::from_host(source_port(random, 0));
    }
    for attempt in 1..=PORT_TRIES {
        work.key = work.to.reversed();
        match F::insert_flow(&work.key, &work.entry, u64::from(BPF_NOEXIST)) {
            Ok(()) => return Claim::Ours,
            Err(EEXIST) => {}
            Err(_) => return Claim::Full,
        }
        if let Some(other) = F::find_flow(&work.key) {
            // SAFETY: as in `flow::track`.
            let other = unsafe { &*other };
            let is_reply = other.direction == CtDirection::REPLY;
            // Our own, left by a forward entry that is gone or is being made by another CPU.
            if is_reply && other.to == work.entry.to {
                let _ = F::insert_flow(&work.key, &work.entry, u64::from(BPF_ANY));
                return Claim::Ours;
            }
            // What is over gives way; the next attempt takes its port.
            if is_reply && direct::forget_if_over::<F>(&work.key, other, now) {
                continue;
            }
        }
        count(Counter::TcPortRealloc);
        work.to.sport = Be16::from_host(source_port(random, attempt));
    }
    Claim::NoPort
}
