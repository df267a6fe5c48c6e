//! Ranges of addresses: SOURCE_RANGES, whom a service admits, and SERVICE_RANGES, whose addresses are services'.

use crate::{Be32, Be128, map_type};

/// Data of a key of SOURCE_RANGES, a longest-prefix trie: a service, then a client's address (IPv4 mapped). The prefix
/// of a range of `n` bits is `32 + n` for IPv6 and `32 + 96 + n` for IPv4. The value is a `u32` and means nothing.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SourceRange {
    pub service: u32,
    pub addr: Be128,
}
map_type!(SourceRange, 20);

impl SourceRange {
    /// Bits of a prefix that covers one client of IPv6, or of IPv4 (mapped).
    pub const WHOLE: u32 = 32 + 128;
}

/// Key of SOURCE_RANGES as the kernel has it.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SourceRangeKey {
    /// Bits of `range` that count.
    pub prefix: u32,
    pub range: SourceRange,
}
map_type!(SourceRangeKey, 24);

/// How many ranges of each family SERVICE_RANGES holds.
pub const SERVICE_RANGES_EACH: usize = 8;

/// The only value of SERVICE_RANGES: from which ranges ClusterIPs are allocated. An address in one of them that no service
/// owns is nobody's: packets to it are dropped. `addr` is masked already.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct ServiceRanges {
    /// Entries of `v4` and `v6` in use.
    pub used: u32,
    pub used6: u32,
    pub v4: [Range<Be32>; SERVICE_RANGES_EACH],
    pub v6: [Range<Be128>; SERVICE_RANGES_EACH],
}
map_type!(ServiceRanges, 8 + 8 * SERVICE_RANGES_EACH + 32 * SERVICE_RANGES_EACH);

#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Range<A> {
    pub addr: A,
    pub mask: A,
}

impl Range<Be32> {
    #[inline(always)]
    pub const fn contains(&self, addr: Be32) -> bool {
        addr.0 & self.mask.0 == self.addr.0
    }
}

impl Range<Be128> {
    #[inline(always)]
    pub const fn contains(&self, addr: Be128) -> bool {
        let (mask, own, addr) = (&self.mask.0, &self.addr.0, &addr.0);
        addr[0] & mask[0] == own[0] && addr[1] & mask[1] == own[1] && addr[2] & mask[2] == own[2] && addr[3] & mask[3] == own[3]
    }
}
