//! Reading headers. Nothing is written here, and no pointer into the packet outlives a function.

use aya_ebpf::{helpers::generated::bpf_skb_load_bytes, programs::TcContext};
use thalweg_abi::{
    Be16, Counter, Proto, Tuple,
    header::{CHUNK_LEN, ETH_LEN, ICMP_LEN, SCTP_LEN, TCP_LEN, TcpFlags, UDP_LEN, sctp_signals},
};

use super::family::Family;
use crate::count::count;

/// The longest that an IP packet can say it is; a larger one (BIG TCP) says 0.
pub const IP_MAX: u32 = 65_535;

/// Segments of SCTP have no one size.
const GSO_BY_FRAGS: u32 = 0xffff;

/// An IP packet whose headers have been checked as far as its protocol is known.
#[repr(C)]
pub struct Packet<F: Family> {
    pub ip: F::Ip,
    /// Ports are 0 when the protocol has none, or this is a later fragment.
    pub tuple: Tuple<F::Addr>,
    /// Offset of the transport header in the frame.
    pub transport: u32,
    /// Bytes from the transport header on.
    pub payload: u32,
    /// Bytes of the transport header; 0 when there is none.
    pub header: u32,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// For SCTP, what comes near them.
    pub tcp: TcpFlags,
    pub piece: Piece,
}

/// Which part of its datagram a packet is.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Piece(u8);

impl Piece {
    pub const WHOLE: Self = Self(0);
    /// The first fragment, with the transport header.
    pub const FIRST: Self = Self(1);
    pub const LATER: Self = Self(2);
}

pub enum Parsed {
    Ours,
    /// Of another family, or no IP at all.
    Foreign,
    Malformed,
}

// === impl Packet ===

impl<F: Family> Packet<F> {
    #[inline(always)]
    pub fn is_tcp(&self) -> bool {
        self.tuple.proto == Proto::TCP
    }

    #[inline(always)]
    pub fn is_later_fragment(&self) -> bool {
        self.piece == Piece::LATER
    }

    /// Whether this is a packet of a protocol with ports. Later fragments do not show them.
    #[inline(always)]
    pub fn has_ports(&self) -> bool {
        has_ports(self.tuple.proto)
    }

    /// Bytes of the IP header, with options or extensions.
    #[inline(always)]
    pub fn ip_len(&self) -> u32 {
        self.transport.wrapping_sub(ETH_LEN as u32)
    }
}

/// The protocols that are balanced.
#[inline(always)]
pub fn has_ports(proto: Proto) -> bool {
    matches!(proto, Proto::TCP | Proto::UDP | Proto::SCTP)
}

/// The length that the packet will have on a link: several segments that travel as one count as one of them.
#[inline(always)]
pub fn length_on_link<F: Family>(ctx: &TcContext, packet: &Packet<F>) -> u16 {
    // SAFETY: the context is valid for the whole program.
    let payload = match unsafe { (*ctx.skb.skb).gso_size } {
        0 => packet.payload,
        // Segments as they were sent, which took care of their length. 0 is for the kernel to find out.
        GSO_BY_FRAGS => return 0,
        segment => segment.wrapping_add(packet.header),
    };
    let len = packet.ip_len().wrapping_add(payload);
    if len > IP_MAX { IP_MAX as u16 } else { len as u16 }
}

/// Kinds of frames in `__sk_buff::pkt_type`: linux/if_packet.h.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Kind(u32);

impl Kind {
    pub const BROADCAST: Self = Self(1);
    pub const MULTICAST: Self = Self(2);
    /// Another's hardware address: seen only because the link listens to everything.
    pub const OTHERS: Self = Self(3);

    #[inline(always)]
    pub fn of(ctx: &TcContext) -> Self {
        // SAFETY: the context is valid for the whole program.
        Self(unsafe { (*ctx.skb.skb).pkt_type })
    }
}

#[inline(always)]
pub fn ifindex(ctx: &TcContext) -> u32 {
    // SAFETY: the context is valid for the whole program.
    unsafe { (*ctx.skb.skb).ifindex }
}

/// Whether the packet came in by a link, and was not made by this node's own stack.
#[inline(always)]
pub fn is_forwarded(ctx: &TcContext) -> bool {
    // SAFETY: the context is valid for the whole program.
    unsafe { (*ctx.skb.skb).ingress_ifindex != 0 }
}

/// Copies bytes of the frame wherever they are, also behind its linear part.
#[inline(always)]
pub fn load<T: Copy>(ctx: &TcContext, offset: u32) -> Option<T> {
    ctx.load::<T>(offset as usize).ok()
}

/// Copies bytes of the frame at a constant offset: a few loads when they are in its linear part, as headers are in
/// all but odd packets.
#[inline(always)]
pub fn load_near<T: Copy>(ctx: &TcContext, offset: usize) -> Option<T> {
    let (start, end) = (ctx.data(), ctx.data_end());
    if start + offset + size_of::<T>() > end {
        return load(ctx, offset as u32);
    }
    // SAFETY: just checked against the end. Offsets are those of 4-byte aligned headers behind an Ethernet header,
    // which the kernel places 2 bytes off for that purpose.
    Some(unsafe { *((start + offset) as *const T) })
}

/// As [`load_near`], to where the bytes are kept.
#[inline(always)]
pub fn load_near_into<T: Copy>(ctx: &TcContext, offset: usize, to: &mut T) -> Option<()> {
    let (start, end) = (ctx.data(), ctx.data_end());
    if start + offset + size_of::<T>() > end {
        return load_into(ctx, offset as u32, to);
    }
    // SAFETY: as above.
    *to = unsafe { *((start + offset) as *const T) };
    Some(())
}

/// As [`load`], to where the bytes are kept.
#[inline(always)]
pub fn load_into<T: Copy>(ctx: &TcContext, offset: u32, to: &mut T) -> Option<()> {
    let to: *mut T = to;
    // SAFETY: the value takes that many bytes, and is made of integers.
    (unsafe { bpf_skb_load_bytes(ctx.skb.skb.cast(), offset, to.cast(), size_of::<T>() as u32) } == 0).then_some(())
}

#[inline(always)]
pub fn parse<F: Family>(ctx: &TcContext, packet: &mut Packet<F>) -> Parsed {
    if ctx.skb.protocol() != u32::from(F::ETHER_TYPE.0) {
        return Parsed::Foreign;
    }
    count(Counter::TcPackets);
    match F::parse(ctx, packet).and_then(|()| parse_transport(ctx, packet)) {
        Some(()) => Parsed::Ours,
        None => Parsed::Malformed,
    }
}

#[inline(always)]
fn parse_transport<F: Family>(ctx: &TcContext, packet: &mut Packet<F>) -> Option<()> {
    packet.tuple.sport = Be16::ZERO;
    packet.tuple.dport = Be16::ZERO;
    packet.header = 0;
    packet.tcp = TcpFlags(0);
    if packet.is_later_fragment() {
        return Some(());
    }
    match packet.tuple.proto {
        Proto::TCP => parse_tcp(ctx, packet),
        Proto::UDP => parse_udp(ctx, packet),
        Proto::SCTP => parse_sctp(ctx, packet),
        proto if proto == F::ICMP && packet.payload < ICMP_LEN as u32 => None,
        _ => Some(()),
    }
}

/// Words of the transport header: near when the IP header is bare.
#[inline(always)]
fn transport_word<F: Family>(ctx: &TcContext, packet: &Packet<F>, offset: usize) -> Option<[u16; 2]> {
    if packet.transport as usize == ETH_LEN + F::IP_LEN {
        load_near(ctx, ETH_LEN + F::IP_LEN + offset)
    } else {
        load(ctx, packet.transport + offset as u32)
    }
}

#[inline(always)]
fn parse_ports<F: Family>(ctx: &TcContext, packet: &mut Packet<F>) -> Option<()> {
    let [sport, dport] = transport_word(ctx, packet, 0)?;
    packet.tuple.sport = Be16(sport);
    packet.tuple.dport = Be16(dport);
    Some(())
}

#[inline(always)]
fn parse_tcp<F: Family>(ctx: &TcContext, packet: &mut Packet<F>) -> Option<()> {
    if packet.payload < TCP_LEN as u32 {
        return None;
    }
    parse_ports(ctx, packet)?;
    let [offset_flags, _window] = transport_word(ctx, packet, 12)?;
    let [offset, flags] = offset_flags.to_ne_bytes();
    let header = u32::from(offset >> 4) << 2;
    packet.header = header;
    packet.tcp = TcpFlags(flags);
    (header >= TCP_LEN as u32 && header <= packet.payload).then_some(())
}

#[inline(always)]
fn parse_udp<F: Family>(ctx: &TcContext, packet: &mut Packet<F>) -> Option<()> {
    if packet.payload < UDP_LEN as u32 {
        return None;
    }
    parse_ports(ctx, packet)?;
    let [len, _checksum] = transport_word(ctx, packet, 4)?;
    let len = u32::from(Be16(len).to_host());
    packet.header = UDP_LEN as u32;
    // The first fragment of a datagram is shorter than the datagram.
    (len >= UDP_LEN as u32 && (packet.piece != Piece::WHOLE || len <= packet.payload)).then_some(())
}

#[inline(always)]
fn parse_sctp<F: Family>(ctx: &TcContext, packet: &mut Packet<F>) -> Option<()> {
    if packet.payload < (SCTP_LEN + CHUNK_LEN) as u32 {
        return None;
    }
    parse_ports(ctx, packet)?;
    let [kind_flags, _len] = transport_word(ctx, packet, SCTP_LEN)?;
    let [kind, _flags] = kind_flags.to_ne_bytes();
    packet.header = SCTP_LEN as u32;
    packet.tcp = sctp_signals(kind);
    Some(())
}
