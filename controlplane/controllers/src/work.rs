//! From a key of work to its controller: reads the cache, lets the pure part decide, performs.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Node};
use kube::api::Api;

use crate::meta::{self, Key};
use crate::perform::{Error, Performer, words};
use crate::queue::{Outcome, Queue};
use crate::replicaset::Failure;
use crate::route::Work;
use crate::{Config, deployment, endpoints, gc, namespace, node, replicaset};

/// All controllers.
pub struct Controllers {
    pub performer: Performer,
    pub queue: Arc<Queue<Work>>,
    pub config: Config,
    /// What the API does not tell: the last failure of each ReplicaSet, the last sign of life of each node, and since when a node
    /// with pods is missing.
    failures: Memory<Key, Failure>,
    pulses: Memory<String, (node::Pulse, Timestamp)>,
    missing: Memory<String, Timestamp>,
    /// When we last were seen running.
    awake: Mutex<Timestamp>,
}

/// Time without a tick from which on we must have stood still.
const GAP: Duration = Duration::from_secs(5);
/// How often [`Controllers::notice_gap`] is to be called.
pub const TICK: Duration = Duration::from_secs(1);

/// What a controller remembers between two passes.
struct Memory<K, V>(Mutex<HashMap<K, V>>);

// === impl Memory ===

impl<K, V> Default for Memory<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Hash + Eq + Clone, V: Clone> Memory<K, V> {
    fn with<T>(&self, act: impl FnOnce(&mut HashMap<K, V>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn get(&self, key: &K) -> Option<V> {
        self.with(|map| map.get(key).cloned())
    }

    fn set(&self, key: &K, value: Option<V>) {
        self.with(|map| match value {
            Some(value) => drop(map.insert(key.clone(), value)),
            None => drop(map.remove(key)),
        });
    }
}

// === impl Controllers ===

impl Controllers {
    pub fn new(performer: Performer, queue: Arc<Queue<Work>>, config: Config) -> Self {
        Self {
            performer,
            queue,
            config,
            failures: Memory::default(),
            pulses: Memory::default(),
            missing: Memory::default(),
            awake: Mutex::new(Timestamp::now()),
        }
    }

    /// Does one piece of work and says when to do it again.
    pub async fn run(&self, work: &Work) -> Outcome {
        match self.dispatch(work).await {
            Ok(None) => Outcome::Done,
            Ok(Some(delay)) => Outcome::After(delay),
            Err(error) => {
                if error.expected() {
                    tracing::debug!("{work:?}: {error}");
                } else {
                    tracing::warn!("{work:?}: {error}");
                }
                Outcome::Failed
            }
        }
    }

    async fn dispatch(&self, work: &Work) -> Result<Option<Duration>, Error> {
        let (cache, now) = (&self.performer.cache, Timestamp::now());
        let actions = match work {
            Work::Deployment(key) => {
                cache.read(|state| deployment::View::of(state, key)).map(|view| deployment::reconcile(&view, now))
            }
            Work::ReplicaSet(key) => return self.replica_set(key, now).await,
            Work::Service(key) => Some(endpoints::reconcile(&cache.read(|state| endpoints::View::of(state, key)))),
            Work::LostService(key) => Some(endpoints::reconcile_lost(&cache.read(|state| endpoints::View::of(state, key)))),
            Work::Ranges => {
                let nodes: Vec<_> = cache.read(|state| state.nodes.iter().cloned().collect());
                Some(node::range::reconcile(&nodes, &self.config))
            }
            Work::Node(name) => return self.node(name, now).await,
            Work::Namespace(name) => {
                let namespace = cache.read(|state| state.namespaces.get(&Key::new("", name.as_str())).cloned());
                return match namespace {
                    Some(namespace) => namespace::remove(&self.performer, &namespace, now).await.map(|()| None),
                    None => Ok(None),
                };
            }
            Work::Defaults(name) => return self.defaults(name).await,
            Work::Collect(uid) => return gc::collect(&self.performer, &self.queue, uid).await.map(|()| None),
        };
        self.performer.perform(actions.unwrap_or_default()).await
    }

    async fn replica_set(&self, key: &Key, now: Timestamp) -> Result<Option<Duration>, Error> {
        let failure = self.failures.get(key);
        let Some(view) = self.performer.cache.read(|state| replicaset::View::of(state, key, failure)) else {
            self.failures.set(key, None);
            return Ok(None);
        };
        let answer = self.performer.perform(replicaset::reconcile(&view, now)).await;
        let failure = match &answer {
            Ok(_) => None,
            Err(Error::CreatePods(error)) => Some(Failure { reason: "FailedCreate", message: words(error) }),
            Err(Error::RemovePods(error)) => Some(Failure { reason: "FailedDelete", message: words(error) }),
            Err(_) => return answer,
        };
        let cleared = failure.is_none() && view.failure.is_some();
        self.failures.set(key, failure);
        if cleared {
            // Once more, so that the condition goes although no pod changed.
            self.queue.add(Work::ReplicaSet(key.clone()));
        }
        answer
    }

    async fn node(&self, name: &String, now: Timestamp) -> Result<Option<Duration>, Error> {
        self.notice_gap(now);
        let cache = &self.performer.cache;
        let times = node::Times { grace: self.config.node_grace, eviction: self.config.pod_eviction };
        let mut seen = cache.read(|state| {
            let pulse = node::Pulse::of(state, name);
            self.pulses.with(|pulses| {
                let entry = pulses.entry(name.clone()).or_insert_with(|| (pulse.clone(), now));
                if entry.0 != pulse {
                    *entry = (pulse, now);
                }
                node::View::of(state, name, |node| pulses.get(node).map(|(_, heard)| *heard), times, now)
            })
        });
        if seen.node.is_some() || seen.pods.is_empty() {
            self.missing.set(name, None);
            if seen.node.is_none() {
                self.pulses.set(name, None);
            }
        } else {
            seen.missing_since = self.missing.with(|missing| *missing.entry(name.clone()).or_insert(now));
            if meta::remaining(seen.missing_since, times.grace, now).is_none() {
                // The watch of nodes may be behind that of pods: ask, before anything is removed.
                let api: Api<Node> = Api::all(self.performer.client.clone());
                let found = api.get_opt(name).await.map_err(Error::step(format!("look for node {name}")))?;
                seen.surely_missing = found.is_none();
            }
        }
        self.performer.perform(node::reconcile(&seen, times, now)).await
    }

    /// To be called every second. When it was not, we stood still (the machine slept, the process was stopped), and have missed the
    /// signs of life of that time: silence begins to count anew.
    pub fn notice_gap(&self, now: Timestamp) {
        let before = std::mem::replace(&mut *self.awake.lock().unwrap_or_else(PoisonError::into_inner), now);
        if meta::remaining(before, GAP, now).is_none() {
            tracing::warn!("stood still for {:#}: nodes are given time to be heard again", now.duration_since(before));
            self.pulses.with(|pulses| pulses.values_mut().for_each(|(_, heard)| *heard = now));
        }
    }

    async fn defaults(&self, name: &str) -> Result<Option<Duration>, Error> {
        let (namespace, has_account) = self.performer.cache.read(|state| {
            let namespace = state.namespaces.get(&Key::new("", name)).cloned();
            (namespace, state.service_accounts.get(&Key::new(name, namespace::DEFAULT_ACCOUNT)).is_some())
        });
        let Some(namespace) = namespace.filter(|namespace| !meta::deleting(&namespace.metadata)) else { return Ok(None) };
        let mut actions = namespace::reconcile_defaults(&namespace, has_account);
        if let Some(certificate) = &self.config.root_ca {
            let api: Api<ConfigMap> = Api::namespaced(self.performer.client.clone(), name);
            let current =
                api.get_opt(namespace::ROOT_CA).await.map_err(Error::step(format!("look at the CA of namespace {name}")))?;
            actions.extend(namespace::reconcile_ca(&namespace, current.as_ref(), certificate));
        }
        self.performer.perform(actions).await
    }
}
