//! How full the maps are. The kernel tells no program how many entries a hash has; only a walk over it does. So counts are
//! taken where a walk is made anyway (`conntrack::sweep`), and of the other maps one at each sweep; they are kept for
//! whoever asks, so that asking costs nothing.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use aya::Pod;

use crate::{ArrayTable, Error, HashTable, Maps, Table};

/// How full a map is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pressure {
    pub table: &'static str,
    /// When it was counted last; `None` before that.
    pub entries: Option<u32>,
    pub capacity: u32,
}

/// A map of any types.
trait Counted {
    fn count(&self) -> Result<u32, Error>;
    fn capacity(&self) -> u32;
}

/// How many maps are counted; those that every sweep walks come last.
const COUNTED: usize = 16;
const WALKED: usize = 5;

/// Not counted yet.
const UNKNOWN: u32 = u32::MAX;

/// The counts of one set of open maps.
#[derive(Debug)]
pub(crate) struct Counts {
    entries: [AtomicU32; COUNTED],
    /// Which map is counted next.
    next: AtomicUsize,
}

// === impl Counted ===

impl<K: Pod, V: Pod> Counted for HashTable<K, V> {
    fn count(&self) -> Result<u32, Error> {
        Table::count(self)
    }

    fn capacity(&self) -> u32 {
        Table::capacity(self)
    }
}

impl<V: Pod + Default + PartialEq> Counted for ArrayTable<V> {
    fn count(&self) -> Result<u32, Error> {
        Table::count(self)
    }

    fn capacity(&self) -> u32 {
        Table::capacity(self)
    }
}

// === impl Counts ===

impl Default for Counts {
    fn default() -> Self {
        Self { entries: [const { AtomicU32::new(UNKNOWN) }; COUNTED], next: AtomicUsize::new(0) }
    }
}

// === impl Maps ===

impl Maps {
    fn counted(&self) -> [(&'static str, &dyn Counted); COUNTED] {
        [
            ("FRONTENDS", &self.frontends),
            ("FRONTENDS6", &self.frontends6),
            ("SLOTS", &self.slots),
            ("BACKENDS", &self.backends),
            ("SERVICES", &self.services),
            ("SOURCE_RANGES", &self.source_ranges),
            ("LOCAL_PODS", &self.local_pods),
            ("LOCAL_PODS6", &self.local_pods6),
            ("NETNS", &self.netns),
            ("SOCK_BACKENDS", &self.sock_backends),
            ("DNS_NAMES", &self.dns_names),
            ("CONNTRACK", &self.conntrack),
            ("CONNTRACK6", &self.conntrack6),
            ("AFFINITY", &self.affinity),
            ("FRAGMENTS", &self.fragments),
            ("HELD", &self.held),
        ]
    }

    /// Entries and capacity of each map, as they were counted last by this set of open maps: flows, clients and fragments
    /// at the last [`crate::conntrack::sweep`], every other map within the last eleven. Costs nothing. For arrays, entries are
    /// elements that are not zero.
    pub fn pressure(&self) -> Vec<Pressure> {
        let known = |at: usize| Some(self.counts.entries[at].load(Ordering::Relaxed)).filter(|count| *count != UNKNOWN);
        let counted = self.counted().into_iter().enumerate();
        counted.map(|(at, (table, map))| Pressure { table, entries: known(at), capacity: map.capacity() }).collect()
    }

    /// As [`Maps::pressure`], counted now: a walk over every map, for views that run once.
    ///
    /// # Errors
    /// [`Error::Table`] when the kernel refuses to be read.
    pub fn measure(&self) -> Result<Vec<Pressure>, Error> {
        (0..COUNTED).try_for_each(|at| self.count_at(at))?;
        Ok(self.pressure())
    }

    /// Counts one of the maps that no sweep walks, in turn.
    pub(crate) fn count_next(&self) -> Result<(), Error> {
        self.count_at(self.counts.next.fetch_add(1, Ordering::Relaxed) % (COUNTED - WALKED))
    }

    /// Keeps what a sweep has counted, in the order of [`Maps::counted`].
    pub(crate) fn keep_counts(&self, walked: [usize; WALKED]) {
        for (at, count) in (COUNTED - WALKED..).zip(walked) {
            self.counts.entries[at].store(u32::try_from(count).unwrap_or(UNKNOWN), Ordering::Relaxed);
        }
    }

    fn count_at(&self, at: usize) -> Result<(), Error> {
        let (_, map) = self.counted()[at];
        self.counts.entries[at].store(map.count()?, Ordering::Relaxed);
        Ok(())
    }
}
