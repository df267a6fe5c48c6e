//! One CIDR as a bitmap.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;

use super::Usage;

/// Of a CIDR with more addresses (any usual IPv6 one), the first are used.
const LARGEST: u32 = 1 << 16;

/// An address is its offset from the first usable one. A set bit: held, or resting.
#[derive(Clone, Debug)]
pub struct Pool {
    cidr: IpNetwork,
    first: u128,
    capacity: u32,
    taken: Vec<u64>,
    count: u32,
    /// Released addresses, oldest first.
    resting: VecDeque<(u32, Instant)>,
}

// === impl Pool ===

impl Pool {
    /// The network's own address is not used, nor IPv4's broadcast, except in CIDRs of one or two addresses.
    pub fn new(cidr: IpNetwork) -> Self {
        let (network, bits, v4) = match cidr {
            IpNetwork::V4(cidr) => (u128::from(u32::from(cidr.network())), 32 - u32::from(cidr.prefix()), true),
            IpNetwork::V6(cidr) => (u128::from(cidr.network()), 128 - u32::from(cidr.prefix()), false),
        };
        let (first, usable) = match bits {
            0 | 1 => (network, 1u128 << bits),
            128 => (network + 1, u128::MAX),
            _ if v4 => (network + 1, (1u128 << bits) - 2),
            _ => (network + 1, (1u128 << bits) - 1),
        };
        let capacity = usable.min(u128::from(LARGEST)) as u32;
        let taken = vec![0; capacity.div_ceil(64) as usize];
        Self { cidr, first, capacity, taken, count: 0, resting: VecDeque::new() }
    }

    pub fn cidr(&self) -> IpNetwork {
        self.cidr
    }

    fn offset(&self, address: IpAddr) -> Option<u32> {
        let number = match address {
            IpAddr::V4(address) if self.cidr.is_ipv4() => u128::from(u32::from(address)),
            IpAddr::V6(address) if self.cidr.is_ipv6() => u128::from(address),
            _ => return None,
        };
        let offset = u32::try_from(number.checked_sub(self.first)?).ok()?;
        (offset < self.capacity).then_some(offset)
    }

    fn address(&self, offset: u32) -> IpAddr {
        let number = self.first + u128::from(offset);
        match self.cidr {
            IpNetwork::V4(_) => Ipv4Addr::from(number as u32).into(),
            IpNetwork::V6(_) => Ipv6Addr::from(number).into(),
        }
    }

    fn is_taken(&self, offset: u32) -> bool {
        self.taken[offset as usize / 64] >> (offset % 64) & 1 == 1
    }

    fn mark(&mut self, offset: u32) {
        self.taken[offset as usize / 64] |= 1 << (offset % 64);
    }

    /// Whether this is an address to give, taken or not.
    pub fn has(&self, address: IpAddr) -> bool {
        self.offset(address).is_some()
    }

    /// The first address that was never given, else the one that rests longest, if long enough. [`Pool::take`] takes it.
    pub fn next(&self, now: Instant, quarantine: Duration) -> Option<IpAddr> {
        let rested = || {
            let (offset, released) = self.resting.front()?;
            (now.saturating_duration_since(*released) >= quarantine).then_some(*offset)
        };
        self.fresh().or_else(rested).map(|offset| self.address(offset))
    }

    /// The first offset whose bit is clear, word by word. The last word has bits to spare.
    fn fresh(&self) -> Option<u32> {
        let (index, word) = self.taken.iter().enumerate().find(|(_, word)| **word != u64::MAX)?;
        let offset = index as u32 * 64 + word.trailing_ones();
        (offset < self.capacity).then_some(offset)
    }

    /// Takes this address, also one that rests. False when it is taken, or not one of ours.
    pub fn take(&mut self, address: IpAddr) -> bool {
        let Some(offset) = self.offset(address) else { return false };
        if self.is_taken(offset) {
            let Some(index) = self.resting.iter().position(|(resting, _)| *resting == offset) else { return false };
            self.resting.remove(index);
        }
        self.mark(offset);
        self.count += 1;
        true
    }

    /// Frees an address that is held, without any rest.
    pub fn give_back(&mut self, address: IpAddr) {
        if let Some(offset) = self.offset(address).filter(|offset| self.is_taken(*offset)) {
            self.taken[offset as usize / 64] &= !(1 << (offset % 64));
            self.count -= 1;
        }
    }

    /// A free address rests from `released` on. False when it is not one of ours.
    pub fn rest(&mut self, address: IpAddr, released: Instant) -> bool {
        let Some(offset) = self.offset(address) else { return false };
        if !self.is_taken(offset) {
            self.mark(offset);
            let index = self.resting.partition_point(|(_, other)| *other <= released);
            self.resting.insert(index, (offset, released));
        }
        true
    }

    pub fn into_resting(self) -> Vec<(IpAddr, Instant)> {
        self.resting.iter().map(|(offset, released)| (self.address(*offset), *released)).collect()
    }

    pub fn usage(&self, now: Instant, quarantine: Duration) -> Usage {
        let next_free = self.resting.front().map(|(_, released)| (*released + quarantine).saturating_duration_since(now));
        Usage {
            cidr: self.cidr,
            capacity: self.capacity,
            in_use: self.count,
            quarantined: self.resting.len() as u32,
            next_free,
        }
    }
}
