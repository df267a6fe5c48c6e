//! What one service contributes to the zone. Pure: from the service and its slices to names.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use thalweg_cluster::{EndpointSlice, Port, Protocol, Service, ServiceType};

use super::record::{RrSet, RrSetBuilder};
use super::table::{Dashed, Node};
use super::{Apex, dashed, parse_dashed};
use crate::name::{self, WireName};
use crate::query::rtype;

/// The names of one service. Names below `service.namespace.svc.<zone>` belong to nobody else.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Contribution {
    /// In the order of their names.
    pub nodes: Box<[Arc<Node>]>,
    /// In order.
    pub pointers: Box<[Pointer]>,
}

/// The name of an address. Several services may say one for the same address.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Pointer {
    pub ip: IpAddr,
    pub rank: Rank,
    pub target: WireName,
}

/// The name of a cluster IP hides the names of endpoints that have the same address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Rank {
    ClusterIp,
    Endpoint,
}

/// Ready endpoints of one label: a hostname, or an address written with dashes.
struct Host {
    name: WireName,
    addresses: BTreeSet<IpAddr>,
    /// The endpoint said its hostname.
    named: bool,
    ports: BTreeSet<(Arc<str>, Protocol, u16)>,
}

struct Names<'a> {
    apex: &'a Apex,
    base: WireName,
    nodes: BTreeMap<WireName, Arc<Node>>,
    pointers: BTreeSet<Pointer>,
}

/// The contribution of a service. A name that DNS cannot carry (too long for the zone) is left out.
pub fn contribution<'a>(apex: &Apex, service: &Service, slices: impl Iterator<Item = &'a Arc<EndpointSlice>>) -> Contribution {
    let base = name::child(&service.name.namespace, &apex.services).and_then(|parent| name::child(&service.name.name, &parent));
    let Some(base) = base else {
        tracing::warn!(service = %service.name, "the name of the service is too long for the zone: it has no DNS name");
        return Contribution::default();
    };
    let mut names = Names { apex, base, nodes: BTreeMap::new(), pointers: BTreeSet::new() };
    if service.service_type == ServiceType::ExternalName {
        names.external(service);
    } else if service.headless {
        names.headless(&hosts(&names.base, service, slices));
    } else if !service.cluster_ips.is_empty() {
        names.cluster_ip(service, &hosts(&names.base, service, slices));
    }
    Contribution { nodes: names.nodes.into_values().collect(), pointers: names.pointers.into_iter().collect() }
}

// === impl Contribution ===

impl Contribution {
    pub fn node(&self, name: &[u8]) -> Option<&Arc<Node>> {
        let index = self.nodes.binary_search_by(|node| (*node.name).cmp(name)).ok()?;
        self.nodes.get(index)
    }

    /// Takes from an older one what is still the same, so that the table and this hold one copy of it.
    pub fn share(&mut self, old: &Self) {
        for node in &mut self.nodes {
            if let Some(same) = old.node(&node.name).filter(|same| *same == node) {
                *node = same.clone();
            }
        }
        for pointer in &mut self.pointers {
            if let Ok(same) = old.pointers.binary_search(pointer) {
                *pointer = old.pointers[same].clone();
            }
        }
    }

    /// The pointers that the other has not.
    pub fn pointers_beyond<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = &'a Pointer> {
        self.pointers.iter().filter(|pointer| other.pointers.binary_search(pointer).is_err())
    }
}

// === impl Rank ===

impl Rank {
    pub const BEST: Self = Self::ClusterIp;
}

// === impl Names ===

impl Names<'_> {
    fn external(&mut self, service: &Service) {
        let target = service.external_name.as_deref().map(|target| target.strip_suffix('.').unwrap_or(target));
        // An alias cannot point to an address; such a service exists, but has nothing to say.
        let target = target.filter(|target| !target.is_empty() && target.parse::<IpAddr>().is_err()).and_then(name::encode);
        let alias = target.and_then(|target| RrSet::alias(self.apex.ttl, &target));
        self.put(self.base.clone(), alias);
    }

    fn cluster_ip(&mut self, service: &Service, hosts: &BTreeMap<String, Host>) {
        let addresses: BTreeSet<IpAddr> = service.cluster_ips.iter().copied().collect();
        for &ip in &addresses {
            self.pointers.insert(Pointer { ip, rank: Rank::ClusterIp, target: self.base.clone() });
        }
        let target = self.base.clone();
        let targets = |wanted: Option<&Port>| {
            let ports = service
                .ports
                .iter()
                .filter(|port| wanted.is_none_or(|wanted| port.name == wanted.name && port.protocol == wanted.protocol));
            ports.map(|port| (port.port, &target, &addresses)).collect::<BTreeSet<_>>()
        };
        let mut sets = self.address_sets(&addresses);
        sets.extend(self.services_set(&targets(None)));
        self.put_base(sets, hosts);
        for port in service.ports.iter().filter(|port| !port.name.is_empty()) {
            let set = self.services_set(&targets(Some(port)));
            self.put_port(&port.name, port.protocol, set);
        }
        self.hosts(hosts, |host| host.named);
    }

    /// Without a ready endpoint nothing of a headless service exists.
    fn headless(&mut self, hosts: &BTreeMap<String, Host>) {
        if hosts.is_empty() {
            return;
        }
        let addresses = hosts.values().flat_map(|host| &host.addresses).copied().collect();
        let mut all = BTreeSet::new();
        let mut named: BTreeMap<(&str, Protocol), BTreeSet<_>> = BTreeMap::new();
        for host in hosts.values() {
            for (name, protocol, port) in &host.ports {
                let target = (*port, &host.name, &host.addresses);
                all.insert(target);
                if !name.is_empty() {
                    named.entry((name, *protocol)).or_default().insert(target);
                }
            }
        }
        let mut sets = self.address_sets(&addresses);
        sets.extend(self.services_set(&all));
        self.put_base(sets, hosts);
        for ((name, protocol), targets) in named {
            let set = self.services_set(&targets);
            self.put_port(name, protocol, set);
        }
        self.hosts(hosts, |_| true);
    }

    /// The names of endpoints, and for some of them the names of their addresses.
    fn hosts(&mut self, hosts: &BTreeMap<String, Host>, has_pointer: impl Fn(&Host) -> bool) {
        for host in hosts.values() {
            if host.dashed().is_none() {
                let sets = self.address_sets(&host.addresses);
                self.put(host.name.clone(), sets);
            }
            if has_pointer(host) {
                for &ip in &host.addresses {
                    self.pointers.insert(Pointer { ip, rank: Rank::Endpoint, target: host.name.clone() });
                }
            }
        }
    }

    fn address_sets(&self, addresses: &BTreeSet<IpAddr>) -> Vec<RrSet> {
        [rtype::A, rtype::AAAA].into_iter().filter_map(|rtype| RrSet::addresses(self.apex.ttl, rtype, addresses)).collect()
    }

    /// SRV records: priority 0, and the weight shared evenly.
    fn services_set(&self, targets: &BTreeSet<(u16, &WireName, &BTreeSet<IpAddr>)>) -> Option<RrSet> {
        let weight = (100 / targets.len().max(1)).max(1) as u16;
        let mut set = RrSetBuilder::new(rtype::SRV, self.apex.ttl);
        let mut with_glue = BTreeSet::new();
        let one_target = targets.iter().is_sorted_by(|(_, a, _), (_, b, _)| a == b);
        if one_target {
            set.set_one_target();
        }
        for &(port, target, addresses) in targets {
            let mut data = Vec::with_capacity(6 + target.len());
            data.extend_from_slice(&0u16.to_be_bytes());
            data.extend_from_slice(&weight.to_be_bytes());
            data.extend_from_slice(&port.to_be_bytes());
            data.extend_from_slice(target);
            set.push(&data);
            if !one_target && with_glue.insert(target) {
                set.push_glue(addresses);
            }
        }
        set.finish()
    }

    /// `_port._protocol.service…` and, so that nothing below a missing name exists, `_protocol.service…`.
    fn put_port(&mut self, port: &str, protocol: Protocol, set: Option<RrSet>) {
        let label = match protocol {
            Protocol::Tcp => "_tcp",
            Protocol::Udp => "_udp",
            Protocol::Sctp => "_sctp",
        };
        let parent = name::child(label, &self.base);
        let Some((parent, name)) =
            parent.and_then(|parent| name::child(&format!("_{port}"), &parent).map(|name| (parent, name)))
        else {
            return;
        };
        self.put(parent, None);
        self.put(name, set);
    }

    /// The name of the service itself, which knows those of its hosts that are but addresses.
    fn put_base(&mut self, sets: Vec<RrSet>, hosts: &BTreeMap<String, Host>) {
        let dashed: BTreeSet<IpAddr> = hosts.values().filter_map(Host::dashed).collect();
        let mut node = Node::new(self.base.clone(), sets);
        node.dashed = Dashed::Only(dashed.into_iter().collect());
        self.nodes.insert(self.base.clone(), Arc::new(node));
    }

    fn put(&mut self, name: WireName, sets: impl IntoIterator<Item = RrSet>) {
        self.nodes.insert(name.clone(), Arc::new(Node::new(name, sets)));
    }
}

// === impl Host ===

impl Host {
    /// The address that its name spells, when its name does and nothing else is to be said of it.
    fn dashed(&self) -> Option<IpAddr> {
        let address = parse_dashed(name::first_label(&self.name))?;
        (!self.named && self.addresses.iter().eq([&address])).then_some(address)
    }
}

/// Ready endpoints by label. One endpoint may stand in two slices for a moment: it counts once.
fn hosts<'a>(
    base: &WireName,
    service: &Service,
    slices: impl Iterator<Item = &'a Arc<EndpointSlice>>,
) -> BTreeMap<String, Host> {
    let mut hosts: BTreeMap<String, Host> = BTreeMap::new();
    for slice in slices {
        let ready = slice.endpoints.iter().filter(|endpoint| endpoint.condition.ready || service.publish_not_ready);
        for endpoint in ready {
            let ip = endpoint.address;
            let hostname = endpoint.hostname.as_deref().filter(|hostname| !hostname.is_empty());
            let label = hostname.map_or_else(|| dashed(ip), str::to_ascii_lowercase);
            let Some(name) = name::child(&label, base) else { continue };
            let empty = || Host { name, addresses: BTreeSet::new(), named: false, ports: BTreeSet::new() };
            let host = hosts.entry(label).or_insert_with(empty);
            host.addresses.insert(ip);
            host.named |= hostname.is_some();
            let ports = slice.ports.iter().filter(|port| port.port != 0);
            host.ports.extend(ports.map(|port| (port.name.clone(), port.protocol, port.port)));
        }
    }
    hosts
}
