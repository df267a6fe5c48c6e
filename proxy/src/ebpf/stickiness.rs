//! AFFINITY is written by the data path. Here it is only kept true: what a number's earlier life left in it is removed
//! before affinity begins under that number, so that "on" always begins anew.
//!
//! What is left is never wrong (an entry counts only for a live backend of the frontend's own range) and never used while
//! affinity is off, for then the frontends say 0 seconds. So nothing is searched until it is switched on again.

use std::collections::HashSet;

use thalweg_abi::AffinityKey;
use thalweg_cluster::Name;

use super::EbpfBackend;
use super::stage::Staged;
use super::write::delete_all;
use crate::plan::{Key, ServicePlan};

/// Numbers under which AFFINITY may hold what an earlier life left.
#[derive(Debug)]
pub(super) struct Leftovers {
    /// Nothing is known of the time before this process: any number without affinity may have some.
    unknown: bool,
    numbers: HashSet<u32>,
}

// === impl Leftovers ===

impl Leftovers {
    pub fn adopted() -> Self {
        Self { unknown: true, numbers: HashSet::new() }
    }

    pub fn add(&mut self, number: u32) {
        self.numbers.insert(number);
    }
}

/// True for a service whose clients keep their backends.
pub(super) fn is_sticky(plan: &ServicePlan) -> bool {
    plan.frontends.iter().any(|frontend| frontend.affinity_seconds > 0)
}

// === impl EbpfBackend ===

impl EbpfBackend {
    /// Before the first frontend with affinity of each of these services. One search of the whole map serves them all,
    /// and is made only when there may be something to find.
    pub(super) fn begin_affinity(&mut self, staged: &mut [Staged]) {
        let mut beginning = Vec::new();
        let mut suspect = self.leftovers.unknown;
        for (index, service) in staged.iter().enumerate().filter(|(_, service)| service.failed.is_none()) {
            if !service.plan.as_deref().is_some_and(is_sticky) {
                continue;
            }
            self.end_affinity(&service.name);
            if let Some(record) = self.services.get(&service.name).filter(|record| !record.sticky) {
                suspect |= record.number.is_some_and(|number| self.leftovers.numbers.contains(&number));
                beginning.push(index);
            }
        }
        if beginning.is_empty() {
            return;
        }
        if suspect && let Err(error) = self.purge() {
            for index in beginning {
                staged[index].fail(super::write::again(&error));
            }
            return;
        }
        for index in beginning {
            if let Some(record) = self.services.get_mut(&staged[index].name) {
                record.sticky = true;
            }
        }
    }

    /// Once the last frontend with affinity of a service is gone.
    pub(super) fn end_affinity(&mut self, name: &Name) {
        let Some(record) = self.services.get_mut(name).filter(|record| record.sticky) else { return };
        let is_sticky = |key: &Key| self.mirror.get(key).is_some_and(|held| held.value.affinity_seconds > 0);
        if !record.frontends.iter().any(is_sticky) {
            record.sticky = false;
            record.number.into_iter().for_each(|number| self.leftovers.add(number));
        }
    }

    /// Removes the entries of every number that has no affinity now.
    fn purge(&mut self) -> Result<(), thalweg_loader::Error> {
        let is_live = |number: u32| {
            let owner = self.numbers.owner(number).and_then(|name| self.services.get(name));
            owner.is_some_and(|record| record.sticky)
        };
        let entries = self.tables.affinity.entries()?;
        let keys: Vec<AffinityKey> = entries.into_iter().map(|(key, _)| key).filter(|key| !is_live(key.service)).collect();
        let failed = delete_all(&mut *self.tables.affinity, &keys);
        match failed.into_values().next() {
            Some(error) => Err(error),
            None => {
                self.leftovers = Leftovers { unknown: false, numbers: HashSet::new() };
                Ok(())
            }
        }
    }
}
