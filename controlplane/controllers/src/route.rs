//! From a change to the work it makes necessary. Pure: looks at the state as it is after the change.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Namespace, Node, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::PartialObjectMeta;

use crate::cache::State;
use crate::endpoints::{SERVICE_NAME, selector as service_selector, zone};
use crate::meta::{self, Key};
use crate::namespace::{DEFAULT_ACCOUNT, ROOT_CA};
use crate::{node, pod, selector};

/// Leases of nodes live here, under the node's name.
const NODE_LEASES: &str = "kube-node-lease";

/// A unit of work. What it needs to know is read when it is done.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Work {
    Deployment(Key),
    ReplicaSet(Key),
    /// EndpointSlices and Endpoints of a service.
    Service(Key),
    /// Endpoints that somebody made for a service without selector which is gone.
    LostService(Key),
    /// Address ranges of all nodes.
    Ranges,
    /// Health, taints, and the pods that have to leave.
    Node(String),
    /// Removal of a namespace.
    Namespace(String),
    /// What every namespace has.
    Defaults(String),
    /// Garbage collection around the object with this uid.
    Collect(String),
}

/// What follows from a change of this kind.
pub trait Routed: Sized {
    fn route(state: &State, old: Option<&Self>, new: Option<&Self>, work: &mut Vec<Work>);
}

impl Routed for Deployment {
    fn route(state: &State, old: Option<&Self>, new: Option<&Self>, work: &mut Vec<Work>) {
        left(state, meta_of(old), meta_of(new), work);
        work.extend(new.or(old).map(|deployment| Work::Deployment(Key::of(&deployment.metadata))));
    }
}

impl Routed for ReplicaSet {
    fn route(state: &State, old: Option<&Self>, new: Option<&Self>, work: &mut Vec<Work>) {
        left(state, meta_of(old), meta_of(new), work);
        work.extend(new.or(old).map(|set| Work::ReplicaSet(Key::of(&set.metadata))));
        for set in [old, new].into_iter().flatten() {
            let key = Key::of(&set.metadata);
            match meta::controller(&set.metadata) {
                Some(owner) if owner.kind == "Deployment" => work.push(Work::Deployment(key.beside(&owner.name))),
                Some(_) => {}
                None => work.extend(
                    state
                        .deployments
                        .within(&key.namespace)
                        .filter(|deployment| {
                            deployment
                                .spec
                                .as_ref()
                                .is_some_and(|spec| selector::matches(&spec.selector, meta::labels(&set.metadata)))
                        })
                        .map(|deployment| Work::Deployment(Key::of(&deployment.metadata))),
                ),
            }
        }
    }
}

impl Routed for Pod {
    fn route(state: &State, old: Option<&Self>, new: Option<&Self>, work: &mut Vec<Work>) {
        left(state, meta_of(old), meta_of(new), work);
        for one in [old, new].into_iter().flatten() {
            sets_of(state, one, new.is_none(), work);
            services_of(state, one, work);
            let name = pod::node(one);
            if !name.is_empty() && state.nodes.get(&Key::new("", name)).is_none_or(|node| node::concerns_pods(node)) {
                work.push(Work::Node(name.to_owned()));
            }
        }
    }
}

/// The ReplicaSets that have, had or might adopt a pod; and the Deployment that waits for its end.
fn sets_of(state: &State, one: &Pod, gone: bool, work: &mut Vec<Work>) {
    let key = Key::of(&one.metadata);
    match meta::controller(&one.metadata) {
        Some(owner) if owner.kind == "ReplicaSet" => {
            let set = key.beside(&owner.name);
            let deployment = state.replica_sets.get(&set).filter(|_| gone).and_then(|set| meta::controller(&set.metadata));
            work.extend(deployment.map(|deployment| Work::Deployment(key.beside(&deployment.name))));
            work.push(Work::ReplicaSet(set));
        }
        Some(_) => {}
        None => work.extend(
            state
                .replica_sets
                .within(&key.namespace)
                .filter(|set| {
                    set.spec.as_ref().is_some_and(|spec| selector::matches(&spec.selector, meta::labels(&one.metadata)))
                })
                .map(|set| Work::ReplicaSet(Key::of(&set.metadata))),
        ),
    }
}

fn services_of(state: &State, one: &Pod, work: &mut Vec<Work>) {
    let namespace = one.metadata.namespace.as_deref().unwrap_or_default();
    work.extend(
        state
            .services
            .within(namespace)
            .filter(|service| {
                service_selector(service).is_some_and(|wanted| selector::contains(wanted, meta::labels(&one.metadata)))
            })
            .map(|service| Work::Service(Key::of(&service.metadata))),
    );
}

impl Routed for Service {
    fn route(state: &State, old: Option<&Self>, new: Option<&Self>, work: &mut Vec<Work>) {
        left(state, meta_of(old), meta_of(new), work);
        match (old, new) {
            (Some(old), None) if service_selector(old).is_none() => work.push(Work::LostService(Key::of(&old.metadata))),
            _ => work.extend(new.or(old).map(|service| Work::Service(Key::of(&service.metadata)))),
        }
    }
}

impl Routed for Endpoints {
    fn route(state: &State, old: Option<&Self>, new: Option<&Self>, work: &mut Vec<Work>) {
        left(state, meta_of(old), meta_of(new), work);
        work.extend(new.or(old).map(|endpoints| Work::Service(Key::of(&endpoints.metadata))));
    }
}

impl Routed for EndpointSlice {
    fn route(state: &State, old: Option<&Self>, new: Option<&Self>, work: &mut Vec<Work>) {
        left(state, meta_of(old), meta_of(new), work);
        for slice in [old, new].into_iter().flatten() {
            let service = meta::labels(&slice.metadata).get(SERVICE_NAME);
            work.extend(service.map(|service| Work::Service(Key::of(&slice.metadata).beside(service))));
        }
    }
}

impl Routed for Node {
    fn route(state: &State, old: Option<&Self>, new: Option<&Self>, work: &mut Vec<Work>) {
        let Some(name) = new.or(old).map(|node| meta::name(&node.metadata)) else { return };
        work.push(Work::Node(name.to_owned()));
        if new.is_none_or(node::needs_range) {
            work.push(Work::Ranges);
        }
        // Health of the last healthy node decides over evictions from all others.
        if old.is_some_and(node::healthy) != new.is_some_and(node::healthy) {
            let unhealthy = state.nodes.iter().filter(|node| !node::healthy(node));
            work.extend(unhealthy.map(|node| Work::Node(meta::name(&node.metadata).to_owned())));
        }
        if new.is_some() && old.map(zone) != new.map(zone) {
            for one in state.pods.iter().filter(|one| pod::node(one) == name) {
                services_of(state, one, work);
            }
        }
    }
}

impl Routed for Lease {
    fn route(state: &State, old: Option<&Self>, new: Option<&Self>, work: &mut Vec<Work>) {
        left(state, meta_of(old), meta_of(new), work);
        if let Some(lease) = new.or(old)
            && lease.metadata.namespace.as_deref() == Some(NODE_LEASES)
        {
            work.push(Work::Node(meta::name(&lease.metadata).to_owned()));
        }
    }
}

impl Routed for Namespace {
    fn route(_: &State, old: Option<&Self>, new: Option<&Self>, work: &mut Vec<Work>) {
        let Some(namespace) = new else {
            return work.extend(old.map(|namespace| Work::Defaults(meta::name(&namespace.metadata).to_owned())));
        };
        let name = meta::name(&namespace.metadata).to_owned();
        work.push(if meta::deleting(&namespace.metadata) { Work::Namespace(name) } else { Work::Defaults(name) });
    }
}

impl Routed for ServiceAccount {
    fn route(state: &State, old: Option<&Self>, new: Option<&Self>, work: &mut Vec<Work>) {
        left(state, meta_of(old), meta_of(new), work);
        if let (Some(old), None) = (old, new)
            && meta::name(&old.metadata) == DEFAULT_ACCOUNT
        {
            work.push(Work::Defaults(Key::of(&old.metadata).namespace));
        }
    }
}

impl Routed for PartialObjectMeta<ConfigMap> {
    fn route(state: &State, old: Option<&Self>, new: Option<&Self>, work: &mut Vec<Work>) {
        left(state, old.map(|map| &map.metadata), new.map(|map| &map.metadata), work);
        if let Some(map) = new.or(old)
            && meta::name(&map.metadata) == ROOT_CA
        {
            work.push(Work::Defaults(Key::of(&map.metadata).namespace));
        }
    }
}

impl Routed for PartialObjectMeta<Secret> {
    fn route(state: &State, old: Option<&Self>, new: Option<&Self>, work: &mut Vec<Work>) {
        left(state, old.map(|secret| &secret.metadata), new.map(|secret| &secret.metadata), work);
    }
}

/// An object that is gone may have been the last of its namespace.
fn left(state: &State, old: Option<&ObjectMeta>, new: Option<&ObjectMeta>, work: &mut Vec<Work>) {
    if let (Some(old), None) = (old, new)
        && let Some(name) = &old.namespace
        && state.namespaces.get(&Key::new("", name.as_str())).is_some_and(|namespace| meta::deleting(&namespace.metadata))
    {
        work.push(Work::Namespace(name.clone()));
    }
}

fn meta_of<K: kube::Resource>(object: Option<&K>) -> Option<&ObjectMeta> {
    object.map(K::meta)
}

#[cfg(test)]
mod tests;
