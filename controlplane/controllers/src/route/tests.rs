//! Which work a change calls for.

use serde_json::{Value, json};

use super::*;

/// A namespace with a deployment, its set, two services of the same pods and one without selector, and a healthy node.
fn state() -> State {
    let mut state = State::default();
    let labels = json!({"matchLabels": {"app": "web"}});
    let template = json!({"metadata": {"labels": {"app": "web"}}});
    state.insert(object::<Deployment>(
        json!({"metadata": named("web", "d"), "spec": {"selector": labels, "template": template}}),
    ));
    let mut set = named("web-1", "rs");
    set["ownerReferences"] = owner("Deployment", "web", "d");
    state.insert(object::<ReplicaSet>(json!({"metadata": set, "spec": {"selector": labels}})));
    for name in ["web", "api"] {
        state.insert(object::<Service>(json!({"metadata": named(name, name), "spec": {"selector": {"app": "web"}}})));
    }
    state.insert(object::<Service>(json!({"metadata": named("bare", "bare"), "spec": {}})));
    let ready = json!([{"type": "Ready", "status": "True"}]);
    state.insert(object::<Node>(json!({"metadata": {"name": "good"}, "status": {"conditions": ready}})));
    state.insert(object::<Node>(json!({"metadata": {"name": "bad"}, "status": {"conditions": []}})));
    state
}

fn object<K: serde::de::DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

fn named(name: &str, uid: &str) -> Value {
    json!({"namespace": "n", "name": name, "uid": uid})
}

fn owner(kind: &str, name: &str, uid: &str) -> Value {
    json!([{"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": uid, "controller": true}])
}

fn pod(labels: Value, node: &str, owned: bool) -> Pod {
    let mut metadata = named("p", "p");
    metadata["labels"] = labels;
    if owned {
        metadata["ownerReferences"] = owner("ReplicaSet", "web-1", "rs");
    }
    object(json!({"metadata": metadata, "spec": {"containers": [], "nodeName": node}}))
}

/// Work, shortly: `Service web`.
fn work<K: Routed>(state: &State, old: Option<&K>, new: Option<&K>) -> Vec<String> {
    let mut work = Vec::new();
    K::route(state, old, new, &mut work);
    let text = |work: Work| match work {
        Work::Deployment(key) => format!("Deployment {}", key.name),
        Work::ReplicaSet(key) => format!("ReplicaSet {}", key.name),
        Work::Service(key) => format!("Service {}", key.name),
        Work::LostService(key) => format!("LostService {}", key.name),
        Work::Ranges => "Ranges".to_owned(),
        Work::Node(name) => format!("Node {name}"),
        Work::Namespace(name) => format!("Namespace {name}"),
        Work::Defaults(name) => format!("Defaults {name}"),
        Work::Collect(uid) => format!("Collect {uid}"),
    };
    let mut work: Vec<_> = work.into_iter().map(text).collect();
    work.sort();
    work.dedup();
    work
}

#[test]
fn pods() {
    let state = state();
    let (ours, others) = (json!({"app": "web"}), json!({"app": "db"}));
    let check = |old: Option<Pod>, new: Option<Pod>, expected: &[&str]| {
        assert_eq!(work(&state, old.as_ref(), new.as_ref()), expected);
    };
    check(None, Some(pod(ours.clone(), "good", true)), &["ReplicaSet web-1", "Service api", "Service web"]);
    check(None, Some(pod(others.clone(), "good", false)), &[]);
    // Without an owner it may be adopted; with other labels now, those that it left have to know.
    check(None, Some(pod(ours.clone(), "", false)), &["ReplicaSet web-1", "Service api", "Service web"]);
    check(
        Some(pod(ours.clone(), "good", true)),
        Some(pod(others.clone(), "good", true)),
        &["ReplicaSet web-1", "Service api", "Service web"],
    );
    // The end of a pod concerns the deployment too: a recreation waits for it.
    check(Some(pod(ours, "good", true)), None, &["Deployment web", "ReplicaSet web-1", "Service api", "Service web"]);
    check(None, Some(pod(others.clone(), "bad", false)), &["Node bad"]);
    check(None, Some(pod(others, "gone", false)), &["Node gone"]);
}

#[test]
fn sets_and_deployments() {
    let state = state();
    let owned = state.replica_sets.get(&Key::new("n", "web-1")).unwrap().as_ref();
    assert_eq!(work(&state, None, Some(owned)), ["Deployment web", "ReplicaSet web-1"]);
    let mut free = owned.clone();
    free.metadata.owner_references = None;
    free.metadata.labels = Some([("app".to_owned(), "web".to_owned())].into());
    assert_eq!(work(&state, None, Some(&free)), ["Deployment web", "ReplicaSet web-1"]);
    free.metadata.labels = None;
    assert_eq!(work(&state, None, Some(&free)), ["ReplicaSet web-1"]);
}

#[test]
fn services() {
    let state = state();
    let service = |name: &str| state.services.get(&Key::new("n", name)).unwrap().as_ref();
    assert_eq!(work(&state, None, Some(service("web"))), ["Service web"]);
    assert_eq!(work(&state, Some(service("web")), None), ["Service web"]);
    assert_eq!(work(&state, Some(service("bare")), None), ["LostService bare"]);
    let slice: EndpointSlice = object(
        json!({"addressType": "IPv4", "endpoints": [], "metadata": {"namespace": "n", "name": "s", "labels": {SERVICE_NAME: "web"}}}),
    );
    assert_eq!(work(&state, Some(&slice), None), ["Service web"]);
}

#[test]
fn nodes() {
    let mut state = state();
    let node = |state: &State, name: &str| state.nodes.get(&Key::new("", name)).unwrap().as_ref().clone();
    let good = node(&state, "good");
    assert_eq!(work(&state, Some(&good), Some(&good)), ["Node good", "Ranges"], "it has no range yet");
    let mut ranged = good.clone();
    ranged.spec.get_or_insert_default().pod_cidr = Some("10.0.0.0/24".to_owned());
    assert_eq!(work(&state, Some(&ranged), Some(&ranged)), ["Node good"]);
    assert_eq!(work(&state, Some(&ranged), None), ["Node bad", "Node good", "Ranges"], "the last healthy one");
    // A node that moves takes its endpoints' zone along.
    state.insert(pod(json!({"app": "web"}), "good", false));
    let mut moved = ranged.clone();
    moved.metadata.labels = Some([("topology.kubernetes.io/zone".to_owned(), "east".to_owned())].into());
    assert_eq!(work(&state, Some(&ranged), Some(&moved)), ["Node good", "Service api", "Service web"]);
    let lease = |namespace: &str| object::<Lease>(json!({"metadata": {"namespace": namespace, "name": "good"}}));
    assert_eq!(work(&state, None, Some(&lease("kube-node-lease"))), ["Node good"]);
    assert_eq!(work(&state, None, Some(&lease("kube-system"))), [""; 0]);
}

#[test]
fn namespaces() {
    let mut state = state();
    let namespace = |going: bool| {
        let mut metadata = json!({"name": "n"});
        if going {
            metadata["deletionTimestamp"] = json!("2030-01-01T00:00:00Z");
        }
        object::<Namespace>(json!({"metadata": metadata}))
    };
    assert_eq!(work(&state, None, Some(&namespace(false))), ["Defaults n"]);
    assert_eq!(work(&state, None, Some(&namespace(true))), ["Namespace n"]);
    let account = object::<ServiceAccount>(json!({"metadata": named("default", "sa")}));
    assert_eq!(work(&state, Some(&account), None), ["Defaults n"]);
    let secret = object::<PartialObjectMeta<Secret>>(json!({"metadata": named("s", "s")}));
    assert_eq!(work(&state, Some(&secret), None), [""; 0]);
    // Whatever leaves a namespace on its way out may be the last.
    state.insert(namespace(true));
    assert_eq!(work(&state, Some(&secret), None), ["Namespace n"]);
    assert_eq!(work(&state, None, Some(&secret)), [""; 0]);
}
