//! PATCH: which language the body is in, and the object that comes of it.

use http::StatusCode;
use serde_json::Value;

use crate::api::Api;
use crate::body::{self, Document, Format};
use crate::kinds::Kind;
use crate::patch::{self, PatchError};
use crate::route::Call;
use crate::status::{ApiError, Result};
use crate::write::{Options, Written, decode};

const LANGUAGES: &str = "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json";

/// A parsed patch.
pub(crate) enum Patch {
    Json(Value),
    Merge(Document),
    Strategic(Document),
}

// === impl Patch ===

impl Patch {
    pub(crate) fn parse(content_type: Option<&str>, bytes: &[u8]) -> Result<Self> {
        let media = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
        let document = || {
            let document = body::parse(bytes, Format::Json)?;
            match document.value.is_object() {
                true => Ok(document),
                false => Err(ApiError::bad_request("the body of a merge patch must be an object")),
            }
        };
        match media {
            "application/json-patch+json" => Ok(Self::Json(body::parse(bytes, Format::Json)?.value)),
            "application/merge-patch+json" => document().map(Self::Merge),
            "application/strategic-merge-patch+json" => document().map(Self::Strategic),
            other => Err(ApiError::unsupported_media(other, LANGUAGES)),
        }
    }

    /// The patched object, and the duplicate fields in the patch.
    pub(crate) fn apply(&self, kind: &Kind, name: &str, target: &Value) -> Result<Document> {
        let failed = |error: PatchError| match error {
            PatchError::Malformed(_) => ApiError::bad_request(error.to_string()),
            _ => ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", error.to_string())
                .detail("kind", kind.plural.into())
                .detail("name", name.into()),
        };
        let (value, duplicates) = match self {
            Self::Json(patch) => (patch::json_patch(target, patch).map_err(failed)?, Vec::new()),
            Self::Merge(patch) => (patch::merge_patch(target, &patch.value), patch.duplicates.clone()),
            Self::Strategic(patch) => (patch::strategic(kind, target, &patch.value).map_err(failed)?, patch.duplicates.clone()),
        };
        Ok(Document { value, duplicates })
    }
}

// === impl Api ===

impl Api {
    pub(crate) async fn patch(&self, call: &Call, options: &Options, patch: &Patch) -> Result<Written> {
        let mut warnings = Vec::new();
        let changed = self
            .change(call.subject(), options.dry_run, call.part(), |old| {
                let document = patch.apply(call.kind, &call.name, old)?;
                let (new, complaints) = decode(call.kind, document, options.validation)?;
                crate::prepare::same_object(&new, &call.namespace, &call.name)?;
                warnings = complaints;
                Ok(new)
            })
            .await?;
        Ok(Written::object(call.kind, StatusCode::OK, changed.json).warning(warnings))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_type_names_the_language() {
        let check = |media: &str, body: &str, code: Option<u16>| {
            let error = Patch::parse(Some(media), body.as_bytes()).err();
            assert_eq!(error.map(|error| error.code().as_u16()), code, "{media} {body}");
        };
        check("application/json-patch+json", "[]", None);
        check("application/merge-patch+json; charset=utf-8", "{}", None);
        check("application/strategic-merge-patch+json", "{}", None);
        check("application/merge-patch+json", "[]", Some(400));
        check("application/merge-patch+json", "{", Some(400));
        check("application/apply-patch+yaml", "{}", Some(415));
        check("application/json", "{}", Some(415));
    }
}
