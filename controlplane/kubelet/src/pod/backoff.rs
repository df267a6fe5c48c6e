//! How long a container that keeps ending waits for its next start: 10 s, doubled each time up to 5 minutes, forgotten after
//! it has been well for twice that.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackoffConfig {
    pub initial: Duration,
    pub max: Duration,
}

/// The back-off of each container of one pod.
#[derive(Debug)]
pub struct Backoffs {
    config: BackoffConfig,
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    delay: Duration,
    updated: Timestamp,
}

// === impl BackoffConfig ===

impl Default for BackoffConfig {
    fn default() -> Self {
        Self { initial: Duration::from_secs(10), max: Duration::from_secs(300) }
    }
}

// === impl Backoffs ===

impl Backoffs {
    pub fn new(config: BackoffConfig) -> Self {
        Self { config, entries: BTreeMap::new() }
    }

    /// How long after its end at `finished` the container stays down. Zero the first time.
    pub fn delay(&self, name: &str, finished: Timestamp) -> Duration {
        self.live(name, finished).map_or(Duration::ZERO, |e| e.delay)
    }

    /// Records a start after an end at `finished`: the next end waits longer.
    pub fn restarted(&mut self, name: &str, finished: Timestamp) {
        let delay = self.live(name, finished).map_or(self.config.initial, |e| (e.delay * 2).min(self.config.max));
        self.entries.insert(name.to_owned(), Entry { delay, updated: finished });
    }

    /// After a failure to make a container.
    pub fn retry_delay(&self) -> Duration {
        self.config.initial
    }

    fn live(&self, name: &str, at: Timestamp) -> Option<Entry> {
        let well = SignedDuration::try_from(self.config.max * 2).unwrap_or(SignedDuration::MAX);
        self.entries.get(name).copied().filter(|e| at.duration_since(e.updated) <= well)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_to_the_limit_and_is_forgotten() {
        let mut backoffs = Backoffs::new(BackoffConfig::default());
        let mut now = Timestamp::from_second(1_700_000_000).expect("time");
        for expected in [0, 10, 20, 40, 80, 160, 300, 300] {
            let delay = backoffs.delay("app", now);
            assert_eq!(delay.as_secs(), expected);
            backoffs.restarted("app", now);
            now += SignedDuration::from_secs(expected as i64 + 1);
        }
        assert_eq!(backoffs.delay("other", now), Duration::ZERO);
        now += SignedDuration::from_secs(601);
        assert_eq!(backoffs.delay("app", now), Duration::ZERO);
        backoffs.restarted("app", now);
        assert_eq!(backoffs.delay("app", now).as_secs(), 10);
    }
}
