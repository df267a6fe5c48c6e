//! Discovery: what groups, versions and resources there are, as plain lists and as the aggregated documents that newer clients
//! ask for by `Accept`.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::LazyLock;

use bytes::Bytes;
use http::header::ACCEPT;
use http::{HeaderMap, Response, StatusCode};
use serde_json::{Value, json};

use crate::api::tagged;
use crate::kinds::{self, Kind};
use crate::respond::{self, Body};
use crate::review::REVIEWS;
use crate::status::{ApiError, Result};

/// The Kubernetes version whose API is served.
pub const VERSION: &str = "v1.36.0";

const AGGREGATED: [(&str, &str); 2] = [
    ("v2", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"),
    ("v2beta1", "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"),
];

/// One resource or subresource, as every form of discovery needs it.
struct Entry {
    group: &'static str,
    version: &'static str,
    /// `pods`, `pods/log`.
    resource: String,
    singular: &'static str,
    /// Group, version and kind of what the resource speaks.
    speaks: (String, String, String),
    namespaced: bool,
    verbs: &'static [&'static str],
    short: &'static [&'static str],
    categories: &'static [&'static str],
}

/// An aggregated document in one version, with its hash.
struct Aggregated {
    body: Bytes,
    hash: String,
}

static ENTRIES: LazyLock<Vec<Entry>> = LazyLock::new(entries);
static CORE: LazyLock<[Aggregated; 2]> = LazyLock::new(|| AGGREGATED.map(|(version, _)| aggregated(version, true)));
static OTHERS: LazyLock<[Aggregated; 2]> = LazyLock::new(|| AGGREGATED.map(|(version, _)| aggregated(version, false)));

pub(crate) fn version() -> Value {
    let mut parts = VERSION.trim_start_matches('v').split('.');
    let (major, minor) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    json!({
        "major": major, "minor": minor, "emulationMajor": major, "emulationMinor": minor,
        "gitVersion": format!("{VERSION}+thalweg.{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none", "compiler": "rustc", "platform": format!("linux/{}", architecture()),
    })
}

/// `/api`.
pub(crate) fn core(headers: &HeaderMap) -> Response<Body> {
    wanted(headers, &CORE).unwrap_or_else(|| {
        respond::json(
            StatusCode::OK,
            &json!({"kind": "APIVersions", "versions": ["v1"],
                "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": ""}]}),
        )
    })
}

/// `/apis`.
pub(crate) fn groups(headers: &HeaderMap) -> Response<Body> {
    wanted(headers, &OTHERS).unwrap_or_else(|| {
        let groups: Vec<_> = group_versions(false).iter().map(|(group, version)| described(group, version)).collect();
        respond::json(StatusCode::OK, &json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
    })
}

/// `/apis/{group}`.
pub(crate) fn group(name: &str) -> Result<Response<Body>> {
    let found = group_versions(false).into_iter().find(|(group, _)| *group == name);
    let (group, version) = found.ok_or_else(ApiError::no_such_path)?;
    let mut group = described(group, version);
    group["kind"] = json!("APIGroup");
    group["apiVersion"] = json!("v1");
    Ok(respond::json(StatusCode::OK, &group))
}

/// `/api/v1`, `/apis/{group}/{version}`.
pub(crate) fn resources(group: &str, version: &str) -> Result<Response<Body>> {
    let entries: Vec<_> = ENTRIES.iter().filter(|entry| (entry.group, entry.version) == (group, version)).collect();
    if entries.is_empty() {
        return Err(ApiError::no_such_path());
    }
    let resources: Vec<_> = entries.iter().map(|entry| entry.plain()).collect();
    let list =
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": joined(group, version), "resources": resources});
    Ok(respond::json(StatusCode::OK, &list))
}

fn wanted(headers: &HeaderMap, documents: &'static [Aggregated; 2]) -> Option<Response<Body>> {
    let accept = headers.get(ACCEPT)?.to_str().ok()?;
    let (index, (_, content_type)) = accept.split(',').find_map(|alternative| {
        let has = |part: &str| alternative.split(';').any(|have| have.trim() == part);
        let aggregated = has("application/json") && has("as=APIGroupDiscoveryList") && has("g=apidiscovery.k8s.io");
        AGGREGATED.iter().enumerate().find(|(_, (version, _))| aggregated && has(&format!("v={version}")))
    })?;
    let document = &documents[index];
    Some(tagged(headers, &document.hash, document.body.clone(), content_type))
}

/// Groups with their one version, in the order of the table; with the core group or without.
fn group_versions(core: bool) -> Vec<(&'static str, &'static str)> {
    let mut seen = Vec::new();
    for entry in ENTRIES.iter().filter(|entry| core == entry.group.is_empty()) {
        if !seen.contains(&(entry.group, entry.version)) {
            seen.push((entry.group, entry.version));
        }
    }
    seen
}

fn described(group: &str, version: &str) -> Value {
    let version = json!({"groupVersion": joined(group, version), "version": version});
    json!({"name": group, "versions": [version], "preferredVersion": version})
}

fn joined(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

fn aggregated(api_version: &str, core: bool) -> Aggregated {
    let items: Vec<_> = group_versions(core)
        .into_iter()
        .map(|(group, version)| {
            let mut resources: Vec<Value> = Vec::new();
            for entry in ENTRIES.iter().filter(|entry| (entry.group, entry.version) == (group, version)) {
                entry.add_to(&mut resources);
            }
            let metadata = if group.is_empty() { json!({}) } else { json!({"name": group}) };
            json!({"metadata": metadata, "versions": [{"version": version, "freshness": "Current", "resources": resources}]})
        })
        .collect();
    let list = json!({"kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{api_version}"),
        "metadata": {}, "items": items});
    let body = Bytes::from(list.to_string());
    Aggregated { hash: hash(&body), body }
}

/// A tag that changes when the document does; it need not resist anybody.
fn hash(bytes: &[u8]) -> String {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        (salt, bytes).hash(&mut hasher);
        hasher.finish()
    };
    format!("{:016X}{:016X}", half(0), half(1))
}

fn entries() -> Vec<Entry> {
    const OBJECT: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
    let mut entries = Vec::new();
    for kind in kinds::all() {
        let own = (kind.group.to_owned(), kind.version.to_owned(), kind.kind.to_owned());
        let entry = |resource: String, speaks, verbs| Entry {
            group: kind.group,
            version: kind.version,
            resource,
            singular: "",
            speaks,
            namespaced: kind.namespaced,
            verbs,
            short: &[],
            categories: &[],
        };
        entries.push(Entry {
            singular: kind.singular,
            short: kind.short,
            categories: kind.categories,
            ..entry(kind.plural.to_owned(), own.clone(), OBJECT)
        });
        let mut subresources: Vec<&str> = kind.subresources.to_vec();
        subresources.extend(kind.status.then_some("status"));
        subresources.extend(kind.scale.then_some("scale"));
        subresources.sort_unstable();
        for subresource in subresources {
            let verbs: &[&str] = match subresource {
                "binding" | "eviction" | "token" => &["create"],
                "finalize" => &["update"],
                "log" => &["get"],
                "attach" | "exec" | "portforward" => &["create", "get"],
                _ => &["get", "patch", "update"],
            };
            let options = |kind: &str| (String::new(), "v1".to_owned(), kind.to_owned());
            let speaks = match subresource {
                "attach" => options("PodAttachOptions"),
                "exec" => options("PodExecOptions"),
                "portforward" => options("PodPortForwardOptions"),
                _ => kinds::of_subresource(subresource).map_or_else(|| own.clone(), gvk),
            };
            entries.push(entry(format!("{}/{subresource}", kind.plural), speaks, verbs));
        }
    }
    for (group, resource, kind, namespaced) in REVIEWS {
        entries.push(Entry {
            group,
            version: "v1",
            resource: (*resource).to_owned(),
            singular: resource.trim_end_matches('s'),
            speaks: ((*group).to_owned(), "v1".to_owned(), (*kind).to_owned()),
            namespaced: *namespaced,
            verbs: &["create"],
            short: &[],
            categories: &[],
        });
    }
    entries
}

fn gvk(kind: &'static Kind) -> (String, String, String) {
    (kind.group.to_owned(), kind.version.to_owned(), kind.kind.to_owned())
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

// === impl Entry ===

impl Entry {
    fn plain(&self) -> Value {
        let (group, version, kind) = &self.speaks;
        let mut plain = json!({"name": self.resource, "singularName": self.singular, "namespaced": self.namespaced,
            "kind": kind, "verbs": self.verbs});
        if (group.as_str(), version.as_str()) != (self.group, self.version) {
            plain["group"] = json!(group);
            plain["version"] = json!(version);
        }
        if !self.short.is_empty() {
            plain["shortNames"] = json!(self.short);
        }
        if !self.categories.is_empty() {
            plain["categories"] = json!(self.categories);
        }
        if !self.resource.contains('/') {
            plain["storageVersionHash"] = json!("");
        }
        plain
    }

    /// Aggregated discovery nests subresources in their resource, which comes before them.
    fn add_to(&self, resources: &mut Vec<Value>) {
        let (group, version, kind) = &self.speaks;
        let speaks = json!({"group": group, "version": version, "kind": kind});
        if let (Some((_, subresource)), Some(parent)) = (self.resource.split_once('/'), resources.last_mut()) {
            let entry = json!({"subresource": subresource, "responseKind": speaks, "verbs": self.verbs});
            match parent["subresources"].as_array_mut() {
                Some(list) => list.push(entry),
                None => parent["subresources"] = json!([entry]),
            }
            return;
        }
        let scope = if self.namespaced { "Namespaced" } else { "Cluster" };
        let mut entry = json!({"resource": self.resource, "responseKind": speaks, "scope": scope,
            "singularResource": self.singular, "verbs": self.verbs});
        if !self.short.is_empty() {
            entry["shortNames"] = json!(self.short);
        }
        if !self.categories.is_empty() {
            entry["categories"] = json!(self.categories);
        }
        resources.push(entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_discovered_both_ways() {
        let aggregated: Vec<Value> = [&CORE[0], &OTHERS[0]]
            .iter()
            .flat_map(|document| {
                let list: Value = serde_json::from_slice(&document.body).unwrap();
                list["items"].as_array().unwrap().clone()
            })
            .collect();
        for kind in kinds::all() {
            assert!(ENTRIES.iter().any(|entry| entry.group == kind.group && entry.resource == kind.plural), "{kind:?}");
            let group = aggregated.iter().find(|group| group["metadata"]["name"].as_str().unwrap_or_default() == kind.group);
            let resources = group.unwrap()["versions"][0]["resources"].as_array().unwrap();
            let found = resources.iter().find(|resource| resource["resource"] == kind.plural).unwrap();
            let has_status = found["subresources"].as_array().into_iter().flatten().any(|sub| sub["subresource"] == "status");
            assert_eq!(has_status, kind.status, "{found}");
        }
    }

    #[test]
    fn the_form_follows_the_accept_header() {
        let check = |accept: &str, content_type: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, accept.parse().unwrap());
            assert_eq!(groups(&headers).headers()[http::header::CONTENT_TYPE], content_type, "{accept}");
        };
        check("application/json", "application/json");
        check(&format!("{},application/json", AGGREGATED[0].1), AGGREGATED[0].1);
        check("application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json", AGGREGATED[1].1);
        check("application/json;g=apidiscovery.k8s.io;v=v9;as=APIGroupDiscoveryList,application/json", "application/json");
    }

    #[test]
    fn a_known_document_is_not_sent_again() {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, AGGREGATED[0].1.parse().unwrap());
        let first = groups(&headers);
        let tag = first.headers()[http::header::ETAG].clone();
        assert!(tag.len() > 30, "{tag:?} is a hash");
        headers.insert(http::header::IF_NONE_MATCH, tag);
        assert_eq!(groups(&headers).status(), StatusCode::NOT_MODIFIED);
    }
}
