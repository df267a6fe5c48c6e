//! The scale subresource: how many replicas, without the rest of the object.

use http::StatusCode;
use serde_json::{Value, json};

use crate::api::Api;
use crate::body::Document;
use crate::kinds::{self, Kind};
use crate::object;
use crate::patching::Patch;
use crate::prepare::{self, Part};
use crate::route::Call;
use crate::select::LabelSelector;
use crate::status::{ApiError, Result};
use crate::write::{Options, Written, decode};

fn scale_kind() -> Result<&'static Kind> {
    kinds::of_subresource("scale").ok_or_else(|| ApiError::internal("Scale is not known"))
}

/// The Scale of an object.
fn of(object: &Value) -> Value {
    let mut metadata = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object["metadata"].get(field) {
            metadata[field] = value.clone();
        }
    }
    let selector = LabelSelector::from_object(&object["spec"]["selector"]).map(|selector| selector.to_string());
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata,
        "spec": {"replicas": object["spec"]["replicas"].as_i64().unwrap_or(0)},
        "status": {"replicas": object["status"]["replicas"].as_i64().unwrap_or(0), "selector": selector.unwrap_or_default()},
    })
}

/// The object with the replicas of a Scale, and its conditions.
fn with(object: &Value, scale: &Value) -> Result<Value> {
    let mut new = object.clone();
    let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
    if replicas < 0 {
        let message = format!(
            "Scale.autoscaling \"{}\" is invalid: spec.replicas: Invalid value: {replicas}: must be greater than or equal to 0",
            object::name(object)
        );
        return Err(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message));
    }
    new["spec"]["replicas"] = json!(replicas);
    for field in ["resourceVersion", "uid"] {
        let given = object::meta(scale, field);
        if !given.is_empty() {
            new["metadata"][field] = json!(given);
        }
    }
    Ok(new)
}

// === impl Api ===

impl Api {
    pub(crate) async fn get_scale(&self, call: &Call) -> Result<Written> {
        let item = self.find(call.kind, &call.namespace, &call.name).await?;
        Ok(Written::value(scale_kind()?, StatusCode::OK, &of(&object::decode_item(&item)?)))
    }

    pub(crate) async fn update_scale(&self, call: &Call, options: &Options, document: Document) -> Result<Written> {
        let (scale, warnings) = decode(scale_kind()?, document, options.validation)?;
        prepare::same_object(&scale, &call.namespace, &call.name)?;
        let changed = self.change(call.subject(), options, Part::Main, |old| with(old, &scale)).await?;
        Ok(Written::value(scale_kind()?, StatusCode::OK, &of(&changed.object)).warning(warnings))
    }

    pub(crate) async fn patch_scale(&self, call: &Call, options: &Options, patch: &Patch) -> Result<Written> {
        let kind = scale_kind()?;
        let changed = self
            .change(call.subject(), options, Part::Main, |old| {
                let document = patch.apply(kind, &call.name, &of(old))?;
                let (scale, _) = decode(kind, document, options.validation)?;
                with(old, &scale)
            })
            .await?;
        Ok(Written::value(kind, StatusCode::OK, &of(&changed.object)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_shows_and_sets_the_replicas() {
        let object = json!({"metadata": {"name": "d", "namespace": "x", "uid": "u", "resourceVersion": "7", "labels": {}},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}}}, "status": {"replicas": 2}});
        let scale = of(&object);
        assert_eq!(scale["spec"]["replicas"], 3);
        assert_eq!(scale["status"], json!({"replicas": 2, "selector": "app=web"}));
        let mut wanted = scale.clone();
        wanted["spec"]["replicas"] = json!(5);
        wanted["metadata"]["resourceVersion"] = json!("6");
        let new = with(&object, &wanted).unwrap();
        assert_eq!((&new["spec"]["replicas"], &new["metadata"]["resourceVersion"]), (&json!(5), &json!("6")));
        wanted["spec"]["replicas"] = json!(-1);
        assert_eq!(with(&object, &wanted).unwrap_err().code(), 422);
    }
}
