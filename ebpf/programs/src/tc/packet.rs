//! Reading headers. Nothing is written here, and no pointer into the packet outlives a function.

use aya_ebpf::programs::TcContext;
use thalweg_abi::{
    Be16, Proto, Tuple,
    header::{ETH_LEN, ETH_P_IPV4, ICMP_LEN, IPV4_LEN, Ipv4Header, TCP_LEN, TcpFlags, UDP_LEN},
};

/// The longest that an IPv4 packet says it is; a larger one (BIG TCP) says 0.
const IPV4_MAX: u32 = 65_535;
const MORE_FRAGMENTS: u16 = 0x2000;
const NO_FRAGMENT: u16 = 0x4000;

/// An IPv4 packet whose headers have been checked as far as its protocol is known.
#[derive(Clone, Copy)]
pub struct Packet {
    pub ip: Ipv4Header,
    /// Ports are 0 when the protocol has none, or this is a later fragment.
    pub tuple: Tuple,
    /// Offset of the transport header in the frame.
    pub transport: u32,
    /// Bytes behind the IP header.
    pub payload: u32,
    /// Bytes of the transport header; 0 when there is none.
    pub header: u32,
    pub tcp: TcpFlags,
}

pub enum Parsed {
    Ipv4(Packet),
    /// ARP and whatever else is not for us.
    Foreign,
    Malformed,
}

// === impl Packet ===

impl Packet {
    #[inline(always)]
    pub fn is_tcp(&self) -> bool {
        self.tuple.proto == Proto::TCP
    }

    /// Whether this is a packet that has ports.
    #[inline(always)]
    pub fn has_ports(&self) -> bool {
        matches!(self.tuple.proto, Proto::TCP | Proto::UDP) && !self.ip.is_later_fragment()
    }

    #[inline(always)]
    pub fn must_not_be_fragmented(&self) -> bool {
        self.ip.fragment.to_host() & NO_FRAGMENT != 0
    }
}

/// The length that the packet will have on a link: several segments that travel as one count as one of them.
#[inline(always)]
pub fn length_on_link(ctx: &TcContext, packet: &Packet) -> u16 {
    // SAFETY: the context is valid for the whole program.
    let payload = match unsafe { (*ctx.skb.skb).gso_size } {
        0 => packet.payload,
        segment => segment.wrapping_add(packet.header),
    };
    let len = packet.ip.header_len().wrapping_add(payload);
    if len > IPV4_MAX { IPV4_MAX as u16 } else { len as u16 }
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
fn load_near<T: Copy>(ctx: &TcContext, offset: usize) -> Option<T> {
    let (start, end) = (ctx.data(), ctx.data_end());
    if start + offset + size_of::<T>() > end {
        return load(ctx, offset as u32);
    }
    // SAFETY: just checked against the end. Offsets are those of 4-byte aligned headers behind an Ethernet header,
    // which the kernel places 2 bytes off for that purpose.
    Some(unsafe { *((start + offset) as *const T) })
}

#[inline(always)]
pub fn parse(ctx: &TcContext) -> Parsed {
    if ctx.skb.protocol() != u32::from(ETH_P_IPV4.0) {
        return Parsed::Foreign;
    }
    match parse_ipv4(ctx) {
        Some(packet) => Parsed::Ipv4(packet),
        None => Parsed::Malformed,
    }
}

#[inline(always)]
fn parse_ipv4(ctx: &TcContext) -> Option<Packet> {
    let ip: Ipv4Header = load_near(ctx, ETH_LEN)?;
    if !ip.is_valid() {
        return None;
    }
    let in_frame = ctx.len().wrapping_sub(ETH_LEN as u32);
    let total = match u32::from(ip.total_len.to_host()) {
        0 if in_frame > IPV4_MAX => in_frame,
        said => said,
    };
    if total > in_frame || total < ip.header_len() {
        return None;
    }
    let mut packet = Packet {
        ip,
        tuple: Tuple { src: ip.src, dst: ip.dst, sport: Be16::ZERO, dport: Be16::ZERO, proto: ip.proto, pad: [0; 3] },
        transport: ETH_LEN as u32 + ip.header_len(),
        payload: total - ip.header_len(),
        header: 0,
        tcp: TcpFlags(0),
    };
    if ip.is_later_fragment() {
        return Some(packet);
    }
    match ip.proto {
        Proto::TCP => parse_tcp(ctx, &mut packet)?,
        Proto::UDP => parse_udp(ctx, &mut packet)?,
        Proto::ICMP if packet.payload < ICMP_LEN as u32 => return None,
        _ => {}
    }
    Some(packet)
}

/// A word of the transport header: near when there are no IP options.
#[inline(always)]
fn transport_word<const OFFSET: usize>(ctx: &TcContext, packet: &Packet) -> Option<[u16; 2]> {
    if packet.transport as usize == ETH_LEN + IPV4_LEN {
        load_near(ctx, ETH_LEN + IPV4_LEN + OFFSET)
    } else {
        load(ctx, packet.transport + OFFSET as u32)
    }
}

#[inline(always)]
fn parse_ports(ctx: &TcContext, packet: &mut Packet) -> Option<()> {
    let [sport, dport] = transport_word::<0>(ctx, packet)?;
    packet.tuple.sport = Be16(sport);
    packet.tuple.dport = Be16(dport);
    Some(())
}

#[inline(always)]
fn parse_tcp(ctx: &TcContext, packet: &mut Packet) -> Option<()> {
    if packet.payload < TCP_LEN as u32 {
        return None;
    }
    parse_ports(ctx, packet)?;
    let [offset_flags, _window] = transport_word::<12>(ctx, packet)?;
    let [offset, flags] = offset_flags.to_ne_bytes();
    packet.header = u32::from(offset >> 4) << 2;
    packet.tcp = TcpFlags(flags);
    (packet.header >= TCP_LEN as u32 && packet.header <= packet.payload).then_some(())
}

#[inline(always)]
fn parse_udp(ctx: &TcContext, packet: &mut Packet) -> Option<()> {
    if packet.payload < UDP_LEN as u32 {
        return None;
    }
    parse_ports(ctx, packet)?;
    let [len, _checksum] = transport_word::<4>(ctx, packet)?;
    let len = u32::from(Be16(len).to_host());
    packet.header = UDP_LEN as u32;
    // The first fragment of a datagram is shorter than the datagram.
    let is_fragment = packet.ip.fragment.to_host() & MORE_FRAGMENTS != 0;
    (len >= UDP_LEN as u32 && (is_fragment || len <= packet.payload)).then_some(())
}
