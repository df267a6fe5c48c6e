//! tc egress of the host's end of a pod's link: what the host's stack sends to a pod. Answers of a backend that is a
//! process of the node itself get their service's address back here; all else comes ready or past this hook.

use super::{
    apart,
    family::Family,
    foreign,
    ipv4::Ipv4,
    ipv6::Ipv6,
    outcome::translate_reply,
    packet::{Parsed, parse},
};
use aya_ebpf::{
    bindings::{TC_ACT_OK, TC_ACT_UNSPEC},
    macros::classifier,
    programs::TcContext,
};

#[classifier]
#[inline(always)]
pub fn tc_to_pod(ctx: TcContext) -> i32 {
    run::<Ipv4>(&ctx)
}

#[classifier]
#[inline(always)]
pub fn tc_to_pod6(ctx: TcContext) -> i32 {
    run::<Ipv6>(&ctx)
}

#[inline(always)]
fn run<F: Family>(ctx: &TcContext) -> i32 {
    let Some(work) = F::work() else { return TC_ACT_UNSPEC };
    match parse(ctx, &mut work.packet) {
        Parsed::Ours => match translate_reply(ctx, work) {
            Some(verdict) => verdict,
            None => {
                apart::leaves(ctx, work);
                TC_ACT_OK
            }
        },
        Parsed::Foreign => foreign::<F>(ctx),
        // The host's own stack made it; the pod's will judge it.
        Parsed::Malformed => TC_ACT_OK,
    }
}
