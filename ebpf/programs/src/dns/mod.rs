//! Cluster DNS on packets: a query that a pod sends is answered at its own link, from the zones that the agent keeps in
//! maps. User space is not woken, nor needed: it may be gone for a while.
//!
//! [`question`] reads the query, [`find`] looks its name up, [`reply`] turns the packet into the answer. What is not taken
//! goes on as if this were not here, unchanged: nothing is written before all is known.

mod find;
mod question;
mod reply;

use aya_ebpf::{
    bindings::{TC_ACT_REDIRECT, TC_ACT_SHOT, TC_ACT_UNSPEC},
    btf_maps::PerCpuArray,
    helpers::generated::bpf_redirect_peer,
    macros::btf_map,
    programs::TcContext,
};
use thalweg_abi::{
    DNS_NAME_LABELS, DNS_NAME_OCTETS, DNS_PORT, DnsHeader, DnsOpt, DnsOutcome, DnsServer, DropReason, Proto, checksum::Sum,
};

use crate::{
    count::{count_dns, count_drop},
    maps::DNS_SERVERS,
    tc::{
        family::Family,
        packet::{Packet, Piece, ifindex},
    },
};

/// The verdict on a packet that is not taken.
pub const NOT_TAKEN: i32 = TC_ACT_UNSPEC;

/// Words of eight octets that hold the longest question.
const QUESTION_WORDS: usize = DNS_NAME_OCTETS / 8 + 1;
/// The longest records: eight addresses of IPv6.
const RECORD_WORDS: usize = 28;

/// What is known of one query while it is worked on, as the stack is short.
#[repr(C)]
pub struct Scratch {
    /// The question as it was asked.
    asked: [u64; QUESTION_WORDS],
    /// Its name, lower-cased, and zeros: every parent of it is a key, too.
    name: [u64; 2 * DNS_NAME_OCTETS / 8],
    /// The records of the reply.
    records: [u64; RECORD_WORDS],
    /// The header of the query, then that of the reply.
    header: DnsHeader,
    /// The same of OPT records, when there is one.
    opt: DnsOpt,
    /// Whether addresses of IPv6 are asked for, not of IPv4.
    is_aaaa: bool,
    /// Octets of the reply's OPT record; 0 without one.
    opt_len: u32,
    /// Octets of the question, and their sum.
    question_len: u32,
    question_sum: Sum,
    /// Where the name's labels start, and its root label, in 16 bits each.
    starts: [u16; DNS_NAME_LABELS],
    /// Octets of the name.
    name_len: u32,
    /// Octets of the records.
    records_len: u32,
}

#[btf_map]
static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

/// Whether this may be a query. Most packets are done with one comparison.
#[inline(always)]
pub fn is_query<F: Family>(packet: &Packet<F>) -> bool {
    packet.tuple.dport == DNS_PORT && packet.tuple.proto == Proto::UDP && packet.piece == Piece::WHOLE
}

/// Answers a query for one of our names, back into the pod that it came from; else [`NOT_TAKEN`].
///
/// A function of its own: its stack is not that of other packets.
#[inline(never)]
pub fn answer<F: Family>(ctx: &TcContext, packet: &Packet<F>) -> i32 {
    let server = DnsServer { addr: F::mapped(&packet.tuple.dst) };
    // SAFETY: only whether there is an entry is asked.
    if unsafe { DNS_SERVERS.get(&server) }.is_none() {
        return NOT_TAKEN;
    }
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return NOT_TAKEN };
    // SAFETY: the element is this CPU's, and one packet at a time has it.
    match respond(ctx, packet, unsafe { &mut *scratch }) {
        Ok(verdict) => verdict,
        Err(reason) => {
            count_dns(reason);
            NOT_TAKEN
        }
    }
}

/// The verdict, or why the query is not taken.
#[inline(always)]
fn respond<F: Family>(ctx: &TcContext, packet: &Packet<F>, scratch: &mut Scratch) -> Result<i32, DnsOutcome> {
    question::read(ctx, packet, scratch)?;
    let found = find::find(scratch)?;
    let outcome = reply::plan(&found, scratch)?;
    if reply::write(ctx, packet, scratch).is_none() {
        count_drop(DropReason::RewriteFailed);
        return Ok(TC_ACT_SHOT);
    }
    // SAFETY: a helper without pointers.
    let verdict = unsafe { bpf_redirect_peer(ifindex(ctx), 0) };
    if verdict != i64::from(TC_ACT_REDIRECT) {
        count_drop(DropReason::RewriteFailed);
        return Ok(TC_ACT_SHOT);
    }
    count_dns(outcome);
    Ok(verdict as i32)
}
