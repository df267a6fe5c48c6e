//! The eBPF backend: brings the maps of the data path to the plans by the smallest difference.
//!
//! Order of writes in one apply, so that no program ever sees a half-made service: backends that become ready, slots into
//! fresh ranges, names, whom services admit, frontends that are new, frontends that flip, service ranges; then removals:
//! frontends, whom nobody asks for, names, and backends that drain or are gone. Ranges and backend ids that fell out of use
//! rest for [`GRACE`] before they are used again.
//!
//! Work is in proportion to the change: nothing in [`Backend::apply`] looks at what did not change.

mod admission;
mod adopt;
mod apply;
mod arena;
mod backends;
mod blocks;
mod claims;
mod failing;
mod index;
mod left;
mod mirror;
mod numbers;
mod stage;
mod stickiness;
mod tables;
mod write;

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use thalweg_abi::{ServiceRanges, SourceRangeKey};
use thalweg_cluster::Name;
use thalweg_loader::Error;

use crate::backend::{Applied, Backend};
use crate::plan::{Key, PlannedFrontend, ServicePlan};
use backends::Backends;
use blocks::Blocks;
use claims::Claims;
use failing::Failing;
pub use failing::Pressure;
use left::Left;
use mirror::Mirror;
use numbers::Numbers;
use stickiness::Leftovers;
pub use tables::{BoxTable, Frontends, Tables};

/// How long a range or an id rests; programs that still read the old ones are done long before.
pub const GRACE: Duration = Duration::from_secs(5);
/// When to try again after a failure.
const RETRY: Duration = Duration::from_secs(1);

/// Programs the data path. See [`EbpfBackend::adopt`].
pub struct EbpfBackend {
    tables: Tables,
    mirror: Mirror,
    /// Boxed: a table that has just grown is half empty.
    services: HashMap<Name, Box<Record>>,
    /// Services to look at in the next apply.
    dirty: BTreeSet<Name>,
    /// Services to look at again once every service has been heard of.
    later: BTreeSet<Name>,
    claims: Claims,
    failing: Failing,
    /// Numbers that are nobody's and still have traces in the maps.
    stale_numbers: BTreeSet<u32>,
    /// Their entries of SOURCE_RANGES.
    stale_ranges: BTreeSet<SourceRangeKey>,
    /// How many entries SOURCE_RANGES has.
    source_ranges: usize,
    /// What SERVICE_RANGES holds.
    service_ranges: ServiceRanges,
    /// What it should hold, when that is something else.
    wanted_service_ranges: Option<ServiceRanges>,
    leftovers: Leftovers,
    /// Every service has been heard of; nothing is removed before.
    complete: bool,
    numbers: Numbers,
    blocks: Blocks,
    backends: Backends,
    left: Left,
}

/// A backend that has become free: who stood behind the id is gone. Sockets that remember both numbers are to be destroyed,
/// for they wait for somebody who does not answer any more.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Gone {
    pub backend: u32,
    pub generation: u32,
}

/// One service.
#[derive(Debug)]
struct Record {
    /// `None` until it is first written.
    number: Option<u32>,
    /// SERVICES holds its name.
    named: bool,
    /// Some of its frontends may have affinity.
    sticky: bool,
    desired: Desired,
    /// Its frontends in the kernel, in order.
    frontends: Box<[Key]>,
    /// Writing or removing an entry of SOURCE_RANGES failed: it may be there or not.
    unsure: bool,
    /// `None`: nothing of it.
    rare: Option<Box<Rare>>,
}

/// What few services have.
#[derive(PartialEq, Default, Debug)]
struct Rare {
    /// Its entries of SOURCE_RANGES, in order.
    source_ranges: Vec<SourceRangeKey>,
    /// Its draining endpoints as last applied.
    draining: Box<[SocketAddr]>,
}

#[derive(Clone, Debug)]
enum Desired {
    /// Adopted, and nobody has spoken of it yet.
    Unknown,
    Plan(Arc<ServicePlan>),
    /// What the kernel holds of it is what was planned: the plan need not be kept.
    Applied,
    Gone,
}

// === impl EbpfBackend ===

impl EbpfBackend {
    /// Which backends have become free since this was last asked, by id. After a restart nothing is known of the time
    /// before: whoever needs that compares with BACKENDS.
    pub fn take_gone(&mut self) -> Vec<Gone> {
        self.backends.take_gone()
    }

    /// How full the maps are that the proxy fills, and whom that keeps out.
    pub fn pressure(&self) -> [Pressure; 6] {
        let ((v4, v4_capacity), (v6, v6_capacity)) =
            (self.tables.frontends.table_of(false), self.tables.frontends.table_of(true));
        [
            self.failing.pressure(v4, self.mirror.count(false), v4_capacity),
            self.failing.pressure(v6, self.mirror.count(true), v6_capacity),
            self.failing.pressure("SLOTS", self.blocks.used() as usize, self.tables.slots.capacity()),
            self.failing.pressure("BACKENDS", self.backends.used(), self.tables.backends.capacity()),
            self.failing.pressure("SERVICES", self.numbers.used(), self.tables.services.capacity()),
            self.failing.pressure("SOURCE_RANGES", self.source_ranges, self.tables.source_ranges.capacity()),
        ]
    }

    /// The name of an adopted service was read from a map: it gives way to the world's, which is the object's own memory.
    fn call_as_world_does(&mut self, name: &Name) {
        if let Some(record) = self.services.get(name).filter(|record| matches!(record.desired, Desired::Unknown)) {
            record.number.into_iter().for_each(|number| self.numbers.rename(number, name));
            if let Some((_, record)) = self.services.remove_entry(name) {
                self.services.insert(name.clone(), record);
            }
        }
    }

    /// A service gave up frontends: who waits for one is looked at again.
    fn give_up(&mut self, name: &Name, old: &Desired) {
        if !self.claims.has_waiters() {
            return;
        }
        let Some(record) = self.services.get(name) else { return };
        let given: Vec<Key> = match old {
            Desired::Unknown | Desired::Applied => record.frontends.to_vec(),
            Desired::Plan(plan) => plan.frontends.iter().map(PlannedFrontend::key).collect(),
            Desired::Gone => Vec::new(),
        };
        for key in given.iter().filter(|key| !record.wants(key)) {
            self.dirty.extend(self.claims.waiters(key).cloned());
        }
    }
}

impl Backend for EbpfBackend {
    fn set(&mut self, plan: ServicePlan) {
        let name = plan.name.clone();
        self.call_as_world_does(&name);
        let record = self.services.entry(name.clone()).or_default();
        if let Desired::Plan(held) = &record.desired
            && **held == plan
        {
            return;
        }
        let old = std::mem::replace(&mut record.desired, Desired::Plan(Arc::new(plan)));
        self.give_up(&name, &old);
        self.dirty.insert(name);
    }

    fn remove(&mut self, name: &Name) {
        if let Some(record) = self.services.get_mut(name) {
            let old = std::mem::replace(&mut record.desired, Desired::Gone);
            self.give_up(name, &old);
            self.dirty.insert(name.clone());
        }
    }

    fn set_service_ranges(&mut self, ranges: &[IpNetwork]) {
        let wanted = admission::service_ranges(ranges);
        self.wanted_service_ranges = (wanted != self.service_ranges).then_some(wanted);
    }

    fn retain_only_known(&mut self) {
        let unknown = self.services.iter().filter(|(_, record)| matches!(record.desired, Desired::Unknown));
        for name in unknown.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            self.remove(&name);
        }
        self.dirty.append(&mut self.later);
        self.backends.release_held();
        self.complete = true;
    }

    fn apply(&mut self, now: Instant) -> Result<Applied, Error> {
        apply::apply(self, now)
    }

    fn next_deadline(&self) -> Option<Instant> {
        [self.blocks.next_deadline(), self.backends.next_deadline(), self.failing.retry()].into_iter().flatten().min()
    }
}

// === impl Record ===

impl Default for Record {
    fn default() -> Self {
        Self {
            number: None,
            named: false,
            sticky: false,
            desired: Desired::Unknown,
            frontends: Box::default(),
            unsure: false,
            rare: None,
        }
    }
}

impl Record {
    /// True when this service is to have, or may turn out to have, that frontend.
    fn wants(&self, key: &Key) -> bool {
        match &self.desired {
            Desired::Unknown | Desired::Applied => self.frontends.binary_search(key).is_ok(),
            Desired::Plan(plan) => plan.frontends.binary_search_by_key(key, PlannedFrontend::key).is_ok(),
            Desired::Gone => false,
        }
    }

    /// Its frontends in the kernel that it is not to have.
    fn unwanted(&self) -> impl Iterator<Item = &Key> {
        self.frontends.iter().filter(|key| !self.wants(key))
    }

    /// True when something may be left to do for it.
    fn is_open(&self) -> bool {
        matches!(self.desired, Desired::Plan(_) | Desired::Gone)
    }

    /// True when the kernel has nothing of it but its name.
    fn is_bare(&self) -> bool {
        self.frontends.is_empty() && self.source_ranges().is_empty()
    }

    /// Drops the plan of a service of which the kernel holds just that. One that restricts its clients keeps it.
    fn rest(&mut self) {
        if let Desired::Plan(plan) = &self.desired
            && self.source_ranges().is_empty()
            && !self.unsure
            && plan.frontends.len() == self.frontends.len()
            && self.unwanted().next().is_none()
        {
            self.desired = Desired::Applied;
        }
    }

    fn insert_frontend(&mut self, key: Key) {
        if let Err(at) = self.frontends.binary_search(&key) {
            self.change_frontends(|frontends| {
                frontends.reserve_exact(1);
                frontends.insert(at, key);
            });
        }
    }

    fn remove_frontend(&mut self, key: &Key) {
        if let Ok(at) = self.frontends.binary_search(key) {
            self.change_frontends(|frontends| _ = frontends.remove(at));
        }
    }

    /// There is no room to spare in what most services never change again.
    fn change_frontends(&mut self, change: impl FnOnce(&mut Vec<Key>)) {
        let mut frontends = std::mem::take(&mut self.frontends).into_vec();
        change(&mut frontends);
        self.frontends = frontends.into_boxed_slice();
    }

    fn source_ranges(&self) -> &[SourceRangeKey] {
        self.rare.as_ref().map_or(&[], |rare| &rare.source_ranges)
    }

    fn draining(&self) -> &[SocketAddr] {
        self.rare.as_ref().map_or(&[], |rare| &rare.draining)
    }

    fn change_rare<T>(&mut self, change: impl FnOnce(&mut Rare) -> T) -> T {
        let result = change(self.rare.get_or_insert_default());
        self.rare.take_if(|rare| **rare == Rare::default());
        result
    }
}

fn full(table: &'static str, capacity: u32) -> Error {
    Error::TableFull { table, capacity }
}
