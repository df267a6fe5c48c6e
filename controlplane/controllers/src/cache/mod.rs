//! What the controllers know of the cluster: one table per kind, and the graph of owners over all of them.

mod graph;
mod table;

use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Namespace, Node, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Resource;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::Event;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use graph::{FOREGROUND, Graph, Item, ORPHAN};
pub use table::{Changed, Table};

use crate::meta::{self, Key, Kind};
use crate::queue::Queue;
use crate::route::{Routed, Work};

/// A kind that has a table.
pub trait Cached:
    Resource<DynamicType = ()> + Routed + Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static
{
    /// What the kind is called. Not `kind`, which is the name alone.
    fn names() -> &'static Kind;
    fn table(state: &State) -> &Table<Self>;
    fn table_mut(state: &mut State) -> &mut Table<Self>;
}

/// Declares the tables: field, type, and what its kind is called.
macro_rules! tables {
    ($($field:ident: $type:ty, $group:literal $version:literal $kind:literal $plural:literal $namespaced:literal;)+) => {
        /// Everything known.
        #[derive(Debug, Default)]
        pub struct State {
            $(pub $field: Table<$type>,)+
            pub graph: Graph,
        }

        $(impl Cached for $type {
            fn names() -> &'static Kind {
                static NAMES: Kind =
                    Kind { group: $group, version: $version, kind: $kind, plural: $plural, namespaced: $namespaced };
                &NAMES
            }

            fn table(state: &State) -> &Table<Self> {
                &state.$field
            }

            fn table_mut(state: &mut State) -> &mut Table<Self> {
                &mut state.$field
            }
        })+

        /// The kind of these names, if it has a table.
        pub fn kind(group: &str, kind: &str) -> Option<&'static Kind> {
            match (group, kind) {
                $(($group, $kind) => Some(<$type as Cached>::names()),)+
                _ => None,
            }
        }

        impl State {
            /// Every table has seen a whole list.
            pub fn listed(&self) -> bool {
                true $(&& self.$field.listed())+
            }

            /// The work that follows from everything there is.
            fn all_work(&self, work: &mut Vec<Work>) {
                $(for object in self.$field.iter() {
                    <$type as Routed>::route(self, None, Some(object.as_ref()), work);
                    self.collect::<$type>(None, Some(object.as_ref()), work);
                })+
            }
        }
    };
}

tables! {
    deployments: Deployment, "apps" "v1" "Deployment" "deployments" true;
    replica_sets: ReplicaSet, "apps" "v1" "ReplicaSet" "replicasets" true;
    pods: Pod, "" "v1" "Pod" "pods" true;
    services: Service, "" "v1" "Service" "services" true;
    endpoints: Endpoints, "" "v1" "Endpoints" "endpoints" true;
    slices: EndpointSlice, "discovery.k8s.io" "v1" "EndpointSlice" "endpointslices" true;
    nodes: Node, "" "v1" "Node" "nodes" false;
    leases: Lease, "coordination.k8s.io" "v1" "Lease" "leases" true;
    namespaces: Namespace, "" "v1" "Namespace" "namespaces" false;
    service_accounts: ServiceAccount, "" "v1" "ServiceAccount" "serviceaccounts" true;
    config_maps: PartialObjectMeta<ConfigMap>, "" "v1" "ConfigMap" "configmaps" true;
    secrets: PartialObjectMeta<Secret>, "" "v1" "Secret" "secrets" true;
}

/// The cache as tasks share it. Every change becomes work in the queue.
#[derive(Debug)]
pub struct Cache {
    state: RwLock<State>,
    queue: Arc<Queue<Work>>,
    /// Work is routed only when every table is complete: before, everything would look as if half of it were missing.
    complete: AtomicBool,
}

// === impl State ===

impl State {
    /// Takes in a change: the graph follows, and `work` gets what it makes necessary.
    fn change<K: Cached>(&mut self, change: &Changed<K>, work: &mut Vec<Work>) {
        let (old, new) = (change.old.as_deref(), change.new.as_deref());
        if let Some(old) = old
            && new.is_none_or(|new| meta::uid(new.meta()) != meta::uid(old.meta()))
        {
            self.graph.remove(meta::uid(old.meta()));
        }
        if let Some(new) = new {
            self.graph.put(Item::new(K::names(), new.meta()));
        }
        K::route(self, old, new, work);
        self.collect(old, new, work);
    }

    /// The garbage collector's share of a change.
    fn collect<K: Cached>(&self, old: Option<&K>, new: Option<&K>, work: &mut Vec<Work>) {
        let old = old.map(|old| Item::new(K::names(), old.meta()));
        let new = new.map(|new| Item::new(K::names(), new.meta()));
        crate::gc::route(&self.graph, old.as_ref(), new.as_ref(), work);
    }

    /// Puts an object in place, for tests of what reads the state.
    pub fn insert<K: Cached>(&mut self, object: K) -> Vec<Work> {
        let mut work = Vec::new();
        if let Some(change) = K::table_mut(self).seen(object) {
            self.change(&change, &mut work);
        }
        work
    }
}

// === impl Cache ===

impl Cache {
    pub fn new(queue: Arc<Queue<Work>>) -> Self {
        Self { state: RwLock::default(), queue, complete: AtomicBool::new(false) }
    }

    /// Reads under the lock: pure work only.
    pub fn read<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// An event of the watch.
    pub fn watched<K: Cached>(&self, event: Event<K>) {
        self.write(|table: &mut Table<K>| match event {
            Event::Init => {
                table.list_begins();
                Vec::new()
            }
            Event::InitApply(object) | Event::Apply(object) => table.seen(slim(object)).into_iter().collect(),
            Event::InitDone => table.list_ends(),
            Event::Delete(object) => table.seen_gone(&object).into_iter().collect(),
        });
    }

    /// The server's answer to a write of ours.
    pub fn wrote<K: Cached>(&self, object: K) {
        self.write(|table| table.wrote(slim(object), Instant::now()).into_iter().collect());
    }

    /// The server has removed this object, or does not have it.
    pub fn removed<K: Cached>(&self, key: &Key, uid: &str) {
        self.write(|table: &mut Table<K>| table.removed(key, uid).into_iter().collect());
    }

    /// Our own writes that the watch should have told of by now: key and uid.
    pub fn doubtful<K: Cached>(&self, age: Duration) -> Vec<(Key, String)> {
        self.read(|state| {
            let table = K::table(state);
            let keys = table.doubtful(age, Instant::now());
            keys.into_iter()
                .filter_map(|key| table.get(&key).map(|object| (key, meta::uid(object.meta()).to_owned())))
                .collect()
        })
    }

    /// Takes in an object that was read afresh, as if the watch had told of it.
    pub fn confirmed<K: Cached>(&self, object: K) {
        self.write(|table| table.seen(slim(object)).into_iter().collect());
    }

    fn write<K: Cached>(&self, write: impl FnOnce(&mut Table<K>) -> Vec<Changed<K>>) {
        let mut work = Vec::new();
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        for change in write(K::table_mut(&mut state)) {
            state.change(&change, &mut work);
        }
        // Read and written under the lock only.
        if !self.complete.load(Relaxed) {
            work.clear();
            if state.listed() {
                self.complete.store(true, Relaxed);
                state.all_work(&mut work);
            }
        }
        drop(state);
        if !work.is_empty() {
            self.queue.add_all(work);
        }
    }
}

/// Without what no controller reads.
fn slim<K: Resource>(mut object: K) -> K {
    object.meta_mut().managed_fields = None;
    object
}
