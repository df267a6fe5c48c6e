//! Passes over whole deployments: what is written, told and said in the status.

use serde_json::{Value, json};

use super::*;

const NOW: &str = "2030-01-01T00:10:00Z";
const EARLIER: &str = "2030-01-01T00:00:00Z";

fn deployment(extra: &Value) -> Deployment {
    let mut object = json!({
        "metadata": {"name": "web", "namespace": "n", "uid": "d", "generation": 2, "resourceVersion": "9"},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "progressDeadlineSeconds": 600,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "v1"}]}}},
    });
    merge(&mut object, extra);
    serde_json::from_value(object).unwrap()
}

/// A set of `deployment`'s template with another image: all its replicas available, revision as given.
fn set(deployment: &Deployment, image: &str, replicas: i32, revision: i64) -> ReplicaSet {
    let mut other = deployment.clone();
    other.spec.as_mut().unwrap().template.spec.as_mut().unwrap().containers[0].image = Some(image.to_owned());
    let mut set = revision::new_set(&other, &Wanted::of(deployment), replicas, revision).unwrap();
    set.metadata.uid = Some(format!("rs-{image}"));
    set.metadata.generation = Some(1);
    set.metadata.creation_timestamp = Some(meta::time(Timestamp::from_second(revision).unwrap()));
    set.status = serde_json::from_value(json!({
        "replicas": replicas, "readyReplicas": replicas, "availableReplicas": replicas, "observedGeneration": 1,
    }))
    .unwrap();
    set
}

fn merge(target: &mut Value, patch: &Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(target.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (target, patch) => *target = patch.clone(),
    }
}

fn view(deployment: Deployment, sets: Vec<ReplicaSet>) -> View {
    View { deployment: Arc::new(deployment), sets: sets.into_iter().map(Arc::new).collect(), with_pods: Vec::new() }
}

fn run(view: &View) -> Vec<Action> {
    reconcile(view, NOW.parse().unwrap())
}

/// What is made, resized and removed.
fn moves(actions: &[Action]) -> Vec<String> {
    let image = |set: &ReplicaSet| {
        set.spec.as_ref().unwrap().template.as_ref().unwrap().spec.as_ref().unwrap().containers[0].image.clone().unwrap()
    };
    actions
        .iter()
        .filter_map(|action| match action {
            Action::ReplicaSet(Op::Create(set)) => Some(format!("create {} of {}", image(set), size(set))),
            Action::ReplicaSet(Op::Edit { uid, patch, .. }) => {
                patch.pointer("/spec/replicas").map(|replicas| format!("{uid} to {replicas}"))
            }
            Action::ReplicaSet(Op::Remove { uid, .. }) => Some(format!("remove {uid}")),
            _ => None,
        })
        .collect()
}

/// The status that the actions leave behind.
fn status(view: &View, actions: &[Action]) -> Value {
    let mut object = serde_json::to_value(view.deployment.as_ref()).unwrap();
    for action in actions {
        if let Action::Deployment(Op::Status { patch, .. }) = action {
            merge(&mut object, patch);
        }
    }
    object["status"].clone()
}

fn condition(status: &Value, kind: &str) -> String {
    let mut conditions = status["conditions"].as_array().into_iter().flatten();
    let found = conditions.find(|condition| condition["type"] == kind);
    found.map_or(String::new(), |one| format!("{} {}", one["status"].as_str().unwrap(), one["reason"].as_str().unwrap()))
}

#[test]
fn the_first_set_is_made() {
    let view = view(
        deployment(
            &json!({"metadata": {"annotations": {"note": "x", "kubectl.kubernetes.io/last-applied-configuration": "y"}}}),
        ),
        vec![],
    );
    let actions = run(&view);
    assert_eq!(moves(&actions), ["create v1 of 3"]);
    let Action::ReplicaSet(Op::Create(set)) = &actions[0] else { panic!("{actions:?}") };
    let hash = revision::hash(&view.deployment.spec.as_ref().unwrap().template, 0);
    let set = serde_json::to_value(set).unwrap();
    assert_eq!(set["metadata"]["name"], format!("web-{hash}"));
    for pointer in ["/metadata/labels", "/spec/selector/matchLabels", "/spec/template/metadata/labels"] {
        assert_eq!(*set.pointer(pointer).unwrap(), json!({"app": "web", "pod-template-hash": hash}), "{pointer}");
    }
    let annotations = json!({"note": "x", "deployment.kubernetes.io/revision": "1", "deployment.kubernetes.io/desired-replicas": "3", "deployment.kubernetes.io/max-replicas": "4"});
    assert_eq!(set["metadata"]["annotations"], annotations);
    assert_eq!(set["metadata"]["ownerReferences"][0]["controller"], true);
    let status = status(&view, &actions);
    assert_eq!(condition(&status, "Progressing"), "True NewReplicaSetCreated");
    assert_eq!(condition(&status, "Available"), "False MinimumReplicasUnavailable");
    assert_eq!(status["observedGeneration"], 2);
    let text: Vec<_> = actions.iter().map(ToString::to_string).collect();
    assert!(text.contains(&format!("event ScalingReplicaSet: Scaled up replica set web-{hash} from 0 to 3")), "{text:?}");
    assert!(
        text.contains(
            &r#"Deployment edit web {"metadata":{"annotations":{"deployment.kubernetes.io/revision":"1"}}}"#.to_owned()
        ),
        "{text:?}"
    );
}

#[test]
fn steps() {
    let check = |extra: Value, sets: &[(&str, i32, i64)], expected: &[&str]| {
        let deployment = deployment(&extra);
        let sets = sets.iter().map(|(image, replicas, revision)| set(&deployment, image, *replicas, *revision)).collect();
        assert_eq!(moves(&run(&view(deployment, sets))), expected, "{extra}");
    };
    let none = json!({});
    check(none.clone(), &[("v1", 3, 1)], &[]);
    // Another template: a new set within the surge, then step by step.
    check(none.clone(), &[("v0", 3, 1)], &["create v1 of 1"]);
    check(none.clone(), &[("v0", 3, 1), ("v1", 1, 2)], &["rs-v0 to 2"]);
    check(none.clone(), &[("v0", 2, 1), ("v1", 1, 2)], &["rs-v1 to 2"]);
    // Back to an old template: its set grows again.
    check(none.clone(), &[("v1", 0, 1), ("v2", 3, 2)], &["rs-v1 to 1"]);
    // Scaled: at once; paused: nothing else happens.
    check(json!({"spec": {"replicas": 5}}), &[("v1", 3, 1)], &["rs-v1 to 5"]);
    check(json!({"spec": {"paused": true}}), &[("v0", 3, 1)], &[]);
    // Recreation: first down, then up.
    let recreate = json!({"spec": {"strategy": {"type": "Recreate", "rollingUpdate": null}}});
    check(recreate.clone(), &[("v0", 3, 1)], &["rs-v0 to 0"]);
    check(recreate, &[("v0", 0, 1)], &["create v1 of 3"]);
    // On its way out: nothing.
    check(json!({"metadata": {"deletionTimestamp": EARLIER}}), &[("v0", 3, 1)], &[]);
    // A selector of everything is refused.
    check(json!({"spec": {"selector": {"matchLabels": null}}}), &[], &[]);
    // History: only what is beyond the limit, the oldest first, and only when all is done.
    let history = json!({"spec": {"revisionHistoryLimit": 1}});
    check(history.clone(), &[("v1", 3, 3), ("v9", 0, 1), ("v8", 0, 2)], &["remove rs-v9"]);
    check(history, &[("v1", 3, 3), ("v9", 0, 1), ("v8", 1, 2)], &["rs-v8 to 0"]);
}

/// `scaled` looks at what sets were sized for, so a scale is seen only when the sets say another number.
#[test]
fn scaling_is_seen_by_what_sets_were_sized_for() {
    let before = deployment(&json!({}));
    let sets = vec![set(&before, "v0", 3, 1), set(&before, "v1", 1, 2)];
    let after = deployment(&json!({"spec": {"replicas": 6}}));
    let actions = run(&view(after, sets));
    assert_eq!(moves(&actions), ["rs-v0 to 5", "rs-v1 to 2"]);
}

#[test]
fn recreation_waits_for_the_last_old_pod() {
    let deployment = deployment(&json!({"spec": {"strategy": {"type": "Recreate", "rollingUpdate": null}}}));
    let mut view = view(deployment.clone(), vec![set(&deployment, "v0", 0, 1)]);
    view.with_pods = vec!["rs-v0".to_owned()];
    assert_eq!(moves(&run(&view)), [""; 0]);
}

#[test]
fn a_taken_name_counts_as_a_collision() {
    let deployment = deployment(&json!({"status": {"collisionCount": 4}}));
    let mut foreign = set(&deployment, "v1", 1, 1);
    let hash = revision::hash(&deployment.spec.as_ref().unwrap().template, 4);
    foreign.metadata.name = Some(format!("web-{hash}"));
    foreign.metadata.owner_references.as_mut().unwrap()[0].uid = "someone else".to_owned();
    let view = view(deployment.clone(), vec![foreign]);
    let text: Vec<_> = run(&view).iter().map(ToString::to_string).collect();
    assert_eq!(text, [r#"Deployment status web {"status":{"collisionCount":5}}"#]);
    let template = &deployment.spec.as_ref().unwrap().template;
    assert_ne!(revision::hash(template, 4), revision::hash(template, 5));
}

#[test]
fn an_undone_rollout_gets_a_new_revision() {
    let deployment = deployment(&json!({"metadata": {"annotations": {"deployment.kubernetes.io/revision": "2"}}}));
    let view = view(deployment.clone(), vec![set(&deployment, "v1", 0, 1), set(&deployment, "v2", 3, 2)]);
    let actions = run(&view);
    let annotations = actions.iter().find_map(|action| match action {
        Action::ReplicaSet(Op::Edit { uid, patch, .. }) if uid == "rs-v1" => Some(patch["metadata"]["annotations"].clone()),
        _ => None,
    });
    let annotations = annotations.unwrap();
    assert_eq!(annotations["deployment.kubernetes.io/revision"], "3");
    assert_eq!(annotations["deployment.kubernetes.io/revision-history"], "1");
    assert_eq!(condition(&status(&view, &actions), "Progressing"), "True FoundNewReplicaSet");
}

#[test]
fn progress_in_the_status() {
    let progressing = |status: &str, reason: &str, updated: &str| json!([{"type": "Progressing", "status": status, "reason": reason, "message": "", "lastUpdateTime": updated, "lastTransitionTime": EARLIER}]);
    // One new pod of three, the old ones still there; what the status said before; what it says now.
    let check = |extra: Value, before: Value, updated: i32, expected: &str, again: bool| {
        let mut extra = extra;
        merge(&mut extra, &json!({"metadata": {"annotations": {"deployment.kubernetes.io/revision": "2"}}, "status": before}));
        let deployment = deployment(&extra);
        let view = view(deployment.clone(), vec![set(&deployment, "v0", 3 - updated, 1), set(&deployment, "v1", updated, 2)]);
        let actions = run(&view);
        assert_eq!(condition(&status(&view, &actions), "Progressing"), expected, "{before}");
        assert_eq!(actions.iter().any(|action| matches!(action, Action::After(_))), again, "{before}");
    };
    let none = json!({});
    let at_one = |conditions: Value| json!({"replicas": 3, "updatedReplicas": 1, "readyReplicas": 3, "availableReplicas": 3, "conditions": conditions});
    let recent = "2030-01-01T00:05:00Z";
    check(none.clone(), json!({"replicas": 3}), 1, "True ReplicaSetUpdated", true);
    check(none.clone(), at_one(progressing("True", "ReplicaSetUpdated", recent)), 1, "True ReplicaSetUpdated", true);
    check(none.clone(), at_one(progressing("True", "ReplicaSetUpdated", EARLIER)), 1, "False ProgressDeadlineExceeded", false);
    check(
        none.clone(),
        at_one(progressing("False", "ProgressDeadlineExceeded", EARLIER)),
        1,
        "False ProgressDeadlineExceeded",
        false,
    );
    check(none.clone(), at_one(progressing("False", "ProgressDeadlineExceeded", EARLIER)), 2, "True ReplicaSetUpdated", true);
    check(none.clone(), at_one(progressing("True", "ReplicaSetUpdated", EARLIER)), 3, "True NewReplicaSetAvailable", false);
    check(
        json!({"spec": {"progressDeadlineSeconds": null}}),
        at_one(progressing("True", "ReplicaSetUpdated", EARLIER)),
        1,
        "",
        false,
    );
    check(json!({"spec": {"progressDeadlineSeconds": i32::MAX}}), at_one(json!([])), 1, "", false);
    check(
        json!({"spec": {"paused": true}}),
        at_one(progressing("True", "ReplicaSetUpdated", EARLIER)),
        1,
        "Unknown DeploymentPaused",
        false,
    );
    check(none, at_one(progressing("Unknown", "DeploymentPaused", EARLIER)), 1, "Unknown DeploymentResumed", true);
}

#[test]
fn a_complete_deployment_writes_nothing() {
    let deployment = deployment(&json!({"metadata": {"annotations": {"deployment.kubernetes.io/revision": "1"}}}));
    let mut view = view(deployment.clone(), vec![set(&deployment, "v1", 3, 1)]);
    let status = status(&view, &run(&view));
    assert_eq!(status["updatedReplicas"], 3);
    assert_eq!(condition(&status, "Available"), "True MinimumReplicasAvailable");
    Arc::make_mut(&mut view.deployment).status = serde_json::from_value(status).unwrap();
    let text: Vec<_> = run(&view).iter().map(ToString::to_string).collect();
    assert_eq!(text, [""; 0]);
}

#[test]
fn a_set_that_cannot_make_pods_speaks_through_the_deployment() {
    let deployment = deployment(&json!({}));
    let mut set = set(&deployment, "v1", 3, 1);
    let failure = json!([{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "quota"}]);
    set.status.as_mut().unwrap().conditions = serde_json::from_value(failure).unwrap();
    let view = view(deployment, vec![set]);
    assert_eq!(condition(&status(&view, &run(&view)), "ReplicaFailure"), "True FailedCreate");
}
