//! What a controller wants done, as data: so that reconciling is pure, and tests read what it answers.

use std::fmt;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Namespace, Node, ObjectReference, Pod, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Map, Value, json};

use crate::cache::Cached;
use crate::meta::{self, Key};

/// One step. Steps are taken in order, and none after one that failed.
#[derive(Clone, Debug)]
pub enum Action {
    Deployment(Op<Deployment>),
    ReplicaSet(Op<ReplicaSet>),
    Pod(Op<Pod>),
    Slice(Op<EndpointSlice>),
    Endpoints(Op<Endpoints>),
    Node(Op<Node>),
    Namespace(Op<Namespace>),
    ServiceAccount(Op<ServiceAccount>),
    ConfigMap(Op<ConfigMap>),
    /// That many pods alike, in batches that double for as long as they succeed.
    Pods {
        pod: Box<Pod>,
        count: usize,
        owner: ObjectReference,
    },
    /// Removes these pods (key and uid), several at a time.
    RemovePods {
        pods: Vec<(Key, String)>,
        owner: ObjectReference,
    },
    Event(Notice),
    /// Look again after this time.
    After(Duration),
}

/// A write of one object.
#[derive(Clone, Debug)]
pub enum Op<K> {
    Create(Box<K>),
    /// Merge patch; refused when the object is not the one that was looked at.
    Edit {
        key: Key,
        uid: String,
        patch: Value,
    },
    /// Merge patch of the status; refused when it is another object of that name.
    Status {
        key: Key,
        uid: String,
        patch: Value,
    },
    /// Strategic merge patch of the status, for lists that others write too.
    Conditions {
        key: Key,
        uid: String,
        patch: Value,
    },
    /// `grace` in seconds; `None` leaves it to the object.
    Remove {
        key: Key,
        uid: String,
        grace: Option<u32>,
    },
}

/// What `kubectl describe` shows under Events.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    pub about: ObjectReference,
    pub component: &'static str,
    pub warning: bool,
    pub reason: &'static str,
    pub message: String,
}

// === impl Action ===

macro_rules! actions {
    ($($variant:ident: $kind:ty),+) => {
        $(impl From<Op<$kind>> for Action {
            fn from(op: Op<$kind>) -> Self {
                Self::$variant(op)
            }
        })+
    };
}

actions! {
    Deployment: Deployment, ReplicaSet: ReplicaSet, Pod: Pod, Slice: EndpointSlice, Endpoints: Endpoints, Node: Node,
    Namespace: Namespace, ServiceAccount: ServiceAccount, ConfigMap: ConfigMap
}

impl Action {
    pub fn normal(about: ObjectReference, component: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self::Event(Notice { about, component, warning: false, reason, message: message.into() })
    }

    pub fn warning(about: ObjectReference, component: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self::Event(Notice { about, component, warning: true, reason, message: message.into() })
    }
}

/// Short, for tests and logs: `edit web {"spec":{"replicas":2}}`.
impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deployment(op) => write!(f, "Deployment {op}"),
            Self::ReplicaSet(op) => write!(f, "ReplicaSet {op}"),
            Self::Pod(op) => write!(f, "Pod {op}"),
            Self::Slice(op) => write!(f, "EndpointSlice {op}"),
            Self::Endpoints(op) => write!(f, "Endpoints {op}"),
            Self::Node(op) => write!(f, "Node {op}"),
            Self::Namespace(op) => write!(f, "Namespace {op}"),
            Self::ServiceAccount(op) => write!(f, "ServiceAccount {op}"),
            Self::ConfigMap(op) => write!(f, "ConfigMap {op}"),
            Self::Pods { count, .. } => write!(f, "create {count} pods"),
            Self::RemovePods { pods, .. } => {
                f.write_str("remove pods")?;
                pods.iter().try_for_each(|(key, _)| write!(f, " {}", key.name))
            }
            Self::Event(notice) => write!(f, "event {}: {}", notice.reason, notice.message),
            Self::After(delay) => write!(f, "after {delay:?}"),
        }
    }
}

// === impl Op ===

impl<K: Cached + PartialEq> Op<K> {
    /// What leads from `old` to `new`, outside of the status; `None` when nothing does.
    pub fn edit(old: &K, new: &K) -> Option<Self> {
        if old == new {
            return None;
        }
        let (mut before, mut after) = (value(old), value(new));
        before.remove("status");
        after.remove("status");
        let mut patch = merge_diff(&before.into(), &after.into())?;
        let metadata = old.meta();
        patch["metadata"]["uid"] = json!(metadata.uid);
        patch["metadata"]["resourceVersion"] = json!(metadata.resource_version);
        Some(Self::Edit { key: Key::of(metadata), uid: meta::uid(metadata).to_owned(), patch })
    }

    /// What leads from the status of `old` to that of `new`; `None` when nothing does. Not guarded by the revision: each status
    /// has one writer.
    pub fn status(old: &K, new: &K) -> Option<Self> {
        if old == new {
            return None;
        }
        let status = |object| value(object).remove("status").unwrap_or(Value::Object(Map::new()));
        let patch = merge_diff(&status(old), &status(new))?;
        let metadata = old.meta();
        let patch = json!({"metadata": {"uid": metadata.uid}, "status": patch});
        Some(Self::Status { key: Key::of(metadata), uid: meta::uid(metadata).to_owned(), patch })
    }
}

impl<K: Cached> Op<K> {
    /// Sets conditions by type and leaves all others.
    pub fn conditions(object: &K, conditions: &[Value]) -> Self {
        let metadata = object.meta();
        let patch = json!({"metadata": {"uid": metadata.uid}, "status": {"conditions": conditions}});
        Self::Conditions { key: Key::of(metadata), uid: meta::uid(metadata).to_owned(), patch }
    }

    pub fn remove(object: &K, grace: Option<u32>) -> Self {
        Self::Remove { key: Key::of(object.meta()), uid: meta::uid(object.meta()).to_owned(), grace }
    }
}

impl<K: kube::Resource> fmt::Display for Op<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut say = |verb: &str, key: &Key, patch: &Value| {
            let mut patch = patch.clone();
            if let Some(metadata) = patch.pointer_mut("/metadata").and_then(Value::as_object_mut) {
                metadata.remove("uid");
                metadata.remove("resourceVersion");
                if metadata.is_empty() {
                    patch.as_object_mut().map(|patch| patch.remove("metadata"));
                }
            }
            write!(f, "{verb} {} {patch}", key.name)
        };
        match self {
            Self::Create(object) => {
                let metadata = object.meta();
                write!(f, "create {}", metadata.name.as_deref().or(metadata.generate_name.as_deref()).unwrap_or_default())
            }
            Self::Edit { key, patch, .. } => say("edit", key, patch),
            Self::Status { key, patch, .. } => say("status", key, patch),
            Self::Conditions { key, patch, .. } => say("conditions", key, patch),
            Self::Remove { key, .. } => write!(f, "remove {}", key.name),
        }
    }
}

fn value(object: &impl serde::Serialize) -> Map<String, Value> {
    match serde_json::to_value(object) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

/// The merge patch (RFC 7386) that makes `old` into `new`; `None` when they are equal. Values hold no null.
pub fn merge_diff(old: &Value, new: &Value) -> Option<Value> {
    let (Value::Object(before), Value::Object(after)) = (old, new) else {
        return (old != new).then(|| new.clone());
    };
    let gone = before.keys().filter(|key| !after.contains_key(*key)).map(|key| (key.clone(), Value::Null));
    let changed = after.iter().filter_map(|(key, value)| {
        let patch = match before.get(key) {
            Some(old) => merge_diff(old, value)?,
            None => value.clone(),
        };
        Some((key.clone(), patch))
    });
    let patch: Map<String, Value> = gone.chain(changed).collect();
    (!patch.is_empty()).then_some(Value::Object(patch))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merge_patches() {
        let check = |old: Value, new: Value, expected: Option<Value>| {
            assert_eq!(merge_diff(&old, &new), expected, "{old} to {new}");
        };
        check(json!({"a": 1}), json!({"a": 1}), None);
        check(json!({"a": 1, "b": {"c": 2, "d": 3}}), json!({"a": 1, "b": {"c": 4, "d": 3}}), Some(json!({"b": {"c": 4}})));
        check(json!({"a": {"b": 1}}), json!({}), Some(json!({"a": null})));
        check(json!({}), json!({"a": {"b": [1]}}), Some(json!({"a": {"b": [1]}})));
        check(json!({"a": [1, 2]}), json!({"a": [2]}), Some(json!({"a": [2]})));
        check(json!({"a": {"b": 1}}), json!({"a": 7}), Some(json!({"a": 7})));
    }

    #[test]
    fn writes_are_guarded_and_leave_the_other_half_alone() {
        let old: Deployment = serde_json::from_value(json!({
            "metadata": {"name": "d", "namespace": "n", "uid": "u", "resourceVersion": "5"}, "status": {"replicas": 1},
        }))
        .unwrap();
        let mut new = old.clone();
        new.status.get_or_insert_default().replicas = None;
        new.metadata.annotations = Some([("a".to_owned(), "b".to_owned())].into());
        let Some(Op::Edit { patch, .. }) = Op::edit(&old, &new) else { panic!("no edit") };
        assert_eq!(patch, json!({"metadata": {"annotations": {"a": "b"}, "uid": "u", "resourceVersion": "5"}}));
        let Some(Op::Status { patch, .. }) = Op::status(&old, &new) else { panic!("no status") };
        assert_eq!(patch, json!({"metadata": {"uid": "u"}, "status": {"replicas": null}}));
        assert!(Op::edit(&old, &old.clone()).is_none() && Op::status(&new, &new.clone()).is_none());
    }
}
