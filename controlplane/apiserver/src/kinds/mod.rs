//! The kinds that the API serves, as a table: everything the server knows of a kind is one entry here, so that adding
//! a kind adds no module to the server, only its columns, its defaults and its rules.

use schemars::{Schema, SchemaGenerator};
use serde_json::{Map, Value};

use crate::admit::Causes;
use crate::table::Column;

mod builtin;

/// One served kind.
pub struct Kind {
    /// API group, empty for the core group.
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
    pub singular: &'static str,
    pub short: &'static [&'static str],
    pub categories: &'static [&'static str],
    pub list_kind: &'static str,
    pub namespaced: bool,
    /// Has a `status` subresource, so that writes of the object leave `status` alone and the reverse.
    pub status: bool,
    /// Has an autoscaling/v1 `scale` subresource.
    pub scale: bool,
    /// Deletion waits for a grace period (pods).
    pub graceful: bool,
    /// `metadata.generation` is kept: 1 at creation, raised when anything but metadata and status changes.
    pub generation: bool,
    /// Subresources besides status and scale.
    pub subresources: &'static [&'static str],
    /// Fields that a field selector may name, besides `metadata.name` and `metadata.namespace`.
    pub fields: &'static [&'static str],
    /// Name of the schema in the OpenAPI documents.
    pub component: &'static str,
    pub(crate) schema: fn(&mut SchemaGenerator) -> Schema,
    pub(crate) columns: &'static [Column],
    /// What is wrong with a name, if anything.
    pub(crate) name_rule: fn(&str) -> Vec<String>,
    pub(crate) defaults: fn(&mut Map<String, Value>),
    /// What an update leaves out and the server gave before: (stored object, update).
    pub(crate) carry_over: Option<fn(&Value, &mut Value)>,
    pub(crate) validate: fn(&Value, &mut Causes),
    pub(crate) validate_update: fn(&Value, &Value, &mut Causes),
}

/// Every served kind, in the order of discovery.
pub fn all() -> &'static [Kind] {
    builtin::KINDS
}

/// The kind served at `/apis/{group}/{version}/…/{plural}`.
pub fn by_resource(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    all().iter().find(|k| k.plural == plural && k.group == group && k.version == version)
}

/// The kind of an object's `apiVersion` and `kind`. Also finds the kinds that only subresources speak (Scale, Binding,
/// Eviction, TokenRequest, DeleteOptions), which [`by_resource`] and [`all`] leave out.
pub fn by_kind(group: &str, version: &str, kind: &str) -> Option<&'static Kind> {
    all().iter().chain(builtin::SUBRESOURCE_KINDS).find(|k| k.kind == kind && k.group == group && k.version == version)
}

/// The kind of the body of a subresource that is not the object itself.
pub fn of_subresource(subresource: &str) -> Option<&'static Kind> {
    let kind = match subresource {
        "scale" => "Scale",
        "binding" => "Binding",
        "eviction" => "Eviction",
        "token" => "TokenRequest",
        _ => return None,
    };
    builtin::SUBRESOURCE_KINDS.iter().find(|k| k.kind == kind)
}

/// The kind of the body of a DELETE request.
pub fn delete_options() -> &'static Kind {
    &builtin::SUBRESOURCE_KINDS[0]
}

pub(crate) fn subresource_kinds() -> &'static [Kind] {
    builtin::SUBRESOURCE_KINDS
}

// === impl Kind ===

impl Kind {
    /// As in `apiVersion`: `v1`, `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_owned() } else { format!("{}/{}", self.group, self.version) }
    }

    /// As in URLs and in the OpenAPI index: `api/v1`, `apis/apps/v1`.
    pub fn root(&self) -> String {
        if self.group.is_empty() { format!("api/{}", self.version) } else { format!("apis/{}/{}", self.group, self.version) }
    }

    /// As error messages name the resource: `pods`, `deployments.apps`.
    pub fn group_resource(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// As error messages name the kind: `Pod`, `Deployment.apps`.
    pub fn group_kind(&self) -> String {
        if self.group.is_empty() { self.kind.to_owned() } else { format!("{}.{}", self.kind, self.group) }
    }
}

impl PartialEq for Kind {
    fn eq(&self, other: &Self) -> bool {
        self.kind == other.kind && self.group == other.group && self.version == other.version
    }
}

impl Eq for Kind {}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, Kind={}", self.api_version(), self.kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lookups_find_what_the_table_says() {
        let check = |group, version, plural, expected: Option<&str>| {
            assert_eq!(by_resource(group, version, plural).map(|k| k.kind), expected, "{group}/{version}/{plural}");
        };
        check("", "v1", "pods", Some("Pod"));
        check("apps", "v1", "deployments", Some("Deployment"));
        check("apps", "v1beta1", "deployments", None);
        check("", "v1", "deployments", None);
        check("discovery.k8s.io", "v1", "endpointslices", Some("EndpointSlice"));
        check("", "v1", "bindings", None);
        assert_eq!(by_kind("autoscaling", "v1", "Scale").map(|k| k.component), Some("io.k8s.api.autoscaling.v1.Scale"));
        assert_eq!(delete_options().kind, "DeleteOptions");
        assert_eq!(of_subresource("eviction").map(Kind::api_version), Some("policy/v1".to_owned()));
        assert_eq!(of_subresource("status"), None);
    }

    #[test]
    fn every_entry_is_whole_and_unique() {
        for (i, kind) in all().iter().enumerate() {
            assert_eq!(kind.singular, kind.kind.to_lowercase(), "{kind:?}");
            assert_eq!(kind.list_kind, format!("{}List", kind.kind));
            assert!(!kind.columns.is_empty(), "{kind:?} has columns");
            assert!(!all()[..i].contains(kind), "{kind:?} is there once");
            for short in kind.short {
                let same_group = all()[..i].iter().filter(|k| k.short.contains(short) && k.plural != kind.plural);
                assert_eq!(same_group.count(), 0, "{short} names one resource");
            }
        }
    }
}
