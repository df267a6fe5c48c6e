//! The border between kernel and user space: every map key and value, the limits, and pure packet arithmetic.
//!
//! Both sides compile this one crate, so nothing is mirrored by hand. All types are `#[repr(C)]` with explicit
//! padding and a size assertion; addresses and ports as they stand on the wire have their own types
//! ([`Be16`], [`Be32`]). The feature `user` adds `aya::Pod`. Any change to a layout or a meaning here raises
//! [`ABI_VERSION`]: maps are pinned below a directory of that number.
#![no_std]

mod affinity;
mod backend;
pub mod checksum;
mod conntrack;
mod counters;
pub mod crc32c;
mod dns;
pub mod driver;
pub mod flow;
mod fragment;
mod frontend;
pub mod header;
pub mod ipv6;
mod limits;
mod net;
mod pod;
mod range;
mod service;
mod socket;
mod state;

pub use affinity::{Affinity, AffinityKey};
pub use backend::{Backend, BackendState, Slot};
pub use conntrack::{CtDirection, CtEntry, CtFlags, CtState, Tuple};
pub use counters::{Counter, DnsOutcome, DropReason};
pub use dns::*;
pub use fragment::{Fragment, FragmentKey, HELD_BYTES, HELD_EACH, Held, HeldKey};
pub use frontend::{Frontend, FrontendFlags, FrontendKey, Scope};
pub use limits::*;
pub use net::{Be16, Be32, Be128, Proto};
pub use pod::{LocalPod, Netns, NetnsFlags};
pub use range::{Range, SERVICE_RANGES_EACH, ServiceRanges, SourceRange, SourceRangeKey};
pub use service::{ServiceName, ServiceStats};
pub use socket::{SOCK_NAT_ENTRIES, SockBackend, SockNat, SockNatEntry};
pub use state::{DRAINING, StateKey};

/// Version of every layout and meaning in this crate. Part of the pin path.
pub const ABI_VERSION: u32 = 3;

/// Asserts a type's size at compile time and, for user space, that any bit pattern is a value.
macro_rules! map_type {
    ($type:ty, $size:expr) => {
        const _: () = assert!(core::mem::size_of::<$type>() == $size);
        #[cfg(feature = "user")]
        // SAFETY: `#[repr(C)]`, integers only, padding explicit (the size assertion above would fail otherwise).
        #[expect(unsafe_code, reason = "aya::Pod is an unsafe marker trait")]
        unsafe impl aya::Pod for $type {}
    };
}
pub(crate) use map_type;
