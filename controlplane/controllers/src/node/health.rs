//! What a node's silence means: conditions become unknown, taints keep pods away, its pods serve no more.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition, NodeSpec, Pod, Taint};
use serde_json::{Value, json};

use super::condition;
use crate::action::{Action, Op};
use crate::{meta, pod};

pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Conditions whose truth keeps new pods away.
const PRESSURES: &[(&str, &str)] = &[
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];
/// Conditions that only the node can know.
const ITS_OWN: &[&str] = &["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
/// A node that has never reported gets at least this long to begin.
const FIRST_REPORT: Duration = Duration::from_secs(60);

/// The write that makes the state of a node unknown which has been silent for too long; otherwise when to ask again.
pub fn judge(node: &Node, heard: Timestamp, grace: Duration, now: Timestamp) -> (Option<Action>, Option<Duration>) {
    let (since, grace) = match condition(node, "Ready") {
        Some(_) => (heard, grace),
        None => (meta::created(&node.metadata).max(heard), grace.max(FIRST_REPORT)),
    };
    if let Some(rest) = meta::remaining(since, grace, now) {
        return (None, Some(rest));
    }
    let unknown = |kind: &&str| {
        let current = condition(node, kind);
        let (reason, message) = match current {
            Some(_) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
            None => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
        };
        let unknown = NodeCondition {
            type_: (*kind).to_owned(),
            status: "Unknown".to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_heartbeat_time: current.and_then(|condition| condition.last_heartbeat_time.clone()),
            last_transition_time: Some(meta::time(now)),
        };
        serde_json::to_value(&unknown).ok().filter(|_| current.is_none_or(|condition| condition.status != "Unknown"))
    };
    let writes: Vec<Value> = ITS_OWN.iter().filter_map(unknown).collect();
    if writes.is_empty() {
        return (None, None);
    }
    (Some(Op::conditions(node, &writes).into()), None)
}

/// The taints that follow from the conditions and from `unschedulable`; taints of others stay as they are.
pub fn set_taints(node: &mut Node, now: Timestamp) {
    let ready = condition(node, "Ready").map(|condition| condition.status.as_str());
    let trouble = match ready {
        Some("True") => None,
        Some("Unknown") => Some(UNREACHABLE),
        _ => Some(NOT_READY),
    };
    let mut wanted: Vec<(&str, &str)> = trouble.into_iter().flat_map(|key| [(key, "NoSchedule"), (key, "NoExecute")]).collect();
    let pressed =
        PRESSURES.iter().filter(|(kind, _)| condition(node, kind).is_some_and(|condition| condition.status == "True"));
    wanted.extend(pressed.map(|(_, key)| (*key, "NoSchedule")));
    let before = node.spec.clone();
    let spec = node.spec.get_or_insert_default();
    if spec.unschedulable == Some(true) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let ours = |taint: &Taint| {
        [NOT_READY, UNREACHABLE].contains(&taint.key.as_str())
            || (taint.effect == "NoSchedule"
                && (taint.key == UNSCHEDULABLE || PRESSURES.iter().any(|(_, key)| *key == taint.key)))
    };
    let mut taints = spec.taints.take().unwrap_or_default();
    taints.retain(|taint| !ours(taint) || wanted.contains(&(taint.key.as_str(), taint.effect.as_str())));
    for (key, effect) in wanted {
        if !taints.iter().any(|taint| taint.key == key && taint.effect == effect) {
            taints.push(Taint {
                key: key.to_owned(),
                effect: effect.to_owned(),
                value: None,
                time_added: Some(meta::time(now)),
            });
        }
    }
    spec.taints = Some(taints).filter(|taints| !taints.is_empty());
    // A missing list and an empty one are the same: not worth a write.
    let list = |spec: Option<&NodeSpec>| spec.and_then(|spec| spec.taints.clone()).unwrap_or_default();
    if list(before.as_ref()) == list(node.spec.as_ref()) {
        node.spec = before;
    }
}

/// Takes a pod out of service, since nobody vouches for it. Its node sets the condition again when it is back.
pub fn not_ready(one: &Pod, message: &str, now: Timestamp) -> Option<Action> {
    if !pod::ready(one) {
        return None;
    }
    let condition = json!({
        "type": "Ready", "status": "False", "reason": "NodeNotReady", "message": message, "lastTransitionTime": meta::time(now),
    });
    Some(Op::conditions(one, &[condition]).into())
}

/// A taint that tells of the node's own trouble.
pub fn is_trouble(key: &str) -> bool {
    [NOT_READY, UNREACHABLE].contains(&key)
}
