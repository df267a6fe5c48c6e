//! tc egress of the host's end of a pod's link: what the host's stack sends to a pod. Answers of a backend that is a
//! process of the node itself get their service's address back here; all else comes ready or past this hook.

use aya_ebpf::{bindings::TC_ACT_OK, macros::classifier, programs::TcContext};
use thalweg_abi::Counter;

use super::{
    outcome::translate_reply,
    packet::{Parsed, parse},
};
use crate::count::count;

#[classifier]
pub fn tc_to_pod(ctx: TcContext) -> i32 {
    count(Counter::TcPackets);
    match parse(&ctx) {
        Parsed::Ipv4(packet) => translate_reply(&ctx, &packet).unwrap_or(TC_ACT_OK),
        // The host's own stack made it; the pod's will judge it.
        Parsed::Foreign | Parsed::Malformed => TC_ACT_OK,
    }
}
