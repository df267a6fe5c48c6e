//! Request bodies: JSON, YAML or protobuf into a value, within a size, with the duplicate fields noted.

use std::cell::RefCell;
use std::fmt;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::status::{ApiError, Result};
use crate::wire;

/// The largest request body, as in Kubernetes.
pub(crate) const LIMIT: usize = 3 << 20;
/// How much of a too large body is read before the connection is given up.
const DRAIN: usize = 32 << 20;

/// A decoded body.
pub(crate) struct Document {
    pub value: Value,
    /// As strict decoding reports them: `duplicate field "spec.replicas"`.
    pub duplicates: Vec<String>,
}

/// How a body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Yaml,
    /// What typed clients send: `k8s\0` and an envelope with the object's kind.
    Protobuf,
}

/// Reads a body up to the limit. What goes beyond is read and thrown away (within reason), because a client that is still
/// sending does not listen to the refusal.
pub(crate) async fn read<B>(body: B) -> Result<Bytes>
where
    B: hyper::body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut body = std::pin::pin!(body);
    let mut content = BytesMut::new();
    let mut size = 0;
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|error| ApiError::bad_request(format!("the request's body ended early: {}", error.into())))?;
        let Ok(data) = frame.into_data() else { continue };
        size += data.len();
        if size <= LIMIT {
            content.extend_from_slice(&data);
        } else if size > DRAIN {
            break;
        }
    }
    if size > LIMIT { Err(ApiError::too_large(LIMIT)) } else { Ok(content.freeze()) }
}

/// The format a `Content-Type` names; JSON when there is none.
pub(crate) fn format(content_type: Option<&str>) -> Result<Format> {
    let media = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    match media {
        "" | "application/json" | "text/plain" | "application/x-www-form-urlencoded" => Ok(Format::Json),
        "application/yaml" | "application/x-yaml" | "text/yaml" => Ok(Format::Yaml),
        wire::PROTOBUF => Ok(Format::Protobuf),
        other => {
            let accepted = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
            Err(ApiError::unsupported_media(other, accepted))
        }
    }
}

pub(crate) fn parse(bytes: &[u8], format: Format) -> Result<Document> {
    let duplicates = RefCell::new(Vec::new());
    let seed = Node { path: String::new(), duplicates: &duplicates };
    let value = match format {
        Format::Json => {
            let mut deserializer = serde_json::Deserializer::from_slice(bytes);
            seed.deserialize(&mut deserializer)
                .and_then(|value| deserializer.end().map(|()| value))
                .map_err(|error| error.to_string())
        }
        Format::Protobuf => wire::from_protobuf(bytes).map_err(|error| error.to_string()),
        Format::Yaml => seed.deserialize(serde_yaml_ng::Deserializer::from_slice(bytes)).map_err(|error| error.to_string()),
    };
    let value = value.map_err(|error| ApiError::bad_request(format!("error decoding the request's body: {error}")))?;
    Ok(Document { value, duplicates: duplicates.into_inner() })
}

/// Builds a value and notes fields that appear twice; the last one wins.
struct Node<'a> {
    path: String,
    duplicates: &'a RefCell<Vec<String>>,
}

// === impl Node ===

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> std::result::Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON or YAML value")
    }

    fn visit_bool<E>(self, value: bool) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> std::result::Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> std::result::Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: serde::Deserializer<'de>>(self, deserializer: D) -> std::result::Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(value) =
            seq.next_element_seed(Node { path: format!("{}[{}]", self.path, list.len()), duplicates: self.duplicates })?
        {
            list.push(value);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> std::result::Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key_seed(Key)? {
            let path = if self.path.is_empty() { key.clone() } else { format!("{}.{key}", self.path) };
            if map.contains_key(&key) {
                self.duplicates.borrow_mut().push(format!("duplicate field {path:?}"));
            }
            let value = entries.next_value_seed(Node { path, duplicates: self.duplicates })?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

/// A key: YAML also allows numbers and booleans, which Kubernetes takes as their text.
struct Key;

// === impl Key ===

impl<'de> DeserializeSeed<'de> for Key {
    type Value = String;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> std::result::Result<String, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for Key {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, value: &str) -> std::result::Result<String, E> {
        Ok(value.to_owned())
    }

    fn visit_string<E>(self, value: String) -> std::result::Result<String, E> {
        Ok(value)
    }

    fn visit_bool<E>(self, value: bool) -> std::result::Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_i64<E>(self, value: i64) -> std::result::Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_u64<E>(self, value: u64) -> std::result::Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_f64<E>(self, value: f64) -> std::result::Result<String, E> {
        Ok(value.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn bodies_become_values() {
        let check = |text: &str, format: Format, expected: Value, duplicates: &[&str]| {
            let document = parse(text.as_bytes(), format).unwrap();
            assert_eq!(document.value, expected, "{text}");
            assert_eq!(document.duplicates, duplicates, "{text}");
        };
        check(r#"{"a":1,"b":[true,null,"x",-1.5]}"#, Format::Json, json!({"a": 1, "b": [true, null, "x", -1.5]}), &[]);
        check(
            r#"{"a":1,"b":[{"c":1,"c":2}],"a":3}"#,
            Format::Json,
            json!({"a": 3, "b": [{"c": 2}]}),
            &[r#"duplicate field "b[0].c""#, r#"duplicate field "a""#],
        );
        check("a: 1\nb:\n- c: x\n  80: y\n", Format::Yaml, json!({"a": 1, "b": [{"c": "x", "80": "y"}]}), &[]);
        check("a: 1\na: 2\n", Format::Yaml, json!({"a": 2}), &[r#"duplicate field "a""#]);
        check("a: ~\nb: 'true'\nc: true\n", Format::Yaml, json!({"a": null, "b": "true", "c": true}), &[]);
    }

    #[test]
    fn what_is_no_document_is_a_bad_request() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        for (text, format) in [("{", Format::Json), ("{} x", Format::Json), ("a: [", Format::Yaml), (&deep, Format::Json)] {
            let error = parse(text.as_bytes(), format).err().unwrap();
            assert_eq!(error.code(), 400);
        }
        assert_eq!(format(Some("application/cbor")).unwrap_err().code(), 415);
        assert_eq!(parse(b"{}", Format::Protobuf).err().unwrap().code(), 400);
        assert_eq!(format(Some("application/json; charset=utf-8")).unwrap(), Format::Json);
        assert_eq!(format(None).unwrap(), Format::Json);
    }

    #[tokio::test]
    async fn oversized_bodies_are_refused() {
        let body = http_body_util::Full::new(Bytes::from(vec![b' '; LIMIT + 1]));
        assert_eq!(read(body).await.unwrap_err().code(), 413);
    }
}
