//! Which pods go first when there are too many: those that serve least, then those that serve worst.

use std::cmp::{Ordering, Reverse};
use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use crate::{meta, pod};

/// Pods with a lower number go first.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// `pods`, the first to go first. `crowds` has the number of related pods on each node.
pub fn least_wanted(pods: &[Arc<Pod>], crowds: &HashMap<String, usize>, now: Timestamp) -> Vec<Arc<Pod>> {
    let mut pods = pods.to_vec();
    pods.sort_by(|a, b| compare(a, b, crowds, now));
    pods
}

fn compare(a: &Pod, b: &Pod, crowds: &HashMap<String, usize>, now: Timestamp) -> Ordering {
    let crowd = |one: &Pod| Reverse(crowds.get(pod::node(one)).copied().unwrap_or(0));
    let place = |one: &Pod| (!pod::node(one).is_empty(), progress(one), pod::ready(one), cost(one), crowd(one));
    place(a)
        .cmp(&place(b))
        // Ready for a shorter time, more restarts, younger: each goes first.
        .then_with(|| age(pod::ready_since(a), now).cmp(&age(pod::ready_since(b), now)))
        .then_with(|| pod::restarts(b).cmp(&pod::restarts(a)))
        .then_with(|| age(Some(meta::created(&a.metadata)), now).cmp(&age(Some(meta::created(&b.metadata)), now)))
        .then_with(|| a.metadata.uid.cmp(&b.metadata.uid))
}

fn progress(one: &Pod) -> u8 {
    match pod::phase(one) {
        "Pending" => 0,
        "Running" => 2,
        _ => 1,
    }
}

fn cost(one: &Pod) -> i32 {
    meta::annotation(&one.metadata, DELETION_COST).and_then(|cost| cost.parse().ok()).unwrap_or(0)
}

/// Ages are told apart by their order of magnitude only, so that removal spreads over pods that began about together.
fn age(since: Option<Timestamp>, now: Timestamp) -> u32 {
    let seconds = since.map_or(0, |since| now.duration_since(since).as_secs());
    u64::try_from(seconds).unwrap_or(0).checked_ilog2().map_or(0, |log| log + 1)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NOW: &str = "2030-01-01T01:00:00Z";

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// A running, ready pod on node `a`, made and ready at the full hour, and what differs from that.
    fn pod(name: &str, differs: &Value) -> Arc<Pod> {
        let mut pod = json!({
            "metadata": {"name": name, "uid": name, "creationTimestamp": "2030-01-01T00:00:00Z"},
            "spec": {"nodeName": "a", "containers": []},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2030-01-01T00:00:00Z"}]},
        });
        for (pointer, value) in differs.as_object().unwrap() {
            let (parent, field) = pointer.rsplit_once('/').unwrap();
            pod.pointer_mut(parent).unwrap()[field] = value.clone();
        }
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    /// Expects `first` to go before a plain pod, whatever their order.
    #[track_caller]
    fn check(first: &Value) {
        check_crowds(first, &[]);
    }

    #[track_caller]
    fn check_crowds(first: &Value, crowds: &[(&str, usize)]) {
        let crowds = crowds.iter().map(|(node, count)| ((*node).to_owned(), *count)).collect();
        let (first, plain) = (pod("z", first), pod("b", &json!({})));
        for pods in [[Arc::clone(&first), Arc::clone(&plain)], [plain, Arc::clone(&first)]] {
            let order = least_wanted(&pods, &crowds, at(NOW));
            assert_eq!(meta::name(&order[0].metadata), "z");
        }
    }

    #[test]
    fn who_goes_first() {
        check(&json!({"/spec/nodeName": null}));
        check(&json!({"/status/phase": "Pending"}));
        check(&json!({"/status/phase": "Unknown"}));
        check(&json!({"/status/conditions": []}));
        check(&json!({"/metadata/annotations": {DELETION_COST: "-5"}}));
        check_crowds(&json!({"/spec/nodeName": "c"}), &[("a", 1), ("c", 2)]);
        let ready =
            |since: &str| json!({"/status/conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": since}]});
        check(&ready("2030-01-01T00:50:00Z"));
        check(
            &json!({"/status/containerStatuses": [{"name": "c", "image": "i", "imageID": "i", "ready": true, "restartCount": 3}]}),
        );
        check(&json!({"/metadata/creationTimestamp": "2030-01-01T00:50:00Z"}));
    }

    #[test]
    fn earlier_rules_outweigh_later_ones() {
        // Not ready goes before cheap; cheap goes before crowded.
        let (idle, cheap) = (
            pod("idle", &json!({"/status/conditions": []})),
            pod("cheap", &json!({"/metadata/annotations": {DELETION_COST: "-5"}})),
        );
        let crowded = pod("crowded", &json!({"/spec/nodeName": "c"}));
        let crowds = HashMap::from([("c".to_owned(), 9)]);
        let order = least_wanted(&[crowded, cheap, idle], &crowds, at(NOW));
        assert_eq!(order.iter().map(|pod| meta::name(&pod.metadata)).collect::<Vec<_>>(), ["idle", "cheap", "crowded"]);
    }
}
