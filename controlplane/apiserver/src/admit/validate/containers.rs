//! The containers of a pod: names, images, ports, environment, mounts, resources, probes.

use std::collections::HashSet;

use serde_json::Value;

use super::{list, not_negative, one_of, port_number, port_or_name, text};
use crate::admit::{Causes, Path, names};
use crate::schema::quantity::Quantity;

const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const HANDLERS: [&str; 4] = ["exec", "httpGet", "tcpSocket", "grpc"];

/// Which list of containers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Main,
    Init,
    Ephemeral,
}

/// All containers of a pod spec.
pub(super) fn all(spec: &Value, at: &Path<'_>, causes: &mut Causes) {
    if list(&spec["containers"]).is_empty() {
        causes.required(&at.field("containers"), "");
    }
    let mut seen = HashSet::new();
    let volumes: HashSet<&str> = list(&spec["volumes"]).iter().map(|v| text(&v["name"])).collect();
    let host_network = spec["hostNetwork"] == true;
    for (field, role) in [("initContainers", Role::Init), ("containers", Role::Main), ("ephemeralContainers", Role::Ephemeral)]
    {
        let path = at.field(field);
        for (i, c) in list(&spec[field]).iter().enumerate() {
            let at = path.index(i);
            let name = text(&c["name"]);
            if name.is_empty() {
                causes.required(&at.field("name"), "");
            } else {
                causes.all_invalid(&at.field("name"), name, names::dns_label(name));
                if !seen.insert(name) {
                    causes.duplicate(&at.field("name"), name);
                }
            }
            container(c, role, &volumes, host_network, &at, causes);
        }
    }
    host_ports(spec, at, causes);
}

fn container(c: &Value, role: Role, volumes: &HashSet<&str>, host_network: bool, at: &Path<'_>, causes: &mut Causes) {
    let image = text(&c["image"]);
    if image.is_empty() {
        causes.required(&at.field("image"), "");
    } else if image.trim() != image {
        causes.invalid(&at.field("image"), image, "must not have leading or trailing whitespace");
    }
    one_of(&c["imagePullPolicy"], &["Always", "IfNotPresent", "Never"], &at.field("imagePullPolicy"), causes);
    one_of(&c["terminationMessagePolicy"], &["FallbackToLogsOnError", "File"], &at.field("terminationMessagePolicy"), causes);
    if role == Role::Init && c["restartPolicy"].is_string() {
        one_of(&c["restartPolicy"], &["Always", "Never", "OnFailure"], &at.field("restartPolicy"), causes);
    }
    ports(&c["ports"], host_network, &at.field("ports"), causes);
    environment(c, at, causes);
    mounts(&c["volumeMounts"], volumes, &at.field("volumeMounts"), causes);
    resources(&c["resources"], &at.field("resources"), causes);

    let sidecar = role == Role::Init && c["restartPolicy"] == "Always";
    for field in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if !c[field].is_object() {
            continue;
        }
        if role == Role::Main || sidecar {
            probe(&c[field], field, &at.field(field), causes);
        } else {
            let kind = if role == Role::Init { "init containers without restartPolicy=Always" } else { "Ephemeral Containers" };
            causes.forbidden(&at.field(field), format!("may not be set for {kind}"));
        }
    }
    let lifecycle = at.field("lifecycle");
    for hook in ["postStart", "preStop"] {
        if c["lifecycle"][hook].is_object() {
            handler(&c["lifecycle"][hook], &["exec", "httpGet", "tcpSocket", "sleep"], &lifecycle.field(hook), causes);
        }
    }
}

fn ports(ports: &Value, host_network: bool, at: &Path<'_>, causes: &mut Causes) {
    let mut seen = HashSet::new();
    for (i, port) in list(ports).iter().enumerate() {
        let at = at.index(i);
        let name = text(&port["name"]);
        if !name.is_empty() {
            causes.all_invalid(&at.field("name"), name, names::port_name(name));
            if !seen.insert(name) {
                causes.duplicate(&at.field("name"), name);
            }
        }
        if port["containerPort"].as_i64().unwrap_or(0) == 0 {
            causes.required(&at.field("containerPort"), "");
        } else {
            port_number(&port["containerPort"], &at.field("containerPort"), causes);
        }
        let host = port["hostPort"].as_i64().unwrap_or(0);
        if host != 0 {
            port_number(&port["hostPort"], &at.field("hostPort"), causes);
            if host_network && port["hostPort"] != port["containerPort"] {
                causes.invalid(&at.field("hostPort"), host, "must match `containerPort` when `hostNetwork` is true");
            }
        }
        one_of(&port["protocol"], &PROTOCOLS, &at.field("protocol"), causes);
    }
}

/// One host port can be had once.
fn host_ports(spec: &Value, at: &Path<'_>, causes: &mut Causes) {
    let mut seen = HashSet::new();
    let path = at.field("containers");
    for (i, c) in list(&spec["containers"]).iter().enumerate() {
        for (j, port) in list(&c["ports"]).iter().enumerate() {
            let number = port["hostPort"].as_i64().unwrap_or(0);
            let key = (number, text(&port["protocol"]), text(&port["hostIP"]));
            if number != 0 && !seen.insert(key) {
                causes.duplicate(&path.index(i).field("ports").index(j).field("hostPort"), number);
            }
        }
    }
}

fn environment(c: &Value, at: &Path<'_>, causes: &mut Causes) {
    const SOURCES: [&str; 5] = ["configMapKeyRef", "fieldRef", "fileKeyRef", "resourceFieldRef", "secretKeyRef"];
    let path = at.field("env");
    for (i, variable) in list(&c["env"]).iter().enumerate() {
        let at = path.index(i);
        let name = text(&variable["name"]);
        if name.is_empty() {
            causes.required(&at.field("name"), "");
        } else {
            causes.all_invalid(&at.field("name"), name, names::env_name(name));
        }
        let (from, at) = (&variable["valueFrom"], at.field("valueFrom"));
        if !from.is_object() {
            continue;
        }
        if !text(&variable["value"]).is_empty() {
            causes.invalid(&at, "", "may not be specified when `value` is not empty");
        }
        let given: Vec<&str> = SOURCES.into_iter().filter(|source| from[source].is_object()).collect();
        match given[..] {
            [] => causes.invalid(
                &at,
                "",
                "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
            ),
            [one] => reference(&from[one], one, &at.field(one), causes),
            _ => causes.invalid(&at, "", "may not have more than one field specified at a time"),
        }
    }
    let path = at.field("envFrom");
    for (i, source) in list(&c["envFrom"]).iter().enumerate() {
        let at = path.index(i);
        let given = ["configMapRef", "secretRef"].into_iter().filter(|s| source[s].is_object());
        match given.collect::<Vec<_>>()[..] {
            [] => causes.invalid(&at, "", "must specify one of: `configMapRef` or `secretRef`"),
            [one] if text(&source[one]["name"]).is_empty() => causes.required(&at.field(one).field("name"), ""),
            [_] => {}
            _ => causes.invalid(&at, "", "may not have more than one field specified at a time"),
        }
    }
}

fn reference(reference: &Value, kind: &str, at: &Path<'_>, causes: &mut Causes) {
    match kind {
        "fieldRef" if text(&reference["fieldPath"]).is_empty() => causes.required(&at.field("fieldPath"), ""),
        "resourceFieldRef" if text(&reference["resource"]).is_empty() => causes.required(&at.field("resource"), ""),
        "configMapKeyRef" | "secretKeyRef" => {
            if text(&reference["name"]).is_empty() {
                causes.required(&at.field("name"), "");
            }
            match text(&reference["key"]) {
                "" => causes.required(&at.field("key"), ""),
                key => causes.all_invalid(&at.field("key"), key, names::config_key(key)),
            }
        }
        _ => {}
    }
}

fn mounts(mounts: &Value, volumes: &HashSet<&str>, at: &Path<'_>, causes: &mut Causes) {
    let mut paths = HashSet::new();
    for (i, mount) in list(mounts).iter().enumerate() {
        let at = at.index(i);
        match text(&mount["name"]) {
            "" => causes.required(&at.field("name"), ""),
            name if !volumes.contains(name) => causes.not_found(&at.field("name"), name),
            _ => {}
        }
        match text(&mount["mountPath"]) {
            "" => causes.required(&at.field("mountPath"), ""),
            path if !paths.insert(path) => causes.invalid(&at.field("mountPath"), path, "must be unique"),
            _ => {}
        }
        let sub = text(&mount["subPath"]);
        if sub.starts_with('/') {
            causes.invalid(&at.field("subPath"), sub, "must be a relative path");
        }
        if sub.split('/').any(|step| step == "..") {
            causes.invalid(&at.field("subPath"), sub, "must not contain '..'");
        }
    }
}

fn resources(resources: &Value, at: &Path<'_>, causes: &mut Causes) {
    let quantity = |value: &Value| text(value).parse::<Quantity>().ok();
    for field in ["limits", "requests"] {
        let path = at.field(field);
        for (resource, amount) in resources[field].as_object().into_iter().flatten() {
            let known =
                matches!(resource.as_str(), "cpu" | "memory" | "ephemeral-storage") || resource.starts_with("hugepages-");
            if !known {
                causes.all_invalid(&path, resource, names::qualified_name(resource));
                if !resource.contains('/') {
                    causes.invalid(
                        &path.key(resource),
                        resource.as_str(),
                        "must be a standard resource type or fully qualified",
                    );
                }
            }
            if quantity(amount).is_some_and(|q| q.is_negative()) {
                causes.invalid(&path.key(resource), amount.clone(), super::NOT_NEGATIVE);
            }
        }
    }
    for (resource, request) in resources["requests"].as_object().into_iter().flatten() {
        let limit = &resources["limits"][resource];
        if let (Some(asked), Some(most)) = (quantity(request), quantity(limit))
            && asked > most
        {
            let detail = format!("must be less than or equal to {resource} limit of {}", text(limit));
            causes.invalid(&at.field("requests"), request.clone(), detail);
        }
    }
}

fn probe(probe: &Value, which: &str, at: &Path<'_>, causes: &mut Causes) {
    handler(probe, &HANDLERS, at, causes);
    for field in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        not_negative(&probe[field], &at.field(field), causes);
    }
    let grace = probe["terminationGracePeriodSeconds"].as_i64();
    if let Some(seconds) = grace.filter(|s| *s <= 0) {
        causes.invalid(&at.field("terminationGracePeriodSeconds"), seconds, "must be greater than 0");
    }
    if which == "readinessProbe" && grace.is_some() {
        let path = at.field("terminationGracePeriodSeconds");
        causes.invalid(&path, grace, "must not be set for readinessProbes");
    }
    if which != "readinessProbe" && probe["successThreshold"].as_i64().is_some_and(|n| n != 1) {
        causes.invalid(&at.field("successThreshold"), probe["successThreshold"].clone(), "must be 1");
    }
}

/// What a probe or a hook does: exactly one thing.
fn handler(handler: &Value, kinds: &[&str], at: &Path<'_>, causes: &mut Causes) {
    let mut given = kinds.iter().copied().filter(|kind| handler[kind].is_object());
    let Some(kind) = given.next() else {
        causes.required(at, "must specify a handler type");
        return;
    };
    for other in given {
        causes.forbidden(&at.field(other), "may not specify more than 1 handler type");
    }
    let (action, at) = (&handler[kind], at.field(kind));
    match kind {
        "exec" if list(&action["command"]).is_empty() => causes.required(&at.field("command"), ""),
        "httpGet" => {
            if text(&action["path"]).is_empty() {
                causes.required(&at.field("path"), "");
            }
            port_or_name(&action["port"], &at.field("port"), causes);
            one_of(&action["scheme"], &["HTTP", "HTTPS"], &at.field("scheme"), causes);
        }
        "tcpSocket" => port_or_name(&action["port"], &at.field("port"), causes),
        "grpc" => port_number(&action["port"], &at.field("port"), causes),
        _ => {}
    }
}
