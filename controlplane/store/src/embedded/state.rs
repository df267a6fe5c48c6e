//! What the embedded store knows in memory: the current keys, recent history, and who watches.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::Options;
use crate::{Event, Get, KeyValue, Page, Range, Result, StoreError, WatchItem};

pub(super) type Tree = BTreeMap<Bytes, KeyValue>;

pub(super) struct State {
    revision: u64,
    tree: Tree,
    /// Recent events, oldest first.
    history: VecDeque<(Instant, Arc<Event>)>,
    history_bytes: usize,
    /// Events up to this revision are forgotten: the oldest revision that can be read or watched from.
    compacted: u64,
    watchers: HashMap<Bytes, Vec<Watcher>>,
    /// How many watched prefixes have which length: an event looks up its key's prefixes of these lengths only.
    lengths: BTreeMap<usize, usize>,
    next_id: u64,
}

struct Watcher {
    id: u64,
    queue: mpsc::Sender<WatchItem>,
}

// === impl State ===

impl State {
    pub(super) fn new(revision: u64, tree: Tree) -> Self {
        Self {
            revision,
            tree,
            history: VecDeque::new(),
            history_bytes: 0,
            compacted: revision,
            watchers: HashMap::new(),
            lengths: BTreeMap::new(),
            next_id: 0,
        }
    }

    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    pub(super) fn watchers(&self) -> usize {
        self.watchers.values().map(Vec::len).sum()
    }

    pub(super) fn current(&self, key: &[u8]) -> Option<&KeyValue> {
        self.tree.get(key)
    }

    pub(super) fn get(&self, key: &[u8], at: Option<u64>) -> Result<Get> {
        let revision = self.readable(at)?;
        let changed = self.since(revision).find(|event| event.key == key);
        let item = match changed {
            Some(event) => event.previous.clone(),
            None => self.tree.get(key).cloned(),
        };
        Ok(Get { revision, item })
    }

    pub(super) fn range(&self, range: &Range) -> Result<Page> {
        let revision = self.readable(range.at)?;
        // Later events undone: the first event after the revision holds what the key was then.
        let mut then: BTreeMap<&Bytes, Option<&KeyValue>> = BTreeMap::new();
        let after = |key: &Bytes| range.start_after.as_ref().is_none_or(|start| key > start);
        for event in self.since(revision).filter(|event| event.key.starts_with(&range.prefix) && after(&event.key)) {
            then.entry(&event.key).or_insert(event.previous.as_ref());
        }
        let start = match &range.start_after {
            Some(after) if *after >= range.prefix => Bound::Excluded(after.clone()),
            _ => Bound::Included(range.prefix.clone()),
        };
        let mut now =
            self.tree.range((start, Bound::Unbounded)).take_while(|(key, _)| key.starts_with(&range.prefix)).peekable();
        let mut then = then.into_iter().peekable();
        let mut page = Page { revision, items: Vec::new(), remaining: 0 };
        loop {
            let item = match (now.peek(), then.peek()) {
                (None, None) => break,
                (Some((key, _)), Some((past, _))) if key == past => {
                    now.next();
                    then.next().and_then(|(_, item)| item)
                }
                (Some((key, _)), Some((past, _))) if key > past => then.next().and_then(|(_, item)| item),
                (Some(_), _) => now.next().map(|(_, item)| item),
                (None, Some(_)) => then.next().and_then(|(_, item)| item),
            };
            let Some(item) = item else { continue };
            if range.limit == 0 || page.items.len() < range.limit {
                page.items.push(item.clone());
            } else {
                page.remaining += 1;
            }
        }
        Ok(page)
    }

    pub(super) fn watch(
        &mut self,
        prefix: Bytes,
        from: u64,
        queue: mpsc::Sender<WatchItem>,
    ) -> Result<(u64, VecDeque<Arc<Event>>)> {
        let from = self.readable(Some(from))?;
        let backlog = self.since(from).filter(|event| event.key.starts_with(&prefix)).cloned().collect();
        self.next_id += 1;
        if !self.watchers.contains_key(&prefix) {
            *self.lengths.entry(prefix.len()).or_default() += 1;
        }
        self.watchers.entry(prefix).or_default().push(Watcher { id: self.next_id, queue });
        Ok((self.next_id, backlog))
    }

    pub(super) fn unwatch(&mut self, prefix: &Bytes, id: u64) {
        let Some(group) = self.watchers.get_mut(prefix) else { return };
        group.retain(|watcher| watcher.id != id);
        if group.is_empty() {
            self.forget(prefix);
        }
    }

    /// Makes a committed group visible: tree, history, watchers and revision together.
    pub(super) fn apply(
        &mut self,
        revision: u64,
        changed: HashMap<Bytes, Option<KeyValue>>,
        events: Vec<Arc<Event>>,
        options: &Options,
    ) {
        for (key, item) in changed {
            match item {
                Some(item) => self.tree.insert(key, item),
                None => self.tree.remove(&key),
            };
        }
        let now = Instant::now();
        for event in events {
            self.deliver(&event);
            self.history_bytes += event.weight();
            self.history.push_back((now, event));
        }
        self.revision = revision;
        while let Some((time, _)) = self.history.front() {
            let old = now.duration_since(*time) > options.history_age && self.history.len() > options.history_events;
            if !old && self.history_bytes <= options.history_bytes {
                break;
            }
            self.forget_oldest();
        }
    }

    pub(super) fn compact(&mut self, revision: u64) -> Result<()> {
        if revision > self.revision {
            return Err(StoreError::Future { asked: revision, current: self.revision });
        }
        while self.history.front().is_some_and(|(_, event)| event.revision <= revision) {
            self.forget_oldest();
        }
        self.compacted = self.compacted.max(revision);
        Ok(())
    }

    fn readable(&self, at: Option<u64>) -> Result<u64> {
        match at {
            None => Ok(self.revision),
            Some(asked) if asked > self.revision => Err(StoreError::Future { asked, current: self.revision }),
            Some(asked) if asked < self.compacted => Err(StoreError::Compacted { asked, oldest: self.compacted }),
            Some(asked) => Ok(asked),
        }
    }

    /// Events after `revision`, oldest first.
    fn since(&self, revision: u64) -> impl Iterator<Item = &Arc<Event>> {
        let start = self.history.partition_point(|(_, event)| event.revision <= revision);
        self.history.range(start..).map(|(_, event)| event)
    }

    /// Drops the oldest revision from history, with all of its events.
    fn forget_oldest(&mut self) {
        let Some(revision) = self.history.front().map(|(_, event)| event.revision) else { return };
        while let Some((_, event)) = self.history.pop_front_if(|(_, event)| event.revision == revision) {
            self.history_bytes -= event.weight();
        }
        self.compacted = self.compacted.max(revision);
    }

    /// Hands an event to its watchers. One whose queue is full is dropped: it must read anew, the writer does not wait.
    fn deliver(&mut self, event: &Arc<Event>) {
        let mut empty = Vec::new();
        for length in self.lengths.keys().take_while(|length| **length <= event.key.len()) {
            let prefix = event.key.slice(..*length);
            let Some(group) = self.watchers.get_mut(&prefix) else { continue };
            group.retain(|watcher| watcher.queue.try_send(WatchItem::Event(event.clone())).is_ok());
            if group.is_empty() {
                empty.push(prefix);
            }
        }
        for prefix in empty {
            self.forget(&prefix);
        }
    }

    fn forget(&mut self, prefix: &Bytes) {
        self.watchers.remove(prefix);
        if let Some(count) = self.lengths.get_mut(&prefix.len()) {
            *count -= 1;
            if *count == 0 {
                self.lengths.remove(&prefix.len());
            }
        }
    }
}
