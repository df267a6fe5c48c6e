//! What the kernel should hold for one service on one node. Pure: a world and a node's view in, a plan out.
//!
//! The rules are those of Kubernetes; who is chosen is decided in `endpoints`, which addresses are served, for
//! whom and by which set, here.

mod endpoints;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnetwork::IpNetwork;
use thalweg_abi::{FrontendFlags, Proto, Scope};
use thalweg_cluster::{Name, Port, Protocol, Service, ServiceType, TrafficPolicy, World};

use endpoints::{Chosen, choose, merge};

/// How this node sees itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeView {
    pub node: Arc<str>,
    /// Addresses on which NodePorts are served.
    pub addresses: Vec<IpAddr>,
    pub zone: Option<Arc<str>>,
    pub redirect: Option<Redirect>,
    /// NodePorts are also served on 127.0.0.1, for processes of the node.
    pub localhost_node_ports: bool,
}

/// The DNS ports of this service are answered by the node itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Redirect {
    pub service: Name,
    /// The node's own listeners, at most one of each family, for UDP and TCP.
    pub to: Vec<SocketAddr>,
}

/// What the kernel should hold for one service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServicePlan {
    pub name: Name,
    /// In the order of their keys, each key once. Empty: the service is not ours to serve.
    pub frontends: Vec<PlannedFrontend>,
    pub sets: Vec<EndpointSet>,
    /// Endpoints that get no new flows and keep their old ones; in order, disjoint from every set.
    pub draining: Vec<SocketAddr>,
    /// Whom frontends with [`FrontendFlags::CHECK_SOURCE`] admit, of either family; in order, each once.
    pub source_ranges: Vec<IpNetwork>,
}

/// What names a frontend, of either family.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Key {
    pub vip: IpAddr,
    /// 0 in a wildcard.
    pub port: u16,
    pub protocol: Proto,
    pub scope: Scope,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlannedFrontend {
    pub vip: IpAddr,
    /// 0 in a wildcard.
    pub port: u16,
    pub protocol: Proto,
    pub scope: Scope,
    pub flags: FrontendFlags,
    /// 0 without affinity.
    pub affinity_seconds: u32,
    /// The service's own port, whatever the frontend's; 0 in a wildcard.
    pub service_port: u16,
    /// Index into [`ServicePlan::sets`].
    pub set: usize,
}

/// Endpoints for new flows: in order, each once, all of one family.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct EndpointSet {
    pub endpoints: Vec<SocketAddr>,
}

/// A plan in the making.
struct Builder<'a> {
    service: &'a Service,
    view: &'a NodeView,
    frontends: BTreeMap<Key, PlannedFrontend>,
    sets: Vec<EndpointSet>,
}

/// Plans one service. A service that is unknown, headless, an ExternalName or another proxy's has no frontends.
pub fn plan(world: &World, service: &Name, view: &NodeView) -> ServicePlan {
    let nothing = ServicePlan {
        name: service.clone(),
        frontends: Vec::new(),
        sets: Vec::new(),
        draining: Vec::new(),
        source_ranges: Vec::new(),
    };
    let Some(object) = world.service(service).filter(|object| served(object)) else { return nothing };
    let mut builder = Builder { service: object, view, frontends: BTreeMap::new(), sets: Vec::new() };
    let mut listed = Vec::new();
    for port in &object.ports {
        let Some(protocol) = protocol(port.protocol) else { continue };
        let chosen = match &view.redirect {
            Some(redirect) if redirect.service == *service && is_dns(port) => Chosen::fixed(&redirect.to),
            _ => {
                let candidates = merge(world.slices(service), port, &view.node);
                let chosen = choose(&candidates, view);
                listed.push((port.protocol, candidates));
                chosen
            }
        };
        builder.port(port, protocol, &chosen);
    }
    builder
        .wildcards(|address| view.addresses.contains(&address) || world.nodes().any(|node| node.addresses.contains(&address)));

    let mut keep = BTreeSet::new();
    let mut lost = BTreeSet::new();
    for (protocol, candidates) in &listed {
        for (address, candidate) in candidates {
            // An unready endpoint keeps its TCP connections, which break by themselves when it is really gone. A
            // datagram to it would vanish, so UDP flows move; the state is per address, so they take TCP with them.
            if candidate.ready || candidate.serving || *protocol == Protocol::Tcp {
                keep.insert(*address);
            } else {
                lost.insert(*address);
            }
        }
    }
    for set in &builder.sets {
        for endpoint in &set.endpoints {
            keep.remove(endpoint);
        }
    }
    ServicePlan {
        frontends: builder.frontends.into_values().collect(),
        sets: builder.sets,
        draining: keep.difference(&lost).copied().collect(),
        ..nothing
    }
}

/// True for a service whose plan depends on the addresses of nodes.
pub fn depends_on_nodes(service: &Service) -> bool {
    served(service)
        && (service.ports.iter().any(|port| port.node_port != 0)
            || !service.external_ips.is_empty()
            || !service.load_balancer.is_empty())
}

/// True when `loadBalancerSourceRanges` shuts anybody out. Such load balancer addresses are not served until the data
/// path can enforce the ranges: an address that serves everybody would be worse than one that serves nobody.
pub fn restricts_sources(service: &Service) -> bool {
    !service.source_ranges.is_empty() && !service.source_ranges.iter().any(|range| range.prefix() == 0)
}

fn served(service: &Service) -> bool {
    service.proxy_name.is_none() && !service.headless && service.service_type != ServiceType::ExternalName
}

/// The protocols that the data path translates.
fn protocol(protocol: Protocol) -> Option<Proto> {
    match protocol {
        Protocol::Tcp => Some(Proto::TCP),
        Protocol::Udp => Some(Proto::UDP),
        Protocol::Sctp => None,
    }
}

/// Ports of the cluster's DNS service that ask for names; it has others, for its metrics.
fn is_dns(port: &Port) -> bool {
    port.port == 53 || matches!(&*port.name, "dns" | "dns-tcp")
}

// === impl PlannedFrontend ===

impl PlannedFrontend {
    pub fn key(&self) -> Key {
        Key { vip: self.vip, port: self.port, protocol: self.protocol, scope: self.scope }
    }
}

// === impl Builder ===

impl Builder<'_> {
    /// All frontends of one service port.
    fn port(&mut self, port: &Port, protocol: Proto, chosen: &Chosen) {
        let service = self.service;
        let mut add = |vip: IpAddr, number: u16, scope: Scope, policy: TrafficPolicy, flags: u32| {
            let chosen = chosen.of(vip);
            let endpoints = match policy {
                TrafficPolicy::Cluster => &chosen.cluster,
                TrafficPolicy::Local => &chosen.local,
            };
            let mut flags = flags;
            if policy == TrafficPolicy::Local {
                flags |= FrontendFlags::LOCAL_SET;
            }
            if policy == TrafficPolicy::Local && endpoints.is_empty() && chosen.any {
                flags |= FrontendFlags::DROP_WHEN_EMPTY;
            }
            if policy == TrafficPolicy::Local && scope == Scope::EXTERNAL {
                flags |= FrontendFlags::LOCAL_ONLY;
            }
            if service.affinity_seconds.is_some() {
                flags |= FrontendFlags::AFFINITY;
            }
            let frontend = PlannedFrontend {
                vip,
                port: number,
                protocol,
                scope,
                flags: FrontendFlags(flags),
                affinity_seconds: service.affinity_seconds.unwrap_or_default(),
                service_port: port.port,
                set: set_index(&mut self.sets, endpoints),
            };
            self.frontends.entry(frontend.key()).or_insert(frontend);
        };

        for vip in &service.cluster_ips {
            add(*vip, port.port, Scope::INTERNAL, service.internal_policy, 0);
        }
        // From inside, an external address is a short cut to the cluster set, whatever the external policy says.
        let mut external = |vip: IpAddr, number: u16, flags: u32| {
            add(vip, number, Scope::INTERNAL, TrafficPolicy::Cluster, flags);
            add(vip, number, Scope::EXTERNAL, service.external_policy, flags);
        };
        for vip in service.external_ips.iter().copied().chain(balanced(service)) {
            external(vip, port.port, 0);
        }
        if port.node_port != 0 {
            for address in &self.view.addresses {
                external(*address, port.node_port, FrontendFlags::NODE_PORT);
            }
        }
    }

    /// "This address is ours": never for a node's own address, whose other ports are not ours to refuse.
    fn wildcards(&mut self, is_node: impl Fn(IpAddr) -> bool) {
        let service = self.service;
        let served: BTreeSet<IpAddr> = self.frontends.values().map(|frontend| frontend.vip).collect();
        let cluster = service.cluster_ips.iter().copied();
        let external = service.external_ips.iter().copied().chain(balanced(service)).filter(|address| !is_node(*address));
        for vip in cluster.chain(external).filter(|vip| served.contains(vip)) {
            let frontend = PlannedFrontend {
                vip,
                port: 0,
                protocol: Proto::ANY,
                scope: Scope::INTERNAL,
                flags: FrontendFlags(FrontendFlags::WILDCARD),
                affinity_seconds: 0,
                service_port: 0,
                set: set_index(&mut self.sets, &[]),
            };
            self.frontends.entry(frontend.key()).or_insert(frontend);
        }
    }
}

/// The load balancer's addresses that are served on the node.
fn balanced(service: &Service) -> impl Iterator<Item = IpAddr> {
    let open = !restricts_sources(service);
    service.load_balancer.iter().filter(move |address| open && !address.proxied).map(|address| address.ip)
}

fn set_index(sets: &mut Vec<EndpointSet>, endpoints: &[SocketAddr]) -> usize {
    if let Some(index) = sets.iter().position(|set| set.endpoints == endpoints) {
        return index;
    }
    sets.push(EndpointSet { endpoints: endpoints.to_vec() });
    sets.len() - 1
}
