//! PATCH: which language the body is in, and the object that comes of it.

use http::StatusCode;
use serde_json::{Value, json};

use crate::api::Api;
use crate::apply::{self, Writer};
use crate::body::{self, Document, Format};
use crate::kinds::Kind;
use crate::object::{self, metadata_mut};
use crate::patch::{self, PatchError};
use crate::prepare;
use crate::query::Query;
use crate::route::Call;
use crate::status::{ApiError, Result};
use crate::write::{Options, Written, decode};

const LANGUAGES: &str = "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, \
                         application/apply-patch+yaml";

/// A parsed patch.
pub(crate) enum Patch {
    Json(Value),
    Merge(Document),
    Strategic(Document),
    /// Server-side apply: what a manager wants, and whether it takes what others own.
    Apply {
        config: Document,
        force: bool,
    },
}

// === impl Patch ===

impl Patch {
    pub(crate) fn parse(content_type: Option<&str>, bytes: &[u8], query: &Query) -> Result<Self> {
        let media = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
        let document = |format: Format| {
            let document = body::parse(bytes, format)?;
            match document.value.is_object() {
                true => Ok(document),
                false => Err(ApiError::bad_request("the body of a merge patch must be an object")),
            }
        };
        match media {
            "application/json-patch+json" => Ok(Self::Json(body::parse(bytes, Format::Json)?.value)),
            "application/merge-patch+json" => document(Format::Json).map(Self::Merge),
            "application/strategic-merge-patch+json" => document(Format::Json).map(Self::Strategic),
            "application/apply-patch+yaml" => {
                if query.get("fieldManager").is_empty() {
                    return Err(ApiError::required_option("fieldManager", "is required for apply patch"));
                }
                Ok(Self::Apply { config: document(Format::Yaml)?, force: query.flag("force") })
            }
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
            // Only whole objects are applied; the scale subresource is not.
            Self::Apply { .. } => return Err(ApiError::unsupported_media("application/apply-patch+yaml", LANGUAGES)),
        };
        Ok(Document { value, duplicates })
    }
}

// === impl Api ===

impl Api {
    pub(crate) async fn patch(&self, call: &Call, options: &Options, patch: &Patch) -> Result<Written> {
        if let Patch::Apply { config, force } = patch {
            return self.apply(call, options, config, *force).await;
        }
        let mut warnings = Vec::new();
        let changed = self
            .change(call.subject(), options, call.part(), |old| {
                let document = patch.apply(call.kind, &call.name, old)?;
                let (new, complaints) = decode(call.kind, document, options.validation)?;
                prepare::same_object(&new, &call.namespace, &call.name)?;
                warnings = complaints;
                Ok(new)
            })
            .await?;
        Ok(Written::object(call.kind, StatusCode::OK, changed.json).warning(warnings))
    }

    /// Server-side apply, which also creates.
    async fn apply(&self, call: &Call, options: &Options, config: &Document, force: bool) -> Result<Written> {
        let kind = call.kind;
        let options = Options { applying: true, ..options.clone() };
        let writer = Writer { manager: &options.manager, subresource: &call.subresource };
        let config = Document { value: config.value.clone(), duplicates: config.duplicates.clone() };
        let (mut config, warnings) = decode(kind, config, options.validation)?;
        if config["metadata"].get("managedFields").is_some() {
            return Err(ApiError::bad_request("metadata.managedFields must be nil"));
        }
        if object::name(&config).is_empty() {
            metadata_mut(&mut config).insert("name".into(), json!(call.name));
        }
        prepare::same_object(&config, &call.namespace, &call.name)?;
        let changed =
            self.change(call.subject(), &options, call.part(), |old| apply::apply(kind, writer, force, old, &config)).await;
        match changed {
            Err(error) if error.code() == StatusCode::NOT_FOUND && call.subresource.is_empty() => {
                let nothing = json!({"metadata": {"name": call.name}});
                let object = apply::apply(kind, writer, force, &nothing, &config)?;
                Ok(self.create_object(call, &options, object).await?.warning(warnings))
            }
            changed => Ok(Written::object(kind, StatusCode::OK, changed?.json).warning(warnings)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_type_names_the_language() {
        let check = |media: &str, body: &str, code: Option<u16>| {
            let error = Patch::parse(Some(media), body.as_bytes(), &Query::parse("fieldManager=m")).err();
            assert_eq!(error.map(|error| error.code().as_u16()), code, "{media} {body}");
        };
        check("application/json-patch+json", "[]", None);
        check("application/merge-patch+json; charset=utf-8", "{}", None);
        check("application/strategic-merge-patch+json", "{}", None);
        check("application/merge-patch+json", "[]", Some(400));
        check("application/merge-patch+json", "{", Some(400));
        check("application/apply-patch+yaml", "metadata:\n  name: x", None);
        check("application/json", "{}", Some(415));
        let nobody = Patch::parse(Some("application/apply-patch+yaml"), b"{}", &Query::default()).err().unwrap();
        assert!(nobody.code() == 422 && nobody.message().contains("fieldManager: Required value"), "{nobody}");
    }
}
