//! Strategic merge patches: the examples of the Kubernetes documentation and of its patch design.

use serde_json::json;

use super::*;
use crate::kinds::by_kind;

#[track_caller]
fn check_kind(group: &str, kind: &str, target: Value, patch: Value, expected: Value) {
    let kind = by_kind(group, "v1", kind).unwrap();
    assert_eq!(strategic(kind, &target, &patch), Ok(expected), "{target} + {patch}");
}

/// Patches of a pod's spec.
#[track_caller]
fn check(target: Value, patch: Value, expected: Value) {
    check_kind("", "Pod", json!({ "spec": target }), json!({ "spec": patch }), json!({ "spec": expected }));
}

#[test]
fn containers_merge_by_name_and_tolerations_are_replaced() {
    let deployment = |containers: Value, tolerations: Value| json!({ "spec": { "template": { "spec": { "containers": containers, "tolerations": tolerations } } } });
    check_kind(
        "apps",
        "Deployment",
        deployment(json!([{ "name": "web", "image": "nginx" }]), json!([{ "key": "dedicated" }])),
        deployment(json!([{ "name": "cache", "image": "redis" }]), json!([{ "key": "disktype" }])),
        deployment(
            json!([{ "name": "web", "image": "nginx" }, { "name": "cache", "image": "redis" }]),
            json!([{ "key": "disktype" }]),
        ),
    );
}

#[test]
fn elements_with_the_same_key_merge_deeply() {
    check(
        json!({ "containers": [{ "name": "a", "image": "x:1", "env": [{ "name": "A", "value": "1" }, { "name": "B", "value": "2" }] }] }),
        json!({ "containers": [{ "name": "a", "image": "x:2", "env": [{ "name": "B", "value": null, "valueFrom": {} }] }] }),
        json!({ "containers": [{ "name": "a", "image": "x:2", "env": [{ "name": "A", "value": "1" }, { "name": "B", "valueFrom": {} }] }] }),
    );
}

#[test]
fn directives_delete_and_replace() {
    let two = json!([{ "name": "a", "image": "1" }, { "name": "b", "image": "2" }]);
    check(
        json!({ "containers": two.clone() }),
        json!({ "containers": [{ "name": "a", "$patch": "delete" }] }),
        json!({ "containers": [{ "name": "b", "image": "2" }] }),
    );
    check(
        json!({ "containers": two.clone() }),
        json!({ "containers": [{ "$patch": "replace" }, { "name": "c" }] }),
        json!({ "containers": [{ "name": "c" }] }),
    );
    check(json!({ "containers": two }), json!({ "containers": null }), json!({}));
    check(
        json!({ "securityContext": { "runAsUser": 1, "fsGroup": 2 } }),
        json!({ "securityContext": { "$patch": "replace", "runAsUser": 3 } }),
        json!({ "securityContext": { "runAsUser": 3 } }),
    );
    check(
        json!({ "securityContext": { "runAsUser": 1 } }),
        json!({ "securityContext": { "$patch": "delete" } }),
        json!({ "securityContext": {} }),
    );
    check(json!({}), json!({ "containers": [{ "name": "gone", "$patch": "delete" }] }), json!({ "containers": [] }));
}

#[test]
fn retain_keys_clears_the_other_members_of_a_union() {
    check_kind(
        "apps",
        "Deployment",
        json!({ "spec": { "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxSurge": "30%" } } } }),
        json!({ "spec": { "strategy": { "$retainKeys": ["type"], "type": "Recreate" } } }),
        json!({ "spec": { "strategy": { "type": "Recreate" } } }),
    );
    check(
        json!({ "volumes": [{ "name": "v", "emptyDir": {} }] }),
        json!({ "volumes": [{ "name": "v", "$retainKeys": ["name", "configMap"], "configMap": { "name": "c" } }] }),
        json!({ "volumes": [{ "name": "v", "configMap": { "name": "c" } }] }),
    );
}

#[test]
fn lists_of_scalars_merge_as_sets() {
    let meta = |finalizers: Value| json!({ "metadata": { "finalizers": finalizers } });
    check_kind("", "ConfigMap", meta(json!(["a", "b"])), meta(json!(["b", "c"])), meta(json!(["a", "b", "c"])));
    check_kind(
        "",
        "ConfigMap",
        meta(json!(["a", "b"])),
        json!({ "metadata": { "$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["d"] } }),
        meta(json!(["b", "d"])),
    );
    check_kind(
        "",
        "ConfigMap",
        meta(json!(["a", "b"])),
        json!({ "metadata": { "$setElementOrder/finalizers": ["c", "b"], "finalizers": ["c"] } }),
        meta(json!(["a", "c", "b"])),
    );
    // A list without a strategy is replaced.
    check(
        json!({ "containers": [{ "name": "a", "args": ["1", "2"] }] }),
        json!({ "containers": [{ "name": "a", "args": ["3"] }] }),
        json!({ "containers": [{ "name": "a", "args": ["3"] }] }),
    );
}

#[test]
fn element_order_comes_from_the_patch_and_others_keep_their_place() {
    let named = |names: &str| -> Value { names.chars().map(|c| json!({ "name": c.to_string() })).collect() };
    let check = |before: &str, order: &str, patch: &str, after: &str| {
        check(
            json!({ "containers": named(before) }),
            json!({ "$setElementOrder/containers": named(order), "containers": named(patch) }),
            json!({ "containers": named(after) }),
        );
    };
    check("abc", "cab", "", "cab");
    check("abc", "abcd", "d", "abcd");
    check("abc", "dabc", "d", "dabc");
    check("axb", "ba", "", "xba");
    check("xab", "ab", "", "xab");
    check("abx", "ab", "", "abx");
}

#[test]
fn maps_merge_by_key_and_nulls_are_not_stored() {
    let labels = |labels: Value| json!({ "metadata": { "labels": labels } });
    check_kind(
        "",
        "ConfigMap",
        labels(json!({ "a": "1", "b": "2" })),
        labels(json!({ "a": null, "c": "3", "d": null })),
        labels(json!({ "b": "2", "c": "3" })),
    );
    check_kind("", "ConfigMap", json!({}), json!({ "data": { "a": null, "b": "1" } }), json!({ "data": { "b": "1" } }));
}

#[test]
fn service_ports_merge_by_port() {
    check_kind(
        "",
        "Service",
        json!({ "spec": { "ports": [{ "port": 80, "protocol": "TCP", "nodePort": 30080 }], "selector": { "app": "a" } } }),
        json!({ "spec": { "ports": [{ "port": 80, "targetPort": 8080 }, { "port": 443 }] } }),
        json!({ "spec": {
            "ports": [{ "port": 80, "protocol": "TCP", "nodePort": 30080, "targetPort": 8080 }, { "port": 443 }],
            "selector": { "app": "a" },
        } }),
    );
}

#[test]
fn patches_that_do_not_fit_say_where() {
    let pod = by_kind("", "v1", "Pod").unwrap();
    let check = |target: Value, patch: Value, expected: &str| {
        let error = strategic(pod, &target, &patch).unwrap_err().to_string();
        assert!(error.contains(expected), "{patch}: {error}");
    };
    let one = json!({ "spec": { "containers": [{ "name": "a" }], "volumes": [{ "name": "v" }] } });
    check(
        one.clone(),
        json!({ "spec": { "containers": [{ "image": "x" }] } }),
        "spec.containers: map: {\"image\":\"x\"} does not contain declared merge key: name",
    );
    check(one.clone(), json!({ "spec": { "$patch": "melt" } }), "spec: unknown patch type \"melt\"");
    check(
        one.clone(),
        json!({ "spec": { "volumes": [{ "name": "v", "$retainKeys": ["name"], "emptyDir": {} }] } }),
        "spec.volumes.[name=\"v\"]: $retainKeys does not list \"emptyDir\"",
    );
    check(one.clone(), json!({ "spec": { "containers": ["a"] } }), "must be objects");
    assert!(matches!(strategic(pod, &one, &json!([])), Err(PatchError::Malformed(_))));
}
