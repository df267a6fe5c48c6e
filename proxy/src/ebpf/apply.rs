//! One apply: stage every dirty service in memory, write stage by stage, keep the record true to what was written.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use thalweg_abi::{Be16, Frontend, ServiceName, Slot};
use thalweg_cluster::Name;
use thalweg_loader::{Error, Table};

use super::stage::{Pass, Staged};
use super::{EbpfBackend, Held, RETRY, full};
use crate::backend::{Applied, Failure};
use crate::plan::{Key, PlannedFrontend};

pub(super) fn apply(this: &mut EbpfBackend, now: Instant) -> Result<Applied, Error> {
    let started = Instant::now();
    this.blocks.expire(now);
    this.backends.expire(now);
    this.retry = None;
    let due = this.due();
    let mut applied = Applied { services: due.len(), ..Applied::default() };

    let mut pass = Pass { room: this.room(), taken: HashSet::new() };
    let mut staged: Vec<Staged> = due.iter().map(|name| this.stage(name, &mut pass, now)).collect();

    let mut loose_end = this.write_ready(&mut staged, &mut applied, now);
    this.write_slots(&mut staged, &mut applied);
    this.write_names(&mut staged);
    this.write_frontends(&mut staged, &mut applied, now);
    for service in &mut staged {
        this.settle(service, now);
    }
    loose_end = this.remove_frontends(&mut staged, &mut applied, now).or(loose_end);
    loose_end = this.write_gone(&mut applied, now).or(loose_end);

    for service in staged {
        match service.failed {
            Some(error) => {
                applied.failed.push(Failure { service: service.name.clone(), error });
                this.dirty.insert(service.name);
            }
            // Something was left: for a service that failed to take it over, or until all are known.
            None if !this.complete && service.plan.is_none() || this.has_unwanted(&service.name) => {
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
    /// How many frontends of each family still find room.
    fn room(&self) -> [usize; 2] {
        let held6 = self.kernel.keys().filter(|key| key.vip.is_ipv6()).count();
        let room = |unspecified: IpAddr, held: usize| {
            let (_, capacity) = self.tables.frontends.table_of(unspecified);
            (capacity as usize).saturating_sub(held)
        };
        [room(Ipv4Addr::UNSPECIFIED.into(), self.kernel.len() - held6), room(Ipv6Addr::UNSPECIFIED.into(), held6)]
    }

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
                let slot = Slot {
                    addr: at.ip().into(),
                    port: Be16::from_host(at.port()),
                    backend: *id,
                    generation,
                    ..Slot::default()
                };
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
            let mut failed = write_all(&mut self.tables.frontends, &entries);
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
    fn flipped(&mut self, key: Key, value: Frontend, block: Option<u32>, owner: &Name, now: Instant) {
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

    pub(super) fn leave(&mut self, block: Option<u32>, now: Instant) {
        if let Some(base) = block {
            let members = self.blocks.unreference(base, now);
            self.backends.release(&members);
        }
    }

    /// Frontends, and names, that nobody wants any more. Returns an error that is no staged service's.
    fn remove_frontends(&mut self, staged: &mut [Staged], applied: &mut Applied, now: Instant) -> Option<Error> {
        // Somebody who has not been heard of yet may want what another gives up.
        if !self.complete {
            return None;
        }
        let mut drops: Vec<(Key, Option<usize>)> = Vec::new();
        let mut numbers: Vec<(u32, Option<usize>)> = Vec::new();
        // A frontend that a failed service is to take over stays as it is until that succeeds.
        let awaited: HashSet<Key> = staged
            .iter()
            .filter(|service| service.failed.is_some())
            .filter_map(|service| service.plan.as_ref())
            .flat_map(|plan| plan.frontends.iter().map(PlannedFrontend::key))
            .collect();
        for (index, service) in staged.iter().enumerate().filter(|(_, service)| service.failed.is_none()) {
            let Some(record) = self.services.get(&service.name) else { continue };
            let unwanted = record.frontends.iter().filter(|key| !record.wants(key) && !awaited.contains(key));
            drops.extend(unwanted.map(|key| (*key, Some(index))));
        }
        if self.tidy {
            let nobodys = self.kernel.iter().filter(|(key, held)| held.owner.is_none() && !awaited.contains(key));
            drops.extend(nobodys.map(|(key, _)| (*key, None)));
            numbers.extend(self.stale_numbers.iter().map(|number| (*number, None)));
        }
        let keys: Vec<Key> = drops.iter().map(|(key, _)| *key).collect();
        let mut failed = delete_all(&mut self.tables.frontends, &keys);
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
                && let (Some(number), true, true) = (record.number, record.named, record.frontends.is_empty())
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
        if loose_end.is_none() && awaited.is_empty() {
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

    fn has_unwanted(&self, name: &Name) -> bool {
        self.services.get(name).is_some_and(|record| record.frontends.iter().any(|key| !record.wants(key)))
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

/// Writes all of it, in one batch when that works. Returns what the map does not hold afterwards.
fn write_all<K, V>(table: &mut dyn Table<K, V>, entries: &[(K, V)]) -> HashMap<K, Error>
where
    K: Copy + Eq + std::hash::Hash,
    V: Copy + PartialEq,
{
    if entries.is_empty() || table.update(entries).is_ok() {
        return HashMap::new();
    }
    // A part of the batch was written; which, is not known. One by one then: what is there already is well.
    let mut failed = HashMap::new();
    for (key, value) in entries {
        if let Err(error) = table.update(&[(*key, *value)])
            && !table.get(key).is_ok_and(|held| held == Some(*value))
        {
            failed.insert(*key, error);
        }
    }
    failed
}

/// Deletes all of it. Returns what the map still holds.
fn delete_all<K: Copy + Eq + std::hash::Hash, V>(table: &mut dyn Table<K, V>, keys: &[K]) -> HashMap<K, Error> {
    if keys.is_empty() || table.delete(keys).is_ok() {
        return HashMap::new();
    }
    let mut failed = HashMap::new();
    for key in keys {
        if let Err(error) = table.delete(&[*key])
            && !table.get(key).is_ok_and(|held| held.is_none())
        {
            failed.insert(*key, error);
        }
    }
    failed
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
