//! Changing what is there: update, and the loop that reads, changes, checks and writes until no one else was faster.

use bytes::Bytes;
use http::StatusCode;
use serde_json::Value;
use thalweg_store::{Compare, KeyValue, Op, Outcome, Txn};

use crate::admit;
use crate::api::Api;
use crate::apply::{self, Writer};
use crate::body::Document;
use crate::kinds::Kind;
use crate::object;
use crate::prepare::{self, Part};
use crate::route::Call;
use crate::status::{ApiError, Result};
use crate::write::{Options, RETRIES, Written, decode};

/// What a change led to.
pub(crate) struct Changed {
    /// The object as stored now (or as it was last, when the change was its end), with its resourceVersion.
    pub object: Value,
    pub json: Bytes,
}

/// The object that a request is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject<'a> {
    pub kind: &'static Kind,
    pub namespace: &'a str,
    pub name: &'a str,
}

// === impl Call ===

impl Call {
    pub(crate) fn subject(&self) -> Subject<'_> {
        Subject { kind: self.kind, namespace: &self.namespace, name: &self.name }
    }

    pub(crate) fn part(&self) -> Part {
        match self.subresource.as_str() {
            "status" => Part::Status,
            "finalize" => Part::Finalize,
            _ => Part::Main,
        }
    }
}

// === impl Api ===

impl Api {
    pub(crate) async fn update(&self, call: &Call, options: &Options, document: Document) -> Result<Written> {
        let (object, warnings) = decode(call.kind, document, options.validation)?;
        prepare::same_object(&object, &call.namespace, &call.name)?;
        let changed = self.change(call.subject(), options, call.part(), |_| Ok(object.clone())).await?;
        Ok(Written::object(call.kind, StatusCode::OK, changed.json).warning(warnings))
    }

    /// Reads the object, lets `make` make the new one of it, and writes that with compare-and-swap. When somebody else was
    /// faster it begins anew: a new object that carries an old resourceVersion then is a conflict.
    pub(crate) async fn change(
        &self,
        subject: Subject<'_>,
        options: &Options,
        part: Part,
        mut make: impl FnMut(&Value) -> Result<Value>,
    ) -> Result<Changed> {
        let Subject { kind, namespace, name } = subject;
        for _ in 0..RETRIES {
            let item = self.find(kind, namespace, name).await?;
            let old = object::decode_item(&item)?;
            let mut new = make(&old)?;
            prepare::preconditions(kind, &new, &old)?;
            let record = new["metadata"].get("managedFields").cloned();
            prepare::for_update(kind, &mut new, &old, part);
            admit::default(kind, &mut new);
            match record.filter(|_| options.applying) {
                Some(record) => new["metadata"]["managedFields"] = record,
                None => {
                    let subresource = if part == Part::Status { "status" } else { "" };
                    apply::track(kind, Writer { manager: &options.manager, subresource }, &old, &mut new);
                }
            }
            if let Some(changed) = self.replace(kind, &item, &old, new, options.dry_run, part).await? {
                return Ok(changed);
            }
        }
        Err(ApiError::modified(kind, name))
    }

    /// Writes `new` in the place of `old`; `None` when `item` is no longer what is stored.
    async fn replace(
        &self,
        kind: &'static Kind,
        item: &KeyValue,
        old: &Value,
        mut new: Value,
        dry_run: bool,
        part: Part,
    ) -> Result<Option<Changed>> {
        let name = object::name(old);
        prepare::check_update(kind, &new, old)?;
        let mut causes = Vec::new();
        if part == Part::Main {
            causes = admit::validate_update(kind, &new, old);
        }
        if !causes.is_empty() {
            return Err(ApiError::invalid(kind, name, &causes));
        }
        let reservation = self.reserve_change(kind, old, &mut new)?;
        let stored = object::encode(kind, &new)?;
        let over = prepare::is_over(kind, &new);
        if dry_run || stored == item.value && !over {
            let json = object::spliced(kind, &KeyValue { value: stored, ..item.clone() });
            return Ok(Some(Changed { object: new, json }));
        }
        let key = item.key.clone();
        let op = match over {
            true => Op::Delete { key: key.clone() },
            false => Op::Put { key: key.clone(), value: stored.clone() },
        };
        let compares = vec![Compare { key: key.clone(), mod_revision: item.mod_revision }];
        match self.store.txn(Txn { compares, ops: vec![op] }).await? {
            Outcome::Conflict(_) => Ok(None),
            Outcome::Committed(revision) => {
                reservation.keep();
                if over {
                    self.released(kind, old);
                }
                new["metadata"]["resourceVersion"] = revision.to_string().into();
                let item = KeyValue { key, value: stored, create_revision: item.create_revision, mod_revision: revision };
                Ok(Some(Changed { json: object::spliced(kind, &item), object: new }))
            }
        }
    }
}
