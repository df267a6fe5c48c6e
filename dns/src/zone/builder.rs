//! Owns the next snapshot of the zone and changes it by what became dirty.
//!
//! A service that changed is packed anew; its addresses before and after tell which pointers come and go. What is not of that
//! service is not touched, and nothing is kept here beside the snapshot but counts.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use thalweg_cluster::{Dirty, Name, Pod, World};

use super::config::{Apex, PodMode, ZoneConfig, ZoneError};
use super::entry::Entry;
use super::{PodAddress, Pointer, Slot, Zone, service};

/// The service whose addresses `ns.dns.<zone>` has.
const NAMESERVER_SERVICE: (&str, &str) = ("kube-system", "kube-dns");

pub struct ZoneBuilder {
    zone: Zone,
    nameservers: Arc<[IpAddr]>,
    /// How many services and pods a namespace has.
    namespaces: HashMap<Arc<str>, usize>,
    /// Pods that have names, with their addresses.
    pods: HashMap<Name, Box<[IpAddr]>>,
}

// === impl ZoneBuilder ===

impl ZoneBuilder {
    /// An empty zone, or why it cannot be.
    pub fn new(config: &ZoneConfig) -> Result<Self, ZoneError> {
        let zone = Zone::new(Apex::new(config)?, &config.nameservers);
        Ok(Self { nameservers: zone.nameservers.clone(), zone, namespaces: HashMap::new(), pods: HashMap::new() })
    }

    /// The snapshot as it is now. Cheap: it shares everything with the builder.
    pub fn snapshot(&self) -> Zone {
        self.zone.clone()
    }

    pub fn set_synced(&mut self) {
        self.zone.synced = true;
    }

    /// Looks at these services and pods again.
    pub fn apply(&mut self, world: &World, dirty: &Dirty, serial: u32) {
        self.zone.serial = serial;
        for name in &dirty.services {
            if self.zone.apex.exposes(&name.namespace) {
                self.apply_service(world, name);
            }
            if (&*name.namespace, &*name.name) == NAMESERVER_SERVICE {
                let addresses = world.service(name).map(|service| &service.cluster_ips).filter(|ips| !ips.is_empty());
                self.zone.nameservers = addresses.map_or_else(|| self.nameservers.clone(), |ips| ips.as_slice().into());
            }
        }
        for name in &dirty.pods {
            if self.zone.apex.exposes(&name.namespace) {
                self.apply_pod(name, world.pod(name).map(|pod| &**pod));
            }
        }
    }

    fn apply_service(&mut self, world: &World, name: &Name) {
        let Some(key) = service::key(&name.namespace, Some(&name.name)) else { return };
        let old = self.zone.entry(&key).cloned();
        let new = world.service(name).and_then(|object| service::entry(&self.zone.apex, object, world.slices(name)));
        if old == new {
            return;
        }
        match (&old, &new) {
            (None, Some(_)) => self.count_namespace(&name.namespace, true),
            (Some(_), None) => self.count_namespace(&name.namespace, false),
            _ => {}
        }
        self.point(&key, old.as_ref(), new.as_ref());
        self.put(&key, new);
    }

    /// Brings the pointers from the addresses of one entry of a service to those of the next.
    fn point(&mut self, key: &[u8], old: Option<&Entry>, new: Option<&Entry>) {
        let hash = self.zone.hash(key);
        let service = [(hash >> 32) as u32, hash as u32];
        let [old, new] = [old, new].map(|entry| entry.map(Entry::addresses).unwrap_or_default());
        for (ips, others, comes) in [(&old, &new, false), (&new, &old, true)] {
            for &ip in ips.iter().filter(|ip| others.binary_search(ip).is_err()) {
                let (place, address) = self.zone.place(ip);
                let pointer = Pointer { address, service };
                if comes {
                    self.zone.reverse.insert(place, pointer);
                } else {
                    self.zone.reverse.remove(place, &pointer);
                }
            }
        }
    }

    /// A pod makes its namespace exist, and in verified mode its addresses have names.
    fn apply_pod(&mut self, name: &Name, pod: Option<&Pod>) {
        let old = self.pods.remove(name);
        let verified = self.zone.apex.pods == PodMode::Verified;
        let addresses = |pod: &Pod| if verified { pod.addresses.as_slice().into() } else { Box::default() };
        let new: Option<Box<[IpAddr]>> = pod.map(addresses);
        match (&old, &new) {
            (None, Some(_)) => self.count_namespace(&name.namespace, true),
            (Some(_), None) => self.count_namespace(&name.namespace, false),
            _ => {}
        }
        for &ip in old.iter().flatten() {
            self.zone.pods.remove(self.zone.hash(ip), &PodAddress { ip, pod: name.clone() });
        }
        for &ip in new.iter().flatten() {
            self.zone.pods.insert(self.zone.hash(ip), PodAddress { ip, pod: name.clone() });
        }
        if let Some(new) = new {
            self.pods.insert(name.clone(), new);
        }
    }

    /// A namespace exists as long as something is known to be in it.
    fn count_namespace(&mut self, namespace: &Arc<str>, more: bool) {
        let count = self.namespaces.entry(namespace.clone()).or_default();
        *count = if more { *count + 1 } else { count.saturating_sub(1) };
        let exists = *count > 0;
        if !exists {
            self.namespaces.remove(namespace);
        }
        if let Some(key) = service::key(namespace, None)
            && self.zone.entry(&key).is_some() != exists
        {
            self.put(&key, exists.then(|| Entry::bare(&key)));
        }
    }

    fn put(&mut self, key: &[u8], entry: Option<Entry>) {
        let hash = self.zone.hash(key);
        match entry {
            Some(entry) => self.zone.services.insert(hash, Slot { hash, entry }),
            None => {
                self.zone.services.remove(hash, &Slot { hash, entry: Entry::bare(key) });
            }
        }
    }
}
