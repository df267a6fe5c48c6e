//! What a load did in a bounded time: how many transactions, and how long each took.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// Longest time of one transaction that is told apart, in nanoseconds: 10 seconds.
const LONGEST: u64 = 10_000_000_000;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RateReport {
    /// Transactions; bytes where the load is a stream of them.
    pub transactions: u64,
    pub seconds: f64,
    pub per_second: f64,
    /// Times of single transactions in nanoseconds, each with how often it was met. Empty where there are none.
    pub latency: Vec<(u64, u64)>,
}

// === impl RateReport ===

impl RateReport {
    /// As a histogram of nanoseconds.
    ///
    /// # Errors
    /// Never with the bounds used here; the histogram's constructor checks them.
    pub fn histogram(&self) -> Result<Histogram<u64>> {
        let mut histogram = histogram()?;
        for (nanos, count) in &self.latency {
            histogram.saturating_record_n(*nanos, *count);
        }
        Ok(histogram)
    }

    pub(super) fn new(transactions: u64, took: Duration, latency: Vec<(u64, u64)>) -> Self {
        let seconds = took.as_secs_f64();
        Self { transactions, seconds, per_second: transactions as f64 / seconds.max(f64::EPSILON), latency }
    }
}

/// For nanoseconds: three digits, up to [`LONGEST`]. All of them can be added to each other.
///
/// # Errors
/// Never with the bounds used here; the constructor checks them.
pub fn histogram() -> Result<Histogram<u64>> {
    Histogram::new_with_bounds(1, LONGEST, 3).context("make a histogram")
}

/// Transactions one after another for `millis`.
///
/// # Errors
/// On the first transaction that fails: a rate with failures in it means nothing.
pub(super) fn repeat(millis: u64, mut transaction: impl FnMut() -> Result<()>) -> Result<RateReport> {
    let limit = limit(millis)?;
    let mut histogram = histogram()?;
    let mut count = 0;
    let started = Instant::now();
    let mut before = started;
    while before - started < limit {
        transaction().with_context(|| format!("transaction {count}"))?;
        let after = Instant::now();
        histogram.saturating_record(u64::try_from((after - before).as_nanos()).unwrap_or(LONGEST));
        before = after;
        count += 1;
    }
    let latency = histogram.iter_recorded().map(|step| (step.value_iterated_to(), step.count_at_value())).collect();
    Ok(RateReport::new(count, before - started, latency))
}

/// # Errors
/// When a load may not take that long.
pub(super) fn limit(millis: u64) -> Result<Duration> {
    ensure!((1..=30_000).contains(&millis), "--millis {millis}: 1 to 30000");
    Ok(Duration::from_millis(millis))
}

/// From now on this thread, and those it starts, run on one CPU; anywhere without one.
///
/// # Errors
/// When the machine has no such CPU.
pub(super) fn pin(cpu: Option<usize>) -> Result<()> {
    let Some(cpu) = cpu else { return Ok(()) };
    let mut set = CpuSet::new();
    set.set(cpu).with_context(|| format!("--cpu {cpu}"))?;
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("--cpu {cpu}: run on that CPU"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transactions_are_counted_and_timed() {
        let report = repeat(1, || Ok(())).expect("repeat");
        assert!(report.transactions > 0);
        assert_eq!(report.histogram().expect("histogram").len(), report.transactions);
        let text = serde_json::to_string(&report).expect("json");
        let read: RateReport = serde_json::from_str(&text).expect("report");
        assert_eq!(read.latency, report.latency);
    }

    #[test]
    fn a_failure_ends_it_and_says_which() {
        let mut left = 3;
        let error = repeat(1_000, || {
            left -= 1;
            ensure!(left > 0, "gone");
            Ok(())
        })
        .expect_err("the third fails");
        assert_eq!(format!("{error:#}"), "transaction 2: gone");
    }

    #[test]
    fn times_and_processors_that_cannot_be_are_refused() {
        assert!(repeat(0, || Ok(())).is_err());
        assert!(repeat(30_001, || Ok(())).is_err());
        assert!(pin(Some(100_000)).is_err());
        assert!(pin(None).is_ok());
    }
}
