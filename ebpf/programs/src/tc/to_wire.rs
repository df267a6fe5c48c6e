//! tc egress of the node's uplink. Answers of a NodePort's backend that is a process of the node itself get the
//! NodePort's address and port back here; packets from elsewhere pass without a look-up.

use aya_ebpf::{bindings::TC_ACT_OK, macros::classifier, programs::TcContext};
use thalweg_abi::Counter;

use super::{
    flow::node_addr,
    outcome::translate_reply,
    packet::{Parsed, parse},
};
use crate::count::count;

#[classifier]
pub fn tc_to_wire(ctx: TcContext) -> i32 {
    count(Counter::TcPackets);
    match parse(&ctx) {
        Parsed::Ipv4(packet) if packet.tuple.src == node_addr() => translate_reply(&ctx, &packet),
        _ => TC_ACT_OK,
    }
}
