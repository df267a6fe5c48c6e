//! tc ingress of the node's uplink: what other nodes and the outside send.

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
    packet::{Kind, Parsed, parse},
};

#[classifier]
#[inline(always)]
pub fn tc_from_wire(ctx: TcContext) -> i32 {
    run::<Ipv4>(&ctx)
}

#[classifier]
#[inline(always)]
pub fn tc_from_wire6(ctx: TcContext) -> i32 {
    run::<Ipv6>(&ctx)
}

#[inline(always)]
fn run<F: Family>(ctx: &TcContext) -> i32 {
    // Whom it is for gets it too. The stack drops this one.
    if Kind::of(ctx) == Kind::OTHERS {
        return TC_ACT_OK;
    }
    let Some(work) = F::work() else { return TC_ACT_UNSPEC };
    match parse(ctx, &mut work.packet) {
        Parsed::Ours => {}
        Parsed::Foreign => return foreign::<F>(ctx),
        Parsed::Malformed => return drop(DropReason::Malformed),
    }
    outcome::of(ctx, work, true).finish(ctx, work, Back::Wire)
}
