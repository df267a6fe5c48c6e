//! Metadata, of every kind.

use serde_json::Value;

use super::{IMMUTABLE, NOT_NEGATIVE, list, text};
use crate::admit::{Causes, Path, names};
use crate::kinds::Kind;

const MAX_ANNOTATIONS: usize = 256 * 1024;

pub(crate) fn create(kind: &Kind, metadata: &Value, at: &Path<'_>, causes: &mut Causes) {
    match (text(&metadata["name"]), text(&metadata["generateName"])) {
        ("", "") => causes.required(&at.field("name"), "name or generateName is required"),
        ("", _) => {}
        (name, _) => causes.all_invalid(&at.field("name"), name, (kind.name_rule)(name)),
    }
    let namespace = text(&metadata["namespace"]);
    match (kind.namespaced, namespace) {
        (true, "") => causes.required(&at.field("namespace"), ""),
        (true, namespace) => causes.all_invalid(&at.field("namespace"), namespace, names::dns_label(namespace)),
        (false, "") => {}
        (false, _) => causes.forbidden(&at.field("namespace"), "not allowed on this type"),
    }
    common(metadata, at, causes);
}

pub(crate) fn update(kind: &Kind, new: &Value, old: &Value, at: &Path<'_>, causes: &mut Causes) {
    create(kind, new, at, causes);
    for field in ["name", "namespace", "uid"] {
        let (new, old) = (text(&new[field]), text(&old[field]));
        if new != old && !(new.is_empty() && field != "name") {
            causes.invalid(&at.field(field), new, IMMUTABLE);
        }
    }
}

/// Labels and the rest, of objects and of pod templates.
pub(crate) fn common(metadata: &Value, at: &Path<'_>, causes: &mut Causes) {
    labels(&metadata["labels"], &at.field("labels"), causes);

    let annotations = metadata["annotations"].as_object();
    let mut size = 0;
    for (key, value) in annotations.into_iter().flatten() {
        causes.all_invalid(&at.field("annotations"), key, names::qualified_name(&key.to_lowercase()));
        size += key.len() + text(value).len();
    }
    if size > MAX_ANNOTATIONS {
        causes.too_long(&at.field("annotations"), MAX_ANNOTATIONS);
    }
    if let Some(generation) = metadata["generation"].as_i64().filter(|g| *g < 0) {
        causes.invalid(&at.field("generation"), generation, NOT_NEGATIVE);
    }
    let finalizers = at.field("finalizers");
    for (i, finalizer) in list(&metadata["finalizers"]).iter().enumerate() {
        causes.all_invalid(&finalizers.index(i), text(finalizer), names::qualified_name(text(finalizer)));
    }
    owners(&metadata["ownerReferences"], &at.field("ownerReferences"), causes);
}

/// A set of labels: of metadata, or what a selector asks for.
pub(crate) fn labels(labels: &Value, at: &Path<'_>, causes: &mut Causes) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        causes.all_invalid(at, key, names::qualified_name(key));
        causes.all_invalid(at, text(value), names::label_value(text(value)));
    }
}

fn owners(references: &Value, at: &Path<'_>, causes: &mut Causes) {
    let mut controller: Option<&str> = None;
    for (i, owner) in list(references).iter().enumerate() {
        let at = at.index(i);
        for (field, message) in [
            ("apiVersion", "version must not be empty"),
            ("kind", "must not be empty"),
            ("name", "must not be empty"),
            ("uid", "must not be empty"),
        ] {
            if text(&owner[field]).is_empty() {
                causes.invalid(&at.field(field), "", message);
            }
        }
        if owner["controller"] == true {
            let name = text(&owner["name"]);
            if let Some(first) = controller.replace(name) {
                causes.invalid(
                    &at.field("controller"),
                    true,
                    format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {name}"
                    ),
                );
            }
        }
    }
}

/// A label selector of an object: `matchLabels` and `matchExpressions`.
pub(crate) fn selector(selector: &Value, at: &Path<'_>, causes: &mut Causes) {
    labels(&selector["matchLabels"], &at.field("matchLabels"), causes);
    let expressions = at.field("matchExpressions");
    for (i, expression) in list(&selector["matchExpressions"]).iter().enumerate() {
        let at = expressions.index(i);
        let (key, values) = (text(&expression["key"]), list(&expression["values"]));
        match text(&expression["operator"]) {
            "In" | "NotIn" if values.is_empty() => {
                causes.required(&at.field("values"), "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                causes.forbidden(&at.field("values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => causes.invalid(&at.field("operator"), other, "not a valid selector operator"),
        }
        causes.all_invalid(&at.field("key"), key, names::qualified_name(key));
        let at = at.field("values");
        for (i, value) in values.iter().enumerate() {
            causes.all_invalid(&at.index(i), text(value), names::label_value(text(value)));
        }
    }
}
