//! The eBPF backend: brings FRONTENDS, SLOTS, BACKENDS and SERVICES to the plans by the smallest difference.
//!
//! Order of writes in one apply, so that no program ever sees a half-made service: backends that become ready, slots
//! into fresh ranges, names, frontends that are new, frontends that flip, removals, backends that drain or are gone.
//! Ranges and backend ids that fell out of use rest for [`GRACE`] before they are used again.

mod adopt;
mod apply;
mod arena;
mod backends;
mod blocks;
mod frontends;
mod numbers;
mod stage;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use thalweg_abi::{Backend as BackendEntry, Be128, Frontend, FrontendKey, ServiceName, Slot};
use thalweg_cluster::Name;
use thalweg_loader::{Error, Maps, Table};

use crate::backend::{Applied, Backend};
use crate::plan::{Key, ServicePlan};
use backends::Backends;
use blocks::Blocks;
use frontends::Frontends;
use numbers::Numbers;

/// How long a range or an id rests; programs that still read the old ones are done long before.
pub const GRACE: Duration = Duration::from_secs(5);
/// When to try again after a failure.
const RETRY: Duration = Duration::from_secs(1);

/// The maps of the data path that the proxy writes.
pub struct Tables {
    frontends: Frontends,
    slots: Box<dyn Table<u32, Slot> + Send>,
    backends: Box<dyn Table<u32, BackendEntry> + Send>,
    services: Box<dyn Table<u32, ServiceName> + Send>,
}

/// Programs the data path. See [`EbpfBackend::adopt`].
pub struct EbpfBackend {
    tables: Tables,
    /// What FRONTENDS holds.
    kernel: HashMap<Key, Held>,
    services: BTreeMap<Name, Record>,
    /// Services to look at in the next apply.
    dirty: BTreeSet<Name>,
    /// Services that want a frontend which another one has.
    waiting: BTreeMap<Key, BTreeSet<Name>>,
    /// Numbers with a name that is another number's too.
    stale_numbers: Vec<u32>,
    /// Every service has been heard of; nothing is removed before.
    complete: bool,
    /// Frontends of nobody, and stale numbers, are to go.
    tidy: bool,
    numbers: Numbers,
    blocks: Blocks,
    backends: Backends,
    /// When a failed apply is to be tried again.
    retry: Option<Instant>,
}

/// One frontend in the kernel.
#[derive(Debug)]
struct Held {
    value: Frontend,
    /// `None`: adopted, and its service has no name.
    owner: Option<Name>,
    /// The range it points at; `None` when it has no endpoints, or points where it must not.
    block: Option<u32>,
}

/// One service.
#[derive(Debug)]
struct Record {
    /// `None` until it is first written.
    number: Option<u32>,
    /// SERVICES holds its name.
    named: bool,
    desired: Desired,
    /// Its frontends in the kernel.
    frontends: BTreeSet<Key>,
    /// Its draining endpoints as last applied.
    draining: Vec<SocketAddr>,
}

#[derive(Clone, Debug)]
enum Desired {
    /// Adopted, and nobody has spoken of it yet.
    Unknown,
    Plan(Arc<ServicePlan>),
    Gone,
}

// === impl Tables ===

impl Tables {
    pub fn new(
        frontends: impl Table<FrontendKey, Frontend> + Send + 'static,
        frontends6: impl Table<FrontendKey<Be128>, Frontend> + Send + 'static,
        slots: impl Table<u32, Slot> + Send + 'static,
        backends: impl Table<u32, BackendEntry> + Send + 'static,
        services: impl Table<u32, ServiceName> + Send + 'static,
    ) -> Self {
        Self {
            frontends: Frontends::new(frontends, frontends6),
            slots: Box::new(slots),
            backends: Box::new(backends),
            services: Box::new(services),
        }
    }
}

impl From<Maps> for Tables {
    fn from(maps: Maps) -> Self {
        Self::new(maps.frontends, maps.frontends6, maps.slots, maps.backends, maps.services)
    }
}

// === impl EbpfBackend ===

impl Backend for EbpfBackend {
    fn set(&mut self, plan: ServicePlan) {
        let record = self.services.entry(plan.name.clone()).or_insert_with(Record::new);
        if let Desired::Plan(held) = &record.desired
            && **held == plan
        {
            return;
        }
        self.dirty.insert(plan.name.clone());
        record.desired = Desired::Plan(Arc::new(plan));
    }

    fn remove(&mut self, name: &Name) {
        if let Some(record) = self.services.get_mut(name) {
            record.desired = Desired::Gone;
            self.dirty.insert(name.clone());
        }
    }

    fn retain_only_known(&mut self) {
        for (name, record) in &mut self.services {
            if matches!(record.desired, Desired::Unknown) {
                record.desired = Desired::Gone;
                self.dirty.insert(name.clone());
            }
        }
        self.backends.release_held();
        self.complete = true;
        self.tidy = true;
    }

    fn apply(&mut self, now: Instant) -> Result<Applied, Error> {
        apply::apply(self, now)
    }

    fn next_deadline(&self) -> Option<Instant> {
        [self.blocks.next_deadline(), self.backends.next_deadline(), self.retry].into_iter().flatten().min()
    }
}

// === impl Record ===

impl Record {
    fn new() -> Self {
        Self { number: None, named: false, desired: Desired::Unknown, frontends: BTreeSet::new(), draining: Vec::new() }
    }

    /// True when this service is to have, or may turn out to have, that frontend.
    fn wants(&self, key: &Key) -> bool {
        match &self.desired {
            Desired::Unknown => self.frontends.contains(key),
            Desired::Plan(plan) => plan.frontends.binary_search_by_key(key, crate::plan::PlannedFrontend::key).is_ok(),
            Desired::Gone => false,
        }
    }
}

fn full(table: &'static str, capacity: u32) -> Error {
    Error::TableFull { table, capacity }
}
