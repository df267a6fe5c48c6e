//! What only pods have: binding to a node, and eviction.

use http::StatusCode;
use serde_json::{Value, json};

use crate::api::Api;
use crate::body::Document;
use crate::change::Subject;
use crate::delete::DeleteOptions;
use crate::kinds;
use crate::object;
use crate::prepare::Part;
use crate::query::Query;
use crate::route::Call;
use crate::status::{self, ApiError, Result};
use crate::write::{Options, Written, decode};

/// The pod on the node that the binding names.
fn bound(pod: &Value, binding: &Value, name: &str) -> Result<Value> {
    let Some(kind) = kinds::by_kind("", "v1", "Pod") else { return Err(ApiError::internal("pods are not served")) };
    let node = binding["target"]["name"].as_str().unwrap_or_default();
    if node.is_empty() || !matches!(binding["target"]["kind"].as_str().unwrap_or_default(), "" | "Node") {
        return Err(ApiError::bad_request("target: a binding names a node by kind Node and its name"));
    }
    if object::deleting(pod) {
        return Err(ApiError::conflict(kind, name, &format!("pod {name} is being deleted, cannot be assigned to a host")));
    }
    let there = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    if !there.is_empty() {
        return Err(ApiError::conflict(kind, name, &format!("pod {name} is already assigned to node \"{there}\"")));
    }
    let mut pod = pod.clone();
    pod["spec"]["nodeName"] = json!(node);
    for field in ["annotations", "labels"] {
        for (key, value) in binding["metadata"][field].as_object().into_iter().flatten() {
            pod["metadata"][field][key] = value.clone();
        }
    }
    for field in ["uid", "resourceVersion"] {
        let given = object::meta(binding, field);
        if !given.is_empty() {
            pod["metadata"][field] = json!(given);
        }
    }
    let scheduled =
        json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": object::now()});
    match pod["status"]["conditions"].as_array_mut() {
        Some(conditions) => {
            conditions.retain(|condition| condition["type"] != "PodScheduled");
            conditions.push(scheduled);
        }
        None => pod["status"]["conditions"] = json!([scheduled]),
    }
    Ok(pod)
}

// === impl Api ===

impl Api {
    pub(crate) async fn bind(&self, call: &Call, options: &Options, document: Document) -> Result<Written> {
        let kind = kinds::of_subresource("binding").ok_or_else(|| ApiError::internal("Binding is not known"))?;
        let (binding, warnings) = decode(kind, document, options.validation)?;
        let name = if call.name.is_empty() { object::name(&binding) } else { &call.name };
        let subject = Subject { name, ..call.subject() };
        self.change(subject, options, Part::Binding, |pod| bound(pod, &binding, name)).await?;
        Ok(Written::status(StatusCode::CREATED, &status::success(StatusCode::CREATED)).warning(warnings))
    }

    /// Deletes the pod as the eviction says. (Disruption budgets will have their say here.)
    pub(crate) async fn evict(&self, call: &Call, options: &Options, document: Document) -> Result<Written> {
        let kind = kinds::of_subresource("eviction").ok_or_else(|| ApiError::internal("Eviction is not known"))?;
        let (mut eviction, warnings) = decode(kind, document, options.validation)?;
        let value = eviction["deleteOptions"].take();
        let given = value.is_object().then(|| Document { value, duplicates: Vec::new() });
        let delete = DeleteOptions { dry_run: options.dry_run, ..DeleteOptions::of(given, &Query::default())? };
        self.delete_one(call.subject(), &delete).await?;
        Ok(Written::status(StatusCode::CREATED, &status::success(StatusCode::CREATED)).warning(warnings))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_bound_once() {
        let pod = json!({"metadata": {"name": "p", "uid": "u"}, "spec": {}, "status": {"phase": "Pending",
            "conditions": [{"type": "PodScheduled", "status": "False"}]}});
        let binding = json!({"metadata": {"name": "p", "annotations": {"a": "b"}}, "target": {"kind": "Node", "name": "n1"}});
        let on = bound(&pod, &binding, "p").unwrap();
        assert_eq!(on["spec"]["nodeName"], "n1");
        assert_eq!(on["metadata"]["annotations"], json!({"a": "b"}));
        assert_eq!(on["status"]["conditions"].as_array().map(Vec::len), Some(1));
        assert_eq!(on["status"]["conditions"][0]["status"], "True");
        let again = bound(&on, &binding, "p").unwrap_err();
        assert!(again.code() == 409 && again.message().contains("already assigned to node \"n1\""), "{again}");
        assert_eq!(bound(&pod, &json!({"target": {}}), "p").unwrap_err().code(), 400);
        let mut dying = pod.clone();
        dying["metadata"]["deletionTimestamp"] = json!("t");
        assert_eq!(bound(&dying, &binding, "p").unwrap_err().code(), 409);
    }
}
