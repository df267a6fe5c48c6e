//! Which addresses of a service are served, for whom, and by which set of endpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use thalweg_abi::{FrontendFlags, Proto, Scope};
use thalweg_cluster::{Family, Port, Service, TrafficPolicy};

use super::endpoints::Candidates;
use super::family::{PerFamily, family_of};
use super::sources::Sources;
use super::{EndpointSet, Key, NodeView, PlannedFrontend};

/// The frontends of a service in the making.
pub(super) struct Builder<'a> {
    service: &'a Service,
    view: &'a NodeView,
    /// A family without a cluster IP is not served at all, whatever other addresses it has.
    served: PerFamily<bool>,
    pub sources: Sources,
    pub frontends: BTreeMap<Key, PlannedFrontend>,
    pub sets: Vec<EndpointSet>,
}

/// Who answers for one service port: made when the first frontend asks.
#[derive(Clone, Copy, Default)]
struct Answer {
    cluster: Option<usize>,
    local: Option<usize>,
}

/// One service port while its frontends are made.
struct PortSets<'p, 'c> {
    port: &'p Port,
    protocol: Proto,
    candidates: &'p mut Candidates<'c>,
    answers: PerFamily<Answer>,
}

// === impl Builder ===

impl<'a> Builder<'a> {
    pub fn new(service: &'a Service, view: &'a NodeView) -> Self {
        let mut served = PerFamily::default();
        for address in &service.cluster_ips {
            *served.of_mut(family_of(*address)) = true;
        }
        let (frontends, sets) = (BTreeMap::new(), Vec::new());
        Self { service, view, served, sources: Sources::of(service, view), frontends, sets }
    }

    pub fn serves(&self, address: IpAddr) -> bool {
        *self.served.of(family_of(address))
    }

    /// All frontends of one service port.
    pub fn port(&mut self, port: &Port, protocol: Proto, candidates: &mut Candidates<'_>) {
        let (service, view) = (self.service, self.view);
        let sets = &mut PortSets { port, protocol, candidates, answers: PerFamily::default() };
        for vip in &service.cluster_ips {
            self.add(sets, *vip, port.port, Scope::INTERNAL, service.internal_policy, 0);
        }
        for vip in service.external_ips() {
            self.external(sets, *vip, port.port, 0);
        }
        for vip in balanced(service) {
            let check = if self.sources.checks(vip) { FrontendFlags::CHECK_SOURCE } else { 0 };
            self.external(sets, vip, port.port, check);
        }
        if port.node_port != 0 {
            // Loopback has no outside.
            for address in view.addresses.iter().filter(|address| !address.is_loopback()) {
                self.external(sets, *address, port.node_port, FrontendFlags::NODE_PORT);
            }
            if view.localhost_node_ports || view.addresses.contains(&Ipv4Addr::LOCALHOST.into()) {
                let address = Ipv4Addr::LOCALHOST.into();
                self.add(sets, address, port.node_port, Scope::INTERNAL, TrafficPolicy::Cluster, FrontendFlags::NODE_PORT);
            }
        }
    }

    /// From inside, an external address is a short cut to the cluster set, whatever the external policy says.
    fn external(&mut self, sets: &mut PortSets<'_, '_>, vip: IpAddr, number: u16, flags: u32) {
        self.add(sets, vip, number, Scope::INTERNAL, TrafficPolicy::Cluster, flags);
        self.add(sets, vip, number, Scope::EXTERNAL, self.service.external_policy, flags);
    }

    /// The first to claim an address and a port has them.
    fn add(&mut self, sets: &mut PortSets<'_, '_>, vip: IpAddr, number: u16, scope: Scope, policy: TrafficPolicy, flags: u32) {
        let key = Key { vip, port: number, protocol: sets.protocol, scope };
        if !self.serves(vip) || self.frontends.contains_key(&key) {
            return;
        }
        let set = self.answer(sets, family_of(vip), policy);
        let mut flags = flags;
        if policy == TrafficPolicy::Local {
            flags |= FrontendFlags::LOCAL_SET;
            if scope == Scope::EXTERNAL {
                flags |= FrontendFlags::LOCAL_ONLY;
            }
            if self.sets[set].endpoints.is_empty() && sets.candidates.any(family_of(vip)) {
                flags |= FrontendFlags::DROP_WHEN_EMPTY;
            }
        }
        if self.service.affinity_seconds.is_some() {
            flags |= FrontendFlags::AFFINITY;
        }
        let frontend = PlannedFrontend {
            vip,
            port: number,
            protocol: sets.protocol,
            scope,
            flags: FrontendFlags(flags),
            affinity_seconds: self.service.affinity_seconds.unwrap_or_default(),
            service_port: sets.port.port,
            set,
        };
        self.frontends.insert(key, frontend);
    }

    /// The set that a policy chooses, as an index.
    fn answer(&mut self, port: &mut PortSets<'_, '_>, family: Family, policy: TrafficPolicy) -> usize {
        let answer = *port.answers.of(family);
        let known = match policy {
            TrafficPolicy::Cluster => answer.cluster,
            TrafficPolicy::Local => answer.local,
        };
        if let Some(index) = known {
            return index;
        }
        let endpoints = match policy {
            TrafficPolicy::Cluster => port.candidates.cluster(family, self.view),
            TrafficPolicy::Local => port.candidates.local(family),
        };
        let index = self.set_index(endpoints);
        let answer = port.answers.of_mut(family);
        match policy {
            TrafficPolicy::Cluster => answer.cluster = Some(index),
            TrafficPolicy::Local => answer.local = Some(index),
        }
        index
    }

    /// "This address is ours": never for a node's own address, whose other ports are not ours to refuse.
    pub fn wildcards(&mut self, is_node: impl Fn(IpAddr) -> bool) {
        let service = self.service;
        let served: BTreeSet<IpAddr> = self.frontends.keys().map(|key| key.vip).collect();
        let cluster = service.cluster_ips.iter().copied();
        let external = service.external_ips().iter().copied().chain(balanced(service)).filter(|address| !is_node(*address));
        for vip in cluster.chain(external).filter(|vip| served.contains(vip)) {
            let frontend = PlannedFrontend {
                vip,
                port: 0,
                protocol: Proto::ANY,
                scope: Scope::INTERNAL,
                flags: FrontendFlags(FrontendFlags::WILDCARD),
                affinity_seconds: 0,
                service_port: 0,
                set: self.set_index(Vec::new()),
            };
            self.frontends.entry(frontend.key()).or_insert(frontend);
        }
    }

    /// Ports that share their endpoints share a set.
    fn set_index(&mut self, endpoints: Vec<SocketAddr>) -> usize {
        self.sets.iter().position(|set| set.endpoints == endpoints).unwrap_or_else(|| {
            self.sets.push(EndpointSet { endpoints });
            self.sets.len() - 1
        })
    }
}

/// The load balancer's addresses that are served on the node.
fn balanced(service: &Service) -> impl Iterator<Item = IpAddr> {
    service.load_balancer().iter().filter(|address| !address.proxied).map(|address| address.ip)
}
