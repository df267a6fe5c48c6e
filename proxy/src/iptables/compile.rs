//! A service plan in the terms of this backend, for one family. Pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use ipnetwork::IpNetwork;
use thalweg_abi::{FrontendFlags, Proto, Scope};
use thalweg_cluster::Family;

use super::address::family_of;
use super::chain::{Tree, hash, protocol_name};
use crate::plan::{PlannedFrontend, ServicePlan};

/// What one service wants of one family.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Compiled {
    /// In order, each key once.
    pub entries: Vec<(EntryKey, Action)>,
    pub sets: BTreeMap<u64, Set>,
    pub endpoints: BTreeMap<u64, Endpoint>,
    /// Whom the entries that check sources admit.
    pub sources: BTreeMap<u64, Vec<IpNetwork>>,
    /// Endpoints that keep their flows and get no new ones, in order.
    pub draining: Vec<SocketAddr>,
    /// How many entries are dialled at 127.0.0.1 and may lead elsewhere.
    pub localnet: usize,
}

/// What is dialled. Wildcards sort behind the ports of their address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct EntryKey {
    pub tree: Tree,
    pub vip: IpAddr,
    pub port: PortKey,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct PortKey {
    pub wildcard: bool,
    pub protocol: Proto,
    pub port: u16,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Action {
    /// The entry of [`Compiled::sources`] that says who is admitted; without, everybody is. Others are dropped.
    pub sources: Option<u64>,
    pub verdict: Verdict,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    Refuse,
    Drop,
    Serve { set: u64, masquerade: bool },
}

/// One endpoint set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Set {
    pub endpoints: Vec<u64>,
    /// 0 without affinity.
    pub affinity_seconds: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Endpoint {
    pub to: SocketAddr,
    pub protocol: Proto,
    /// Remembers who was sent here.
    pub affinity: bool,
}

/// True when clients are remembered.
pub(super) fn wants_affinity(plan: &ServicePlan, family: Family) -> bool {
    plan.frontends.iter().any(|frontend| frontend.affinity_seconds > 0 && family_of(frontend.vip) == family)
}

pub(super) fn compile(plan: &ServicePlan, family: Family) -> Compiled {
    let mut compiled = Compiled::default();
    let service = plan.name.to_string();
    // A chain is named after the first frontend that uses it, so that it keeps its name when endpoints change.
    let mut names: BTreeMap<(usize, Proto, u16), u64> = BTreeMap::new();
    for frontend in plan.frontends.iter().filter(|frontend| family_of(frontend.vip) == family) {
        let Some(set) = plan.sets.get(frontend.set) else { continue };
        let verdict = if !set.endpoints.is_empty() {
            // Affinity is a service port's; without it, ports with the same endpoints share their chain.
            let port = if frontend.affinity_seconds > 0 { frontend.service_port } else { 0 };
            let key = (frontend.set, frontend.protocol, port);
            let name = *names.entry(key).or_insert_with(|| set_name(&service, frontend));
            compiled.add_set(name, &service, frontend, &set.endpoints);
            let outside = frontend.scope == Scope::EXTERNAL && !frontend.flags.has(FrontendFlags::LOCAL_ONLY);
            Verdict::Serve { set: name, masquerade: outside }
        } else if frontend.flags.has(FrontendFlags::DROP_WHEN_EMPTY) {
            Verdict::Drop
        } else {
            Verdict::Refuse
        };
        let sources = frontend.flags.has(FrontendFlags::CHECK_SOURCE).then(|| compiled.admit(&service, plan, family));
        let key = EntryKey::of(frontend);
        let leads_elsewhere = set.endpoints.is_empty() || set.endpoints.iter().any(|to| !to.ip().is_loopback());
        compiled.localnet += usize::from(key.is_localnet() && leads_elsewhere);
        compiled.entries.push((key, Action { sources, verdict }));
    }
    compiled.entries.sort_unstable_by_key(|(key, _)| *key);
    compiled.draining = plan.draining.iter().filter(|address| family_of(address.ip()) == family).copied().collect();
    compiled
}

fn set_name(service: &str, frontend: &PlannedFrontend) -> u64 {
    let dialled = format!("{}:{} {}", frontend.vip, frontend.port, frontend.scope.0);
    hash(&["set", service, protocol_name(frontend.protocol), &dialled])
}

// === impl Compiled ===

impl Compiled {
    /// Endpoints to which new flows of an entry go.
    pub fn served(&self, action: Action) -> impl Iterator<Item = SocketAddr> {
        let set = match action.verdict {
            Verdict::Serve { set, .. } => self.sets.get(&set),
            Verdict::Refuse | Verdict::Drop => None,
        };
        let members = set.map_or([].as_slice(), |set| set.endpoints.as_slice());
        members.iter().filter_map(|id| self.endpoints.get(id)).map(|endpoint| endpoint.to)
    }

    fn add_set(&mut self, name: u64, service: &str, frontend: &PlannedFrontend, endpoints: &[SocketAddr]) {
        if self.sets.contains_key(&name) {
            return;
        }
        let affinity = frontend.affinity_seconds > 0;
        let protocol = frontend.protocol;
        // Without affinity a chain says nothing of its service, and all services share it. With it, it is one service
        // port's, whatever address of that was dialled, so what it remembers holds for all of them.
        let owner = if affinity { format!("{service}:{}", frontend.service_port) } else { String::new() };
        let members = endpoints
            .iter()
            .map(|to| {
                let id = hash(&["endpoint", &owner, protocol_name(protocol), &to.to_string()]);
                self.endpoints.insert(id, Endpoint { to: *to, protocol, affinity });
                id
            })
            .collect();
        self.sets.insert(name, Set { endpoints: members, affinity_seconds: frontend.affinity_seconds });
    }

    fn admit(&mut self, service: &str, plan: &ServicePlan, family: Family) -> u64 {
        let id = hash(&["sources", service]);
        self.sources
            .entry(id)
            .or_insert_with(|| plan.source_ranges.iter().filter(|range| family_of(range.ip()) == family).copied().collect());
        id
    }
}

// === impl EntryKey ===

impl EntryKey {
    fn of(frontend: &PlannedFrontend) -> Self {
        let tree = if frontend.scope == Scope::EXTERNAL { Tree::Outside } else { Tree::Inside };
        let wildcard = frontend.flags.has(FrontendFlags::WILDCARD);
        let port = PortKey { wildcard, protocol: frontend.protocol, port: frontend.port };
        Self { tree, vip: frontend.vip, port }
    }

    /// What is dialled; `None` for a wildcard.
    pub fn dialled(&self) -> Option<(Proto, SocketAddr)> {
        (!self.port.wildcard).then(|| (self.port.protocol, SocketAddr::new(self.vip, self.port.port)))
    }

    fn is_localnet(&self) -> bool {
        matches!(self.vip, IpAddr::V4(vip) if vip.is_loopback())
    }
}
