//! ICMP messages that quote a packet of a translated flow. The quoted packet is turned into the one that its sender
//! knows, or the sender would not recognise it.
//!
//! A quoted packet of either direction is found by one look-up: its reverse is the key of the entry that translates
//! the answers to it, and the reverse of what that entry makes of an answer is what the sender had sent.

use aya_ebpf::programs::TcContext;
use thalweg_abi::{
    Be16, Counter, DropReason,
    header::{ICMP_LEN, IcmpHeader},
};

use super::{
    family::Family,
    flow::{Decision, decide_portless},
    packet::{has_ports, load},
    select,
    work::Work,
};
use crate::count::count;

/// Bytes of the quoted transport header that a message must have.
const QUOTED: u32 = 8;

#[inline(always)]
pub fn decide<F: Family>(ctx: &TcContext, work: &mut Work<F>) -> Decision {
    if work.packet.is_later_fragment() {
        return decide_portless(work);
    }
    let Some(icmp) = load::<IcmpHeader>(ctx, work.packet.transport) else { return Decision::drop(DropReason::Malformed) };
    if F::is_icmp_of_the_link(icmp.kind) {
        // For the stack alone, whoever it names.
        work.pod.ifindex = 0;
        return Decision::Untouched;
    }
    if F::is_icmp_error(icmp.kind) && find(ctx, work) {
        return Decision::Quote;
    }
    // An ICMP message may only be answered when it is a question.
    if icmp.kind != F::ICMP_ECHO_REQUEST && select::is_ours::<F>(&work.packet.tuple.dst) {
        return Decision::drop(DropReason::NoFlow);
    }
    decide_portless(work)
}

/// Whether this is a message about a translated packet, which then becomes `work.to`.
#[inline(always)]
pub fn find_error<F: Family>(ctx: &TcContext, work: &mut Work<F>) -> bool {
    match load::<IcmpHeader>(ctx, work.packet.transport) {
        Some(icmp) => F::is_icmp_error(icmp.kind) && find(ctx, work),
        None => false,
    }
}

/// Whether the quoted packet's flow is translated.
#[inline(always)]
fn find<F: Family>(ctx: &TcContext, work: &mut Work<F>) -> bool {
    work.quote.offset = work.packet.transport + ICMP_LEN as u32;
    if F::parse_quoted(ctx, work).is_none() {
        return false;
    }
    let packet = &work.packet.tuple;
    let quote = &mut work.quote;
    // A message goes to the sender of what it quotes; anything else is forged.
    if !has_ports(quote.was.proto) || quote.was.src != packet.dst {
        return false;
    }
    // The first 8 bytes must be there; what is behind the packet's end is not covered by its checksum.
    if quote.transport.wrapping_add(QUOTED) > work.packet.transport.wrapping_add(work.packet.payload) {
        return false;
    }
    let Some([sport, dport]) = load::<[Be16; 2]>(ctx, quote.transport) else { return false };
    quote.was.sport = sport;
    quote.was.dport = dport;
    let Some(entry) = F::find_flow(&quote.was.reversed()) else { return false };
    // SAFETY: the entry stays readable for the whole program.
    work.to = unsafe { (*entry).to }.reversed();
    count(Counter::TcTracked);
    // From the quoted packet's receiver itself, or from a router on the way.
    quote.src = if packet.src == quote.was.dst { work.to.dst } else { packet.src };
    quote.dst = work.to.src;
    true
}
