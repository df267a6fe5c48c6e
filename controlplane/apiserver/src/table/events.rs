//! The event columns. Events come in two styles: with first and last timestamp and a count, or with an event time and
//! a series.

use jiff::Timestamp;
use serde_json::Value;

use super::{since, text};

pub(super) fn last_seen(event: &Value, now: Timestamp) -> Value {
    let series = &event["series"]["lastObservedTime"];
    let last = if series.is_string() { series } else { &event["lastTimestamp"] };
    if last.is_string() { since(last, now).into() } else { first_seen(event, now) }
}

pub(super) fn first_seen(event: &Value, now: Timestamp) -> Value {
    let first = &event["firstTimestamp"];
    since(if first.is_string() { first } else { &event["eventTime"] }, now).into()
}

pub(super) fn count(event: &Value, _: Timestamp) -> Value {
    match event["series"]["count"].as_i64().or(event["count"].as_i64()) {
        None | Some(0) => 1.into(),
        Some(count) => count.into(),
    }
}

pub(super) fn object(event: &Value, _: Timestamp) -> Value {
    let object = &event["involvedObject"];
    match text(&object["kind"]) {
        "" => text(&object["name"]).into(),
        kind => format!("{}/{}", kind.to_lowercase(), text(&object["name"])).into(),
    }
}

pub(super) fn source(event: &Value, _: Timestamp) -> Value {
    let (source, host) = (&event["source"], text(&event["source"]["host"]));
    let component = super::or(text(&source["component"]), text(&event["reportingComponent"]));
    if host.is_empty() { component.into() } else { format!("{component}, {host}").into() }
}
