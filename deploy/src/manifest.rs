//! Documents of YAML files, each with the place that it came from.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

/// One object, and where it was read.
#[derive(Clone, PartialEq, Debug)]
pub struct Manifest {
    /// File, and number of the document in it.
    pub origin: String,
    pub object: Value,
}

/// This folder: `deploy/`.
pub fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

// === impl Manifest ===

impl Manifest {
    /// The documents of a text, those that are empty left out.
    ///
    /// # Errors
    /// Names the document that is no YAML, has a key twice, or is no object.
    pub fn documents(origin: &str, text: &str) -> Result<Vec<Self>> {
        let mut manifests = Vec::new();
        for (number, document) in serde_yaml_ng::Deserializer::from_str(text).enumerate() {
            let origin = format!("{origin}, document {}", number + 1);
            // By way of YAML's own value, which refuses a key that is there twice.
            let value = serde_yaml_ng::Value::deserialize(document).with_context(|| origin.clone())?;
            if value.is_null() {
                continue;
            }
            let object = serde_json::to_value(value).with_context(|| origin.clone())?;
            ensure!(object.is_object(), "{origin}: no object but {object}");
            manifests.push(Self { origin, object });
        }
        Ok(manifests)
    }

    /// The documents of every YAML file in a folder, in the order of names.
    ///
    /// # Errors
    /// When there is none, and as [`Manifest::documents`].
    pub fn load(folder: &Path) -> Result<Vec<Self>> {
        let mut files = fs::read_dir(folder)
            .with_context(|| folder.display().to_string())?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<Vec<PathBuf>>>()?;
        files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
        files.sort();
        ensure!(!files.is_empty(), "{}: no YAML file", folder.display());
        let mut manifests = Vec::new();
        for file in files {
            let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
            manifests.extend(Self::documents(&file.display().to_string(), &text)?);
        }
        Ok(manifests)
    }

    /// The text at a JSON pointer; empty when there is none.
    pub fn text(&self, pointer: &str) -> &str {
        self.object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    pub fn kind(&self) -> &str {
        self.text("/kind")
    }

    pub fn name(&self) -> &str {
        self.text("/metadata/name")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_counted_and_empty_ones_left_out() {
        let found = Manifest::documents("f", "kind: A\n---\n# only words\n---\nkind: B\nmetadata: {name: b}\n").expect("YAML");
        let found: Vec<_> = found.iter().map(|m| (m.origin.as_str(), m.kind(), m.name())).collect();
        assert_eq!(found, [("f, document 1", "A", ""), ("f, document 3", "B", "b")]);
    }

    #[test]
    fn what_is_no_object_is_named() {
        for (text, word) in [("- a", "document 1: no object"), ("a: 1\n---\nb: 1\nb: 2", "document 2"), ("a: [", "document 1")]
        {
            let error = format!("{:#}", Manifest::documents("f", text).expect_err(text));
            assert!(error.contains(word), "{error}");
        }
    }
}
