//! `thalweg status`, `maps` and `drops`: how old and how full the maps are, what the data path counts, why it dropped.

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

/// One reason to drop, for people.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct DropRow {
    pub name: &'static str,
    pub count: u64,
    pub meaning: &'static str,
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
        synced: word(StateKey::Synced) == 1,
        maps: self::maps(maps),
        counters: counters.iter().map(|(counter, count)| CountRow { name: counter.name(), count: *count }).collect(),
        drops: drops.iter().map(|(reason, count)| CountRow { name: reason.name(), count: *count }).collect(),
    }
}

/// Rows of fill levels, in the order given.
pub fn maps(maps: &[(&str, u64, u64)]) -> Vec<MapRow> {
    maps.iter().map(|(map, used, capacity)| MapRow { map: (*map).to_owned(), used: *used, capacity: *capacity }).collect()
}

/// Every reason, with what it means and what to do; those that never occurred too.
pub fn drops(drops: &[(DropReason, u64)]) -> Vec<DropRow> {
    drops.iter().map(|(reason, count)| DropRow { name: reason.name(), count: *count, meaning: meaning(*reason) }).collect()
}

fn meaning(reason: DropReason) -> &'static str {
    match reason {
        DropReason::Malformed => "headers too short or contradictory; look at who sends them",
        DropReason::Spoofed => "a pod sent from an address that is not its own",
        DropReason::NoLocalEndpoint => "a Local traffic policy, and no endpoint of the service on this node",
        DropReason::ConntrackFull => "no room for another flow: raise --map-size CONNTRACK",
        DropReason::NoSourcePort => "no free source port towards a backend: more backends, or fewer flows from one client",
        DropReason::BackendGone => "an established connection to a backend that is gone; its client is reset",
        DropReason::BadSlot => "a frontend points outside of SLOTS or BACKENDS: a defect, please report it",
        DropReason::NoRoute => "the node has no route to the chosen backend",
        DropReason::RewriteFailed => "the kernel refused to change or to redirect a packet",
        DropReason::Fragment => "a fragment whose first part never came",
        DropReason::NoFlow => "sent to a service by no flow that is known, such as a late reset",
        DropReason::SourceRange => "loadBalancerSourceRanges do not admit the client",
        DropReason::NoService => "an address of the service ranges that no service has",
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

impl Row for DropRow {
    const COLUMNS: &'static [&'static str] = &["REASON", "PACKETS", "MEANING"];

    fn cells(&self) -> Vec<String> {
        vec![self.name.to_owned(), self.count.to_string(), self.meaning.to_owned()]
    }
}
