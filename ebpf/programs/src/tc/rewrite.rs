//! Writing the translation into a packet.
//!
//! Checksums are updated by difference through the kernel's helpers: they alone know whether the transport checksum
//! is there in full or left to the hardware (then it holds the pseudo-header only), so segments of any size and
//! offload stay right.

use aya_ebpf::{
    bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR},
    programs::TcContext,
};
use thalweg_abi::{
    Be32, Proto, Tuple,
    checksum::{self, Sum},
    header::{ETH_LEN, ICMP_LEN, IPV4_LEN},
};

use super::{
    icmp::Quote,
    packet::{Packet, load},
};

/// Offsets within headers.
const IP_TTL: usize = 8;
const IP_CHECKSUM: usize = 10;
const TCP_CHECKSUM: u32 = 16;
const UDP_CHECKSUM: u32 = 6;
const ICMP_CHECKSUM: u32 = 2;

/// What a packet becomes.
pub enum Change {
    Nothing,
    Flow(Tuple),
    Quote(Quote),
}

/// An IP header from its time to live to its end.
#[repr(C)]
struct IpTail {
    ttl: u8,
    proto: Proto,
    checksum: u16,
    src: Be32,
    dst: Be32,
}
const _: () = assert!(size_of::<IpTail>() == IPV4_LEN - IP_TTL);

/// A quoted IP header from its checksum to its end, in words of 16 bits: it need not be aligned.
#[repr(C)]
struct QuotedTail {
    checksum: u16,
    addresses: [u16; 4],
}

// === impl Change ===

impl Change {
    /// Source and destination of the packet as it will be.
    #[inline(always)]
    pub fn addresses(&self, packet: &Packet) -> (Be32, Be32) {
        match self {
            Self::Nothing => (packet.tuple.src, packet.tuple.dst),
            Self::Flow(to) => (to.src, to.dst),
            Self::Quote(quote) => (quote.src, quote.dst),
        }
    }

    /// Writes the change, and the time to live, one less if the packet is forwarded. `None` when a helper fails.
    #[inline(always)]
    pub fn apply(&self, ctx: &TcContext, packet: &Packet, ttl: u8) -> Option<()> {
        match self {
            Self::Nothing => {}
            Self::Flow(to) => transport(ctx, packet, to)?,
            Self::Quote(quote) => quoted(ctx, packet, quote)?,
        }
        let (src, dst) = self.addresses(packet);
        network(ctx, packet, src, dst, ttl)
    }
}

#[inline(always)]
fn network(ctx: &TcContext, packet: &Packet, src: Be32, dst: Be32, ttl: u8) -> Option<()> {
    let ip = &packet.ip;
    let was = u32::from(u16::from_ne_bytes([ip.ttl, ip.proto.0]));
    let is = u32::from(u16::from_ne_bytes([ttl, ip.proto.0]));
    let difference = addresses_difference(ip.src, ip.dst, src, dst).replace(was, is);
    let tail = IpTail { ttl, proto: ip.proto, checksum: checksum::update(ip.checksum, difference), src, dst };
    ctx.skb.store(ETH_LEN + IP_TTL, &tail, 0).ok()
}

#[inline(always)]
fn addresses_difference(src: Be32, dst: Be32, new_src: Be32, new_dst: Be32) -> Sum {
    Sum::ZERO.replace(src.0, new_src.0).replace(dst.0, new_dst.0)
}

/// Both ports as one word.
#[inline(always)]
fn ports(tuple: &Tuple) -> u32 {
    let ([a, b], [c, d]) = (tuple.sport.0.to_ne_bytes(), tuple.dport.0.to_ne_bytes());
    u32::from_ne_bytes([a, b, c, d])
}

#[inline(always)]
fn transport(ctx: &TcContext, packet: &Packet, to: &Tuple) -> Option<()> {
    let from = &packet.tuple;
    // A UDP checksum of 0 means "none", and stays so.
    let (offset, flags) = match packet.tuple.proto {
        Proto::TCP => (packet.transport + TCP_CHECKSUM, 0),
        _ => (packet.transport + UDP_CHECKSUM, u64::from(BPF_F_MARK_MANGLED_0)),
    };
    let difference = addresses_difference(from.src, from.dst, to.src, to.dst);
    ctx.skb.l4_csum_replace(offset as usize, 0, u64::from(difference.0), u64::from(BPF_F_PSEUDO_HDR) | flags).ok()?;
    let (old, new) = (ports(from), ports(to));
    if old == new {
        return Some(());
    }
    ctx.skb.l4_csum_replace(offset as usize, u64::from(old), u64::from(new), 4 | flags).ok()?;
    ctx.skb.store(packet.transport as usize, &new, 0).ok()
}

/// The quoted packet, and the message's checksum, which covers it.
#[inline(always)]
fn quoted(ctx: &TcContext, packet: &Packet, quote: &Quote) -> Option<()> {
    let Quote { header, was, becomes, .. } = quote;
    let addresses = addresses_difference(was.src, was.dst, becomes.src, becomes.dst);
    let [a, b, c, d] = [becomes.src.0 as u16, (becomes.src.0 >> 16) as u16, becomes.dst.0 as u16, (becomes.dst.0 >> 16) as u16];
    let tail = QuotedTail { checksum: checksum::update(header.checksum, addresses), addresses: [a, b, c, d] };
    ctx.skb.store(quote.offset as usize + IP_CHECKSUM, &tail, 0).ok()?;
    // The quoted IP header's own checksum makes up for its new addresses; what is left is the transport's.
    let mut difference = Sum::ZERO.replace(ports(was), ports(becomes));
    let transport = quote.offset + header.header_len();
    ctx.skb.store(transport as usize, &ports(becomes), 0).ok()?;
    // A TCP checksum lies beyond the 8 bytes that a message must quote; nobody verifies it.
    if was.proto == Proto::UDP {
        let old: u16 = load(ctx, transport + UDP_CHECKSUM)?;
        if old != 0 {
            let new = checksum::update(old, addresses.plus(difference));
            ctx.skb.store((transport + UDP_CHECKSUM) as usize, &new, 0).ok()?;
            difference = difference.replace(u32::from(old), u32::from(new));
        }
    }
    let offset = packet.transport + ICMP_CHECKSUM;
    const _: () = assert!(ICMP_LEN > ICMP_CHECKSUM as usize);
    let old: u16 = load(ctx, offset)?;
    ctx.skb.store(offset as usize, &checksum::update(old, difference), 0).ok()
}
