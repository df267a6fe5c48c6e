//! Server-side apply: each manager says what it wants, the server remembers who set which field, merges, takes away what a
//! manager no longer wants, and reports a conflict when one would change what another set. Pure; the request is in
//! [`crate::patching`].
//!
//! Fields are recorded from the first apply on: an object that nobody applied carries no managedFields, and its fields then count
//! as set by `before-first-apply`.

mod fields;
mod shape;

use http::StatusCode;
use serde_json::{Value, json};

use self::fields::{Fields, Step, shown};
use self::shape::Shape;
use crate::kinds::Kind;
use crate::object;
use crate::status::{ApiError, Result};

const BEFORE: &str = "before-first-apply";

/// Who writes, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Writer<'a> {
    pub manager: &'a str,
    /// Empty for the object itself.
    pub subresource: &'a str,
}

/// An entry of managedFields.
#[derive(Clone, Debug)]
struct Entry {
    manager: String,
    /// `Apply` or `Update`.
    operation: String,
    subresource: String,
    api_version: String,
    time: String,
    fields: Fields,
}

/// `live` after `config` was applied by the writer, with the record of who set what.
pub(crate) fn apply(kind: &Kind, writer: Writer<'_>, force: bool, live: &Value, config: &Value) -> Result<Value> {
    let shape = Shape::of(kind);
    let mut entries = entries(live);
    if entries.is_empty() && !object::meta(live, "uid").is_empty() {
        let fields = owned(shape, live);
        entries.push(Entry::new(kind, Writer { manager: BEFORE, subresource: "" }, "Update", fields));
    }
    let wanted = scoped(kind, writer, owned(shape, config));
    let mine = entries.iter().position(|entry| entry.is(writer, "Apply"));
    let mine = mine.map(|at| entries.remove(at));
    let before = mine.as_ref().map(|entry| entry.fields.clone()).unwrap_or_default();

    let mut conflicts = Vec::new();
    for entry in &mut entries {
        let taken = taken(shape, &entry.fields.and(&wanted), live, config);
        conflicts.extend(taken.paths().into_iter().map(|path| (entry.title(), shown(&path))));
        entry.fields = entry.fields.minus(&taken);
    }
    if !conflicts.is_empty() && !force {
        return Err(conflict(kind, object::name(live), &conflicts));
    }
    let mut result = shape.merged(Some(live), config);
    let others = entries.iter().fold(Fields::default(), |all, entry| all.or(&entry.fields));
    shape.without(&mut result, &before.minus(&wanted).minus(&others));
    let mut entry = Entry::new(kind, writer, "Apply", wanted);
    // The same wish again is no news: an unchanged record makes the whole write unnecessary.
    if let Some(mine) = mine.filter(|mine| mine.fields == entry.fields) {
        entry.time = mine.time;
    }
    entries.push(entry);
    record(&mut result, entries);
    Ok(result)
}

/// Records a write that is no apply: what it changed is the writer's now. Only where somebody has applied before.
pub(crate) fn track(kind: &Kind, writer: Writer<'_>, old: &Value, new: &mut Value) {
    let mut entries = entries(old);
    if entries.is_empty() {
        return;
    }
    let shape = Shape::of(kind);
    let (before, after) = (owned(shape, old), owned(shape, new));
    let changed = taken(shape, &after.and(&before), old, new).or(&after.minus(&before));
    let gone = before.minus(&after);
    if changed.is_empty() && gone.is_empty() {
        return;
    }
    for entry in &mut entries {
        entry.fields = entry.fields.minus(&changed).minus(&gone);
    }
    match entries.iter_mut().find(|entry| entry.is(writer, "Update")) {
        Some(entry) => {
            entry.fields = entry.fields.or(&changed);
            entry.time = object::now();
        }
        None => entries.push(Entry::new(kind, writer, "Update", changed)),
    }
    record(new, entries);
}

/// The fields of an object that can have a manager: not its identity, and not what the server keeps.
fn owned(shape: Shape<'_>, object: &Value) -> Fields {
    let mut fields = shape.fields(object);
    for path in [&["apiVersion"][..], &["kind"]] {
        fields.remove(path);
    }
    for field in [
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "selfLink",
        "managedFields",
    ] {
        fields.remove(&["metadata", field]);
    }
    // An object of nothing but its identity sets nothing.
    if fields.below.get(&Step::Field("metadata".into())).is_some_and(|metadata| metadata.below.is_empty()) {
        fields.remove(&["metadata"]);
    }
    fields
}

/// The part of an object that a writer is about.
fn scoped(kind: &Kind, writer: Writer<'_>, mut fields: Fields) -> Fields {
    if writer.subresource == "status" {
        fields.below.retain(|step, _| *step == Step::Field("status".into()));
    } else if kind.status {
        fields.remove(&["status"]);
    }
    fields
}

/// Those of `fields` whose value differs between the two objects.
fn taken(shape: Shape<'_>, fields: &Fields, old: &Value, new: &Value) -> Fields {
    let mut taken = Fields::default();
    for path in fields.paths() {
        let (before, after) = (shape.get(old, &path), shape.get(new, &path));
        let container = before.or(after).is_some_and(|(shape, _)| shape.is_container());
        if container || before.map(|(_, value)| value) == after.map(|(_, value)| value) {
            continue;
        }
        let leaf = path.iter().fold(&mut taken, |node, step| node.below.entry(step.clone()).or_default());
        leaf.here = true;
    }
    taken
}

fn entries(object: &Value) -> Vec<Entry> {
    let list = object["metadata"]["managedFields"].as_array();
    list.into_iter().flatten().map(Entry::from_value).collect()
}

fn record(object: &mut Value, entries: Vec<Entry>) {
    let list: Vec<Value> = entries.iter().filter(|entry| !entry.fields.is_empty()).map(Entry::to_value).collect();
    object::metadata_mut(object).insert("managedFields".into(), Value::Array(list));
}

fn conflict(kind: &Kind, name: &str, conflicts: &[(String, String)]) -> ApiError {
    let plural = if conflicts.len() == 1 { "" } else { "s" };
    let mut words: Vec<String> = Vec::new();
    for (title, path) in conflicts {
        match words.last_mut() {
            Some(last) if last.starts_with(&format!("{title}:")) => last.push_str(&format!("\n- {path}")),
            _ => words.push(format!("{title}:\n- {path}")),
        }
    }
    let words = match conflicts {
        [(title, path)] => format!("{title}: {path}"),
        _ => words.join("\n"),
    };
    let causes: Vec<Value> = conflicts
        .iter()
        .map(|(title, path)| json!({"reason": "FieldManagerConflict", "message": title, "field": path}))
        .collect();
    let message = format!("Apply failed with {} conflict{plural}: {words}", conflicts.len());
    ApiError::new(StatusCode::CONFLICT, "Conflict", message)
        .detail("name", name.into())
        .detail("kind", kind.plural.into())
        .detail("causes", json!(causes))
}

// === impl Entry ===

impl Entry {
    fn new(kind: &Kind, writer: Writer<'_>, operation: &str, fields: Fields) -> Self {
        Self {
            manager: writer.manager.to_owned(),
            operation: operation.to_owned(),
            subresource: writer.subresource.to_owned(),
            api_version: kind.api_version(),
            time: object::now(),
            fields,
        }
    }

    fn is(&self, writer: Writer<'_>, operation: &str) -> bool {
        self.manager == writer.manager && self.subresource == writer.subresource && self.operation == operation
    }

    /// `conflict with "kubectl" using apps/v1`
    fn title(&self) -> String {
        let subresource = match self.subresource.as_str() {
            "" => String::new(),
            subresource => format!(" with subresource \"{subresource}\""),
        };
        format!("conflict with \"{}\"{subresource} using {}", self.manager, self.api_version)
    }

    fn from_value(value: &Value) -> Self {
        let text = |field: &str| value[field].as_str().unwrap_or_default().to_owned();
        let mut fields = Fields::from_value(&value["fieldsV1"]);
        // The object as a whole is nobody's.
        fields.here = false;
        Self {
            manager: text("manager"),
            operation: text("operation"),
            subresource: text("subresource"),
            api_version: text("apiVersion"),
            time: text("time"),
            fields,
        }
    }

    fn to_value(&self) -> Value {
        let mut value = json!({"manager": self.manager, "operation": self.operation, "apiVersion": self.api_version,
            "time": self.time, "fieldsType": "FieldsV1", "fieldsV1": self.fields.to_value()});
        if !self.subresource.is_empty() {
            value["subresource"] = json!(self.subresource);
        }
        value
    }
}

#[cfg(test)]
mod tests;
