//! Start: what the kernel holds becomes our record of it, whoever wrote it. Nothing is written here.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use thalweg_abi::{Frontend, Slot, SourceRangeKey};
use thalweg_cluster::Name;
use thalweg_loader::{Error, Table as _};

use super::backends::{At, Backends};
use super::blocks::{Block, Blocks};
use super::claims::Claims;
use super::failing::Failing;
use super::left::Left;
use super::mirror::{Held, Mirror};
use super::numbers::Numbers;
use super::stickiness::Leftovers;
use super::{EbpfBackend, Record, Tables};
use crate::plan::Key;

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
        let ranges = ranges_of(&frontends, tables.slots.capacity());
        let slots = read_slots(&tables, &ranges)?;
        let source_ranges: BTreeSet<SourceRangeKey> = tables.source_ranges.entries()?.into_iter().map(|(key, _)| key).collect();
        let service_ranges = tables.service_ranges.get(&0)?.unwrap_or_default();

        let mut backends = Backends::adopt(&tables.backends.entries()?, tables.backends.capacity());
        let blocks = adopt_blocks(&frontends, &ranges, &slots, &mut backends, tables.slots.capacity());
        let mut services = adopt_names(&tables)?;
        let mut named: HashMap<u32, Name> = HashMap::with_capacity(services.records.len());
        for (name, record) in &services.records {
            named.extend(record.number.map(|number| (number, name.clone())));
        }

        let mut mirror = Mirror::with_capacity(frontends.len());
        for (key, value) in frontends {
            let held = Held { value, block: blocks.home(&value) };
            match named.get(&value.service).and_then(|owner| services.records.get_mut(owner)) {
                Some(record) => {
                    record.insert_frontend(key);
                    record.sticky |= value.affinity_seconds > 0;
                    mirror.insert(key, held);
                }
                None => {
                    services.stale.insert(value.service);
                    mirror.insert_nobodys(key, held);
                }
            }
        }
        let mut stale_ranges = BTreeSet::new();
        for key in &source_ranges {
            match named.get(&key.range.service).and_then(|owner| services.records.get_mut(owner)) {
                Some(record) => record.change_rare(|rare| rare.source_ranges.push(*key)),
                None => {
                    services.stale.insert(key.range.service);
                    stale_ranges.insert(*key);
                }
            }
        }
        let numbers = Numbers::adopt(named, &services.stale, tables.services.capacity(), tables.service_stats.capacity());
        Ok(Self {
            tables,
            mirror,
            services: services.records,
            dirty: BTreeSet::new(),
            later: BTreeSet::new(),
            claims: Claims::default(),
            failing: Failing::default(),
            stale_numbers: services.stale,
            stale_ranges,
            source_ranges: source_ranges.len(),
            service_ranges,
            wanted_service_ranges: None,
            leftovers: Leftovers::adopted(),
            complete: false,
            numbers,
            blocks: blocks.blocks,
            backends,
            left: Left::default(),
        })
    }
}

/// The services that SERVICES names.
struct Adopted {
    records: HashMap<Name, Box<Record>>,
    /// Numbers that no service can go on using.
    stale: BTreeSet<u32>,
}

fn adopt_names(tables: &Tables) -> Result<Adopted, Error> {
    let mut adopted = Adopted { records: HashMap::new(), stale: BTreeSet::new() };
    let mut names = tables.services.entries()?;
    names.sort_unstable_by_key(|(number, _)| *number);
    for (number, text) in names {
        let (Some((namespace, name)), true) =
            (text.as_str().split_once('/'), Numbers::is_valid(number, tables.service_stats.capacity()))
        else {
            adopted.stale.insert(number);
            continue;
        };
        let record = adopted.records.entry(Name::new(namespace, name)).or_default();
        if record.number.is_some() {
            adopted.stale.insert(number);
        } else {
            (record.number, record.named) = (Some(number), true);
        }
    }
    Ok(adopted)
}

/// The ranges found, and which one an index belongs to.
struct Ranges {
    blocks: Blocks,
    /// Start -> end of every range taken.
    spans: BTreeMap<u32, u32>,
}

/// Start and end of every range that a frontend points at.
fn ranges_of(frontends: &[(Key, Frontend)], capacity: u32) -> BTreeSet<(u32, u32)> {
    frontends
        .iter()
        .filter_map(|(_, value)| Some((value.base, value.base.checked_add(value.count)?)))
        .filter(|(start, end)| start < end && *end <= capacity)
        .collect()
}

/// The slots of these ranges: SLOTS is large and mostly empty, so it is read as a whole only when much of it is in use.
fn read_slots(tables: &Tables, ranges: &BTreeSet<(u32, u32)>) -> Result<HashMap<u32, Slot>, Error> {
    let wanted: u64 = ranges.iter().map(|(start, end)| u64::from(end - start)).sum();
    if wanted > u64::from(tables.slots.capacity() / 4) {
        return Ok(tables.slots.entries()?.into_iter().collect());
    }
    let indices = ranges.iter().flat_map(|(start, end)| *start..*end);
    let read = |index: u32| tables.slots.get(&index).map(|slot| Some((index, slot.filter(|slot| *slot != Slot::default())?)));
    indices.filter_map(|index| read(index).transpose()).collect()
}

/// Every range that a frontend points at is taken. Ranges that overlap, which only a defect can have made, are taken
/// as one of unknown content: it is kept out of use until all its frontends have moved elsewhere.
fn adopt_blocks(
    frontends: &[(Key, Frontend)],
    ranges: &BTreeSet<(u32, u32)>,
    slots: &HashMap<u32, Slot>,
    backends: &mut Backends,
    capacity: u32,
) -> Ranges {
    let mut spans: BTreeMap<u32, (u32, bool)> = BTreeMap::new();
    for &(start, end) in ranges {
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
    let mut adopted = Ranges { blocks: Blocks::new(capacity), spans: BTreeMap::new() };
    for (start, (end, sound)) in spans {
        let content = if sound { read(start, end, slots, backends) } else { None };
        let sound = content.is_some();
        let members = content.unwrap_or_else(|| {
            let known = |id: &u32| backends.get(*id).is_some();
            let ids: BTreeSet<u32> = (start..end).filter_map(|index| Some(slots.get(&index)?.backend)).filter(known).collect();
            ids.into_iter().collect()
        });
        for id in &members {
            backends.acquire_id(*id);
        }
        if adopted.blocks.adopt(start, Block { len: end - start, refs: 0, sound, members: members.into_boxed_slice() }) {
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

/// Whom the slots name, when all of it agrees with BACKENDS.
fn read(start: u32, end: u32, slots: &HashMap<u32, Slot>, backends: &Backends) -> Option<Vec<u32>> {
    let mut seen = BTreeSet::new();
    (start..end)
        .map(|index| {
            let slot = slots.get(&index)?;
            let at = At { addr: slot.addr, port: slot.port };
            let known = backends.get(slot.backend) == Some((at, slot.generation)) && backends.is_current(slot.backend);
            (known && seen.insert(slot.backend)).then_some(slot.backend)
        })
        .collect()
}

// === impl Ranges ===

impl Ranges {
    /// The first index of the range in which a frontend's slots lie.
    fn home(&self, value: &Frontend) -> Option<u32> {
        let end = value.base.checked_add(value.count).filter(|_| value.count > 0)?;
        let (start, span_end) = self.spans.range(..=value.base).next_back()?;
        (end <= *span_end).then_some(*start)
    }
}
