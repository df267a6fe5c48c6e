//! FRAGMENTS: which flow the fragments of a datagram belong to. HELD: fragments that came before their first.

use crate::{Be16, Be128, Proto, map_type};

/// A datagram in pieces. Addresses of IPv4 are mapped.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FragmentKey {
    pub src: Be128,
    pub dst: Be128,
    /// As it stands in the packet; 16 bits in IPv4.
    pub id: u32,
    pub proto: Proto,
    pub pad: [u8; 3],
}
map_type!(FragmentKey, 40);

/// What the first fragment said.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Fragment {
    pub sport: Be16,
    pub dport: Be16,
    /// Seconds since boot.
    pub last_seen: u32,
}
map_type!(Fragment, 8);

/// How many fragments of one datagram are held until its first comes.
pub const HELD_EACH: u32 = 8;
/// The longest frame that is held, in bytes.
pub const HELD_BYTES: usize = 1_536;

/// One fragment that waits.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HeldKey {
    pub datagram: FragmentKey,
    /// Below [`HELD_EACH`].
    pub index: u32,
}
map_type!(HeldKey, 44);

/// A whole frame.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    pub len: u32,
    /// Seconds since boot.
    pub last_seen: u32,
    pub bytes: [u8; HELD_BYTES],
}
map_type!(Held, 8 + HELD_BYTES);
