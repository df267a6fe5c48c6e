//! The schema components of every served kind, with the Kubernetes extensions.

use std::sync::LazyLock;

use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::facts::{self, Merge};
use crate::kinds::{self, Kind};

/// Where references point in an OpenAPI v3 document.
pub(super) const REFERENCE: &str = "#/components/schemas/";
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";

/// By name, as `io.k8s.api.apps.v1.Deployment`; shaped as in OpenAPI v3.
pub(super) static COMPONENTS: LazyLock<Map<String, Value>> = LazyLock::new(build);

/// Name of the component of a kind's list.
pub(super) fn list_component(kind: &Kind) -> String {
    format!("{}List", kind.component)
}

/// The component that a schema refers to, directly or with words of its own around it.
pub(super) fn reference(schema: &Value) -> Option<&str> {
    let direct = schema.get("$ref").or_else(|| schema.get("allOf")?.get(0)?.get("$ref"));
    direct?.as_str()?.strip_prefix(REFERENCE)
}

fn build() -> Map<String, Value> {
    let settings = SchemaSettings::openapi3().with(|s| {
        s.meta_schema = None;
        s.transforms.clear();
    });
    let mut generator = settings.into_generator();
    for kind in kinds::all().iter().chain(kinds::subresource_kinds()) {
        (kind.schema)(&mut generator);
    }
    generator.subschema_for::<meta::Status>();
    generator.subschema_for::<meta::APIResourceList>();
    generator.subschema_for::<meta::Patch>();
    generator.subschema_for::<meta::ListMeta>();

    let mut components = generator.take_definitions(false);
    for kind in kinds::all() {
        components.insert(list_component(kind), list(kind));
    }
    for (name, schema) in &mut components {
        finish(schema);
        match name.rsplit('.').next() {
            Some("Quantity") => alternatives(schema, &["string", "number"], None),
            Some("IntOrString") => alternatives(schema, &["integer", "string"], Some("int-or-string")),
            _ => {}
        }
    }
    for kind in kinds::all().iter().chain(kinds::subresource_kinds()) {
        identify(&mut components, kind.component, kind, kind.kind);
    }
    for kind in kinds::all() {
        identify(&mut components, &list_component(kind), kind, kind.list_kind);
    }
    for fact in facts::FACTS {
        apply(&mut components, fact);
    }
    for name in facts::ATOMIC_OBJECTS {
        if let Some(component) = components.get_mut(&facts::full_name(name)) {
            component["x-kubernetes-map-type"] = "atomic".into();
        }
    }
    components
}

fn list(kind: &Kind) -> Value {
    json!({
        "description": format!("{} is a list of {}.", kind.list_kind, kind.kind),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": { "type": "string", "description": "The version of the schema of this list." },
            "kind": { "type": "string", "description": "The kind of this list." },
            "items": {
                "type": "array",
                "description": format!("The listed objects, of kind {}.", kind.kind),
                "items": { "$ref": format!("{REFERENCE}{}", kind.component) },
            },
            "metadata": {
                "description": "Standard list metadata.",
                "$ref": format!("{REFERENCE}{LIST_META}"),
            },
        },
    })
}

/// A reference with words beside it becomes `allOf`, as OpenAPI v3 wants it: a plain `$ref` hides its siblings.
fn finish(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            map.remove("title");
            if map.len() > 1
                && let Some(reference) = map.remove("$ref")
            {
                map.insert("allOf".into(), json!([{ "$ref": reference }]));
                return;
            }
            map.values_mut().for_each(finish);
        }
        Value::Array(list) => list.iter_mut().for_each(finish),
        _ => {}
    }
}

fn alternatives(schema: &mut Value, types: &[&str], format: Option<&str>) {
    let Some(schema) = schema.as_object_mut() else { return };
    schema.remove("x-kubernetes-int-or-string");
    schema.insert("oneOf".into(), types.iter().map(|t| json!({ "type": t })).collect());
    if let Some(format) = format {
        schema.insert("format".into(), format.into());
    }
}

fn identify(components: &mut Map<String, Value>, component: &str, kind: &Kind, word: &str) {
    if let Some(schema) = components.get_mut(component).and_then(Value::as_object_mut) {
        let gvk = schema.entry("x-kubernetes-group-version-kind").or_insert_with(|| json!([]));
        if let Some(list) = gvk.as_array_mut() {
            list.push(json!({ "group": kind.group, "version": kind.version, "kind": word }));
        }
    }
}

fn apply(components: &mut Map<String, Value>, fact: &facts::Fact) {
    let field = components
        .get_mut(&facts::full_name(fact.component))
        .and_then(|c| c.get_mut("properties")?.get_mut(fact.field)?.as_object_mut());
    let Some(field) = field else { return };
    match fact.merge {
        Merge::Atomic => {
            let word = if field.get("type").is_some_and(|t| t == "array") { "list" } else { "map" };
            field.insert(format!("x-kubernetes-{word}-type"), "atomic".into());
        }
        Merge::Set { patch } => {
            field.insert("x-kubernetes-list-type".into(), "set".into());
            if patch {
                field.insert("x-kubernetes-patch-strategy".into(), "merge".into());
            }
        }
        Merge::Map { keys, patch_key, retain_keys } => {
            if keys.is_empty() {
                field.insert("x-kubernetes-list-type".into(), "atomic".into());
            } else {
                field.insert("x-kubernetes-list-type".into(), "map".into());
                field.insert("x-kubernetes-list-map-keys".into(), json!(keys));
            }
            if let Some(key) = patch_key {
                field.insert("x-kubernetes-patch-merge-key".into(), key.into());
                let strategy = if retain_keys { "merge,retainKeys" } else { "merge" };
                field.insert("x-kubernetes-patch-strategy".into(), strategy.into());
            }
        }
        Merge::RetainKeys => {
            field.insert("x-kubernetes-patch-strategy".into(), "retainKeys".into());
        }
    }
}
