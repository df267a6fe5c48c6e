//! Whether packets flow, as somebody finds who dials a virtual IP of the proxy's own from time to time.
//!
//! A sync that succeeded says that the maps are written; only a packet that came through says that they are used. One
//! failure may be chance, several in a row are not, and a dial that never returns is none at all.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::Health;

/// How often the data path is dialled.
pub const EVERY: Duration = Duration::from_secs(5);
/// So many failures in a row make it faulty; one success heals it.
const FAILURES: u32 = 3;
/// A dialler of whom nothing has been heard for so long is stuck.
const STALE: Duration = Duration::from_secs(60);

/// Dials a virtual IP once: what went wrong, for people. It may block, but not for ever; a few seconds at most.
pub type Dial = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// What dialling has found. Nobody dials before the first outcome, and then nothing is held against the data path.
#[derive(Clone, Default, Debug)]
pub struct DataPath {
    last: Option<Instant>,
    failures: u32,
    reason: String,
}

/// Dials until it is dropped.
#[derive(Debug)]
pub struct Prober(JoinHandle<()>);

// === impl DataPath ===

impl DataPath {
    pub fn passed(&mut self, now: Instant) {
        *self = Self { last: Some(now), ..Self::default() };
    }

    pub fn failed(&mut self, now: Instant, reason: impl Into<String>) {
        *self = Self { last: Some(now), failures: self.failures.saturating_add(1), reason: reason.into() };
    }

    /// What is wrong with it.
    pub fn fault(&self, now: Instant) -> Option<String> {
        let silent = now.saturating_duration_since(self.last?);
        if self.failures >= FAILURES {
            Some(format!("the data path does not work: {} ({} times in a row)", self.reason, self.failures))
        } else if silent >= STALE {
            Some(format!("the data path has not been tried for {} s", silent.as_secs()))
        } else {
            None
        }
    }
}

// === impl Prober ===

impl Prober {
    /// Dials at once and then every `every`, and tells `health`. Call it inside the runtime, once the kernel holds what is
    /// dialled.
    pub fn start(health: Health, every: Duration, dial: Dial) -> Self {
        Self(tokio::spawn(async move {
            let mut interval = tokio::time::interval(every);
            interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                interval.tick().await;
                let dial = Arc::clone(&dial);
                let outcome = tokio::task::spawn_blocking(move || dial()).await;
                let outcome = outcome.unwrap_or_else(|error| Err(format!("the dialler failed: {error}")));
                health.update(|state| {
                    let now = Instant::now();
                    let before = state.data_path.fault(now);
                    match outcome {
                        Ok(()) => state.data_path.passed(now),
                        Err(reason) => state.data_path.failed(now, reason),
                    }
                    match (before, state.data_path.fault(now)) {
                        (None, Some(fault)) => tracing::error!("{fault}; load balancers are told to go elsewhere"),
                        (Some(_), None) => tracing::info!("the data path works again"),
                        _ => {}
                    }
                });
            }
        }))
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Outcomes at whole seconds, `true` for one that passed; then the fault at second `when`.
    #[track_caller]
    fn check(outcomes: &[(u64, bool)], when: u64, fault: Option<&str>) {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut data_path = DataPath::default();
        for (second, passed) in outcomes {
            match passed {
                true => data_path.passed(at(*second)),
                false => data_path.failed(at(*second), "refused"),
            }
        }
        assert_eq!(data_path.fault(at(when)).as_deref(), fault);
    }

    // kubernetes#134648
    #[test]
    fn only_failures_in_a_row_are_a_fault() {
        check(&[], 1000, None);
        check(&[(0, true)], 59, None);
        check(&[(0, false), (5, false)], 6, None);
        let fault = Some("the data path does not work: refused (3 times in a row)");
        check(&[(0, false), (5, false), (10, false)], 10, fault);
        check(&[(0, false), (5, false), (10, true), (15, false)], 16, None);
        check(&[(0, false), (5, false), (10, false), (15, true)], 15, None);
        check(&[(0, true), (5, false), (10, false), (15, false)], 1000, fault);
    }

    #[test]
    fn a_dialler_that_is_stuck_is_a_fault() {
        check(&[(0, true)], 60, Some("the data path has not been tried for 60 s"));
        check(&[(0, false)], 61, Some("the data path has not been tried for 61 s"));
        check(&[(0, true), (60, true)], 61, None);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_prober_tells_what_it_finds_and_ends_when_it_is_dropped() {
        use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

        let health = Health::new(Duration::from_secs(60));
        let (works, dials) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let dial: Dial = {
            let (works, dials) = (Arc::clone(&works), Arc::clone(&dials));
            Arc::new(move || {
                dials.fetch_add(1, Ordering::SeqCst);
                if works.load(Ordering::SeqCst) { Ok(()) } else { Err("refused".to_owned()) }
            })
        };
        let faulty = || health.read(|state| state.data_path.fault(Instant::now()).is_some());
        let until = async |wanted: &dyn Fn() -> bool| {
            let end = Instant::now() + Duration::from_secs(10);
            while !wanted() {
                assert!(Instant::now() < end, "{health:?}");
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let prober = Prober::start(health.clone(), Duration::from_millis(5), dial);
        until(&faulty).await;
        works.store(true, Ordering::SeqCst);
        until(&|| !faulty()).await;
        drop(prober);
        // Whatever was under way holds a reference to the dialler; when the last one is gone, nobody dials any more.
        until(&|| Arc::strong_count(&dials) == 1).await;
    }
}
