//! tc ingress of the host's end of a pod's link: what a pod sends.

use aya_ebpf::{bindings::TC_ACT_OK, macros::classifier, programs::TcContext};
use thalweg_abi::{Counter, DropReason};

use super::{
    answer::Back,
    flow::local_pod,
    outcome::{self, drop},
    packet::{Parsed, ifindex, parse},
};
use crate::count::count;

#[classifier]
pub fn tc_from_pod(ctx: TcContext) -> i32 {
    count(Counter::TcPackets);
    let packet = match parse(&ctx) {
        Parsed::Ipv4(packet) => packet,
        Parsed::Foreign => return TC_ACT_OK,
        Parsed::Malformed => return drop(DropReason::Malformed),
    };
    // A pod speaks from its own address on its own link.
    match local_pod(packet.tuple.src) {
        Some(pod) if pod.ifindex == ifindex(&ctx) => {}
        _ => return drop(DropReason::Spoofed),
    }
    outcome::of(&ctx, &packet, false).finish(&ctx, &packet, Back::Pod)
}
