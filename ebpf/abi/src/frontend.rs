//! FRONTENDS: hash from what a client dials to the slots that answer.

use crate::{Be16, Be32, Be128, Proto, map_type};

/// Which traffic policy a frontend stands for.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Scope(pub u8);

impl Scope {
    /// Dialled from inside: pods and the node itself.
    pub const INTERNAL: Self = Self(0);
    /// Arrived at the node's uplink. Looked up first there; a miss falls back to `INTERNAL`.
    pub const EXTERNAL: Self = Self(1);
}

/// What a client dials. Port 0 with [`Proto::ANY`] is the wildcard "this VIP is ours": a port that has no
/// frontend of its own on such an address is refused.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FrontendKey<A = Be32> {
    pub vip: A,
    pub port: Be16,
    pub proto: Proto,
    pub scope: Scope,
}
map_type!(FrontendKey, 8);
map_type!(FrontendKey<Be128>, 20);

impl<A> FrontendKey<A> {
    pub const fn wildcard(vip: A) -> Self {
        Self { vip, port: Be16::ZERO, proto: Proto::ANY, scope: Scope::INTERNAL }
    }
}

#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct FrontendFlags(pub u32);

impl FrontendFlags {
    /// The wildcard entry of a VIP.
    pub const WILDCARD: u32 = 1;
    /// Endpoints exist, but a Local policy allows none here: drop instead of refusing.
    pub const DROP_WHEN_EMPTY: u32 = 1 << 1;
    /// A NodePort frontend.
    pub const NODE_PORT: u32 = 1 << 2;
    /// ClientIP affinity is on.
    pub const AFFINITY: u32 = 1 << 3;
    /// From outside (`Scope::EXTERNAL`), traffic to a remote backend keeps its source address: externalTrafficPolicy Local.
    pub const LOCAL_ONLY: u32 = 1 << 4;
    /// Only clients in the service's ranges of SOURCE_RANGES are served; others are dropped.
    pub const CHECK_SOURCE: u32 = 1 << 5;
    /// The range is the set of this node's own endpoints (a Local policy); part of the affinity's key.
    pub const LOCAL_SET: u32 = 1 << 6;

    #[inline(always)]
    pub const fn has(self, flag: u32) -> bool {
        self.0 & flag != 0
    }
}

/// One frontend: it owns the slots `[base, base + count)`. The value is replaced as a whole, which flips the
/// service from one endpoint set to the next in one step. `count` 0 means refuse (or drop, by flag).
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Frontend {
    /// Service number, for counters and for people; stable while the service lives.
    pub service: u32,
    /// Raised by one with every flip.
    pub generation: u32,
    pub base: u32,
    pub count: u32,
    pub flags: FrontendFlags,
    /// Affinity time-out in seconds; 0 without affinity.
    pub affinity_seconds: u32,
    /// The service's own port, whatever the frontend's: a client keeps its backend over all addresses of one
    /// service port.
    pub service_port: Be16,
    /// Reserved, zero.
    pub pad: u16,
}
map_type!(Frontend, 28);
