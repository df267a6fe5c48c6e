//! Writing: what all writes share (their options, decoding a body into an object), and creation.

use bytes::Bytes;
use http::header::USER_AGENT;
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use thalweg_store::{Compare, KeyValue, Op, Outcome, Txn};

use crate::admit;
use crate::api::{Api, namespace_kind};
use crate::body::Document;
use crate::kinds::Kind;
use crate::object::{self, metadata_mut};
use crate::prepare;
use crate::query::Query;
use crate::read::key;
use crate::route::Call;
use crate::schema;
use crate::status::{ApiError, Result};

/// How often a write that lost a race to another is tried anew.
pub(crate) const RETRIES: usize = 10;

/// What to do with fields that the kind does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Validation {
    Ignore,
    Warn,
    Strict,
}

#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub dry_run: bool,
    pub validation: Validation,
    /// Who writes, for the ownership of fields.
    pub manager: String,
    /// The write is an apply: it brings its own record of who owns what.
    pub applying: bool,
}

/// What a write answers.
#[derive(Debug)]
pub(crate) struct Written {
    /// The kind of the object in `json`; `None` for a Status, which has no other views.
    pub kind: Option<&'static Kind>,
    pub code: StatusCode,
    pub json: Bytes,
    pub warnings: Vec<String>,
}

// === impl Options ===

impl Options {
    pub(crate) fn of(query: &Query, headers: &HeaderMap) -> Result<Self> {
        let validation = match query.get("fieldValidation") {
            "" | "Warn" => Validation::Warn,
            "Ignore" => Validation::Ignore,
            "Strict" => Validation::Strict,
            other => {
                return Err(ApiError::bad_request(format!(
                    "invalid fieldValidation {other:?}: the values are Ignore, Warn and Strict"
                )));
            }
        };
        // As in Kubernetes, who does not name itself is known by its program.
        let program = || {
            let agent = headers.get(USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or("unknown");
            agent.split('/').next().unwrap_or_default().chars().take(128).collect()
        };
        let manager = match query.get("fieldManager") {
            "" => program(),
            manager => manager.to_owned(),
        };
        Ok(Self { dry_run: query.dry_run()?, validation, manager, applying: false })
    }
}

// === impl Written ===

impl Written {
    pub(crate) fn object(kind: &'static Kind, code: StatusCode, json: Bytes) -> Self {
        Self { kind: Some(kind), code, json, warnings: Vec::new() }
    }

    pub(crate) fn value(kind: &'static Kind, code: StatusCode, value: &Value) -> Self {
        Self::object(kind, code, value.to_string().into())
    }

    pub(crate) fn status(code: StatusCode, status: &Value) -> Self {
        Self { kind: None, code, json: status.to_string().into(), warnings: Vec::new() }
    }

    pub(crate) fn warning(self, warnings: Vec<String>) -> Self {
        Self { warnings, ..self }
    }
}

/// Makes a parsed body an object of its kind: fields that the kind does not have are dropped, and refused or warned about as the
/// request says.
pub(crate) fn decode(kind: &Kind, document: Document, validation: Validation) -> Result<(Value, Vec<String>)> {
    let Document { value: mut object, duplicates } = document;
    if !object.is_object() {
        return Err(ApiError::bad_request(format!("the body of the request is not an object of kind {}", kind.kind)));
    }
    for (field, expected) in [("apiVersion", kind.api_version()), ("kind", kind.kind.to_owned())] {
        match object[field].as_str() {
            None | Some("") => object[field] = json!(expected),
            Some(given) if given == expected => {}
            Some(given) => {
                let what = if field == "kind" { "kind" } else { "API version" };
                return Err(ApiError::bad_request(format!(
                    "the {what} in the data ({given}) does not match the expected {what} ({expected})"
                )));
            }
        }
    }
    let unfit = |why: &str| {
        ApiError::bad_request(format!(
            "{} in version \"{}\" cannot be handled as a {}: {why}",
            kind.kind, kind.version, kind.kind
        ))
    };
    let mut complaints = schema::decode(kind, &mut object).map_err(|error| unfit(&error.to_string()))?;
    complaints.extend(duplicates);
    object::drop_nulls(&mut object);
    match validation {
        Validation::Ignore => Ok((object, Vec::new())),
        Validation::Warn => Ok((object, complaints)),
        Validation::Strict if complaints.is_empty() => Ok((object, complaints)),
        Validation::Strict => Err(unfit(&format!("strict decoding error: {}", complaints.join(", ")))),
    }
}

// === impl Api ===

impl Api {
    pub(crate) async fn create(&self, call: &Call, options: &Options, document: Document) -> Result<Written> {
        let (object, warnings) = decode(call.kind, document, options.validation)?;
        Ok(self.create_object(call, options, object).await?.warning(warnings))
    }

    /// Creates a decoded object.
    pub(crate) async fn create_object(&self, call: &Call, options: &Options, mut object: Value) -> Result<Written> {
        let kind = call.kind;
        let record = object["metadata"].get("managedFields").cloned().filter(|_| options.applying);
        prepare::for_create(kind, &mut object, &call.namespace)?;
        if let Some(record) = record {
            metadata_mut(&mut object).insert("managedFields".into(), record);
        }
        let generated = object::meta(&object, "generateName").to_owned();
        let random_name = object::name(&object).is_empty() && !generated.is_empty();
        for _ in 0..RETRIES {
            if random_name {
                metadata_mut(&mut object).insert("name".into(), json!(object::generate_name(&generated)));
            }
            match self.create_once(kind, call, options, object.clone()).await? {
                Some(json) => return Ok(Written::object(kind, StatusCode::CREATED, json)),
                None if random_name => {}
                None => return Err(ApiError::already_exists(kind, object::name(&object))),
            }
        }
        Err(ApiError::already_exists(kind, &generated).detail("retryAfterSeconds", json!(1)))
    }

    /// Creates a prepared object; `None` when its name is taken.
    async fn create_once(
        &self,
        kind: &'static Kind,
        call: &Call,
        options: &Options,
        mut object: Value,
    ) -> Result<Option<Bytes>> {
        admit::default(kind, &mut object);
        let name = object::name(&object).to_owned();
        let causes = admit::validate_create(kind, &object);
        if !causes.is_empty() {
            return Err(ApiError::invalid(kind, &name, &causes));
        }
        for _ in 0..RETRIES {
            let namespace = self.open_namespace(kind, &call.namespace, &name).await?;
            if self.store.get(&key(kind, &call.namespace, &name), None).await?.item.is_some() {
                return Ok(None);
            }
            let reservation = self.reserve_new(kind, &mut object)?;
            let stored = object::encode(kind, &object)?;
            if options.dry_run {
                return Ok(Some(stored));
            }
            let key = key(kind, &call.namespace, &name);
            let mut txn = Txn { compares: Vec::new(), ops: vec![Op::Put { key: key.clone(), value: stored.clone() }] };
            txn.compares.push(Compare { key: key.clone(), mod_revision: 0 });
            // The namespace must not begin to terminate between the look and the write.
            txn.compares.extend(namespace.map(|item| Compare { key: item.key, mod_revision: item.mod_revision }));
            match self.store.txn(txn).await? {
                Outcome::Committed(revision) => {
                    reservation.keep();
                    let item = KeyValue { key, value: stored, create_revision: revision, mod_revision: revision };
                    return Ok(Some(object::spliced(kind, &item)));
                }
                Outcome::Conflict(found) if found.first().is_some_and(Option::is_some) => return Ok(None),
                // The namespace changed meanwhile: look again.
                Outcome::Conflict(_) => {}
            }
        }
        Err(ApiError::conflict(kind, &name, "its namespace is changing too fast; try again"))
    }

    /// The namespace that an object is to be created in, which must be there and not be on its way out.
    async fn open_namespace(&self, kind: &Kind, namespace: &str, name: &str) -> Result<Option<KeyValue>> {
        if !kind.namespaced {
            return Ok(None);
        }
        let item = self.find(namespace_kind()?, "", namespace).await?;
        if object::deleting(&object::decode_item(&item)?) {
            let message = format!(
                "{} \"{name}\" is forbidden: unable to create new content in namespace {namespace} because it is being terminated",
                kind.group_resource()
            );
            let cause = json!([{"reason": "NamespaceTerminating", "field": "metadata.namespace",
                "message": format!("namespace {namespace} is being terminated")}]);
            return Err(ApiError::forbidden(Some(kind), name, message).detail("causes", cause));
        }
        Ok(Some(item))
    }
}
