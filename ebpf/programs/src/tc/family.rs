//! What differs between IPv4 and IPv6: tables, addresses, and where things stand in a header. All else is written once, and
//! compiled once for each.

use aya_ebpf::{bindings::bpf_fib_lookup as FibLookup, programs::TcContext};
use thalweg_abi::{Be16, Be128, CtEntry, FragmentKey, Frontend, FrontendKey, LocalPod, Proto, Slot, Tuple, checksum::Sum};

use super::{packet::Packet, work::Work};

/// Type and code of an ICMP message.
#[derive(Clone, Copy)]
pub struct Message {
    pub kind: u8,
    pub code: u8,
}

pub trait Family: Sized + 'static {
    type Addr: Copy + PartialEq + 'static;
    /// What is kept of a packet's IP header besides its addresses.
    type Ip: Copy + 'static;
    /// An IP header as it stands in a frame.
    type Header: Copy + 'static;

    const ETHER_TYPE: Be16;
    const ADDRESS_FAMILY: u8;
    /// Bytes of an IP header without options or extensions.
    const IP_LEN: usize;
    const ICMP: Proto;
    const ICMP_ECHO_REQUEST: u8;
    const PORT_UNREACHABLE: Message;
    /// For what has no ports.
    const PROTOCOL_UNREACHABLE: Message;
    const TOO_BIG: Message;
    const TIME_EXCEEDED: Message;
    /// The smallest MTU that a sender may be told.
    const MIN_MTU: u16;

    // === Tables ===

    fn work() -> Option<&'static mut Work<Self>>;
    fn find_flow(tuple: &Tuple<Self::Addr>) -> Option<*mut CtEntry<Self::Addr>>;
    fn insert_flow(tuple: &Tuple<Self::Addr>, entry: &CtEntry<Self::Addr>, flags: u64) -> Result<(), i32>;
    /// A flow that is gone already, with an agent that sweeps at this moment, is as well.
    fn remove_flow(tuple: &Tuple<Self::Addr>);
    fn frontend(key: &FrontendKey<Self::Addr>) -> Option<&'static Frontend>;
    /// The pod of this node that has this address.
    fn local_pod(addr: &Self::Addr) -> Option<&'static LocalPod>;
    /// The node's own address; the unspecified one when it has none of this family.
    fn node_addr() -> Self::Addr;
    /// Whether an address is from the ranges of services.
    fn is_from_service_ranges(addr: &Self::Addr) -> bool;

    // === Addresses ===

    fn of_slot(slot: &Slot) -> Self::Addr;
    fn mapped(addr: &Self::Addr) -> Be128;
    fn is_unspecified(addr: &Self::Addr) -> bool;
    fn sum(addr: &Self::Addr) -> Sum;

    // === Reading ===

    /// Reads the IP header and what is between it and the transport header: everything but ports, `header` and `tcp`.
    /// `None` when it contradicts itself.
    fn parse(ctx: &TcContext, packet: &mut Packet<Self>) -> Option<()>;
    fn must_not_be_fragmented(packet: &Packet<Self>) -> bool;
    fn fragment_key(packet: &Packet<Self>) -> FragmentKey;
    /// Whether a packet is between a pod and its own link, and neither routed nor balanced.
    fn is_of_the_link(packet: &Packet<Self>) -> bool;

    // === Routing ===

    /// Fills in addresses and traffic class.
    fn ask(params: &mut FibLookup, packet: &Packet<Self>, src: &Self::Addr, dst: &Self::Addr);

    // === Writing ===

    /// Writes new addresses, source and destination, of which it is known what they change in a sum, and the time to live.
    fn write(ctx: &TcContext, packet: &Packet<Self>, to: [&Self::Addr; 2], difference: Sum, ttl: u8) -> Option<()>;
    /// Writes the time to live alone.
    fn write_ttl(ctx: &TcContext, packet: &Packet<Self>, ttl: u8) -> Option<()>;
    fn pseudo_header(src: &Self::Addr, dst: &Self::Addr, proto: Proto, len: u16) -> Sum;
    fn answer(src: &Self::Addr, dst: &Self::Addr, proto: Proto, payload: u16) -> Self::Header;

    // === ICMP ===

    fn is_icmp_error(kind: u8) -> bool;
    /// Whether a message belongs to the link, as the solicitations of neighbours do.
    fn is_icmp_of_the_link(kind: u8) -> bool;
    /// Reads the quoted IP header at `work.quote.offset`: addresses, protocol and where the transport header is.
    fn parse_quoted(ctx: &TcContext, work: &mut Work<Self>) -> Option<()>;
    /// Writes the quoted packet's new addresses (those of `work.to`); what that changes in the sum of the message, whose own
    /// new addresses it knows too.
    fn write_quoted(ctx: &TcContext, work: &Work<Self>) -> Option<Sum>;
    /// The sum of what precedes the quoted transport header in the checksum of a message that we make: the pseudo-header and
    /// the packet's own IP header. `None` when that is too long.
    fn sum_of_quoted(ctx: &TcContext, packet: &Packet<Self>, src: &Self::Addr, message_len: u16) -> Option<Sum>;
}
