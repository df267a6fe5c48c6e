//! The words of the store: keys with revisions, transactions, pages and events.

use std::any::Any;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

/// One key with its value and the two revisions that matter for compare-and-swap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    pub key: Bytes,
    pub value: Bytes,
    /// Revision of the transaction that made the key (anew after a delete).
    pub create_revision: u64,
    /// Revision of the transaction that last wrote the key.
    pub mod_revision: u64,
}

/// The answer to a read of one key: what is there, and the revision at which that is true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Get {
    pub revision: u64,
    pub item: Option<KeyValue>,
}

/// What to read: all keys with `prefix`, in byte order, after `start_after`, at most `limit` (0: all), as of `at` (None: now).
#[derive(Clone, Debug, Default)]
pub struct Range {
    pub prefix: Bytes,
    pub start_after: Option<Bytes>,
    pub limit: usize,
    pub at: Option<u64>,
}

/// One page of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The revision the page shows: the one asked for, or the current one.
    pub revision: u64,
    pub items: Vec<KeyValue>,
    /// How many keys of the range lie after this page.
    pub remaining: u64,
}

/// A condition of a transaction: the key was last written at this revision; 0 says that the key does not exist.
#[derive(Clone, Debug)]
pub struct Compare {
    pub key: Bytes,
    pub mod_revision: u64,
}

/// A write. Deleting a key that is not there is no change.
#[derive(Clone, Debug)]
pub enum Op {
    Put { key: Bytes, value: Bytes },
    Delete { key: Bytes },
}

/// All `compares` hold, or nothing of `ops` is done. A key may appear in `ops` once.
#[derive(Clone, Debug, Default)]
pub struct Txn {
    pub compares: Vec<Compare>,
    pub ops: Vec<Op>,
}

/// How a transaction ended. Every write of a committed transaction carries its one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Committed(u64),
    /// A compare failed: the current state of each compared key, in the order of the compares.
    Conflict(Vec<Option<KeyValue>>),
}

/// A change of one key. The value is `None` when the key was deleted.
pub struct Event {
    pub revision: u64,
    pub key: Bytes,
    pub value: Option<KeyValue>,
    /// What the key held before, `None` when the event made it.
    pub previous: Option<KeyValue>,
    /// Room for a reader's own rendering of the event: made by the first watcher, shared by all others.
    pub rendering: OnceLock<Arc<dyn Any + Send + Sync>>,
}

// === impl Event ===

impl Event {
    pub fn new(revision: u64, key: Bytes, value: Option<KeyValue>, previous: Option<KeyValue>) -> Self {
        Self { revision, key, value, previous, rendering: OnceLock::new() }
    }

    /// Bytes of memory the event keeps alive, near enough for a budget.
    pub(crate) fn weight(&self) -> usize {
        let of = |item: &Option<KeyValue>| item.as_ref().map_or(0, |kv| kv.value.len());
        160 + self.key.len() + of(&self.value) + of(&self.previous)
    }
}

impl std::fmt::Debug for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Event")
            .field("revision", &self.revision)
            .field("key", &self.key)
            .field("value", &self.value)
            .field("previous", &self.previous)
            .finish_non_exhaustive()
    }
}

// === impl Txn ===

impl Txn {
    /// Makes `key`, which must not exist.
    pub fn create(key: Bytes, value: Bytes) -> Self {
        Self::replace(key, 0, value)
    }

    /// Writes `key`, last written at `mod_revision`.
    pub fn replace(key: Bytes, mod_revision: u64, value: Bytes) -> Self {
        Self { compares: vec![Compare { key: key.clone(), mod_revision }], ops: vec![Op::Put { key, value }] }
    }

    /// Removes `key`, last written at `mod_revision`.
    pub fn delete(key: Bytes, mod_revision: u64) -> Self {
        Self { compares: vec![Compare { key: key.clone(), mod_revision }], ops: vec![Op::Delete { key }] }
    }
}
