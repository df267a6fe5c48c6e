//! What was answered how. Each worker counts in its own cache lines; reading adds them up.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::answer::Outcome;

/// Queries since the start, by outcome.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Packets received, by transport.
    pub udp: u64,
    pub tcp: u64,
    /// Answered with records.
    pub answered: u64,
    /// Answered with as many records as fit, and TC.
    pub truncated: u64,
    /// The name exists, but not with that type.
    pub nodata: u64,
    pub nxdomain: u64,
    pub servfail: u64,
    pub refused: u64,
    pub formerr: u64,
    pub notimp: u64,
    pub badvers: u64,
    /// Handed to the upstreams.
    pub forwarded: u64,
    /// Told SERVFAIL, or an alias alone, since too many waited for upstreams.
    pub shed: u64,
    /// Not answered: no query at all.
    pub dropped: u64,
    /// Replies that the kernel did not take.
    pub send_errors: u64,
    /// Faults of ours; each cost one batch of queries.
    pub panics: u64,
    /// Names in the table.
    pub names: u64,
    /// Serial of the zone; 0 before the first publication.
    pub serial: u32,
}

const OUTCOMES: usize = Outcome::ALL.len();

/// The counters of one worker.
#[derive(Default)]
#[repr(align(128))]
pub struct Counters {
    outcomes: [AtomicU64; OUTCOMES],
    pub udp: AtomicU64,
    pub tcp: AtomicU64,
    pub send_errors: AtomicU64,
    pub panics: AtomicU64,
}

// === impl Counters ===

impl Counters {
    pub fn count(&self, outcome: Outcome) {
        self.outcomes[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub fn add_to(&self, stats: &mut Stats) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        stats.udp += read(&self.udp);
        stats.tcp += read(&self.tcp);
        stats.send_errors += read(&self.send_errors);
        stats.panics += read(&self.panics);
        for outcome in Outcome::ALL {
            let field = match outcome {
                Outcome::Answer | Outcome::Transfer => &mut stats.answered,
                Outcome::Truncated => &mut stats.truncated,
                Outcome::NoData => &mut stats.nodata,
                Outcome::NxDomain => &mut stats.nxdomain,
                Outcome::ServFail => &mut stats.servfail,
                Outcome::Refused => &mut stats.refused,
                Outcome::FormErr => &mut stats.formerr,
                Outcome::NotImp => &mut stats.notimp,
                Outcome::BadVers => &mut stats.badvers,
                Outcome::Forward | Outcome::ForwardTarget => &mut stats.forwarded,
                Outcome::Drop => &mut stats.dropped,
            };
            *field += read(&self.outcomes[outcome as usize]);
        }
    }
}
