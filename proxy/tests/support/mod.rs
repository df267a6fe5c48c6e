//! A kernel in memory: the maps behind handles, faults on demand, and a witness to every single write.

#![allow(dead_code, unused_imports, reason = "each test file uses its part")]

mod node;
mod plans;
mod witness;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use thalweg_abi::{
    Affinity, AffinityKey, Backend, Be128, Frontend, FrontendFlags, FrontendKey, ServiceName, ServiceRanges, ServiceStats,
    Slot, SourceRangeKey,
};
use thalweg_loader::{Error, Table};
use thalweg_proxy::ebpf::{EbpfBackend, Frontends, Tables};
use thalweg_proxy::plan::{Key, ServicePlan};

pub use node::Node;
pub use plans::{dual, endpoint, endpoint6, last_byte, name, plan, restricted, source_range, sticky};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    #[default]
    None,
    /// One write in so many fails.
    Random(u64),
    /// Nothing is written any more once so many writes have been made.
    DeadAfter(u64),
}

pub struct Sheet<K, V> {
    pub name: &'static str,
    pub map: BTreeMap<K, V>,
    pub capacity: u32,
}

pub struct State {
    pub frontends: Sheet<FrontendKey, Frontend>,
    pub frontends6: Sheet<FrontendKey<Be128>, Frontend>,
    pub slots: Sheet<u32, Slot>,
    pub backends: Sheet<u32, Backend>,
    pub services: Sheet<u32, ServiceName>,
    pub service_stats: Sheet<u32, ServiceStats>,
    pub source_ranges: Sheet<SourceRangeKey, u32>,
    pub service_ranges: Sheet<u32, ServiceRanges>,
    pub affinity: Sheet<AffinityKey, Affinity>,
    pub writes: u64,
    pub fault: Fault,
    random: u64,
    pub now: Instant,
    /// What each frontend may be now: what the plan of every service that claims it says.
    pub allowed: BTreeMap<Key, Vec<Allowed>>,
    /// Frontends that must not be removed yet.
    pub protected: BTreeSet<Key>,
    /// Ranges without a frontend, since when.
    rested: Vec<(u32, u32, Instant)>,
    /// Backend ids that are free, since when.
    freed: BTreeMap<u32, Instant>,
    /// Backends that became free, with their generations.
    pub gone: BTreeSet<(u32, u32)>,
    pub violations: Vec<String>,
    /// The witness looks away: it looks at all that there is with every write.
    pub unwatched: bool,
}

/// What one plan makes of a frontend.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Allowed {
    pub service: String,
    pub set: Vec<SocketAddr>,
    pub flags: FrontendFlags,
    pub affinity_seconds: u32,
    /// Whom the service admits, where the flags ask.
    pub source_ranges: Vec<IpNetwork>,
}

#[derive(Clone)]
pub struct Kernel(pub Arc<Mutex<State>>);

type Pick<K, V> = fn(&mut State) -> &mut Sheet<K, V>;

/// One map of the kernel.
struct Handle<K, V> {
    kernel: Kernel,
    pick: Pick<K, V>,
    witness: fn(&mut State, &K, Option<&V>),
}

// === impl Kernel ===

impl Kernel {
    pub fn new(frontends: u32, slots: u32, backends: u32, services: u32) -> Self {
        Self(Arc::new(Mutex::new(State {
            frontends: Sheet::new("FRONTENDS", frontends),
            frontends6: Sheet::new("FRONTENDS6", frontends),
            slots: Sheet::new("SLOTS", slots),
            backends: Sheet::new("BACKENDS", backends),
            services: Sheet::new("SERVICES", services),
            service_stats: Sheet::new("SERVICE_STATS", services + 1),
            source_ranges: Sheet::new("SOURCE_RANGES", services * 2),
            service_ranges: Sheet::new("SERVICE_RANGES", 1),
            affinity: Sheet::new("AFFINITY", 1 << 10),
            writes: 0,
            fault: Fault::None,
            random: 0x9E37_79B9_7F4A_7C15,
            now: Instant::now(),
            allowed: BTreeMap::new(),
            protected: BTreeSet::new(),
            rested: Vec::new(),
            freed: BTreeMap::new(),
            gone: BTreeSet::new(),
            violations: Vec::new(),
            unwatched: false,
        })))
    }

    pub fn large() -> Self {
        Self::new(1 << 16, 1 << 16, 1 << 16, 1 << 16)
    }

    pub fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().expect("no test panics under the lock")
    }

    /// A process starts: it knows nothing of rests that an earlier one kept.
    pub fn adopt(&self) -> EbpfBackend {
        {
            let mut state = self.lock();
            state.fault = Fault::None;
            state.rested.clear();
            state.freed.clear();
            state.gone.clear();
        }
        EbpfBackend::adopt(Tables {
            frontends: Frontends::new(
                self.handle(|state| &mut state.frontends, |state, key, value| state.frontend_written(&key_of(key), value)),
                self.handle(|state| &mut state.frontends6, |state, key, value| state.frontend_written(&key_of6(key), value)),
            ),
            slots: Box::new(self.handle(|state| &mut state.slots, State::slot_written)),
            backends: Box::new(self.handle(|state| &mut state.backends, State::backend_written)),
            services: Box::new(self.handle(|state| &mut state.services, State::name_written)),
            service_stats: Box::new(self.handle(|state| &mut state.service_stats, |_, _, _| {})),
            source_ranges: Box::new(self.handle(|state| &mut state.source_ranges, State::source_range_written)),
            service_ranges: Box::new(self.handle(|state| &mut state.service_ranges, |_, _, _| {})),
            affinity: Box::new(self.handle(|state| &mut state.affinity, State::affinity_written)),
        })
        .expect("memory can be read")
    }

    /// What the data path does meanwhile: a client of every frontend with affinity keeps the first backend, and every
    /// service is asked.
    pub fn serve(&self, client: u8) {
        let mut state = self.lock();
        for (key, value) in state.frontends() {
            let Some(slot) = state.slots.map.get(&value.base).copied().filter(|_| value.count > 0) else { continue };
            state.service_stats.map.entry(value.service).or_default().flows += 1;
            if value.affinity_seconds > 0 {
                let client = IpAddr::from([10, 244, 9, client]).into();
                let (port, proto) = (value.service_port, key.protocol);
                let sticky = AffinityKey { client, service: value.service, port, proto, local: 0 };
                let memory = Affinity { backend: slot.backend, generation: slot.generation, ..Affinity::default() };
                state.affinity.map.insert(sticky, memory);
            }
        }
    }

    /// What plans say from now on.
    pub fn allow<'a>(&self, plans: impl IntoIterator<Item = &'a ServicePlan>) {
        let mut state = self.lock();
        state.allowed.clear();
        for plan in plans {
            for frontend in &plan.frontends {
                let allowed = Allowed {
                    service: plan.name.to_string(),
                    set: plan.sets[frontend.set].endpoints.clone(),
                    flags: frontend.flags,
                    affinity_seconds: frontend.affinity_seconds,
                    source_ranges: plan.source_ranges.clone(),
                };
                state.allowed.entry(frontend.key()).or_default().push(allowed);
            }
        }
    }

    fn handle<K, V>(&self, pick: Pick<K, V>, witness: fn(&mut State, &K, Option<&V>)) -> Handle<K, V> {
        Handle { kernel: self.clone(), pick, witness }
    }

    pub fn advance(&self, seconds: u64) -> Instant {
        let mut state = self.lock();
        state.now += Duration::from_secs(seconds);
        state.now
    }

    pub fn now(&self) -> Instant {
        self.advance(0)
    }

    /// Writes since the last call.
    pub fn take_writes(&self) -> u64 {
        std::mem::take(&mut self.lock().writes)
    }

    pub fn assert_sound(&self) {
        let state = self.lock();
        assert!(state.violations.is_empty(), "{:#?}", state.violations);
    }
}

// === impl Sheet ===

impl<K, V> Sheet<K, V> {
    fn new(name: &'static str, capacity: u32) -> Self {
        Self { name, map: BTreeMap::new(), capacity }
    }
}

// === impl Handle ===

impl<K: Ord + Copy, V: Copy> Table<K, V> for Handle<K, V> {
    fn get(&self, key: &K) -> Result<Option<V>, Error> {
        Ok((self.pick)(&mut self.kernel.lock()).map.get(key).copied())
    }

    fn update(&mut self, entries: &[(K, V)]) -> Result<(), Error> {
        let mut state = self.kernel.lock();
        for (key, value) in entries {
            let sheet = (self.pick)(&mut state);
            let (name, capacity) = (sheet.name, sheet.capacity);
            let full = sheet.map.len() >= capacity as usize && !sheet.map.contains_key(key);
            if full || state.fails() {
                return Err(Error::TableFull { table: name, capacity });
            }
            if !state.unwatched {
                (self.witness)(&mut state, key, Some(value));
            }
            (self.pick)(&mut state).map.insert(*key, *value);
            state.writes += 1;
        }
        Ok(())
    }

    fn delete(&mut self, keys: &[K]) -> Result<(), Error> {
        let mut state = self.kernel.lock();
        for key in keys {
            if state.fails() {
                let source = std::io::Error::other("a fault on demand");
                return Err(Error::Table { table: (self.pick)(&mut state).name, source });
            }
            if !state.unwatched {
                (self.witness)(&mut state, key, None);
            }
            (self.pick)(&mut state).map.remove(key);
            state.writes += 1;
        }
        Ok(())
    }

    fn entries(&self) -> Result<Vec<(K, V)>, Error> {
        Ok((self.pick)(&mut self.kernel.lock()).map.iter().map(|(key, value)| (*key, *value)).collect())
    }

    fn capacity(&self) -> u32 {
        (self.pick)(&mut self.kernel.lock()).capacity
    }
}

fn key_of(key: &FrontendKey) -> Key {
    Key { vip: IpAddr::V4(key.vip.into()), port: key.port.to_host(), protocol: key.proto, scope: key.scope }
}

fn key_of6(key: &FrontendKey<Be128>) -> Key {
    Key { vip: IpAddr::V6(key.vip.into()), port: key.port.to_host(), protocol: key.proto, scope: key.scope }
}
