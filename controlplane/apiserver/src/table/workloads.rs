//! The columns of Deployment and ReplicaSet.

use jiff::Timestamp;
use serde_json::Value;

use super::{items, join, text};
use crate::select::LabelSelector;

pub(super) fn number(value: &Value) -> Value {
    value.as_i64().unwrap_or(0).into()
}

pub(super) fn deployment_ready(deployment: &Value, _: Timestamp) -> Value {
    let ready = deployment["status"]["readyReplicas"].as_i64().unwrap_or(0);
    format!("{ready}/{}", deployment["spec"]["replicas"].as_i64().unwrap_or(0)).into()
}

pub(super) fn containers(workload: &Value, _: Timestamp) -> Value {
    join(items(&workload["spec"]["template"]["spec"]["containers"]).iter().map(|c| text(&c["name"]))).into()
}

pub(super) fn images(workload: &Value, _: Timestamp) -> Value {
    join(items(&workload["spec"]["template"]["spec"]["containers"]).iter().map(|c| text(&c["image"]))).into()
}

pub(super) fn selector(workload: &Value, _: Timestamp) -> Value {
    match LabelSelector::from_object(&workload["spec"]["selector"]) {
        Ok(selector) if selector.is_everything() => "<none>".into(),
        Ok(selector) => selector.to_string().into(),
        Err(_) => "<error>".into(),
    }
}
