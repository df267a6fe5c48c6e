//! What FRONTENDS and FRONTENDS6 hold, remembered, so that nobody has to ask the kernel or count.

use std::collections::{BTreeSet, HashMap};

use thalweg_abi::Frontend;

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
    held: HashMap<Key, Held>,
    /// How many there are of IPv4 and of IPv6.
    counts: [usize; 2],
    /// Those of services that nobody knows.
    nobodys: BTreeSet<Key>,
}

// === impl Mirror ===

impl Mirror {
    pub fn with_capacity(frontends: usize) -> Self {
        Self { held: HashMap::with_capacity(frontends), ..Self::default() }
    }

    pub fn get(&self, key: &Key) -> Option<&Held> {
        self.held.get(key)
    }

    /// How many frontends of a family the kernel holds.
    pub fn count(&self, ipv6: bool) -> usize {
        self.counts[usize::from(ipv6)]
    }

    pub fn insert(&mut self, key: Key, held: Held) -> Option<Held> {
        let old = self.held.insert(key, held);
        if old.is_none() {
            self.counts[usize::from(key.vip.is_ipv6())] += 1;
        }
        self.nobodys.remove(&key);
        old
    }

    pub fn insert_nobodys(&mut self, key: Key, held: Held) {
        self.insert(key, held);
        self.nobodys.insert(key);
    }

    pub fn remove(&mut self, key: &Key) -> Option<Held> {
        let old = self.held.remove(key)?;
        self.counts[usize::from(key.vip.is_ipv6())] -= 1;
        self.nobodys.remove(key);
        Some(old)
    }

    pub fn nobodys(&self) -> &BTreeSet<Key> {
        &self.nobodys
    }
}
