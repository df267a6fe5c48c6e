//! A rate for each client, in memory that does not grow: clients are spread over a fixed number of buckets by a hash with
//! a secret key, so nobody can choose whose bucket to drain.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::Admission;

const BUCKETS: usize = 1 << 14;
/// Seconds of the rate that may come at once: a pod that starts asks a lot.
const BURST: u64 = 2;
/// A client of IPv6 has a whole network.
const V6_PREFIX: u32 = 64;

/// Each bucket is one number: the time, in microseconds since a fixed moment, at which it would be full again.
pub struct Limiter {
    /// Microseconds that a query costs.
    cost: u64,
    depth: u64,
    buckets: Box<[AtomicU64]>,
    hasher: RandomState,
}

// === impl Limiter ===

impl Limiter {
    /// `rate`: queries a second, at least 1.
    pub fn new(rate: u32) -> Self {
        let cost = (1_000_000 / u64::from(rate.max(1))).max(1);
        let depth = BURST * 1_000_000;
        Self {
            cost,
            depth: depth.max(cost),
            buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(),
            hasher: RandomState::new(),
        }
    }

    /// Passes while the client keeps to its rate; beyond it every second query is told to come over TCP, the others are
    /// dropped, so that forged queries bring their victim no more than half of their own size.
    pub fn admit(&self, client: IpAddr, now: Duration) -> Admission {
        let client = match client {
            IpAddr::V4(_) => client,
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << (128 - V6_PREFIX))).into(),
        };
        let bucket = &self.buckets[self.hasher.hash_one(client) as usize % BUCKETS];
        let now = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
        let take = |full: u64| {
            let full = full.max(now) + self.cost;
            (full <= now.saturating_add(self.depth)).then_some(full)
        };
        match bucket.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
            Ok(_) => Admission::Pass,
            // The lowest bit tells turns apart; it is worth a microsecond.
            Err(_) if bucket.fetch_xor(1, Ordering::Relaxed) & 1 == 0 => Admission::Cut,
            Err(_) => Admission::Shed,
        }
    }
}
