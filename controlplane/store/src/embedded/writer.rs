//! The one thread that writes: takes what waits, checks it, commits it as a group, then makes it visible.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::Shared;
use super::disk::Disk;
use super::state::State;
use crate::{Event, KeyValue, Op, Outcome, Result, StoreError, Txn};

/// A group is cut at this many transactions or bytes, so that no caller waits behind an endless group.
const GROUP_TXNS: usize = 512;
const GROUP_BYTES: usize = 16 << 20;

pub(super) enum Request {
    Txn { txn: Txn, reply: oneshot::Sender<Result<Outcome>> },
}

/// A group of transactions in the making: what they change on top of the state in memory.
struct Group {
    revision: u64,
    changed: HashMap<Bytes, Option<KeyValue>>,
    events: Vec<Arc<Event>>,
    replies: Vec<(oneshot::Sender<Result<Outcome>>, Outcome)>,
}

/// Refuses what could never be committed.
pub(super) fn check(txn: &Txn, limit: usize) -> Result<()> {
    let size = weight(txn);
    if size > limit {
        return Err(StoreError::TooLarge { size, limit });
    }
    for (index, op) in txn.ops.iter().enumerate() {
        if txn.ops[..index].iter().any(|earlier| key(earlier) == key(op)) {
            return Err(StoreError::DuplicateKey(String::from_utf8_lossy(key(op)).into_owned()));
        }
    }
    Ok(())
}

/// Runs until every sender is gone.
pub(super) fn run(disk: &Disk, shared: &Shared, mut inbox: mpsc::Receiver<Request>) {
    while let Some(first) = inbox.blocking_recv() {
        let mut group = Group::new(shared.read().revision());
        let mut next = Some(first);
        let (mut count, mut bytes) = (0, 0);
        while let Some(Request::Txn { txn, reply }) = next {
            count += 1;
            bytes += weight(&txn);
            // Only this thread changes the state, so the read lock is never waited for by a writer here.
            let outcome = group.add(&shared.read(), txn);
            group.replies.push((reply, outcome));
            next = if count < GROUP_TXNS && bytes < GROUP_BYTES { inbox.try_recv().ok() } else { None };
        }
        group.finish(disk, shared);
    }
}

fn key(op: &Op) -> &Bytes {
    match op {
        Op::Put { key, .. } | Op::Delete { key } => key,
    }
}

fn weight(txn: &Txn) -> usize {
    txn.ops
        .iter()
        .map(|op| match op {
            Op::Put { key, value } => key.len() + value.len(),
            Op::Delete { key } => key.len(),
        })
        .sum()
}

// === impl Group ===

impl Group {
    fn new(revision: u64) -> Self {
        Self { revision, changed: HashMap::new(), events: Vec::new(), replies: Vec::new() }
    }

    fn add(&mut self, state: &State, txn: Txn) -> Outcome {
        let now = |key: &Bytes, changed: &HashMap<Bytes, Option<KeyValue>>| match changed.get(key) {
            Some(item) => item.clone(),
            None => state.current(key).cloned(),
        };
        let found: Vec<_> = txn.compares.iter().map(|compare| now(&compare.key, &self.changed)).collect();
        let holds = |(compare, item): (&crate::Compare, &Option<KeyValue>)| {
            item.as_ref().map_or(0, |item| item.mod_revision) == compare.mod_revision
        };
        if !txn.compares.iter().zip(&found).all(holds) {
            return Outcome::Conflict(found);
        }
        let revision = self.revision + 1;
        let before = self.events.len();
        for op in txn.ops {
            let previous = now(key(&op), &self.changed);
            let (key, value) = match op {
                Op::Put { key, value } => {
                    let create_revision = previous.as_ref().map_or(revision, |item| item.create_revision);
                    (key.clone(), Some(KeyValue { key, value, create_revision, mod_revision: revision }))
                }
                Op::Delete { key } => (key, None),
            };
            if previous.is_none() && value.is_none() {
                continue;
            }
            self.changed.insert(key.clone(), value.clone());
            self.events.push(Arc::new(Event::new(revision, key, value, previous)));
        }
        if self.events.len() > before {
            self.revision = revision;
        }
        Outcome::Committed(self.revision)
    }

    fn finish(self, disk: &Disk, shared: &Shared) {
        if !self.events.is_empty() {
            let changes = self.changed.iter().map(|(key, item)| (key, item.as_ref()));
            if let Err(error) = disk.commit(self.revision, changes) {
                tracing::error!(%error, "the store's commit failed");
                for (reply, _) in self.replies {
                    let _ = reply.send(Err(StoreError::Write(error.to_string())));
                }
                return;
            }
            shared.write().apply(self.revision, self.changed, self.events, &shared.options);
        }
        // Whoever gave up waiting has dropped its receiver; the change stands.
        for (reply, outcome) in self.replies {
            let _ = reply.send(Ok(outcome));
        }
    }
}
