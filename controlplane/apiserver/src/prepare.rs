//! The rules of metadata: which fields belong to the server, what a client may change, and when the generation rises. Pure.

use serde_json::{Value, json};

use crate::kinds::Kind;
use crate::object::{self, deleting, finalizers, keep, keep_top, meta, metadata_mut};
use crate::status::{ApiError, Result};

/// Which part of an object an update is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Main,
    Status,
    /// The finalizers in a namespace's spec.
    Finalize,
    /// A pod's node, with what the server itself writes along.
    Binding,
}

/// Fills the server's fields of a new object, and takes out what a client cannot say at creation.
pub(crate) fn for_create(kind: &Kind, object: &mut Value, namespace: &str) -> Result<()> {
    if !meta(object, "resourceVersion").is_empty() {
        return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
    }
    same_namespace(object, namespace)?;
    let metadata = metadata_mut(object);
    for field in
        ["resourceVersion", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "managedFields", "generation"]
    {
        metadata.remove(field);
    }
    match namespace {
        "" => metadata.remove("namespace"),
        namespace => metadata.insert("namespace".into(), json!(namespace)),
    };
    metadata.insert("uid".into(), json!(object::uid()));
    metadata.insert("creationTimestamp".into(), json!(object::now()));
    if kind.generation {
        metadata.insert("generation".into(), json!(1));
    }
    match kind.kind {
        // A kubelet registers its node with the status it has.
        "Node" => {}
        "Namespace" => {
            object["status"] = json!({"phase": "Active"});
            let spec = &mut object["spec"];
            if !spec.is_object() {
                *spec = json!({});
            }
            if !spec["finalizers"].as_array().is_some_and(|list| list.contains(&json!("kubernetes"))) {
                spec["finalizers"] = json!(["kubernetes"]);
            }
        }
        "Service" => object["status"] = json!({"loadBalancer": {}}),
        "Pod" => object["status"] = json!({"phase": "Pending"}),
        _ if kind.status => object["status"] = json!({}),
        _ => {}
    }
    Ok(())
}

/// Checks that the body speaks of the object that the path names.
pub(crate) fn same_object(object: &Value, namespace: &str, name: &str) -> Result<()> {
    let given = object::name(object);
    if given.is_empty() {
        return Err(ApiError::bad_request("name must be provided"));
    }
    if given != name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({name})"
        )));
    }
    same_namespace(object, namespace)
}

fn same_namespace(object: &Value, namespace: &str) -> Result<()> {
    let given = meta(object, "namespace");
    if given.is_empty() || given == namespace {
        return Ok(());
    }
    Err(ApiError::bad_request("the namespace of the provided object does not match the namespace sent on the request"))
}

/// Checks the conditions that an update carries in its metadata: uid and resourceVersion, where given, are the current ones.
pub(crate) fn preconditions(kind: &Kind, new: &Value, old: &Value) -> Result<()> {
    let name = object::name(old);
    let (given, found) = (meta(new, "uid"), meta(old, "uid"));
    if !given.is_empty() && given != found {
        return Err(ApiError::precondition(kind, name, "UID", given, found));
    }
    let given = meta(new, "resourceVersion");
    if !given.is_empty() && given != "0" && given != meta(old, "resourceVersion") {
        return Err(ApiError::modified(kind, name));
    }
    Ok(())
}

/// Makes `new` what is stored: what the request's part does not own stays as it is in `old`.
pub(crate) fn for_update(kind: &Kind, new: &mut Value, old: &Value, part: Part) {
    match part {
        Part::Main => {
            if kind.status {
                keep_top(new, old, "status");
            }
            match kind.kind {
                "Namespace" => keep_top(new, old, "spec"),
                // Addresses and ports that the client left out are those that the service has.
                "Service" => crate::admit::alloc::carry_over(old, new),
                _ => {}
            }
        }
        Part::Status => {
            let status = new.get("status").cloned();
            let metadata = new["metadata"].clone();
            *new = old.clone();
            match status {
                Some(status) => new["status"] = status,
                None => keep_top(new, &json!({}), "status"),
            }
            // Kubelets keep labels and annotations of their node and pods by this way too.
            if matches!(kind.kind, "Node" | "Pod") {
                let given = json!({ "metadata": metadata });
                keep(new, &given, "labels");
                keep(new, &given, "annotations");
            }
        }
        Part::Finalize => {
            let finalizers = new["spec"].get("finalizers").cloned().unwrap_or_else(|| json!([]));
            *new = old.clone();
            new["spec"]["finalizers"] = finalizers;
        }
        Part::Binding => {}
    }
    for field in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "generateName",
        "selfLink",
        "managedFields",
        "resourceVersion",
    ] {
        keep(new, old, field);
    }
    if kind.generation && part == Part::Main && content_differs(new, old) {
        bump_generation(kind, new);
    }
}

/// What must hold between an object and its update besides the kind's own rules.
pub(crate) fn check_update(kind: &Kind, new: &Value, old: &Value) -> Result<()> {
    let (after, before) = (finalizers(new), finalizers(old));
    let added: Vec<_> = after.iter().filter(|finalizer| !before.contains(finalizer)).collect();
    if deleting(old) && !added.is_empty() {
        let message = format!(
            "{} \"{}\" is invalid: metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, \
             found new finalizers {added:?}",
            kind.group_kind(),
            object::name(old)
        );
        return Err(ApiError::new(http::StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message));
    }
    Ok(())
}

/// Whether nothing holds a deleted object any longer, so that the write is its end.
pub(crate) fn is_over(kind: &Kind, object: &Value) -> bool {
    let held = match kind.kind {
        "Namespace" => object["spec"]["finalizers"].as_array().is_some_and(|list| !list.is_empty()),
        _ => false,
    };
    let waiting = object["metadata"]["deletionGracePeriodSeconds"].as_u64().unwrap_or(0) > 0;
    deleting(object) && finalizers(object).is_empty() && !held && !waiting
}

/// Marks the beginning of deletion, `grace` seconds from now.
pub(crate) fn begin_deletion(kind: &Kind, object: &mut Value, grace: u64) {
    let when =
        jiff::Timestamp::now() + jiff::SignedDuration::from_secs(i64::try_from(grace).unwrap_or(i64::MAX / 4).min(1 << 32));
    let metadata = metadata_mut(object);
    metadata.insert("deletionTimestamp".into(), json!(object::timestamp(when)));
    metadata.insert("deletionGracePeriodSeconds".into(), json!(grace));
    bump_generation(kind, object);
    if kind.kind == "Namespace" {
        object["status"]["phase"] = json!("Terminating");
    }
}

pub(crate) fn bump_generation(kind: &Kind, object: &mut Value) {
    if kind.generation {
        let generation = object["metadata"]["generation"].as_u64().unwrap_or(0);
        metadata_mut(object).insert("generation".into(), json!(generation + 1));
    }
}

/// Whether anything but metadata and status differs.
fn content_differs(new: &Value, old: &Value) -> bool {
    let content = |object: &Value| -> Vec<(String, Value)> {
        let fields = object.as_object().into_iter().flatten();
        fields
            .filter(|(field, _)| !matches!(field.as_str(), "metadata" | "status" | "kind" | "apiVersion"))
            .map(|(field, value)| (field.clone(), value.clone()))
            .collect()
    };
    content(new) != content(old)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;

    fn kind(group: &str, name: &str) -> &'static Kind {
        kinds::by_kind(group, "v1", name).unwrap()
    }

    fn deployment() -> Value {
        json!({"metadata": {"name": "d", "namespace": "x", "uid": "u", "generation": 3, "resourceVersion": "7",
            "creationTimestamp": "2026-01-01T00:00:00Z", "labels": {"a": "b"}},
            "spec": {"replicas": 1}, "status": {"readyReplicas": 1}})
    }

    #[test]
    fn updates_own_their_part_only() {
        let check = |part: Part, change: Value, path: &str, expected: Value| {
            let mut new = deployment();
            crate::patch::merge_patch(&new, &change).clone_into(&mut new);
            for_update(kind("apps", "Deployment"), &mut new, &deployment(), part);
            assert_eq!(new.pointer(path).cloned().unwrap_or_default(), expected, "{part:?} {change} {path}");
        };
        check(Part::Main, json!({"spec": {"replicas": 2}}), "/metadata/generation", json!(4));
        check(Part::Main, json!({"spec": {"replicas": 2}, "status": null}), "/status/readyReplicas", json!(1));
        check(Part::Main, json!({"metadata": {"labels": {"c": "d"}}}), "/metadata/generation", json!(3));
        check(
            Part::Main,
            json!({"metadata": {"uid": "other", "generation": 9}}),
            "/metadata",
            deployment()["metadata"].clone(),
        );
        check(
            Part::Main,
            json!({"metadata": {"creationTimestamp": null}}),
            "/metadata/creationTimestamp",
            json!("2026-01-01T00:00:00Z"),
        );
        check(Part::Status, json!({"spec": {"replicas": 2}, "status": {"readyReplicas": 2}}), "/spec/replicas", json!(1));
        check(Part::Status, json!({"status": {"readyReplicas": 2}}), "/status/readyReplicas", json!(2));
        check(Part::Status, json!({"status": {"readyReplicas": 2}}), "/metadata/generation", json!(3));
        check(Part::Status, json!({"metadata": {"labels": {"c": "d"}}}), "/metadata/labels", json!({"a": "b"}));
    }

    #[test]
    fn new_objects_get_the_servers_fields() {
        let mut object =
            json!({"metadata": {"name": "d", "uid": "mine", "deletionTimestamp": "x", "generation": 8}, "status": {"a": 1}});
        for_create(kind("apps", "Deployment"), &mut object, "x").unwrap();
        assert_eq!(object["metadata"]["generation"], 1);
        assert_ne!(object["metadata"]["uid"], "mine");
        assert_eq!(object["metadata"]["namespace"], "x");
        assert!(!deleting(&object));
        assert_eq!(object["status"], json!({}));
        for (metadata, words) in [
            (json!({"name": "a", "resourceVersion": "1"}), "resourceVersion should not be set"),
            (json!({"name": "a", "namespace": "y"}), "does not match the namespace"),
        ] {
            let error = for_create(kind("", "Pod"), &mut json!({ "metadata": metadata }), "x").unwrap_err();
            assert!(error.message().contains(words), "{error}");
        }
        let mut namespace = json!({"metadata": {"name": "n"}});
        for_create(kind("", "Namespace"), &mut namespace, "").unwrap();
        assert_eq!(
            (&namespace["status"]["phase"], &namespace["spec"]["finalizers"]),
            (&json!("Active"), &json!(["kubernetes"]))
        );
    }

    #[test]
    fn preconditions_are_conflicts() {
        let check = |metadata: Value, good: bool| {
            let result = preconditions(kind("apps", "Deployment"), &json!({ "metadata": metadata }), &deployment());
            assert_eq!(result.is_ok(), good, "{metadata}");
            assert!(result.err().is_none_or(|error| error.code() == 409));
        };
        check(json!({}), true);
        check(json!({"resourceVersion": "7", "uid": "u"}), true);
        check(json!({"resourceVersion": "6"}), false);
        check(json!({"uid": "v"}), false);
    }

    #[test]
    fn deletion_ends_when_nothing_holds_the_object() {
        let check = |kind: &Kind, object: Value, expected: bool| assert_eq!(is_over(kind, &object), expected, "{object}");
        let pod = kind("", "Pod");
        check(pod, json!({"metadata": {}}), false);
        check(pod, json!({"metadata": {"deletionTimestamp": "t", "deletionGracePeriodSeconds": 0}}), true);
        check(pod, json!({"metadata": {"deletionTimestamp": "t", "deletionGracePeriodSeconds": 30}}), false);
        check(pod, json!({"metadata": {"deletionTimestamp": "t", "finalizers": ["f"]}}), false);
        let namespace = kind("", "Namespace");
        check(namespace, json!({"metadata": {"deletionTimestamp": "t"}, "spec": {"finalizers": ["kubernetes"]}}), false);
        check(namespace, json!({"metadata": {"deletionTimestamp": "t"}, "spec": {"finalizers": []}}), true);
        let before = json!({"metadata": {"name": "a", "deletionTimestamp": "t", "finalizers": ["f"]}});
        let after = json!({"metadata": {"finalizers": ["f", "g"]}});
        assert_eq!(check_update(pod, &after, &before).unwrap_err().code(), 422);
        assert!(check_update(pod, &json!({"metadata": {}}), &before).is_ok());
    }
}
