//! Answers: bytes with their type, in the view that the client accepts.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, WARNING};
use http::{Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};

use crate::kinds::Kind;
use crate::negotiate::{Accept, View};
use crate::query::Query;
use crate::status::{ApiError, Result};
use crate::table::{self, Include};

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;
pub(crate) type Body = UnsyncBoxBody<Bytes, BoxError>;

const JSON: &str = "application/json";
const YAML: &str = "application/yaml";

/// How the client wants objects shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Show {
    pub accept: Accept,
    pub include: Include,
}

/// A page of a list, with its items as JSON.
pub(crate) struct List {
    pub revision: u64,
    pub token: Option<String>,
    pub remaining: Option<u64>,
    pub items: Vec<Bytes>,
}

// === impl Show ===

impl Show {
    pub(crate) fn of(accept: Option<&str>, query: &Query) -> Result<Self> {
        let include = query.get("includeObject").parse().map_err(ApiError::bad_request)?;
        Ok(Self { accept: Accept::parse(accept)?, include })
    }

    /// One object, given as JSON.
    pub(crate) fn object(&self, kind: &Kind, code: StatusCode, object: Bytes) -> Result<Response<Body>> {
        let View::Object = self.accept.view else {
            let object = parse(&object)?;
            let shown = match self.accept.view {
                View::Table(version) => {
                    let mut table = table::table(kind, std::slice::from_ref(&object), self.include);
                    table["apiVersion"] = json!(version);
                    table["metadata"] = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
                    table
                }
                View::Metadata(version) => partial(&object, version),
                View::Object => object,
            };
            return self.value(code, &shown);
        };
        if self.accept.yaml {
            return self.value(code, &parse(&object)?);
        }
        Ok(bytes(code, JSON, object))
    }

    /// A page of a list.
    pub(crate) fn list(&self, kind: &Kind, list: &List) -> Result<Response<Body>> {
        let mut metadata = json!({"resourceVersion": list.revision.to_string()});
        if let Some(token) = &list.token {
            metadata["continue"] = json!(token);
        }
        if let Some(remaining) = list.remaining {
            metadata["remainingItemCount"] = json!(remaining);
        }
        let objects = || list.items.iter().map(|item| parse(item)).collect::<Result<Vec<_>>>();
        let shown = match self.accept.view {
            View::Object if !self.accept.yaml => {
                let size = list.items.iter().map(|item| item.len() + 1).sum::<usize>();
                let mut out = Vec::with_capacity(size + 256);
                out.extend_from_slice(
                    format!(
                        "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":{metadata},\"items\":[",
                        kind.list_kind,
                        kind.api_version()
                    )
                    .as_bytes(),
                );
                for (index, item) in list.items.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    out.extend_from_slice(item);
                }
                out.extend_from_slice(b"]}");
                return Ok(bytes(StatusCode::OK, JSON, out.into()));
            }
            View::Object => {
                json!({"kind": kind.list_kind, "apiVersion": kind.api_version(), "metadata": metadata, "items": objects()?})
            }
            View::Table(version) => {
                let mut table = table::table(kind, &objects()?, self.include);
                table["apiVersion"] = json!(version);
                table["metadata"] = metadata;
                table
            }
            View::Metadata(version) => {
                let items: Vec<_> = objects()?.iter().map(|object| partial(object, version)).collect();
                json!({"kind": "PartialObjectMetadataList", "apiVersion": version, "metadata": metadata, "items": items})
            }
        };
        self.value(StatusCode::OK, &shown)
    }

    /// Any value, in the client's format.
    pub(crate) fn value(&self, code: StatusCode, value: &Value) -> Result<Response<Body>> {
        if self.accept.yaml {
            let text = serde_yaml_ng::to_string(value).map_err(ApiError::internal)?;
            return Ok(bytes(code, YAML, text.into()));
        }
        Ok(bytes(code, JSON, value.to_string().into()))
    }
}

/// PartialObjectMetadata of an object.
pub(crate) fn partial(object: &Value, version: &str) -> Value {
    let mut partial = table::partial(object);
    partial["apiVersion"] = json!(version);
    partial
}

pub(crate) fn bytes(code: StatusCode, content_type: &'static str, content: Bytes) -> Response<Body> {
    let mut response = Response::new(full(content));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

pub(crate) fn json(code: StatusCode, value: &Value) -> Response<Body> {
    bytes(code, JSON, value.to_string().into())
}

pub(crate) fn text(code: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    bytes(code, "text/plain; charset=utf-8", text.into())
}

/// An error is always JSON, whatever the client accepts.
pub(crate) fn error(error: &ApiError) -> Response<Body> {
    let status = error.to_value();
    let mut response = json(error.code(), &status);
    if let Some(seconds) = status["details"]["retryAfterSeconds"].as_u64() {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

pub(crate) fn full(content: Bytes) -> Body {
    Full::new(content).map_err(|never| match never {}).boxed_unsync()
}

/// Adds `Warning: 299` headers, which kubectl prints.
pub(crate) fn warn(response: &mut Response<Body>, warnings: &[String]) {
    for warning in warnings {
        let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"");
        // What cannot stand in a header (a control character in a field's name) is not worth failing the request.
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(WARNING, value);
        }
    }
}

fn parse(object: &[u8]) -> Result<Value> {
    serde_json::from_slice(object).map_err(|error| ApiError::internal(format!("an object cannot be read: {error}")))
}
