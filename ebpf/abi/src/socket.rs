//! SOCK_NAT: socket storage that remembers how a socket's destinations were translated.

use crate::{Be16, Be32, Be128, Proto, map_type};

/// How many translations an unconnected UDP socket remembers; the oldest is overwritten.
pub const SOCK_NAT_ENTRIES: usize = 8;

/// "What the socket dialled" and "where it really goes".
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct SockNatEntry<A = Be32> {
    pub vip: A,
    pub backend_addr: A,
    pub vip_port: Be16,
    pub backend_port: Be16,
    pub backend: u32,
    pub generation: u32,
}
map_type!(SockNatEntry, 20);
map_type!(SockNatEntry<Be128>, 44);

/// Value of SOCK_NAT: of UDP sockets, and of TCP sockets that found SOCK_BACKENDS full. Dies with its socket, so nothing is
/// evicted.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct SockNat<A = Be32> {
    pub entries: [SockNatEntry<A>; SOCK_NAT_ENTRIES],
    /// Entries in use, at most [`SOCK_NAT_ENTRIES`].
    pub used: u32,
    /// Where the next one is written.
    pub next: u32,
    pub proto: Proto,
    pub pad: [u8; 3],
}
map_type!(SockNat, 20 * SOCK_NAT_ENTRIES + 12);
map_type!(SockNat<Be128>, 44 * SOCK_NAT_ENTRIES + 12);

/// Value of SOCK_BACKENDS, a hash from the cookie of a connected socket to what it dialled and the backend that it was
/// connected to: by it the agent finds the sockets of a backend that is gone, and a TCP socket is told its peer. Removed when
/// the socket is released.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct SockBackend {
    /// What was dialled; IPv4 is mapped.
    pub vip: Be128,
    /// The backend's address.
    pub peer: Be128,
    pub vip_port: Be16,
    pub peer_port: Be16,
    pub proto: Proto,
    pub pad: [u8; 3],
    pub backend: u32,
    pub generation: u32,
    /// Number of the service that was dialled.
    pub service: u32,
}
map_type!(SockBackend, 52);
