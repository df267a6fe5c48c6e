//! Whether an object is what its kind allows: decoded into the type and encoded again, nothing of it may be lost.

use anyhow::{Context, Result, bail};
use k8s_openapi::api::{apps::v1 as apps, core::v1 as core, rbac::v1 as rbac};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

/// Decodes an object as its apiVersion and kind say.
///
/// # Errors
/// When the kind is none of those that this project ships, a field has the wrong type, or there is no such field.
pub fn check(object: &Value) -> Result<()> {
    let said = |field: &str| object[field].as_str().unwrap_or_default().to_owned();
    match (said("apiVersion").as_str(), said("kind").as_str()) {
        ("v1", "ConfigMap") => whole::<core::ConfigMap>(object),
        ("v1", "Pod") => whole::<core::Pod>(object),
        ("v1", "Service") => whole::<core::Service>(object),
        ("v1", "ServiceAccount") => whole::<core::ServiceAccount>(object),
        ("apps/v1", "DaemonSet") => whole::<apps::DaemonSet>(object),
        ("apps/v1", "Deployment") => whole::<apps::Deployment>(object),
        ("rbac.authorization.k8s.io/v1", "ClusterRole") => whole::<rbac::ClusterRole>(object),
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => whole::<rbac::ClusterRoleBinding>(object),
        (version, kind) => bail!("{version} {kind}: not known here; add it to the list"),
    }
}

fn whole<K: DeserializeOwned + Serialize>(object: &Value) -> Result<()> {
    let decoded: K = serde_json::from_value(object.clone()).context("does not decode")?;
    let encoded = serde_json::to_value(decoded).context("does not encode")?;
    let mut lost = Vec::new();
    compare(object, &encoded, "", &mut lost);
    if lost.is_empty() { Ok(()) } else { bail!("{}", lost.join("; ")) }
}

fn compare(ours: &Value, theirs: &Value, path: &str, lost: &mut Vec<String>) {
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => {
            for (field, value) in ours {
                let path = format!("{path}/{field}");
                match theirs.get(field) {
                    Some(kept) => compare(value, kept, &path, lost),
                    None if value.is_null() => lost.push(format!("{path}: says nothing")),
                    None => lost.push(format!("{path}: there is no such field")),
                }
            }
        }
        (Value::Array(ours), Value::Array(theirs)) if ours.len() == theirs.len() => {
            for (index, (value, kept)) in ours.iter().zip(theirs).enumerate() {
                compare(value, kept, &format!("{path}/{index}"), lost);
            }
        }
        _ if ours == theirs => {}
        _ => lost.push(format!("{path}: {ours} is taken for {theirs}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn refused(object: &Value, word: &str) {
        let error = format!("{:#}", check(object).expect_err("refused"));
        assert!(error.contains(word), "{error}");
    }

    #[test]
    fn a_field_that_is_lost_is_named() {
        let pod = |spec: Value| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": spec});
        check(&pod(json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]}))).expect("a pod");
        refused(&pod(json!({"containers": [{"name": "c", "imag": "x"}]})), "/spec/containers/0/imag: there is no such field");
        refused(&pod(json!({"containers": [], "hostNetwork": "yes"})), "does not decode");
        refused(&pod(json!({"containers": [], "tolerations": null})), "/spec/tolerations: says nothing");
        refused(&json!({"apiVersion": "apps/v1", "kind": "Pod"}), "apps/v1 Pod: not known here");
        refused(&json!({"apiVersion": "v1", "kind": "Pod", "metdata": {}}), "/metdata");
    }
}
