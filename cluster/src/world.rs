//! The current state of the cluster as one node sees it.
//!
//! A source sends [`Batch`]es; the owner applies each [`Change`] and learns what became [`Dirty`]. Work that
//! follows is proportional to the dirty set, not to the cluster.
//!
//! Every node holds all services and all slices of the cluster. Objects are therefore found by the names that they carry
//! themselves: no index has a copy of a name, and none an allocation that a service with one slice does not fill.

use std::borrow::Borrow;
use std::cmp::Ordering;
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

/// The current state. Slices are found by the service they belong to.
#[derive(Clone, Debug, Default)]
pub struct World {
    services: BTreeSet<Named<Service>>,
    slices: BTreeSet<Named<EndpointSlice>>,
    slices_of: BTreeSet<SlicesOf>,
    nodes: BTreeMap<Arc<str>, Arc<Node>>,
    pods: BTreeSet<Named<Pod>>,
    service_cidrs: BTreeMap<Arc<str>, Arc<ServiceCidr>>,
}

/// An object, found by its own name.
#[derive(Clone, Debug)]
struct Named<T>(Arc<T>);

trait HasName {
    fn name(&self) -> &Name;
}

/// The slices of one service, found by its name.
#[derive(Clone, Debug)]
enum SlicesOf {
    One(Arc<EndpointSlice>),
    /// In name order; never none.
    Several(Box<[Arc<EndpointSlice>]>),
}

// === impl Dirty ===

impl Dirty {
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && self.nodes.is_empty() && self.pods.is_empty() && self.service_cidrs.is_empty()
    }
}

// === impl World ===

impl World {
    /// Applies one change; an object equal to the one held makes nothing dirty.
    pub fn apply(&mut self, change: Change, dirty: &mut Dirty) {
        match change {
            Change::Service(name, object) => {
                if replace_named(&mut self.services, &name, object) {
                    dirty.services.insert(name);
                }
            }
            Change::EndpointSlice(name, object) => self.apply_slice(&name, object, dirty),
            Change::Node(name, object) => {
                if replace(&mut self.nodes, name.clone(), object) {
                    dirty.nodes.insert(name);
                }
            }
            Change::Pod(name, object) => {
                if replace_named(&mut self.pods, &name, object) {
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
    fn apply_slice(&mut self, name: &Name, object: Option<Arc<EndpointSlice>>, dirty: &mut Dirty) {
        let held = self.slices.get(name).map(|held| held.0.clone());
        if !replace_named(&mut self.slices, name, object.clone()) {
            return;
        }
        if let Some(old) = held
            && object.as_ref().is_none_or(|new| new.service != old.service)
        {
            self.change_slices_of(&old.service, |slices| slices.retain(|slice| slice.name != *name));
            dirty.services.insert(old.service.clone());
        }
        let Some(slice) = object else { return };
        self.change_slices_of(&slice.service, |slices| match slices.binary_search_by(|held| held.name.cmp(name)) {
            Ok(at) => slices[at] = slice.clone(),
            Err(at) => {
                slices.reserve_exact(1);
                slices.insert(at, slice.clone());
            }
        });
        dirty.services.insert(slice.service.clone());
        dirty.triggered.extend(slice.last_change.map(|time| (slice.family, time)));
    }

    fn change_slices_of(&mut self, service: &Name, change: impl FnOnce(&mut Vec<Arc<EndpointSlice>>)) {
        let mut slices = self.slices_of.take(service).map(SlicesOf::into_vec).unwrap_or_default();
        change(&mut slices);
        match <[_; 1]>::try_from(slices) {
            Ok([only]) => _ = self.slices_of.insert(SlicesOf::One(only)),
            Err(slices) if slices.is_empty() => {}
            Err(slices) => _ = self.slices_of.insert(SlicesOf::Several(slices.into_boxed_slice())),
        }
    }

    pub fn service(&self, name: &Name) -> Option<&Arc<Service>> {
        self.services.get(name).map(|held| &held.0)
    }

    pub fn services(&self) -> impl ExactSizeIterator<Item = &Arc<Service>> {
        self.services.iter().map(|held| &held.0)
    }

    /// The slices of one service, in name order.
    pub fn slices(&self, service: &Name) -> impl Iterator<Item = &Arc<EndpointSlice>> {
        self.slices_of.get(service).into_iter().flat_map(SlicesOf::as_slice)
    }

    pub fn node(&self, name: &str) -> Option<&Arc<Node>> {
        self.nodes.get(name)
    }

    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.values()
    }

    pub fn pod(&self, name: &Name) -> Option<&Arc<Pod>> {
        self.pods.get(name).map(|held| &held.0)
    }

    pub fn pods(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.pods.iter().map(|held| &held.0)
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

/// The same for objects that are found by their own name, which `name` is.
fn replace_named<T: HasName + PartialEq>(set: &mut BTreeSet<Named<T>>, name: &Name, object: Option<Arc<T>>) -> bool {
    match object {
        Some(object) if set.get(name).is_some_and(|held| *held.0 == *object) => false,
        Some(object) => {
            debug_assert_eq!(object.name(), name, "a change speaks of another object than it carries");
            set.replace(Named(object));
            true
        }
        None => set.remove(name),
    }
}

// === impl Named ===

impl HasName for Service {
    fn name(&self) -> &Name {
        &self.name
    }
}

impl HasName for EndpointSlice {
    fn name(&self) -> &Name {
        &self.name
    }
}

impl HasName for Pod {
    fn name(&self) -> &Name {
        &self.name
    }
}

impl<T: HasName> Borrow<Name> for Named<T> {
    fn borrow(&self) -> &Name {
        self.0.name()
    }
}

impl<T: HasName> Ord for Named<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.name().cmp(other.0.name())
    }
}

impl<T: HasName> PartialOrd for Named<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T: HasName> PartialEq for Named<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<T: HasName> Eq for Named<T> {}

// === impl SlicesOf ===

impl SlicesOf {
    fn as_slice(&self) -> &[Arc<EndpointSlice>] {
        match self {
            Self::One(slice) => std::slice::from_ref(slice),
            Self::Several(slices) => slices,
        }
    }

    fn into_vec(self) -> Vec<Arc<EndpointSlice>> {
        match self {
            Self::One(slice) => vec![slice],
            Self::Several(slices) => slices.into_vec(),
        }
    }
}

impl Borrow<Name> for SlicesOf {
    fn borrow(&self) -> &Name {
        &self.as_slice()[0].service
    }
}

impl Ord for SlicesOf {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_slice()[0].service.cmp(&other.as_slice()[0].service)
    }
}

impl PartialOrd for SlicesOf {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for SlicesOf {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for SlicesOf {}

#[cfg(test)]
mod tests {
    use super::*;

    /// Applies `slice=service` (it belongs to that service now) or `slice` (it is gone), one after the other; what became
    /// dirty each time, and `service: slices` of a and b at the end.
    fn check(script: &str, expected_dirty: &str, expected: [&str; 2]) {
        let name = |text: &str| Name::new("ns", text);
        let mut world = World::default();
        let mut became_dirty = Vec::new();
        for word in script.split_whitespace() {
            let (slice, service) = word.split_once('=').map_or((word, None), |(slice, service)| (slice, Some(service)));
            let object = service.map(|service| {
                let service = name(service);
                let (ports, endpoints) = (Vec::new(), Vec::new());
                Arc::new(EndpointSlice { name: name(slice), service, family: Family::V4, ports, endpoints, last_change: None })
            });
            let mut dirty = Dirty::default();
            world.apply(Change::EndpointSlice(name(slice), object), &mut dirty);
            became_dirty.push(dirty.services.iter().map(|service| &*service.name).collect::<String>());
        }
        assert_eq!(became_dirty.join(" "), expected_dirty, "{script}");
        let slices = |service| world.slices(&name(service)).map(|slice| slice.name.name.to_string()).collect::<Vec<_>>();
        assert_eq!(["a", "b"].map(|service| slices(service).join(" ")), expected, "{script}");
    }

    #[test]
    fn slices_follow_their_service() {
        check("2=a 1=a 3=a", "a a a", ["1 2 3", ""]);
        check("1=a 1=a", "a ", ["1", ""]);
        check("1=a 2=a 1=b", "a a ab", ["2", "1"]);
        check("1=a 1=b 1", "a ab b", ["", ""]);
        check("1 1=a 2=a 1 1", " a a a ", ["2", ""]);
    }
}
