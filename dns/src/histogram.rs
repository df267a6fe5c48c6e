//! Durations counted by bounds, from any number of threads, in the bounds that CoreDNS's metrics have.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds in microseconds: from 0.25 ms, each twice the one before.
pub const BOUNDS: [u64; 16] = {
    let mut bounds = [250; 16];
    let mut index = 1;
    while index < bounds.len() {
        bounds[index] = bounds[index - 1] * 2;
        index += 1;
    }
    bounds
};

#[derive(Debug, Default)]
pub struct Histogram {
    /// The last is of those above all bounds.
    counts: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
}

/// What a histogram held at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    pub counts: [u64; BOUNDS.len() + 1],
    pub micros: u64,
}

// === impl Histogram ===

impl Histogram {
    pub fn observe(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let index = BOUNDS.partition_point(|&bound| bound < micros);
        self.counts[index].fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }

    pub fn read(&self) -> Counts {
        Counts {
            counts: self.counts.each_ref().map(|count| count.load(Ordering::Relaxed)),
            micros: self.micros.load(Ordering::Relaxed),
        }
    }
}

// === impl Counts ===

impl Counts {
    pub fn add(&mut self, other: &Self) {
        self.counts.iter_mut().zip(other.counts).for_each(|(sum, count)| *sum += count);
        self.micros += other.micros;
    }

    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_counts_under_the_first_bound_that_holds_it() {
        let histogram = Histogram::default();
        for micros in [0, 250, 251, 500, u64::MAX / 2] {
            histogram.observe(Duration::from_micros(micros));
        }
        let counts = histogram.read();
        assert_eq!((counts.counts[0], counts.counts[1], counts.counts[BOUNDS.len()]), (2, 2, 1));
        assert_eq!(counts.total(), 5);
        assert_eq!(BOUNDS[15], 8_192_000);
    }
}
