//! Backend ids: who stands behind each, whether it is chosen, drains or is gone, and when its number may be reused.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Instant;

use thalweg_abi::{Backend, BackendState, Be16, Be128};

use super::index::{Index, push};
use super::{GRACE, Gone};

/// Address and port as the kernel has them; IPv4 is mapped.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct At {
    pub addr: Be128,
    pub port: Be16,
}

#[derive(Debug)]
struct Record {
    at: At,
    generation: u32,
    /// Blocks that hold it.
    chosen: u32,
    /// State last written; `None` before the first write.
    kernel: Option<BackendState>,
    /// Adopted, and its services are not all known yet: keeps the state it was found with.
    held: bool,
    /// How often it became free in the kernel, of the times that are within the grace period.
    rests: u16,
}

#[derive(Debug)]
pub(super) struct Backends {
    /// By id.
    records: Vec<Option<Record>>,
    /// Ids, by the addresses of their records: an id without a record has none.
    by_address: Index,
    /// How many services let this address drain.
    draining: HashMap<At, u32>,
    /// Ids whose state may differ from the kernel's.
    touched: BTreeSet<u32>,
    grace: VecDeque<(Instant, u32)>,
    /// Ids to use again, longest free first, with the generation they had.
    free: VecDeque<(u32, u32)>,
    /// Ids that became free and were not asked for yet, with their generation.
    gone: BTreeMap<u32, u32>,
    capacity: u32,
}

// === impl At ===

impl From<SocketAddr> for At {
    fn from(at: SocketAddr) -> Self {
        Self { addr: at.ip().into(), port: Be16::from_host(at.port()) }
    }
}

// === impl Backends ===

impl Backends {
    /// Takes over what the kernel holds. Id 0 is never used: it stands for "none".
    pub fn adopt(entries: &[(u32, Backend)], capacity: u32) -> Self {
        let mut this = Self {
            records: vec![None],
            by_address: Index::default(),
            draining: HashMap::new(),
            touched: BTreeSet::new(),
            grace: VecDeque::new(),
            free: VecDeque::new(),
            gone: BTreeMap::new(),
            capacity,
        };
        let mut entries: Vec<&(u32, Backend)> = entries.iter().filter(|(id, _)| *id > 0 && *id < capacity).collect();
        entries.sort_unstable_by_key(|(id, _)| *id);
        for (id, backend) in entries {
            // Ids that were handed out and never written.
            while this.next() < *id {
                this.free.push_back((this.next(), 0));
                push(&mut this.records, None);
            }
            if backend.state == BackendState::FREE {
                this.free.push_back((*id, backend.generation));
                push(&mut this.records, None);
                continue;
            }
            let at = At { addr: backend.addr, port: backend.port };
            let (generation, kernel) = (backend.generation, Some(backend.state));
            let is_first = this.id_of(at).is_none();
            push(&mut this.records, Some(Record { at, generation, chosen: 0, kernel, held: true, rests: 0 }));
            if is_first {
                this.remember(at, *id);
            }
        }
        this
    }

    /// The first id never used.
    fn next(&self) -> u32 {
        self.records.len() as u32
    }

    fn record(&self, id: u32) -> Option<&Record> {
        self.records.get(id as usize)?.as_ref()
    }

    fn record_mut(&mut self, id: u32) -> Option<&mut Record> {
        self.records.get_mut(id as usize)?.as_mut()
    }

    /// Ids that cannot be given to a new backend now.
    pub fn used(&self) -> usize {
        self.records.len() - self.free.len()
    }

    /// Counts one more block that holds this address; `None` when every id is taken.
    pub fn acquire(&mut self, at: At) -> Option<u32> {
        let id = match self.id_of(at) {
            Some(id) => id,
            None => self.allocate(at)?,
        };
        self.acquire_id(id);
        Some(id)
    }

    /// Counts one more block that holds this id, if it is known.
    pub fn acquire_id(&mut self, id: u32) {
        if let Some(record) = self.record_mut(id) {
            record.chosen += 1;
            if record.chosen == 1 {
                self.touched.insert(id);
            }
        }
    }

    fn allocate(&mut self, at: At) -> Option<u32> {
        let (id, generation) = if self.next() < self.capacity {
            push(&mut self.records, None);
            (self.next() - 1, 0)
        } else {
            self.free.pop_front()?
        };
        // Generation 0 means "never": it is skipped when the number wraps.
        let generation = generation.checked_add(1).unwrap_or(1);
        self.records[id as usize] = Some(Record { at, generation, chosen: 0, kernel: None, held: false, rests: 0 });
        self.remember(at, id);
        Some(id)
    }

    /// This id is the one for its address.
    fn remember(&mut self, at: At, id: u32) {
        let address = |id: u32| self.records.get(id as usize).and_then(Option::as_ref).map(|record| record.at);
        self.by_address.insert(&Some(at), id, address);
    }

    pub fn release(&mut self, ids: &[u32]) {
        for id in ids {
            if let Some(record) = self.record_mut(*id) {
                record.chosen = record.chosen.saturating_sub(1);
                if record.chosen == 0 {
                    self.touched.insert(*id);
                }
            }
        }
    }

    /// Replaces the addresses that one service lets drain.
    pub fn drain(&mut self, old: &[SocketAddr], new: &[SocketAddr]) {
        for at in new.iter().copied().map(At::from) {
            *self.draining.entry(at).or_default() += 1;
            self.touched.extend(self.id_of(at));
        }
        for at in old.iter().copied().map(At::from) {
            if let Some(count) = self.draining.get_mut(&at) {
                *count -= 1;
                if *count == 0 {
                    self.draining.remove(&at);
                }
            }
            self.touched.extend(self.id_of(at));
        }
    }

    /// From now on what nobody asked for is gone.
    pub fn release_held(&mut self) {
        for (id, record) in (0..).zip(&mut self.records) {
            if let Some(record) = record
                && std::mem::take(&mut record.held)
            {
                self.touched.insert(id);
            }
        }
    }

    /// The address and generation of an id in use.
    pub fn get(&self, id: u32) -> Option<(At, u32)> {
        self.record(id).map(|record| (record.at, record.generation))
    }

    /// The id of an address that is in use.
    pub fn id_of(&self, at: At) -> Option<u32> {
        self.by_address.find(&Some(at), |id| self.record(id).is_some_and(|record| record.at == at))
    }

    /// Whether flows to it go on: the kernel holds it, and not as free.
    pub fn is_alive(&self, id: u32) -> bool {
        self.record(id).and_then(|record| record.kernel).is_some_and(|state| state != BackendState::FREE)
    }

    /// True when this id is the one that a new block would get for its address.
    pub fn is_current(&self, id: u32) -> bool {
        self.record(id).is_some_and(|record| self.id_of(record.at) == Some(id))
    }

    fn wanted(&self, record: &Record) -> BackendState {
        match record.kernel {
            _ if record.chosen > 0 => BackendState::READY,
            Some(found) if record.held && found != BackendState::FREE => found,
            _ if self.draining.contains_key(&record.at) => BackendState::DRAINING,
            _ => BackendState::FREE,
        }
    }

    /// Entries to write: those that become ready, or all.
    pub fn pending(&mut self, only_ready: bool) -> Vec<(u32, Backend)> {
        let mut entries = Vec::new();
        let mut settled = Vec::new();
        for id in &self.touched {
            let Some(record) = self.record(*id) else {
                settled.push(*id);
                continue;
            };
            let wanted = self.wanted(record);
            // What nobody has ever seen need not be announced as gone, nor drained.
            let unseen = matches!(record.kernel, None | Some(BackendState::FREE)) && wanted != BackendState::READY;
            if record.kernel == Some(wanted) || unseen {
                if !only_ready {
                    settled.push(*id);
                }
            } else if !only_ready || wanted == BackendState::READY {
                entries.push((*id, record.entry(wanted)));
            }
        }
        for id in settled {
            self.touched.remove(&id);
            self.forget_unseen(id);
        }
        entries
    }

    /// The kernel now holds this entry.
    pub fn written(&mut self, id: u32, state: BackendState, now: Instant) {
        let Some(record) = self.record_mut(id) else { return };
        let generation = record.generation;
        record.kernel = Some(state);
        if state == BackendState::FREE {
            record.rests = record.rests.saturating_add(1);
            self.grace.push_back((now + GRACE, id));
            self.gone.insert(id, generation);
        } else {
            // It came back before anybody asked.
            self.gone.remove(&id);
        }
        if self.record(id).is_some_and(|record| self.wanted(record) == state) {
            self.touched.remove(&id);
        }
    }

    /// Which ids became free since this was last asked; of an id that did so twice, the last generation.
    pub fn take_gone(&mut self) -> Vec<Gone> {
        let gone = std::mem::take(&mut self.gone);
        gone.into_iter().map(|(backend, generation)| Gone { backend, generation }).collect()
    }

    /// An id that was handed out and never written can be used again at once.
    fn forget_unseen(&mut self, id: u32) {
        if let Some(record) = self.record(id)
            && record.kernel.is_none()
            && record.chosen == 0
        {
            self.free.push_front((id, record.generation - 1));
            self.forget(id);
        }
    }

    fn forget(&mut self, id: u32) {
        if let Some(record) = self.records.get_mut(id as usize).and_then(Option::take) {
            self.by_address.remove(&Some(record.at), id);
        }
    }

    /// Ids that have rested can be used again; one that came back to life in between is not touched.
    pub fn expire(&mut self, now: Instant) {
        while let Some((_, id)) = self.grace.pop_front_if(|(until, _)| *until <= now) {
            let Some(record) = self.record_mut(id) else { continue };
            record.rests = record.rests.saturating_sub(1);
            if record.rests == 0 && record.kernel == Some(BackendState::FREE) && record.chosen == 0 {
                let generation = record.generation;
                self.free.push_back((id, generation));
                self.forget(id);
            }
        }
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        self.grace.front().map(|(until, _)| *until)
    }
}

// === impl Record ===

impl Record {
    fn entry(&self, state: BackendState) -> Backend {
        Backend { addr: self.at.addr, port: self.at.port, state, generation: self.generation, weight: 1, ..Backend::default() }
    }
}
