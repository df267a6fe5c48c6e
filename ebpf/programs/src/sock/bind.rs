//! cgroup/post_bind4, cgroup/post_bind6: a socket of the node takes a local port. One that is a NodePort is refused:
//! what is sent to it from outside would never reach that socket. Pods have ports of their own.
//!
//! A socket bound to all addresses is judged by the node's own address ([`Address::node`]) alone: where NodePorts are not
//! served on that one, the port is free to whoever binds to all, and on the addresses that serve it the NodePort comes first.
//! One bound to :: is judged for both families, also when it takes IPv6 alone (IPV6_V6ONLY), which no program is told here.

use aya_ebpf::{bindings::bpf_sock, macros::cgroup_sock, programs::SockContext};
use thalweg_abi::{Be16, Be32, Be128, Counter, FrontendFlags, FrontendKey, Proto, Scope};

use super::{ALLOW, EADDRINUSE, address::Address, balanced, fail, netns_cookie};
use crate::{config::NODE_NETNS, count::count};

#[cgroup_sock(post_bind4)]
pub fn post_bind4(ctx: SockContext) -> i32 {
    let Some((port, proto)) = local_port(&ctx) else { return ALLOW };
    let raw: *const bpf_sock = ctx.sock;
    // SAFETY: the context is valid for the whole program.
    let addr = Be32(unsafe { (&raw const (*raw).src_ip4).read_volatile() });
    answer(is_node_port(addr, port, proto))
}

#[cgroup_sock(post_bind6)]
pub fn post_bind6(ctx: SockContext) -> i32 {
    let Some((port, proto)) = local_port(&ctx) else { return ALLOW };
    let addr = Be128([word(&ctx, 0), word(&ctx, 1), word(&ctx, 2), word(&ctx, 3)]);
    if addr.is_mapped() {
        return answer(is_node_port(addr.v4(), port, proto));
    }
    // A socket that is bound to :: takes what comes by IPv4 too.
    answer(is_node_port(addr, port, proto) || (addr.is_any() && is_node_port(Be32::ZERO, port, proto)))
}

/// The port and protocol of a socket that may be in the way of a NodePort.
#[inline(always)]
fn local_port(ctx: &SockContext) -> Option<(Be16, Proto)> {
    let raw: *const bpf_sock = ctx.sock;
    // SAFETY: the context is valid for the whole program.
    let (protocol, port) =
        unsafe { ((&raw const (*raw).protocol).read_volatile(), (&raw const (*raw).src_port).read_volatile()) };
    let proto = balanced(protocol)?;
    // The one port of a context that is in host byte order.
    (netns_cookie(ctx) == NODE_NETNS.load()).then_some((Be16::from_host(port as u16), proto))
}

#[inline(always)]
fn word(ctx: &SockContext, at: usize) -> u32 {
    let raw: *const bpf_sock = ctx.sock;
    // SAFETY: the context is valid for the whole program.
    unsafe { (&raw const (*raw).src_ip6[at]).read_volatile() }
}

#[inline(always)]
fn is_node_port<A: Address>(bound: A, port: Be16, proto: Proto) -> bool {
    let vip = if bound.is_any() { A::node() } else { bound };
    let key = FrontendKey { vip, port, proto, scope: Scope::INTERNAL };
    A::frontend(&key).is_some_and(|frontend| frontend.flags.has(FrontendFlags::NODE_PORT))
}

#[inline(always)]
fn answer(is_taken: bool) -> i32 {
    if is_taken {
        count(Counter::SockBindRefused);
        return fail(EADDRINUSE);
    }
    ALLOW
}
