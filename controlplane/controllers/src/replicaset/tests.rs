//! Passes over a set: what is made, what is removed, what the status says.

use serde_json::{Value, json};

use super::*;

const NOW: &str = "2030-01-01T00:10:00Z";

fn set(extra: &[(&str, Value)]) -> ReplicaSet {
    let mut set = json!({
        "metadata": {"name": "web", "namespace": "n", "uid": "rs", "generation": 4},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web", "tier": "front"}, "annotations": {"a": "b"}}, "spec": {"containers": []}}},
    });
    for (pointer, value) in extra {
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        set.pointer_mut(parent).unwrap()[field] = value.clone();
    }
    serde_json::from_value(set).unwrap()
}

/// A pod of the set, from words: `ready`, `old` (ready for long), `leaving`, `done`, `bare` (lacks a label), `free` (no owner).
fn pod(index: usize, words: &str) -> Arc<Pod> {
    let has = |word: &str| words.split(' ').any(|one| one == word);
    let owners = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "rs", "controller": true}]);
    let since = if has("old") { "2030-01-01T00:00:00Z" } else { "2030-01-01T00:09:50Z" };
    let ready = json!([{"type": "Ready", "status": "True", "lastTransitionTime": since}]);
    let pod = json!({
        "metadata": {"name": format!("p{index}"), "uid": format!("p{index}"), "namespace": "n",
            "labels": if has("bare") { json!({"app": "web"}) } else { json!({"app": "web", "tier": "front"}) },
            "deletionTimestamp": if has("leaving") { json!(NOW) } else { Value::Null },
            "ownerReferences": if has("free") { json!([]) } else { owners }},
        "spec": {"containers": [], "nodeName": "a"},
        "status": {"phase": if has("done") { "Failed" } else { "Running" },
            "conditions": if has("ready") { ready } else { json!([]) }},
    });
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn run(set: ReplicaSet, pods: &[&str], failure: Option<Failure>) -> Vec<Action> {
    let pods = pods.iter().enumerate().map(|(index, words)| pod(index, words)).collect();
    reconcile(&View { set: Arc::new(set), pods, crowds: HashMap::new(), failure }, NOW.parse().unwrap())
}

fn status_of(actions: &[Action]) -> Value {
    let mut patches = actions.iter().filter_map(|action| match action {
        Action::ReplicaSet(Op::Status { patch, .. }) => Some(patch["status"].clone()),
        _ => None,
    });
    patches.next_back().unwrap_or_default()
}

#[test]
fn pods_are_made_and_removed() {
    let check = |extra: &[(&str, Value)], pods: &[&str], expected: &[&str]| {
        let actions = run(set(extra), pods, None);
        let moves = actions.iter().filter(|action| !matches!(action, Action::ReplicaSet(_) | Action::After(_)));
        assert_eq!(moves.map(ToString::to_string).collect::<Vec<_>>(), expected, "{extra:?} {pods:?}");
    };
    check(&[], &[], &["create 3 pods"]);
    check(&[], &["ready", "ready"], &["create 1 pods"]);
    check(&[], &["ready", "", "ready"], &[]);
    // Those that leave or are done do not count.
    check(&[], &["ready", "ready leaving", "done"], &["create 2 pods"]);
    check(&[], &["ready", "ready", "ready", ""], &["remove pods p3"]);
    check(&[("/spec/replicas", json!(0))], &["ready", ""], &["remove pods p1 p0"]);
    check(&[("/spec/replicas", json!(1000))], &[], &["create 500 pods"]);
    check(&[("/metadata/deletionTimestamp", json!(NOW))], &["ready"], &[]);
    // Without a selector nothing is its own.
    check(&[("/spec/selector", json!({}))], &[], &[]);
    let adopt = run(set(&[]), &["free", "free done"], None);
    assert_eq!(adopt.len(), 1);
    assert!(adopt[0].to_string().starts_with("Pod edit p0 "), "{}", adopt[0]);
}

#[test]
fn new_pods_are_of_the_template() {
    let actions = run(set(&[]), &[], None);
    let Some(Action::Pods { pod, .. }) = actions.last() else { panic!("{actions:?}") };
    let pod = serde_json::to_value(pod).unwrap();
    assert_eq!(pod["metadata"]["generateName"], "web-");
    assert_eq!(pod["metadata"]["labels"], json!({"app": "web", "tier": "front"}));
    assert_eq!(pod["metadata"]["annotations"], json!({"a": "b"}));
    let owner = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "rs", "controller": true, "blockOwnerDeletion": true}]);
    assert_eq!(pod["metadata"]["ownerReferences"], owner);
}

#[test]
fn the_status_counts() {
    let pods = ["ready old", "ready", "bare", "ready leaving", "done"];
    let patch = status_of(&run(set(&[("/spec/minReadySeconds", json!(30))]), &pods, None));
    let expected = json!({"replicas": 3, "fullyLabeledReplicas": 2, "readyReplicas": 2, "availableReplicas": 1, "terminatingReplicas": 1, "observedGeneration": 4});
    assert_eq!(patch, expected);
    // The young one is ready for ten of the thirty seconds.
    let actions = run(set(&[("/spec/minReadySeconds", json!(30))]), &pods, None);
    let again = actions.iter().find_map(|action| match action {
        Action::After(delay) => Some(delay.as_secs()),
        _ => None,
    });
    assert_eq!(again, Some(20));
}

#[test]
fn failures_come_and_go() {
    let failure = Failure { reason: "FailedCreate", message: "exceeded quota".to_owned() };
    let actions = run(set(&[]), &[], Some(failure.clone()));
    assert!(matches!(actions[0], Action::ReplicaSet(Op::Status { .. })), "told before it is tried again");
    let patch = status_of(&actions);
    assert_eq!(patch["conditions"][0]["reason"], "FailedCreate");
    let told = || {
        (
            "/status",
            json!({"replicas": 0, "terminatingReplicas": 0, "observedGeneration": 4, "conditions": patch["conditions"]}),
        )
    };
    let with_status = |(_, status): (&str, Value)| {
        let mut set = set(&[]);
        set.status = serde_json::from_value(status).unwrap();
        set
    };
    assert_eq!(status_of(&run(with_status(told()), &[], Some(failure))), Value::Null, "said already");
    assert_eq!(status_of(&run(with_status(told()), &[], None)), json!({"conditions": null}));
}
