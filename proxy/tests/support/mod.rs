//! A kernel in memory: the maps behind handles, faults on demand, and a witness to every single write.
//!
//! The witness knows what no program may ever see: a frontend whose range does not hold one whole set, a slot written
//! under a frontend or before its rest is over, a backend id that aliases another.

#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use thalweg_abi::{
    Affinity, AffinityKey, Backend, BackendState, Be128, Frontend, FrontendFlags, FrontendKey, Proto, Scope, ServiceName,
    ServiceRanges, ServiceStats, Slot, SourceRangeKey,
};
use thalweg_cluster::Name;
use thalweg_loader::{Error, Table};
use thalweg_proxy::ebpf::{EbpfBackend, Frontends, GRACE, Tables};
use thalweg_proxy::plan::{EndpointSet, Key, PlannedFrontend, ServicePlan};

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
    pub gone: Vec<(u32, u32)>,
    pub violations: Vec<String>,
}

/// What one plan makes of a frontend.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Allowed {
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
            gone: Vec::new(),
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

// === impl State ===

impl State {
    /// The set that a frontend's range holds; `None` when a slot is missing or disagrees with its backend.
    pub fn set_of(&self, value: &Frontend) -> Option<Vec<SocketAddr>> {
        (value.base..value.base + value.count)
            .map(|index| {
                let slot = self.slots.map.get(&index)?;
                let backend = self.backends.map.get(&slot.backend)?;
                let agrees = backend.state == BackendState::READY
                    && (backend.addr, backend.port, backend.generation) == (slot.addr, slot.port, slot.generation);
                agrees.then(|| SocketAddr::new(slot.addr.into(), slot.port.to_host()))
            })
            .collect()
    }

    /// Frontends of both families.
    pub fn frontends(&self) -> BTreeMap<Key, Frontend> {
        let v4 = self.frontends.map.iter().map(|(key, value)| (key_of(key), *value));
        let v6 = self.frontends6.map.iter().map(|(key, value)| (key_of6(key), *value));
        v4.chain(v6).collect()
    }

    pub fn state_of(&self, at: SocketAddr) -> Option<BackendState> {
        let is = |backend: &&Backend| backend.addr == at.ip().into() && backend.port.to_host() == at.port();
        self.backends.map.values().filter(is).map(|backend| backend.state).find(|state| *state != BackendState::FREE)
    }

    /// The ranges that a service number admits.
    pub fn admitted(&self, service: u32) -> BTreeSet<(u32, IpAddr)> {
        let own = self.source_ranges.map.keys().filter(|key| key.range.service == service);
        own.map(|key| (key.prefix, key.range.addr.into())).collect()
    }

    fn frontend_written(&mut self, key: &Key, value: Option<&Frontend>) {
        let held = self.frontends();
        let old = held.get(key).copied();
        match value {
            Some(value) => self.check_frontend(key, value, old, &held),
            None => {
                if self.allowed.contains_key(key) || self.protected.contains(key) {
                    self.violations.push(format!("{key:?} removed"));
                }
            }
        }
        if let Some(old) = old.filter(|old| old.count > 0) {
            let leaves = value.is_none_or(|value| value.base != old.base);
            let others = held.iter().any(|(other, held)| other != key && held.base == old.base && held.count > 0);
            if leaves && !others {
                self.rested.push((old.base, old.base + old.count, self.now));
            }
        }
    }

    fn check_frontend(&mut self, key: &Key, value: &Frontend, old: Option<Frontend>, held: &BTreeMap<Key, Frontend>) {
        let mut violations = Vec::new();
        if old.is_some_and(|old| *value != old && value.generation != old.generation + 1) {
            violations.push(format!("{key:?}: generation {old:?} -> {value:?}"));
        }
        let set = self.set_of(value);
        let allowed = self.allowed.get(key).map_or(&[][..], Vec::as_slice);
        let like = |allowed: &&Allowed| {
            Some(&allowed.set) == set.as_ref()
                && (allowed.flags, allowed.affinity_seconds) == (value.flags, value.affinity_seconds)
        };
        let checks = FrontendFlags::CHECK_SOURCE;
        // A service that cannot move may still close.
        let closes = old.is_some_and(|old| {
            let closed = Frontend { flags: FrontendFlags(old.flags.0 | checks), generation: old.generation + 1, ..old };
            *value == closed && allowed.iter().any(|allowed| allowed.flags.has(checks))
        });
        if !closes && !allowed.iter().any(|allowed| like(&allowed)) {
            violations.push(format!("{key:?} -> {value:?} {set:?}, allowed {allowed:?}"));
        }
        if set.is_some_and(|set| {
            !set.is_sorted_by(|a, b| (Be128::from(a.ip()).octets(), a.port()) < (Be128::from(b.ip()).octets(), b.port()))
        }) {
            violations.push(format!("{key:?}: slots are not in order"));
        }
        if value.flags.has(checks) && self.fault == Fault::None {
            let admitted = self.admitted(value.service);
            let all = |allowed: &Allowed| allowed.source_ranges.iter().all(|range| admitted.contains(&source_range(range)));
            let full = self.source_ranges.map.len() + 4 > self.source_ranges.capacity as usize;
            if !full && !allowed.iter().any(all) {
                violations.push(format!("{key:?}: asks for clients, of whom only {admitted:?} are known yet"));
            }
        }
        let begins =
            value.affinity_seconds > 0 && !held.values().any(|held| held.service == value.service && held.affinity_seconds > 0);
        if begins && self.affinity.map.keys().any(|sticky| sticky.service == value.service) {
            violations.push(format!("{key:?}: affinity begins with what an earlier one left"));
        }
        for other in held.values().filter(|other| other.count > 0 && value.count > 0) {
            let same = (other.base, other.count) == (value.base, value.count);
            let apart = other.base + other.count <= value.base || value.base + value.count <= other.base;
            if !same && !apart {
                violations.push(format!("ranges overlap: {other:?} and {value:?}"));
            }
        }
        self.violations.append(&mut violations);
    }

    fn name_written(&mut self, number: &u32, value: Option<&ServiceName>) {
        if value.is_some() && self.service_stats.map.get(number).is_some_and(|stats| *stats != ServiceStats::default()) {
            self.violations.push(format!("number {number} begins with the counts of its last service"));
        }
        if *number >= self.service_stats.capacity {
            self.violations.push(format!("number {number} cannot be counted"));
        }
        if value.is_none() && !self.admitted(*number).is_empty() {
            self.violations.push(format!("number {number} loses its name before its source ranges"));
        }
    }

    fn source_range_written(&mut self, key: &SourceRangeKey, value: Option<&u32>) {
        if value.is_some() {
            if !self.services.map.contains_key(&key.range.service) {
                self.violations.push(format!("{key:?} of a service without a name"));
            }
            return;
        }
        for (frontend, held) in self.frontends() {
            let asks = held.service == key.range.service && held.flags.has(FrontendFlags::CHECK_SOURCE);
            let range = (key.prefix, IpAddr::from(key.range.addr));
            let mut allowed = self.allowed.get(&frontend).into_iter().flatten();
            // Two services may want the frontend: what each of them admits may change when it passes from one to the other.
            if asks
                && allowed.clone().count() == 1
                && allowed.any(|allowed| allowed.source_ranges.iter().map(source_range).any(|wanted| wanted == range))
            {
                self.violations.push(format!("{key:?} removed while {frontend:?} asks for it"));
            }
        }
    }

    fn affinity_written(&mut self, key: &AffinityKey, _: Option<&Affinity>) {
        if self.frontends().values().any(|held| held.service == key.service && held.affinity_seconds > 0) {
            self.violations.push(format!("{key:?} is forgotten while it counts"));
        }
    }

    fn slot_written(&mut self, index: &u32, _: Option<&Slot>) {
        if let Some((key, value)) =
            self.frontends().iter().find(|(_, value)| (value.base..value.base + value.count).contains(index))
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
            self.gone.push((*id, value.generation));
        } else {
            self.gone.retain(|(gone, _)| gone != id);
        }
        if value.state != BackendState::READY {
            let selectable = self.frontends().values().any(|frontend| {
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

fn key_of(key: &FrontendKey) -> Key {
    Key { vip: IpAddr::V4(key.vip.into()), port: key.port.to_host(), protocol: key.proto, scope: key.scope }
}

fn key_of6(key: &FrontendKey<Be128>) -> Key {
    Key { vip: IpAddr::V6(key.vip.into()), port: key.port.to_host(), protocol: key.proto, scope: key.scope }
}

/// As a key of SOURCE_RANGES has it.
pub fn source_range(range: &IpNetwork) -> (u32, IpAddr) {
    (32 + u32::from(range.prefix()) + if range.is_ipv4() { 96 } else { 0 }, range.network())
}

pub fn name(text: &str) -> Name {
    let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
    Name::new(namespace, name)
}

/// 10.244.0.n:8080
pub fn endpoint(n: u8) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(10, 244, 0, n), 8080))
}

/// [fd00:244::n]:8080
pub fn endpoint6(n: u8) -> SocketAddr {
    SocketAddr::from((Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, n.into()), 8080))
}

pub fn last_byte(at: &SocketAddr) -> u8 {
    match at.ip() {
        IpAddr::V4(ip) => ip.octets()[3],
        IpAddr::V6(ip) => ip.octets()[15],
    }
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
            vip: Ipv4Addr::new(10, 96, 0, vip).into(),
            port,
            protocol: if wildcard { Proto::ANY } else { Proto::TCP },
            scope: Scope::INTERNAL,
            flags: FrontendFlags(if wildcard { FrontendFlags::WILDCARD } else { 0 }),
            affinity_seconds: 0,
            service_port: port,
            set: index,
        };
        planned.insert(frontend.key(), frontend);
    };
    for (vip, port, endpoints) in frontends {
        add(*vip, *port, endpoints);
        add(*vip, 0, &[]);
    }
    let mut draining: Vec<SocketAddr> = draining.iter().copied().map(endpoint).collect();
    draining.sort();
    ServicePlan { name: name(service), frontends: planned.into_values().collect(), sets, draining, source_ranges: Vec::new() }
}

/// The plan, with a twin of IPv6 for everything.
pub fn dual(mut plan: ServicePlan) -> ServicePlan {
    let twins = |endpoints: &[SocketAddr]| endpoints.iter().map(|at| endpoint6(last_byte(at))).collect::<Vec<_>>();
    let own = plan.sets.len();
    plan.sets.extend(plan.sets.clone().iter().map(|set| EndpointSet { endpoints: twins(&set.endpoints) }));
    let twin = |frontend: &PlannedFrontend| {
        let last = last_byte(&SocketAddr::new(frontend.vip, 0));
        let vip = Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, last.into()).into();
        PlannedFrontend { vip, set: frontend.set + own, ..frontend.clone() }
    };
    plan.frontends.extend(plan.frontends.clone().iter().map(twin));
    plan.frontends.sort_by_key(PlannedFrontend::key);
    plan.draining.extend(twins(&plan.draining));
    plan
}

/// The plan, whose clients keep their backends.
pub fn sticky(mut plan: ServicePlan, seconds: u32) -> ServicePlan {
    for frontend in plan.frontends.iter_mut().filter(|frontend| frontend.port != 0) {
        frontend.flags.0 |= FrontendFlags::AFFINITY;
        frontend.affinity_seconds = seconds;
    }
    plan
}

/// The plan, open to some clients only.
pub fn restricted(mut plan: ServicePlan, ranges: &[&str]) -> ServicePlan {
    for frontend in plan.frontends.iter_mut().filter(|frontend| frontend.port != 0) {
        frontend.flags.0 |= FrontendFlags::CHECK_SOURCE;
    }
    plan.source_ranges = ranges.iter().map(|range| range.parse().expect("a network")).collect();
    plan.source_ranges.sort();
    plan
}
