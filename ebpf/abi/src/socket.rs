//! SOCK_NAT: socket storage that remembers how a socket's destinations were translated.

use crate::{Be16, Be32, Proto, map_type};

/// How many translations an unconnected UDP socket remembers; the oldest is overwritten.
pub const SOCK_NAT_ENTRIES: usize = 8;

/// "What the socket dialled" and "where it really goes".
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct SockNatEntry {
    pub vip: Be32,
    pub backend_addr: Be32,
    pub vip_port: Be16,
    pub backend_port: Be16,
    pub backend: u32,
    pub generation: u32,
}
map_type!(SockNatEntry, 20);

/// Value of SOCK_NAT. Dies with its socket, so nothing is evicted.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct SockNat {
    pub entries: [SockNatEntry; SOCK_NAT_ENTRIES],
    /// Entries in use, at most [`SOCK_NAT_ENTRIES`].
    pub used: u32,
    /// Where the next one is written.
    pub next: u32,
    pub proto: Proto,
    pub pad: [u8; 3],
}
map_type!(SockNat, 20 * SOCK_NAT_ENTRIES + 12);
