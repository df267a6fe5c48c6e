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
    Be16, Counter, DropReason, Proto,
    checksum::Sum,
    crc32c,
    header::{ETH_LEN, ICMP_LEN, IcmpHeader, SCTP_LEN, TCP_LEN, TcpFlags, TcpHeader, UDP_LEN},
};

use super::{
    family::{Family, Message},
    outcome::{drop, verdict},
    packet::{Kind, Packet, has_ports, ifindex, load},
    work::Work,
};

/// What a sender is told.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Nobody serves this: RST for TCP, port unreachable for what else has ports, protocol unreachable for the rest.
    Refuse,
    /// The next link takes `work.mtu` bytes.
    TooBig,
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
    /// Sends it, and returns the program's verdict.
    ///
    /// A function of its own: rare, and its stack is not that of other packets.
    #[inline(never)]
    pub fn send<F: Family>(self, ctx: &TcContext, work: &Work<F>, back: Back) -> i32 {
        let packet = &work.packet;
        if !may_be_answered(ctx, packet) {
            return drop(DropReason::NoFlow);
        }
        let counter = if self == Self::Refuse { Counter::TcRefused } else { Counter::TcAnswered };
        let written = if self == Self::Refuse && packet.is_tcp() {
            reset(ctx, packet)
        } else {
            let (message, mtu) = match self {
                Self::Refuse if has_ports(packet.tuple.proto) => (F::PORT_UNREACHABLE, 0),
                Self::Refuse => (F::PROTOCOL_UNREACHABLE, 0),
                Self::TooBig => (F::TOO_BIG, (work.mtu as u16).max(F::MIN_MTU)),
                Self::TimeExceeded => (F::TIME_EXCEEDED, 0),
            };
            // A refusal comes from whom the packet is for, all else from this node, if it has an address of the family.
            let is_for_them = self == Self::Refuse || F::is_unspecified(&F::node_addr());
            let src = if is_for_them { packet.tuple.dst } else { F::node_addr() };
            error(ctx, packet, &src, message, mtu)
        };
        if written.is_none() {
            return drop(DropReason::RewriteFailed);
        }
        let ifindex = ifindex(ctx);
        // SAFETY: helpers without pointers.
        let result = unsafe {
            match back {
                Back::Pod => bpf_redirect_peer(ifindex, 0),
                Back::Wire => bpf_redirect(ifindex, 0),
            }
        };
        verdict(counter, result)
    }
}

/// Nothing answers a reset or a message about another packet: two of us could go on for ever. Nor a later fragment, nor what
/// is from nobody, from many or from its own receiver, or has come to many: each of them would answer (RFC 1122, 3.2.2;
/// RFC 4443, 2.4).
#[inline(always)]
fn may_be_answered<F: Family>(ctx: &TcContext, packet: &Packet<F>) -> bool {
    let kind = Kind::of(ctx);
    if kind == Kind::BROADCAST || kind == Kind::MULTICAST || !F::mapped(&packet.tuple.src).is_one_host() {
        return false;
    }
    if packet.tuple.src == packet.tuple.dst {
        return false;
    }
    // What is shorter than the part that a message quotes is nobody's question.
    if packet.tcp.has(TcpFlags::RST) || packet.is_later_fragment() || packet.payload < UDP_LEN as u32 {
        return false;
    }
    packet.tuple.proto != F::ICMP
        || load::<IcmpHeader>(ctx, packet.transport).is_some_and(|icmp| icmp.kind == F::ICMP_ECHO_REQUEST)
}

#[inline(always)]
pub fn swap_macs(ctx: &TcContext) -> Option<()> {
    let [dst, src]: [[u8; 6]; 2] = load(ctx, 0)?;
    ctx.skb.store(0, &[src, dst], 0).ok()
}

/// Cuts or extends the frame to `len` bytes; segments yet to be cut by hardware become one packet.
#[inline(always)]
pub fn cut(ctx: &TcContext, len: u32) -> Option<()> {
    // SAFETY: the context is valid for the whole program.
    (unsafe { bpf_skb_change_tail(ctx.skb.skb, len, 0) } == 0).then_some(())
}

#[inline(always)]
fn reset<F: Family>(ctx: &TcContext, packet: &Packet<F>) -> Option<()> {
    let segment: TcpHeader = load(ctx, packet.transport)?;
    let options = packet.ip_len().wrapping_sub(F::IP_LEN as u32);
    let tuple = &packet.tuple;
    cut(ctx, packet.transport + TCP_LEN as u32)?;
    if options != 0 {
        ctx.skb.adjust_room(-(options as i32), BPF_ADJ_ROOM_NET, 0).ok()?;
    }
    swap_macs(ctx)?;
    let ip = F::answer(&tuple.dst, &tuple.src, Proto::TCP, TCP_LEN as u16);
    ctx.skb.store(ETH_LEN, &ip, 0).ok()?;
    let mut tcp = segment.reset(packet.payload.wrapping_sub(segment.header_len()));
    let pseudo = F::pseudo_header(&tuple.dst, &tuple.src, Proto::TCP, TCP_LEN as u16);
    let whole = pseudo.plus(tcp.sum());
    let if_offloaded = pseudo.fold();
    tcp.checksum = if_offloaded;
    ctx.skb.store(ETH_LEN + F::IP_LEN, &tcp, 0).ok()?;
    complete(ctx, ETH_LEN + F::IP_LEN + TCP_CHECKSUM, if_offloaded, whole, 0)
}

/// Brings a checksum field that holds `written` to the checksum of `whole`, unless it is left to the hardware. `flags` are
/// those of bpf_l4_csum_replace.
#[inline(always)]
pub fn complete(ctx: &TcContext, offset: usize, written: u16, whole: Sum, flags: u64) -> Option<()> {
    // The helper gives the checksum of (difference - written).
    let difference = whole.add(u32::from(written));
    ctx.skb.l4_csum_replace(offset, 0, u64::from(difference.0), flags).ok()
}

/// An ICMP message that quotes the packet's IP header and the beginning of what follows.
///
/// A header whose checksum is wrong gives a message whose checksum is wrong too, and whoever would have dropped
/// the packet drops the message.
#[inline(always)]
fn error<F: Family>(ctx: &TcContext, packet: &Packet<F>, src: &F::Addr, message: Message, mtu: u16) -> Option<()> {
    let (quoted, part, if_completed) = quote(ctx, packet)?;
    let payload = ICMP_LEN as u16 + packet.ip_len() as u16 + quoted as u16;
    let before = F::sum_of_quoted(ctx, packet, src, payload)?;
    cut(ctx, packet.transport + quoted as u32)?;
    ctx.skb.adjust_room((F::IP_LEN + ICMP_LEN) as i32, BPF_ADJ_ROOM_MAC, 0).ok()?;
    swap_macs(ctx)?;
    ctx.skb.store(ETH_LEN, &F::answer(src, &packet.tuple.src, F::ICMP, payload), 0).ok()?;
    let Message { kind, code } = message;
    let mut icmp = IcmpHeader { kind, code, checksum: 0, unused: Be16::ZERO, mtu: Be16::from_host(mtu) };
    let head = icmp.sum().plus(before);
    icmp.checksum = head.plus(if_completed).checksum();
    ctx.skb.store(ETH_LEN + F::IP_LEN, &icmp, 0).ok()?;
    complete(ctx, ETH_LEN + F::IP_LEN + ICMP_CHECKSUM, icmp.checksum, head.plus(part), 0)
}

/// How much of the transport header is quoted, its sum, and what that will be once a checksum that was left to the hardware
/// has been completed over what is left of the packet. The field of the checksum must stay in the packet.
#[inline(always)]
fn quote<F: Family>(ctx: &TcContext, packet: &Packet<F>) -> Option<(usize, Sum, Sum)> {
    Some(match packet.tuple.proto {
        Proto::TCP => {
            let header: TcpHeader = load(ctx, packet.transport)?;
            (TCP_LEN, header.sum(), Sum((!header.checksum).into()))
        }
        Proto::SCTP => {
            let [ports, tag, checksum]: [u32; SCTP_LEN / 4] = load(ctx, packet.transport)?;
            let sum = Sum::ZERO.add(ports).add(tag);
            (SCTP_LEN, sum.add(checksum), sum.add(crc32c::of(&[ports, tag, 0])))
        }
        _ => {
            let [ports, length_checksum]: [u32; UDP_LEN / 4] = load(ctx, packet.transport)?;
            let checksum = (u32::from_le(length_checksum) >> 16) as u16;
            (UDP_LEN, Sum::ZERO.add(ports).add(length_checksum), Sum((!checksum).into()))
        }
    })
}
