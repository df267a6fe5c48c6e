//! Lives of applied objects: who owns what, what is taken away, and when two disagree.

use super::*;
use crate::kinds;

fn kind() -> &'static Kind {
    match kinds::by_kind("apps", "v1", "Deployment") {
        Some(kind) => kind,
        None => panic!("deployments are served"),
    }
}

fn by(manager: &str) -> Writer<'_> {
    Writer { manager, subresource: "" }
}

fn config(replicas: Option<u32>, labels: Value) -> Value {
    let mut config = json!({"metadata": {"name": "d"}, "spec": {}});
    if !labels.is_null() {
        config["metadata"]["labels"] = labels;
    }
    if let Some(replicas) = replicas {
        config["spec"]["replicas"] = json!(replicas);
    }
    config
}

/// A new object, as creation by apply makes it.
fn made(manager: &str, config: &Value) -> Value {
    let mut object = apply(kind(), by(manager), false, &json!({"metadata": {"name": "d"}}), config).unwrap();
    object["metadata"]["uid"] = json!("u");
    object
}

fn owners(object: &Value) -> Vec<String> {
    let list = object["metadata"]["managedFields"].as_array().into_iter().flatten();
    list.map(|entry| {
        format!("{} {} {}", entry["manager"].as_str().unwrap(), entry["operation"].as_str().unwrap(), entry["fieldsV1"])
    })
    .collect()
}

#[test]
fn what_a_manager_no_longer_wants_is_taken_away() {
    let object = made("a", &config(Some(3), json!({"x": "1", "y": "2"})));
    assert_eq!(owners(&object), [r#"a Apply {"f:metadata":{"f:labels":{"f:x":{},"f:y":{}}},"f:spec":{"f:replicas":{}}}"#]);
    let object = apply(kind(), by("a"), false, &object, &config(Some(3), json!({"y": "2"}))).unwrap();
    assert_eq!(object["metadata"]["labels"], json!({"y": "2"}));
    let object = apply(kind(), by("a"), false, &object, &config(None, Value::Null)).unwrap();
    assert_eq!((object["metadata"].get("labels"), object["spec"].get("replicas")), (None, None));
}

#[test]
fn what_two_managers_want_stays_until_both_let_go() {
    let object = made("a", &config(Some(3), json!({"x": "1"})));
    let object = apply(kind(), by("b"), false, &object, &config(Some(3), Value::Null)).unwrap();
    let object = apply(kind(), by("a"), false, &object, &config(None, json!({"x": "1"}))).unwrap();
    assert_eq!(object["spec"]["replicas"], 3, "b still wants it");
    let object = apply(kind(), by("b"), false, &object, &config(None, Value::Null)).unwrap();
    assert_eq!(object["spec"].get("replicas"), None);
}

#[test]
fn a_different_value_is_a_conflict_unless_forced() {
    let object = made("a", &config(Some(3), Value::Null));
    let error = apply(kind(), by("b"), false, &object, &config(Some(5), Value::Null)).unwrap_err();
    assert_eq!(error.message(), "Apply failed with 1 conflict: conflict with \"a\" using apps/v1: .spec.replicas");
    let status = error.to_value();
    assert_eq!((&status["code"], &status["details"]["causes"][0]["reason"]), (&json!(409), &json!("FieldManagerConflict")));
    let object = apply(kind(), by("b"), true, &object, &config(Some(5), Value::Null)).unwrap();
    assert_eq!(object["spec"]["replicas"], 5);
    assert_eq!(owners(&object), [r#"b Apply {"f:spec":{"f:replicas":{}}}"#]);
}

#[test]
fn other_writes_are_recorded_once_somebody_applied() {
    let plain = json!({"metadata": {"name": "d", "uid": "u"}, "spec": {"replicas": 1}});
    let mut changed = plain.clone();
    changed["spec"]["replicas"] = json!(2);
    track(kind(), by("kubectl-scale"), &plain, &mut changed);
    assert_eq!(owners(&changed), Vec::<String>::new(), "nobody applied: nothing to keep");

    let error = apply(kind(), by("a"), false, &changed, &config(Some(3), Value::Null)).unwrap_err();
    assert!(error.message().contains("before-first-apply"), "{error}");
    let object = apply(kind(), by("a"), true, &changed, &config(Some(3), Value::Null)).unwrap();
    let mut scaled = object.clone();
    scaled["spec"]["replicas"] = json!(7);
    track(kind(), by("kubectl-scale"), &object, &mut scaled);
    assert_eq!(owners(&scaled), [r#"kubectl-scale Update {"f:spec":{"f:replicas":{}}}"#]);
    let error = apply(kind(), by("a"), false, &scaled, &config(Some(3), Value::Null)).unwrap_err();
    assert!(error.message().contains("conflict with \"kubectl-scale\" using apps/v1: .spec.replicas"), "{error}");
}
