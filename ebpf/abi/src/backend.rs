//! SLOTS and BACKENDS: what a frontend's range holds, and who stands behind a backend id. Both serve both families;
//! IPv4 addresses are mapped.

use crate::{Be16, Be128, map_type};

/// One entry of the flat SLOTS array. The backend's address is inline, so that choosing one costs one hash and
/// one array look-up. Within one range, slots are in ascending order of (address, port) as numbers, so that a
/// backend can be found by halving.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Slot {
    pub addr: Be128,
    pub port: Be16,
    /// Reserved, zero.
    pub flags: u16,
    /// Index into BACKENDS.
    pub backend: u32,
    /// The backend's generation when this slot was written.
    pub generation: u32,
    /// Reserved, zero: two slots to a cache line.
    pub pad: u32,
}
map_type!(Slot, 32);

/// State of a backend id.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct BackendState(pub u8);

impl BackendState {
    /// The id is free.
    pub const FREE: Self = Self(0);
    pub const READY: Self = Self(1);
    /// Not chosen for new flows, keeps its old ones: serving while terminating.
    pub const DRAINING: Self = Self(2);
}

/// Who stands behind a backend id. Ids are reused with a raised generation: a flow that remembers
/// (id, generation) detects in the data path that its backend is gone.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Backend {
    pub addr: Be128,
    pub port: Be16,
    pub state: BackendState,
    /// Reserved, zero.
    pub flags: u8,
    pub generation: u32,
    /// Zone number, 0 unknown.
    pub zone: u16,
    pub weight: u16,
}
map_type!(Backend, 28);
