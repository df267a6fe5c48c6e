//! What is wrong with an object, worded as Kubernetes words it, since people search for these sentences.

use std::fmt;

use serde_json::Value;

use crate::kinds::Kind;

/// One thing that is wrong: an entry of `details.causes` of a Status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// `spec.ports[0].port`
    pub field: String,
    pub reason: Reason,
    /// `Invalid value: 80000: must be between 1 and 65535, inclusive`
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    Required,
    Invalid,
    NotSupported,
    Duplicate,
    Forbidden,
    NotFound,
    TooLong,
    TooMany,
    /// Nothing that the client did wrong.
    Internal,
}

/// The causes found so far.
#[derive(Clone, Debug, Default)]
pub struct Causes(Vec<Cause>);

/// Where in an object: built on the way down, written out only when something is wrong.
#[derive(Clone, Copy)]
pub(crate) enum Path<'a> {
    Root,
    Field(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
    Key(&'a Path<'a>, &'a str),
}

/// The message of an Invalid status: `Service "x" is invalid: spec.ports: Required value`.
pub fn invalid_message(kind: &Kind, name: &str, causes: &[Cause]) -> String {
    let list: Vec<String> = causes.iter().map(ToString::to_string).collect();
    let all = if list.len() == 1 { list.concat() } else { format!("[{}]", list.join(", ")) };
    format!("{} {name:?} is invalid: {all}", kind.group_kind())
}

// === impl Path ===

impl<'a> Path<'a> {
    pub(crate) fn field(&'a self, name: &'a str) -> Path<'a> {
        Path::Field(self, name)
    }

    pub(crate) fn index(&'a self, index: usize) -> Path<'a> {
        Path::Index(self, index)
    }

    pub(crate) fn key(&'a self, key: &'a str) -> Path<'a> {
        Path::Key(self, key)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Field(Path::Root, name) => f.write_str(name),
            Path::Field(parent, name) => write!(f, "{parent}.{name}"),
            Path::Index(parent, index) => write!(f, "{parent}[{index}]"),
            Path::Key(parent, key) => write!(f, "{parent}[{key}]"),
        }
    }
}

// === impl Causes ===

impl Causes {
    pub(crate) fn required(&mut self, path: &Path<'_>, detail: &str) {
        let message = if detail.is_empty() { "Required value".to_owned() } else { format!("Required value: {detail}") };
        self.push(path, Reason::Required, message);
    }

    pub(crate) fn invalid(&mut self, path: &Path<'_>, value: impl Into<Value>, detail: impl fmt::Display) {
        self.push(path, Reason::Invalid, format!("Invalid value: {}: {detail}", value.into()));
    }

    /// Every complaint about one value.
    pub(crate) fn all_invalid(&mut self, path: &Path<'_>, value: &str, details: Vec<String>) {
        for detail in details {
            self.invalid(path, value, detail);
        }
    }

    pub(crate) fn unsupported(&mut self, path: &Path<'_>, value: &str, supported: &[&str]) {
        let supported: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
        let message = format!("Unsupported value: {value:?}: supported values: {}", supported.join(", "));
        self.push(path, Reason::NotSupported, message);
    }

    pub(crate) fn duplicate(&mut self, path: &Path<'_>, value: impl Into<Value>) {
        self.push(path, Reason::Duplicate, format!("Duplicate value: {}", value.into()));
    }

    pub(crate) fn forbidden(&mut self, path: &Path<'_>, detail: impl fmt::Display) {
        self.push(path, Reason::Forbidden, format!("Forbidden: {detail}"));
    }

    pub(crate) fn not_found(&mut self, path: &Path<'_>, value: &str) {
        self.push(path, Reason::NotFound, format!("Not found: {value:?}"));
    }

    pub(crate) fn too_long(&mut self, path: &Path<'_>, bytes: usize) {
        self.push(path, Reason::TooLong, format!("Too long: may not be more than {bytes} bytes"));
    }

    pub(crate) fn too_many(&mut self, path: &Path<'_>, found: usize, items: usize) {
        self.push(path, Reason::TooMany, format!("Too many: {found}: must have at most {items} items"));
    }

    pub(crate) fn into_inner(self) -> Vec<Cause> {
        self.0
    }

    fn push(&mut self, path: &Path<'_>, reason: Reason, message: String) {
        self.0.push(Cause { field: path.to_string(), reason, message });
    }
}

// === impl Cause ===

impl Cause {
    pub(crate) fn invalid(path: &Path<'_>, value: impl Into<Value>, detail: impl fmt::Display) -> Self {
        let message = format!("Invalid value: {}: {detail}", value.into());
        Self { field: path.to_string(), reason: Reason::Invalid, message }
    }

    pub(crate) fn internal(path: &Path<'_>, detail: impl fmt::Display) -> Self {
        Self { field: path.to_string(), reason: Reason::Internal, message: format!("Internal error: {detail}") }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

// === impl Reason ===

impl Reason {
    /// The `reason` of the cause in a Status.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Required => "FieldValueRequired",
            Reason::Invalid => "FieldValueInvalid",
            Reason::NotSupported => "FieldValueNotSupported",
            Reason::Duplicate => "FieldValueDuplicate",
            Reason::Forbidden => "FieldValueForbidden",
            Reason::NotFound => "FieldValueNotFound",
            Reason::TooLong => "FieldValueTooLong",
            Reason::TooMany => "FieldValueTooMany",
            Reason::Internal => "InternalError",
        }
    }
}
