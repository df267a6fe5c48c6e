//! Kubernetes manifests as text: several YAML documents, lists within them, objects of other kinds among them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::networking::v1 as networking;
use serde::Deserialize as _;
use serde_json::Value;

use super::convert::{ConvertError, Follow, Key};
use crate::world::Change;

/// The objects of one file.
#[derive(Debug, Default)]
pub(crate) struct Manifest {
    /// `None`: a sound object that is nothing to us.
    pub objects: BTreeMap<Key, Option<Change>>,
    /// Objects that make no sense, with the key when they have one.
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

    fn object<K: Follow + serde::de::DeserializeOwned>(&mut self, api_version: &str, mut value: Value) {
        let name = display_name(&value);
        let refuse =
            |field: &str, reason: String| ConvertError { kind: K::KIND, name: name.clone(), field: field.into(), reason };
        if api_version != K::API_VERSION {
            let reason = format!("{api_version:?} is not {:?}", K::API_VERSION);
            self.refused.push((None, refuse("apiVersion", reason)));
            return;
        }
        // Items of a typed list may lack both; the typed object asks for them.
        if let Some(fields) = value.as_object_mut() {
            fields.entry("apiVersion").or_insert_with(|| K::API_VERSION.into());
            fields.entry("kind").or_insert_with(|| K::KIND.into());
        }
        // The key is taken from the raw value too, so that an object whose other fields do not even parse is known.
        let metadata = value.get("metadata").cloned();
        match serde_json::from_value::<K>(value) {
            Ok(object) => {
                let key = object.key().ok();
                match (object.convert(), key) {
                    (Ok(change), Some(key)) => {
                        self.objects.insert(key, change);
                    }
                    (Ok(_), None) => {}
                    (Err(error), key) => self.refused.push((key, error)),
                }
            }
            Err(error) => {
                let bare = serde_json::json!({ "apiVersion": K::API_VERSION, "kind": K::KIND, "metadata": metadata });
                let key = serde_json::from_value::<K>(bare).ok().and_then(|object| object.key().ok());
                self.refused.push((key, refuse("object", error.to_string())));
            }
        }
    }
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
