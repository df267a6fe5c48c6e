//! Where a packet goes, found before it is changed: what does not fit or has no way is answered with what was sent.

use aya_ebpf::{
    bindings::{
        BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NOT_FWDED, BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LOOKUP_SKIP_NEIGH,
        bpf_fib_lookup as FibLookup,
    },
    helpers::generated::bpf_fib_lookup,
    programs::TcContext,
};
use thalweg_abi::{Be32, LocalPod};

use super::{
    flow::{local_pod, node_addr},
    packet::{Packet, ifindex, length_on_link},
};

const AF_INET: u8 = 2;

/// The next hop on an interface; its hardware address is the kernel's business.
#[derive(Clone, Copy)]
pub struct Hop {
    pub ifindex: u32,
    pub gateway: Be32,
}

#[derive(Clone, Copy)]
pub enum Route {
    Pod(&'static LocalPod),
    Wire(Hop),
    /// For this node itself.
    Stack,
    /// Longer than the next link takes, whose MTU this is.
    TooBig(u16),
    Unreachable,
}

/// The way of a packet that will have these addresses.
#[inline(always)]
pub fn find(ctx: &TcContext, packet: &Packet, src: Be32, dst: Be32) -> Route {
    if let Some(pod) = local_pod(dst) {
        return Route::Pod(pod);
    }
    if dst == node_addr() {
        return Route::Stack;
    }
    // SAFETY: integers and unions of integers.
    let mut params: FibLookup = unsafe { core::mem::zeroed() };
    params.family = AF_INET;
    params.l4_protocol = packet.tuple.proto.0;
    params.ifindex = ifindex(ctx);
    params.__bindgen_anon_2.tos = packet.ip.tos;
    params.__bindgen_anon_3.ipv4_src = src.0;
    params.__bindgen_anon_4.ipv4_dst = dst.0;
    params.__bindgen_anon_1.tot_len = length_on_link(ctx, packet);
    // SAFETY: the structure lives on the stack and its size is given.
    let result = unsafe {
        bpf_fib_lookup(ctx.skb.skb.cast(), &raw mut params, size_of::<FibLookup>() as i32, BPF_FIB_LOOKUP_SKIP_NEIGH)
    };
    match u32::try_from(result).unwrap_or(u32::MAX) {
        // SAFETY: the fields that the kernel has set.
        BPF_FIB_LKUP_RET_SUCCESS => unsafe {
            Route::Wire(Hop { ifindex: params.ifindex, gateway: Be32(params.__bindgen_anon_4.ipv4_dst) })
        },
        // SAFETY: as above.
        BPF_FIB_LKUP_RET_FRAG_NEEDED => unsafe { Route::TooBig(params.__bindgen_anon_1.mtu_result) },
        BPF_FIB_LKUP_RET_NOT_FWDED => Route::Stack,
        _ => Route::Unreachable,
    }
}
