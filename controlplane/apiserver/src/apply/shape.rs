//! How values merge, read from the schema: what is one value, what is merged field by field, and what tells list items apart.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::{Value, json};

use super::fields::{Fields, Step};
use crate::kinds::{self, Kind};
use crate::schema;

/// The schemas of every group and version, parsed when the first apply comes.
static SCHEMAS: LazyLock<HashMap<String, Value>> = LazyLock::new(|| {
    let roots = kinds::all().iter().map(Kind::root);
    let parsed = roots.filter_map(|root| {
        let mut document: Value = serde_json::from_slice(&schema::openapi_v3(&root)?.body).ok()?;
        Some((root, document["components"]["schemas"].take()))
    });
    parsed.collect()
});

/// A place in a schema.
#[derive(Clone, Copy)]
pub(crate) struct Shape<'a> {
    schemas: &'a Value,
    node: &'a Value,
}

/// How the value there merges.
enum Merge<'a> {
    /// As one value.
    Atomic,
    Struct,
    Map(Shape<'a>),
    /// A list whose items are told apart by these fields.
    Keyed(Vec<&'a str>, Shape<'a>),
    /// A list of distinct values.
    Set,
}

static NOTHING: Value = Value::Null;

// === impl Shape ===

impl Shape<'static> {
    pub(crate) fn of(kind: &Kind) -> Self {
        let schemas = SCHEMAS.get(&kind.root()).unwrap_or(&NOTHING);
        Self { schemas, node: &schemas[kind.component] }
    }
}

impl<'a> Shape<'a> {
    fn at(self, node: &'a Value) -> Self {
        Self { node, ..self }
    }

    /// The schema itself, behind references.
    fn target(self) -> &'a Value {
        let reference = self.node["$ref"].as_str().or_else(|| self.node["allOf"][0]["$ref"].as_str());
        match reference.and_then(|reference| reference.rsplit('/').next()) {
            Some(component) => &self.schemas[component],
            None => self.node,
        }
    }

    /// An extension, of the field or of what it refers to.
    fn extension(self, name: &str) -> &'a Value {
        let own = &self.node[name];
        if own.is_null() { &self.target()[name] } else { own }
    }

    fn merge(self) -> Merge<'a> {
        let target = self.target();
        if target["type"] == "array" {
            return match self.extension("x-kubernetes-list-type").as_str() {
                Some("map") => {
                    let keys = self.extension("x-kubernetes-list-map-keys").as_array();
                    let keys = keys.into_iter().flatten().filter_map(Value::as_str).collect();
                    Merge::Keyed(keys, self.at(&target["items"]))
                }
                Some("set") => Merge::Set,
                _ => Merge::Atomic,
            };
        }
        if self.extension("x-kubernetes-map-type") == "atomic" {
            return Merge::Atomic;
        }
        if target["properties"].is_object() {
            return Merge::Struct;
        }
        match &target["additionalProperties"] {
            values if values.is_object() => Merge::Map(self.at(values)),
            _ => Merge::Atomic,
        }
    }

    fn field(self, merge: &Merge<'a>, name: &str) -> Option<Self> {
        match merge {
            Merge::Struct => {
                let node = &self.target()["properties"][name];
                (!node.is_null()).then(|| self.at(node))
            }
            Merge::Map(values) => Some(*values),
            _ => None,
        }
    }

    /// The fields that a value sets.
    pub(crate) fn fields(self, value: &Value) -> Fields {
        let merge = self.merge();
        let mut fields = Fields::default();
        match (&merge, value) {
            (Merge::Struct | Merge::Map(_), Value::Object(map)) if !map.is_empty() => {
                for (name, value) in map {
                    if let Some(shape) = self.field(&merge, name) {
                        fields.below.insert(Step::Field(name.clone()), shape.fields(value));
                    }
                }
            }
            (Merge::Keyed(keys, item), Value::Array(list)) if !list.is_empty() => {
                for value in list {
                    let mut below = item.fields(value);
                    below.here = true;
                    fields.below.insert(key_of(keys, value), below);
                }
            }
            (Merge::Set, Value::Array(list)) if !list.is_empty() => {
                for value in list {
                    fields.below.insert(Step::Member(value.to_string()), Fields { here: true, ..Fields::default() });
                }
            }
            _ => fields.here = true,
        }
        fields
    }

    /// `live` with what `config` sets.
    pub(crate) fn merged(self, live: Option<&Value>, config: &Value) -> Value {
        let merge = self.merge();
        let Some(live) = live else { return config.clone() };
        match (&merge, live, config) {
            (Merge::Struct | Merge::Map(_), Value::Object(live), Value::Object(config)) => {
                let mut result = live.clone();
                for (name, value) in config {
                    let merged = match self.field(&merge, name) {
                        Some(shape) => shape.merged(live.get(name), value),
                        None => value.clone(),
                    };
                    result.insert(name.clone(), merged);
                }
                Value::Object(result)
            }
            (Merge::Keyed(keys, item), Value::Array(live), Value::Array(config)) => {
                let mut result = live.clone();
                for value in config {
                    let key = key_of(keys, value);
                    match result.iter_mut().find(|live| key_of(keys, live) == key) {
                        Some(live) => *live = item.merged(Some(live), value),
                        None => result.push(value.clone()),
                    }
                }
                Value::Array(result)
            }
            (Merge::Set, Value::Array(live), Value::Array(config)) => {
                let new = config.iter().filter(|value| !live.contains(value));
                Value::Array(live.iter().chain(new).cloned().collect())
            }
            _ => config.clone(),
        }
    }

    /// `value` without these fields. Containers that become empty by it go too.
    pub(crate) fn without(self, value: &mut Value, fields: &Fields) {
        let merge = self.merge();
        match (&merge, value) {
            (Merge::Struct | Merge::Map(_), Value::Object(map)) => {
                for (step, below) in &fields.below {
                    let Step::Field(name) = step else { continue };
                    let Some(shape) = self.field(&merge, name) else { continue };
                    let Some(inner) = map.get_mut(name) else { continue };
                    if !below.below.is_empty() {
                        shape.without(inner, below);
                    }
                    let emptied =
                        inner.as_object().map_or_else(|| inner.as_array().is_some_and(Vec::is_empty), |map| map.is_empty());
                    if below.below.is_empty() || emptied {
                        map.remove(name);
                    }
                }
            }
            (Merge::Keyed(keys, item), Value::Array(list)) => {
                list.retain_mut(|value| match fields.below.get(&key_of(keys, value)) {
                    None => true,
                    Some(below) => {
                        item.without(value, below);
                        !below.here
                    }
                });
            }
            (Merge::Set, Value::Array(list)) => {
                list.retain(|value| !fields.below.contains_key(&Step::Member(value.to_string())));
            }
            _ => {}
        }
    }

    /// The value at a path, and how it merges.
    pub(crate) fn get<'v>(self, value: &'v Value, path: &[Step]) -> Option<(Self, &'v Value)> {
        let Some((step, rest)) = path.split_first() else { return Some((self, value)) };
        let merge = self.merge();
        match (&merge, step) {
            (Merge::Keyed(keys, item), Step::Key(_)) => {
                let found = value.as_array()?.iter().find(|value| key_of(keys, value) == *step)?;
                item.get(found, rest)
            }
            (Merge::Set, Step::Member(_)) => {
                let found = value.as_array()?.iter().find(|value| Step::Member(value.to_string()) == *step)?;
                Some((self.at(&NOTHING), found))
            }
            (_, Step::Field(name)) => self.field(&merge, name)?.get(value.get(name)?, rest),
            _ => None,
        }
    }

    /// Whether what is there is merged part by part, so that the whole is no value of its own.
    pub(crate) fn is_container(self) -> bool {
        !matches!(self.merge(), Merge::Atomic)
    }
}

/// What tells an item of a list apart. A protocol that is left out is TCP, the one default among key fields.
fn key_of(keys: &[&str], item: &Value) -> Step {
    let mut key = json!({});
    for name in keys {
        match item.get(*name) {
            Some(value) => key[*name] = value.clone(),
            None if *name == "protocol" => key[*name] = json!("TCP"),
            None => {}
        }
    }
    Step::Key(key.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment() -> Shape<'static> {
        match kinds::by_kind("apps", "v1", "Deployment") {
            Some(kind) => Shape::of(kind),
            None => panic!("deployments are served"),
        }
    }

    fn with_containers(containers: Value) -> Value {
        json!({"spec": {"template": {"spec": {"containers": containers}}}})
    }

    #[test]
    fn fields_follow_the_schema() {
        let value = with_containers(json!([{"name": "c", "image": "i", "args": ["a"], "ports": [{"containerPort": 80}]}]));
        let item = json!({".": {}, "f:name": {}, "f:image": {}, "f:args": {},
            "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}});
        let expected = json!({"f:spec": {"f:template": {"f:spec": {"f:containers": {"k:{\"name\":\"c\"}": item}}}}});
        assert_eq!(deployment().fields(&value).to_value(), expected);
        let selector = json!({"spec": {"selector": {"matchLabels": {"a": "b"}}}});
        assert_eq!(deployment().fields(&selector).to_value(), json!({"f:spec": {"f:selector": {}}}), "selectors are one value");
        let labels = json!({"metadata": {"labels": {"a": "b"}, "finalizers": ["x"]}});
        let expected = json!({"f:metadata": {"f:labels": {"f:a": {}}, "f:finalizers": {"v:\"x\"": {}}}});
        assert_eq!(deployment().fields(&labels).to_value(), expected);
    }

    #[test]
    fn values_merge_and_unmerge() {
        let live = with_containers(json!([{"name": "a", "image": "1", "tty": true}, {"name": "b", "image": "2"}]));
        let config = with_containers(json!([{"name": "b", "image": "3"}, {"name": "c", "image": "4"}]));
        let mut merged = deployment().merged(Some(&live), &config);
        let expected =
            json!([{"name": "a", "image": "1", "tty": true}, {"name": "b", "image": "3"}, {"name": "c", "image": "4"}]);
        assert_eq!(merged, with_containers(expected));
        let gone = with_containers(json!([{"name": "c", "image": "4"}]));
        let mut fields = deployment().fields(&gone);
        fields = fields.or(&Fields::from_value(&json!({"f:spec": {"f:template": {"f:spec": {"f:containers":
            {"k:{\"name\":\"a\"}": {"f:tty": {}}}}}}})));
        deployment().without(&mut merged, &fields);
        assert_eq!(merged, with_containers(json!([{"name": "a", "image": "1"}, {"name": "b", "image": "3"}])));
        let mut labelled = json!({"metadata": {"name": "x", "labels": {"a": "b"}}});
        let fields = deployment().fields(&json!({"metadata": {"labels": {"a": "b"}}}));
        deployment().without(&mut labelled, &fields);
        assert_eq!(labelled, json!({"metadata": {"name": "x"}}));
    }
}
