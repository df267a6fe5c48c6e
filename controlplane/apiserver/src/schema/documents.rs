//! The OpenAPI documents as they go over the wire: made once, when first asked for, and kept as bytes with their hash.

use std::collections::{BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::LazyLock;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::components::{COMPONENTS, REFERENCE, list_component};
use super::paths;
use crate::kinds::{self, Kind};

/// Where references point in an OpenAPI v2 document.
const DEFINITIONS: &str = "#/definitions/";
const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";
const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";

/// A document and the hash of its content: the ETag, and the `hash` that the v3 index links with.
#[derive(Clone, Debug)]
pub struct Document {
    pub body: Bytes,
    pub hash: String,
}

static V3: LazyLock<HashMap<String, Document>> = LazyLock::new(|| {
    let roots: BTreeSet<String> = kinds::all().iter().map(Kind::root).collect();
    roots.into_iter().map(|root| (root.clone(), Document::of(&v3(&root)))).collect()
});

static V3_INDEX: LazyLock<Document> = LazyLock::new(|| {
    let roots: BTreeSet<&String> = V3.keys().collect();
    let links = roots.into_iter().map(|root| {
        let link = format!("/openapi/v3/{root}?hash={}", V3[root].hash);
        (root.clone(), json!({ "serverRelativeURL": link }))
    });
    Document::of(&json!({ "paths": Value::Object(links.collect()) }))
});

static V2: LazyLock<Document> = LazyLock::new(|| Document::of(&v2()));

/// The index of the OpenAPI v3 documents: `/openapi/v3`.
pub fn openapi_v3_index() -> &'static Document {
    &V3_INDEX
}

/// The OpenAPI v3 document of one group and version, by its root: `api/v1`, `apis/apps/v1`.
pub fn openapi_v3(root: &str) -> Option<&'static Document> {
    V3.get(root)
}

/// The OpenAPI v2 document of everything: `/openapi/v2` as JSON.
pub fn openapi_v2() -> &'static Document {
    &V2
}

fn info() -> Value {
    json!({ "title": "Kubernetes", "version": "v1.36.0" })
}

fn v3(root: &str) -> Value {
    let kinds = || kinds::all().iter().filter(|k| k.root() == root);
    let mut names = BTreeSet::new();
    let mut wanted: Vec<String> = [STATUS, PATCH, DELETE_OPTIONS].map(str::to_owned).into();
    for kind in kinds() {
        wanted.extend([kind.component.to_owned(), list_component(kind)]);
        let bodies = kind.subresources.iter().copied().chain(kind.scale.then_some("scale")).filter_map(kinds::of_subresource);
        wanted.extend(bodies.map(|k| k.component.to_owned()));
    }
    while let Some(name) = wanted.pop() {
        if let Some(schema) = COMPONENTS.get(&name)
            && names.insert(name)
        {
            references(schema, &mut wanted);
        }
    }
    let schemas: Map<String, Value> = names.into_iter().map(|name| (name.clone(), COMPONENTS[&name].clone())).collect();
    let paths: Map<String, Value> = kinds().flat_map(paths::v3).collect();
    json!({ "openapi": "3.0.0", "info": info(), "paths": paths, "components": { "schemas": schemas } })
}

fn v2() -> Value {
    let definitions: Map<String, Value> = COMPONENTS
        .iter()
        .map(|(name, schema)| {
            let mut schema = schema.clone();
            match name.rsplit('.').next() {
                // The second version has no alternatives: both are strings that may look like numbers.
                Some("Quantity") => as_string(&mut schema, None),
                Some("IntOrString") => as_string(&mut schema, Some("int-or-string")),
                _ => downgrade(&mut schema),
            }
            (name.clone(), schema)
        })
        .collect();
    let mut paths: Map<String, Value> = kinds::all().iter().flat_map(paths::v2).collect();
    paths.values_mut().for_each(downgrade);
    json!({ "swagger": "2.0", "info": info(), "paths": paths, "definitions": definitions })
}

fn as_string(schema: &mut Value, format: Option<&str>) {
    let Some(schema) = schema.as_object_mut() else { return };
    schema.remove("oneOf");
    schema.insert("type".into(), "string".into());
    if let Some(format) = format {
        schema.insert("format".into(), format.into());
    }
}

/// References of version 3 as version 2 writes them: another place, and words beside the reference.
fn downgrade(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if let Some(all) = map.remove("allOf")
                && let Some(reference) = all.get(0).and_then(|r| r.get("$ref"))
            {
                map.insert("$ref".into(), reference.clone());
            }
            if let Some(Value::String(reference)) = map.get_mut("$ref")
                && let Some(name) = reference.strip_prefix(REFERENCE)
            {
                *reference = format!("{DEFINITIONS}{name}");
            }
            map.values_mut().for_each(downgrade);
        }
        Value::Array(list) => list.iter_mut().for_each(downgrade),
        _ => {}
    }
}

fn references(schema: &Value, found: &mut Vec<String>) {
    match schema {
        Value::Object(map) => {
            if let Some(name) = map.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix(REFERENCE)) {
                found.push(name.to_owned());
            }
            map.values().for_each(|value| references(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

// === impl Document ===

impl Document {
    fn of(document: &Value) -> Self {
        let body = document.to_string();
        let hash = |salt: u8| {
            let mut hasher = DefaultHasher::new();
            (salt, &body).hash(&mut hasher);
            hasher.finish()
        };
        Self { hash: format!("{:016X}{:016X}", hash(0), hash(1)), body: Bytes::from(body) }
    }
}
