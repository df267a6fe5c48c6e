//! ICMP messages that quote a packet of a translated flow. The quoted packet is turned into the one that its sender
//! knows, or the sender would not recognise it.
//!
//! A quoted packet of either direction is found by one look-up: its reverse is the key of the entry that translates
//! the answers to it, and the reverse of what that entry makes of an answer is what the sender had sent.

use aya_ebpf::programs::TcContext;
use thalweg_abi::{
    Be32, Counter, DropReason, Proto, Tuple,
    header::{ICMP_LEN, IcmpHeader, Ipv4Header},
};

use super::{
    flow::{Decision, decide_portless},
    packet::{Packet, load},
    select,
};
use crate::{count::count, maps::CONNTRACK};

const ECHO_REQUEST: u8 = 8;

/// A quoted packet, as it stands and as it shall be.
#[derive(Clone, Copy)]
pub struct Quote {
    pub header: Ipv4Header,
    /// Offset of the quoted IP header in the frame.
    pub offset: u32,
    pub was: Tuple,
    pub becomes: Tuple,
    /// The message's own addresses.
    pub src: Be32,
    pub dst: Be32,
}

/// What becomes of an ICMP packet.
pub enum IcmpDecision {
    Translate(Quote),
    Otherwise(Decision),
}

#[inline(always)]
pub fn decide(ctx: &TcContext, packet: &Packet) -> IcmpDecision {
    if packet.ip.is_later_fragment() {
        return IcmpDecision::Otherwise(decide_portless(packet));
    }
    let Some(icmp) = load::<IcmpHeader>(ctx, packet.transport) else {
        return IcmpDecision::Otherwise(Decision::Drop(DropReason::Malformed));
    };
    if icmp.is_error()
        && let Some(quote) = find(ctx, packet)
    {
        return IcmpDecision::Translate(quote);
    }
    // An ICMP message may only be answered when it is a question.
    if icmp.kind != ECHO_REQUEST && select::is_ours(packet.tuple.dst) {
        return IcmpDecision::Otherwise(Decision::Drop(DropReason::NoFlow));
    }
    IcmpDecision::Otherwise(decide_portless(packet))
}

/// The quoted packet, if its flow is translated.
#[inline(always)]
pub fn find(ctx: &TcContext, packet: &Packet) -> Option<Quote> {
    let offset = packet.transport + ICMP_LEN as u32;
    let header: Ipv4Header = load(ctx, offset)?;
    if !header.is_valid() || header.is_later_fragment() || !matches!(header.proto, Proto::TCP | Proto::UDP) {
        return None;
    }
    // A message goes to the sender of what it quotes; anything else is forged.
    if header.src != packet.tuple.dst {
        return None;
    }
    let was = load_tuple(ctx, &header, offset)?;
    let entry = CONNTRACK.get_ptr(was.reversed())?;
    // SAFETY: the entry stays readable for the whole program.
    let becomes = unsafe { (*entry).to }.reversed();
    count(Counter::TcTracked);
    // From the quoted packet's receiver itself, or from a router on the way.
    let src = if packet.tuple.src == was.dst { becomes.dst } else { packet.tuple.src };
    Some(Quote { header, offset, was, becomes, src, dst: becomes.src })
}

#[inline(always)]
fn load_tuple(ctx: &TcContext, header: &Ipv4Header, offset: u32) -> Option<Tuple> {
    let [sport, dport] = load(ctx, offset + header.header_len())?;
    Some(Tuple { src: header.src, dst: header.dst, sport, dport, proto: header.proto, pad: [0; 3] })
}
