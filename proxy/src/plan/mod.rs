//! What the kernel should hold for one service on one node. Pure: a world and a node's view in, a plan out.
//!
//! The rules are those of Kubernetes: who is chosen is decided in `endpoints`; which addresses are served, for whom and
//! by which set, in `frontends`; who is shut out in `sources`; who keeps old flows here. Ports of the node that lead to its
//! own pods are no services, and planned in [`host_ports`].

mod endpoints;
pub(crate) mod family;
mod frontends;
pub mod host_ports;
mod sources;
#[cfg(test)]
pub(crate) mod tests;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnetwork::IpNetwork;
use thalweg_abi::{FrontendFlags, Proto, Scope};
use thalweg_cluster::{Name, Port, Protocol, Service, ServiceType, World};

use endpoints::Candidates;
use frontends::Builder;

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

/// Plans one service. A service that is unknown, headless, an ExternalName or another proxy's has no frontends.
pub fn plan(world: &World, service: &Name, view: &NodeView) -> ServicePlan {
    plan_with(world, service, view, &|address| world.nodes().any(|node| node.addresses.contains(&address)))
}

/// As [`plan`], for whoever plans many: `is_node` knows the addresses of all nodes, so that nobody has to look for them.
pub fn plan_with(world: &World, service: &Name, view: &NodeView, is_node: &dyn Fn(IpAddr) -> bool) -> ServicePlan {
    let nothing = ServicePlan {
        name: service.clone(),
        frontends: Vec::new(),
        sets: Vec::new(),
        draining: Vec::new(),
        source_ranges: Vec::new(),
    };
    let Some(object) = world.service(service).filter(|object| served(object)) else { return nothing };
    let mut builder = Builder::new(object, view);
    let mut ports = Vec::with_capacity(object.ports.len());
    for port in &object.ports {
        let mut candidates = Candidates::merge(world.slices(service), port, &view.node);
        if let Some(redirect) = &view.redirect
            && redirect.service == *service
            && is_dns(port)
        {
            candidates.replace(&redirect.to);
        }
        builder.port(port, protocol(port.protocol), &mut candidates);
        ports.push((port.protocol, candidates));
    }
    builder.wildcards(|address| view.addresses.contains(&address) || is_node(address));
    let draining = draining(&builder, &ports);
    let checked = builder.frontends.values().any(|frontend| frontend.flags.has(FrontendFlags::CHECK_SOURCE));
    ServicePlan {
        frontends: builder.frontends.into_values().collect(),
        sets: builder.sets,
        draining,
        source_ranges: if checked { builder.sources.ranges.into_iter().collect() } else { Vec::new() },
        ..nothing
    }
}

/// Endpoints that nobody chose and whose flows go on. An unready endpoint keeps its TCP connections, which break by
/// themselves when it is really gone, and so it is with SCTP. A datagram to it would vanish, so UDP flows move; the
/// state is per address, so they take those of other protocols with them.
fn draining(builder: &Builder<'_>, ports: &[(Protocol, Candidates<'_>)]) -> Vec<SocketAddr> {
    let (mut keep, mut lost) = (Vec::new(), Vec::new());
    for (protocol, candidates) in ports {
        for (address, serves) in candidates.left_over().filter(|(address, _)| builder.serves(address.ip())) {
            if serves || *protocol != Protocol::Udp {
                keep.push(address);
            } else {
                lost.push(address);
            }
        }
    }
    keep.sort_unstable();
    keep.dedup();
    lost.sort_unstable();
    let elsewhere = |address: &SocketAddr| builder.sets.iter().any(|set| set.endpoints.binary_search(address).is_ok());
    keep.retain(|address| lost.binary_search(address).is_err() && !elsewhere(address));
    keep
}

/// True for a service whose plan depends on the addresses of this node.
pub fn depends_on_node(service: &Service) -> bool {
    served(service)
        && (service.ports.iter().any(|port| port.node_port != 0)
            || !service.external_ips().is_empty()
            || !service.load_balancer().is_empty())
}

fn served(service: &Service) -> bool {
    service.proxy_name.is_none() && !service.headless && service.service_type != ServiceType::ExternalName
}

fn protocol(protocol: Protocol) -> Proto {
    match protocol {
        Protocol::Tcp => Proto::TCP,
        Protocol::Udp => Proto::UDP,
        Protocol::Sctp => Proto::SCTP,
    }
}

/// Ports of the cluster's DNS service that ask for names; it has others, for its metrics.
fn is_dns(port: &Port) -> bool {
    port.protocol != Protocol::Sctp && (port.port == 53 || matches!(&*port.name, "dns" | "dns-tcp"))
}

// === impl PlannedFrontend ===

impl PlannedFrontend {
    pub fn key(&self) -> Key {
        Key { vip: self.vip, port: self.port, protocol: self.protocol, scope: self.scope }
    }
}
