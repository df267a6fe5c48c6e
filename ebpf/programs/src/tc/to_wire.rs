//! tc egress of the node's uplink. Answers of a NodePort's backend that is a process of the node itself get the
//! NodePort's address and port back here; packets from elsewhere pass without a look-up.
//!
//! What the node's own stack sends to a service's address has not been translated by the socket load balancer, and
//! nobody outside could: it ends here, at the price of one look-up for each packet that the stack sends.

use aya_ebpf::{bindings::TC_ACT_OK, macros::classifier, programs::TcContext};
use thalweg_abi::Counter;

use super::{
    flow::node_addr,
    outcome::{drop, translate_reply},
    packet::{Parsed, is_forwarded, parse},
    select,
};
use crate::count::count;

#[classifier]
pub fn tc_to_wire(ctx: TcContext) -> i32 {
    count(Counter::TcPackets);
    let Parsed::Ipv4(packet) = parse(&ctx) else { return TC_ACT_OK };
    if packet.tuple.src == node_addr()
        && let Some(verdict) = translate_reply(&ctx, &packet)
    {
        return verdict;
    }
    // What a pod or the wire has sent was judged where it came in.
    if is_forwarded(&ctx) {
        return TC_ACT_OK;
    }
    match select::stray(&packet.tuple) {
        Some(reason) => drop(reason),
        None => TC_ACT_OK,
    }
}
