//! Packets that we send ourselves, made in place from the one that they answer: TCP RST, ICMP unreachable,
//! fragmentation needed, time exceeded.
//!
//! The packet may come from a sender on this machine that left its transport checksum to the hardware, and nothing
//! tells a program so. Whoever completes it later sums from the old transport header to the end, writes the result
//! into the old checksum field, and does not know that the packet is another now. So both cases must come out
//! right: the checksum is first written as it must be in that case, then brought to the full one by a helper that
//! does nothing in that case.

use aya_ebpf::{
    bindings::{bpf_adj_room_mode::BPF_ADJ_ROOM_MAC, bpf_adj_room_mode::BPF_ADJ_ROOM_NET},
    helpers::generated::{bpf_redirect, bpf_redirect_peer, bpf_skb_change_tail},
    programs::TcContext,
};
use thalweg_abi::{
    Be16, Be32, Counter, DropReason, Proto,
    checksum::{Sum, pseudo_header},
    header::{ETH_LEN, ICMP_LEN, IPV4_LEN, IcmpHeader, Ipv4Header, TCP_LEN, TcpFlags, TcpHeader, UDP_LEN},
};

use super::{
    flow::node_addr,
    outcome::verdict,
    packet::{Packet, ifindex, load},
};

/// What a sender is told.
pub enum Answer {
    /// Nobody serves this: RST for TCP, port unreachable for UDP, protocol unreachable for the rest.
    Refuse,
    /// The next link takes this many bytes.
    TooBig(u16),
    TimeExceeded,
}

/// How to get back to the sender.
#[derive(Clone, Copy)]
pub enum Back {
    /// Into the pod behind the link that the packet came from.
    Pod,
    /// Out of the link that it came from.
    Wire,
}

const TCP_CHECKSUM: usize = 16;
const ICMP_CHECKSUM: usize = 2;

// === impl Answer ===

impl Answer {
    #[inline(always)]
    pub fn send(self, ctx: &TcContext, packet: &Packet, back: Back) -> Result<i32, DropReason> {
        // Nothing answers a reset: two of us could go on for ever.
        if packet.tcp.has(TcpFlags::RST) {
            return Err(DropReason::NoFlow);
        }
        let counter = match self {
            Self::Refuse => Counter::TcRefused,
            Self::TooBig(_) | Self::TimeExceeded => Counter::TcAnswered,
        };
        let written = match self {
            Self::Refuse if packet.is_tcp() => reset(ctx, packet),
            Self::Refuse => {
                let code = if packet.tuple.proto == Proto::UDP { IcmpHeader::CODE_PORT } else { IcmpHeader::CODE_PROTOCOL };
                error(ctx, packet, packet.tuple.dst, IcmpHeader::UNREACHABLE, code, 0)
            }
            Self::TooBig(mtu) => error(ctx, packet, node_addr(), IcmpHeader::UNREACHABLE, IcmpHeader::CODE_FRAGMENTATION, mtu),
            Self::TimeExceeded => error(ctx, packet, node_addr(), IcmpHeader::TIME_EXCEEDED, 0, 0),
        };
        written.ok_or(DropReason::RewriteFailed)?;
        let ifindex = ifindex(ctx);
        // SAFETY: helpers without pointers.
        let result = unsafe {
            match back {
                Back::Pod => bpf_redirect_peer(ifindex, 0),
                Back::Wire => bpf_redirect(ifindex, 0),
            }
        };
        Ok(verdict(counter, result))
    }
}

#[inline(always)]
fn swap_macs(ctx: &TcContext) -> Option<()> {
    let [dst, src]: [[u8; 6]; 2] = load(ctx, 0)?;
    ctx.skb.store(0, &[src, dst], 0).ok()
}

/// Cuts the frame to `len` bytes; segments yet to be cut by hardware become one packet.
#[inline(always)]
fn cut(ctx: &TcContext, len: u32) -> Option<()> {
    // SAFETY: the context is valid for the whole program.
    (unsafe { bpf_skb_change_tail(ctx.skb.skb, len, 0) } == 0).then_some(())
}

#[inline(always)]
fn reset(ctx: &TcContext, packet: &Packet) -> Option<()> {
    let segment: TcpHeader = load(ctx, packet.transport)?;
    let options = packet.ip.header_len().wrapping_sub(IPV4_LEN as u32);
    let tuple = &packet.tuple;
    cut(ctx, packet.transport + TCP_LEN as u32)?;
    if options != 0 {
        ctx.skb.adjust_room(-(options as i32), BPF_ADJ_ROOM_NET, 0).ok()?;
    }
    swap_macs(ctx)?;
    let ip = Ipv4Header::answer(tuple.dst, tuple.src, Proto::TCP, TCP_LEN as u16);
    ctx.skb.store(ETH_LEN, &ip, 0).ok()?;
    let mut tcp = segment.reset(packet.payload.wrapping_sub(segment.header_len()));
    let pseudo = pseudo_header(tuple.dst, tuple.src, Proto::TCP, TCP_LEN as u16);
    let whole = pseudo.plus(tcp.sum());
    let if_offloaded = pseudo.fold();
    tcp.checksum = if_offloaded;
    ctx.skb.store(ETH_LEN + IPV4_LEN, &tcp, 0).ok()?;
    complete(ctx, ETH_LEN + IPV4_LEN + TCP_CHECKSUM, if_offloaded, whole)
}

/// Brings a checksum field that holds `written` to the checksum of `whole`, unless it is left to the hardware.
#[inline(always)]
fn complete(ctx: &TcContext, offset: usize, written: u16, whole: Sum) -> Option<()> {
    // The helper gives the checksum of (difference - written).
    let difference = whole.add(u32::from(written));
    ctx.skb.l4_csum_replace(offset, 0, u64::from(difference.0), 0).ok()
}

/// An ICMP message that quotes the packet's IP header and the beginning of what follows.
///
/// A header whose checksum is wrong gives a message whose checksum is wrong too, and whoever would have dropped
/// the packet drops the message.
#[inline(always)]
fn error(ctx: &TcContext, packet: &Packet, src: Be32, kind: u8, code: u8, mtu: u16) -> Option<()> {
    // All of a TCP header, because its checksum field must stay in the packet.
    let (quoted, part, if_offloaded) = if packet.is_tcp() {
        let header: TcpHeader = load(ctx, packet.transport)?;
        (TCP_LEN, header.sum(), header.checksum)
    } else {
        let words: [u16; UDP_LEN / 2] = load(ctx, packet.transport)?;
        let part = Sum::ZERO.add(words[0].into()).add(words[1].into()).add(words[2].into()).add(words[3].into());
        (UDP_LEN, part, words[3])
    };
    cut(ctx, packet.transport + quoted as u32)?;
    ctx.skb.adjust_room((IPV4_LEN + ICMP_LEN) as i32, BPF_ADJ_ROOM_MAC, 0).ok()?;
    swap_macs(ctx)?;
    let payload = ICMP_LEN as u16 + packet.ip.header_len() as u16 + quoted as u16;
    ctx.skb.store(ETH_LEN, &Ipv4Header::answer(src, packet.tuple.src, Proto::ICMP, payload), 0).ok()?;
    let mut icmp = IcmpHeader { kind, code, checksum: 0, unused: Be16::ZERO, mtu: Be16::from_host(mtu) };
    // The quoted IP header with its checksum adds nothing.
    let head = icmp.sum();
    // The quoted transport's sum once its checksum, now a partial one, has been completed over what is left of it.
    let if_completed = !if_offloaded;
    icmp.checksum = head.add(u32::from(if_completed)).checksum();
    ctx.skb.store(ETH_LEN + IPV4_LEN, &icmp, 0).ok()?;
    complete(ctx, ETH_LEN + IPV4_LEN + ICMP_CHECKSUM, icmp.checksum, head.plus(part))
}
