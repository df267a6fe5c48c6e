//! Tables: what `kubectl get` prints, made on the server side, so that every client shows a kind the same way.

use std::str::FromStr;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::kinds::Kind;

pub(crate) mod columns;
mod duration;
mod endpoints;
mod events;
mod nodes;
mod pods;
mod services;
#[cfg(test)]
mod tests;
mod workloads;

pub use duration::human;

/// What makes a cell out of an object, at a moment.
pub(crate) type Cell = fn(&Value, Timestamp) -> Value;

/// One column: its definition, and how to fill it.
pub(crate) struct Column {
    name: &'static str,
    kind: &'static str,
    format: &'static str,
    description: &'static str,
    /// 0: always shown; 1: shown by `-o wide`.
    priority: u8,
    cell: Cell,
}

/// How much of each object a row carries (`includeObject`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Include {
    None,
    /// The object's metadata, as PartialObjectMetadata.
    #[default]
    Metadata,
    Object,
}

/// The meta.k8s.io/v1 Table of `objects`, with ages as of now. `metadata` is left empty for the caller to fill with
/// the list's resourceVersion and continue token.
pub fn table(kind: &Kind, objects: &[Value], include: Include) -> Value {
    table_at(kind, objects, include, Timestamp::now())
}

/// The same with ages as of `now`.
pub fn table_at(kind: &Kind, objects: &[Value], include: Include, now: Timestamp) -> Value {
    let rows: Vec<Value> = objects.iter().map(|object| row(kind, object, include, now)).collect();
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {},
        "columnDefinitions": definitions(kind),
        "rows": rows,
    })
}

/// The column definitions alone: a watch sends them with its first event only.
pub fn definitions(kind: &Kind) -> Value {
    kind.columns
        .iter()
        .map(|c| {
            json!({
                "name": c.name, "type": c.kind, "format": c.format, "description": c.description, "priority": c.priority,
            })
        })
        .collect()
}

/// One row.
pub fn row(kind: &Kind, object: &Value, include: Include, now: Timestamp) -> Value {
    let cells: Vec<Value> = kind.columns.iter().map(|c| (c.cell)(object, now)).collect();
    match include {
        Include::None => json!({ "cells": cells, "object": null }),
        Include::Metadata => json!({ "cells": cells, "object": partial(object) }),
        Include::Object => json!({ "cells": cells, "object": object }),
    }
}

/// An object cut down to PartialObjectMetadata.
pub fn partial(object: &Value) -> Value {
    json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"] })
}

// === impl Include ===

impl FromStr for Include {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        match s {
            "" | "Metadata" => Ok(Self::Metadata),
            "None" => Ok(Self::None),
            "Object" => Ok(Self::Object),
            other => Err(format!("unrecognized includeObject value: {other:?}")),
        }
    }
}

// === impl Column ===

impl Column {
    const fn new(name: &'static str, kind: &'static str, description: &'static str, cell: Cell) -> Self {
        Self { name, kind, format: "", description, priority: 0, cell }
    }

    const fn text(name: &'static str, description: &'static str, cell: Cell) -> Self {
        Self::new(name, "string", description, cell)
    }

    const fn number(name: &'static str, description: &'static str, cell: Cell) -> Self {
        Self::new(name, "integer", description, cell)
    }

    /// The column that kubectl takes for the object's name.
    const fn name() -> Self {
        let name = Self::text("Name", "Unique within its namespace; cannot be changed.", |o, _| o["metadata"]["name"].clone());
        Self { format: "name", ..name }
    }

    const fn age() -> Self {
        Self::text("Age", "Time since the object was created.", |o, now| since(&o["metadata"]["creationTimestamp"], now).into())
    }

    const fn wide(self) -> Self {
        Self { priority: 1, ..self }
    }
}

// === cells ===

/// Time since a timestamp field, as kubectl writes it.
fn since(timestamp: &Value, now: Timestamp) -> String {
    match parse_time(timestamp) {
        Some(then) => human(now.duration_since(then)),
        None => "<unknown>".to_owned(),
    }
}

fn parse_time(timestamp: &Value) -> Option<Timestamp> {
    timestamp.as_str()?.parse().ok()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn or<'a>(value: &'a str, absent: &'a str) -> &'a str {
    if value.is_empty() { absent } else { value }
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn count(value: &Value) -> usize {
    value.as_object().map_or(0, serde_json::Map::len)
}

fn join<'a>(parts: impl Iterator<Item = &'a str>) -> String {
    parts.collect::<Vec<_>>().join(",")
}

/// `a=b,c=d` of a map, `<none>` when it is empty.
fn labels(map: &Value) -> String {
    let pairs: Vec<String> = map.as_object().into_iter().flatten().map(|(k, v)| format!("{k}={}", text(v))).collect();
    if pairs.is_empty() { "<none>".to_owned() } else { pairs.join(",") }
}

/// The first `max` of a list, and how many there are besides.
fn with_more(list: Vec<String>, max: usize) -> String {
    match list.len().checked_sub(max) {
        None | Some(0) => list.join(","),
        Some(more) => format!("{} + {more} more...", list[..max].join(",")),
    }
}
