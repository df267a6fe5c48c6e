//! Datagrams in pieces. Only the first piece has ports, so it says in FRAGMENTS which flow the others belong to, and they
//! follow it there: they change their addresses, and nothing else of them is the flow's.
//!
//! Pieces come in any order. One that comes before the first is kept in HELD, whoever it is from: it may be the answer of
//! a backend, which nothing but its ports tells. When the first comes and others wait, it is sent in at the same link
//! again, and after it all that waited, one by one; each then meets the program anew, in order. Whoever puts a piece into
//! HELD looks for the first once more: between a look-up that misses and the piece that waits, the first may have come and
//! found nobody. Who takes a piece out, by removing it, owns it.
//!
//! What the host's own stack sends leaves in order, and is not held.

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_F_INGRESS, BPF_F_RECOMPUTE_CSUM, BPF_NOEXIST},
    btf_maps::PerCpuArray,
    helpers::generated::{bpf_clone_redirect, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes},
    macros::btf_map,
    programs::TcContext,
};
use thalweg_abi::{Counter, DropReason, Fragment, HELD_BYTES, HELD_EACH, Held, HeldKey};

use super::{
    family::Family,
    flow::{self, Decision},
    packet::ifindex,
    work::Work,
};
use crate::{
    count::{count, count_drop},
    maps::{FRAGMENTS, HELD},
    policy::now,
};

const EEXIST: i32 = -17;

/// Where a piece is copied to before it goes into HELD: no stack has room for it.
#[btf_map]
static PIECE: PerCpuArray<Held, 1> = PerCpuArray::new();

/// What has been decided of the first piece, unless others wait for it.
#[inline(always)]
pub fn first<F: Family>(ctx: &TcContext, work: &mut Work<F>, decision: Decision) -> Decision {
    announce(work);
    if release(ctx, work) { Decision::Consumed } else { decision }
}

/// The same for what the host's stack sends. Says whether it is a translated flow's.
#[inline(always)]
pub fn first_reply<F: Family>(ctx: &TcContext, work: &mut Work<F>) -> bool {
    let translated = flow::decide_reply(ctx, work);
    if translated {
        announce(work);
    }
    translated
}

/// A piece without ports.
#[inline(always)]
pub fn later<F: Family>(ctx: &TcContext, work: &mut Work<F>) -> Decision {
    work.held = HeldKey { datagram: F::fragment_key(&work.packet), index: 0 };
    if !is_known(work) {
        if !hold(ctx, work) {
            return flow::decide_portless(work);
        }
        if !is_known(work) || HELD.remove(&work.held).is_err() {
            count(Counter::TcFragmentHeld);
            return Decision::Consumed;
        }
    }
    if flow::follow(ctx, work, false) { Decision::Translate } else { flow::decide_portless(work) }
}

/// The same for what the host's stack sends. Says whether it is a translated flow's.
#[inline(always)]
pub fn later_reply<F: Family>(ctx: &TcContext, work: &mut Work<F>) -> bool {
    work.held = HeldKey { datagram: F::fragment_key(&work.packet), index: 0 };
    is_known(work) && flow::follow(ctx, work, true)
}

/// Tells the others of a datagram which flow they belong to.
#[inline(always)]
fn announce<F: Family>(work: &mut Work<F>) {
    work.held = HeldKey { datagram: F::fragment_key(&work.packet), index: 0 };
    let tuple = &work.packet.tuple;
    let fragment = Fragment { sport: tuple.sport, dport: tuple.dport, last_seen: now() };
    if FRAGMENTS.insert(&work.held.datagram, fragment, u64::from(BPF_ANY)).is_err() {
        // The others will find nothing to follow.
        count_drop(DropReason::Fragment);
    }
}

/// Whether the first piece has been here; the packet's ports are then its.
#[inline(always)]
fn is_known<F: Family>(work: &mut Work<F>) -> bool {
    // SAFETY: read at once.
    let Some(fragment) = (unsafe { FRAGMENTS.get(&work.held.datagram) }) else { return false };
    work.packet.tuple.sport = fragment.sport;
    work.packet.tuple.dport = fragment.dport;
    true
}

/// Puts the packet into HELD, at `work.held`. Says whether there was room.
#[inline(always)]
fn hold<F: Family>(ctx: &TcContext, work: &mut Work<F>) -> bool {
    let Some(piece) = PIECE.get_ptr_mut(0) else { return false };
    let len = ctx.len();
    if len == 0 || len > HELD_BYTES as u32 {
        return false;
    }
    // SAFETY: the element is this CPU's; the length has been checked.
    let copied = unsafe {
        (*piece).len = len;
        (*piece).last_seen = now();
        bpf_skb_load_bytes(ctx.skb.skb.cast(), 0, (&raw mut (*piece).bytes).cast(), len)
    };
    if copied != 0 {
        return false;
    }
    for index in 0..HELD_EACH {
        work.held.index = index;
        // SAFETY: as above.
        match HELD.insert(&work.held, unsafe { &*piece }, u64::from(BPF_NOEXIST)) {
            Ok(()) => return true,
            Err(EEXIST) => {}
            Err(_) => return false,
        }
    }
    false
}

/// Sends the first piece in again, and after it those that wait for it. Says whether there were any.
#[inline(always)]
fn release<F: Family>(ctx: &TcContext, work: &mut Work<F>) -> bool {
    let mut sent = false;
    for index in 0..HELD_EACH {
        work.held.index = index;
        // SAFETY: its bytes are copied before it is removed.
        let Some(held) = (unsafe { HELD.get(&work.held) }) else { continue };
        if !sent && !send_in(ctx) {
            return false;
        }
        sent = true;
        if become_held(ctx, held) && HELD.remove(&work.held).is_ok() && send_in(ctx) {
            count(Counter::TcFragmentReleased);
        }
    }
    sent
}

/// Lets a copy of the packet come in by its link again.
#[inline(always)]
fn send_in(ctx: &TcContext) -> bool {
    // SAFETY: a helper without pointers but the context.
    unsafe { bpf_clone_redirect(ctx.skb.skb, ifindex(ctx), u64::from(BPF_F_INGRESS)) == 0 }
}

/// Turns the packet into another one.
#[inline(always)]
fn become_held(ctx: &TcContext, held: &Held) -> bool {
    let len = held.len;
    if len == 0 || len > HELD_BYTES as u32 {
        return false;
    }
    // SAFETY: the length has been checked against that of the array.
    unsafe {
        bpf_skb_change_tail(ctx.skb.skb, len, 0) == 0
            && bpf_skb_store_bytes(ctx.skb.skb.cast(), 0, held.bytes.as_ptr().cast(), len, u64::from(BPF_F_RECOMPUTE_CSUM)) == 0
    }
}
