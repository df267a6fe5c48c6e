//! What no program may ever see, checked at every single write: a frontend whose range does not hold one whole set in order,
//! a slot written under a frontend or before its rest is over, a backend id that aliases another, a door that is open
//! before its keeper is there, a service that begins with what another left.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use thalweg_abi::{
    Affinity, AffinityKey, Backend, BackendState, Be128, Frontend, FrontendFlags, ServiceName, ServiceStats, Slot,
    SourceRangeKey,
};
use thalweg_proxy::ebpf::GRACE;
use thalweg_proxy::plan::Key;

use super::{Allowed, Fault, State, key_of, key_of6, source_range};

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

    pub(super) fn frontend_written(&mut self, key: &Key, value: Option<&Frontend>) {
        let held = self.frontends();
        let old = held.get(key).copied();
        match value {
            // A batch that broke off is written again.
            Some(value) if old == Some(*value) => {}
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
        if old.is_some_and(|old| value.generation != old.generation + 1) {
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

    pub(super) fn name_written(&mut self, number: &u32, value: Option<&ServiceName>) {
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

    pub(super) fn source_range_written(&mut self, key: &SourceRangeKey, value: Option<&u32>) {
        if value.is_some() {
            if !self.services.map.contains_key(&key.range.service) {
                self.violations.push(format!("{key:?} of a service without a name"));
            }
            return;
        }
        let Some(owner) = self.services.map.get(&key.range.service).map(|name| name.as_str().to_owned()) else { return };
        let range = (key.prefix, IpAddr::from(key.range.addr));
        for (frontend, held) in self.frontends() {
            let asks = held.service == key.range.service && held.flags.has(FrontendFlags::CHECK_SOURCE);
            let mut allowed = self.allowed.get(&frontend).into_iter().flatten().filter(|allowed| allowed.service == owner);
            if asks && allowed.any(|allowed| allowed.source_ranges.iter().map(source_range).any(|wanted| wanted == range)) {
                self.violations.push(format!("{key:?} removed while {frontend:?} asks for it"));
            }
        }
    }

    pub(super) fn affinity_written(&mut self, key: &AffinityKey, _: Option<&Affinity>) {
        if self.frontends().values().any(|held| held.service == key.service && held.affinity_seconds > 0) {
            self.violations.push(format!("{key:?} is forgotten while it counts"));
        }
    }

    pub(super) fn slot_written(&mut self, index: &u32, _: Option<&Slot>) {
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

    pub(super) fn backend_written(&mut self, id: &u32, value: Option<&Backend>) {
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
            self.gone.insert((*id, value.generation));
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
    pub(super) fn fails(&mut self) -> bool {
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
