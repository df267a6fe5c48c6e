//! Where a packet goes, found before it is changed: what does not fit or has no way is answered with what was sent.

use aya_ebpf::{
    bindings::{
        BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NOT_FWDED, BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LOOKUP_SKIP_NEIGH,
        bpf_fib_lookup as FibLookup,
    },
    helpers::generated::bpf_fib_lookup,
    programs::TcContext,
};

use super::{
    family::Family,
    packet::{Packet, ifindex, length_on_link},
    work::Work,
};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// Into `work.pod`.
    Pod,
    /// To `work.hop`.
    Wire,
    /// For this node itself.
    Stack,
    /// Longer than the next link takes, whose MTU is `work.mtu`.
    TooBig,
    Unreachable,
}

/// The way of a packet that will have the addresses of `work.to`, or of the message in `work.quote`.
#[inline(always)]
pub fn find<F: Family>(ctx: &TcContext, work: &mut Work<F>, is_quote: bool) -> Route {
    let (src, dst) = if is_quote { (&work.quote.src, &work.quote.dst) } else { (&work.to.src, &work.to.dst) };
    if let Some(pod) = F::local_pod(dst) {
        work.pod = *pod;
        return Route::Pod;
    }
    if *dst == F::node_addr() {
        return Route::Stack;
    }
    ask_about(ctx, &mut work.lookup, &work.packet, src, dst);
    work.lookup.l4_protocol = work.packet.tuple.proto.0;
    work.lookup.__bindgen_anon_1.tot_len = length_on_link(ctx, &work.packet);
    match answer(ctx, work) {
        BPF_FIB_LKUP_RET_SUCCESS => {
            work.hop.ifindex = work.lookup.ifindex;
            work.hop.family = u32::from(work.lookup.family);
            // SAFETY: the union's longest field; that of IPv4 is its first word.
            work.hop.gateway = unsafe { work.lookup.__bindgen_anon_4.ipv6_dst };
            Route::Wire
        }
        BPF_FIB_LKUP_RET_FRAG_NEEDED => {
            // SAFETY: the field that the kernel has set.
            work.mtu = u32::from(unsafe { work.lookup.__bindgen_anon_1.mtu_result });
            Route::TooBig
        }
        BPF_FIB_LKUP_RET_NOT_FWDED => Route::Stack,
        _ => Route::Unreachable,
    }
}

/// Whether an address is one of this node's own, of which [`Family::node_addr`] is only the first.
#[inline(always)]
pub fn is_own<F: Family>(ctx: &TcContext, work: &mut Work<F>, addr: &F::Addr) -> bool {
    ask_about(ctx, &mut work.lookup, &work.packet, &F::node_addr(), addr);
    answer(ctx, work) == BPF_FIB_LKUP_RET_NOT_FWDED
}

#[inline(always)]
fn ask_about<F: Family>(ctx: &TcContext, lookup: &mut FibLookup, packet: &Packet<F>, src: &F::Addr, dst: &F::Addr) {
    // SAFETY: integers and unions of integers.
    *lookup = unsafe { core::mem::zeroed() };
    lookup.family = F::ADDRESS_FAMILY;
    lookup.ifindex = ifindex(ctx);
    F::ask(lookup, packet, src, dst);
}

#[inline(always)]
fn answer<F: Family>(ctx: &TcContext, work: &mut Work<F>) -> u32 {
    let size = size_of::<FibLookup>() as i32;
    // SAFETY: the structure outlives the call, and its size is given.
    let result = unsafe { bpf_fib_lookup(ctx.skb.skb.cast(), &raw mut work.lookup, size, BPF_FIB_LOOKUP_SKIP_NEIGH) };
    u32::try_from(result).unwrap_or(u32::MAX)
}
