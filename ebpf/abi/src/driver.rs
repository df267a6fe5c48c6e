//! What the timing driver is told: the headers of the packet that it repeats. Not part of the data path.

use crate::{
    header::{ETH_LEN, IPV4_LEN, TCP_LEN},
    map_type,
};

/// Ethernet, IP and TCP headers without options.
pub const IPV4_HEADERS: usize = ETH_LEN + IPV4_LEN + TCP_LEN;
pub const IPV6_HEADERS: usize = ETH_LEN + 40 + TCP_LEN;
/// Where the source port stands.
pub const SPORT_V4: usize = ETH_LEN + IPV4_LEN;
pub const SPORT_V6: usize = ETH_LEN + 40;
/// Source port of the first flow.
pub const SPORT_FIRST: u16 = 1_024;
/// So many flows differ by their source port alone.
pub const FLOWS_MOST: u32 = 64_000;

/// The packet to repeat.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Template {
    pub bytes: [u8; 80],
    /// How many flows take turns, at most [`FLOWS_MOST`].
    pub flows: u32,
    /// Whose turn it is.
    pub next: u32,
}
map_type!(Template, 88);
