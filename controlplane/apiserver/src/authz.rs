//! Who may do what. A trait, because the answer will come from RBAC objects; for now groups decide.

use crate::authn::User;
use crate::status::ApiError;

/// What a request is about to do.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    pub user: &'a User,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; the lower-case method on other paths.
    pub verb: &'a str,
    /// `None` when the request is about a path.
    pub resource: Option<Resource<'a>>,
    pub path: &'a str,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Resource<'a> {
    pub group: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
}

pub trait Authorizer: Send + Sync {
    fn allowed(&self, attributes: &Attributes<'_>) -> bool;

    /// Everything that a user may do, as far as it can be listed.
    fn rules(&self, user: &User) -> Rules;
}

/// `*` stands for all.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    pub resources: Vec<ResourceRule>,
    pub paths: Vec<PathRule>,
}

#[derive(Clone, Debug)]
pub struct ResourceRule {
    pub verbs: &'static [&'static str],
    pub groups: &'static [&'static str],
    pub resources: &'static [&'static str],
}

#[derive(Clone, Debug)]
pub struct PathRule {
    pub verbs: &'static [&'static str],
    pub paths: Vec<String>,
}

/// Administrators, nodes and the control plane may do everything; everybody else may learn what the API serves.
pub struct ByGroup;

const TRUSTED_GROUPS: &[&str] = &["system:masters", "system:nodes"];
const TRUSTED_USERS: &[&str] =
    &["system:kube-controller-manager", "system:kube-scheduler", "system:kube-proxy", "system:apiserver"];
const OPEN_PATHS: &[&str] = &["/api", "/apis", "/openapi", "/version", "/healthz", "/livez", "/readyz"];

// === impl ByGroup ===

impl Authorizer for ByGroup {
    fn allowed(&self, attributes: &Attributes<'_>) -> bool {
        if trusted(attributes.user) {
            return true;
        }
        let below =
            |open: &&str| attributes.path.strip_prefix(*open).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        match attributes.resource {
            None => attributes.verb == "get" && OPEN_PATHS.iter().any(below),
            Some(resource) => {
                matches!(resource.group, "authorization.k8s.io" | "authentication.k8s.io")
                    && resource.resource.starts_with("self")
            }
        }
    }

    fn rules(&self, user: &User) -> Rules {
        if trusted(user) {
            return Rules {
                resources: vec![ResourceRule { verbs: &["*"], groups: &["*"], resources: &["*"] }],
                paths: vec![PathRule { verbs: &["*"], paths: vec!["*".into()] }],
            };
        }
        let paths = OPEN_PATHS.iter().flat_map(|path| [(*path).to_owned(), format!("{path}/*")]).collect();
        Rules {
            resources: vec![ResourceRule {
                verbs: &["create"],
                groups: &["authorization.k8s.io", "authentication.k8s.io"],
                resources: &["selfsubjectaccessreviews", "selfsubjectreviews", "selfsubjectrulesreviews"],
            }],
            paths: vec![PathRule { verbs: &["get"], paths }],
        }
    }
}

fn trusted(user: &User) -> bool {
    TRUSTED_USERS.contains(&user.name.as_str()) || user.groups.iter().any(|group| TRUSTED_GROUPS.contains(&group.as_str()))
}

/// The refusal, as Kubernetes words it.
pub(crate) fn forbidden(attributes: &Attributes<'_>) -> ApiError {
    let user = &attributes.user.name;
    let verb = attributes.verb;
    let Some(resource) = attributes.resource else {
        let message = format!("forbidden: User \"{user}\" cannot {verb} path \"{}\"", attributes.path);
        return ApiError::forbidden(None, "", message);
    };
    let dotted = |text: &str, separator: &str| if text.is_empty() { String::new() } else { format!("{separator}{text}") };
    let plain = format!("{}{}", resource.resource, dotted(resource.group, "."));
    let full = format!("{}{}", resource.resource, dotted(resource.subresource, "/"));
    let name = if resource.name.is_empty() { String::new() } else { format!(" \"{}\"", resource.name) };
    let scope = match resource.namespace {
        "" => " at the cluster scope".to_owned(),
        namespace => format!(" in the namespace \"{namespace}\""),
    };
    let message = format!(
        "{plain}{name} is forbidden: User \"{user}\" cannot {verb} resource \"{full}\" in API group \"{}\"{scope}",
        resource.group
    );
    ApiError::forbidden(None, resource.name, message)
        .detail("kind", resource.resource.into())
        .detail("group", resource.group.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_decide() {
        let check = |name: &str, group: &str, verb: &str, resource: Option<Resource<'_>>, path: &str, expected: bool| {
            let user = User { name: name.into(), uid: String::new(), groups: vec![group.into()] };
            let allowed = ByGroup.allowed(&Attributes { user: &user, verb, resource, path });
            assert_eq!(allowed, expected, "{name} {group} {verb} {path}");
        };
        let pods = Some(Resource { resource: "pods", namespace: "default", ..Resource::default() });
        let myself = Resource { group: "authorization.k8s.io", resource: "selfsubjectaccessreviews", ..Resource::default() };
        check("admin", "system:masters", "delete", pods, "", true);
        check("system:node:a", "system:nodes", "patch", pods, "", true);
        check("system:kube-scheduler", "system:authenticated", "create", pods, "", true);
        check("eve", "system:authenticated", "get", pods, "", false);
        check("eve", "system:authenticated", "create", Some(myself), "", true);
        check("eve", "system:authenticated", "get", None, "/apis/apps/v1", true);
        check("eve", "system:authenticated", "get", None, "/apisx", false);
        check("eve", "system:authenticated", "get", None, "/metrics", false);
        check("eve", "system:authenticated", "post", None, "/api", false);
    }

    #[test]
    fn refusals_are_worded_as_kubernetes_words_them() {
        let user = User { name: "eve".into(), ..User::default() };
        let pods = Resource { resource: "pods", namespace: "default", ..Resource::default() };
        let attributes = Attributes { user: &user, verb: "list", resource: Some(pods), path: "" };
        assert_eq!(
            forbidden(&attributes).message(),
            "pods is forbidden: User \"eve\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
        );
        let scale = Resource { group: "apps", resource: "deployments", subresource: "scale", namespace: "", name: "web" };
        let attributes = Attributes { user: &user, verb: "patch", resource: Some(scale), path: "" };
        assert_eq!(
            forbidden(&attributes).message(),
            "deployments.apps \"web\" is forbidden: User \"eve\" cannot patch resource \"deployments/scale\" in API group \
             \"apps\" at the cluster scope"
        );
    }
}
