//! From the text of a configuration file to its fields. Strict: a misspelt field must not be taken for a default.

use serde_json::Value;

use super::error::{ConfigError, FieldError};
use super::model::{API_VERSION, KIND, KubeProxyConfiguration, Linux};

/// So many letters may be wrong in a name that is still recognised.
const SLIPS: usize = 3;

/// Reads YAML or JSON. Defaults are not filled in.
///
/// # Errors
/// Names every field that does not exist, with its path; or the first one whose value has the wrong type.
pub fn decode(text: &str) -> Result<KubeProxyConfiguration, ConfigError> {
    // By way of YAML's own value, which refuses a key that is there twice.
    let value: serde_yaml_ng::Value = serde_yaml_ng::from_str(text).map_err(|error| ConfigError::Syntax(error.to_string()))?;
    let mut value = serde_json::to_value(value).map_err(|error| ConfigError::Syntax(error.to_string()))?;
    if !value.is_object() {
        return Err(ConfigError::Syntax("the file holds no fields".to_owned()));
    }
    for (field, wanted) in [("kind", KIND), ("apiVersion", API_VERSION)] {
        let found = value.get(field).and_then(Value::as_str).unwrap_or_default();
        if found != wanted {
            return Err(FieldError::new(field, format!("{found:?}: must be {wanted}")).into());
        }
    }
    drop_nulls(&mut value);
    let mut unknown = Vec::new();
    compare(&value, &template(), "", &mut unknown);
    if !unknown.is_empty() {
        return Err(ConfigError::Fields(unknown));
    }
    serde_path_to_error::deserialize(value)
        .map_err(|error| FieldError::new(error.path().to_string(), error.into_inner().to_string()).into())
}

/// Every field that there is, as the structures serialise.
fn template() -> Value {
    let mut template = serde_json::to_value(KubeProxyConfiguration::default()).unwrap_or_default();
    template["linux"] = serde_json::to_value(Linux::default()).unwrap_or_default();
    template
}

/// In these files null means "not said".
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

fn compare(value: &Value, template: &Value, path: &str, unknown: &mut Vec<FieldError>) {
    let (Value::Object(fields), Value::Object(known)) = (value, template) else { return };
    // A map of free names: feature gates.
    if known.is_empty() {
        return;
    }
    for (name, value) in fields {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        match known.get(name) {
            Some(template) => compare(value, template, &path, unknown),
            None => {
                let near = known.keys().map(|known| (distance(known, name), known)).min();
                let near = near.filter(|(distance, known)| *distance <= SLIPS.min(known.len() / 3));
                let hint = near.map(|(_, near)| format!(": did you mean {near}?")).unwrap_or_default();
                unknown.push(FieldError::new(path, format!("there is no such field{hint}")));
            }
        }
    }
}

/// How many letters have to be put in, left out or changed to make one name of the other; case does not count.
fn distance(one: &str, other: &str) -> usize {
    let (one, other) = (one.to_ascii_lowercase().into_bytes(), other.to_ascii_lowercase().into_bytes());
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (index, letter) in one.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], index + 1);
        for (column, there) in other.iter().enumerate() {
            let changed = diagonal + usize::from(letter != there);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[other.len()]
}
