//! Pods that a node drives away: those that do not tolerate a NoExecute taint, or have tolerated it for long enough.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use serde_json::json;

use super::View;
use super::health::is_trouble;
use crate::action::{Action, Op};
use crate::{meta, pod};

const COMPONENT: &str = "taint-eviction-controller";

/// The taints of a node that drive pods away.
pub fn taints(node: &Node) -> impl Iterator<Item = &Taint> {
    node.spec.iter().flat_map(|spec| spec.taints.iter().flatten()).filter(|taint| taint.effect == "NoExecute")
}

/// Removes the pods whose time is over; and says when the next one's is.
pub fn evict(view: &View, node: &Node, default: Duration, now: Timestamp) -> (Vec<Action>, Option<Duration>) {
    // When no node is well, moving pods helps nobody.
    let driving: Vec<&Taint> = taints(node).filter(|taint| !(view.all_sick && is_trouble(&taint.key))).collect();
    let (mut actions, mut next) = (Vec::new(), None);
    if driving.is_empty() {
        return (actions, next);
    }
    for one in view.pods.iter().filter(|one| !meta::deleting(&one.metadata) && !pod::finished(one)) {
        match stay(one, &driving, default, now) {
            Stay::Forever => {}
            Stay::For(rest) => next = next.into_iter().chain([rest]).min(),
            Stay::Over => {
                let condition = json!({
                    "type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
                    "message": "Taint manager: deleting due to NoExecute taint", "lastTransitionTime": meta::time(now),
                });
                actions.push(Op::conditions(one.as_ref(), &[condition]).into());
                let message = format!("Marking for deletion Pod {}", meta::Key::of(&one.metadata));
                actions.push(Action::normal(meta::reference(one.as_ref()), COMPONENT, "TaintManagerEviction", message));
                actions.push(Op::remove(one.as_ref(), None).into());
            }
        }
    }
    (actions, next)
}

#[derive(Debug, PartialEq, Eq)]
enum Stay {
    Forever,
    For(Duration),
    Over,
}

/// How long a pod may stay: as long as the least patient of the tolerations allows.
fn stay(one: &Pod, driving: &[&Taint], default: Duration, now: Timestamp) -> Stay {
    let tolerations = one.spec.iter().flat_map(|spec| spec.tolerations.iter().flatten());
    let mut shortest: Option<Duration> = None;
    for taint in driving {
        let mut matching = tolerations.clone().filter(|toleration| tolerates(toleration, taint)).peekable();
        let patience = match matching.peek() {
            None if is_trouble(&taint.key) => Some(default),
            None => return Stay::Over,
            // Without a number: for ever.
            Some(_) => matching.filter_map(|toleration| toleration.toleration_seconds).min().map(meta::seconds),
        };
        let Some(patience) = patience else { continue };
        let since = taint.time_added.as_ref().map_or(now, |time| time.0);
        match meta::remaining(since, patience, now) {
            None => return Stay::Over,
            Some(rest) => shortest = shortest.into_iter().chain([rest]).min(),
        }
    }
    shortest.map_or(Stay::Forever, Stay::For)
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    if toleration.effect.as_deref().is_some_and(|effect| !effect.is_empty() && effect != taint.effect) {
        return false;
    }
    let key = toleration.key.as_deref().unwrap_or_default();
    let exists = toleration.operator.as_deref() == Some("Exists");
    match key {
        "" => exists,
        key if key != taint.key => false,
        _ => exists || toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn how_long_pods_stay() {
        let now: Timestamp = "2030-01-01T00:01:00Z".parse().unwrap();
        // The taints are a minute old.
        let check = |taints: &[(&str, &str)], tolerations: Value, expected: Stay| {
            let taints: Vec<Taint> = taints
                .iter()
                .map(|(key, value)| {
                    serde_json::from_value(
                        json!({"key": key, "value": value, "effect": "NoExecute", "timeAdded": "2030-01-01T00:00:00Z"}),
                    )
                    .unwrap()
                })
                .collect();
            let one: Pod =
                serde_json::from_value(json!({"metadata": {}, "spec": {"containers": [], "tolerations": tolerations}}))
                    .unwrap();
            let stay = stay(&one, &taints.iter().collect::<Vec<_>>(), Duration::from_secs(300), now);
            assert_eq!(stay, expected, "{taints:?} {tolerations}");
        };
        let secs = |seconds| Stay::For(Duration::from_secs(seconds));
        let unreachable = [("node.kubernetes.io/unreachable", "")];
        check(&unreachable, json!([]), secs(240));
        let for_seconds = |seconds: i64| json!([{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}]);
        check(&unreachable, for_seconds(90), secs(30));
        check(&unreachable, for_seconds(60), Stay::Over);
        check(&unreachable, for_seconds(0), Stay::Over);
        check(&unreachable, for_seconds(-1), Stay::Over);
        check(&unreachable, json!([{"operator": "Exists"}]), Stay::Forever);
        check(
            &unreachable,
            json!([{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoSchedule"}]),
            secs(240),
        );
        check(&[("team", "red")], json!([]), Stay::Over);
        check(&[("team", "red")], json!([{"key": "team", "value": "red"}]), Stay::Forever);
        check(&[("team", "red")], json!([{"key": "team", "value": "blue"}]), Stay::Over);
        check(
            &[("team", "red"), ("node.kubernetes.io/unreachable", "")],
            json!([{"key": "team", "operator": "Exists"}]),
            secs(240),
        );
        check(
            &[("team", "red"), ("x", "")],
            json!([{"operator": "Exists", "tolerationSeconds": 100}, {"key": "x", "operator": "Exists", "tolerationSeconds": 70}]),
            secs(10),
        );
    }
}
