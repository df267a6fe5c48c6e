//! Service numbers: stable while a service lives, found again by name after a restart.
//!
//! A number is an index into SERVICE_STATS, part of the keys of SOURCE_RANGES and AFFINITY, and remembered by flows: it
//! is used again as late as possible, and only once nothing of its last service is left in the first two.

use std::collections::{BTreeSet, VecDeque};

use thalweg_cluster::Name;

use super::full;
use super::index::push;

#[derive(Debug)]
pub(super) struct Numbers {
    /// By number, as far as numbers were ever handed out.
    owners: Vec<Option<Name>>,
    /// Numbers to use again, longest free first.
    free: VecDeque<u32>,
    /// Numbers that are not free.
    used: usize,
    /// How many names SERVICES has room for.
    capacity: u32,
    /// The first number that SERVICE_STATS has no entry for.
    end: u32,
}

// === impl Numbers ===

impl Numbers {
    /// `named`: numbers in use. `stale`: numbers whose last traces are still to be removed; they are nobody's.
    pub fn adopt(named: impl IntoIterator<Item = (u32, Name)>, stale: &BTreeSet<u32>, capacity: u32, end: u32) -> Self {
        let mut this = Self { owners: vec![None], free: VecDeque::new(), used: 0, capacity, end };
        for (number, name) in named {
            this.own(number, name);
        }
        let next = stale.last().filter(|last| **last < end).map_or(0, |last| last + 1);
        if this.owners.len() < next as usize {
            this.owners.resize(next as usize, None);
        }
        this.free = (1..).zip(&this.owners[1..]).filter(|(_, owner)| owner.is_none()).map(|(number, _)| number).collect();
        this.free.retain(|number| !stale.contains(number));
        this.used += stale.len();
        this
    }

    /// True for a number that a service can have.
    pub fn is_valid(number: u32, end: u32) -> bool {
        number != 0 && number < end
    }

    fn own(&mut self, number: u32, name: Name) {
        let index = number as usize;
        while self.owners.len() <= index {
            push(&mut self.owners, None);
        }
        self.owners[index] = Some(name);
        self.used += 1;
    }

    /// A number that was not used for as long as possible. Never 0.
    pub fn take(&mut self, name: &Name) -> Result<u32, thalweg_loader::Error> {
        let fresh = u32::try_from(self.owners.len()).ok().filter(|next| *next < self.end);
        let number = if self.used < self.capacity as usize { fresh.or_else(|| self.free.pop_front()) } else { None };
        let number = number.ok_or_else(|| full("SERVICES", self.capacity))?;
        self.own(number, name.clone());
        Ok(number)
    }

    pub fn give_back(&mut self, number: u32) {
        self.used = self.used.saturating_sub(1);
        if let Some(owner) = self.owners.get_mut(number as usize).filter(|_| number != 0) {
            *owner = None;
            self.free.push_back(number);
        }
    }

    /// Its owner, by the same name in other memory.
    pub fn rename(&mut self, number: u32, name: &Name) {
        if let Some(owner) = self.owners.get_mut(number as usize).and_then(Option::as_mut) {
            *owner = name.clone();
        }
    }

    /// Whose number this is.
    pub fn owner(&self, number: u32) -> Option<&Name> {
        self.owners.get(number as usize)?.as_ref()
    }

    pub fn used(&self) -> usize {
        self.used
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: u32) -> Name {
        Name::new("default", format!("service-{number}"))
    }

    #[test]
    fn a_number_is_used_again_as_late_as_possible() {
        let mut numbers = Numbers::adopt([(3, name(3))], &BTreeSet::from([1]), 8, 6);
        assert_eq!(numbers.used(), 2);
        let mut take = |n: u32| numbers.take(&name(n)).ok();
        // 2 may have had a service until just before the restart.
        assert_eq!((take(10), take(11), take(12), take(13)), (Some(4), Some(5), Some(2), None));
        numbers.give_back(1);
        numbers.give_back(5);
        assert_eq!((numbers.take(&name(14)).ok(), numbers.take(&name(15)).ok()), (Some(1), Some(5)));
        assert_eq!(numbers.owner(5), Some(&name(15)));
        assert_eq!((numbers.owner(0), numbers.owner(77)), (None, None));
    }

    #[test]
    fn names_may_run_out_before_numbers() {
        let mut numbers = Numbers::adopt([], &BTreeSet::new(), 2, 100);
        assert_eq!((numbers.take(&name(1)).ok(), numbers.take(&name(2)).ok()), (Some(1), Some(2)));
        let error = numbers.take(&name(3)).expect_err("two names");
        assert!(error.to_string().contains("SERVICES"), "{error}");
        numbers.give_back(1);
        assert_eq!(numbers.take(&name(3)).ok(), Some(3));
    }
}
