//! `thalweg status`: how old and how full the maps are, what the data path counts, why it dropped.

use serde::Serialize;
use thalweg_abi::{Counter, DropReason, StateKey};

use super::Row;

/// The data path of one node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Status {
    pub abi: u64,
    /// Nanoseconds since the epoch when the maps were made.
    pub created_at: u64,
    /// How often an agent has taken the maps over.
    pub adoptions: u64,
    /// Applies that changed something.
    pub applies: u64,
    /// The maps have held a complete snapshot.
    pub synced: bool,
    pub maps: Vec<MapRow>,
    pub counters: Vec<CountRow>,
    pub drops: Vec<CountRow>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct MapRow {
    pub map: String,
    pub used: u64,
    pub capacity: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct CountRow {
    pub name: &'static str,
    pub count: u64,
}

/// `maps`: name, entries in use, entries that fit.
pub fn status(
    state: &[(StateKey, u64)],
    maps: &[(&str, u64, u64)],
    counters: &[(Counter, u64)],
    drops: &[(DropReason, u64)],
) -> Status {
    let word = |wanted: StateKey| state.iter().find(|(key, _)| *key == wanted).map_or(0, |(_, value)| *value);
    Status {
        abi: word(StateKey::Abi),
        created_at: word(StateKey::CreatedAt),
        adoptions: word(StateKey::Adoptions),
        applies: word(StateKey::Applies),
        synced: word(StateKey::Synced) != 0,
        maps: maps
            .iter()
            .map(|(map, used, capacity)| MapRow { map: (*map).to_owned(), used: *used, capacity: *capacity })
            .collect(),
        counters: counters.iter().map(|(counter, count)| CountRow { name: counter.name(), count: *count }).collect(),
        drops: drops.iter().map(|(reason, count)| CountRow { name: reason.name(), count: *count }).collect(),
    }
}

// === impl Row ===

impl Row for MapRow {
    const COLUMNS: &'static [&'static str] = &["MAP", "USED", "CAPACITY", "FULL"];

    fn cells(&self) -> Vec<String> {
        // Rounded up: a map that is not empty never shows 0 %, one that is not full never less than it is.
        let percent = (self.used * 100).div_ceil(self.capacity.max(1));
        vec![self.map.clone(), self.used.to_string(), self.capacity.to_string(), format!("{percent}%")]
    }
}

impl Row for CountRow {
    const COLUMNS: &'static [&'static str] = &["NAME", "COUNT"];

    fn cells(&self) -> Vec<String> {
        vec![self.name.to_owned(), self.count.to_string()]
    }
}
