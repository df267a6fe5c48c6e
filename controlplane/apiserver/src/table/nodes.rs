//! The node columns.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::Value;

use super::{items, join, or, text};

pub(super) fn status(node: &Value, _: Timestamp) -> Value {
    let ready = items(&node["status"]["conditions"]).iter().find(|c| c["type"] == "Ready");
    let word = match ready {
        Some(condition) if condition["status"] == "True" => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    if node["spec"]["unschedulable"] == true { format!("{word},SchedulingDisabled").into() } else { word.into() }
}

pub(super) fn roles(node: &Value, _: Timestamp) -> Value {
    let labels = node["metadata"]["labels"].as_object().into_iter().flatten();
    let roles: BTreeSet<&str> = labels
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None if key == "kubernetes.io/role" => value.as_str(),
            None => None,
        })
        .filter(|role| !role.is_empty())
        .collect();
    or(&join(roles.into_iter()), "<none>").into()
}

pub(super) fn address(node: &Value, kind: &str) -> Value {
    let address = items(&node["status"]["addresses"]).iter().find(|a| a["type"] == kind);
    address.map_or("<none>", |a| text(&a["address"])).into()
}

pub(super) fn info(node: &Value, field: &str) -> Value {
    or(text(&node["status"]["nodeInfo"][field]), "<unknown>").into()
}
