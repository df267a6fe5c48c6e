//! IPv6: where things stand, and which tables are its own.
//!
//! There is no checksum of the IP header, so a packet whose checksum the hardware has summed up in full must be told of
//! every byte that changes there.

use aya_ebpf::{
    bindings::{BPF_F_RECOMPUTE_CSUM, bpf_fib_lookup as FibLookup},
    programs::TcContext,
};
use thalweg_abi::{
    Be16, Be32, Be128, CtEntry, FragmentKey, Frontend, FrontendKey, LocalPod, Proto, Slot, Tuple,
    checksum::{Sum, pseudo_header6},
    header::ETH_LEN,
    ipv6::{ETH_P_IPV6, FRAGMENT_LEN, FragmentHeader, IPV6_LEN, IPV6_MIN_MTU, Ipv6Header, extension_len, icmp6},
};

use super::{
    family::{Family, Message},
    packet::{IP_MAX, Packet, Piece, load, load_into, load_near_into},
    rewrite::addresses,
    work::{WORK6, Work},
};
use crate::{
    config::NODE_ADDR6,
    flows,
    maps::{CONNTRACK6, CONNTRACK6_OTHER, FRONTENDS6, LOCAL_PODS6, SERVICE_RANGES},
};

/// Offsets within the header.
const IP_HOP_LIMIT: usize = 7;
const IP_ADDRESSES: usize = 8;
/// Extension headers that are walked over; what has more is a protocol of its own.
const EXTENSIONS: u32 = 6;
/// Bytes of extension headers that an answer can quote.
const QUOTED_EXTENSIONS: u32 = 64;
const FLOW: u32 = 0x0fff_ffff_u32.to_be();

pub struct Ipv6;

/// What is kept of the headers.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Ip {
    header: Ipv6Header,
    /// A fragment's identification.
    id: u32,
    /// Protocol of the first header in the fragmented part.
    fragmented: Proto,
    pad: [u8; 3],
}

/// Where a chain of extension headers ends.
struct Chain {
    proto: Proto,
    /// Offset of what follows in the frame.
    end: u32,
    fragment: FragmentHeader,
    piece: Piece,
}

/// From the hop limit to the end of the header.
#[repr(C, packed)]
struct IpTail {
    hop_limit: u8,
    src: Be128,
    dst: Be128,
}

// === impl Chain ===

impl Chain {
    #[inline(always)]
    fn walk(ctx: &TcContext, first: Proto, offset: u32) -> Option<Self> {
        let fragment = FragmentHeader { next: first, reserved: 0, offset: Be16::ZERO, id: Be32::ZERO };
        let mut chain = Self { proto: first, end: offset, fragment, piece: Piece::WHOLE };
        for _ in 0..EXTENSIONS {
            if chain.proto == Proto::FRAGMENT {
                chain.fragment = load(ctx, chain.end)?;
                chain.proto = chain.fragment.next;
                chain.end += FRAGMENT_LEN as u32;
                if chain.fragment.is_later() {
                    chain.piece = Piece::LATER;
                    break;
                }
                if chain.fragment.has_more() {
                    chain.piece = Piece::FIRST;
                }
                continue;
            }
            // Most packets have none.
            if extension_len(chain.proto, 0).is_none() {
                break;
            }
            let [next, len, _, left]: [u8; 4] = load(ctx, chain.end)?;
            // A packet on its way by a list of routers is not where it goes to yet: nothing of it is ours to change.
            if chain.proto == Proto::ROUTING && left != 0 {
                break;
            }
            chain.end += extension_len(chain.proto, len)?;
            chain.proto = Proto(next);
        }
        Some(chain)
    }
}

// === impl Ipv6 ===

impl Family for Ipv6 {
    type Addr = Be128;
    type Ip = Ip;
    type Header = Ipv6Header;

    const ETHER_TYPE: Be16 = ETH_P_IPV6;
    const ADDRESS_FAMILY: u8 = 10;
    const IP_LEN: usize = IPV6_LEN;
    const ICMP: Proto = Proto::ICMPV6;
    const ICMP_ECHO_REQUEST: u8 = icmp6::ECHO_REQUEST;
    const PORT_UNREACHABLE: Message = Message { kind: icmp6::UNREACHABLE, code: icmp6::CODE_PORT };
    /// There is none; this is what a firewall that rejects says.
    const PROTOCOL_UNREACHABLE: Message = Self::PORT_UNREACHABLE;
    const TOO_BIG: Message = Message { kind: icmp6::PACKET_TOO_BIG, code: 0 };
    const TIME_EXCEEDED: Message = Message { kind: icmp6::TIME_EXCEEDED, code: 0 };
    const MIN_MTU: u16 = IPV6_MIN_MTU;

    #[inline(always)]
    fn work() -> Option<&'static mut Work<Self>> {
        // SAFETY: the element is this CPU's, and taken once per program, see `work`.
        WORK6.get_ptr_mut(0).map(|work| unsafe { &mut *work })
    }

    #[inline(always)]
    fn find_flow(tuple: &Tuple<Be128>) -> Option<*mut CtEntry<Be128>> {
        flows::find(&CONNTRACK6, &CONNTRACK6_OTHER, tuple)
    }

    #[inline(always)]
    fn insert_flow(tuple: &Tuple<Be128>, entry: &CtEntry<Be128>, flags: u64) -> Result<(), i32> {
        flows::insert(&CONNTRACK6, &CONNTRACK6_OTHER, tuple, entry, flags)
    }

    #[inline(always)]
    fn remove_flow(tuple: &Tuple<Be128>) {
        flows::remove(&CONNTRACK6, &CONNTRACK6_OTHER, tuple);
    }

    #[inline(always)]
    fn frontend(key: &FrontendKey<Be128>) -> Option<&'static Frontend> {
        // SAFETY: user space replaces a value as a whole, and readers copy it at once.
        unsafe { FRONTENDS6.get(key) }
    }

    #[inline(always)]
    fn local_pod(addr: &Be128) -> Option<&'static LocalPod> {
        // SAFETY: as above.
        unsafe { LOCAL_PODS6.get(addr) }
    }

    #[inline(always)]
    fn node_addr() -> Be128 {
        Be128(NODE_ADDR6.load())
    }

    #[inline(always)]
    fn is_from_service_ranges(addr: &Be128) -> bool {
        let Some(ranges) = SERVICE_RANGES.get(0) else { return false };
        for (index, range) in (0..).zip(&ranges.v6) {
            if index >= ranges.used6 {
                break;
            }
            if range.contains(*addr) {
                return true;
            }
        }
        false
    }

    #[inline(always)]
    fn of_slot(slot: &Slot) -> Be128 {
        slot.addr
    }

    #[inline(always)]
    fn mapped(addr: &Be128) -> Be128 {
        *addr
    }

    #[inline(always)]
    fn is_unspecified(addr: &Be128) -> bool {
        addr.is_zero()
    }

    #[inline(always)]
    fn sum(addr: &Be128) -> Sum {
        addr.sum()
    }

    #[inline(always)]
    fn parse(ctx: &TcContext, packet: &mut Packet<Self>) -> Option<()> {
        load_near_into(ctx, ETH_LEN, &mut packet.ip.header)?;
        let ip = &packet.ip.header;
        if !ip.is_valid() {
            return None;
        }
        let in_frame = ctx.len().wrapping_sub((ETH_LEN + IPV6_LEN) as u32);
        let total = match u32::from(ip.payload_len.to_host()) {
            0 if in_frame > IP_MAX => in_frame,
            said => said,
        };
        if total > in_frame {
            return None;
        }
        let bare = (ETH_LEN + IPV6_LEN) as u32;
        let chain = Chain::walk(ctx, ip.next, bare)?;
        let extensions = chain.end - bare;
        if extensions > total {
            return None;
        }
        packet.tuple.src = ip.src;
        packet.tuple.dst = ip.dst;
        packet.tuple.proto = chain.proto;
        packet.tuple.pad = [0; 3];
        packet.transport = chain.end;
        packet.payload = total - extensions;
        packet.ttl = ip.hop_limit;
        packet.piece = chain.piece;
        packet.ip.id = chain.fragment.id.0;
        packet.ip.fragmented = chain.fragment.next;
        Some(())
    }

    #[inline(always)]
    fn must_not_be_fragmented(_packet: &Packet<Self>) -> bool {
        true
    }

    #[inline(always)]
    fn fragment_key(packet: &Packet<Self>) -> FragmentKey {
        let Tuple { src, dst, .. } = packet.tuple;
        FragmentKey { src, dst, id: packet.ip.id, proto: packet.ip.fragmented, pad: [0; 3] }
    }

    #[inline(always)]
    fn is_of_the_link(packet: &Packet<Self>) -> bool {
        let src = &packet.tuple.src;
        src.is_link_local() || src.is_zero()
    }

    #[inline(always)]
    fn ask(params: &mut FibLookup, packet: &Packet<Self>, src: &Be128, dst: &Be128) {
        params.__bindgen_anon_2.flowinfo = packet.ip.header.head.0 & FLOW;
        params.__bindgen_anon_3.ipv6_src = src.0;
        params.__bindgen_anon_4.ipv6_dst = dst.0;
    }

    /// The helpers that change a transport checksum take it for granted that the IP header makes up for new addresses, as
    /// that of IPv4 does; here the addresses themselves are accounted for.
    #[inline(always)]
    fn write(ctx: &TcContext, _packet: &Packet<Self>, to: [&Be128; 2], _difference: Sum, ttl: u8) -> Option<()> {
        let tail = IpTail { hop_limit: ttl, src: *to[0], dst: *to[1] };
        ctx.skb.store(ETH_LEN + IP_HOP_LIMIT, &tail, u64::from(BPF_F_RECOMPUTE_CSUM)).ok()
    }

    #[inline(always)]
    fn write_ttl(ctx: &TcContext, _packet: &Packet<Self>, ttl: u8) -> Option<()> {
        ctx.skb.store(ETH_LEN + IP_HOP_LIMIT, &ttl, u64::from(BPF_F_RECOMPUTE_CSUM)).ok()
    }

    #[inline(always)]
    fn pseudo_header(src: &Be128, dst: &Be128, proto: Proto, len: u16) -> Sum {
        pseudo_header6(*src, *dst, proto, len)
    }

    #[inline(always)]
    fn answer(src: &Be128, dst: &Be128, proto: Proto, payload: u16) -> Ipv6Header {
        Ipv6Header::answer(*src, *dst, proto, payload)
    }

    #[inline(always)]
    fn is_icmp_error(kind: u8) -> bool {
        icmp6::is_error(kind)
    }

    #[inline(always)]
    fn is_icmp_of_the_link(kind: u8) -> bool {
        icmp6::is_of_the_link(kind)
    }

    #[inline(always)]
    fn parse_quoted(ctx: &TcContext, work: &mut Work<Self>) -> Option<()> {
        let quote = &mut work.quote;
        load_into(ctx, quote.offset, &mut quote.header)?;
        let ip = &quote.header;
        if !ip.is_valid() {
            return None;
        }
        let chain = Chain::walk(ctx, ip.next, quote.offset + IPV6_LEN as u32)?;
        if chain.piece == Piece::LATER {
            return None;
        }
        quote.was.src = ip.src;
        quote.was.dst = ip.dst;
        quote.was.proto = chain.proto;
        quote.was.pad = [0; 3];
        quote.transport = chain.end;
        Some(())
    }

    /// The checksum covers the quoted addresses and, by the pseudo-header, the message's own.
    #[inline(always)]
    fn write_quoted(ctx: &TcContext, work: &Work<Self>) -> Option<Sum> {
        let (quote, becomes, own) = (&work.quote, &work.to, &work.packet.tuple);
        let at = quote.offset as usize + IP_ADDRESSES;
        ctx.skb.store(at, &[becomes.src, becomes.dst], u64::from(BPF_F_RECOMPUTE_CSUM)).ok()?;
        let quoted = addresses::<Self>(&quote.was.src, &quote.was.dst, &becomes.src, &becomes.dst);
        Some(quoted.plus(addresses::<Self>(&own.src, &own.dst, &quote.src, &quote.dst)))
    }

    #[inline(always)]
    fn sum_of_quoted(ctx: &TcContext, packet: &Packet<Self>, src: &Be128, message_len: u16) -> Option<Sum> {
        let mut sum = pseudo_header6(*src, packet.tuple.src, Proto::ICMPV6, message_len).plus(packet.ip.header.sum());
        let start = (ETH_LEN + IPV6_LEN) as u32;
        if packet.transport.wrapping_sub(start) > QUOTED_EXTENSIONS {
            return None;
        }
        for at in (0..QUOTED_EXTENSIONS).step_by(4) {
            if start + at >= packet.transport {
                break;
            }
            let word: u32 = load(ctx, start + at)?;
            sum = sum.add(word);
        }
        Some(sum)
    }
}
