//! How a program ends: the rewritten packet sent on its way, and every verdict counted.

use aya_ebpf::{
    bindings::{TC_ACT_OK, TC_ACT_REDIRECT, TC_ACT_SHOT, bpf_redir_neigh},
    helpers::generated::{bpf_redirect_neigh, bpf_redirect_peer},
    programs::TcContext,
};
use thalweg_abi::{Counter, DRAINING, DropReason, StateKey};

use super::{
    answer::{Answer, Back},
    family::Family,
    flow::{self, Decision},
    fragment, icmp,
    packet::Piece,
    rewrite,
    route::{self, Route},
    work::Work,
};
use crate::{
    count::{count, count_drop},
    maps::STATE,
};

/// How the program ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// To the host's stack, or onwards as it was going.
    Pass,
    /// Straight into `work.pod`.
    Pod,
    /// To `work.hop`.
    Wire,
    /// Back to its sender.
    Refuse,
    TooBig,
    TimeExceeded,
    /// The reason has been counted, or there is none.
    Drop,
}

// === impl Outcome ===

impl Outcome {
    #[inline(always)]
    fn drop(reason: DropReason) -> Self {
        count_drop(reason);
        Self::Drop
    }

    /// Does it, and returns the program's verdict.
    #[inline(always)]
    pub fn finish<F: Family>(self, ctx: &TcContext, work: &mut Work<F>, back: Back) -> i32 {
        let answer = match self {
            Self::Pass => return TC_ACT_OK,
            Self::Drop => return TC_ACT_SHOT,
            Self::Pod => return to_pod(ctx, work),
            Self::Wire => return to_wire(work),
            Self::Refuse => Answer::Refuse,
            Self::TooBig => Answer::TooBig,
            Self::TimeExceeded => Answer::TimeExceeded,
        };
        answer.send(ctx, work, back)
    }
}

#[inline(always)]
pub fn drop(reason: DropReason) -> i32 {
    count_drop(reason);
    TC_ACT_SHOT
}

#[inline(always)]
fn to_pod<F: Family>(ctx: &TcContext, work: &Work<F>) -> i32 {
    #[repr(C)]
    struct Macs {
        dst: [u8; 6],
        src: [u8; 6],
    }
    let pod = &work.pod;
    if ctx.skb.store(0, &Macs { dst: pod.pod_mac, src: pod.host_mac }, 0).is_err() {
        return drop(DropReason::RewriteFailed);
    }
    // SAFETY: a helper without pointers.
    verdict(Counter::TcToPod, unsafe { bpf_redirect_peer(pod.ifindex, 0) })
}

#[inline(always)]
fn to_wire<F: Family>(work: &Work<F>) -> i32 {
    // SAFETY: integers and unions of integers.
    let mut params: bpf_redir_neigh = unsafe { core::mem::zeroed() };
    params.nh_family = work.hop.family;
    params.__bindgen_anon_1.ipv6_nh = work.hop.gateway;
    let size = size_of_val(&params) as i32;
    // SAFETY: the structure lives on the stack and its size is given.
    verdict(Counter::TcToWire, unsafe { bpf_redirect_neigh(work.hop.ifindex, &raw mut params, size, 0) })
}

/// What a redirecting helper has returned, counted.
#[inline(always)]
pub fn verdict(counter: Counter, result: i64) -> i32 {
    if result != i64::from(TC_ACT_REDIRECT) {
        return drop(DropReason::RewriteFailed);
    }
    count(counter);
    result as i32
}

/// What the host's own stack sends: only answers of translated flows, and messages about them, change. `None` for
/// everything else.
#[inline(always)]
pub fn translate_reply<F: Family>(ctx: &TcContext, work: &mut Work<F>) -> Option<i32> {
    let ttl = work.packet.ttl;
    let written = if work.packet.has_ports() {
        let translated = match work.packet.piece {
            Piece::WHOLE => flow::decide_reply(ctx, work),
            Piece::FIRST => fragment::first_reply(ctx, work),
            _ => fragment::later_reply(ctx, work),
        };
        if !translated {
            return None;
        }
        rewrite::flow(ctx, work, ttl)
    } else if work.packet.tuple.proto == F::ICMP && !work.packet.is_later_fragment() && icmp::find_error(ctx, work) {
        rewrite::quote(ctx, work, ttl)
    } else {
        return None;
    };
    Some(match written {
        Some(()) => TC_ACT_OK,
        None => drop(DropReason::RewriteFailed),
    })
}

/// What becomes of a packet that a pod or the wire has sent.
#[inline(always)]
pub fn of<F: Family>(ctx: &TcContext, work: &mut Work<F>, from_wire: bool) -> Outcome {
    let decision = if work.packet.has_ports() {
        match work.packet.piece {
            Piece::LATER => fragment::later(ctx, work, from_wire),
            piece => {
                let decision = flow::decide(ctx, work, from_wire);
                if piece == Piece::FIRST { fragment::first(ctx, work, decision) } else { decision }
            }
        }
    } else if work.packet.tuple.proto == F::ICMP {
        icmp::decide(ctx, work)
    } else {
        flow::decide_portless(work)
    };
    match decision {
        Decision::Untouched if work.pod.ifindex == 0 || is_draining() => Outcome::Pass,
        Decision::Untouched => deliver_untouched(ctx, work),
        Decision::Translate => forward(ctx, work, false),
        Decision::Quote => forward(ctx, work, true),
        // Whoever begins anew, on the tuple of a flow that is over, begins with the rules.
        Decision::Refuse if (!work.packet.is_tcp() || work.packet.tcp.opens()) && is_draining() => Outcome::Pass,
        Decision::Refuse => Outcome::Refuse,
        Decision::Drop | Decision::Consumed => Outcome::Drop,
    }
}

/// Whether only flows that were begun here are still ours.
#[inline(always)]
fn is_draining() -> bool {
    STATE.get(StateKey::Synced as u32).is_some_and(|state| *state == DRAINING)
}

/// Past the host's stack into a pod.
#[inline(always)]
fn deliver_untouched<F: Family>(ctx: &TcContext, work: &Work<F>) -> Outcome {
    let packet = &work.packet;
    // The stack answers what has lived too long.
    if packet.ttl <= 1 {
        return Outcome::Pass;
    }
    match F::write_ttl(ctx, packet, packet.ttl - 1) {
        Some(()) => Outcome::Pod,
        None => Outcome::drop(DropReason::RewriteFailed),
    }
}

/// Finds the way of a translated packet, and rewrites it when there is one.
#[inline(always)]
fn forward<F: Family>(ctx: &TcContext, work: &mut Work<F>, is_quote: bool) -> Outcome {
    // A packet whose source has become this node's, or a service's, would be a stranger in the host's stack.
    let src = if is_quote { &work.quote.src } else { &work.to.src };
    let stack_takes_it = *src == work.packet.tuple.src;
    let way = match route::find(ctx, work, is_quote) {
        Route::Pod => Outcome::Pod,
        Route::Wire => Outcome::Wire,
        Route::Stack => Outcome::Pass,
        // The stack fragments, or says that there is no route.
        Route::TooBig if stack_takes_it && !F::must_not_be_fragmented(&work.packet) => Outcome::Pass,
        Route::Unreachable if stack_takes_it => Outcome::Pass,
        // What nobody here can fragment the sender can, once it knows how.
        Route::TooBig => return Outcome::TooBig,
        Route::Unreachable => return Outcome::drop(DropReason::NoRoute),
    };
    let mut ttl = work.packet.ttl;
    if way != Outcome::Pass {
        if ttl <= 1 {
            return Outcome::TimeExceeded;
        }
        ttl -= 1;
    }
    let written = if is_quote { rewrite::quote(ctx, work, ttl) } else { rewrite::flow(ctx, work, ttl) };
    match written {
        Some(()) => way,
        None => Outcome::drop(DropReason::RewriteFailed),
    }
}
