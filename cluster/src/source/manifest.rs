//! Kubernetes manifests as text: several YAML documents, lists within them, objects of other kinds among them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;
use serde::{Deserialize as _, Serialize};
use serde_json::Value;

use super::convert::{ConvertError, Follow, Key};
use super::object::Object;

/// The objects of one file.
#[derive(Debug, Default)]
pub(crate) struct Manifest {
    /// `None`: a sound object that is nothing to us.
    pub objects: BTreeMap<Key, Option<Object>>,
    /// Objects that make no sense, with the key when they have one: an error for everything that is wrong with them.
    pub refused: Vec<(Option<Key>, ConvertError)>,
}

// === impl Manifest ===

impl Manifest {
    /// # Errors
    /// The text as a whole cannot be read: the reason, with line and column.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut manifest = Self::default();
        for (index, document) in serde_yaml_ng::Deserializer::from_str(text).enumerate() {
            let value = Value::deserialize(document).map_err(|error| format!("document {}: {error}", index + 1))?;
            manifest.add(value, None);
        }
        Ok(manifest)
    }

    /// `default`: apiVersion and kind that the items of a typed list may leave out.
    fn add(&mut self, value: Value, default: Option<(&str, &str)>) {
        if value.is_null() {
            return;
        }
        let api_version = text(&value, "apiVersion").or(default.map(|(version, _)| version)).unwrap_or_default().to_owned();
        let kind = text(&value, "kind").or(default.map(|(_, kind)| kind)).unwrap_or_default().to_owned();
        match kind.as_str() {
            core::Service::KIND => self.object::<core::Service>(&api_version, value),
            discovery::EndpointSlice::KIND => self.object::<discovery::EndpointSlice>(&api_version, value),
            core::Node::KIND => self.object::<core::Node>(&api_version, value),
            core::Pod::KIND => self.object::<core::Pod>(&api_version, value),
            networking::ServiceCIDR::KIND => self.object::<networking::ServiceCIDR>(&api_version, value),
            "List" => self.items(value, None),
            "ServiceList" | "EndpointSliceList" | "NodeList" | "PodList" | "ServiceCIDRList" => {
                self.items(value, Some((&api_version, kind.trim_end_matches("List"))));
            }
            "" => self.refused.push((
                None,
                ConvertError {
                    kind: "object",
                    name: display_name(&value),
                    field: "kind".into(),
                    reason: "is missing: not a Kubernetes object".into(),
                },
            )),
            // Every object has a name; a text that was cut off in its head may not.
            other if !other.ends_with("List") && value.pointer("/metadata/name").is_none() => self.refused.push((
                None,
                ConvertError {
                    kind: "object",
                    name: display_name(&value),
                    field: "metadata.name".into(),
                    reason: format!("is missing in a {other:?}: is the file half-written?"),
                },
            )),
            other => tracing::trace!(kind = other, name = display_name(&value), "not a kind that is followed"),
        }
    }

    fn items(&mut self, mut list: Value, default: Option<(&str, &str)>) {
        if let Some(Value::Array(items)) = list.get_mut("items").map(Value::take) {
            for item in items {
                self.add(item, default);
            }
        }
    }

    fn object<K: Follow + Serialize + DeserializeOwned>(&mut self, api_version: &str, mut value: Value) {
        // The name is taken from the raw value, so that an object whose other fields do not even parse is known.
        let metadata = head(&value);
        let key = K::key(&metadata).ok();
        // The same word in another group, as Knative's Service: another kind. Without a slash it may be a group cut off.
        if api_version.split_once('/').is_some_and(|(other, _)| Some(other) != group(K::API_VERSION)) {
            tracing::trace!(kind = K::KIND, api_version, "not a kind that is followed");
            return;
        }
        if api_version != K::API_VERSION {
            let reason = format!("{api_version:?} is not {:?}", K::API_VERSION);
            self.refused.push((key, ConvertError::unreadable::<K>(&metadata, "apiVersion".into(), reason)));
            return;
        }
        // Items of a typed list may lack both; what is compared below has them.
        if let Some(fields) = value.as_object_mut() {
            fields.entry("apiVersion").or_insert_with(|| K::API_VERSION.into());
            fields.entry("kind").or_insert_with(|| K::KIND.into());
        }
        let object: K = match serde_path_to_error::deserialize(&value) {
            Ok(object) => object,
            Err(error) => {
                let (path, reason) = (error.path().to_string(), error.inner().to_string());
                self.refused.push((key, ConvertError::unreadable::<K>(&metadata, path, reason)));
                return;
            }
        };
        // What the typed object does not give back, it did not know. Without a field that was misspelt, a service would be
        // another than the one that was meant: wider open, perhaps.
        if let Ok(known) = serde_json::to_value(&object) {
            let mut unknown = Vec::new();
            compare(&value, &known, "", &mut unknown);
            if !unknown.is_empty() {
                let complain = |field| ConvertError::unreadable::<K>(&metadata, field, "is no field that is known".into());
                self.refused.extend(unknown.into_iter().map(|field| (key.clone(), complain(field))));
                return;
            }
        }
        match (object.convert(), key) {
            (Ok(change), Some(key)) => {
                let object = change.and_then(Object::of);
                // The object's own name, rather than another copy of it.
                let key = object.as_ref().map_or(key, Object::key);
                self.objects.insert(key, object);
            }
            (Err(error), key) => self.refused.push((key, error)),
            (Ok(_), None) => {}
        }
    }
}

/// The paths of fields that `given` has and `known` has not.
fn compare(given: &Value, known: &Value, path: &str, unknown: &mut Vec<String>) {
    match (given, known) {
        (Value::Object(given), Value::Object(known)) => {
            for (field, value) in given.iter().filter(|(_, value)| !value.is_null()) {
                let path = if path.is_empty() { field.clone() } else { format!("{path}.{field}") };
                match known.get(field) {
                    Some(known) => compare(value, known, &path, unknown),
                    None => unknown.push(path),
                }
            }
        }
        (Value::Array(given), Value::Array(known)) => {
            for (index, (given, known)) in given.iter().zip(known).enumerate() {
                compare(given, known, &format!("{path}[{index}]"), unknown);
            }
        }
        _ => {}
    }
}

/// `None` for the core group.
fn group(api_version: &str) -> Option<&str> {
    api_version.split_once('/').map(|(group, _)| group)
}

/// What names an object, whatever else is wrong with it.
fn head(value: &Value) -> ObjectMeta {
    let field = |field| value.get("metadata").and_then(|metadata| text(metadata, field)).map(str::to_owned);
    ObjectMeta { namespace: field("namespace"), name: field("name"), ..ObjectMeta::default() }
}

fn text<'a>(value: &'a Value, field: &str) -> Option<&'a str> {
    value.get(field)?.as_str()
}

fn display_name(value: &Value) -> String {
    let metadata = value.get("metadata");
    let name = metadata.and_then(|metadata| text(metadata, "name")).unwrap_or("(unnamed)");
    match metadata.and_then(|metadata| text(metadata, "namespace")) {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name.to_owned(),
    }
}
