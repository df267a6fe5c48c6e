//! The complete load balancer on packets: tc programs on the pods' links and on the node's uplink.
//!
//! Every packet goes the same way, one module a step: [`packet`] reads its headers, [`flow`] decides what it
//! becomes (conntrack, then frontends; [`begin`] makes a new flow; [`icmp`] for messages that quote a packet, [`fragment`]
//! for datagrams in pieces, [`direct`] where an untranslated packet would be taken for a translated one, [`apart`] where an
//! answer would be taken for a question), [`route`] finds where that goes before anything is written, [`rewrite`] changes
//! it and [`outcome`] sends it on. What cannot be served is answered by [`answer`]. The hooks themselves only choose the
//! steps.
//!
//! Each hook has two programs, one for each [`family`], and [`work`] is what they know of their packet. The one for IPv4
//! comes first and hands IPv6 on to the other.

pub mod answer;
mod apart;
mod begin;
mod direct;
pub mod family;
mod flow;
mod fragment;
mod from_pod;
mod from_wire;
mod icmp;
mod ipv4;
mod ipv6;
mod outcome;
pub mod packet;
mod rewrite;
mod route;
mod select;
mod to_pod;
mod to_wire;
mod work;

use aya_ebpf::{
    bindings::{TC_ACT_OK, TC_ACT_UNSPEC},
    programs::TcContext,
};
use thalweg_abi::{header::ETH_P_IPV4, ipv6::ETH_P_IPV6};

use self::family::Family;

/// The verdict on a packet that is not this program's. The other family's program decides on what is its own; what is
/// neither's ends as what passes does: accepted, and not shown to programs of others behind ours.
#[inline(always)]
fn foreign<F: Family>(ctx: &TcContext) -> i32 {
    let protocol = ctx.skb.protocol();
    let is_others = protocol == u32::from(ETH_P_IPV6.0) || F::ETHER_TYPE != ETH_P_IPV4;
    if is_others { TC_ACT_UNSPEC } else { TC_ACT_OK }
}
