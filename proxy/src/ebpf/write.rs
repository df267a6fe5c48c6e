//! Writing one apply's staged services, table by table. What fails, fails for its service alone.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Instant;

use thalweg_abi::{Frontend, ServiceName, ServiceStats, Slot};
use thalweg_cluster::Name;
use thalweg_loader::{Error, Table};

use super::apply::Loose;
use super::mirror::Held;
use super::stage::Staged;
use super::{EbpfBackend, full};
use crate::backend::Applied;
use crate::plan::Key;

// === impl EbpfBackend ===

impl EbpfBackend {
    /// Backends that new ranges hold become ready first.
    pub(super) fn write_ready(&mut self, staged: &mut [Staged], applied: &mut Applied, loose: &mut Loose, now: Instant) {
        let entries = self.backends.pending(true);
        let mut failed = write_all(&mut *self.tables.backends, &entries);
        for (id, entry) in entries.iter().filter(|(id, _)| !failed.contains_key(id)) {
            self.backends.written(*id, entry.state, now);
            applied.backends_written += 1;
        }
        if failed.is_empty() {
            return;
        }
        let mut nobodys: Vec<u32> = failed.keys().copied().collect();
        for service in staged.iter_mut() {
            let members = service.fresh.iter().filter_map(|base| self.blocks.get(*base)).flat_map(|block| &block.members);
            for id in members.filter(|id| failed.contains_key(id)) {
                nobodys.retain(|nobodys| nobodys != id);
                service.failed = service.failed.take().or_else(|| failed.get(id).map(again));
            }
        }
        for id in nobodys {
            failed.remove(&id).into_iter().for_each(|error| loose.note(error));
        }
    }

    pub(super) fn write_slots(&mut self, staged: &mut [Staged], applied: &mut Applied) {
        let mut entries = Vec::new();
        for base in staged.iter().filter(|service| service.failed.is_none()).flat_map(|service| &service.fresh) {
            let Some(block) = self.blocks.get(*base) else { continue };
            entries.extend((*base..).zip(&block.members).filter_map(|(index, id)| {
                let (at, generation) = self.backends.get(*id)?;
                Some((index, Slot { addr: at.addr, port: at.port, backend: *id, generation, ..Slot::default() }))
            }));
        }
        let failed = write_all(&mut *self.tables.slots, &entries);
        applied.slots_written += entries.len() - failed.len();
        if failed.is_empty() {
            return;
        }
        for service in staged.iter_mut().filter(|service| service.failed.is_none()) {
            let ranges = service.fresh.iter().filter_map(|base| Some(*base..*base + self.blocks.get(*base)?.len));
            service.failed = ranges.flatten().find_map(|index| failed.get(&index)).map(again);
        }
    }

    /// A new number counts from zero, whoever had it before, and has a name.
    pub(super) fn write_names(&mut self, staged: &mut [Staged]) {
        let mut new: Vec<(usize, u32)> = Vec::new();
        for (index, service) in staged.iter().enumerate().filter(|(_, service)| service.failed.is_none()) {
            if service.plan.is_some()
                && let Some(record) = self.services.get(&service.name)
                && let (Some(number), false) = (record.number, record.named)
            {
                new.push((index, number));
            }
        }
        let zeros: Vec<(u32, ServiceStats)> = new.iter().map(|(_, number)| (*number, ServiceStats::default())).collect();
        let mut failed = write_all(&mut *self.tables.service_stats, &zeros);
        let names: Vec<(u32, ServiceName)> = new
            .iter()
            .filter(|(_, number)| !failed.contains_key(number))
            .map(|(index, number)| (*number, ServiceName::new(&staged[*index].name.to_string())))
            .collect();
        failed.extend(write_all(&mut *self.tables.services, &names));
        for (index, number) in new {
            let service = &mut staged[index];
            service.failed = failed.remove(&number);
            if service.failed.is_none()
                && let Some(record) = self.services.get_mut(&service.name)
            {
                record.named = true;
            }
        }
    }

    /// New frontends first: only they can find the map full, and then the rest of the service is left as it is, but for
    /// what it has to close.
    pub(super) fn write_frontends(&mut self, staged: &mut [Staged], applied: &mut Applied, now: Instant) {
        let inserts = |service: &mut Staged| {
            let inserts = std::mem::take(&mut service.inserts);
            if service.failed.is_none() { inserts } else { Vec::new() }
        };
        self.write_some(staged, applied, now, inserts);
        for service in staged.iter_mut().filter(|service| service.failed.is_some()) {
            service.flips = self.closing(service);
        }
        self.write_some(staged, applied, now, |service| std::mem::take(&mut service.flips));
    }

    fn write_some(
        &mut self,
        staged: &mut [Staged],
        applied: &mut Applied,
        now: Instant,
        pick: impl Fn(&mut Staged) -> Vec<(Key, Frontend, Option<u32>)>,
    ) {
        let mut entries = Vec::new();
        let mut owners = Vec::new();
        for (index, service) in staged.iter_mut().enumerate() {
            for (key, value, block) in pick(service) {
                entries.push((key, value));
                owners.push((index, block));
            }
        }
        let mut failed = write_all(&mut self.tables.frontends, &entries);
        applied.frontends_written += entries.len() - failed.len();
        for ((key, value), (index, block)) in entries.into_iter().zip(owners) {
            match failed.remove(&key) {
                Some(error) => staged[index].fail(error),
                None => self.flipped(key, value, block, &staged[index].name, now),
            }
        }
    }

    /// The kernel now holds this frontend.
    fn flipped(&mut self, key: Key, value: Frontend, block: Option<u32>, owner: &Name, now: Instant) {
        if let Some(base) = block {
            self.blocks.reference(base);
        }
        if let Some(old) = self.mirror.insert(key, Held { value, block }) {
            if old.value.service != value.service
                && let Some(record) = self.numbers.owner(old.value.service).and_then(|old| self.services.get_mut(old))
            {
                record.remove_frontend(&key);
            }
            if (old.value.service, old.block) != (value.service, block) {
                self.lose_block(&key, old.value.service, old.block);
            }
            self.leave(old.block, now);
        }
        if let Some(record) = self.services.get_mut(owner) {
            record.insert_frontend(key);
        }
    }

    pub(super) fn leave(&mut self, block: Option<u32>, now: Instant) {
        if let Some(base) = block {
            let members = self.blocks.unreference(base, now);
            self.backends.release(&members);
        }
    }
}

/// Writes all of it, in one batch when that works. Returns what the map does not hold afterwards.
pub(super) fn write_all<K: Copy + Eq + Hash, V: Copy + PartialEq>(
    table: &mut dyn Table<K, V>,
    entries: &[(K, V)],
) -> HashMap<K, Error> {
    let mut failed = write_blindly(table, entries);
    // What is there already is well.
    for (key, value) in if failed.is_empty() { &[] } else { entries } {
        if failed.contains_key(key) && table.get(key).is_ok_and(|held| held == Some(*value)) {
            failed.remove(key);
        }
    }
    failed
}

/// Deletes all of it. Returns what the map still holds.
pub(super) fn delete_all<K: Copy + Eq + Hash, V>(table: &mut dyn Table<K, V>, keys: &[K]) -> HashMap<K, Error> {
    let mut failed = delete_blindly(table, keys);
    failed.retain(|key, _| !table.get(key).is_ok_and(|held| held.is_none()));
    failed
}

/// As [`write_all`] for a trie, which cannot be asked for one entry.
pub(super) fn write_blindly<K: Copy + Eq + Hash, V: Copy>(
    table: &mut dyn Table<K, V>,
    entries: &[(K, V)],
) -> HashMap<K, Error> {
    if entries.is_empty() || table.update(entries).is_ok() {
        return HashMap::new();
    }
    // A part of the batch was written; which, is not known. One by one then.
    entries.iter().filter_map(|entry| Some((entry.0, table.update(&[*entry]).err()?))).collect()
}

/// As [`delete_all`] for a trie.
pub(super) fn delete_blindly<K: Copy + Eq + Hash, V>(table: &mut dyn Table<K, V>, keys: &[K]) -> HashMap<K, Error> {
    if keys.is_empty() || table.delete(keys).is_ok() {
        return HashMap::new();
    }
    keys.iter().filter_map(|key| Some((*key, table.delete(&[*key]).err()?))).collect()
}

/// One failed write can fail several services.
pub(super) fn again(error: &Error) -> Error {
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
