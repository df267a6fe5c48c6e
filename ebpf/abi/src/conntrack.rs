//! CONNTRACK: one entry per direction of a translated flow.
//!
//! Each entry says "a packet of this tuple becomes a packet of that tuple". The forward entry is keyed by what
//! the client sent; the reply entry by what the backend answers (the forward entry's `to`, reversed) and turns
//! it into the reverse of what the client sent. Either is found from the other by [`Tuple::reversed`], so both
//! live and die together. When the reply tuple is taken by another flow (one backend behind several VIPs), the
//! source port of the forward translation is reallocated, so no two flows ever share a reply entry. A connection
//! that goes to the backend directly has no entry, unless it would share its reply tuple with a flow that has one, or its
//! answers would be taken for questions to a frontend ([`CtFlags::DIRECT`]).

use crate::{Be16, Be32, Be128, Proto, map_type};

/// Addresses and ports of one direction of a flow. For ICMP echo, both ports hold the identifier.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Tuple<A = Be32> {
    pub src: A,
    pub dst: A,
    pub sport: Be16,
    pub dport: Be16,
    pub proto: Proto,
    pub pad: [u8; 3],
}
map_type!(Tuple, 16);
map_type!(Tuple<Be128>, 40);

impl<A: Copy> Tuple<A> {
    /// The tuple of the opposite direction.
    #[inline(always)]
    pub const fn reversed(self) -> Self {
        Self { src: self.dst, dst: self.src, sport: self.dport, dport: self.sport, proto: self.proto, pad: [0; 3] }
    }
}

#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct CtDirection(pub u8);

impl CtDirection {
    pub const FORWARD: Self = Self(0);
    pub const REPLY: Self = Self(1);
}

/// How far a flow is; decides how long it may be idle (see `limits`).
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct CtState(pub u8);

impl CtState {
    /// One direction seen.
    pub const NEW: Self = Self(0);
    /// Both directions seen.
    pub const ESTABLISHED: Self = Self(1);
    /// TCP: FIN seen from at least one side.
    pub const CLOSING: Self = Self(2);
    /// TCP: RST seen, or FIN from both sides.
    pub const CLOSED: Self = Self(3);
}

#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct CtFlags(pub u16);

impl CtFlags {
    /// The source was translated too (remote backend of a NodePort, or a pod that reaches itself).
    pub const SNAT: u16 = 1;
    /// The client and the backend are the same pod.
    pub const HAIRPIN: u16 = 1 << 1;
    /// The flow came in by a NodePort or another external address.
    pub const EXTERNAL: u16 = 1 << 2;
    /// TCP: the client has sent FIN.
    pub const FIN_CLIENT: u16 = 1 << 3;
    /// TCP: the backend has sent FIN.
    pub const FIN_BACKEND: u16 = 1 << 4;
    /// Not a service's: a client that addresses the backend itself, from a port that a flow of a service already has
    /// there, of which only the source port is translated; or one whose own address and port are a frontend's, of which
    /// nothing is. Service, backend and generation are 0 and mean nothing.
    pub const DIRECT: u16 = 1 << 5;
    /// TCP: the flow's first packet was not its SYN: it is older than its entry.
    pub const PICKED_UP: u16 = 1 << 6;
    /// TCP: an acknowledgement of another, untracked connection came by the reply tuple before this flow was answered.
    /// The client's next SYN takes another source port.
    pub const CONTENDED: u16 = 1 << 7;

    #[inline(always)]
    pub const fn has(self, flag: u16) -> bool {
        self.0 & flag != 0
    }
}

/// Value of CONNTRACK.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct CtEntry<A = Be32> {
    /// What a packet of the key's tuple becomes.
    pub to: Tuple<A>,
    pub service: u32,
    /// Index into BACKENDS and the generation the flow was bound to.
    pub backend: u32,
    pub generation: u32,
    /// Seconds since boot (`ktime_get_coarse_ns / 1e9`) of the last packet in this direction.
    pub last_seen: u32,
    pub direction: CtDirection,
    pub state: CtState,
    pub flags: CtFlags,
    /// Packets and bytes in this direction; approximate under concurrency.
    pub packets: u32,
    pub bytes: u64,
}
map_type!(CtEntry, 48);
map_type!(CtEntry<Be128>, 72);
