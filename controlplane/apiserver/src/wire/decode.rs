//! From a protobuf request to the JSON form of its object.
//!
//! Go's encoder writes every field that is not a pointer, set or not, where its JSON encoder leaves out what is empty.
//! So empty strings are dropped here, and zeros and falses of the fields that are not pointers in Go: an object must
//! look the same whichever way it came.

use base64::Engine;
use serde_json::{Map, Value};

use super::numbers::{self, Slot};
use super::reader::{Reader, Wire};
use crate::kinds::{self, Kind};
use crate::schema::types::{Object, Shape, TYPES};

/// What a protobuf body begins with.
const MAGIC: &[u8] = b"k8s\0";
/// Messages within messages, at most.
const MAX_DEPTH: usize = 64;

/// Numbers and truths that Go leaves out of JSON when they are zero.
const DROPPED_WHEN_ZERO: &[&str] = &[
    "collisionCount",
    "count",
    "failureThreshold",
    "generation",
    "healthCheckNodePort",
    "hostIPC",
    "hostNetwork",
    "hostPID",
    "hostPort",
    "initialDelaySeconds",
    "minReadySeconds",
    "nodePort",
    "observedGeneration",
    "paused",
    "periodSeconds",
    "publishNotReadyAddresses",
    "readOnly",
    "remainingItemCount",
    "signal",
    "stdin",
    "stdinOnce",
    "successThreshold",
    "terminatingReplicas",
    "timeoutSeconds",
    "tty",
    "unschedulable",
    "availableReplicas",
    "fullyLabeledReplicas",
    "readyReplicas",
    "unavailableReplicas",
    "updatedReplicas",
];

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("the body does not begin with the protobuf prefix \"k8s\\0\": send protobuf of Kubernetes or JSON")]
    Magic,
    #[error("the protobuf body is cut short or malformed")]
    Malformed,
    #[error("no kind {kind:?} is registered for version {api_version:?}")]
    UnknownKind { api_version: String, kind: String },
    #[error("field {field} of {message}: {problem}")]
    Field { message: String, field: String, problem: &'static str },
    #[error("the embedded JSON cannot be read: {0}")]
    Json(String),
}

/// The object in a protobuf body, in its JSON form with `apiVersion` and `kind`.
pub fn from_protobuf(body: &[u8]) -> Result<Value, WireError> {
    let mut unknown = Reader::new(body.strip_prefix(MAGIC).ok_or(WireError::Magic)?);
    let (mut api_version, mut kind, mut raw, mut content_type) = (String::new(), String::new(), &b""[..], String::new());
    while let Some((number, value)) = unknown.field()? {
        match (number, value) {
            (1, Wire::Bytes(meta)) => {
                let mut meta = Reader::new(meta);
                while let Some((number, value)) = meta.field()? {
                    match number {
                        1 => api_version = string(value)?,
                        2 => kind = string(value)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(bytes)) => raw = bytes,
            (4, value) => content_type = string(value)?,
            _ => {}
        }
    }
    let mut object = if content_type.contains("json") {
        serde_json::from_slice(raw).map_err(|e| WireError::Json(e.to_string()))?
    } else {
        let known = find(&api_version, &kind);
        let known = known.ok_or_else(|| WireError::UnknownKind { api_version: api_version.clone(), kind: kind.clone() })?;
        let mut fields = Map::new();
        message(TYPES.of(known), known.component, raw, &mut fields, 0)?;
        Value::Object(fields)
    };
    if let Some(object) = object.as_object_mut() {
        object.insert("apiVersion".into(), api_version.into());
        object.insert("kind".into(), kind.into());
    }
    Ok(object)
}

/// DeleteOptions are a kind of every group and version.
fn find(api_version: &str, kind: &str) -> Option<&'static Kind> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    match kind {
        "DeleteOptions" => Some(kinds::delete_options()),
        _ => kinds::by_kind(group, version, kind),
    }
}

/// Reads the fields of `bytes` into `fields`. `numbers_of` is the component whose numbers count: the object's own, or
/// that of a message embedded in it.
fn message(
    object: &Object,
    numbers_of: &str,
    bytes: &[u8],
    fields: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), WireError> {
    let Some(numbers) = numbers::of(numbers_of) else { return Ok(()) };
    if depth > MAX_DEPTH {
        return Err(WireError::Malformed);
    }
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.field()? {
        match (numbers.get(&number), wire) {
            // Fields of newer versions are unknown here, as unknown JSON fields are.
            (None, _) => {}
            (Some(Slot::Embedded(embedded)), Wire::Bytes(bytes)) => {
                let package = numbers_of.rsplit_once('.').map_or("", |(package, _)| package);
                message(object, &format!("{package}.{embedded}"), bytes, fields, depth + 1)?;
            }
            (Some(Slot::Field(name)), wire) => {
                if let Some(field) = object.fields.get(*name) {
                    put(fields, name, &field.shape, wire, depth).map_err(|problem| problem.of(object, name))?;
                }
            }
            (Some(Slot::Embedded(_)), _) => return Err(WireError::Malformed),
        }
    }
    Ok(())
}

/// Either the body is broken, or a value does not have the form that its type asks for.
enum Problem {
    Error(WireError),
    Value(&'static str),
}

impl From<WireError> for Problem {
    fn from(error: WireError) -> Self {
        Self::Error(error)
    }
}

impl Problem {
    fn of(self, object: &Object, field: &str) -> WireError {
        match self {
            Self::Error(error) => error,
            Self::Value(problem) => WireError::Field { message: object.name().to_owned(), field: field.to_owned(), problem },
        }
    }
}

/// Sets a field, or adds to it when it is a list or a map.
fn put(fields: &mut Map<String, Value>, name: &str, shape: &Shape, wire: Wire<'_>, depth: usize) -> Result<(), Problem> {
    match shape {
        Shape::List(element) => {
            let list = fields.entry(name).or_insert_with(|| Value::Array(Vec::new()));
            let Value::Array(list) = list else { return Ok(()) };
            match (&**element, wire) {
                (Shape::Integer { .. }, Wire::Bytes(packed)) => {
                    let mut packed = Reader::new(packed);
                    while let Some(number) = packed.packed()? {
                        list.push(number.cast_signed().into());
                    }
                }
                (element, wire) => list.push(single(element, wire, depth)?.unwrap_or(Value::Null)),
            }
        }
        Shape::Map(element) => {
            let Wire::Bytes(entry) = wire else { return Err(Problem::Value("a map must be a message")) };
            let (mut key, mut value, mut entry) = (String::new(), None, Reader::new(entry));
            while let Some((number, wire)) = entry.field()? {
                match number {
                    1 => key = string(wire)?,
                    2 => value = single(element, wire, depth)?,
                    _ => {}
                }
            }
            let map = fields.entry(name).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(map) = map {
                map.insert(key, value.unwrap_or_else(|| "".into()));
            }
        }
        shape => {
            let value = single(shape, wire, depth)?;
            let dropped = match &value {
                None => true,
                Some(Value::String(s)) => s.is_empty(),
                Some(Value::Bool(false)) => DROPPED_WHEN_ZERO.contains(&name),
                Some(Value::Number(n)) => n.as_i64() == Some(0) && DROPPED_WHEN_ZERO.contains(&name),
                Some(_) => false,
            };
            if let (false, Some(value)) = (dropped, value) {
                fields.insert(name.to_owned(), value);
            }
        }
    }
    Ok(())
}

/// One value; `None` for a time that is not set.
fn single(shape: &Shape, wire: Wire<'_>, depth: usize) -> Result<Option<Value>, Problem> {
    let value = match (shape, wire) {
        (Shape::Object(id), Wire::Bytes(bytes)) => {
            let object = TYPES.get(*id);
            let mut fields = Map::new();
            message(object, &object.component, bytes, &mut fields, depth + 1)?;
            Value::Object(fields)
        }
        (Shape::String, wire) => string(wire)?.into(),
        (Shape::Bytes, Wire::Bytes(bytes)) => base64::engine::general_purpose::STANDARD.encode(bytes).into(),
        (Shape::Integer { .. }, Wire::Varint(number)) => number.cast_signed().into(),
        (Shape::Boolean, Wire::Varint(number)) => (number != 0).into(),
        (Shape::Number, Wire::Fixed64(bits)) => f64::from_bits(bits).into(),
        (Shape::Number, Wire::Fixed32(bits)) => f64::from(f32::from_bits(bits)).into(),
        (Shape::Quantity, Wire::Bytes(bytes)) => {
            let mut text = String::new();
            let mut reader = Reader::new(bytes);
            while let Some((number, wire)) = reader.field()? {
                if number == 1 {
                    text = string(wire)?;
                }
            }
            if text.is_empty() { "0".into() } else { text.into() }
        }
        (Shape::IntOrString, Wire::Bytes(bytes)) => int_or_string(bytes)?,
        (Shape::Time | Shape::MicroTime, Wire::Bytes(bytes)) => return Ok(time(bytes, *shape == Shape::MicroTime)?),
        (Shape::Any, Wire::Bytes(bytes)) => return Ok(raw(bytes)?),
        (Shape::List(_) | Shape::Map(_), _) => return Err(Problem::Value("lists of lists have no protobuf form")),
        _ => return Err(Problem::Value("the value is not encoded as its type asks for")),
    };
    Ok(Some(value))
}

fn string(wire: Wire<'_>) -> Result<String, WireError> {
    match wire {
        Wire::Bytes(bytes) => String::from_utf8(bytes.to_vec()).map_err(|_| WireError::Malformed),
        _ => Err(WireError::Malformed),
    }
}

fn int_or_string(bytes: &[u8]) -> Result<Value, WireError> {
    let (mut is_string, mut number, mut text) = (false, 0i64, String::new());
    let mut reader = Reader::new(bytes);
    while let Some((field, wire)) = reader.field()? {
        match (field, wire) {
            (1, Wire::Varint(kind)) => is_string = kind == 1,
            (2, Wire::Varint(value)) => number = value.cast_signed(),
            (3, wire) => text = string(wire)?,
            _ => {}
        }
    }
    Ok(if is_string { text.into() } else { number.into() })
}

/// Seconds and nanoseconds since 1970; an empty message is no time.
fn time(bytes: &[u8], micro: bool) -> Result<Option<Value>, WireError> {
    let (mut seconds, mut nanos) = (None, 0i64);
    let mut reader = Reader::new(bytes);
    while let Some((field, wire)) = reader.field()? {
        match (field, wire) {
            (1, Wire::Varint(value)) => seconds = Some(value.cast_signed()),
            (2, Wire::Varint(value)) => nanos = value.cast_signed(),
            _ => {}
        }
    }
    let Some(seconds) = seconds else { return Ok(None) };
    let nanos = i32::try_from(nanos).map_err(|_| WireError::Malformed)?;
    let timestamp = jiff::Timestamp::new(seconds, nanos).map_err(|_| WireError::Malformed)?;
    let text = if micro { format!("{timestamp:.6}") } else { format!("{timestamp:.0}") };
    Ok(Some(text.into()))
}

/// JSON within protobuf: RawExtension and FieldsV1 hold it as bytes in their first field.
fn raw(bytes: &[u8]) -> Result<Option<Value>, WireError> {
    let mut reader = Reader::new(bytes);
    while let Some((field, wire)) = reader.field()? {
        if let (1, Wire::Bytes(json)) = (field, wire) {
            return serde_json::from_slice(json).map(Some).map_err(|e| WireError::Json(e.to_string()));
        }
    }
    Ok(None)
}
