//! tc ingress of the host's end of a pod's link: what a pod sends.

use aya_ebpf::{
    bindings::{TC_ACT_OK, TC_ACT_UNSPEC},
    macros::classifier,
    programs::TcContext,
};
use thalweg_abi::DropReason;

use super::{
    answer::Back,
    family::Family,
    foreign,
    ipv4::Ipv4,
    ipv6::Ipv6,
    outcome::{self, drop},
    packet::{Parsed, ifindex, parse},
};
use crate::dns;

#[classifier]
#[inline(always)]
pub fn tc_from_pod(ctx: TcContext) -> i32 {
    run::<Ipv4>(&ctx)
}

#[classifier]
#[inline(always)]
pub fn tc_from_pod6(ctx: TcContext) -> i32 {
    run::<Ipv6>(&ctx)
}

#[inline(always)]
fn run<F: Family>(ctx: &TcContext) -> i32 {
    let Some(work) = F::work() else { return TC_ACT_UNSPEC };
    match parse(ctx, &mut work.packet) {
        Parsed::Ours => {}
        Parsed::Foreign => return foreign::<F>(ctx),
        Parsed::Malformed => return drop(DropReason::Malformed),
    }
    // A pod speaks from its own address on its own link.
    match F::local_pod(&work.packet.tuple.src) {
        Some(pod) if pod.ifindex == ifindex(ctx) => {}
        _ if F::is_of_the_link(&work.packet) => return TC_ACT_OK,
        _ => return drop(DropReason::Spoofed),
    }
    if dns::is_query(&work.packet) {
        let verdict = dns::answer(ctx, &work.packet);
        if verdict != dns::NOT_TAKEN {
            return verdict;
        }
    }
    outcome::of(ctx, work, false).finish(ctx, work, Back::Pod)
}
