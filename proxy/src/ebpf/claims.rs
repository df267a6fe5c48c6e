//! Who wants a frontend that another service has: it is passed on in place, and never removed in between.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use thalweg_cluster::Name;

use crate::plan::Key;

/// Empty in a cluster without conflicts; costs nothing then.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// Services that want what its owner is to keep.
    waiting: HashMap<Key, BTreeSet<Name>>,
    waits: BTreeMap<Name, Vec<Key>>,
    /// Frontends that a failed service is to have: whoever has them, they stay as they are until it succeeds.
    awaited: HashMap<Key, u32>,
    awaits: BTreeMap<Name, Vec<Key>>,
}

// === impl Claims ===

impl Claims {
    /// Forgets what a service wants; it is about to say it again.
    pub fn clear(&mut self, name: &Name) {
        for key in self.waits.remove(name).unwrap_or_default() {
            if let Some(names) = self.waiting.get_mut(&key) {
                names.remove(name);
                if names.is_empty() {
                    self.waiting.remove(&key);
                }
            }
        }
        for key in self.awaits.remove(name).unwrap_or_default() {
            if let Some(count) = self.awaited.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    self.awaited.remove(&key);
                }
            }
        }
    }

    pub fn wait(&mut self, name: &Name, key: Key) {
        if self.waiting.entry(key).or_default().insert(name.clone()) {
            self.waits.entry(name.clone()).or_default().push(key);
        }
    }

    pub fn has_waiters(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Who waits for this frontend.
    pub fn waiters(&self, key: &Key) -> impl Iterator<Item = &Name> {
        self.waiting.get(key).into_iter().flatten()
    }

    pub fn keep(&mut self, name: &Name, keys: Vec<Key>) {
        if keys.is_empty() {
            return;
        }
        for key in &keys {
            *self.awaited.entry(*key).or_default() += 1;
        }
        self.awaits.entry(name.clone()).or_default().extend(keys);
    }

    pub fn is_kept(&self, key: &Key) -> bool {
        self.awaited.contains_key(key)
    }
}
