//! One apply: stage every dirty service in memory, write stage by stage, keep the record true to what was written.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Instant;

use thalweg_abi::{Be16, Frontend, FrontendKey, ServiceName, Slot};
use thalweg_cluster::Name;
use thalweg_loader::{Error, Table};

use super::{Desired, EbpfBackend, Held, RETRY, Record, full};
use crate::backend::{Applied, Failure};
use crate::plan::ServicePlan;

/// What one service needs written.
struct Staged {
    name: Name,
    /// `None`: it is to go.
    plan: Option<Arc<ServicePlan>>,
    /// Ranges made for it in this apply.
    fresh: Vec<u32>,
    /// Frontends the kernel does not have, with their ranges.
    inserts: Vec<(FrontendKey, Frontend, Option<u32>)>,
    /// Frontends that change.
    flips: Vec<(FrontendKey, Frontend, Option<u32>)>,
    failed: Option<Error>,
}

/// What services staged earlier in this apply have taken.
struct Pass {
    /// Room left in FRONTENDS.
    room: usize,
    taken: HashSet<FrontendKey>,
}

pub(super) fn apply(this: &mut EbpfBackend, now: Instant) -> Result<Applied, Error> {
    let started = Instant::now();
    this.blocks.expire(now);
    this.backends.expire(now);
    this.retry = None;
    let due = this.due();
    let mut applied = Applied { services: due.len(), ..Applied::default() };

    let capacity = this.tables.frontends.capacity() as usize;
    let mut pass = Pass { room: capacity.saturating_sub(this.kernel.len()), taken: HashSet::new() };
    let mut staged: Vec<Staged> = due.iter().map(|name| this.stage(name, &mut pass)).collect();

    let mut loose_end = this.write_ready(&mut staged, &mut applied, now);
    this.write_slots(&mut staged, &mut applied);
    this.write_names(&mut staged);
    this.write_frontends(&mut staged, &mut applied, now);
    for service in &mut staged {
        this.settle(service);
    }
    loose_end = this.remove_frontends(&mut staged, &mut applied, now).or(loose_end);
    loose_end = this.write_gone(&mut applied, now).or(loose_end);

    for service in staged {
        match service.failed {
            Some(error) => {
                applied.failed.push(Failure { service: service.name.clone(), error });
                this.dirty.insert(service.name);
            }
            None if service.plan.is_none() => this.forget(&service.name),
            None => {}
        }
    }
    if !applied.failed.is_empty() || loose_end.is_some() {
        this.retry = Some(now + RETRY);
    }
    applied.took = started.elapsed();
    match loose_end {
        Some(error) => Err(error),
        None => Ok(applied),
    }
}

// === impl EbpfBackend ===

impl EbpfBackend {
    /// Services to look at: those that changed, and those that wait for a frontend that is becoming free.
    fn due(&mut self) -> BTreeSet<Name> {
        let mut due = std::mem::take(&mut self.dirty);
        self.waiting.retain(|_, names| {
            names.retain(|name| self.services.contains_key(name));
            !names.is_empty()
        });
        for (key, names) in &self.waiting {
            let owner = self.kernel.get(key).and_then(|held| held.owner.as_ref());
            if !owner.and_then(|owner| self.services.get(owner)).is_some_and(|record| record.wants(key)) {
                due.extend(names.iter().cloned());
            }
        }
        for names in self.waiting.values_mut() {
            names.retain(|name| !due.contains(name));
        }
        due
    }

    /// Decides what one service needs; everything it needs room for is taken, or nothing.
    fn stage(&mut self, name: &Name, pass: &mut Pass) -> Staged {
        let mut staged =
            Staged { name: name.clone(), plan: None, fresh: Vec::new(), inserts: Vec::new(), flips: Vec::new(), failed: None };
        let plan = match self.services.get(name).map(|record| &record.desired) {
            Some(Desired::Plan(plan)) => plan.clone(),
            _ => return staged,
        };
        staged.plan = Some(plan.clone());
        if let Err(error) = self.stage_plan(&plan, pass, &mut staged) {
            for base in std::mem::take(&mut staged.fresh) {
                let members = self.blocks.discard(base);
                self.backends.release(&members);
            }
            staged.inserts.clear();
            staged.flips.clear();
            staged.failed = Some(error);
        }
        staged
    }

    fn stage_plan(&mut self, plan: &ServicePlan, pass: &mut Pass, staged: &mut Staged) -> Result<(), Error> {
        let number = self.number(&plan.name)?;
        let mut wanted = Vec::new();
        for frontend in &plan.frontends {
            let key = frontend.key();
            if pass.taken.contains(&key) || self.is_anothers(&key, &plan.name) {
                self.waiting.entry(key).or_default().insert(plan.name.clone());
            } else {
                wanted.push((key, frontend));
            }
        }
        let new = wanted.iter().filter(|(key, _)| !self.kernel.contains_key(key)).count();
        if new > pass.room {
            return Err(full("FRONTENDS", self.tables.frontends.capacity()));
        }

        let mut bases: HashMap<usize, Option<u32>> = HashMap::new();
        for (key, frontend) in &wanted {
            let block = match bases.get(&frontend.set) {
                Some(block) => *block,
                None => {
                    let endpoints = plan.sets.get(frontend.set).map_or(&[][..], |set| &set.endpoints);
                    let block = self.block(&plan.name, endpoints, &mut staged.fresh)?;
                    bases.insert(frontend.set, block);
                    block
                }
            };
            let held = self.kernel.get(key);
            let value = Frontend {
                service: number,
                generation: held.map_or(0, |held| held.value.generation),
                base: block.unwrap_or_default(),
                count: block.and_then(|base| self.blocks.get(base)).map_or(0, |block| block.len),
                flags: frontend.flags,
                affinity_seconds: frontend.affinity_seconds,
            };
            let next = Frontend { generation: value.generation.wrapping_add(1), ..value };
            match held {
                None => staged.inserts.push((*key, next, block)),
                Some(held) if held.value != value || held.owner.as_ref() != Some(&plan.name) => {
                    staged.flips.push((*key, next, block))
                }
                Some(_) => {}
            }
        }
        pass.room -= new;
        pass.taken.extend(wanted.iter().map(|(key, _)| *key));
        Ok(())
    }

    fn number(&mut self, name: &Name) -> Result<u32, Error> {
        let record = self.services.entry(name.clone()).or_insert_with(Record::new);
        match record.number {
            Some(number) => Ok(number),
            None => Ok(*record.number.insert(self.numbers.take()?)),
        }
    }

    /// True when another service has this frontend and is to keep it: who came first stays.
    fn is_anothers(&self, key: &FrontendKey, name: &Name) -> bool {
        self.kernel
            .get(key)
            .and_then(|held| held.owner.as_ref())
            .filter(|owner| *owner != name)
            .and_then(|owner| self.services.get(owner))
            .is_some_and(|record| record.wants(key))
    }

    /// The range for a set: one that the service has already, or a fresh one. `None` for the empty set.
    fn block(&mut self, name: &Name, endpoints: &[SocketAddrV4], fresh: &mut Vec<u32>) -> Result<Option<u32>, Error> {
        if endpoints.is_empty() {
            return Ok(None);
        }
        let own = self.services.get(name).into_iter().flat_map(|record| &record.frontends);
        for base in own.filter_map(|key| self.kernel.get(key)?.block) {
            if self.blocks.get(base).is_some_and(|block| block.content.as_deref() == Some(endpoints)) {
                return Ok(Some(base));
            }
        }
        let mut members = Vec::with_capacity(endpoints.len());
        for endpoint in endpoints {
            match self.backends.acquire(*endpoint) {
                Some(id) => members.push(id),
                None => {
                    self.backends.release(&members);
                    return Err(full("BACKENDS", self.tables.backends.capacity()));
                }
            }
        }
        match self.blocks.create(members.clone(), endpoints.to_vec()) {
            Some(base) => {
                fresh.push(base);
                Ok(Some(base))
            }
            None => {
                self.backends.release(&members);
                Err(full("SLOTS", self.tables.slots.capacity()))
            }
        }
    }

    /// Backends that new ranges hold become ready first. Returns an error that is no staged service's.
    fn write_ready(&mut self, staged: &mut [Staged], applied: &mut Applied, now: Instant) -> Option<Error> {
        let entries = self.backends.pending(true);
        let failed = write_all(&mut *self.tables.backends, &entries);
        for (id, entry) in &entries {
            if !failed.contains_key(id) {
                self.backends.written(*id, entry.state, now);
                applied.backends_written += 1;
            }
        }
        let mut failed = failed;
        for service in staged.iter_mut() {
            let members = service.fresh.iter().filter_map(|base| self.blocks.get(*base)).flat_map(|block| &block.members);
            let bad: Vec<u32> = members.copied().filter(|id| failed.contains_key(id)).collect();
            for id in bad {
                let error = failed.get(&id).map(again);
                service.failed = service.failed.take().or(error);
            }
        }
        let claimed: HashSet<u32> = staged
            .iter()
            .flat_map(|service| &service.fresh)
            .filter_map(|base| self.blocks.get(*base))
            .flat_map(|block| block.members.iter().copied())
            .collect();
        failed.retain(|id, _| !claimed.contains(id));
        failed.into_values().next()
    }

    fn write_slots(&mut self, staged: &mut [Staged], applied: &mut Applied) {
        let mut entries = Vec::new();
        for base in staged.iter().filter(|service| service.failed.is_none()).flat_map(|service| &service.fresh) {
            let Some(block) = self.blocks.get(*base) else { continue };
            entries.extend((*base..).zip(&block.members).filter_map(|(index, id)| {
                let (at, generation) = self.backends.get(*id)?;
                let slot =
                    Slot { addr: (*at.ip()).into(), port: Be16::from_host(at.port()), flags: 0, backend: *id, generation };
                Some((index, slot))
            }));
        }
        let failed = write_all(&mut *self.tables.slots, &entries);
        applied.slots_written += entries.len() - failed.len();
        for service in staged.iter_mut().filter(|service| service.failed.is_none()) {
            let ranges = service.fresh.iter().filter_map(|base| Some(*base..*base + self.blocks.get(*base)?.len));
            service.failed = ranges.flatten().find_map(|index| failed.get(&index)).map(again);
        }
    }

    fn write_names(&mut self, staged: &mut [Staged]) {
        let mut entries = Vec::new();
        let mut names = HashMap::new();
        for service in staged.iter().filter(|service| service.failed.is_none() && service.plan.is_some()) {
            if let Some(record) = self.services.get(&service.name)
                && let (Some(number), false) = (record.number, record.named)
            {
                entries.push((number, ServiceName::new(&service.name.to_string())));
                names.insert(service.name.clone(), number);
            }
        }
        let mut failed = write_all(&mut *self.tables.services, &entries);
        for service in staged.iter_mut() {
            let Some(number) = names.get(&service.name) else { continue };
            service.failed = failed.remove(number);
            if service.failed.is_none()
                && let Some(record) = self.services.get_mut(&service.name)
            {
                record.named = true;
            }
        }
    }

    /// New frontends first: only they can find the map full, and then the rest of the service is left as it is.
    fn write_frontends(&mut self, staged: &mut [Staged], applied: &mut Applied, now: Instant) {
        for inserts in [true, false] {
            let mut entries = Vec::new();
            let mut owners = Vec::new();
            for (index, service) in staged.iter().enumerate().filter(|(_, service)| service.failed.is_none()) {
                for (key, value, block) in if inserts { &service.inserts } else { &service.flips } {
                    entries.push((*key, *value));
                    owners.push((index, *block));
                }
            }
            let mut failed = write_all(&mut *self.tables.frontends, &entries);
            applied.frontends_written += entries.len() - failed.len();
            for ((key, value), (index, block)) in entries.into_iter().zip(owners) {
                match failed.remove(&key) {
                    Some(error) => staged[index].failed = Some(error),
                    None => self.flipped(key, value, block, &staged[index].name, now),
                }
            }
        }
    }

    /// The kernel now holds this frontend.
    fn flipped(&mut self, key: FrontendKey, value: Frontend, block: Option<u32>, owner: &Name, now: Instant) {
        if let Some(base) = block {
            self.blocks.reference(base);
        }
        let old = self.kernel.insert(key, Held { value, owner: Some(owner.clone()), block });
        if let Some(old) = old {
            if let Some(record) = old.owner.filter(|old| old != owner).and_then(|old| self.services.get_mut(&old)) {
                record.frontends.remove(&key);
            }
            self.leave(old.block, now);
        }
        if let Some(record) = self.services.get_mut(owner) {
            record.frontends.insert(key);
        }
    }

    fn leave(&mut self, block: Option<u32>, now: Instant) {
        if let Some(base) = block {
            let members = self.blocks.unreference(base, now);
            self.backends.release(&members);
        }
    }

    /// Ranges that were made and never used go back; what drains takes effect when the service has been written.
    fn settle(&mut self, service: &mut Staged) {
        for base in std::mem::take(&mut service.fresh) {
            let members = self.blocks.discard(base);
            self.backends.release(&members);
        }
        if service.failed.is_some() {
            return;
        }
        if let Some(record) = self.services.get_mut(&service.name) {
            let draining = service.plan.as_ref().map(|plan| plan.draining.clone()).unwrap_or_default();
            self.backends.drain(&record.draining, &draining);
            record.draining = draining;
        }
    }

    /// Frontends, and names, that nobody wants any more. Returns an error that is no staged service's.
    fn remove_frontends(&mut self, staged: &mut [Staged], applied: &mut Applied, now: Instant) -> Option<Error> {
        let mut drops: Vec<(FrontendKey, Option<usize>)> = Vec::new();
        let mut numbers: Vec<(u32, Option<usize>)> = Vec::new();
        for (index, service) in staged.iter().enumerate().filter(|(_, service)| service.failed.is_none()) {
            let Some(record) = self.services.get(&service.name) else { continue };
            drops.extend(record.frontends.iter().filter(|key| !record.wants(key)).map(|key| (*key, Some(index))));
        }
        if self.tidy {
            drops.extend(self.kernel.iter().filter(|(_, held)| held.owner.is_none()).map(|(key, _)| (*key, None)));
            numbers.extend(self.stale_numbers.iter().map(|number| (*number, None)));
        }
        let keys: Vec<FrontendKey> = drops.iter().map(|(key, _)| *key).collect();
        let mut failed = delete_all(&mut *self.tables.frontends, &keys);
        let mut loose_end = None;
        for (key, index) in drops {
            if let Some(error) = failed.remove(&key) {
                match index {
                    Some(index) => staged[index].failed = Some(error),
                    None => loose_end = Some(error),
                }
                continue;
            }
            applied.removed += 1;
            if let Some(held) = self.kernel.remove(&key) {
                if let Some(record) = held.owner.and_then(|owner| self.services.get_mut(&owner)) {
                    record.frontends.remove(&key);
                }
                self.leave(held.block, now);
            }
        }

        for (index, service) in staged.iter().enumerate() {
            if let (None, None, Some(record)) = (&service.failed, &service.plan, self.services.get(&service.name))
                && let (Some(number), true) = (record.number, record.named)
            {
                numbers.push((number, Some(index)));
            }
        }
        let keys: Vec<u32> = numbers.iter().map(|(number, _)| *number).collect();
        let mut failed = delete_all(&mut *self.tables.services, &keys);
        for (number, index) in numbers {
            match (failed.remove(&number), index) {
                (None, Some(_)) => {}
                (None, None) => {
                    self.stale_numbers.retain(|stale| *stale != number);
                    self.numbers.give_back(number);
                }
                (Some(error), Some(index)) => staged[index].failed = Some(error),
                (Some(error), None) => loose_end = Some(error),
            }
        }
        if loose_end.is_none() {
            self.tidy = false;
        }
        loose_end
    }

    /// Backends that nobody is sent to any more: the data path sees at once that they drain, or are gone.
    fn write_gone(&mut self, applied: &mut Applied, now: Instant) -> Option<Error> {
        let entries = self.backends.pending(false);
        let mut failed = write_all(&mut *self.tables.backends, &entries);
        let mut loose_end = None;
        for (id, entry) in entries {
            match failed.remove(&id) {
                Some(error) => loose_end = Some(error),
                None => {
                    self.backends.written(id, entry.state, now);
                    applied.backends_written += 1;
                }
            }
        }
        loose_end
    }

    /// A service that is gone, in the kernel too.
    fn forget(&mut self, name: &Name) {
        if let Some(record) = self.services.remove(name)
            && let Some(number) = record.number
        {
            self.numbers.give_back(number);
        }
    }
}

/// Writes all of it, in one batch when that works. Returns what could not be written.
fn write_all<K: Copy + Eq + std::hash::Hash, V: Copy>(table: &mut dyn Table<K, V>, entries: &[(K, V)]) -> HashMap<K, Error> {
    if entries.is_empty() || table.update(entries).is_ok() {
        return HashMap::new();
    }
    // Which entries of the batch were at fault is not known: writing one twice does no harm.
    entries.iter().filter_map(|entry| Some((entry.0, table.update(std::slice::from_ref(entry)).err()?))).collect()
}

/// Deletes all of it. Returns what could not be deleted.
fn delete_all<K: Copy + Eq + std::hash::Hash, V>(table: &mut dyn Table<K, V>, keys: &[K]) -> HashMap<K, Error> {
    if keys.is_empty() || table.delete(keys).is_ok() {
        return HashMap::new();
    }
    keys.iter().filter_map(|key| Some((*key, table.delete(std::slice::from_ref(key)).err()?))).collect()
}

/// One failed write can fail several services.
fn again(error: &Error) -> Error {
    match error {
        Error::TableFull { table, capacity } => full(table, *capacity),
        Error::Table { table, source } => {
            let source = source
                .raw_os_error()
                .map_or_else(|| std::io::Error::new(source.kind(), source.to_string()), std::io::Error::from_raw_os_error);
            Error::Table { table, source }
        }
        // Tables have no other errors.
        other => Error::Table { table: "BACKENDS", source: std::io::Error::other(other.to_string()) },
    }
}
