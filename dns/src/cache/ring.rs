//! A bounded set of entries in a ring, with a hand that goes around and finds who leaves.

use std::sync::Arc;
use std::time::Duration;

use crate::forward::Reply;

/// What an entry takes beside its answer: its place in the ring and in the index.
const OVERHEAD: usize = 160;

/// One answer.
#[derive(Clone, Debug, Default)]
pub struct Entry {
    pub key: Arc<[u8]>,
    pub reply: Arc<Reply>,
    pub stored: Duration,
    pub ttl: Duration,
    /// Asked for since the hand last passed.
    pub visited: bool,
    /// When the upstreams may be asked again after a failure.
    pub recheck: Duration,
    pub last_asked: Duration,
    /// Without a long pause.
    pub times: u32,
    pub prefetched: bool,
}

#[derive(Debug)]
pub struct Ring {
    slots: Vec<Option<Entry>>,
    free: Vec<usize>,
    hand: usize,
    octets: usize,
    most: usize,
    most_octets: usize,
}

// === impl Entry ===

impl Entry {
    pub fn octets(&self) -> usize {
        OVERHEAD + self.key.len() + self.reply.octets()
    }
}

// === impl Ring ===

impl Ring {
    pub fn new(most: usize, most_octets: usize) -> Self {
        Self { slots: Vec::new(), free: Vec::new(), hand: 0, octets: 0, most, most_octets }
    }

    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub fn octets(&self) -> usize {
        self.octets
    }

    pub fn get_mut(&mut self, slot: usize) -> Option<&mut Entry> {
        self.slots.get_mut(slot)?.as_mut()
    }

    /// Whether the entry fits into an empty ring.
    pub fn could_hold(&self, entry: &Entry) -> bool {
        self.most > 0 && entry.octets() <= self.most_octets
    }

    pub fn has_room_for(&self, entry: &Entry) -> bool {
        self.len() < self.most && self.octets + entry.octets() <= self.most_octets
    }

    /// The slot of an entry, for which there is room.
    pub fn insert(&mut self, entry: Entry) -> usize {
        self.octets += entry.octets();
        match self.free.pop() {
            Some(slot) => {
                self.slots[slot] = Some(entry);
                slot
            }
            None => {
                self.slots.push(Some(entry));
                self.slots.len() - 1
            }
        }
    }

    pub fn remove(&mut self, slot: usize) -> Option<Entry> {
        let entry = self.slots.get_mut(slot)?.take()?;
        self.octets -= entry.octets();
        self.free.push(slot);
        Some(entry)
    }

    /// Takes out who leaves; `None` when the ring is empty. Each entry is passed twice at most.
    pub fn evict(&mut self) -> Option<Entry> {
        for _ in 0..2 * self.slots.len() {
            let slot = self.hand;
            self.hand = (self.hand + 1) % self.slots.len();
            match &mut self.slots[slot] {
                Some(entry) if entry.visited => entry.visited = false,
                Some(_) => return self.remove(slot),
                None => {}
            }
        }
        None
    }
}
