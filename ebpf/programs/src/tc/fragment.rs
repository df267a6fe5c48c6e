//! Datagrams in pieces. Only the first piece has ports, so it says in FRAGMENTS which flow the others belong to, and they
//! follow it there: they change their addresses, and nothing else of them is the flow's.
//!
//! Pieces come in any order. One that comes before the first is kept in HELD if its datagram may be a flow's: from a pod
//! always, for it may be the answer of a backend, which nothing but its ports tells. At most [`HELD_EACH`] pieces of a
//! datagram wait, of at most [`HELD_BYTES`] bytes each; what is more or longer is judged without ports. When the first comes
//! and others wait, it is sent in at the same link again, and after it all that waited, one by one; each then meets the
//! program anew, in order. Whoever puts a piece into HELD looks for the first once more: between a look-up that misses and
//! the piece that waits, the first may have come and found nobody. Who sets the length of a piece to 0 owns it, and removes
//! it.
//!
//! What the host's own stack sends leaves in order, and is not held.
//!
//! A piece longer than [`HELD_BYTES`], as links with an MTU above 1,500 bring them, follows its first like any other, but
//! does not wait for it: each entry of HELD has room for the longest, so that room for jumbo frames would cost whatever
//! waits, and every sweep of the table, six times the memory, on all nodes, for datagrams that are longer than a jumbo frame
//! and out of order besides. Such a datagram is lost: for a service, its early piece is dropped and counted as a fragment;
//! an answer's goes on with the backend's address, and whoever puts it together misses a piece.

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
    route, select,
    work::Work,
};
use crate::{
    count::{count, count_drop, swap},
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
pub fn later<F: Family>(ctx: &TcContext, work: &mut Work<F>, from_wire: bool) -> Decision {
    work.held = HeldKey { datagram: F::fragment_key(&work.packet), index: 0 };
    if !is_known(work) {
        if (from_wire && !may_be_ours(ctx, work)) || !hold(ctx, work) {
            return flow::decide_portless(work);
        }
        if !is_known(work) || !take_back(work) {
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

/// Whether a piece from the wire may be a flow's: for a service, or the answer to a pod or, where the source was translated,
/// to this node.
#[inline(always)]
fn may_be_ours<F: Family>(ctx: &TcContext, work: &mut Work<F>) -> bool {
    let dst = work.packet.tuple.dst;
    F::local_pod(&dst).is_some() || dst == F::node_addr() || select::is_ours::<F>(&dst) || route::is_own(ctx, work, &dst)
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
///
/// A piece is taken before the first is sent in, and is gone whatever then happens: the first meets none of them again, or
/// would be sent in for ever.
#[inline(always)]
fn release<F: Family>(ctx: &TcContext, work: &mut Work<F>) -> bool {
    let mut sent = false;
    for index in 0..HELD_EACH {
        work.held.index = index;
        let Some(held) = HELD.get_ptr_mut(&work.held) else { continue };
        // SAFETY: an entry of the map, which only who has taken it removes.
        let Some(len) = (unsafe { take(held) }) else { continue };
        sent = sent || send_in(ctx);
        // SAFETY: as above; what is in it is copied before it is removed.
        if sent && become_held(ctx, unsafe { &(*held).bytes }, len) && send_in(ctx) {
            count(Counter::TcFragmentReleased);
        } else {
            count_drop(DropReason::Fragment);
        }
        let _ = HELD.remove(&work.held);
    }
    sent
}

/// Takes a piece that waits: its length, unless another has taken it.
///
/// # Safety
/// `held` is an entry of HELD.
#[inline(always)]
unsafe fn take(held: *mut Held) -> Option<u32> {
    let taken = u64::from(now()) << 32;
    // SAFETY: the caller's promise; values of maps are aligned to 8 bytes, and the length and the time are the first of them.
    // The length is read by itself, for the verifier to know how long it can be.
    let (len, was) = unsafe { ((&raw const (*held).len).read_volatile(), swap(held.cast(), taken)) };
    (was as u32 != 0).then_some(len)
}

/// Takes the piece at `work.held` out again, unless another has taken it.
#[inline(always)]
fn take_back<F: Family>(work: &Work<F>) -> bool {
    let Some(held) = HELD.get_ptr_mut(&work.held) else { return false };
    // SAFETY: as in `release`.
    unsafe { take(held) }.is_some() && HELD.remove(&work.held).is_ok()
}

/// Lets a copy of the packet come in by its link again.
#[inline(always)]
fn send_in(ctx: &TcContext) -> bool {
    // SAFETY: a helper without pointers but the context.
    unsafe { bpf_clone_redirect(ctx.skb.skb, ifindex(ctx), u64::from(BPF_F_INGRESS)) == 0 }
}

/// Turns the packet into another one.
#[inline(always)]
fn become_held(ctx: &TcContext, bytes: &[u8; HELD_BYTES], len: u32) -> bool {
    if len == 0 || len > HELD_BYTES as u32 {
        return false;
    }
    // SAFETY: the length has been checked against that of the array.
    unsafe {
        bpf_skb_change_tail(ctx.skb.skb, len, 0) == 0
            && bpf_skb_store_bytes(ctx.skb.skb.cast(), 0, bytes.as_ptr().cast(), len, u64::from(BPF_F_RECOMPUTE_CSUM)) == 0
    }
}
