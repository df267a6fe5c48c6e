//! One apply: stage every dirty service in memory, write stage by stage, keep the record true to what was written.

use std::collections::{BTreeSet, HashSet};
use std::time::Instant;

use thalweg_cluster::Name;
use thalweg_loader::Error;

use super::stage::{Outcome, Pass, Staged};
use super::write::{delete_all, write_all};
use super::{EbpfBackend, Record};
use crate::backend::{Applied, Failure};
use crate::plan::{Key, PlannedFrontend};

/// Services that are staged and written together: many enough for whole batches, few enough that a hundred thousand of
/// them need no memory of their own.
const TOGETHER: usize = 1_024;

/// The first error that belongs to no single service.
#[derive(Default)]
pub(super) struct Loose(Option<Error>);

/// Adds up how long each stage took.
struct Clock {
    started: Instant,
    last: Instant,
}

pub(super) fn apply(this: &mut EbpfBackend, now: Instant) -> Result<Applied, Error> {
    let mut clock = Clock::start();
    this.blocks.expire(now);
    this.backends.expire(now);
    let due: Vec<Name> = this.due(now).into_iter().collect();
    let mut applied = Applied { services: due.len(), ..Applied::default() };
    let mut loose = Loose::default();
    let mut outcomes = Vec::new();

    let mut pass = Pass { room: this.room(), taken: HashSet::new() };
    for names in due.chunks(TOGETHER) {
        let mut staged: Vec<Staged> = names.iter().map(|name| this.stage(name, &mut pass, now)).collect();
        clock.lap(&mut applied, "stage");
        this.write_ready(&mut staged, &mut applied, &mut loose, now);
        clock.lap(&mut applied, "backends");
        this.write_slots(&mut staged, &mut applied);
        clock.lap(&mut applied, "slots");
        this.write_names(&mut staged);
        this.write_source_ranges(&mut staged);
        this.begin_affinity(&mut staged);
        clock.lap(&mut applied, "names");
        this.write_frontends(&mut staged, &mut applied, now);
        for service in &mut staged {
            this.settle(service, now);
        }
        for outcome in staged.into_iter().map(Outcome::from) {
            if this.is_unfinished(&outcome) {
                outcomes.push(outcome);
            } else {
                this.well(outcome.name, &mut applied);
            }
        }
        clock.lap(&mut applied, "frontends");
    }
    this.write_service_ranges(&mut loose);

    let waiters = this.keep_what_is_awaited(&outcomes);
    if this.complete {
        this.remove_frontends(&mut outcomes, &mut applied, &mut loose, now);
        this.remove_source_ranges(&mut outcomes, &mut loose);
        this.remove_names(&mut outcomes, &mut loose);
    }
    this.write_gone(&mut applied, &mut loose, now);
    this.settle_left();
    for outcome in outcomes {
        this.finish(outcome, &mut applied);
    }
    for name in waiters {
        this.failing.add(&name, None);
    }
    this.failing.settle(now, loose.0.is_some());
    clock.lap(&mut applied, "remove");
    applied.took = clock.started.elapsed();
    loose.0.map_or(Ok(applied), Err)
}

// === impl EbpfBackend ===

impl EbpfBackend {
    /// How many frontends of each family still find room.
    fn room(&self) -> [usize; 2] {
        [false, true].map(|ipv6| (self.tables.frontends.table_of(ipv6).1 as usize).saturating_sub(self.mirror.count(ipv6)))
    }

    /// Services to look at: those that changed, and from time to time those that failed.
    fn due(&mut self, now: Instant) -> BTreeSet<Name> {
        let mut due = std::mem::take(&mut self.dirty);
        due.extend(self.failing.take_due(now));
        let is_open = |name: &Name| self.services.get(name).is_some_and(|record| record.is_open());
        due.retain(is_open);
        for name in &due {
            self.claims.clear(name);
        }
        due
    }

    /// True when something is left to say or to remove.
    fn is_unfinished(&self, outcome: &Outcome) -> bool {
        let left = |record: &Record| !record.source_ranges().is_empty() || record.unwanted().next().is_some();
        outcome.failed.is_some()
            || outcome.shut.is_some()
            || outcome.plan.is_none()
            || self.services.get(&outcome.name).is_some_and(|record| left(record))
    }

    /// Frontends that a failed service is to have stay as they are until that succeeds, whoever has them. Returns who waits for one that
    /// a failed service did not get: they are asked again.
    fn keep_what_is_awaited(&mut self, outcomes: &[Outcome]) -> BTreeSet<Name> {
        let mut waiters = BTreeSet::new();
        for outcome in outcomes.iter().filter(|outcome| outcome.failed.is_some()) {
            let Some(plan) = &outcome.plan else { continue };
            let number = self.services.get(&outcome.name).and_then(|record| record.number);
            let is_own = |key: &Key| self.mirror.get(key).is_some_and(|held| Some(held.value.service) == number);
            let keys: Vec<Key> = plan.frontends.iter().map(PlannedFrontend::key).filter(|key| !is_own(key)).collect();
            for key in &keys {
                waiters.extend(self.claims.waiters(key).cloned());
            }
            self.claims.keep(&outcome.name, keys);
        }
        waiters
    }

    /// Frontends that nobody wants any more.
    fn remove_frontends(&mut self, outcomes: &mut [Outcome], applied: &mut Applied, loose: &mut Loose, now: Instant) {
        let mut drops: Vec<(Key, Option<usize>)> = Vec::new();
        for (index, outcome) in outcomes.iter().enumerate().filter(|(_, outcome)| outcome.failed.is_none()) {
            let Some(record) = self.services.get(&outcome.name) else { continue };
            drops.extend(record.unwanted().filter(|key| !self.claims.is_kept(key)).map(|key| (*key, Some(index))));
        }
        drops.extend(self.mirror.nobodys().iter().filter(|key| !self.claims.is_kept(key)).map(|key| (*key, None)));

        let keys: Vec<Key> = drops.iter().map(|(key, _)| *key).collect();
        let mut failed = delete_all(&mut self.tables.frontends, &keys);
        for (key, index) in drops {
            match (failed.remove(&key), index) {
                (Some(error), Some(index)) => outcomes[index].fail(error),
                (Some(error), None) => loose.note(error),
                (None, _) => {
                    applied.removed += 1;
                    let Some(held) = self.mirror.remove(&key) else { continue };
                    let owner = self.numbers.owner(held.value.service);
                    if let Some(record) = owner.and_then(|owner| self.services.get_mut(owner)) {
                        record.remove_frontend(&key);
                    }
                    self.lose_block(&key, held.value.service, held.block);
                    self.leave(held.block, now);
                }
            }
        }
    }

    /// Names of services of which nothing else is left, and of numbers that were nobody's.
    fn remove_names(&mut self, outcomes: &mut [Outcome], loose: &mut Loose) {
        let mut numbers: Vec<(u32, Option<usize>)> = Vec::new();
        for (index, outcome) in outcomes.iter().enumerate() {
            if let (None, None, Some(record)) = (&outcome.failed, &outcome.plan, self.services.get(&outcome.name))
                && let (Some(number), true) = (record.number, record.named && record.is_bare())
            {
                numbers.push((number, Some(index)));
            }
        }
        if self.mirror.nobodys().is_empty() && self.stale_ranges.is_empty() {
            numbers.extend(self.stale_numbers.iter().map(|number| (*number, None)));
        }
        let keys: Vec<u32> = numbers.iter().map(|(number, _)| *number).collect();
        let mut failed = delete_all(&mut *self.tables.services, &keys);
        for (number, index) in numbers {
            match (failed.remove(&number), index) {
                (Some(error), Some(index)) => outcomes[index].fail(error),
                (Some(error), None) => loose.note(error),
                (None, Some(index)) => {
                    if let Some(record) = self.services.get_mut(&outcomes[index].name) {
                        record.named = false;
                    }
                }
                (None, None) => {
                    self.stale_numbers.remove(&number);
                    self.numbers.give_back(number);
                }
            }
        }
    }

    /// Backends that nobody is sent to any more: the data path sees at once that they drain, or are gone.
    fn write_gone(&mut self, applied: &mut Applied, loose: &mut Loose, now: Instant) {
        let entries = self.backends.pending(false);
        let mut failed = write_all(&mut *self.tables.backends, &entries);
        for (id, entry) in entries {
            match failed.remove(&id) {
                Some(error) => loose.note(error),
                None => {
                    self.backends.written(id, entry.state, now);
                    applied.backends_written += 1;
                }
            }
        }
    }

    /// What becomes of a service: it failed, waits, is gone, or is well.
    fn finish(&mut self, outcome: Outcome, applied: &mut Applied) {
        let Outcome { name, plan, failed, shut } = outcome;
        let record = self.services.get(&name);
        let unwanted = record.is_some_and(|record| record.unwanted().next().is_some());
        let bare = record.is_none_or(|record| record.source_ranges().is_empty());
        if let Some(error) = failed.or(shut) {
            self.failing.add(&name, Some(&error));
            applied.failed.push(Failure { service: name, error });
        } else if !self.complete && (plan.is_none() || unwanted || !bare) {
            self.later.insert(name.clone());
            self.well(name, applied);
        } else if unwanted {
            // Somebody who failed is to take over what it leaves.
            self.failing.remove(&name);
            self.failing.add(&name, None);
        } else {
            if plan.is_none() {
                self.forget(&name);
            }
            self.well(name, applied);
        }
    }

    fn well(&mut self, name: Name, applied: &mut Applied) {
        self.end_affinity(&name);
        if let Some(record) = self.services.get_mut(&name) {
            record.rest();
        }
        if self.failing.remove(&name) {
            applied.recovered.push(name);
        }
    }

    /// A service that is gone, in the kernel too.
    fn forget(&mut self, name: &Name) {
        if let Some(record) = self.services.remove(name)
            && let Some(number) = record.number
        {
            self.numbers.give_back(number);
            if record.sticky {
                self.leftovers.add(number);
            }
        }
    }
}

// === impl Loose ===

impl Loose {
    pub fn note(&mut self, error: Error) {
        self.0.get_or_insert(error);
    }
}

// === impl Clock ===

impl Clock {
    fn start() -> Self {
        let now = Instant::now();
        Self { started: now, last: now }
    }

    fn lap(&mut self, applied: &mut Applied, stage: &'static str) {
        let now = Instant::now();
        let took = now - std::mem::replace(&mut self.last, now);
        applied.add_stage(stage, took);
    }
}
