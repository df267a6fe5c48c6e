//! What is known of one packet while it is worked on. It lives in a per-CPU array: addresses of IPv6 would not fit on a
//! program's stack, and memory that always has a value keeps the verifier content where registers would not have one.
//!
//! One packet at a time has it: programs of one CPU do not interrupt each other, and none of ours sends a packet through
//! another of ours while it needs what it knows.

use aya_ebpf::{bindings::bpf_fib_lookup as FibLookup, btf_maps::PerCpuArray, macros::btf_map};
use thalweg_abi::{CtEntry, Frontend, HeldKey, LocalPod, Tuple};

use super::{family::Family, ipv4::Ipv4, ipv6::Ipv6, packet::Packet};

#[repr(C)]
pub struct Work<F: Family> {
    /// The packet as it came.
    pub packet: Packet<F>,
    /// What it becomes, or what a packet that it quotes becomes.
    pub to: Tuple<F::Addr>,
    /// The pod of this node that it is for; interface 0 when there is none.
    pub pod: LocalPod,
    /// The next hop; interface 0 when there is none.
    pub hop: Hop,
    /// The question to the kernel's routes.
    pub lookup: FibLookup,
    /// What the next link takes.
    pub mtu: u32,
    pub frontend: Frontend,
    pub new: New,
    /// The entry that is being made.
    pub entry: CtEntry<F::Addr>,
    /// The key of its reply entry.
    pub key: Tuple<F::Addr>,
    pub quote: Quote<F>,
    pub held: HeldKey,
}

/// A next hop on an interface; its hardware address is the kernel's business.
#[repr(C)]
pub struct Hop {
    pub ifindex: u32,
    /// That of the gateway's address, which may be of IPv6 for a route of IPv4 (RFC 5549).
    pub family: u32,
    /// An address of IPv4 stands in the first word.
    pub gateway: [u32; 4],
}

/// A flow to be made; its first packet becomes `to`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct New {
    pub service: u32,
    pub backend: u32,
    pub generation: u32,
    pub flags: u16,
    /// Whether the source port has to be another one.
    pub needs_port: bool,
}

/// A quoted packet.
#[repr(C)]
pub struct Quote<F: Family> {
    pub was: Tuple<F::Addr>,
    /// The message's own addresses, as they will be.
    pub src: F::Addr,
    pub dst: F::Addr,
    /// Offset of the quoted IP header in the frame.
    pub offset: u32,
    /// Offset of the quoted transport header.
    pub transport: u32,
    /// The quoted IP header.
    pub header: F::Header,
}

#[btf_map]
pub static WORK: PerCpuArray<Work<Ipv4>, 1> = PerCpuArray::new();
#[btf_map]
pub static WORK6: PerCpuArray<Work<Ipv6>, 1> = PerCpuArray::new();
