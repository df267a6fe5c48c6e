//! The current state of the cluster as one node sees it.
//!
//! A source sends [`Batch`]es; the owner applies each [`Change`] and learns what became [`Dirty`]. Work that
//! follows is proportional to the dirty set, not to the cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use crate::model::{EndpointSlice, Family, Name, Node, Pod, Service, ServiceCidr};

/// One object that appeared, changed (`Some`) or went away (`None`).
#[derive(Clone, Debug)]
pub enum Change {
    Service(Name, Option<Arc<Service>>),
    EndpointSlice(Name, Option<Arc<EndpointSlice>>),
    Node(Arc<str>, Option<Arc<Node>>),
    Pod(Name, Option<Arc<Pod>>),
    ServiceCidr(Arc<str>, Option<Arc<ServiceCidr>>),
}

/// Changes that arrived together.
#[derive(Clone, Debug)]
pub struct Batch {
    pub changes: Vec<Change>,
    /// Every kind of object has been listed completely; nothing may be removed from the kernel before.
    pub synced: bool,
    /// When the first of the changes was received.
    pub received: Instant,
}

/// What a consumer has to look at again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dirty {
    /// Services whose own object or whose slices changed.
    pub services: BTreeSet<Name>,
    pub nodes: BTreeSet<Arc<str>>,
    pub pods: BTreeSet<Name>,
    pub service_cidrs: BTreeSet<Arc<str>>,
    /// When the writers of the slices that changed learned of the causes, as far as they say so.
    pub triggered: Vec<(Family, SystemTime)>,
}

impl Dirty {
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && self.nodes.is_empty() && self.pods.is_empty() && self.service_cidrs.is_empty()
    }
}

/// The current state. Slices are found by the service they belong to.
#[derive(Clone, Debug, Default)]
pub struct World {
    services: BTreeMap<Name, Arc<Service>>,
    slices: BTreeMap<Name, BTreeMap<Name, Arc<EndpointSlice>>>,
    slice_owner: BTreeMap<Name, Name>,
    nodes: BTreeMap<Arc<str>, Arc<Node>>,
    pods: BTreeMap<Name, Arc<Pod>>,
    service_cidrs: BTreeMap<Arc<str>, Arc<ServiceCidr>>,
}

impl World {
    /// Applies one change; an object equal to the one held makes nothing dirty.
    pub fn apply(&mut self, change: Change, dirty: &mut Dirty) {
        match change {
            Change::Service(name, object) => {
                if replace(&mut self.services, name.clone(), object) {
                    dirty.services.insert(name);
                }
            }
            Change::EndpointSlice(name, object) => self.apply_slice(name, object, dirty),
            Change::Node(name, object) => {
                if replace(&mut self.nodes, name.clone(), object) {
                    dirty.nodes.insert(name);
                }
            }
            Change::Pod(name, object) => {
                if replace(&mut self.pods, name.clone(), object) {
                    dirty.pods.insert(name);
                }
            }
            Change::ServiceCidr(name, object) => {
                if replace(&mut self.service_cidrs, name.clone(), object) {
                    dirty.service_cidrs.insert(name);
                }
            }
        }
    }

    /// A slice may change the service it belongs to: both are dirty then.
    fn apply_slice(&mut self, name: Name, object: Option<Arc<EndpointSlice>>, dirty: &mut Dirty) {
        let old_owner = self.slice_owner.get(&name).cloned();
        let new_owner = object.as_ref().map(|slice| slice.service.clone());
        if let Some(owner) = old_owner.filter(|owner| Some(owner) != new_owner.as_ref()) {
            if let Some(slices) = self.slices.get_mut(&owner) {
                slices.remove(&name);
                if slices.is_empty() {
                    self.slices.remove(&owner);
                }
            }
            self.slice_owner.remove(&name);
            dirty.services.insert(owner);
        }
        let (Some(slice), Some(owner)) = (object, new_owner) else { return };
        self.slice_owner.insert(name.clone(), owner.clone());
        let trigger = slice.last_change.map(|time| (slice.family, time));
        if replace(self.slices.entry(owner.clone()).or_default(), name, Some(slice)) {
            dirty.services.insert(owner);
            dirty.triggered.extend(trigger);
        }
    }

    pub fn service(&self, name: &Name) -> Option<&Arc<Service>> {
        self.services.get(name)
    }

    pub fn services(&self) -> impl ExactSizeIterator<Item = &Arc<Service>> {
        self.services.values()
    }

    /// The slices of one service, in name order.
    pub fn slices(&self, service: &Name) -> impl Iterator<Item = &Arc<EndpointSlice>> {
        self.slices.get(service).into_iter().flat_map(BTreeMap::values)
    }

    pub fn node(&self, name: &str) -> Option<&Arc<Node>> {
        self.nodes.get(name)
    }

    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.values()
    }

    pub fn pod(&self, name: &Name) -> Option<&Arc<Pod>> {
        self.pods.get(name)
    }

    pub fn pods(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.pods.values()
    }

    /// Empty too when the API server knows no ServiceCIDR (before Kubernetes 1.31 it is off by default).
    pub fn service_cidrs(&self) -> impl Iterator<Item = &Arc<ServiceCidr>> {
        self.service_cidrs.values()
    }
}

/// Puts or removes; true when that changed something.
fn replace<K: Ord, V: PartialEq>(map: &mut BTreeMap<K, Arc<V>>, key: K, value: Option<Arc<V>>) -> bool {
    match value {
        Some(value) if map.get(&key).is_some_and(|held| **held == *value) => false,
        Some(value) => {
            map.insert(key, value);
            true
        }
        None => map.remove(&key).is_some(),
    }
}
