//! What FRONTENDS and FRONTENDS6 hold, remembered, so that nobody has to ask the kernel or count.

use std::collections::BTreeSet;

use thalweg_abi::Frontend;

use super::index::{Index, push};
use crate::plan::Key;

/// One frontend in the kernel. Its service number says whose it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub value: Frontend,
    /// The range it points at; `None` when it has no endpoints, or points where it must not.
    pub block: Option<u32>,
}

#[derive(Debug, Default)]
pub(super) struct Mirror {
    held: Vec<(Key, Held)>,
    places: Index,
    /// How many there are of IPv4 and of IPv6.
    counts: [usize; 2],
    /// Those of services that nobody knows.
    nobodys: BTreeSet<Key>,
}

// === impl Mirror ===

impl Mirror {
    pub fn with_capacity(frontends: usize) -> Self {
        Self { held: Vec::with_capacity(frontends), ..Self::default() }
    }

    pub fn get(&self, key: &Key) -> Option<&Held> {
        self.place(key).map(|place| &self.held[place].1)
    }

    /// How many frontends of a family the kernel holds.
    pub fn count(&self, ipv6: bool) -> usize {
        self.counts[usize::from(ipv6)]
    }

    pub fn insert(&mut self, key: Key, held: Held) -> Option<Held> {
        self.nobodys.remove(&key);
        if let Some(place) = self.place(&key) {
            return Some(std::mem::replace(&mut self.held[place].1, held));
        }
        // As many as there are entries in a map, of which the kernel counts with 32 bits.
        self.places.insert(&key, self.held.len() as u32, |place| self.held[place as usize].0);
        push(&mut self.held, (key, held));
        self.counts[usize::from(key.vip.is_ipv6())] += 1;
        None
    }

    pub fn insert_nobodys(&mut self, key: Key, held: Held) {
        self.insert(key, held);
        self.nobodys.insert(key);
    }

    pub fn remove(&mut self, key: &Key) -> Option<Held> {
        let place = self.place(key)?;
        self.places.remove(key, place as u32);
        let (_, old) = self.held.swap_remove(place);
        if let Some((moved, _)) = self.held.get(place) {
            self.places.moved(moved, self.held.len() as u32, place as u32);
        }
        self.counts[usize::from(key.vip.is_ipv6())] -= 1;
        self.nobodys.remove(key);
        Some(old)
    }

    fn place(&self, key: &Key) -> Option<usize> {
        self.places.find(key, |place| self.held[place as usize].0 == *key).map(|place| place as usize)
    }

    pub fn nobodys(&self) -> &BTreeSet<Key> {
        &self.nobodys
    }
}
