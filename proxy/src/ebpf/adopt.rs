//! Start: what the kernel holds becomes our record of it, whoever wrote it. Nothing is written here.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;

use thalweg_abi::{Frontend, Slot};
use thalweg_cluster::Name;
use thalweg_loader::{Error, Table as _};

use super::backends::Backends;
use super::blocks::{Block, Blocks};
use super::numbers::Numbers;
use crate::plan::Key;

use super::{EbpfBackend, Held, Record, Tables};

// === impl EbpfBackend ===

impl EbpfBackend {
    /// Takes over the maps as they are: service numbers, ranges, backend ids and their generations stay what they
    /// were. Empty maps are the same case. Nothing is removed before
    /// [`retain_only_known`](crate::Backend::retain_only_known).
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn adopt(tables: impl Into<Tables>) -> Result<Self, Error> {
        let tables = tables.into();
        let frontends = tables.frontends.entries()?;
        let slots: HashMap<u32, Slot> = tables.slots.entries()?.into_iter().collect();
        let names = tables.services.entries()?;

        let mut backends = Backends::adopt(&tables.backends.entries()?, tables.backends.capacity());
        let blocks = adopt_blocks(&frontends, &slots, &mut backends, tables.slots.capacity());
        let numbers = Numbers::new(names.iter().map(|(number, _)| *number).collect(), tables.services.capacity());

        let mut services: BTreeMap<Name, Record> = BTreeMap::new();
        let mut owners = HashMap::new();
        let mut stale_numbers = Vec::new();
        for (number, text) in &names {
            let Some((namespace, name)) = text.as_str().split_once('/') else {
                stale_numbers.push(*number);
                continue;
            };
            let name = Name::new(namespace, name);
            owners.insert(*number, name.clone());
            let record = services.entry(name).or_insert_with(Record::new);
            if record.number.is_some() {
                stale_numbers.push(*number);
            } else {
                (record.number, record.named) = (Some(*number), true);
            }
        }

        let mut kernel = HashMap::with_capacity(frontends.len());
        for (key, value) in frontends {
            let owner = owners.get(&value.service).cloned();
            if let Some(record) = owner.as_ref().and_then(|owner| services.get_mut(owner)) {
                record.frontends.insert(key);
            }
            kernel.insert(key, Held { value, owner, block: blocks.home(&value) });
        }
        Ok(Self {
            tables,
            kernel,
            services,
            dirty: BTreeSet::new(),
            waiting: BTreeMap::new(),
            stale_numbers,
            complete: false,
            tidy: false,
            numbers,
            blocks: blocks.blocks,
            backends,
            retry: None,
        })
    }
}

/// The ranges found, and which one an index belongs to.
struct Adopted {
    blocks: Blocks,
    /// Start -> end of every range taken.
    spans: BTreeMap<u32, u32>,
}

/// Every range that a frontend points at is taken. Ranges that overlap, which only a defect can have made, are taken
/// as one of unknown content: it is kept out of use until all its frontends have moved elsewhere.
fn adopt_blocks(frontends: &[(Key, Frontend)], slots: &HashMap<u32, Slot>, backends: &mut Backends, capacity: u32) -> Adopted {
    let ranges: BTreeSet<(u32, u32)> = frontends
        .iter()
        .filter_map(|(_, value)| Some((value.base, value.base.checked_add(value.count)?)))
        .filter(|(start, end)| start < end && *end <= capacity)
        .collect();
    let mut spans: BTreeMap<u32, (u32, bool)> = BTreeMap::new();
    for (start, end) in ranges {
        match spans.last_entry() {
            Some(mut last) if start < last.get().0 => {
                let (last_end, _) = *last.get();
                last.insert((last_end.max(end), false));
            }
            _ => {
                spans.insert(start, (end, true));
            }
        }
    }
    let mut adopted = Adopted { blocks: Blocks::new(capacity), spans: BTreeMap::new() };
    for (start, (end, sound)) in spans {
        let content = if sound { read(start, end, slots, backends) } else { None };
        let members: BTreeSet<u32> = (start..end).filter_map(|index| Some(slots.get(&index)?.backend)).collect();
        let members: Vec<u32> = members.into_iter().filter(|id| backends.get(*id).is_some()).collect();
        for id in &members {
            backends.acquire_id(*id);
        }
        if adopted.blocks.adopt(start, Block { len: end - start, refs: 0, members, content }) {
            adopted.spans.insert(start, end);
        }
    }
    for (_, value) in frontends {
        if let Some(base) = adopted.home(value) {
            adopted.blocks.reference(base);
        }
    }
    adopted
}

/// What the slots say, when all of it agrees with BACKENDS.
fn read(start: u32, end: u32, slots: &HashMap<u32, Slot>, backends: &Backends) -> Option<Vec<SocketAddr>> {
    (start..end)
        .map(|index| {
            let slot = slots.get(&index)?;
            let at = SocketAddr::new(slot.addr.into(), slot.port.to_host());
            let known = backends.get(slot.backend) == Some((at, slot.generation));
            (known && backends.is_current(slot.backend)).then_some(at)
        })
        .collect()
}

// === impl Adopted ===

impl Adopted {
    /// The first index of the range in which a frontend's slots lie.
    fn home(&self, value: &Frontend) -> Option<u32> {
        let end = value.base.checked_add(value.count).filter(|_| value.count > 0)?;
        let (start, span_end) = self.spans.range(..=value.base).next_back()?;
        (end <= *span_end).then_some(*start)
    }
}
