//! Reading a query: its form, its name, and what it asks of it. The whole message must be understood, or it is not taken.

use aya_ebpf::{helpers::generated::bpf_skb_load_bytes, programs::TcContext};
use thalweg_abi::{
    Be16, DNS_A, DNS_AAAA, DNS_HEADER, DNS_IN, DNS_NAME_LABELS, DNS_NAME_OCTETS, DNS_OPT, DNS_QUESTION_TAIL, DnsOutcome,
    before,
    checksum::Sum,
    header::{ETH_LEN, UDP_LEN},
    lower_cased,
};

use super::{QUESTION_WORDS, Scratch};
use crate::tc::{
    family::Family,
    packet::{Packet, load, load_into, load_near, load_near_into},
};

/// A label's longest length; what is more is a pointer.
const LABEL_MAX: u8 = 63;
/// Octets that hold the longest question.
const QUESTION_OCTETS: u32 = (DNS_NAME_OCTETS + DNS_QUESTION_TAIL) as u32;

/// Offset of the DNS message in the frame.
#[inline(always)]
pub const fn message<F: Family>() -> usize {
    ETH_LEN + F::IP_LEN + UDP_LEN
}

#[inline(always)]
pub fn read<F: Family>(ctx: &TcContext, packet: &Packet<F>, scratch: &mut Scratch) -> Result<(), DnsOutcome> {
    let len = read_header(ctx, packet, scratch).ok_or(DnsOutcome::PassedForm)?;
    let at = (message::<F>() + DNS_HEADER) as u32;
    // The name, its type and class, and perhaps some of what follows.
    let part = if len < QUESTION_OCTETS { len } else { QUESTION_OCTETS };
    if part <= DNS_QUESTION_TAIL as u32 {
        return Err(DnsOutcome::PassedForm);
    }
    let asked: *mut u64 = scratch.asked.as_mut_ptr();
    // SAFETY: so many octets fit there.
    if unsafe { bpf_skb_load_bytes(ctx.skb.skb.cast(), at, asked.cast(), part) } != 0 {
        return Err(DnsOutcome::PassedForm);
    }
    walk(scratch).ok_or(DnsOutcome::PassedName)?;
    // Read again, so that the verifier does not follow each length on its own.
    // SAFETY: a field of a value.
    let name_len = unsafe { (&raw const scratch.name_len).read_volatile() };
    let question_len = name_len.wrapping_add(DNS_QUESTION_TAIL as u32);
    if name_len > DNS_NAME_OCTETS as u32 || question_len > len {
        return Err(DnsOutcome::PassedForm);
    }
    read_opt(ctx, scratch, at + question_len, len - question_len).ok_or(DnsOutcome::PassedForm)?;
    let [kind, class]: [u16; 2] = load(ctx, at + name_len).ok_or(DnsOutcome::PassedForm)?;
    let is_aaaa = Be16(kind) == DNS_AAAA;
    if Be16(class) != DNS_IN || !is_aaaa && Be16(kind) != DNS_A {
        return Err(DnsOutcome::PassedType);
    }
    scratch.is_aaaa = is_aaaa;
    scratch.question_len = question_len;
    scratch.question_sum = lower(scratch, name_len, question_len);
    Ok(())
}

/// Reads the header; how many octets follow it. Only a packet of bare headers, in one segment, that ends with the message.
#[inline(always)]
fn read_header<F: Family>(ctx: &TcContext, packet: &Packet<F>, scratch: &mut Scratch) -> Option<u32> {
    // SAFETY: the context is valid for the whole program.
    let is_whole = packet.transport as usize == ETH_LEN + F::IP_LEN && unsafe { (*ctx.skb.skb).gso_size } == 0;
    let len = packet.payload.checked_sub((UDP_LEN + DNS_HEADER) as u32).filter(|_| is_whole)?;
    let [udp_len, _checksum]: [u16; 2] = load_near(ctx, ETH_LEN + F::IP_LEN + 4)?;
    if u32::from(Be16(udp_len).to_host()) != packet.payload {
        return None;
    }
    load_near_into(ctx, message::<F>(), &mut scratch.header)?;
    scratch.header.is_query().then_some(len)
}

/// Finds the labels of the name. `None` when it is not one that is taken.
#[inline(always)]
fn walk(scratch: &mut Scratch) -> Option<()> {
    let octets: *const u8 = scratch.asked.as_ptr().cast();
    let mut at = 0_u32;
    for index in 0..=DNS_NAME_LABELS {
        if at >= DNS_NAME_OCTETS as u32 {
            return None;
        }
        // SAFETY: just checked: within the question.
        let length = unsafe { octets.add(at as usize).read() };
        if length == 0 {
            scratch.name_len = at + 1;
            // The root is nobody's.
            return (index != 0).then_some(());
        }
        *scratch.starts.get_mut(index)? = at as u16;
        if length > LABEL_MAX {
            return None;
        }
        at += u32::from(length) + 1;
    }
    None
}

/// Reads the OPT record, when there is one; `None` when there is anything else, or anything behind it. Its options are not
/// looked at, as user space does not either.
#[inline(always)]
fn read_opt(ctx: &TcContext, scratch: &mut Scratch, at: u32, len: u32) -> Option<()> {
    scratch.opt_len = 0;
    if !scratch.header.has_additional() {
        return (len == 0).then_some(());
    }
    load_into(ctx, at, &mut scratch.opt)?;
    scratch.opt_len = DNS_OPT as u32;
    let options = u32::from(u16::from_be_bytes(scratch.opt.length));
    (scratch.opt.is_known() && len == DNS_OPT as u32 + options).then_some(())
}

/// Lower-cases the name, and sums the question up. Nothing is left behind either.
#[inline(always)]
fn lower(scratch: &mut Scratch, name_len: u32, question_len: u32) -> Sum {
    let mut sum = 0_u64;
    for index in 0..QUESTION_WORDS {
        let at = index as u32 * 8;
        let asked = scratch.asked[index];
        if index < DNS_NAME_OCTETS / 8 {
            scratch.name[index] = lower_cased(before(asked, at, name_len));
        }
        let asked = before(asked, at, question_len);
        sum += (asked & 0xffff_ffff) + (asked >> 32);
    }
    Sum::ZERO.add(sum as u32).add((sum >> 32) as u32)
}
