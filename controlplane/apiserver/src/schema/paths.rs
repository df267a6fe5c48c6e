//! The `paths` of the OpenAPI documents. Clients look there for the kind behind a resource (explain), for PATCH with a
//! `fieldValidation` parameter (apply: does the server validate?), and for the patch types that a kind takes.

use serde_json::{Map, Value, json};

use super::components::{REFERENCE, list_component};
use crate::kinds::{self, Kind};

const JSON: &str = "application/json";
/// What a GET or a write answers with.
const ANSWERS: [&str; 2] = [JSON, "application/yaml"];
/// Bodies of a PATCH.
const PATCHES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

/// Query parameters: name, type, what it does.
const PRETTY: (&str, &str, &str) = ("pretty", "string", "If 'true', the answer is indented.");
const WRITE: [(&str, &str, &str); 3] = [
    ("dryRun", "string", "'All': the write is checked and answered, not stored."),
    ("fieldManager", "string", "Who makes this change."),
    ("fieldValidation", "string", "What becomes of unknown and duplicate fields: Ignore, Warn or Strict."),
];
const FORCE: (&str, &str, &str) = ("force", "boolean", "Take over fields of other managers; for apply patches.");
const LIST: [(&str, &str, &str); 10] = [
    ("allowWatchBookmarks", "boolean", "Send BOOKMARK events while watching."),
    ("continue", "string", "Where the list goes on, from the page before."),
    ("fieldSelector", "string", "Only objects whose fields match."),
    ("labelSelector", "string", "Only objects whose labels match."),
    ("limit", "integer", "At most this many objects in one answer."),
    ("resourceVersion", "string", "The state to answer from."),
    ("resourceVersionMatch", "string", "How resourceVersion is to be taken: Exact or NotOlderThan."),
    ("sendInitialEvents", "boolean", "Begin the watch with the objects that exist."),
    ("timeoutSeconds", "integer", "When the call ends."),
    ("watch", "boolean", "Send changes as they happen."),
];
const DELETE: [(&str, &str, &str); 4] = [
    ("dryRun", "string", "'All': nothing is deleted."),
    ("gracePeriodSeconds", "integer", "Time that the object gets to end; 0: at once."),
    ("orphanDependents", "boolean", "Deprecated: use propagationPolicy."),
    ("propagationPolicy", "string", "What becomes of dependents: Orphan, Background or Foreground."),
];

/// One operation.
struct Operation<'a> {
    verb: &'static str,
    action: &'static str,
    kind: &'a Kind,
    /// Component of the body, if it takes one.
    body: Option<&'a str>,
    answer: String,
    parameters: Vec<(&'static str, &'static str, &'static str)>,
}

/// The paths of a kind for a version 3 document.
pub(super) fn v3(kind: &Kind) -> Map<String, Value> {
    paths(
        kind,
        |o| o.v3(),
        |name, kind, description| {
            json!({
                "name": name, "in": if name == "namespace" || name == "name" { "path" } else { "query" },
                "description": description, "required": name == "namespace" || name == "name",
                "schema": { "type": kind, "uniqueItems": true },
            })
        },
    )
}

/// The same for the version 2 document.
pub(super) fn v2(kind: &Kind) -> Map<String, Value> {
    paths(kind, |o| o.v2(), parameter_v2)
}

type Parameter = fn(&str, &str, &str) -> Value;

fn parameter_v2(name: &str, kind: &str, description: &str) -> Value {
    if name == "namespace" || name == "name" {
        json!({ "name": name, "in": "path", "description": description, "required": true, "type": kind, "uniqueItems": true })
    } else {
        json!({ "name": name, "in": "query", "description": description, "type": kind, "uniqueItems": true })
    }
}

fn paths(kind: &Kind, write: fn(&Operation<'_>) -> Value, parameter: Parameter) -> Map<String, Value> {
    let everywhere = format!("/{}/{}", kind.root(), kind.plural);
    let collection =
        if kind.namespaced { format!("/{}/namespaces/{{namespace}}/{}", kind.root(), kind.plural) } else { everywhere.clone() };
    let item = format!("{collection}/{{name}}");
    let list = list_component(kind);

    let path = |name: bool, namespace: bool, operations: Vec<Operation<'_>>| {
        let mut entry: Map<String, Value> = operations.iter().map(|o| (o.verb.to_owned(), write(o))).collect();
        let mut parameters = vec![parameter(PRETTY.0, PRETTY.1, PRETTY.2)];
        if name {
            parameters.push(parameter("name", "string", &format!("The name of the {}.", kind.kind)));
        }
        if namespace {
            parameters.push(parameter("namespace", "string", "The namespace of the object."));
        }
        entry.insert("parameters".into(), parameters.into());
        Value::Object(entry)
    };
    let mut paths = Map::new();
    let mut all = vec![Operation::list(kind, &list)];
    if kind.namespaced {
        paths.insert(everywhere, path(false, false, vec![Operation::list(kind, &list)]));
    }
    all.push(Operation::write("post", "post", kind, kind));
    all.push(Operation::delete("deletecollection", kind));
    paths.insert(collection, path(false, kind.namespaced, all));
    let mut object = item_operations(kind, kind);
    object.push(Operation::delete("delete", kind));
    paths.insert(item.clone(), path(true, kind.namespaced, object));
    if kind.status {
        paths.insert(format!("{item}/status"), path(true, kind.namespaced, item_operations(kind, kind)));
    }
    if kind.scale
        && let Some(scale) = kinds::of_subresource("scale")
    {
        paths.insert(format!("{item}/scale"), path(true, kind.namespaced, item_operations(scale, scale)));
    }
    for subresource in kind.subresources {
        if let Some(body) = kinds::of_subresource(subresource) {
            let operations = vec![Operation::write("post", "post", body, body)];
            paths.insert(format!("{item}/{subresource}"), path(true, kind.namespaced, operations));
        }
    }
    paths
}

fn item_operations<'a>(kind: &'a Kind, body: &'a Kind) -> Vec<Operation<'a>> {
    vec![
        Operation { verb: "get", action: "get", kind, body: None, answer: body.component.to_owned(), parameters: Vec::new() },
        Operation::write("put", "put", kind, body),
        Operation {
            verb: "patch",
            action: "patch",
            kind,
            body: Some("io.k8s.apimachinery.pkg.apis.meta.v1.Patch"),
            answer: body.component.to_owned(),
            parameters: WRITE.into_iter().chain([FORCE]).collect(),
        },
    ]
}

// === impl Operation ===

impl<'a> Operation<'a> {
    fn list(kind: &'a Kind, list: &str) -> Self {
        Self { verb: "get", action: "list", kind, body: None, answer: list.to_owned(), parameters: LIST.to_vec() }
    }

    fn write(verb: &'static str, action: &'static str, kind: &'a Kind, body: &'a Kind) -> Self {
        Self { verb, action, kind, body: Some(body.component), answer: body.component.to_owned(), parameters: WRITE.to_vec() }
    }

    fn delete(action: &'static str, kind: &'a Kind) -> Self {
        let answer = "io.k8s.apimachinery.pkg.apis.meta.v1.Status".to_owned();
        let body = Some("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions");
        let parameters: Vec<_> =
            if action == "delete" { DELETE.to_vec() } else { DELETE.iter().chain(LIST[..7].iter()).copied().collect() };
        Self { verb: "delete", action, kind, body, answer, parameters }
    }

    fn common(&self) -> Value {
        json!({
            "description": format!("{} {}", self.action, self.kind.kind),
            "x-kubernetes-action": self.action,
            "x-kubernetes-group-version-kind": {
                "group": self.kind.group, "version": self.kind.version, "kind": self.kind.kind,
            },
        })
    }

    fn v3(&self) -> Value {
        let mut operation = self.common();
        operation["parameters"] = self
            .parameters
            .iter()
            .map(|(name, kind, description)| {
                json!({
                    "name": name, "in": "query", "description": description, "schema": { "type": kind, "uniqueItems": true },
                })
            })
            .collect();
        let content = |types: &[&str], component: &str| -> Value {
            let media = json!({ "schema": { "$ref": format!("{REFERENCE}{component}") } });
            Value::Object(types.iter().map(|t| ((*t).to_owned(), media.clone())).collect())
        };
        if let Some(body) = self.body {
            let types: &[&str] = if self.verb == "patch" { &PATCHES } else { &["*/*"] };
            operation["requestBody"] = json!({ "required": self.verb != "delete", "content": content(types, body) });
        }
        operation["responses"] = json!({ "200": { "description": "OK", "content": content(&ANSWERS, &self.answer) } });
        operation
    }

    fn v2(&self) -> Value {
        let mut operation = self.common();
        let query = self.parameters.iter().map(|(name, kind, description)| parameter_v2(name, kind, description));
        let body = self.body.map(|body| {
            json!({
                "name": "body", "in": "body", "required": self.verb != "delete", "schema": { "$ref": format!("{REFERENCE}{body}") },
            })
        });
        operation["parameters"] = body.into_iter().chain(query).collect();
        operation["consumes"] = if self.verb == "patch" { json!(PATCHES) } else { json!(["*/*"]) };
        operation["produces"] = json!(ANSWERS);
        operation["responses"] =
            json!({ "200": { "description": "OK", "schema": { "$ref": format!("{REFERENCE}{}", self.answer) } } });
        operation
    }
}
