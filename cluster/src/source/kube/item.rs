//! An object of a list or a watch, parsed by itself: one that cannot be parsed takes neither its neighbours nor the
//! stream with it.

use std::borrow::Cow;
use std::fmt::Debug;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::source::convert::{ConvertError, Follow, Key};
use crate::world::Change;

#[derive(Clone, Debug)]
pub(super) enum Item<K> {
    Sound(K),
    /// What could still be read of it, and why the rest could not.
    Broken(Box<ObjectMeta>, ConvertError),
}

/// As much of an object as names it.
#[derive(Default, Deserialize)]
struct Head {
    metadata: HeadMetadata,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct HeadMetadata {
    namespace: Option<String>,
    name: Option<String>,
    resource_version: Option<String>,
}

// === impl Item ===

impl<K: Follow + Resource<DynamicType = ()>> Item<K> {
    pub fn key(&self) -> Result<Key, ConvertError> {
        K::key(self.meta())
    }

    pub fn convert(self) -> Result<Option<Change>, ConvertError> {
        match self {
            Self::Sound(object) => object.convert(),
            Self::Broken(_, error) => Err(error),
        }
    }
}

impl<'de, K: Follow + DeserializeOwned> Deserialize<'de> for Item<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        Ok(serde_json::from_str(raw.get()).map_or_else(|_| Self::broken(raw.get()), Self::Sound))
    }
}

impl<K: Follow + DeserializeOwned> Item<K> {
    /// Parses once more, to learn which field it was: rare enough not to burden every object with it.
    fn broken(text: &str) -> Self {
        let head = serde_json::from_str::<Head>(text).unwrap_or_default().metadata;
        let metadata = ObjectMeta {
            namespace: head.namespace,
            name: head.name,
            resource_version: head.resource_version,
            ..ObjectMeta::default()
        };
        let error = match serde_path_to_error::deserialize::<_, K>(&mut serde_json::Deserializer::from_str(text)) {
            Err(error) => ConvertError::unreadable::<K>(&metadata, error.path().to_string(), error.inner().to_string()),
            Ok(object) => return Self::Sound(object),
        };
        Self::Broken(Box::new(metadata), error)
    }
}

impl<K: Resource<DynamicType = ()>> Resource for Item<K> {
    type DynamicType = ();
    type Scope = K::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        K::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        K::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        K::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        K::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        match self {
            Self::Sound(object) => object.meta(),
            Self::Broken(metadata, _) => metadata,
        }
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        match self {
            Self::Sound(object) => object.meta_mut(),
            Self::Broken(metadata, _) => metadata,
        }
    }
}
