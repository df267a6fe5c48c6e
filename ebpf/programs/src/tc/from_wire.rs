//! tc ingress of the node's uplink: what other nodes and the outside send.

use aya_ebpf::{bindings::TC_ACT_OK, macros::classifier, programs::TcContext};
use thalweg_abi::{Counter, DropReason};

use super::{
    answer::Back,
    outcome::{self, drop},
    packet::{Parsed, parse},
};
use crate::count::count;

#[classifier]
pub fn tc_from_wire(ctx: TcContext) -> i32 {
    count(Counter::TcPackets);
    let packet = match parse(&ctx) {
        Parsed::Ipv4(packet) => packet,
        Parsed::Foreign => return TC_ACT_OK,
        Parsed::Malformed => return drop(DropReason::Malformed),
    };
    outcome::of(&ctx, &packet, true).finish(&ctx, &packet, Back::Wire)
}
