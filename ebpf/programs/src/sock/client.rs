//! Who makes a call: the address by which affinity and source ranges know a socket, from its network namespace.

use aya_ebpf::programs::SockAddrContext;
use thalweg_abi::{Be128, Netns, NetnsFlags};

use super::{address::Address, netns_cookie};
use crate::{config::NODE_NETNS, maps::NETNS};

/// A client of the socket load balancer. No enum: whichever it is, every field has a value, or the verifier would see
/// what the compiler left undefined.
#[derive(Clone, Copy, Default)]
pub struct Client {
    /// By what affinity knows it. A namespace that is not listed, or has no address of this family, is one client all
    /// the same: it is known by its cookie, written as a multicast address, which no client can have. tc sees the packets
    /// of such a namespace with the address that they really have, and keeps a backend of its own for that.
    pub identity: Be128,
    /// Whether `identity` is an address.
    is_address: bool,
    /// The pod left socket load balancing to tc.
    pub opted_out: bool,
}

// === impl Client ===

impl Client {
    #[inline(always)]
    pub fn of<A: Address>(ctx: &SockAddrContext) -> Self {
        let cookie = netns_cookie(ctx);
        let (addr, flags) = if cookie == NODE_NETNS.load() {
            (A::node().wide(), NetnsFlags(0))
        } else {
            // SAFETY: copied at once; user space replaces a value as a whole.
            let netns = match unsafe { NETNS.get(cookie) } {
                Some(netns) => *netns,
                None => Netns::default(),
            };
            (A::of(&netns).wide(), netns.flags)
        };
        let is_address = !A::narrow(addr).is_any();
        let stand_in = Be128([u32::MAX, u32::MAX, (cookie >> 32) as u32, cookie as u32]);
        Self { identity: if is_address { addr } else { stand_in }, is_address, opted_out: flags.has(NetnsFlags::NO_SOCKET_LB) }
    }

    /// By what source ranges judge it.
    #[inline(always)]
    pub fn address(&self) -> Option<Be128> {
        if self.is_address { Some(self.identity) } else { None }
    }
}
