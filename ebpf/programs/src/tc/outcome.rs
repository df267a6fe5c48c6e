//! How a program ends: the rewritten packet sent on its way, and every verdict counted.

use aya_ebpf::{
    bindings::{TC_ACT_OK, TC_ACT_REDIRECT, TC_ACT_SHOT, bpf_redir_neigh},
    helpers::generated::{bpf_redirect_neigh, bpf_redirect_peer},
    programs::TcContext,
};
use thalweg_abi::{Be32, Counter, DropReason, LocalPod, Proto};

use super::{
    answer::{Answer, Back},
    flow::{self, Decision},
    icmp::{self, IcmpDecision},
    packet::Packet,
    rewrite::Change,
    route::{self, Hop, Route},
};
use crate::count::{count, count_drop};

const AF_INET: u32 = 2;

/// How the program ends.
pub enum Outcome {
    Onward(Way),
    Drop(DropReason),
    /// Back to its sender.
    Answer(Answer),
}

/// Where a packet goes: straight into a pod of this node, or to the next hop, or else to the host's stack, or onwards
/// as it was going.
///
/// No enum, so that every field has a value on every path: a register that holds none, which the compiler copies for
/// the sake of another path, is refused by the verifier.
pub struct Way {
    pod: Option<&'static LocalPod>,
    /// Interface 0 if there is none.
    hop: Hop,
    /// What the packet loses of its time to live.
    hops: u8,
}

// === impl Way ===

impl Way {
    const STACK: Self = Self { pod: None, hop: Hop { ifindex: 0, gateway: Be32::ZERO }, hops: 0 };

    #[inline(always)]
    const fn pod(pod: &'static LocalPod) -> Self {
        Self { pod: Some(pod), hops: 1, ..Self::STACK }
    }

    #[inline(always)]
    const fn wire(hop: Hop) -> Self {
        Self { hop, hops: 1, ..Self::STACK }
    }
}

// === impl Outcome ===

impl Outcome {
    /// Does it, and returns the program's verdict.
    #[inline(always)]
    pub fn finish(self, ctx: &TcContext, packet: &Packet, back: Back) -> i32 {
        match self {
            Self::Onward(Way { pod: Some(pod), .. }) => to_pod(ctx, pod),
            Self::Onward(Way { hop, .. }) if hop.ifindex != 0 => to_wire(hop),
            Self::Onward(_) => TC_ACT_OK,
            Self::Drop(reason) => drop(reason),
            Self::Answer(answer) => match answer.send(ctx, packet, back) {
                Ok(verdict) => verdict,
                Err(reason) => drop(reason),
            },
        }
    }
}

#[inline(always)]
pub fn drop(reason: DropReason) -> i32 {
    count_drop(reason);
    TC_ACT_SHOT
}

#[inline(always)]
fn to_pod(ctx: &TcContext, pod: &LocalPod) -> i32 {
    #[repr(C)]
    struct Macs {
        dst: [u8; 6],
        src: [u8; 6],
    }
    if ctx.skb.store(0, &Macs { dst: pod.pod_mac, src: pod.host_mac }, 0).is_err() {
        return drop(DropReason::RewriteFailed);
    }
    // SAFETY: a helper without pointers.
    verdict(Counter::TcToPod, unsafe { bpf_redirect_peer(pod.ifindex, 0) })
}

#[inline(always)]
fn to_wire(hop: Hop) -> i32 {
    // SAFETY: integers and unions of integers.
    let mut params: bpf_redir_neigh = unsafe { core::mem::zeroed() };
    params.nh_family = AF_INET;
    params.__bindgen_anon_1.ipv4_nh = hop.gateway.0;
    // SAFETY: the structure lives on the stack and its size is given.
    verdict(Counter::TcToWire, unsafe { bpf_redirect_neigh(hop.ifindex, &raw mut params, size_of_val(&params) as i32, 0) })
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
pub fn translate_reply(ctx: &TcContext, packet: &Packet) -> Option<i32> {
    let change = if packet.has_ports() {
        flow::decide_reply(ctx, packet).map(Change::Flow)
    } else if packet.tuple.proto == Proto::ICMP && !packet.ip.is_later_fragment() {
        icmp::find(ctx, packet).map(Change::Quote)
    } else {
        None
    };
    Some(match change?.apply(ctx, packet, packet.ip.ttl) {
        Some(()) => TC_ACT_OK,
        None => drop(DropReason::RewriteFailed),
    })
}

/// What becomes of a packet that a pod or the wire has sent.
#[inline(always)]
pub fn of(ctx: &TcContext, packet: &Packet, from_wire: bool) -> Outcome {
    let decision = if packet.has_ports() {
        flow::decide(ctx, packet, from_wire)
    } else if packet.tuple.proto == Proto::ICMP {
        match icmp::decide(ctx, packet) {
            IcmpDecision::Translate(quote) => return forward(ctx, packet, &Change::Quote(quote)),
            IcmpDecision::Otherwise(decision) => decision,
        }
    } else {
        flow::decide_portless(packet)
    };
    match decision {
        Decision::Untouched(None) => Outcome::Onward(Way::STACK),
        Decision::Untouched(Some(pod)) => deliver_untouched(ctx, packet, pod),
        Decision::Translate(to) => forward(ctx, packet, &Change::Flow(to)),
        Decision::Refuse => Outcome::Answer(Answer::Refuse),
        Decision::Drop(reason) => Outcome::Drop(reason),
    }
}

/// Past the host's stack into a pod.
#[inline(always)]
fn deliver_untouched(ctx: &TcContext, packet: &Packet, pod: &'static LocalPod) -> Outcome {
    // The stack answers what has lived too long.
    if packet.ip.ttl <= 1 {
        return Outcome::Onward(Way::STACK);
    }
    match Change::Nothing.apply(ctx, packet, packet.ip.ttl - 1) {
        Some(()) => Outcome::Onward(Way::pod(pod)),
        None => Outcome::Drop(DropReason::RewriteFailed),
    }
}

/// Finds the way of a translated packet, and rewrites it when there is one.
#[inline(always)]
fn forward(ctx: &TcContext, packet: &Packet, change: &Change) -> Outcome {
    let (src, dst) = change.addresses(packet);
    // A packet whose source has become this node's, or a service's, would be a stranger in the host's stack.
    let stack_takes_it = src == packet.tuple.src;
    let way = match route::find(ctx, packet, src, dst) {
        Route::Pod(pod) => Way::pod(pod),
        Route::Wire(hop) => Way::wire(hop),
        Route::Stack => Way::STACK,
        Route::TooBig(mtu) if packet.must_not_be_fragmented() => return Outcome::Answer(Answer::TooBig(mtu)),
        // The stack fragments, or says that there is no route.
        Route::TooBig(_) | Route::Unreachable if stack_takes_it => Way::STACK,
        Route::TooBig(_) | Route::Unreachable => return Outcome::Drop(DropReason::NoRoute),
    };
    if way.hops != 0 && packet.ip.ttl <= 1 {
        return Outcome::Answer(Answer::TimeExceeded);
    }
    match change.apply(ctx, packet, packet.ip.ttl.wrapping_sub(way.hops)) {
        Some(()) => Outcome::Onward(way),
        None => Outcome::Drop(DropReason::RewriteFailed),
    }
}
