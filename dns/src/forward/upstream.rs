//! One name server that is asked: whether it is believed to be up, how fast it is, what it has done so far.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::exchange::{Exchange, Failure};
use crate::histogram::{Counts, Histogram};

/// When nothing is known of an upstream yet.
const FIRST_GUESS: Duration = Duration::from_millis(100);
const LEAST_HEDGE: Duration = Duration::from_millis(50);
const MOST_HEDGE: Duration = Duration::from_millis(500);
const RCODES: usize = 16;

#[derive(Debug)]
pub struct Upstream {
    pub address: SocketAddr,
    /// Health checks that failed in a row.
    fails: AtomicU32,
    checking: AtomicBool,
    /// What it is asked comes back to this server.
    loops: AtomicBool,
    /// Smoothed, in microseconds; 0 as long as nothing is known.
    round_trip: AtomicU32,
    pub counters: Counters,
}

/// Since the start.
#[derive(Debug, Default)]
pub struct Counters {
    pub duration: Histogram,
    /// Answers by code.
    pub answers: [AtomicU64; RCODES],
    pub timeouts: AtomicU64,
    pub network_errors: AtomicU64,
    pub malformed: AtomicU64,
    /// Packets that were not the answer.
    pub forgeries: AtomicU64,
    pub failed_checks: AtomicU64,
}

/// What an upstream did since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UpstreamReport {
    pub address: SocketAddr,
    pub up: bool,
    pub duration: Counts,
    /// Answers by code.
    pub answers: [u64; RCODES],
    pub timeouts: u64,
    pub network_errors: u64,
    pub malformed: u64,
    pub forgeries: u64,
    pub failed_checks: u64,
}

// === impl UpstreamReport ===

impl UpstreamReport {
    /// Questions that were sent and are over.
    pub fn asked(&self) -> u64 {
        self.answers.iter().sum::<u64>() + self.timeouts + self.network_errors + self.malformed
    }

    /// Takes in what was asked of the same server by another line.
    pub fn add(&mut self, other: &Self) {
        self.up &= other.up;
        self.duration.add(&other.duration);
        self.answers.iter_mut().zip(other.answers).for_each(|(sum, count)| *sum += count);
        self.timeouts += other.timeouts;
        self.network_errors += other.network_errors;
        self.malformed += other.malformed;
        self.forgeries += other.forgeries;
        self.failed_checks += other.failed_checks;
    }
}

// === impl Upstream ===

impl Upstream {
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            fails: AtomicU32::new(0),
            checking: AtomicBool::new(false),
            loops: AtomicBool::new(false),
            round_trip: AtomicU32::new(0),
            counters: Counters::default(),
        }
    }

    pub fn report(&self, max_fails: u32) -> UpstreamReport {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        UpstreamReport {
            address: self.address,
            up: self.is_up(max_fails),
            duration: counters.duration.read(),
            answers: counters.answers.each_ref().map(read),
            timeouts: read(&counters.timeouts),
            network_errors: read(&counters.network_errors),
            malformed: read(&counters.malformed),
            forgeries: read(&counters.forgeries),
            failed_checks: read(&counters.failed_checks),
        }
    }

    /// Whether it is worth asking; it is always with `max_fails` 0.
    pub fn is_up(&self, max_fails: u32) -> bool {
        !self.loops() && (max_fails == 0 || self.fails.load(Ordering::Relaxed) < max_fails)
    }

    pub fn loops(&self) -> bool {
        self.loops.load(Ordering::Relaxed)
    }

    pub fn set_loops(&self) {
        self.loops.store(true, Ordering::Relaxed);
    }

    /// True for whoever is to start checking: one at a time does.
    pub fn begin_checks(&self) -> bool {
        !self.checking.swap(true, Ordering::AcqRel)
    }

    pub fn end_checks(&self) {
        self.checking.store(false, Ordering::Release);
    }

    /// Takes in what came of a health check. True when it is well: whatever it says, it is there. When it could not be
    /// asked, nothing is known.
    pub fn checked(&self, exchange: &Exchange) -> bool {
        match &exchange.result {
            Err(Failure::Local(_)) => false,
            Err(failure) if failure.is_silence() => {
                // One writer at a time: whoever checks.
                self.fails.store(self.fails.load(Ordering::Relaxed).saturating_add(1), Ordering::Relaxed);
                self.counters.failed_checks.fetch_add(1, Ordering::Relaxed);
                false
            }
            Ok(_) | Err(_) => {
                self.fails.store(0, Ordering::Relaxed);
                true
            }
        }
    }

    /// After how long a second upstream is asked as well.
    pub fn hedge(&self) -> Duration {
        match self.round_trip.load(Ordering::Relaxed) {
            0 => FIRST_GUESS * 3,
            micros => (Duration::from_micros(micros.into()) * 4).clamp(LEAST_HEDGE, MOST_HEDGE),
        }
    }

    /// Takes in what came of a question, if it was asked. True when the upstream should be checked.
    pub fn record(&self, exchange: &Exchange, took: Duration) -> bool {
        let counters = &self.counters;
        counters.forgeries.fetch_add(exchange.forgeries.into(), Ordering::Relaxed);
        let counter = match &exchange.result {
            Err(Failure::Local(_)) => return false,
            Ok(reply) => {
                counters.duration.observe(took);
                self.smooth(took);
                &counters.answers[usize::from(reply.rcode()) % RCODES]
            }
            Err(Failure::Refused(rcode)) => &counters.answers[usize::from(*rcode) % RCODES],
            Err(Failure::Timeout) => &counters.timeouts,
            Err(Failure::Network(_)) => &counters.network_errors,
            Err(Failure::Malformed) => &counters.malformed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        exchange.result.as_ref().is_err_and(Failure::is_silence)
    }

    fn smooth(&self, took: Duration) {
        let sample = u32::try_from(took.as_micros()).unwrap_or(u32::MAX).max(1);
        let old = self.round_trip.load(Ordering::Relaxed);
        let new = if old == 0 { sample } else { (u64::from(old) * 7 + u64::from(sample)).div_ceil(8) as u32 };
        // A lost update is as good as a sample that was not taken.
        self.round_trip.store(new, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    fn failed(failure: Failure) -> Exchange {
        Exchange { result: Err(failure), forgeries: 0 }
    }

    #[test]
    fn only_silence_counts_against_an_upstream() {
        let upstream = Upstream::new(([127, 0, 0, 1], 53).into());
        let silence = || [Failure::Timeout, Failure::Network(ErrorKind::ConnectionRefused.into())].map(failed);
        let rest = || [Failure::Local(ErrorKind::AddrInUse.into()), Failure::Malformed, Failure::Refused(1)].map(failed);
        assert!(silence().iter().all(|exchange| upstream.record(exchange, Duration::ZERO)), "to be checked");
        assert!(rest().iter().all(|exchange| !upstream.record(exchange, Duration::ZERO)));
        assert_eq!(upstream.report(2).asked(), 4, "what was not sent is not counted");
        assert_eq!(silence().map(|exchange| upstream.checked(&exchange)), [false; 2]);
        assert_eq!((upstream.is_up(2), upstream.is_up(3)), (false, true));
        let [local, malformed, _] = rest();
        assert!(!upstream.checked(&local) && !upstream.is_up(2) && upstream.is_up(3), "nothing is known");
        assert!(upstream.checked(&malformed) && upstream.is_up(1), "it is there");
        assert_eq!(upstream.report(2).failed_checks, 2);
    }
}
