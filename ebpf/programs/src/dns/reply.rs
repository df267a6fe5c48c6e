//! Turning a query into its reply, in place. The question stays where it is, with the client's own casing.

use aya_ebpf::{
    bindings::BPF_F_MARK_MANGLED_0,
    helpers::generated::{bpf_csum_diff, bpf_get_prandom_u32, bpf_skb_store_bytes},
    programs::TcContext,
};
use thalweg_abi::{
    DNS_ADDRESSES, DNS_HEADER, DNS_SOA, DnsNode, DnsNodeFlags, DnsOutcome, DnsRecordA, DnsRecordAaaa, DnsSoa, DnsZone, Proto,
    checksum::Sum,
    header::{ETH_LEN, UDP_LEN},
};

use super::{RECORD_WORDS, Scratch, find::Found, question::message};
use crate::tc::{
    answer::{complete, cut, swap_macs},
    family::Family,
    packet::Packet,
};

const UDP_CHECKSUM: usize = 6;
const RECORD_OCTETS: u32 = RECORD_WORDS as u32 * 8;

/// Makes header, records and OPT record of the reply. Nothing is written to the packet yet.
#[inline(always)]
pub fn plan(found: &Found, scratch: &mut Scratch) -> Result<DnsOutcome, DnsOutcome> {
    let zone = found.zone;
    let mut count = 0;
    let mut outcome = DnsOutcome::NxDomain;
    if let Some(node) = found.node {
        let others = if scratch.is_aaaa { DnsNodeFlags::OTHER_AAAA } else { DnsNodeFlags::OTHER_A };
        if node.flags.has(others) {
            return Err(DnsOutcome::PassedUnknown);
        }
        count = if scratch.is_aaaa { node.aaaa_count } else { node.a_count };
        outcome = if count == 0 { DnsOutcome::NoData } else { DnsOutcome::Answered };
        if count != 0 {
            addresses(node, zone, count, scratch);
        }
    }
    if count == 0 {
        let origin = (DNS_HEADER as u32).wrapping_add(scratch.name_len).wrapping_sub(u32::from(zone.origin));
        let soa: *mut DnsSoa = scratch.records.as_mut_ptr().cast();
        // SAFETY: it fits there.
        unsafe { soa.write(DnsSoa::new(origin as u16, zone)) };
        scratch.records_len = DNS_SOA as u32;
    }
    scratch.opt = scratch.opt.reply(zone.udp_size);
    scratch.header = scratch.header.reply(zone.flags, outcome != DnsOutcome::NxDomain, count.into());
    Ok(outcome)
}

/// Writes the records of a node, from any of them on and around.
#[inline(always)]
fn addresses(node: &DnsNode, zone: &DnsZone, count: u8, scratch: &mut Scratch) {
    let count = usize::from(count).min(DNS_ADDRESSES);
    let is_aaaa = scratch.is_aaaa;
    // SAFETY: a helper without pointers.
    let random = unsafe { bpf_get_prandom_u32() };
    let mut pick = ((u64::from(random) * count as u64) >> 32) as usize;
    let records: *mut u64 = scratch.records.as_mut_ptr();
    for index in 0..DNS_ADDRESSES {
        if index >= count {
            break;
        }
        // SAFETY: eight of the longer ones fit there; the node has as many addresses.
        unsafe {
            if is_aaaa {
                let addr: *const [u16; 8] = (&raw const node.aaaa).cast::<[u16; 8]>().add(pick % DNS_ADDRESSES);
                records.cast::<DnsRecordAaaa>().add(index).write(DnsRecordAaaa::new(zone.ttl, *addr));
            } else {
                let addr: *const [u16; 2] = (&raw const node.a).cast::<[u16; 2]>().add(pick % DNS_ADDRESSES);
                records.cast::<DnsRecordA>().add(index).write(DnsRecordA::new(zone.ttl, *addr));
            }
        }
        pick = if pick + 1 >= count { 0 } else { pick + 1 };
    }
    let size = if is_aaaa { size_of::<DnsRecordAaaa>() } else { size_of::<DnsRecordA>() };
    scratch.records_len = (count * size) as u32;
}

/// Writes the reply over the query. `None` when a helper fails, and the packet is nothing any more.
#[inline(always)]
pub fn write<F: Family>(ctx: &TcContext, packet: &Packet<F>, scratch: &mut Scratch) -> Option<()> {
    // Read again, so that the verifier does not follow each length on its own.
    // SAFETY: a field of a value.
    let records_len = unsafe { (&raw const scratch.records_len).read_volatile() };
    if records_len == 0 || records_len > RECORD_OCTETS {
        return None;
    }
    let udp_len = (UDP_LEN + DNS_HEADER) as u32 + scratch.question_len + records_len + scratch.opt_len;
    let records_at = (message::<F>() + DNS_HEADER) as u32 + scratch.question_len;
    cut(ctx, (ETH_LEN + F::IP_LEN) as u32 + udp_len)?;
    swap_macs(ctx)?;
    let tuple = &packet.tuple;
    ctx.skb.store(ETH_LEN, &F::answer(&tuple.dst, &tuple.src, Proto::UDP, udp_len as u16), 0).ok()?;
    ctx.skb.store(message::<F>(), &scratch.header, 0).ok()?;
    let records: *mut u64 = scratch.records.as_mut_ptr();
    // SAFETY: so many octets are there. Up to the next multiple of 4 there are zeros, which change no sum.
    let mut after_question = unsafe {
        if bpf_skb_store_bytes(ctx.skb.skb.cast(), records_at, records.cast(), records_len, 0) != 0 {
            return None;
        }
        let padded = (records_len + 3) & !3;
        Sum(bpf_csum_diff(core::ptr::null_mut(), 0, records.cast(), padded, 0) as u32)
    };
    if scratch.opt_len != 0 {
        ctx.skb.store((records_at + records_len) as usize, &scratch.opt, 0).ok()?;
        after_question = after_question.plus(scratch.opt.sum());
    }
    if scratch.question_len & 1 != 0 {
        after_question = Sum(u32::from(after_question.fold().swap_bytes()));
    }
    let pseudo = F::pseudo_header(&tuple.dst, &tuple.src, Proto::UDP, udp_len as u16);
    let if_offloaded = pseudo.fold();
    let udp = [tuple.dport.0, tuple.sport.0, (udp_len as u16).to_be(), if_offloaded];
    ctx.skb.store(ETH_LEN + F::IP_LEN, &udp, 0).ok()?;
    let [ports, length] = [[udp[0], udp[1]], [udp[2], 0]].map(|[low, high]| u32::from(low) | u32::from(high) << 16);
    let whole = pseudo.add(ports).add(length).plus(scratch.header.sum()).plus(scratch.question_sum).plus(after_question);
    // A UDP checksum of 0 means "none", which IPv6 does not take.
    complete(ctx, ETH_LEN + F::IP_LEN + UDP_CHECKSUM, if_offloaded, whole, u64::from(BPF_F_MARK_MANGLED_0))
}
