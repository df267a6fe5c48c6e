//! The OpenAPI v2 document in protobuf, the only form in which kubectl reads it. The numbers are those of the
//! `openapi.v2` protocol; extensions travel as YAML, of which JSON is a part.

use std::sync::LazyLock;

use bytes::Bytes;
use serde_json::Value;

use super::writer::Writer;
use crate::schema::{Document, openapi_v2};

static DOCUMENT: LazyLock<Document> = LazyLock::new(|| {
    let json = openapi_v2();
    // It was serialised from a value a moment ago: it parses.
    let document: Value = serde_json::from_slice(&json.body).unwrap_or_default();
    let mut writer = Writer::default();
    root(&mut writer, &document);
    Document { body: Bytes::from(writer.into_bytes()), hash: format!("{}-pb", json.hash) }
});

/// What kubectl gets when it asks for [`super::OPENAPI_PROTOBUF`].
pub fn openapi_v2_protobuf() -> &'static Document {
    &DOCUMENT
}

fn root(w: &mut Writer, document: &Value) {
    text(w, 1, &document["swagger"]);
    w.message(2, |w| {
        text(w, 1, &document["info"]["title"]);
        text(w, 2, &document["info"]["version"]);
    });
    w.message(8, |w| {
        for (path, item) in entries(&document["paths"]) {
            named(w, 2, path, |w| path_item(w, item));
        }
    });
    w.message(9, |w| {
        for (name, definition) in entries(&document["definitions"]) {
            named(w, 1, name, |w| schema(w, definition));
        }
    });
}

fn path_item(w: &mut Writer, item: &Value) {
    for (verb, number) in [("get", 2), ("put", 3), ("post", 4), ("delete", 5), ("patch", 8)] {
        if item[verb].is_object() {
            w.message(number, |w| operation(w, &item[verb]));
        }
    }
    for p in list(&item["parameters"]) {
        w.message(9, |w| parameter(w, p));
    }
}

fn operation(w: &mut Writer, operation: &Value) {
    text(w, 3, &operation["description"]);
    texts(w, 6, &operation["produces"]);
    texts(w, 7, &operation["consumes"]);
    for p in list(&operation["parameters"]) {
        w.message(8, |w| parameter(w, p));
    }
    w.message(9, |w| {
        for (code, response) in entries(&operation["responses"]) {
            named(w, 1, code, |w| {
                w.message(1, |w| {
                    text(w, 1, &response["description"]);
                    w.message(2, |w| w.message(1, |w| schema(w, &response["schema"])));
                });
            });
        }
    });
    extensions(w, 13, operation);
}

/// A parameter is wrapped by what it may be: a parameter (not a reference), with or without a body, in a place.
fn parameter(w: &mut Writer, parameter: &Value) {
    w.message(1, |w| match parameter["in"].as_str() {
        Some("body") => w.message(1, |w| {
            text(w, 1, &parameter["description"]);
            text(w, 2, &parameter["name"]);
            text(w, 3, &parameter["in"]);
            w.bool(4, parameter["required"] == true);
            w.message(5, |w| schema(w, &parameter["schema"]));
        }),
        place => {
            let in_path = place == Some("path");
            w.message(2, |w| {
                w.message(if in_path { 4 } else { 3 }, |w| {
                    w.bool(1, parameter["required"] == true);
                    text(w, 2, &parameter["in"]);
                    text(w, 3, &parameter["description"]);
                    text(w, 4, &parameter["name"]);
                    text(w, if in_path { 5 } else { 6 }, &parameter["type"]);
                    w.bool(if in_path { 19 } else { 20 }, parameter["uniqueItems"] == true);
                });
            });
        }
    });
}

fn schema(w: &mut Writer, value: &Value) {
    text(w, 1, &value["$ref"]);
    text(w, 2, &value["format"]);
    text(w, 4, &value["description"]);
    texts(w, 19, &value["required"]);
    if value["additionalProperties"].is_object() {
        w.message(21, |w| w.message(1, |w| schema(w, &value["additionalProperties"])));
    }
    if let Some(kind) = value["type"].as_str() {
        w.message(22, |w| w.string(1, kind));
    }
    if value["items"].is_object() {
        w.message(23, |w| w.message(1, |w| schema(w, &value["items"])));
    }
    if value["properties"].is_object() {
        w.message(25, |w| {
            for (name, property) in entries(&value["properties"]) {
                named(w, 1, name, |w| schema(w, property));
            }
        });
    }
    extensions(w, 31, value);
}

fn extensions(w: &mut Writer, number: u32, value: &Value) {
    for (name, extension) in entries(value).filter(|(name, _)| name.starts_with("x-")) {
        named(w, number, name, |w| w.string(2, &extension.to_string()));
    }
}

/// An entry of a map: a name, and a message.
fn named(w: &mut Writer, number: u32, name: &str, build: impl FnOnce(&mut Writer)) {
    w.message(number, |w| {
        w.string(1, name);
        w.message(2, build);
    });
}

fn text(w: &mut Writer, number: u32, value: &Value) {
    if let Some(value) = value.as_str() {
        w.string(number, value);
    }
}

fn texts(w: &mut Writer, number: u32, values: &Value) {
    for value in list(values) {
        text(w, number, value);
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn entries(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value.as_object().into_iter().flatten().map(|(name, value)| (name.as_str(), value))
}
