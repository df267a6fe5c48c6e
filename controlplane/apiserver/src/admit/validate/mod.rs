//! Validation of each kind: what Kubernetes refuses, refused in its words. What is not checked here does no harm to
//! the cluster: it is a mistake that the object's reader reports.

use serde_json::Value;

use super::names;
use super::{Causes, Path};

pub(crate) mod containers;
pub(crate) mod data;
pub(crate) mod meta;
pub(crate) mod node;
pub(crate) mod pod;
pub(crate) mod service;
pub(crate) mod volumes;
pub(crate) mod workload;

/// What most immutable fields say.
pub(crate) const IMMUTABLE: &str = "field is immutable";
const NOT_NEGATIVE: &str = "must be greater than or equal to 0";
const NOT_AN_ADDRESS: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::String(s) => s.is_empty(),
        _ => false,
    }
}

/// A word out of a few; an absent one is required.
fn one_of(value: &Value, supported: &[&str], path: &Path<'_>, causes: &mut Causes) {
    match text(value) {
        "" => causes.required(path, ""),
        word if !supported.contains(&word) => causes.unsupported(path, word, supported),
        _ => {}
    }
}

/// A number that may be absent but not negative.
fn not_negative(value: &Value, path: &Path<'_>, causes: &mut Causes) {
    if let Some(number) = value.as_i64().filter(|n| *n < 0) {
        causes.invalid(path, number, NOT_NEGATIVE);
    }
}

fn port_number(value: &Value, path: &Path<'_>, causes: &mut Causes) {
    let number = value.as_i64().unwrap_or(0);
    if let Some(wrong) = names::port(number) {
        causes.invalid(path, number, wrong);
    }
}

/// A port by number or by name.
fn port_or_name(value: &Value, path: &Path<'_>, causes: &mut Causes) {
    match value {
        Value::String(name) => causes.all_invalid(path, name, names::port_name(name)),
        other => port_number(other, path, causes),
    }
}

fn ip_address(value: &Value, path: &Path<'_>, causes: &mut Causes) -> Option<std::net::IpAddr> {
    let parsed = text(value).parse();
    if parsed.is_err() {
        causes.invalid(path, value.clone(), NOT_AN_ADDRESS);
    }
    parsed.ok()
}

fn cidr(value: &Value, path: &Path<'_>, causes: &mut Causes) {
    if !text(value).contains('/') || text(value).trim().parse::<ipnetwork::IpNetwork>().is_err() {
        causes.invalid(path, value.clone(), "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
    }
}
