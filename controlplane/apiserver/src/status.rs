//! Failures as Kubernetes words them: every error that leaves the server is a Status object.

use http::StatusCode;
use serde_json::{Value, json};
use thalweg_store::StoreError;

use crate::admit::Cause;
use crate::kinds::Kind;

pub(crate) type Result<T> = std::result::Result<T, ApiError>;

/// An error on its way to the client. Boxed, because most calls succeed.
#[derive(Debug)]
pub struct ApiError(Box<Failure>);

#[derive(Debug)]
struct Failure {
    code: StatusCode,
    reason: &'static str,
    message: String,
    details: Option<Value>,
    /// Where an expired list may go on.
    token: Option<String>,
}

// === impl ApiError ===

impl ApiError {
    pub fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self(Box::new(Failure { code, reason, message: message.into(), details: None, token: None }))
    }

    pub fn code(&self) -> StatusCode {
        self.0.code
    }

    pub fn message(&self) -> &str {
        &self.0.message
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    pub fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized")
    }

    /// A request refused by authorization or admission; `what` begins with the resource.
    pub fn forbidden(kind: Option<&Kind>, name: &str, message: impl Into<String>) -> Self {
        let error = Self::new(StatusCode::FORBIDDEN, "Forbidden", message);
        match kind {
            Some(kind) => error.about(kind.group, kind.plural, name),
            None => error.detail("name", json!(name)),
        }
    }

    pub fn not_found(kind: &Kind, name: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", format!("{} \"{name}\" not found", kind.group_resource())).about(
            kind.group,
            kind.plural,
            name,
        )
    }

    /// For a path that means nothing here.
    pub fn no_such_path() -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", "the server could not find the requested resource")
            .detail("causes", json!([{"reason": "UnexpectedServerResponse", "message": "404 page not found"}]))
    }

    pub fn already_exists(kind: &Kind, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", kind.group_resource());
        Self::new(StatusCode::CONFLICT, "AlreadyExists", message).about(kind.group, kind.plural, name)
    }

    pub fn conflict(kind: &Kind, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", kind.group_resource());
        Self::new(StatusCode::CONFLICT, "Conflict", message).about(kind.group, kind.plural, name)
    }

    /// The optimistic lock failed.
    pub fn modified(kind: &Kind, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(kind, name, why)
    }

    /// A delete or update named another uid or revision than the object has.
    pub fn precondition(kind: &Kind, name: &str, what: &str, wanted: &str, found: &str) -> Self {
        Self::conflict(
            kind,
            name,
            &format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {found}"),
        )
    }

    pub fn invalid(kind: &Kind, name: &str, causes: &[Cause]) -> Self {
        let causes: Vec<(&str, &str, &str)> =
            causes.iter().map(|cause| (cause.field.as_str(), cause.reason.as_str(), cause.message.as_str())).collect();
        Self::invalid_as(&kind.group_kind(), kind.group, kind.kind, name, &causes)
    }

    /// Wrong list or watch options, which Kubernetes reports as an invalid ListOptions object.
    pub fn invalid_options(field: &str, message: &str) -> Self {
        let reason = if message.starts_with("Forbidden") { "FieldValueForbidden" } else { "FieldValueInvalid" };
        Self::invalid_as("ListOptions.meta.k8s.io", "meta.k8s.io", "ListOptions", "", &[(field, reason, message)])
    }

    /// Wrong options of `pods/log`, which Kubernetes reports as an invalid PodLogOptions object.
    pub fn invalid_log_options(field: &str, message: &str) -> Self {
        let reason = if message.starts_with("Forbidden") { "FieldValueForbidden" } else { "FieldValueInvalid" };
        Self::invalid_as("PodLogOptions", "", "PodLogOptions", "", &[(field, reason, message)])
    }

    /// A patch without an option that it needs.
    pub fn required_option(field: &str, message: &str) -> Self {
        let cause = (field, "FieldValueRequired", &*format!("Required value: {message}"));
        Self::invalid_as("PatchOptions.meta.k8s.io", "meta.k8s.io", "PatchOptions", "", &[cause])
    }

    fn invalid_as(group_kind: &str, group: &str, kind: &str, name: &str, causes: &[(&str, &str, &str)]) -> Self {
        let words: Vec<_> = causes.iter().map(|(field, _, message)| format!("{field}: {message}")).collect();
        let summary = if words.len() == 1 { words[0].clone() } else { format!("[{}]", words.join(", ")) };
        let list: Vec<_> = causes
            .iter()
            .map(|(field, reason, message)| json!({"reason": reason, "message": message, "field": field}))
            .collect();
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", format!("{group_kind} \"{name}\" is invalid: {summary}"))
            .about(group, kind, name)
            .detail("causes", json!(list))
    }

    pub fn method_not_allowed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
    }

    pub fn unsupported_media(got: &str, accepted: &str) -> Self {
        let message =
            format!("the body of the request was in an unknown format ({got}) - accepted media types include: {accepted}");
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", message)
    }

    pub fn not_acceptable() -> Self {
        let message = "only the following media types are accepted: application/json, application/yaml";
        Self::new(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", message)
    }

    pub fn too_large(limit: usize) -> Self {
        let message = format!("Request entity too large: limit is {limit}");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", message)
    }

    /// What was asked for lies before the oldest known revision.
    pub fn expired(message: impl Into<String>, token: Option<String>) -> Self {
        let mut error = Self::new(StatusCode::GONE, "Expired", message);
        error.0.token = token;
        error
    }

    /// What was asked for lies in the future, even after waiting.
    pub fn revision_too_large(asked: u64, current: u64) -> Self {
        let message = format!("Timeout: Too large resource version: {asked}, current: {current}");
        Self::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", message)
            .detail("causes", json!([{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]))
            .detail("retryAfterSeconds", json!(1))
    }

    pub fn internal(message: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", format!("Internal error occurred: {message}"))
            .detail("causes", json!([{"message": message.to_string()}]))
    }

    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", message)
    }

    /// Adds an entry to `details`.
    pub fn detail(mut self, key: &str, value: Value) -> Self {
        let details = self.0.details.get_or_insert_with(|| json!({}));
        details[key] = value;
        self
    }

    fn about(self, group: &str, kind: &str, name: &str) -> Self {
        let mut error = self.detail("kind", json!(kind));
        if !name.is_empty() {
            error = error.detail("name", json!(name));
        }
        if group.is_empty() { error } else { error.detail("group", json!(group)) }
    }

    /// The Status object.
    pub fn to_value(&self) -> Value {
        let failure = &self.0;
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": failure.message, "reason": failure.reason, "code": failure.code.as_u16(),
        });
        if let Some(details) = &failure.details {
            status["details"] = details.clone();
        }
        if let Some(token) = &failure.token {
            status["metadata"]["continue"] = json!(token);
        }
        status
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for ApiError {}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Compacted { asked, oldest } => {
                Self::expired(format!("too old resource version: {asked} ({oldest})"), None)
            }
            StoreError::Future { asked, current } => Self::revision_too_large(asked, current),
            StoreError::TooLarge { limit, .. } => Self::too_large(limit),
            StoreError::Closed => Self::unavailable("the server is shutting down"),
            other => Self::internal(other),
        }
    }
}

/// What a deletion answers when the object is gone at once.
pub(crate) fn deleted(kind: &Kind, name: &str, uid: &str) -> Value {
    let mut details = json!({"name": name, "kind": kind.plural, "uid": uid});
    if !kind.group.is_empty() {
        details["group"] = json!(kind.group);
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

/// A plain success.
pub(crate) fn success(code: StatusCode) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": code.as_u16()})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;

    #[test]
    fn messages_are_worded_as_kubernetes_words_them() {
        let check = |error: ApiError, code: u16, reason: &str, message: &str| {
            let status = error.to_value();
            assert_eq!(status["code"], code);
            assert_eq!(status["reason"], reason);
            assert_eq!(status["message"], message);
        };
        let Some(pod) = kinds::by_kind("", "v1", "Pod") else { panic!("pods are served") };
        let Some(deployment) = kinds::by_kind("apps", "v1", "Deployment") else { panic!("deployments are served") };
        check(ApiError::not_found(pod, "x"), 404, "NotFound", "pods \"x\" not found");
        check(ApiError::not_found(deployment, "x"), 404, "NotFound", "deployments.apps \"x\" not found");
        check(ApiError::already_exists(deployment, "x"), 409, "AlreadyExists", "deployments.apps \"x\" already exists");
        check(
            ApiError::modified(pod, "x"),
            409,
            "Conflict",
            "Operation cannot be fulfilled on pods \"x\": the object has been modified; please apply your changes to the \
             latest version and try again",
        );
        check(ApiError::from(StoreError::Compacted { asked: 3, oldest: 9 }), 410, "Expired", "too old resource version: 3 (9)");
    }

    #[test]
    fn details_name_the_object() {
        let Some(deployment) = kinds::by_kind("apps", "v1", "Deployment") else { panic!("deployments are served") };
        let status = ApiError::not_found(deployment, "x").to_value();
        assert_eq!(status["details"], json!({"kind": "deployments", "name": "x", "group": "apps"}));
    }
}
