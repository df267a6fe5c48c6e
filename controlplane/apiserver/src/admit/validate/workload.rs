//! Deployments and ReplicaSets.

use serde_json::{Value, json};

use super::{IMMUTABLE, is_empty, meta, not_negative, one_of, pod, text};
use crate::admit::{Causes, Path};
use crate::select::LabelSelector;

pub(crate) fn deployment(deployment: &Value, causes: &mut Causes) {
    let (spec, at) = (&deployment["spec"], Path::Root.field("spec"));
    common(spec, "deployment", &at, causes);
    not_negative(&spec["revisionHistoryLimit"], &at.field("revisionHistoryLimit"), causes);

    let (strategy, path) = (&spec["strategy"], at.field("strategy"));
    one_of(&strategy["type"], &["Recreate", "RollingUpdate"], &path.field("type"), causes);
    let (rolling, rolling_path) = (&strategy["rollingUpdate"], path.field("rollingUpdate"));
    if strategy["type"] == "Recreate" && rolling.is_object() {
        causes.forbidden(&rolling_path, "may not be specified when strategy `type` is 'Recreate'");
    }
    if strategy["type"] == "RollingUpdate" {
        let unavailable = amount(&rolling["maxUnavailable"], true, &rolling_path.field("maxUnavailable"), causes);
        let surge = amount(&rolling["maxSurge"], false, &rolling_path.field("maxSurge"), causes);
        if (unavailable, surge) == (Some(0), Some(0)) {
            let path = rolling_path.field("maxUnavailable");
            causes.invalid(&path, rolling["maxUnavailable"].clone(), "may not be 0 when `maxSurge` is 0");
        }
    }

    if let Some(deadline) = spec["progressDeadlineSeconds"].as_i64() {
        let path = at.field("progressDeadlineSeconds");
        not_negative(&spec["progressDeadlineSeconds"], &path, causes);
        if deadline <= spec["minReadySeconds"].as_i64().unwrap_or(0) {
            causes.invalid(&path, deadline, "must be greater than minReadySeconds");
        }
    }
}

pub(crate) fn deployment_update(new: &Value, old: &Value, causes: &mut Causes) {
    immutable_selector(new, old, causes);
}

pub(crate) fn replica_set(replica_set: &Value, causes: &mut Causes) {
    common(&replica_set["spec"], "replica set", &Path::Root.field("spec"), causes);
}

pub(crate) fn replica_set_update(new: &Value, old: &Value, causes: &mut Causes) {
    immutable_selector(new, old, causes);
}

/// The body of a scale subresource.
pub(crate) fn scale(scale: &Value, causes: &mut Causes) {
    not_negative(&scale["spec"]["replicas"], &Path::Root.field("spec").field("replicas"), causes);
}

fn common(spec: &Value, what: &str, at: &Path<'_>, causes: &mut Causes) {
    not_negative(&spec["replicas"], &at.field("replicas"), causes);
    not_negative(&spec["minReadySeconds"], &at.field("minReadySeconds"), causes);

    let (selector, path) = (&spec["selector"], at.field("selector"));
    let template = at.field("template");
    if !selector.is_object() {
        causes.required(&path, "");
    } else {
        meta::selector(selector, &path, causes);
        if is_empty(&selector["matchLabels"]) && is_empty(&selector["matchExpressions"]) {
            causes.invalid(&path, selector.clone(), format!("empty selector is invalid for {what}"));
        }
    }
    let metadata = &spec["template"]["metadata"];
    match LabelSelector::from_object(selector) {
        Ok(parsed) if selector.is_object() && !parsed.matches_object(&spec["template"]) => {
            let labels = if metadata["labels"].is_null() { json!({}) } else { metadata["labels"].clone() };
            let path = template.field("metadata");
            causes.invalid(&path.field("labels"), labels, "`selector` does not match template `labels`");
        }
        _ => {}
    }
    meta::common(metadata, &template.field("metadata"), causes);
    let (pod, path) = (&spec["template"]["spec"], template.field("spec"));
    pod::pod_spec(pod, &path, causes);
    if matches!(text(&pod["restartPolicy"]), "Never" | "OnFailure") {
        causes.unsupported(&path.field("restartPolicy"), text(&pod["restartPolicy"]), &["Always"]);
    }
    if pod["activeDeadlineSeconds"].is_number() {
        causes.forbidden(&path.field("activeDeadlineSeconds"), format!("activeDeadlineSeconds in {what} is not Supported"));
    }
}

fn immutable_selector(new: &Value, old: &Value, causes: &mut Causes) {
    let (new, old) = (&new["spec"]["selector"], &old["spec"]["selector"]);
    if new != old {
        causes.invalid(&Path::Root.field("spec").field("selector"), new.clone(), IMMUTABLE);
    }
}

/// A number of pods or a percentage. Returns the number, when it is plain from the field alone.
fn amount(value: &Value, at_most_all: bool, at: &Path<'_>, causes: &mut Causes) -> Option<i64> {
    match value {
        Value::Number(_) => {
            not_negative(value, at, causes);
            value.as_i64()
        }
        Value::String(word) => match word.strip_suffix('%').and_then(|p| p.parse::<i64>().ok()).filter(|p| *p >= 0) {
            None => {
                let example = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', \
                               regex used for validation is '[0-9]+%')";
                causes.invalid(at, word.as_str(), example);
                None
            }
            Some(percent) if percent > 100 && at_most_all => {
                causes.invalid(at, word.as_str(), "must not be greater than 100%");
                Some(percent)
            }
            Some(percent) => Some(percent),
        },
        _ => Some(0),
    }
}
