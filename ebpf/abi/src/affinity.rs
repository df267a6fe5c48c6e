//! AFFINITY: which backend a client keeps. One table for both families, the socket load balancer and tc.

use crate::{Be16, Be128, Proto, map_type};

/// A client of one service port. Addresses of IPv4 are mapped.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct AffinityKey {
    pub client: Be128,
    pub service: u32,
    pub port: Be16,
    pub proto: Proto,
    /// 1 for the set of a Local policy, 0 for the cluster's: a client may keep one backend of each.
    pub local: u8,
}
map_type!(AffinityKey, 24);

/// The backend that a client keeps. Valid while it was used within the frontend's time-out and the backend is ready and
/// in the frontend's range.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Affinity {
    pub backend: u32,
    pub generation: u32,
    /// Where in the frontend's range the slot was found last: a hint that is verified.
    pub offset: u32,
    /// Seconds since boot of the last new connection.
    pub last_seen: u32,
    /// The time-out of the frontend by which it was used last, for expiry.
    pub seconds: u32,
}
map_type!(Affinity, 20);
