//! From method and path to what the request is about. Pure: nothing is looked up but the kind table.

use http::Method;

use crate::kinds::{self, Kind};
use crate::query::{Query, unescape};
use crate::status::{ApiError, Result};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    DeleteCollection,
}

/// A request about objects.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub verb: Verb,
    pub kind: &'static Kind,
    /// Empty: cluster scoped, or all namespaces.
    pub namespace: String,
    /// Empty: a collection.
    pub name: String,
    pub subresource: String,
}

#[derive(Debug)]
pub(crate) enum Route {
    /// `/livez`, `/readyz`, `/healthz`, also with the name of a check.
    Health,
    Version,
    Metrics,
    /// `/api`: the versions of the core group.
    CoreVersions,
    /// `/apis`: the groups.
    Groups,
    /// `/apis/{group}`.
    Group(String),
    /// `/api/v1`, `/apis/{group}/{version}`: the resources.
    Resources {
        group: String,
        version: String,
    },
    OpenApiV2,
    OpenApiV3Index,
    OpenApiV3(String),
    /// A review: a question in the form of an object, never stored.
    Review {
        group: String,
        resource: String,
    },
    Objects(Call),
}

/// Subresources of pods that upgrade the connection.
pub(crate) const STREAMS: &[&str] = &["attach", "exec", "portforward"];

// === impl Call ===

impl Call {
    pub(crate) fn is_stream(&self) -> bool {
        STREAMS.contains(&self.subresource.as_str())
    }
}

// === impl Verb ===

impl Verb {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
        }
    }
}

// === impl Route ===

impl Route {
    pub(crate) fn parse(method: &Method, path: &str, query: &Query) -> Result<Self> {
        let segments: Vec<String> = path.split('/').filter(|segment| !segment.is_empty()).map(unescape).collect();
        let parts: Vec<&str> = segments.iter().map(String::as_str).collect();
        let read = |route: Self| {
            if matches!(*method, Method::GET | Method::HEAD) { Ok(route) } else { Err(ApiError::no_such_path()) }
        };
        match parts.as_slice() {
            ["livez" | "readyz" | "healthz", ..] => read(Self::Health),
            ["version"] => read(Self::Version),
            ["metrics"] => read(Self::Metrics),
            ["openapi", "v2"] => read(Self::OpenApiV2),
            ["openapi", "v3"] => read(Self::OpenApiV3Index),
            ["openapi", "v3", rest @ ..] => read(Self::OpenApiV3(rest.join("/"))),
            ["api"] => read(Self::CoreVersions),
            ["apis"] => read(Self::Groups),
            ["apis", group] => read(Self::Group((*group).to_owned())),
            ["api", version] => read(Self::Resources { group: String::new(), version: (*version).to_owned() }),
            ["apis", group, version] => read(Self::Resources { group: (*group).to_owned(), version: (*version).to_owned() }),
            ["apis", group @ ("authorization.k8s.io" | "authentication.k8s.io"), "v1", rest @ ..] => {
                let resource = match rest {
                    [resource] | ["namespaces", _, resource] => (*resource).to_owned(),
                    _ => return Err(ApiError::no_such_path()),
                };
                if method == Method::POST {
                    Ok(Self::Review { group: (*group).to_owned(), resource })
                } else {
                    Err(ApiError::method_not_allowed("the server does not allow this method on the requested resource"))
                }
            }
            ["api", version, rest @ ..] => objects(method, "", version, rest, query),
            ["apis", group, version, rest @ ..] => objects(method, group, version, rest, query),
            _ => Err(ApiError::no_such_path()),
        }
    }
}

fn objects(method: &Method, group: &str, version: &str, rest: &[&str], query: &Query) -> Result<Route> {
    // `namespaces/x/pods` is about pods; `namespaces`, `namespaces/x` and its subresources are about namespaces themselves.
    let (namespace, rest) = match rest {
        ["namespaces", _, "status" | "finalize"] => ("", rest),
        ["namespaces", namespace, inner @ ..] if !inner.is_empty() => (*namespace, inner),
        _ => ("", rest),
    };
    let (plural, name, subresource) = match rest {
        [plural] => (*plural, "", ""),
        [plural, name] => (*plural, *name, ""),
        [plural, name, subresource] => (*plural, *name, *subresource),
        _ => return Err(ApiError::no_such_path()),
    };
    // The older form of binding a pod, a collection of its own.
    let (plural, subresource) =
        if (group, plural, name) == ("", "bindings", "") { ("pods", "binding") } else { (plural, subresource) };
    let kind = kinds::by_resource(group, version, plural).ok_or_else(ApiError::no_such_path)?;
    let across = namespace.is_empty() && kind.namespaced;
    if !namespace.is_empty() && !kind.namespaced || across && !name.is_empty() || !serves(kind, subresource) {
        return Err(ApiError::no_such_path());
    }
    let not_allowed = || ApiError::method_not_allowed("the server does not allow this method on the requested resource");
    let whole = subresource.is_empty();
    let verb = match (method, name.is_empty(), whole) {
        (&Method::GET | &Method::HEAD, true, true) if query.flag("watch") => Verb::Watch,
        (&Method::GET | &Method::HEAD, true, true) => Verb::List,
        (&Method::POST, true, _) if !across => Verb::Create,
        (&Method::DELETE, true, true) if !across => Verb::DeleteCollection,
        (&Method::GET | &Method::HEAD, false, true) => Verb::Get,
        (&Method::PUT, false, true) => Verb::Update,
        (&Method::PATCH, false, true) => Verb::Patch,
        (&Method::DELETE, false, true) => Verb::Delete,
        (_, false, false) => match (subresource, method) {
            ("status" | "scale", &Method::GET) | ("log", &Method::GET) => Verb::Get,
            ("status" | "scale" | "finalize", &Method::PUT) => Verb::Update,
            ("status" | "scale", &Method::PATCH) => Verb::Patch,
            ("binding" | "eviction" | "token", &Method::POST) => Verb::Create,
            (stream, &Method::GET) if STREAMS.contains(&stream) => Verb::Get,
            (stream, &Method::POST) if STREAMS.contains(&stream) => Verb::Create,
            _ => return Err(not_allowed()),
        },
        _ => return Err(not_allowed()),
    };
    Ok(Route::Objects(Call {
        verb,
        kind,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        subresource: subresource.to_owned(),
    }))
}

fn serves(kind: &Kind, subresource: &str) -> bool {
    match subresource {
        "" => true,
        "status" => kind.status,
        "scale" => kind.scale,
        other => kind.subresources.contains(&other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(method: &str, target: &str) -> String {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        match Route::parse(&method, path, &Query::parse(query)) {
            Ok(Route::Objects(call)) => {
                let Call { verb, kind, namespace, name, subresource } = call;
                format!("{} {} ns={namespace} name={name} sub={subresource}", verb.as_str(), kind.group_resource())
            }
            Ok(other) => format!("{other:?}"),
            Err(error) => error.code().as_u16().to_string(),
        }
    }

    #[test]
    fn paths_mean_what_kubernetes_says() {
        let check =
            |method: &str, target: &str, expected: &str| assert_eq!(seen(method, target), expected, "{method} {target}");
        check("GET", "/api/v1/pods", "list pods ns= name= sub=");
        check("GET", "/api/v1/pods?watch=true", "watch pods ns= name= sub=");
        check("GET", "/api/v1/namespaces", "list namespaces ns= name= sub=");
        check("GET", "/api/v1/namespaces/x", "get namespaces ns= name=x sub=");
        check("PUT", "/api/v1/namespaces/x/finalize", "update namespaces ns= name=x sub=finalize");
        check("PATCH", "/api/v1/namespaces/x/status", "patch namespaces ns= name=x sub=status");
        check("POST", "/api/v1/namespaces/x/pods", "create pods ns=x name= sub=");
        check("GET", "/api/v1/namespaces/x/pods/a%2Db", "get pods ns=x name=a-b sub=");
        check("POST", "/api/v1/namespaces/x/pods/a/binding", "create pods ns=x name=a sub=binding");
        check("POST", "/api/v1/namespaces/x/bindings", "create pods ns=x name= sub=binding");
        check("GET", "/api/v1/namespaces/x/pods/a/log?follow=true", "get pods ns=x name=a sub=log");
        check("GET", "/api/v1/namespaces/x/pods/a/exec?command=sh", "get pods ns=x name=a sub=exec");
        check("POST", "/api/v1/namespaces/x/pods/a/portforward", "create pods ns=x name=a sub=portforward");
        check("PATCH", "/apis/apps/v1/namespaces/x/deployments/d/scale", "patch deployments.apps ns=x name=d sub=scale");
        check("DELETE", "/apis/apps/v1/namespaces/x/deployments", "deletecollection deployments.apps ns=x name= sub=");
        check("DELETE", "/api/v1/nodes/n", "delete nodes ns= name=n sub=");
        check("GET", "/api/v1", "Resources { group: \"\", version: \"v1\" }");
        check("GET", "/apis/apps", "Group(\"apps\")");
        check("GET", "/openapi/v3/apis/apps/v1", "OpenApiV3(\"apis/apps/v1\")");
        check("GET", "/readyz/etcd", "Health");
        check(
            "POST",
            "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
            "Review { group: \"authorization.k8s.io\", resource: \"selfsubjectaccessreviews\" }",
        );
    }

    #[test]
    fn paths_that_mean_nothing_are_refused() {
        let check =
            |method: &str, target: &str, expected: &str| assert_eq!(seen(method, target), expected, "{method} {target}");
        check("GET", "/api/v2/pods", "404");
        check("GET", "/api/v1/pies", "404");
        check("GET", "/api/v1/pods/a", "404");
        check("GET", "/api/v1/namespaces/x/nodes", "404");
        check("GET", "/api/v1/namespaces/x/pods/a/pie", "404");
        check("GET", "/api/v1/namespaces/x/configmaps/a/status", "404");
        check("POST", "/api/v1/pods", "405");
        check("DELETE", "/api/v1/pods", "405");
        check("POST", "/api/v1/namespaces/x/pods/a", "405");
        check("DELETE", "/api/v1/namespaces/x/pods/a/status", "405");
        check("PUT", "/api/v1/namespaces/x/pods/a/exec", "405");
        check("POST", "/version", "404");
        check("GET", "/", "404");
    }
}
