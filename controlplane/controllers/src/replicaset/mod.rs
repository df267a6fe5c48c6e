//! ReplicaSets: as many pods alike as asked for.

pub mod rank;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::action::{Action, Op};
use crate::cache::State;
use crate::claim::claim;
use crate::meta::{self, Key};
use crate::{pod, selector};

pub const COMPONENT: &str = "replicaset-controller";
/// Pods made or removed in one pass.
const BURST: usize = 500;
const FAILURE: &str = "ReplicaFailure";

/// Why the last attempt to make or remove pods went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// `FailedCreate` or `FailedDelete`.
    pub reason: &'static str,
    pub message: String,
}

/// What there is to one set.
pub struct View {
    pub set: Arc<ReplicaSet>,
    /// All pods of the namespace that are its own or nobody's.
    pub pods: Vec<Arc<Pod>>,
    /// Active pods per node, of all sets with the same owner: where there are many, removal begins.
    pub crowds: HashMap<String, usize>,
    pub failure: Option<Failure>,
}

// === impl View ===

impl View {
    pub fn of(state: &State, key: &Key, failure: Option<Failure>) -> Option<Self> {
        let set = Arc::clone(state.replica_sets.get(key)?);
        let uid = meta::uid(&set.metadata);
        let free = state.pods.within(&key.namespace).filter(|one| meta::controller(&one.metadata).is_none());
        let pods: Vec<_> = state.pods.managed(uid).chain(free).cloned().collect();
        let mut crowds = HashMap::new();
        let siblings: Vec<&str> = match meta::controller(&set.metadata) {
            Some(owner) => state.replica_sets.managed(&owner.uid).map(|set| meta::uid(&set.metadata)).collect(),
            None => vec![uid],
        };
        for one in siblings.into_iter().flat_map(|uid| state.pods.managed(uid)).filter(|one| pod::active(one)) {
            *crowds.entry(pod::node(one).to_owned()).or_insert(0) += 1;
        }
        Some(Self { set, pods, crowds, failure })
    }
}

/// One step towards what `view.set` asks for.
pub fn reconcile(view: &View, now: Timestamp) -> Vec<Action> {
    let set = view.set.as_ref();
    let Some(spec) = &set.spec else { return Vec::new() };
    if selector::is_empty(&spec.selector) {
        return Vec::new();
    }
    let claimed = claim(set, &spec.selector, view.pods.iter().cloned(), pod::active);
    if !claimed.changes.is_empty() {
        return claimed.changes;
    }
    let (active, leaving): (Vec<_>, Vec<_>) =
        claimed.owned.into_iter().filter(|one| !pod::finished(one)).partition(|one| pod::active(one));
    let min_ready = meta::seconds(spec.min_ready_seconds.unwrap_or(0));

    // The status first: it tells what is, not what is about to be.
    let mut actions = Vec::new();
    let mut told = set.clone();
    told.status = Some(status(view, &active, leaving.len(), min_ready, now));
    actions.extend(Op::status(set, &told).map(Into::into));
    if !meta::deleting(&set.metadata) {
        actions.extend(manage(view, &active, now));
    }
    let waits = active.iter().filter_map(|one| meta::remaining(pod::ready_since(one)?, min_ready, now));
    actions.extend(waits.min().map(Action::After));
    actions
}

/// Makes the pods that lack, or removes those that are too many.
fn manage(view: &View, active: &[Arc<Pod>], now: Timestamp) -> Option<Action> {
    let set = view.set.as_ref();
    let spec = set.spec.as_ref()?;
    let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
    let owner = meta::reference(set);
    if active.len() < wanted {
        let pod = Box::new(new_pod(set, spec.template.as_ref()?));
        return Some(Action::Pods { pod, count: (wanted - active.len()).min(BURST), owner });
    }
    let extra = (active.len() - wanted).min(BURST);
    let pods = rank::least_wanted(active, &view.crowds, now).into_iter().take(extra);
    let pods: Vec<_> = pods.map(|one| (Key::of(&one.metadata), meta::uid(&one.metadata).to_owned())).collect();
    (!pods.is_empty()).then_some(Action::RemovePods { pods, owner })
}

/// A pod of the set; the server completes its name.
fn new_pod(set: &ReplicaSet, template: &PodTemplateSpec) -> Pod {
    let from = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", meta::name(&set.metadata))),
            namespace: set.metadata.namespace.clone(),
            labels: from.labels,
            annotations: from.annotations,
            finalizers: from.finalizers,
            owner_references: Some(vec![meta::managed_by(set)]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

fn status(view: &View, active: &[Arc<Pod>], leaving: usize, min_ready: Duration, now: Timestamp) -> ReplicaSetStatus {
    let set = view.set.as_ref();
    let template = set.spec.as_ref().and_then(|spec| spec.template.as_ref()?.metadata.as_ref());
    let wanted = template.map(meta::labels);
    let count = |test: &dyn Fn(&Pod) -> bool| number(active.iter().filter(|one| test(one)).count());
    let some = |count: i32| Some(count).filter(|count| *count != 0);
    let old = set.status.clone().unwrap_or_default();
    let mut conditions = old.conditions.clone();
    match &view.failure {
        Some(failure) => fail(conditions.get_or_insert_default(), failure, now),
        None => {
            if let Some(conditions) = &mut conditions {
                conditions.retain(|condition| condition.type_ != FAILURE);
            }
        }
    }
    ReplicaSetStatus {
        replicas: number(active.len()),
        fully_labeled_replicas: some(count(&|one| {
            wanted.is_none_or(|wanted| selector::contains(wanted, meta::labels(&one.metadata)))
        })),
        ready_replicas: some(count(&pod::ready)),
        available_replicas: some(count(&|one| pod::available(one, min_ready, now))),
        terminating_replicas: Some(number(leaving)),
        observed_generation: set.metadata.generation,
        conditions: conditions.filter(|conditions| !conditions.is_empty()),
    }
}

fn fail(conditions: &mut Vec<ReplicaSetCondition>, failure: &Failure, now: Timestamp) {
    let same = |condition: &ReplicaSetCondition| condition.reason.as_deref() == Some(failure.reason);
    if conditions.iter().any(|condition| condition.type_ == FAILURE && same(condition)) {
        return;
    }
    conditions.retain(|condition| condition.type_ != FAILURE);
    conditions.push(ReplicaSetCondition {
        type_: FAILURE.to_owned(),
        status: "True".to_owned(),
        reason: Some(failure.reason.to_owned()),
        message: Some(failure.message.clone()),
        last_transition_time: Some(meta::time(now)),
    });
}

fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests;
