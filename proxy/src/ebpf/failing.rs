//! Services that could not be brought to their plan, and which full maps keep them from it.
//!
//! They are tried again together, at most once a second: a full map must not make every other change wait while a
//! thousand services are refused once more. A full map is said once, and once that it has room again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use thalweg_cluster::Name;
use thalweg_loader::Error;

use super::RETRY;

/// How full one map is, as the proxy accounts for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pressure {
    /// The map's name in the kernel.
    pub table: &'static str,
    /// Entries in use, or resting before they are used again.
    pub used: u64,
    pub capacity: u32,
    /// How often a service began to be refused for want of room here.
    pub refused: u64,
    /// Services that wait for room here.
    pub waiting: u64,
}

#[derive(Debug, Default)]
pub(super) struct Failing {
    /// With the full map, if it was one.
    services: BTreeMap<Name, Option<&'static str>>,
    tables: BTreeMap<&'static str, Refusals>,
    retry: Option<Instant>,
}

#[derive(Debug, Default)]
struct Refusals {
    total: u64,
    waiting: BTreeSet<Name>,
    /// It has been said that the map is full.
    said: bool,
}

// === impl Failing ===

impl Failing {
    /// The services to try again now.
    pub fn take_due(&mut self, now: Instant) -> Vec<Name> {
        if self.retry.is_none_or(|at| at > now) {
            return Vec::new();
        }
        self.retry = None;
        self.services.keys().cloned().collect()
    }

    /// It failed; an error that is not given means that it waits for another service.
    pub fn add(&mut self, name: &Name, error: Option<&Error>) {
        let (table, capacity) = match error {
            Some(Error::TableFull { table, capacity }) => (Some(*table), *capacity),
            _ => (None, 0),
        };
        if error.is_none() && self.services.contains_key(name) {
            return;
        }
        let before = self.services.insert(name.clone(), table).flatten();
        if let Some(before) = before.filter(|before| Some(*before) != table) {
            self.leave(before, name);
        }
        let Some(table) = table else { return };
        let refusals = self.tables.entry(table).or_default();
        if refusals.waiting.insert(name.clone()) {
            refusals.total += 1;
        }
        if !std::mem::replace(&mut refusals.said, true) {
            tracing::warn!(
                "map {table} is full ({capacity} entries): what is in it stays, what is new is refused until there is room; \
                 start with `--map-size {table}={}` to have more",
                capacity.saturating_mul(2)
            );
        }
    }

    /// It succeeded, or is gone; true when it had failed before.
    pub fn remove(&mut self, name: &Name) -> bool {
        let Some(table) = self.services.remove(name) else { return false };
        if let Some(table) = table {
            self.leave(table, name);
        }
        true
    }

    fn leave(&mut self, table: &'static str, name: &Name) {
        if let Some(refusals) = self.tables.get_mut(table) {
            refusals.waiting.remove(name);
        }
    }

    /// After an apply: when to try again, and which maps are full no more.
    pub fn settle(&mut self, now: Instant, loose_end: bool) {
        for (table, refusals) in self.tables.iter_mut().filter(|(_, table)| table.said && table.waiting.is_empty()) {
            refusals.said = false;
            tracing::info!("map {table} has room again: nothing is refused any more");
        }
        if self.services.is_empty() && !loose_end {
            self.retry = None;
        } else {
            self.retry.get_or_insert(now + RETRY);
        }
    }

    pub fn retry(&self) -> Option<Instant> {
        self.retry
    }

    /// `used` as it is known elsewhere.
    pub fn pressure(&self, table: &'static str, used: usize, capacity: u32) -> Pressure {
        let refusals = self.tables.get(table);
        Pressure {
            table,
            used: used as u64,
            capacity,
            refused: refusals.map_or(0, |refusals| refusals.total),
            waiting: refusals.map_or(0, |refusals| refusals.waiting.len() as u64),
        }
    }
}
