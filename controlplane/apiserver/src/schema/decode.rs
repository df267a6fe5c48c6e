//! From a parsed body to an object of its kind: the types must fit, fields that the kind does not have are dropped and
//! named, nulls are absent fields, quantities are written one way. What is stored has passed here, so that readers
//! (typed clients, defaulting, validation) meet the types that they expect.

use base64::Engine;
use serde_json::Value;

use super::quantity;
use super::types::{Object, Shape, TYPES};
use crate::kinds::Kind;

/// A body that is not an object of its kind; answered as 400 Bad Request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("json: cannot unmarshal {found} into Go struct field {object}.{field} of type {expected}")]
    Type { found: String, object: String, field: String, expected: String },
    #[error("json: cannot unmarshal {found} into Go value of type {expected}")]
    Body { found: String, expected: String },
    #[error("{0}")]
    Value(String),
}

/// Makes `body` an object of `kind` in place. Returns the fields that the kind does not have, worded
/// `unknown field "spec.foo"`; they are removed from the object.
pub fn decode(kind: &Kind, body: &mut Value) -> Result<Vec<String>, DecodeError> {
    if !body.is_object() {
        return Err(DecodeError::Body { found: word(body), expected: format!("{}.{}", kind.version, kind.kind) });
    }
    let mut decoder = Decoder { unknown: Vec::new(), path: Vec::new() };
    decoder.object(TYPES.of(kind), body)?;
    Ok(decoder.unknown)
}

/// The fields of `object` that `kind` does not have, worded `unknown field "spec.foo"`. Values of wrong types are not
/// looked into.
pub fn unknown_fields(kind: &Kind, object: &Value) -> Vec<String> {
    let mut unknown = Vec::new();
    look(&TYPES.shape(kind), object, &mut Vec::new(), &mut unknown);
    unknown
}

fn look(shape: &Shape, value: &Value, path: &mut Vec<Step>, unknown: &mut Vec<String>) {
    match (shape, value) {
        (Shape::Object(id), Value::Object(map)) => {
            let object = TYPES.get(*id);
            for (key, value) in map {
                path.push(Step::Field(key.clone()));
                match object.fields.get(key) {
                    Some(field) => look(&field.shape, value, path, unknown),
                    None => unknown.push(unknown_field(path)),
                }
                path.pop();
            }
        }
        (Shape::Map(shape), Value::Object(map)) => {
            for (key, value) in map {
                path.push(Step::Field(key.clone()));
                look(shape, value, path, unknown);
                path.pop();
            }
        }
        (Shape::List(shape), Value::Array(list)) => {
            for (i, value) in list.iter().enumerate() {
                path.push(Step::Index(i));
                look(shape, value, path, unknown);
                path.pop();
            }
        }
        _ => {}
    }
}

enum Step {
    Field(String),
    Index(usize),
}

struct Decoder {
    unknown: Vec<String>,
    path: Vec<Step>,
}

// === impl Decoder ===

impl Decoder {
    fn object(&mut self, object: &Object, value: &mut Value) -> Result<(), DecodeError> {
        let Value::Object(map) = value else { return Ok(()) };
        let mut gone = Vec::new();
        for (key, value) in map.iter_mut() {
            self.path.push(Step::Field(key.clone()));
            match object.fields.get(key) {
                None => {
                    self.unknown.push(unknown_field(&self.path));
                    gone.push(key.clone());
                }
                Some(_) if value.is_null() => gone.push(key.clone()),
                Some(field) => self.value(&field.shape, object, value)?,
            }
            self.path.pop();
        }
        for key in gone {
            map.remove(&key);
        }
        Ok(())
    }

    fn value(&mut self, shape: &Shape, owner: &Object, value: &mut Value) -> Result<(), DecodeError> {
        if *shape == Shape::Quantity && (value.is_string() || value.is_number()) {
            return canonical(value);
        }
        match (shape, &mut *value) {
            (Shape::Any, _) => Ok(()),
            (Shape::Object(id), Value::Object(_)) => self.object(TYPES.get(*id), value),
            (Shape::Map(shape), Value::Object(map)) => {
                for (key, value) in map.iter_mut() {
                    self.path.push(Step::Field(key.clone()));
                    match zero(shape) {
                        Some(zero) if value.is_null() => *value = zero,
                        _ => self.value(shape, owner, value)?,
                    }
                    self.path.pop();
                }
                Ok(())
            }
            (Shape::List(shape), Value::Array(list)) => {
                for (i, value) in list.iter_mut().enumerate() {
                    self.path.push(Step::Index(i));
                    match zero(shape) {
                        Some(zero) if value.is_null() => *value = zero,
                        _ => self.value(shape, owner, value)?,
                    }
                    self.path.pop();
                }
                Ok(())
            }
            (Shape::String, Value::String(_)) | (Shape::Number, Value::Number(_)) | (Shape::Boolean, Value::Bool(_)) => Ok(()),
            (Shape::IntOrString, Value::String(_)) => Ok(()),
            (Shape::IntOrString, Value::Number(n)) if n.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) => Ok(()),
            (Shape::Integer { bits }, Value::Number(n)) => match n.as_i64() {
                Some(n) if *bits == 64 || i32::try_from(n).is_ok() => Ok(()),
                // A whole number written as a float, as YAML and JavaScript do.
                None if n.as_f64().is_some_and(|f| f.fract() == 0.0 && f.abs() < 2_147_483_648.0) => {
                    *value = Value::from(n.as_f64().unwrap_or_default() as i64);
                    Ok(())
                }
                _ => Err(self.mismatch(&format!("number {n}"), owner, shape)),
            },
            (Shape::Bytes, Value::String(s)) => match base64::engine::general_purpose::STANDARD.decode(s.as_bytes()) {
                Ok(_) => Ok(()),
                Err(error) => Err(DecodeError::Value(format!("{}: illegal base64 data: {error}", dotted(&self.path)))),
            },
            (Shape::Time | Shape::MicroTime, Value::String(s)) => match s.parse::<jiff::Timestamp>() {
                Ok(_) => Ok(()),
                Err(_) => Err(DecodeError::Value(format!(
                    "parsing time {s:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {s:?} at {}",
                    dotted(&self.path)
                ))),
            },
            _ => {
                let found = word(value);
                Err(self.mismatch(&found, owner, shape))
            }
        }
    }

    fn mismatch(&self, found: &str, owner: &Object, shape: &Shape) -> DecodeError {
        DecodeError::Type {
            found: found.to_owned(),
            object: owner.name().to_owned(),
            field: dotted(&self.path),
            expected: shape.go_name(),
        }
    }
}

/// A quantity, by string or by number, as Kubernetes writes it.
fn canonical(value: &mut Value) -> Result<(), DecodeError> {
    let text = match &*value {
        Value::String(s) => s.trim().to_owned(),
        other => other.to_string(),
    };
    let quantity: quantity::Quantity = text.parse().map_err(|e: quantity::QuantityError| DecodeError::Value(e.to_string()))?;
    *value = Value::String(quantity.to_string());
    Ok(())
}

/// What a null element becomes where it cannot be left out; `None` for what has no zero value.
fn zero(shape: &Shape) -> Option<Value> {
    Some(match shape {
        Shape::Object(_) | Shape::Map(_) => Value::Object(serde_json::Map::new()),
        Shape::List(_) => Value::Array(Vec::new()),
        Shape::String | Shape::Bytes => "".into(),
        Shape::Integer { .. } | Shape::Number | Shape::IntOrString => 0.into(),
        Shape::Quantity => "0".into(),
        Shape::Boolean => false.into(),
        Shape::Time | Shape::MicroTime | Shape::Any => return None,
    })
}

fn word(value: &Value) -> String {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
    .to_owned()
}

fn unknown_field(path: &[Step]) -> String {
    let mut out = String::new();
    for step in path {
        match step {
            Step::Field(name) if out.is_empty() => out.push_str(name),
            Step::Field(name) => {
                out.push('.');
                out.push_str(name);
            }
            Step::Index(i) => out.push_str(&format!("[{i}]")),
        }
    }
    format!("unknown field {out:?}")
}

/// As Go names the field of a mismatch: without the indices.
fn dotted(path: &[Step]) -> String {
    let names = path.iter().filter_map(|step| match step {
        Step::Field(name) => Some(name.as_str()),
        Step::Index(_) => None,
    });
    names.collect::<Vec<_>>().join(".")
}
