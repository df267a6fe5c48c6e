//! Passes over a node: silence, taints, pods that serve no more, pods that have to go.

use serde_json::{Value, json};

use super::*;

const NOW: &str = "2030-01-01T00:10:00Z";
const TIMES: Times = Times { grace: Duration::from_secs(40), eviction: Duration::from_secs(300) };

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// `ready` is the status of the condition, none when empty.
fn node(ready: &str, spec: &Value) -> Node {
    let conditions = match ready {
        "" => json!([]),
        status => json!([{"type": "Ready", "status": status, "reason": "r"}]),
    };
    serde_json::from_value(json!({"metadata": {"name": "a", "uid": "a"}, "spec": spec, "status": {"conditions": conditions}}))
        .unwrap()
}

fn pod(name: &str) -> Arc<Pod> {
    let ready = json!([{"type": "Ready", "status": "True"}]);
    let pod = json!({"metadata": {"name": name, "uid": name, "namespace": "n"}, "spec": {"nodeName": "a", "containers": []}, "status": {"phase": "Running", "conditions": ready}});
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn view(node: Option<Node>, heard: &str) -> View {
    View {
        name: "a".to_owned(),
        node: node.map(Arc::new),
        pods: vec![pod("p")],
        heard: at(heard),
        missing_since: at(heard),
        surely_missing: true,
        all_sick: false,
    }
}

fn text(view: &View) -> Vec<String> {
    reconcile(view, TIMES, at(NOW)).iter().map(ToString::to_string).collect()
}

#[test]
fn who_is_well() {
    // `name ready seconds since it was heard`; expects whether all count as sick when looking at node a.
    let check = |nodes: &[(&str, &str, i64)], all_sick: bool| {
        let mut state = State::default();
        for (name, ready, _) in nodes {
            let mut node = node(ready, &json!({}));
            node.metadata.name = Some((*name).to_owned());
            state.insert(node);
        }
        let heard = |name: &str| {
            let found = nodes.iter().find(|(node, ..)| *node == name)?;
            Some(at(NOW) - jiff::SignedDuration::from_secs(found.2))
        };
        assert_eq!(View::of(&state, "a", heard, TIMES, at(NOW)).all_sick, all_sick, "{nodes:?}");
    };
    check(&[("a", "True", 41), ("b", "True", 9)], false);
    check(&[("a", "Unknown", 41), ("b", "Unknown", 9)], true);
    // Nobody has been heard for a while, though only one is over its time.
    check(&[("a", "True", 41), ("b", "True", 33)], true);
    check(&[("a", "True", 41)], true);
}

/// Keys and effects of the taints that a pass leaves.
fn taints_after(node: Node) -> Vec<String> {
    let mut tainted = node;
    health::set_taints(&mut tainted, at(NOW));
    let taints = tainted.spec.unwrap().taints.unwrap_or_default();
    taints.iter().map(|taint| format!("{}:{}", taint.key.trim_start_matches("node.kubernetes.io/"), taint.effect)).collect()
}

#[test]
fn silence() {
    let check = |ready: &str, heard: &str, expected: &[&str]| {
        let healthy = json!({"taints": []});
        let told: Vec<_> = text(&view(Some(node(ready, &healthy)), heard))
            .iter()
            .map(|line| line.split(" {").next().unwrap().to_owned())
            .collect();
        assert_eq!(told, expected, "{ready} {heard}");
    };
    check("True", "2030-01-01T00:09:40Z", &["after 20s"]);
    check("True", "2030-01-01T00:09:19Z", &["event NodeNotReady: Node a status is now: NodeNotReady", "Node conditions a"]);
    check("False", "2030-01-01T00:09:00Z", &["Node conditions a"]);
    // One that never said anything has a minute to begin with.
    check("", "2030-01-01T00:09:10Z", &["Node edit a", "after 10s"]);
    check("", "2030-01-01T00:08:59Z", &["Node conditions a"]);
}

#[test]
fn what_becomes_unknown() {
    let actions = reconcile(&view(Some(node("True", &json!({}))), "2030-01-01T00:00:00Z"), TIMES, at(NOW));
    let Some(Action::Node(Op::Conditions { patch, .. })) = actions.last() else { panic!("{actions:?}") };
    let shown: Vec<_> = patch["status"]["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            format!("{} {} {}", one["type"].as_str().unwrap(), one["status"].as_str().unwrap(), one["reason"].as_str().unwrap())
        })
        .collect();
    let never = |kind: &str| format!("{kind} Unknown NodeStatusNeverUpdated");
    assert_eq!(
        shown,
        ["Ready Unknown NodeStatusUnknown".to_owned(), never("MemoryPressure"), never("DiskPressure"), never("PIDPressure")]
    );
}

#[test]
fn taints_follow_conditions() {
    let check = |ready: &str, spec: Value, expected: &[&str]| {
        assert_eq!(taints_after(node(ready, &spec)), expected, "{ready} {spec}");
    };
    let taint = |key: &str, effect: &str| json!({"key": key, "effect": effect});
    check("True", json!({}), &[]);
    check("False", json!({}), &["not-ready:NoSchedule", "not-ready:NoExecute"]);
    check("", json!({}), &["not-ready:NoSchedule", "not-ready:NoExecute"]);
    check("Unknown", json!({}), &["unreachable:NoSchedule", "unreachable:NoExecute"]);
    let unready = taint("node.kubernetes.io/not-ready", "NoExecute");
    check("Unknown", json!({"taints": [unready]}), &["unreachable:NoSchedule", "unreachable:NoExecute"]);
    check("True", json!({"taints": [unready]}), &[]);
    check("True", json!({"unschedulable": true}), &["unschedulable:NoSchedule"]);
    check("True", json!({"taints": [taint("node.kubernetes.io/unschedulable", "NoSchedule")]}), &[]);
    // What others say stays.
    check("True", json!({"taints": [taint("team", "NoExecute")]}), &["team:NoExecute"]);
    check(
        "False",
        json!({"taints": [taint("team", "NoSchedule")]}),
        &["team:NoSchedule", "not-ready:NoSchedule", "not-ready:NoExecute"],
    );
    let mut pressed = node("True", &json!({}));
    pressed
        .status
        .as_mut()
        .unwrap()
        .conditions
        .as_mut()
        .unwrap()
        .push(serde_json::from_value(json!({"type": "DiskPressure", "status": "True"})).unwrap());
    assert_eq!(taints_after(pressed), ["disk-pressure:NoSchedule"]);
}

#[test]
fn a_taint_keeps_the_time_it_was_added() {
    let since = json!({"taints": [
        {"key": "node.kubernetes.io/unreachable", "effect": "NoSchedule", "timeAdded": "2030-01-01T00:00:00Z"},
        {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute", "timeAdded": "2030-01-01T00:00:00Z"},
    ]});
    let before = node("Unknown", &since);
    let mut after = before.clone();
    health::set_taints(&mut after, at(NOW));
    assert_eq!(before, after);
}

#[test]
fn pods_of_a_silent_node() {
    // Tainted so many seconds ago.
    let check = |ago: i64, all_sick: bool, expected: &[&str]| {
        let added = at(NOW) - jiff::SignedDuration::from_secs(ago);
        let taints: Vec<_> = ["NoSchedule", "NoExecute"]
            .map(|effect| json!({"key": "node.kubernetes.io/unreachable", "effect": effect, "timeAdded": added.to_string()}))
            .into();
        let mut unknown = node("Unknown", &json!({"taints": taints}));
        let others = ["MemoryPressure", "DiskPressure", "PIDPressure"].map(|kind| json!({"type": kind, "status": "Unknown"}));
        unknown
            .status
            .as_mut()
            .unwrap()
            .conditions
            .as_mut()
            .unwrap()
            .extend(others.map(|one| serde_json::from_value(one).unwrap()));
        let mut view = view(Some(unknown), "2030-01-01T00:00:00Z");
        view.all_sick = all_sick;
        let told: Vec<_> = text(&view).iter().map(|line| line.split(" {").next().unwrap().to_owned()).collect();
        assert_eq!(told, expected, "{ago} {all_sick}");
    };
    // First they serve no more; after five minutes they go, unless the fault is everywhere.
    check(10, false, &["Pod conditions p", "after 290s"]);
    check(
        300,
        false,
        &["Pod conditions p", "Pod conditions p", "event TaintManagerEviction: Marking for deletion Pod n/p", "Pod remove p"],
    );
    check(300, true, &["after 10s"]);
}

#[test]
fn pods_of_a_node_that_is_gone() {
    let check = |missing_since: &str, surely: bool, expected: &[&str]| {
        let mut view = view(None, missing_since);
        view.surely_missing = surely;
        assert_eq!(text(&view), expected, "{missing_since} {surely}");
    };
    check("2030-01-01T00:09:50Z", true, &["after 30s"]);
    check("2030-01-01T00:09:00Z", true, &["Pod remove p"]);
    check("2030-01-01T00:09:00Z", false, &[]);
}
