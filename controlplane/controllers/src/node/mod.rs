//! Nodes: address ranges, health by lease, taints, and the pods that have to leave.

mod evict;
mod health;
pub mod range;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod};

use crate::action::{Action, Op};
use crate::cache::State;
use crate::meta::{self, Key};
use crate::pod;

const COMPONENT: &str = "node-controller";
const NODE_LEASES: &str = "kube-node-lease";

/// What there is to one node.
pub struct View {
    pub name: String,
    pub node: Option<Arc<Node>>,
    /// The pods bound to it, when there is a reason to look at them.
    pub pods: Vec<Arc<Pod>>,
    /// When we last had a sign of life.
    pub heard: Timestamp,
    /// When we first saw that the node is not there.
    pub missing_since: Timestamp,
    /// The API server confirmed that the node is not there.
    pub surely_missing: bool,
    /// No node is well: the fault is more likely ours than theirs, and nothing is taken away because of it.
    pub all_sick: bool,
}

/// Times that the operator chose.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    pub grace: Duration,
    pub eviction: Duration,
}

/// What a node says of itself, for telling whether it says anything new.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pulse {
    renewed: Option<Timestamp>,
    beat: Option<Timestamp>,
}

// === impl Pulse ===

impl Pulse {
    pub fn of(state: &State, name: &str) -> Self {
        let lease: Option<&Arc<Lease>> = state.leases.get(&Key::new(NODE_LEASES, name));
        let node = state.nodes.get(&Key::new("", name));
        Self {
            renewed: lease.and_then(|lease| lease.spec.as_ref()?.renew_time.as_ref()).map(|time| time.0),
            beat: node.and_then(|node| condition(node, "Ready")?.last_heartbeat_time.as_ref()).map(|time| time.0),
        }
    }
}

// === impl View ===

impl View {
    /// `heard` tells when we last had a sign of life of a node.
    pub fn of(state: &State, name: &str, heard: impl Fn(&str) -> Option<Timestamp>, times: Times, now: Timestamp) -> Self {
        let node = state.nodes.get(&Key::new("", name)).cloned();
        let all = || state.pods.iter().filter(|one| pod::node(one) == name).cloned().collect();
        // Those of a node that is well are many, change often, and are none of our business. One that has just fallen silent is not.
        let pods = if node.as_deref().is_none_or(|node| concerns_pods(node) || !healthy(node)) { all() } else { Vec::new() };
        // Half of the grace: when nobody is heard any more, the first whose time is over must not look like the only one.
        let recent = |node: &str| heard(node).is_some_and(|heard| meta::remaining(heard, times.grace / 2, now).is_some());
        let well = |node: &Arc<Node>| healthy(node) && recent(meta::name(&node.metadata));
        Self {
            name: name.to_owned(),
            node,
            pods,
            heard: heard(name).unwrap_or(now),
            missing_since: now,
            surely_missing: false,
            all_sick: !state.nodes.iter().any(well),
        }
    }
}

pub fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

/// Says that it is ready, and is believed.
pub fn healthy(node: &Node) -> bool {
    condition(node, "Ready").is_some_and(|condition| condition.status == "True")
}

/// Its pods have to be looked at: it is not well, or drives pods away.
pub fn concerns_pods(node: &Node) -> bool {
    !healthy(node) || evict::taints(node).next().is_some()
}

pub fn needs_range(node: &Node) -> bool {
    !meta::deleting(&node.metadata) && range::of(node).is_empty()
}

/// One step: conditions and taints of a node, the readiness and the removal of its pods.
pub fn reconcile(view: &View, times: Times, now: Timestamp) -> Vec<Action> {
    let Some(node) = view.node.as_deref() else { return vanished(view, times, now) };
    let mut actions = Vec::new();
    let (judgement, again) = health::judge(node, view.heard, times.grace, now);
    if let Some(judgement) = judgement {
        // What follows from it comes with the next pass, when the node is as judged.
        if healthy(node) {
            let message = format!("Node {} status is now: NodeNotReady", view.name);
            actions.push(Action::normal(meta::reference(node), COMPONENT, "NodeNotReady", message));
        }
        actions.push(judgement);
        return actions;
    }
    let mut tainted = node.clone();
    health::set_taints(&mut tainted, now);
    actions.extend(Op::edit(node, &tainted).map(Into::into));
    // A node that only says that it is not ready still speaks for its pods.
    if !view.all_sick && condition(node, "Ready").is_some_and(|condition| condition.status == "Unknown") {
        let message = format!("node {} does not answer", view.name);
        actions.extend(view.pods.iter().filter_map(|one| health::not_ready(one, &message, now)));
    }
    if view.all_sick && !healthy(node) {
        // Somebody may be heard again, and this one not.
        actions.push(Action::After(times.grace / 4));
    }
    let (evicted, next) = evict::evict(view, &tainted, times.eviction, now);
    actions.extend(evicted);
    actions.extend(again.into_iter().chain(next).min().map(Action::After));
    actions
}

/// The pods of a node that is not there any more, removed without anybody to stop them.
fn vanished(view: &View, times: Times, now: Timestamp) -> Vec<Action> {
    if view.pods.is_empty() {
        return Vec::new();
    }
    // It may come back under its name, with its pods still running.
    if let Some(rest) = meta::remaining(view.missing_since, times.grace, now) {
        return vec![Action::After(rest)];
    }
    if !view.surely_missing {
        return Vec::new();
    }
    view.pods.iter().map(|one| Op::remove(one.as_ref(), Some(0)).into()).collect()
}

#[cfg(test)]
mod tests;
