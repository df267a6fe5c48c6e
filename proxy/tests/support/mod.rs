//! A kernel in memory: the four maps behind handles, faults on demand, and a witness to every single write.
//!
//! The witness knows what no program may ever see: a frontend whose range does not hold one whole set, a slot written
//! under a frontend or before its rest is over, a backend id that aliases another.

#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use thalweg_abi::{Backend, BackendState, Frontend, FrontendFlags, FrontendKey, Proto, Scope, ServiceName, Slot};
use thalweg_cluster::Name;
use thalweg_loader::{Error, Table};
use thalweg_proxy::ebpf::{EbpfBackend, GRACE, Tables};
use thalweg_proxy::plan::{EndpointSet, PlannedFrontend, ServicePlan};

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
    pub slots: Sheet<u32, Slot>,
    pub backends: Sheet<u32, Backend>,
    pub services: Sheet<u32, ServiceName>,
    pub writes: u64,
    pub fault: Fault,
    random: u64,
    pub now: Instant,
    /// Sets that each frontend may have now: those of every service that claims it.
    pub allowed: BTreeMap<FrontendKey, BTreeSet<Vec<SocketAddrV4>>>,
    /// Frontends that must not be removed yet.
    pub protected: BTreeSet<FrontendKey>,
    /// Ranges without a frontend, since when.
    rested: Vec<(u32, u32, Instant)>,
    /// Backend ids that are free, since when.
    freed: BTreeMap<u32, Instant>,
    pub violations: Vec<String>,
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
            slots: Sheet::new("SLOTS", slots),
            backends: Sheet::new("BACKENDS", backends),
            services: Sheet::new("SERVICES", services),
            writes: 0,
            fault: Fault::None,
            random: 0x9E37_79B9_7F4A_7C15,
            now: Instant::now(),
            allowed: BTreeMap::new(),
            protected: BTreeSet::new(),
            rested: Vec::new(),
            freed: BTreeMap::new(),
            violations: Vec::new(),
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
        }
        EbpfBackend::adopt(Tables::new(
            self.handle(|state| &mut state.frontends, State::frontend_written),
            self.handle(|state| &mut state.slots, State::slot_written),
            self.handle(|state| &mut state.backends, State::backend_written),
            self.handle(|state| &mut state.services, |_, _, _| {}),
        ))
        .expect("memory can be read")
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

// === impl State ===

impl State {
    /// The set that a frontend's range holds; `None` when a slot is missing or disagrees with its backend.
    pub fn set_of(&self, value: &Frontend) -> Option<Vec<SocketAddrV4>> {
        (value.base..value.base + value.count)
            .map(|index| {
                let slot = self.slots.map.get(&index)?;
                let backend = self.backends.map.get(&slot.backend)?;
                let agrees = backend.state == BackendState::READY
                    && (backend.addr, backend.port, backend.generation) == (slot.addr, slot.port, slot.generation);
                agrees.then(|| SocketAddrV4::new(slot.addr.into(), slot.port.to_host()))
            })
            .collect()
    }

    pub fn state_of(&self, at: SocketAddrV4) -> Option<BackendState> {
        let is = |backend: &&Backend| backend.addr == (*at.ip()).into() && backend.port.to_host() == at.port();
        self.backends.map.values().filter(is).map(|backend| backend.state).find(|state| *state != BackendState::FREE)
    }

    fn frontend_written(&mut self, key: &FrontendKey, value: Option<&Frontend>) {
        let old = self.frontends.map.get(key).copied();
        match value {
            Some(value) => {
                if old.is_some_and(|old| *value != old && value.generation != old.generation + 1) {
                    self.violations.push(format!("{key:?}: generation {old:?} -> {value:?}"));
                }
                let set = self.set_of(value);
                if !set.as_ref().is_some_and(|set| self.allowed.get(key).is_some_and(|allowed| allowed.contains(set))) {
                    self.violations.push(format!("{key:?} -> {set:?}, allowed {:?}", self.allowed.get(key)));
                }
                for other in self.frontends.map.values().filter(|other| other.count > 0 && value.count > 0) {
                    let same = (other.base, other.count) == (value.base, value.count);
                    let apart = other.base + other.count <= value.base || value.base + value.count <= other.base;
                    if !same && !apart {
                        self.violations.push(format!("ranges overlap: {other:?} and {value:?}"));
                    }
                }
            }
            None => {
                if self.allowed.contains_key(key) || self.protected.contains(key) {
                    self.violations.push(format!("{key:?} removed"));
                }
            }
        }
        if let Some(old) = old.filter(|old| old.count > 0) {
            let leaves = value.is_none_or(|value| value.base != old.base);
            let others = self.frontends.map.iter().any(|(other, held)| other != key && held.base == old.base && held.count > 0);
            if leaves && !others {
                self.rested.push((old.base, old.base + old.count, self.now));
            }
        }
    }

    fn slot_written(&mut self, index: &u32, _: Option<&Slot>) {
        if let Some((key, value)) =
            self.frontends.map.iter().find(|(_, value)| (value.base..value.base + value.count).contains(index))
        {
            self.violations.push(format!("slot {index} written under {key:?} {value:?}"));
        }
        if let Some(rest) =
            self.rested.iter().find(|(start, end, since)| (*start..*end).contains(index) && *since + GRACE > self.now)
        {
            self.violations.push(format!("slot {index} written while it rests: {rest:?}"));
        }
    }

    fn backend_written(&mut self, id: &u32, value: Option<&Backend>) {
        let Some(value) = value else {
            self.violations.push(format!("backend {id} deleted"));
            return;
        };
        if let Some(old) = self.backends.map.get(id).filter(|old| (old.addr, old.port) != (value.addr, value.port)) {
            let rested = self.freed.get(id).is_none_or(|since| *since + GRACE <= self.now);
            if old.state != BackendState::FREE || value.generation <= old.generation || !rested {
                self.violations.push(format!("backend {id} reused: {old:?} -> {value:?}"));
            }
        }
        if value.state == BackendState::FREE {
            self.freed.insert(*id, self.now);
        }
        if value.state != BackendState::READY {
            let selectable = self.frontends.map.values().any(|frontend| {
                (frontend.base..frontend.base + frontend.count)
                    .any(|index| self.slots.map.get(&index).is_some_and(|slot| slot.backend == *id))
            });
            if selectable {
                self.violations.push(format!("backend {id} is {value:?} while a frontend chooses it"));
            }
        }
    }

    /// Whether the next write fails.
    fn fails(&mut self) -> bool {
        match self.fault {
            Fault::None => false,
            Fault::DeadAfter(limit) => self.writes >= limit,
            Fault::Random(one_in) => {
                self.random ^= self.random << 13;
                self.random ^= self.random >> 7;
                self.random ^= self.random << 17;
                self.random.is_multiple_of(one_in)
            }
        }
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
            (self.witness)(&mut state, key, Some(value));
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
            (self.witness)(&mut state, key, None);
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

pub fn name(text: &str) -> Name {
    let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
    Name::new(namespace, name)
}

/// 10.244.0.n:8080
pub fn endpoint(n: u8) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(10, 244, 0, n), 8080)
}

/// A plan from (VIP's last byte, port, endpoints) and draining endpoints; every VIP has its wildcard.
pub fn plan(service: &str, frontends: &[(u8, u16, &[u8])], draining: &[u8]) -> ServicePlan {
    let mut sets: Vec<EndpointSet> = Vec::new();
    let mut planned = BTreeMap::new();
    let mut add = |vip: u8, port: u16, endpoints: &[u8]| {
        let mut set = EndpointSet { endpoints: endpoints.iter().copied().map(endpoint).collect() };
        set.endpoints.sort();
        let index = sets.iter().position(|held| *held == set).unwrap_or_else(|| {
            sets.push(set);
            sets.len() - 1
        });
        let wildcard = port == 0;
        let frontend = PlannedFrontend {
            vip: Ipv4Addr::new(10, 96, 0, vip),
            port,
            protocol: if wildcard { Proto::ANY } else { Proto::TCP },
            scope: Scope::INTERNAL,
            flags: FrontendFlags(if wildcard { FrontendFlags::WILDCARD } else { 0 }),
            affinity_seconds: 0,
            set: index,
        };
        planned.insert(frontend.key(), frontend);
    };
    for (vip, port, endpoints) in frontends {
        add(*vip, *port, endpoints);
        add(*vip, 0, &[]);
    }
    let mut draining: Vec<SocketAddrV4> = draining.iter().copied().map(endpoint).collect();
    draining.sort();
    ServicePlan { name: name(service), frontends: planned.into_values().collect(), sets, draining }
}
