//! The components compiled into shapes that requests are walked with: decoding, unknown fields, strategic merge.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::Value;

use super::components::{COMPONENTS, reference};
use crate::kinds::Kind;

/// What a value may be.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Shape {
    Object(ObjectId),
    Map(Box<Shape>),
    List(Box<Shape>),
    String,
    /// base64 in JSON.
    Bytes,
    Time,
    MicroTime,
    Integer {
        bits: u8,
    },
    Number,
    Boolean,
    Quantity,
    IntOrString,
    /// Whatever comes: RawExtension, FieldsV1.
    Any,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ObjectId(usize);

/// An object with named fields.
#[derive(Debug)]
pub(crate) struct Object {
    /// `io.k8s.api.core.v1.Container`
    pub(crate) component: String,
    pub(crate) fields: HashMap<String, Field>,
}

#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) shape: Shape,
    /// How a strategic merge patch treats it.
    pub(crate) strategy: Strategy,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Strategy {
    /// Lists: elements of patch and object are matched, by this key when they are objects.
    pub(crate) merge: bool,
    pub(crate) key: Option<String>,
    pub(crate) retain_keys: bool,
}

pub(crate) struct Types {
    objects: Vec<Object>,
    ids: HashMap<String, ObjectId>,
}

/// Every component that is an object with fields.
pub(crate) static TYPES: LazyLock<Types> = LazyLock::new(Types::compile);

// === impl Types ===

impl Types {
    /// The object of a kind's component.
    pub(crate) fn of(&self, kind: &Kind) -> &Object {
        // Every kind's component was generated from the kind table itself; the first is as good as a panic-free answer.
        self.by_component(kind.component).unwrap_or(&self.objects[0])
    }

    /// The same as a shape.
    pub(crate) fn shape(&self, kind: &Kind) -> Shape {
        self.ids.get(kind.component).map_or(Shape::Any, |id| Shape::Object(*id))
    }

    pub(crate) fn by_component(&self, component: &str) -> Option<&Object> {
        self.ids.get(component).map(|id| self.get(*id))
    }

    pub(crate) fn get(&self, id: ObjectId) -> &Object {
        &self.objects[id.0]
    }

    fn compile() -> Self {
        let with_fields = COMPONENTS.iter().filter(|(_, schema)| schema["properties"].is_object());
        let ids: HashMap<String, ObjectId> =
            with_fields.clone().enumerate().map(|(i, (name, _))| (name.clone(), ObjectId(i))).collect();
        let objects = with_fields
            .map(|(name, schema)| {
                let fields = schema["properties"].as_object().into_iter().flatten();
                let fields = fields.map(|(field, schema)| {
                    (field.clone(), Field { shape: shape(schema, &ids), strategy: Strategy::of(schema) })
                });
                Object { component: name.clone(), fields: fields.collect() }
            })
            .collect();
        Self { objects, ids }
    }
}

fn shape(schema: &Value, ids: &HashMap<String, ObjectId>) -> Shape {
    if let Some(component) = reference(schema) {
        return match component.rsplit('.').next() {
            Some("Quantity") => Shape::Quantity,
            Some("IntOrString") => Shape::IntOrString,
            Some("Time") => Shape::Time,
            Some("MicroTime") => Shape::MicroTime,
            _ => match ids.get(component) {
                Some(id) => Shape::Object(*id),
                None => COMPONENTS.get(component).map_or(Shape::Any, |schema| shape(schema, ids)),
            },
        };
    }
    let format = schema["format"].as_str();
    match schema["type"].as_str() {
        Some("string") if format == Some("byte") => Shape::Bytes,
        Some("string") => Shape::String,
        Some("integer") => Shape::Integer { bits: if format == Some("int64") { 64 } else { 32 } },
        Some("number") => Shape::Number,
        Some("boolean") => Shape::Boolean,
        Some("array") => Shape::List(Box::new(shape(&schema["items"], ids))),
        Some("object") if schema["additionalProperties"].is_object() => {
            Shape::Map(Box::new(shape(&schema["additionalProperties"], ids)))
        }
        _ => Shape::Any,
    }
}

// === impl Object ===

impl Object {
    /// The type's last name: `Container`.
    pub(crate) fn name(&self) -> &str {
        self.component.rsplit('.').next().unwrap_or_default()
    }
}

// === impl Strategy ===

impl Strategy {
    fn of(schema: &Value) -> Self {
        let strategies = schema["x-kubernetes-patch-strategy"].as_str().unwrap_or_default();
        let has = |word: &str| strategies.split(',').any(|s| s == word);
        Self {
            merge: has("merge"),
            retain_keys: has("retainKeys"),
            key: schema["x-kubernetes-patch-merge-key"].as_str().map(str::to_owned),
        }
    }
}

// === impl Shape ===

impl Shape {
    /// The Go type that error messages name.
    pub(crate) fn go_name(&self) -> String {
        match self {
            Shape::Object(id) => short_name(&TYPES.get(*id).component),
            Shape::Map(value) => format!("map[string]{}", value.go_name()),
            Shape::List(item) => format!("[]{}", item.go_name()),
            Shape::String => "string".into(),
            Shape::Bytes => "[]uint8".into(),
            Shape::Time => "v1.Time".into(),
            Shape::MicroTime => "v1.MicroTime".into(),
            Shape::Integer { bits } => format!("int{bits}"),
            Shape::Number => "float64".into(),
            Shape::Boolean => "bool".into(),
            Shape::Quantity => "resource.Quantity".into(),
            Shape::IntOrString => "intstr.IntOrString".into(),
            Shape::Any => "runtime.RawExtension".into(),
        }
    }
}

/// `v1.Container` of `io.k8s.api.core.v1.Container`.
fn short_name(component: &str) -> String {
    let mut parts = component.rsplit('.');
    match (parts.next(), parts.next()) {
        (Some(name), Some(version)) => format!("{version}.{name}"),
        _ => component.to_owned(),
    }
}
