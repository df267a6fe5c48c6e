//! tc egress of the node's uplink. Answers of a NodePort's backend that is a process of the node itself get the
//! NodePort's address and port back here, whichever of the node's addresses they come from.
//!
//! What the node's own stack sends to a service's address has not been translated by the socket load balancer, and
//! nobody outside could: it ends here, at the price of one look-up for each packet that the stack sends. Packets from
//! elsewhere pass without one, but those that leave with the node's own address: see [`super::apart`].

use super::{
    apart,
    family::Family,
    foreign,
    ipv4::Ipv4,
    ipv6::Ipv6,
    outcome::{drop, translate_reply},
    packet::{Parsed, is_forwarded, parse},
    select,
};
use aya_ebpf::{
    bindings::{TC_ACT_OK, TC_ACT_UNSPEC},
    macros::classifier,
    programs::TcContext,
};

#[classifier]
#[inline(always)]
pub fn tc_to_wire(ctx: TcContext) -> i32 {
    run::<Ipv4>(&ctx)
}

#[classifier]
#[inline(always)]
pub fn tc_to_wire6(ctx: TcContext) -> i32 {
    run::<Ipv6>(&ctx)
}

#[inline(always)]
fn run<F: Family>(ctx: &TcContext) -> i32 {
    let Some(work) = F::work() else { return TC_ACT_UNSPEC };
    match parse(ctx, &mut work.packet) {
        Parsed::Ours => {}
        Parsed::Foreign => return foreign::<F>(ctx),
        Parsed::Malformed => return TC_ACT_OK,
    }
    // What a pod or the wire has sent was judged where it came in.
    if is_forwarded(ctx) {
        apart::leaves(ctx, work);
        return TC_ACT_OK;
    }
    if let Some(verdict) = translate_reply(ctx, work) {
        return verdict;
    }
    match select::stray::<F>(&work.packet.tuple) {
        Some(reason) => drop(reason),
        None => {
            apart::leaves(ctx, work);
            TC_ACT_OK
        }
    }
}
