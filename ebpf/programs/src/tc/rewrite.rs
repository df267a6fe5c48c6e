//! Writing the translation into a packet.
//!
//! Checksums are updated by difference through the kernel's helpers: they alone know whether the transport checksum
//! is there in full or left to the hardware (then it holds the pseudo-header only), so segments of any size and
//! offload stay right.

use aya_ebpf::{
    bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM},
    programs::TcContext,
};
use thalweg_abi::{
    Proto, Tuple,
    checksum::{self, Sum},
    crc32c,
    header::ICMP_LEN,
};

use super::{
    family::Family,
    packet::{Packet, Piece, load},
    work::Work,
};

/// Offsets within headers.
const TCP_CHECKSUM: u32 = 16;
const UDP_CHECKSUM: u32 = 6;
const ICMP_CHECKSUM: u32 = 2;
const SCTP_CHECKSUM: u32 = 8;
const _: () = assert!(ICMP_LEN > ICMP_CHECKSUM as usize);

/// Turns the packet into `work.to`. `None` when a helper fails.
#[inline(always)]
pub fn flow<F: Family>(ctx: &TcContext, work: &Work<F>, ttl: u8) -> Option<()> {
    let (from, to) = (&work.packet.tuple, &work.to);
    let difference = addresses::<F>(&from.src, &from.dst, &to.src, &to.dst);
    // Addresses are all that a later fragment shows of the flow.
    if !work.packet.is_later_fragment() {
        transport(ctx, work, difference)?;
    }
    F::write(ctx, &work.packet, [&to.src, &to.dst], difference, ttl)
}

/// Turns the packet into a message about `work.to`.
#[inline(always)]
pub fn quote<F: Family>(ctx: &TcContext, work: &Work<F>, ttl: u8) -> Option<()> {
    quoted(ctx, work)?;
    let (from, quote) = (&work.packet.tuple, &work.quote);
    let difference = addresses::<F>(&from.src, &from.dst, &quote.src, &quote.dst);
    F::write(ctx, &work.packet, [&quote.src, &quote.dst], difference, ttl)
}

/// What changes in a sum when addresses become others.
#[inline(always)]
pub fn addresses<F: Family>(src: &F::Addr, dst: &F::Addr, new_src: &F::Addr, new_dst: &F::Addr) -> Sum {
    let (old, new) = (F::sum(src).plus(F::sum(dst)), F::sum(new_src).plus(F::sum(new_dst)));
    Sum::ZERO.replace(old.0, new.0)
}

/// Both ports as one word.
#[inline(always)]
fn ports<A>(tuple: &Tuple<A>) -> u32 {
    let ([a, b], [c, d]) = (tuple.sport.0.to_ne_bytes(), tuple.dport.0.to_ne_bytes());
    u32::from_ne_bytes([a, b, c, d])
}

#[inline(always)]
fn transport<F: Family>(ctx: &TcContext, work: &Work<F>, difference: Sum) -> Option<()> {
    let (packet, from, to) = (&work.packet, &work.packet.tuple, &work.to);
    if from.proto == Proto::SCTP {
        return sctp(ctx, packet, ports(from), ports(to));
    }
    // A UDP checksum of 0 means "none", and stays so.
    let (offset, flags) = match from.proto {
        Proto::TCP => (packet.transport + TCP_CHECKSUM, 0),
        _ => (packet.transport + UDP_CHECKSUM, u64::from(BPF_F_MARK_MANGLED_0)),
    };
    ctx.skb.l4_csum_replace(offset as usize, 0, u64::from(difference.0), u64::from(BPF_F_PSEUDO_HDR) | flags).ok()?;
    let (old, new) = (ports(from), ports(to));
    if old == new {
        return Some(());
    }
    ctx.skb.l4_csum_replace(offset as usize, u64::from(old), u64::from(new), 4 | flags).ok()?;
    ctx.skb.store(packet.transport as usize, &new, 0).ok()
}

/// The checksum of SCTP covers its ports, but no address. Of a packet in pieces it cannot be known.
#[inline(never)]
fn sctp<F: Family>(ctx: &TcContext, packet: &Packet<F>, old: u32, new: u32) -> Option<()> {
    if old == new {
        return Some(());
    }
    if packet.piece != Piece::WHOLE {
        return None;
    }
    let offset = packet.transport + SCTP_CHECKSUM;
    let checksum: u32 = load(ctx, offset)?;
    // None, or left to the hardware.
    if checksum != 0 {
        let patched = crc32c::patch(checksum, old, new, packet.payload);
        ctx.skb.store(offset as usize, &patched, u64::from(BPF_F_RECOMPUTE_CSUM)).ok()?;
    }
    ctx.skb.store(packet.transport as usize, &new, u64::from(BPF_F_RECOMPUTE_CSUM)).ok()
}

/// The quoted packet, and the message's checksum, which covers it. Its own pseudo-header (of IPv6) makes the two differ by
/// what else has changed, so a sum that the hardware took of the packet must follow each of them.
#[inline(always)]
fn quoted<F: Family>(ctx: &TcContext, work: &Work<F>) -> Option<()> {
    let (was, becomes, transport) = (&work.quote.was, &work.to, work.quote.transport);
    let summed = u64::from(BPF_F_RECOMPUTE_CSUM);
    let mut difference = F::write_quoted(ctx, work)?;
    let words = Sum::ZERO.replace(ports(was), ports(becomes));
    difference = difference.plus(words);
    ctx.skb.store(transport as usize, &ports(becomes), summed).ok()?;
    // A TCP checksum lies beyond the 8 bytes that a message must quote; nobody verifies it.
    if was.proto == Proto::UDP {
        let old: u16 = load(ctx, transport + UDP_CHECKSUM)?;
        if old != 0 {
            let addresses = addresses::<F>(&was.src, &was.dst, &becomes.src, &becomes.dst);
            let new = checksum::update(old, addresses.plus(words));
            ctx.skb.store((transport + UDP_CHECKSUM) as usize, &new, summed).ok()?;
            difference = difference.replace(u32::from(old), u32::from(new));
        }
    }
    let offset = work.packet.transport + ICMP_CHECKSUM;
    let old: u16 = load(ctx, offset)?;
    ctx.skb.store(offset as usize, &checksum::update(old, difference), summed).ok()
}
