//! Work to do: every key at most once, never by two workers at the same time, later again when it failed.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// First and longest pause of a key that fails again and again; each pause is twice the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How the work on a key ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// Look again after this time, whatever happens.
    After(Duration),
    /// Failed: again after a pause that grows.
    Failed,
}

/// The queue's rules, without clocks and tasks. `now` must not go back.
#[derive(Debug)]
pub struct Core<K> {
    ready: VecDeque<K>,
    queued: HashSet<K>,
    running: HashSet<K>,
    /// Added while running: again as soon as the run ends.
    dirty: HashSet<K>,
    /// Keys that wait for their time, by time and by key.
    waiting: BTreeSet<(Instant, K)>,
    due: HashMap<K, Instant>,
    failures: HashMap<K, u32>,
}

/// The queue as tasks share it.
#[derive(Debug)]
pub struct Queue<K> {
    core: Mutex<Core<K>>,
    changed: Notify,
}

// === impl Core ===

impl<K> Default for Core<K> {
    fn default() -> Self {
        Self {
            ready: VecDeque::new(),
            queued: HashSet::new(),
            running: HashSet::new(),
            dirty: HashSet::new(),
            waiting: BTreeSet::new(),
            due: HashMap::new(),
            failures: HashMap::new(),
        }
    }
}

impl<K: Clone + Eq + Hash + Ord> Core<K> {
    /// Work on `key` is to be done now. It replaces a run that was planned for later.
    pub fn add(&mut self, key: K) {
        self.unplan(&key);
        if self.running.contains(&key) {
            self.dirty.insert(key);
        } else if self.queued.insert(key.clone()) {
            self.ready.push_back(key);
        }
    }

    /// The next key, which is then running until [`Core::done`].
    pub fn next(&mut self, now: Instant) -> Option<K> {
        while let Some((due, _)) = self.waiting.first()
            && *due <= now
            && let Some((_, key)) = self.waiting.pop_first()
        {
            self.due.remove(&key);
            self.add(key);
        }
        let key = self.ready.pop_front()?;
        self.queued.remove(&key);
        self.running.insert(key.clone());
        Some(key)
    }

    /// When the next waiting key is due.
    pub fn next_due(&self) -> Option<Instant> {
        self.waiting.first().map(|(due, _)| *due)
    }

    pub fn done(&mut self, key: &K, outcome: Outcome, now: Instant) {
        self.running.remove(key);
        let failures = match outcome {
            Outcome::Failed => {
                *self.failures.entry(key.clone()).and_modify(|count| *count = count.saturating_add(1)).or_insert(1)
            }
            Outcome::Done | Outcome::After(_) => self.failures.remove(key).map_or(0, |_| 0),
        };
        // A run that failed may have written something before, which is no reason to hurry.
        if self.dirty.remove(key) && outcome != Outcome::Failed {
            return self.add(key.clone());
        }
        match outcome {
            Outcome::Done => {}
            Outcome::After(delay) => self.plan(key, now + delay),
            Outcome::Failed => self.plan(key, now + pause(failures)),
        }
    }

    fn plan(&mut self, key: &K, due: Instant) {
        self.unplan(key);
        self.waiting.insert((due, key.clone()));
        self.due.insert(key.clone(), due);
    }

    fn unplan(&mut self, key: &K) {
        if let Some(due) = self.due.remove(key) {
            self.waiting.remove(&(due, key.clone()));
        }
    }
}

/// The pause after this many failures in a row.
fn pause(failures: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(20)).min(LONGEST_PAUSE)
}

// === impl Queue ===

impl<K> Default for Queue<K> {
    fn default() -> Self {
        Self { core: Mutex::default(), changed: Notify::new() }
    }
}

impl<K: Clone + Eq + Hash + Ord> Queue<K> {
    pub fn add(&self, key: K) {
        self.core().add(key);
        self.changed.notify_one();
    }

    pub fn add_all(&self, keys: impl IntoIterator<Item = K>) {
        {
            let mut core = self.core();
            keys.into_iter().for_each(|key| core.add(key));
        }
        self.changed.notify_one();
    }

    /// Waits for work. For one caller at a time.
    pub async fn next(&self) -> K {
        loop {
            let due = {
                let mut core = self.core();
                if let Some(key) = core.next(Instant::now()) {
                    return key;
                }
                core.next_due()
            };
            match due {
                None => self.changed.notified().await,
                Some(due) => {
                    tokio::select! {
                        () = self.changed.notified() => {}
                        () = tokio::time::sleep_until(due.into()) => {}
                    }
                }
            }
        }
    }

    pub fn done(&self, key: &K, outcome: Outcome) {
        self.core().done(key, outcome, Instant::now());
        self.changed.notify_one();
    }

    /// The rules hold after every call, so a panic elsewhere leaves nothing half done.
    fn core(&self) -> MutexGuard<'_, Core<K>> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(core: &mut Core<&'static str>, now: Instant) -> Vec<&'static str> {
        std::iter::from_fn(|| core.next(now)).collect()
    }

    #[test]
    fn a_key_waits_once() {
        let (mut core, now) = (Core::default(), Instant::now());
        for key in ["a", "b", "a", "a"] {
            core.add(key);
        }
        assert_eq!(drain(&mut core, now), ["a", "b"]);
    }

    #[test]
    fn a_running_key_runs_again_after_and_not_beside() {
        let (mut core, now) = (Core::default(), Instant::now());
        core.add("a");
        assert_eq!(drain(&mut core, now), ["a"]);
        core.add("a");
        core.add("a");
        assert_eq!(drain(&mut core, now), [""; 0], "still running");
        core.done(&"a", Outcome::Done, now);
        assert_eq!(drain(&mut core, now), ["a"]);
        core.done(&"a", Outcome::Done, now);
        assert_eq!(drain(&mut core, now), [""; 0]);
    }

    #[test]
    fn failures_pause_longer_and_longer() {
        let (mut core, mut now) = (Core::default(), Instant::now());
        core.add("a");
        let mut pauses = Vec::new();
        for _ in 0..14 {
            assert_eq!(drain(&mut core, now), ["a"]);
            core.done(&"a", Outcome::Failed, now);
            assert_eq!(drain(&mut core, now), [""; 0]);
            let due = core.next_due().unwrap();
            pauses.push((due - now).as_millis());
            now = due;
        }
        assert_eq!(pauses[..4], [5, 10, 20, 40]);
        assert_eq!(pauses[11..], [10_000, 10_000, 10_000]);
        // One success forgets them.
        assert_eq!(drain(&mut core, now), ["a"]);
        core.done(&"a", Outcome::Done, now);
        core.add("a");
        assert_eq!(drain(&mut core, now), ["a"]);
        core.done(&"a", Outcome::Failed, now);
        assert_eq!(core.next_due().unwrap() - now, FIRST_PAUSE);
    }

    #[test]
    fn a_change_overtakes_a_plan() {
        let (mut core, now) = (Core::default(), Instant::now());
        core.add("a");
        assert_eq!(drain(&mut core, now), ["a"]);
        core.done(&"a", Outcome::After(Duration::from_secs(60)), now);
        assert_eq!(core.next_due(), Some(now + Duration::from_secs(60)));
        core.add("a");
        assert_eq!(core.next_due(), None);
        assert_eq!(drain(&mut core, now), ["a"]);
        core.add("a");
        core.done(&"a", Outcome::After(Duration::from_secs(60)), now);
        assert_eq!(drain(&mut core, now), ["a"], "what was added meanwhile comes first");
    }

    #[tokio::test]
    async fn waits_for_work_and_for_its_time() {
        let queue = Queue::default();
        queue.add("a");
        assert_eq!(queue.next().await, "a");
        queue.done(&"a", Outcome::After(Duration::from_millis(20)));
        assert_eq!(tokio::time::timeout(Duration::from_secs(5), queue.next()).await, Ok("a"));
    }
}
