//! What upstreams said, kept by question. Pure: whoever asks says what time it is.
//!
//! Bounded twice, by answers and by octets, for each class of answers on its own, so that a flood of names that do not
//! exist never drives out those that do. A full ring gives up the entry that its hand meets first among those that were
//! not asked for since the hand last passed (CLOCK): names that are asked once leave before those that are asked often.
//!
//! An answer belongs to the very question that it was given to: no record of it ever answers another one, so an upstream
//! that lies about other names poisons nothing.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::corefile::{self, CacheClass, Prefetch, Stale};
use crate::forward::{Kind, Question, Reply};
use crate::name;

mod ring;

use ring::{Entry, Ring};

const MAX_SHARDS: usize = 64;
/// Answers that a shard holds at least; below it, shards would evict while others have room.
const LEAST_IN_SHARD: usize = 64;
/// Octets for each answer of the capacity, on average: most take 100 to 400.
const OCTETS_EACH: usize = 512;
/// What a client may keep of an answer past its time, in seconds (RFC 8767 section 4).
const STALE_TTL: u32 = 30;
/// How long after a failure the upstreams are left in peace about a name that has a stale answer.
const RECHECK: Duration = Duration::from_secs(10);

/// Which ring an answer is kept in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Class {
    Success,
    Denial,
}

/// What the cache has for a question.
#[derive(Clone, Debug)]
pub struct Hit {
    pub reply: Arc<Reply>,
    /// Seconds to write into each record; `None`: as they came.
    pub ttl: Option<u32>,
    pub state: State,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    Fresh,
    /// Fresh, often asked for and about to end: worth asking for again now. Said once for each answer.
    Ending,
    /// Its time is over; whether the upstreams are to be asked before it is given.
    Stale {
        verify: bool,
    },
    /// Its time is over, and the upstreams failed a moment ago.
    StaleForNow,
}

/// Counted since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    pub success_hits: u64,
    pub denial_hits: u64,
    pub misses: u64,
    pub prefetches: u64,
    pub served_stale: u64,
    pub success_evictions: u64,
    pub denial_evictions: u64,
    /// Now.
    pub success_entries: u64,
    pub denial_entries: u64,
    /// Of answers with their questions.
    pub octets: u64,
}

#[derive(Default)]
struct Counters {
    hits: [AtomicU64; 2],
    misses: AtomicU64,
    prefetches: AtomicU64,
    served_stale: AtomicU64,
    evictions: [AtomicU64; 2],
}

struct Shard {
    index: HashMap<Arc<[u8]>, (Class, usize)>,
    rings: [Ring; 2],
}

pub struct Cache {
    options: corefile::Cache,
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
    counters: Counters,
}

// === impl Class ===

impl Class {
    pub const ALL: [Self; 2] = [Self::Success, Self::Denial];
}

// === impl Cache ===

impl Cache {
    pub fn new(options: corefile::Cache) -> Self {
        let least = options.success.capacity.min(options.denial.capacity);
        let shards = (least / LEAST_IN_SHARD).clamp(1, MAX_SHARDS);
        let ring = |class: CacheClass| Ring::new(class.capacity / shards, class.capacity / shards * OCTETS_EACH);
        let shard = || Shard { index: HashMap::new(), rings: [ring(options.success), ring(options.denial)] };
        let shards = (0..shards).map(|_| Mutex::new(shard())).collect();
        Self { options, shards, hasher: RandomState::new(), counters: Counters::default() }
    }

    pub fn options(&self) -> &corefile::Cache {
        &self.options
    }

    /// What is known of a question. `now` is the time since any fixed moment; it never goes back. Nothing is counted: who
    /// asks says what came of it.
    pub fn get(&self, question: &Question, now: Duration) -> Option<Hit> {
        self.shard(question.key()).get(question.key(), now, &self.options)
    }

    /// What was found is given to a client.
    pub fn hit(&self, hit: &Hit) {
        self.counters.hits[class(&hit.reply) as usize].fetch_add(1, Ordering::Relaxed);
        match hit.state {
            State::Fresh => {}
            State::Ending => {
                self.counters.prefetches.fetch_add(1, Ordering::Relaxed);
            }
            State::Stale { .. } | State::StaleForNow => {
                self.counters.served_stale.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// The upstreams have to be asked.
    pub fn miss(&self) {
        self.counters.misses.fetch_add(1, Ordering::Relaxed);
    }

    /// Keeps an answer, if its kind and zone are kept at all.
    pub fn put(&self, question: &Question, reply: &Arc<Reply>, now: Duration) {
        let Some(ttl) = self.lifetime(question, reply) else { return };
        let class = class(reply);
        let entry = Entry { key: question.key().into(), reply: reply.clone(), stored: now, ttl, ..Entry::default() };
        let evicted = self.shard(question.key()).put(class, entry, now, self.keep());
        self.counters.evictions[class as usize].fetch_add(evicted, Ordering::Relaxed);
    }

    /// What clients are told of an answer that just came: as long as it is kept, so that the first is told what the next
    /// will be. `None`: as it came.
    pub fn ttl(&self, question: &Question, reply: &Reply) -> Option<u32> {
        let kept = self.lifetime(question, reply).filter(|_| !self.options.keep_ttl);
        kept.and_then(|ttl| u32::try_from(ttl.as_secs()).ok())
    }

    /// The upstreams failed: what is stale is given for a while without asking them again.
    pub fn failed(&self, question: &Question, now: Duration) {
        let mut shard = self.shard(question.key());
        if let Some(entry) = shard.entry(question.key()) {
            entry.recheck = now + RECHECK;
        }
    }

    pub fn stats(&self) -> Stats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (mut entries, mut octets) = ([0, 0], 0);
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            for class in Class::ALL {
                entries[class as usize] += shard.rings[class as usize].len() as u64;
                octets += shard.rings[class as usize].octets() as u64;
            }
        }
        let ([success_hits, denial_hits], [success_evictions, denial_evictions]) =
            (self.counters.hits.each_ref().map(read), self.counters.evictions.each_ref().map(read));
        Stats {
            success_hits,
            denial_hits,
            misses: read(&self.counters.misses),
            prefetches: read(&self.counters.prefetches),
            served_stale: read(&self.counters.served_stale),
            success_evictions,
            denial_evictions,
            success_entries: entries[0],
            denial_entries: entries[1],
            octets,
        }
    }

    /// Octets that the answers never exceed.
    pub fn most_octets(&self) -> usize {
        (self.options.success.capacity + self.options.denial.capacity) * OCTETS_EACH
    }

    /// How long an answer is good for; `None`: it is not kept.
    fn lifetime(&self, question: &Question, reply: &Reply) -> Option<Duration> {
        let options = &self.options;
        let within = |zones: &[name::WireName]| zones.iter().any(|zone| name::is_within(question.name(), zone));
        if !options.zones.is_empty() && !within(&options.zones) {
            return None;
        }
        let seconds = |class: CacheClass| {
            let ttl = reply.ttl().unwrap_or(class.min_ttl).clamp(class.min_ttl, class.max_ttl);
            Some(Duration::from_secs(ttl.into())).filter(|ttl| !ttl.is_zero())
        };
        match reply.kind() {
            Kind::Success => seconds(options.success).filter(|_| !within(&options.no_success)),
            Kind::NoData | Kind::NxDomain => seconds(options.denial).filter(|_| !within(&options.no_denial)),
            Kind::Failure => Some(options.servfail).filter(|ttl| !ttl.is_zero() && !within(&options.no_denial)),
        }
    }

    /// How long entries are kept past their time.
    fn keep(&self) -> Duration {
        self.options.stale.map_or(Duration::ZERO, |stale| stale.keep)
    }

    fn shard(&self, key: &[u8]) -> MutexGuard<'_, Shard> {
        let index = self.hasher.hash_one(key) as usize % self.shards.len();
        // A shard is whole between any two statements that could panic.
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn class(reply: &Reply) -> Class {
    if reply.kind() == Kind::Success { Class::Success } else { Class::Denial }
}

// === impl Shard ===

impl Shard {
    fn entry(&mut self, key: &[u8]) -> Option<&mut Entry> {
        let &(class, slot) = self.index.get(key)?;
        self.rings[class as usize].get_mut(slot)
    }

    fn get(&mut self, key: &[u8], now: Duration, options: &corefile::Cache) -> Option<Hit> {
        let entry = self.entry(key)?;
        let age = now.saturating_sub(entry.stored);
        if let Some(left) = entry.ttl.checked_sub(age).filter(|left| !left.is_zero()) {
            let ending = options.prefetch.is_some_and(|prefetch| entry.asked(now, left, prefetch));
            entry.visited = true;
            let ttl = (!options.keep_ttl).then(|| (left.as_secs() + u64::from(left.subsec_nanos() > 0)) as u32);
            return Some(Hit { reply: entry.reply.clone(), ttl, state: if ending { State::Ending } else { State::Fresh } });
        }
        let Stale { keep, verify } = options.stale?;
        // A failure is never worth more than its time.
        if age >= entry.ttl + keep || entry.reply.kind() == Kind::Failure {
            return None;
        }
        let state = if now < entry.recheck { State::StaleForNow } else { State::Stale { verify } };
        entry.visited = true;
        Some(Hit { reply: entry.reply.clone(), ttl: Some(STALE_TTL), state })
    }

    /// Returns how many entries had to go before their time.
    fn put(&mut self, class: Class, entry: Entry, now: Duration, keep: Duration) -> u64 {
        if let Some(&(old, slot)) = self.index.get(&entry.key) {
            let held = self.rings[old as usize].get_mut(slot);
            // A failure does not take the place of an answer that can still be given.
            let useful = |held: &Entry| held.reply.kind() != Kind::Failure && now < held.stored + held.ttl + keep;
            if entry.reply.kind() == Kind::Failure && held.is_some_and(|held| useful(held)) {
                return 0;
            }
            self.rings[old as usize].remove(slot);
            self.index.remove(&entry.key);
        }
        let mut evicted = 0;
        let ring = &mut self.rings[class as usize];
        if !ring.could_hold(&entry) {
            return 0;
        }
        while !ring.has_room_for(&entry) {
            let Some(gone) = ring.evict() else { break };
            evicted += u64::from(now < gone.stored + gone.ttl);
            self.index.remove(&gone.key);
        }
        let key = entry.key.clone();
        let slot = ring.insert(entry);
        self.index.insert(key, (class, slot));
        evicted
    }
}

// === impl Entry ===

impl Entry {
    /// Counts a request; whether the answer should now be asked for again, which is said once.
    fn asked(&mut self, now: Duration, left: Duration, prefetch: Prefetch) -> bool {
        let pause = now.saturating_sub(self.last_asked);
        self.times = if pause <= prefetch.within { self.times.saturating_add(1) } else { 1 };
        self.last_asked = now;
        let share = self.ttl * u32::from(prefetch.percentage) / 100;
        let due = left <= share.max(Duration::from_secs(1));
        let ending = due && self.times >= prefetch.amount && !self.prefetched;
        self.prefetched |= ending;
        ending
    }
}

#[cfg(test)]
mod tests;
