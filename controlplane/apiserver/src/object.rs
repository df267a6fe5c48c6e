//! Objects as the store holds them: JSON bytes whose beginning is fixed per kind, so that `resourceVersion` (known only once
//! a write is committed) is spliced in on the way out instead of parsing and printing the object again.

use bytes::Bytes;
use serde_json::{Map, Value, json};
use thalweg_store::KeyValue;

use crate::kinds::Kind;
use crate::status::{ApiError, Result};

/// The first bytes of every stored object of a kind, up to and with the brace that opens `metadata`.
fn head(kind: &Kind) -> String {
    format!("{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":{{", kind.kind, kind.api_version())
}

fn head_len(kind: &Kind) -> usize {
    let group = if kind.group.is_empty() { 0 } else { kind.group.len() + 1 };
    "{\"kind\":\"\",\"apiVersion\":\"\",\"metadata\":{".len() + kind.kind.len() + group + kind.version.len()
}

/// The bytes to store. `resourceVersion` is left out.
pub(crate) fn encode(kind: &Kind, object: &Value) -> Result<Bytes> {
    let mut out = head(kind).into_bytes();
    let mut write = |object: Option<&Value>, skip: &[&str], mut first: bool| -> Result<()> {
        for (key, value) in object.and_then(Value::as_object).into_iter().flatten() {
            if skip.contains(&key.as_str()) || value.is_null() {
                continue;
            }
            if !std::mem::take(&mut first) {
                out.push(b',');
            }
            serde_json::to_writer(&mut out, key).map_err(ApiError::internal)?;
            out.push(b':');
            serde_json::to_writer(&mut out, value).map_err(ApiError::internal)?;
        }
        out.push(b'}');
        Ok(())
    };
    write(object.get("metadata"), &["resourceVersion"], true)?;
    write(Some(object), &["kind", "apiVersion", "metadata"], false)?;
    Ok(out.into())
}

/// Appends a stored object with its `resourceVersion`.
pub(crate) fn splice(kind: &Kind, stored: &[u8], revision: u64, out: &mut Vec<u8>) {
    use std::io::Write as _;
    let (head, rest) = stored.split_at(head_len(kind).min(stored.len()));
    out.reserve(stored.len() + 48);
    out.extend_from_slice(head);
    // Writing to a Vec cannot fail.
    let _ = write!(out, "\"resourceVersion\":\"{revision}\"{}", if rest.first() == Some(&b'}') { "" } else { "," });
    out.extend_from_slice(rest);
}

/// A stored object as it leaves the server.
pub(crate) fn spliced(kind: &Kind, item: &KeyValue) -> Bytes {
    let mut out = Vec::new();
    splice(kind, &item.value, item.mod_revision, &mut out);
    out.into()
}

/// A stored object, with the revision at which it is shown as `resourceVersion`.
pub(crate) fn decode(stored: &[u8], revision: u64) -> Result<Value> {
    let mut object: Value = serde_json::from_slice(stored)
        .map_err(|error| ApiError::internal(format!("a stored object cannot be read: {error}")))?;
    object["metadata"]["resourceVersion"] = json!(revision.to_string());
    Ok(object)
}

pub(crate) fn decode_item(item: &KeyValue) -> Result<Value> {
    decode(&item.value, item.mod_revision)
}

/// `object.metadata`, made when absent. The object must be a JSON object.
pub(crate) fn metadata_mut(object: &mut Value) -> &mut Map<String, Value> {
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    match object["metadata"].as_object_mut() {
        Some(metadata) => metadata,
        None => unreachable!("made an object above"),
    }
}

/// A string of the metadata, empty when absent.
pub(crate) fn meta<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

pub(crate) fn name(object: &Value) -> &str {
    meta(object, "name")
}

/// Whether deletion has begun.
pub(crate) fn deleting(object: &Value) -> bool {
    !meta(object, "deletionTimestamp").is_empty()
}

pub(crate) fn finalizers(object: &Value) -> Vec<&str> {
    object["metadata"]["finalizers"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Sets a metadata field to what `from` has, or removes it.
pub(crate) fn keep(object: &mut Value, from: &Value, field: &str) {
    let value = from["metadata"].get(field).cloned();
    set_or_remove(metadata_mut(object), field, value);
}

/// Sets a top-level field to what `from` has, or removes it.
pub(crate) fn keep_top(object: &mut Value, from: &Value, field: &str) {
    let value = from.get(field).cloned();
    if let Some(object) = object.as_object_mut() {
        set_or_remove(object, field, value);
    }
}

fn set_or_remove(object: &mut Map<String, Value>, field: &str, value: Option<Value>) {
    match value {
        Some(value) => object.insert(field.to_owned(), value),
        None => object.remove(field),
    };
}

/// Removes fields that are null: in Kubernetes a null field is an absent one.
pub(crate) fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(list) => list.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// Now, as Kubernetes writes times: RFC 3339 in seconds, UTC.
pub(crate) fn now() -> String {
    timestamp(jiff::Timestamp::now())
}

pub(crate) fn timestamp(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A random uid (version 4).
pub(crate) fn uid() -> String {
    let mut b = random::<16>();
    b[6] = b[6] & 0x0f | 0x40;
    b[8] = b[8] & 0x3f | 0x80;
    let hex: String = b.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// A name from `generateName`: at most 63 characters, ending in five random ones.
pub(crate) fn generate_name(base: &str) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let suffix: String = random::<5>().iter().map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()])).collect();
    let base: String = base.chars().take(63 - suffix.len()).collect();
    format!("{base}{suffix}")
}

/// A random number below `bound`.
pub(crate) fn jitter(bound: u64) -> u64 {
    u64::from(u32::from_le_bytes(random())) % bound.max(1)
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let filled = rustls::crypto::ring::default_provider().secure_random.fill(&mut bytes);
    // The kernel's generator does not fail once it is seeded, and a uid that is not random would be worse than stopping.
    assert!(filled.is_ok(), "the system's random generator failed");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;

    #[test]
    fn the_revision_is_spliced_where_parsing_finds_it() {
        for kind in kinds::all() {
            let object = json!({"apiVersion": "wrong", "kind": "Wrong", "spec": {"a": [1, {"b": "\"}"}]},
                "metadata": {"name": "x", "resourceVersion": "1", "labels": {"k": "v"}}, "status": {}});
            let stored = encode(kind, &object).unwrap();
            assert!(stored.starts_with(head(kind).as_bytes()) && head(kind).len() == head_len(kind));
            let mut out = Vec::new();
            splice(kind, &stored, 42, &mut out);
            let read: Value = serde_json::from_slice(&out).unwrap();
            assert_eq!(read, decode(&stored, 42).unwrap());
            assert_eq!(read["metadata"]["resourceVersion"], "42");
            assert_eq!(read["kind"], kind.kind);
            assert_eq!(read["spec"], object["spec"]);
        }
        let stored = encode(&kinds::all()[0], &json!({})).unwrap();
        let mut out = Vec::new();
        splice(&kinds::all()[0], &stored, 7, &mut out);
        assert_eq!(serde_json::from_slice::<Value>(&out).unwrap()["metadata"], json!({"resourceVersion": "7"}));
    }

    #[test]
    fn generated_words_have_their_form() {
        let id = uid();
        assert_eq!((id.len(), &id[14..15]), (36, "4"));
        assert_ne!(id, uid());
        let name = generate_name(&"x".repeat(80));
        assert_eq!(name.len(), 63);
        assert!(generate_name("web-").starts_with("web-"));
    }

    #[test]
    fn nulls_are_absent_fields() {
        let mut object = json!({"a": null, "b": {"c": null, "d": [{"e": null}, 1]}});
        drop_nulls(&mut object);
        assert_eq!(object, json!({"b": {"d": [{}, 1]}}));
    }
}
