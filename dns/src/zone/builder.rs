//! Owns the next snapshot of the zone and changes it by what became dirty.
//!
//! The work of a change is in proportion to the names of the services that changed: the old contribution of a service is
//! kept, and only the difference to the new one touches the table. Names that several services share (namespaces, the
//! reverse names of addresses) are counted here, beside the table.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use thalweg_cluster::{Dirty, Name, World};

use super::record::{RrSet, RrSetBuilder};
use super::service::{Contribution, Pointer, Rank, contribution};
use super::table::{Dashed, Node, Table};
use super::{Apex, MAX_TTL, PodMode, Zone, ZoneConfig, ZoneError};
use crate::name::{self, WireName};
use crate::query::rtype;

/// Version of the DNS-based service discovery specification that the zone follows.
const SCHEMA: &[u8] = b"\x051.1.0";
/// The service whose addresses `ns.dns.<zone>` has.
const NAMESERVER_SERVICE: (&str, &str) = ("kube-system", "kube-dns");

pub struct ZoneBuilder {
    zone: Zone,
    nameservers: BTreeSet<IpAddr>,
    services: HashMap<Name, Contribution>,
    /// How many services a namespace has.
    namespaces: HashMap<Arc<str>, usize>,
    /// Of all services. Those of one address stand together, the best first.
    pointers: BTreeSet<Pointer>,
}

// === impl ZoneBuilder ===

impl ZoneBuilder {
    /// An empty zone, or why it cannot be.
    pub fn new(config: &ZoneConfig) -> Result<Self, ZoneError> {
        let origin = config.origins.first().ok_or(ZoneError::NoOrigin)?;
        if config.ttl > MAX_TTL {
            return Err(ZoneError::Ttl(config.ttl));
        }
        Self::with_origin(config, origin).ok_or_else(|| ZoneError::Origin(origin.clone()))
    }

    /// `None` when the origin is no name or leaves no room for names below it.
    fn with_origin(config: &ZoneConfig, origin: &str) -> Option<Self> {
        let origin = name::encode(origin)?;
        let dns = name::child("dns", &origin)?;
        let apex = Apex {
            services: name::child("svc", &origin)?,
            pods: name::child("pod", &origin)?,
            nameserver: name::child("ns", &dns)?,
            hostmaster: name::child("hostmaster", &origin)?,
            origin,
            ttl: config.ttl,
            pod_mode: config.pods,
            recursion: config.recursion,
        };
        let version = name::child("dns-version", &apex.origin)?;
        let zone = Zone { apex: Arc::new(apex), table: Table::default(), serial: 0, synced: false };
        let mut builder = Self {
            zone,
            nameservers: config.nameservers.iter().copied().collect(),
            services: HashMap::new(),
            namespaces: HashMap::new(),
            pointers: BTreeSet::new(),
        };
        let apex = builder.zone.apex.clone();
        for name in [&apex.services, &apex.pods, &dns] {
            builder.insert(Node::empty(name.clone()));
        }
        let mut text = RrSetBuilder::new(rtype::TXT, apex.ttl);
        text.push(SCHEMA);
        builder.insert(Node::new(version, text.finish()));
        builder.set_nameserver(None);
        Some(builder)
    }

    /// The snapshot as it is now. Cheap: it shares everything with the builder.
    pub fn snapshot(&self) -> Zone {
        self.zone.clone()
    }

    pub fn set_synced(&mut self) {
        self.zone.synced = true;
    }

    /// Looks at these services again.
    pub fn apply(&mut self, world: &World, dirty: &Dirty, serial: u32) {
        self.zone.serial = serial;
        let mut addresses = BTreeSet::new();
        for service in &dirty.services {
            self.apply_service(world, service, &mut addresses);
            if (&*service.namespace, &*service.name) == NAMESERVER_SERVICE {
                self.set_nameserver(world.service(service).map(|service| &*service.cluster_ips));
            }
        }
        // After all services, so that an address that moved from one to another is written once.
        for ip in addresses {
            self.write_reverse(ip);
        }
    }

    fn apply_service(&mut self, world: &World, service: &Name, addresses: &mut BTreeSet<IpAddr>) {
        let old = self.services.remove(service);
        let mut new = world.service(service).map(|object| contribution(&self.zone.apex, object, world.slices(service)));
        match (&old, &new) {
            (None, Some(_)) => self.count_namespace(&service.namespace, true),
            (Some(_), None) => self.count_namespace(&service.namespace, false),
            _ => {}
        }
        let old = old.unwrap_or_default();
        if let Some(new) = &mut new {
            new.share(&old);
        }
        self.replace(&old, new.as_ref().unwrap_or(&Contribution::default()), addresses);
        if let Some(new) = new {
            self.services.insert(service.clone(), new);
        }
    }

    /// Brings the table from one contribution of a service to the next; says whose reverse names changed.
    fn replace(&mut self, old: &Contribution, new: &Contribution, addresses: &mut BTreeSet<IpAddr>) {
        for node in old.nodes.iter().filter(|node| new.node(&node.name).is_none()) {
            self.zone.table.remove(&node.name);
        }
        for node in new.nodes.iter().filter(|node| old.node(&node.name) != Some(*node)) {
            self.zone.table.insert(node.clone());
        }
        for pointer in old.pointers_beyond(new) {
            self.pointers.remove(pointer);
            addresses.insert(pointer.ip);
        }
        for pointer in new.pointers_beyond(old) {
            self.pointers.insert(pointer.clone());
            addresses.insert(pointer.ip);
        }
    }

    /// A namespace exists as long as it has a service.
    fn count_namespace(&mut self, namespace: &Arc<str>, more: bool) {
        let count = self.namespaces.entry(namespace.clone()).or_default();
        let before = *count;
        *count = if more { before + 1 } else { before.saturating_sub(1) };
        let apex = self.zone.apex.clone();
        match (before, more) {
            (0, true) => {
                if let Some(name) = name::child(namespace, &apex.services) {
                    self.insert(Node::empty(name));
                }
                if let Some(name) = name::child(namespace, &apex.pods).filter(|_| apex.pod_mode == PodMode::Insecure) {
                    let mut node = Node::empty(name);
                    node.dashed = Dashed::Any;
                    self.insert(node);
                }
            }
            (1, false) => {
                self.namespaces.remove(namespace);
                for parent in [&apex.services, &apex.pods] {
                    if let Some(name) = name::child(namespace, parent) {
                        self.zone.table.remove(&name);
                    }
                }
            }
            _ => {}
        }
    }

    fn write_reverse(&mut self, ip: IpAddr) {
        let name = name::reverse(ip);
        let first = Pointer { ip, rank: Rank::BEST, target: WireName::default() };
        let mut pointers = self.pointers.range(first..).take_while(|pointer| pointer.ip == ip).peekable();
        let Some(best) = pointers.peek().map(|pointer| pointer.rank) else {
            self.zone.table.remove(&name);
            return;
        };
        let mut set = RrSetBuilder::new(rtype::PTR, self.zone.apex.ttl);
        pointers.filter(|pointer| pointer.rank == best).for_each(|pointer| set.push(&pointer.target));
        self.insert(Node::new(name, set.finish()));
    }

    /// NS at the apex, and the addresses of the name it points to.
    fn set_nameserver(&mut self, addresses: Option<&[IpAddr]>) {
        let addresses = addresses.filter(|addresses| !addresses.is_empty());
        let addresses = addresses.map_or_else(|| self.nameservers.clone(), |addresses| addresses.iter().copied().collect());
        let apex = self.zone.apex.clone();
        let mut set = RrSetBuilder::new(rtype::NS, apex.ttl);
        set.push(&apex.nameserver);
        set.set_one_target();
        self.insert(Node::new(apex.origin.clone(), set.finish()));
        let sets = [rtype::A, rtype::AAAA].into_iter().filter_map(|rtype| RrSet::addresses(apex.ttl, rtype, &addresses));
        self.insert(Node::new(apex.nameserver.clone(), sets));
    }

    fn insert(&mut self, node: Node) {
        self.zone.table.insert(Arc::new(node));
    }

    /// Everything that the table holds, in order: for comparing two builders.
    #[cfg(test)]
    pub(crate) fn dump(&self) -> std::collections::BTreeMap<WireName, Node> {
        self.zone.table.iter().map(|node| (node.name.clone(), Node::clone(node))).collect()
    }
}
