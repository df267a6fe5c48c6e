//! IPv4: where things stand, and which tables are its own.

use aya_ebpf::{bindings::bpf_fib_lookup as FibLookup, programs::TcContext};
use thalweg_abi::{
    Be16, Be32, Be128, CtEntry, FragmentKey, Frontend, FrontendKey, LocalPod, Proto, Slot, Tuple,
    checksum::{self, Sum, pseudo_header},
    header::{ETH_LEN, ETH_P_IPV4, IPV4_LEN, IcmpHeader, Ipv4Header},
};

use super::{
    family::{Family, Message},
    packet::{IP_MAX, Packet, Piece, load_into, load_near},
    rewrite::addresses,
    work::{WORK, Work},
};
use crate::{
    config::NODE_ADDR,
    flows,
    maps::{CONNTRACK, CONNTRACK_OTHER, FRONTENDS, LOCAL_PODS, SERVICE_RANGES},
};

const MORE_FRAGMENTS: u16 = 0x2000;
const NO_FRAGMENT: u16 = 0x4000;
/// Offsets within the header.
const IP_TTL: usize = 8;
const IP_CHECKSUM: usize = 10;

pub struct Ipv4;

/// What is kept of the header.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Ip {
    id: Be16,
    fragment: Be16,
    checksum: u16,
    tos: u8,
    pad: u8,
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

// === impl Ipv4 ===

impl Family for Ipv4 {
    type Addr = Be32;
    type Ip = Ip;
    type Header = Ipv4Header;

    const ETHER_TYPE: Be16 = ETH_P_IPV4;
    const ADDRESS_FAMILY: u8 = 2;
    const IP_LEN: usize = IPV4_LEN;
    const ICMP: Proto = Proto::ICMP;
    const ICMP_ECHO_REQUEST: u8 = 8;
    const PORT_UNREACHABLE: Message = Message { kind: IcmpHeader::UNREACHABLE, code: IcmpHeader::CODE_PORT };
    const PROTOCOL_UNREACHABLE: Message = Message { kind: IcmpHeader::UNREACHABLE, code: IcmpHeader::CODE_PROTOCOL };
    const TOO_BIG: Message = Message { kind: IcmpHeader::UNREACHABLE, code: IcmpHeader::CODE_FRAGMENTATION };
    const TIME_EXCEEDED: Message = Message { kind: IcmpHeader::TIME_EXCEEDED, code: 0 };
    const MIN_MTU: u16 = 68;

    #[inline(always)]
    fn work() -> Option<&'static mut Work<Self>> {
        // SAFETY: the element is this CPU's, and taken once per program, see `work`.
        WORK.get_ptr_mut(0).map(|work| unsafe { &mut *work })
    }

    #[inline(always)]
    fn find_flow(tuple: &Tuple) -> Option<*mut CtEntry> {
        flows::find(&CONNTRACK, &CONNTRACK_OTHER, tuple)
    }

    #[inline(always)]
    fn insert_flow(tuple: &Tuple, entry: &CtEntry, flags: u64) -> Result<(), i32> {
        flows::insert(&CONNTRACK, &CONNTRACK_OTHER, tuple, entry, flags)
    }

    #[inline(always)]
    fn remove_flow(tuple: &Tuple) {
        flows::remove(&CONNTRACK, &CONNTRACK_OTHER, tuple);
    }

    #[inline(always)]
    fn frontend(key: &FrontendKey) -> Option<&'static Frontend> {
        // SAFETY: user space replaces a value as a whole, and readers copy it at once.
        unsafe { FRONTENDS.get(key) }
    }

    #[inline(always)]
    fn local_pod(addr: &Be32) -> Option<&'static LocalPod> {
        // SAFETY: as above.
        unsafe { LOCAL_PODS.get(addr) }
    }

    #[inline(always)]
    fn node_addr() -> Be32 {
        Be32(NODE_ADDR.load())
    }

    #[inline(always)]
    fn is_from_service_ranges(addr: &Be32) -> bool {
        let Some(ranges) = SERVICE_RANGES.get(0) else { return false };
        for (index, range) in (0..).zip(&ranges.v4) {
            if index >= ranges.used {
                break;
            }
            if range.contains(*addr) {
                return true;
            }
        }
        false
    }

    #[inline(always)]
    fn of_slot(slot: &Slot) -> Be32 {
        slot.addr.v4()
    }

    #[inline(always)]
    fn mapped(addr: &Be32) -> Be128 {
        Be128::mapped(*addr)
    }

    #[inline(always)]
    fn is_unspecified(addr: &Be32) -> bool {
        *addr == Be32::ZERO
    }

    #[inline(always)]
    fn sum(addr: &Be32) -> Sum {
        Sum(addr.0)
    }

    #[inline(always)]
    fn parse(ctx: &TcContext, packet: &mut Packet<Self>) -> Option<()> {
        let ip: Ipv4Header = load_near(ctx, ETH_LEN)?;
        if !ip.is_valid() {
            return None;
        }
        let in_frame = ctx.len().wrapping_sub(ETH_LEN as u32);
        let total = match u32::from(ip.total_len.to_host()) {
            0 if in_frame > IP_MAX => in_frame,
            said => said,
        };
        if total > in_frame || total < ip.header_len() {
            return None;
        }
        packet.ip = Ip { id: ip.id, fragment: ip.fragment, checksum: ip.checksum, tos: ip.tos, pad: 0 };
        packet.tuple = Tuple { src: ip.src, dst: ip.dst, sport: Be16::ZERO, dport: Be16::ZERO, proto: ip.proto, pad: [0; 3] };
        packet.transport = ETH_LEN as u32 + ip.header_len();
        packet.payload = total - ip.header_len();
        packet.ttl = ip.ttl;
        packet.piece = if ip.is_later_fragment() {
            Piece::LATER
        } else if ip.fragment.to_host() & MORE_FRAGMENTS != 0 {
            Piece::FIRST
        } else {
            Piece::WHOLE
        };
        Some(())
    }

    #[inline(always)]
    fn must_not_be_fragmented(packet: &Packet<Self>) -> bool {
        packet.ip.fragment.to_host() & NO_FRAGMENT != 0
    }

    #[inline(always)]
    fn fragment_key(packet: &Packet<Self>) -> FragmentKey {
        let Tuple { src, dst, proto, .. } = packet.tuple;
        let (src, dst) = (Be128::mapped(src), Be128::mapped(dst));
        FragmentKey { src, dst, id: u32::from(packet.ip.id.0), proto, pad: [0; 3] }
    }

    #[inline(always)]
    fn is_of_the_link(_packet: &Packet<Self>) -> bool {
        false
    }

    #[inline(always)]
    fn ask(params: &mut FibLookup, packet: &Packet<Self>, src: &Be32, dst: &Be32) {
        params.__bindgen_anon_2.tos = packet.ip.tos;
        params.__bindgen_anon_3.ipv4_src = src.0;
        params.__bindgen_anon_4.ipv4_dst = dst.0;
    }

    #[inline(always)]
    fn write(ctx: &TcContext, packet: &Packet<Self>, to: [&Be32; 2], difference: Sum, ttl: u8) -> Option<()> {
        let checksum = checksum::update(packet.ip.checksum, difference.plus(ttl_difference(packet, ttl)));
        let tail = IpTail { ttl, proto: packet.tuple.proto, checksum, src: *to[0], dst: *to[1] };
        ctx.skb.store(ETH_LEN + IP_TTL, &tail, 0).ok()
    }

    #[inline(always)]
    fn write_ttl(ctx: &TcContext, packet: &Packet<Self>, ttl: u8) -> Option<()> {
        let [a, b] = checksum::update(packet.ip.checksum, ttl_difference(packet, ttl)).to_ne_bytes();
        ctx.skb.store(ETH_LEN + IP_TTL, &[ttl, packet.tuple.proto.0, a, b], 0).ok()
    }

    #[inline(always)]
    fn pseudo_header(src: &Be32, dst: &Be32, proto: Proto, len: u16) -> Sum {
        pseudo_header(*src, *dst, proto, len)
    }

    #[inline(always)]
    fn answer(src: &Be32, dst: &Be32, proto: Proto, payload: u16) -> Ipv4Header {
        Ipv4Header::answer(*src, *dst, proto, payload)
    }

    #[inline(always)]
    fn is_icmp_error(kind: u8) -> bool {
        IcmpHeader { kind, ..Default::default() }.is_error()
    }

    #[inline(always)]
    fn is_icmp_of_the_link(_kind: u8) -> bool {
        false
    }

    #[inline(always)]
    fn parse_quoted(ctx: &TcContext, work: &mut Work<Self>) -> Option<()> {
        let quote = &mut work.quote;
        load_into(ctx, quote.offset, &mut quote.header)?;
        let ip = &quote.header;
        if !ip.is_valid() || ip.is_later_fragment() {
            return None;
        }
        quote.was.src = ip.src;
        quote.was.dst = ip.dst;
        quote.was.proto = ip.proto;
        quote.was.pad = [0; 3];
        quote.transport = quote.offset + ip.header_len();
        Some(())
    }

    /// The quoted header's own checksum makes up for its new addresses.
    #[inline(always)]
    fn write_quoted(ctx: &TcContext, work: &Work<Self>) -> Option<Sum> {
        let (was, becomes) = (&work.quote.was, &work.to);
        let difference = addresses::<Self>(&was.src, &was.dst, &becomes.src, &becomes.dst);
        let (src, dst) = (becomes.src.0, becomes.dst.0);
        let addresses = [src as u16, (src >> 16) as u16, dst as u16, (dst >> 16) as u16];
        let tail = QuotedTail { checksum: checksum::update(work.quote.header.checksum, difference), addresses };
        ctx.skb.store(work.quote.offset as usize + IP_CHECKSUM, &tail, 0).ok()?;
        Some(Sum::ZERO)
    }

    /// A header with its checksum adds nothing, and there is no pseudo-header.
    #[inline(always)]
    fn sum_of_quoted(_ctx: &TcContext, _packet: &Packet<Self>, _src: &Be32, _message_len: u16) -> Option<Sum> {
        Some(Sum::ZERO)
    }
}

/// What a new time to live changes in the header's sum.
#[inline(always)]
fn ttl_difference(packet: &Packet<Ipv4>, ttl: u8) -> Sum {
    let word = |ttl| u32::from(u16::from_ne_bytes([ttl, packet.tuple.proto.0]));
    Sum::ZERO.replace(word(packet.ttl), word(ttl))
}
