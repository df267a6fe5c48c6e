//! Pods, and the pod templates of workloads.

use serde_json::Value;

use super::{containers, list, meta, not_negative, one_of, text, volumes};
use crate::admit::{Causes, Path, names};

const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

pub(crate) fn pod(pod: &Value, causes: &mut Causes) {
    pod_spec(&pod["spec"], &Path::Root.field("spec"), causes);
}

/// The spec of a pod or of a template.
pub(crate) fn pod_spec(spec: &Value, at: &Path<'_>, causes: &mut Causes) {
    volumes::volumes(&spec["volumes"], &at.field("volumes"), causes);
    containers::all(spec, at, causes);
    one_of(&spec["restartPolicy"], &["Always", "Never", "OnFailure"], &at.field("restartPolicy"), causes);
    dns(spec, at, causes);
    not_negative(&spec["terminationGracePeriodSeconds"], &at.field("terminationGracePeriodSeconds"), causes);
    if let Some(seconds) = spec["activeDeadlineSeconds"].as_i64().filter(|s| !(1..=i64::from(i32::MAX)).contains(s)) {
        causes.invalid(&at.field("activeDeadlineSeconds"), seconds, "must be between 1 and 2147483647, inclusive");
    }
    for (field, rule) in [
        ("nodeName", names::dns_subdomain as fn(&str) -> Vec<String>),
        ("serviceAccountName", names::dns_subdomain),
        ("priorityClassName", names::dns_subdomain),
        ("schedulerName", names::qualified_name),
        ("hostname", names::dns_label),
        ("subdomain", names::dns_label),
    ] {
        let value = text(&spec[field]);
        if !value.is_empty() {
            causes.all_invalid(&at.field(field), value, rule(value));
        }
    }
    meta::labels(&spec["nodeSelector"], &at.field("nodeSelector"), causes);
    tolerations(&spec["tolerations"], &at.field("tolerations"), causes);
    let gates = at.field("readinessGates");
    for (i, gate) in list(&spec["readinessGates"]).iter().enumerate() {
        let word = text(&gate["conditionType"]);
        causes.all_invalid(&gates.index(i).field("conditionType"), word, names::qualified_name(word));
    }
    let aliases = at.field("hostAliases");
    for (i, alias) in list(&spec["hostAliases"]).iter().enumerate() {
        super::ip_address(&alias["ip"], &aliases.index(i).field("ip"), causes);
        let at = aliases.index(i);
        for host in list(&alias["hostnames"]) {
            causes.all_invalid(&at.field("hostnames"), text(host), names::dns_subdomain(text(host)));
        }
    }
    let constraints = at.field("topologySpreadConstraints");
    for (i, constraint) in list(&spec["topologySpreadConstraints"]).iter().enumerate() {
        let at = constraints.index(i);
        if constraint["maxSkew"].as_i64().unwrap_or(0) <= 0 {
            causes.invalid(&at.field("maxSkew"), constraint["maxSkew"].as_i64().unwrap_or(0), "must be greater than zero");
        }
        if text(&constraint["topologyKey"]).is_empty() {
            causes.required(&at.field("topologyKey"), "can not be empty");
        }
        one_of(&constraint["whenUnsatisfiable"], &["DoNotSchedule", "ScheduleAnyway"], &at.field("whenUnsatisfiable"), causes);
        meta::selector(&constraint["labelSelector"], &at.field("labelSelector"), causes);
    }
    affinity(&spec["affinity"], &at.field("affinity"), causes);
}

fn dns(spec: &Value, at: &Path<'_>, causes: &mut Causes) {
    one_of(&spec["dnsPolicy"], &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"], &at.field("dnsPolicy"), causes);
    let (config, at) = (&spec["dnsConfig"], at.field("dnsConfig"));
    let (servers, path) = (list(&config["nameservers"]), at.field("nameservers"));
    if spec["dnsPolicy"] == "None" && servers.is_empty() {
        causes.required(&path, "must provide at least one DNS nameserver when `dnsPolicy` is None");
    }
    if servers.len() > 3 {
        causes.invalid(&path, servers.to_vec(), "must not have more than 3 nameservers");
    }
    for (i, server) in servers.iter().enumerate() {
        super::ip_address(server, &path.index(i), causes);
    }
    if list(&config["searches"]).len() > 32 {
        causes.invalid(&at.field("searches"), config["searches"].clone(), "must not have more than 32 search paths");
    }
    let options = at.field("options");
    for (i, option) in list(&config["options"]).iter().enumerate() {
        if text(&option["name"]).is_empty() {
            causes.required(&options.index(i), "must not be empty");
        }
    }
}

fn tolerations(tolerations: &Value, at: &Path<'_>, causes: &mut Causes) {
    for (i, toleration) in list(tolerations).iter().enumerate() {
        let at = at.index(i);
        let (key, operator, value) = (text(&toleration["key"]), text(&toleration["operator"]), text(&toleration["value"]));
        if !key.is_empty() {
            causes.all_invalid(&at.field("key"), key, names::qualified_name(key));
        }
        if key.is_empty() && operator != "Exists" {
            causes.invalid(
                &at.field("operator"),
                operator,
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            );
        }
        let effect = text(&toleration["effect"]);
        if toleration["tolerationSeconds"].is_number() && effect != "NoExecute" {
            causes.invalid(&at.field("effect"), effect, "effect must be 'NoExecute' when `tolerationSeconds` is set");
        }
        match operator {
            "" | "Equal" => causes.all_invalid(&at.field("operator"), value, names::label_value(value)),
            "Exists" if !value.is_empty() => {
                causes.invalid(&at.field("operator"), value, "value must be empty when `operator` is 'Exists'");
            }
            "Exists" | "Lt" | "Gt" => {}
            other => causes.unsupported(&at.field("operator"), other, &["Equal", "Exists"]),
        }
        if !effect.is_empty() && !EFFECTS.contains(&effect) {
            causes.unsupported(&at.field("effect"), effect, &EFFECTS);
        }
    }
}

fn affinity(affinity: &Value, at: &Path<'_>, causes: &mut Causes) {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
    let weight = |term: &Value, at: &Path<'_>, causes: &mut Causes| {
        let weight = term["weight"].as_i64().unwrap_or(0);
        if !(1..=100).contains(&weight) {
            causes.invalid(&at.field("weight"), weight, "must be in the range 1-100");
        }
    };
    let (node, path) = (&affinity["nodeAffinity"], at.field("nodeAffinity"));
    if node[REQUIRED].is_object() {
        let (terms, path) = (list(&node[REQUIRED]["nodeSelectorTerms"]), path.field(REQUIRED));
        let path = path.field("nodeSelectorTerms");
        if terms.is_empty() {
            causes.required(&path, "must have at least one node selector term");
        }
        for (i, term) in terms.iter().enumerate() {
            node_term(term, &path.index(i), causes);
        }
    }
    let preferred = path.field(PREFERRED);
    for (i, term) in list(&node[PREFERRED]).iter().enumerate() {
        weight(term, &preferred.index(i), causes);
        node_term(&term["preference"], &preferred.index(i).field("preference"), causes);
    }
    for which in ["podAffinity", "podAntiAffinity"] {
        let (pods, path) = (&affinity[which], at.field(which));
        let required = path.field(REQUIRED);
        for (i, term) in list(&pods[REQUIRED]).iter().enumerate() {
            pod_term(term, &required.index(i), causes);
        }
        let preferred = path.field(PREFERRED);
        for (i, term) in list(&pods[PREFERRED]).iter().enumerate() {
            weight(term, &preferred.index(i), causes);
            pod_term(&term["podAffinityTerm"], &preferred.index(i).field("podAffinityTerm"), causes);
        }
    }
}

fn node_term(term: &Value, at: &Path<'_>, causes: &mut Causes) {
    for field in ["matchExpressions", "matchFields"] {
        let path = at.field(field);
        for (i, expression) in list(&term[field]).iter().enumerate() {
            let at = path.index(i);
            let values = list(&expression["values"]).len();
            match text(&expression["operator"]) {
                "In" | "NotIn" if values == 0 => {
                    causes.required(&at.field("values"), "must be specified when `operator` is 'In' or 'NotIn'");
                }
                "Exists" | "DoesNotExist" if values > 0 => {
                    causes.forbidden(&at.field("values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
                }
                "Gt" | "Lt" if values != 1 => {
                    causes.required(&at.field("values"), "must be specified single value when `operator` is 'Lt' or 'Gt'");
                }
                "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
                other => causes.invalid(&at.field("operator"), other, "not a valid selector operator"),
            }
            let key = text(&expression["key"]);
            causes.all_invalid(&at.field("key"), key, names::qualified_name(key));
        }
    }
}

fn pod_term(term: &Value, at: &Path<'_>, causes: &mut Causes) {
    let key = text(&term["topologyKey"]);
    if key.is_empty() {
        causes.required(&at.field("topologyKey"), "can not be empty");
    } else {
        causes.all_invalid(&at.field("topologyKey"), key, names::qualified_name(key));
    }
    meta::selector(&term["labelSelector"], &at.field("labelSelector"), causes);
}

/// A pod's spec is fixed, but for images, deadlines and added tolerations.
pub(crate) fn pod_update(new: &Value, old: &Value, causes: &mut Causes) {
    let (mut masked, old) = (new["spec"].clone(), &old["spec"]);
    let at = Path::Root.field("spec");
    for containers in ["containers", "initContainers"] {
        let (new, old) = (masked.get_mut(containers).and_then(Value::as_array_mut), list(&old[containers]));
        if new.as_ref().map_or(0, |new| new.len()) != old.len() {
            causes.forbidden(&at.field(containers), "pod updates may not add or remove containers");
            return;
        }
        for (new, old) in new.into_iter().flatten().zip(old) {
            put(new, "image", &old["image"]);
        }
    }

    let (deadline, before) = (masked["activeDeadlineSeconds"].as_i64(), old["activeDeadlineSeconds"].as_i64());
    match (deadline, before) {
        (Some(deadline), Some(before)) if deadline > before => {
            let path = at.field("activeDeadlineSeconds");
            causes.invalid(&path, deadline, "must be less than or equal to previous value");
        }
        (None, Some(_)) => {
            causes.forbidden(&at.field("activeDeadlineSeconds"), "must not update from a positive integer to nil value")
        }
        _ => {}
    }
    put(&mut masked, "activeDeadlineSeconds", &old["activeDeadlineSeconds"]);

    let (tolerations, before) = (list(&new["spec"]["tolerations"]), list(&old["tolerations"]));
    let same = |a: &Value, b: &Value| ["key", "operator", "value", "effect"].iter().all(|f| text(&a[f]) == text(&b[f]));
    if !before.iter().all(|old| tolerations.iter().any(|new| same(new, old))) {
        causes.forbidden(&at.field("tolerations"), "existing toleration can not be modified except its tolerationSeconds");
    }
    put(&mut masked, "tolerations", &old["tolerations"]);

    if old["terminationGracePeriodSeconds"].as_i64().is_some_and(|s| s < 0) && masked["terminationGracePeriodSeconds"] == 1 {
        put(&mut masked, "terminationGracePeriodSeconds", &old["terminationGracePeriodSeconds"]);
    }
    // The gates that hold a pod back may be lifted one by one.
    let (gates, before) = (list(&new["spec"]["schedulingGates"]), list(&old["schedulingGates"]));
    if let Some(added) = gates.iter().find(|gate| !before.contains(gate)) {
        let name = text(&added["name"]);
        causes.forbidden(
            &at.field("schedulingGates"),
            format!("only deletion is allowed, but found new scheduling gate '{name}'"),
        );
    }
    put(&mut masked, "schedulingGates", &old["schedulingGates"]);

    if masked != *old {
        let changed = changed_fields(&masked, old).join(", ");
        causes.forbidden(
            &at,
            format!(
                "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,\
                 `spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),\
                 `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\nchanged: {changed}"
            ),
        );
    }
}

/// Sets a field, or removes it when `value` is absent.
fn put(object: &mut Value, field: &str, value: &Value) {
    let Some(map) = object.as_object_mut() else { return };
    if value.is_null() {
        map.remove(field);
    } else {
        map.insert(field.to_owned(), value.clone());
    }
}

fn changed_fields(new: &Value, old: &Value) -> Vec<String> {
    let keys = |value: &Value| value.as_object().map(|m| m.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    let mut all = keys(new);
    all.extend(keys(old));
    all.sort();
    all.dedup();
    all.into_iter().filter(|key| new[key] != old[key]).map(|key| format!("spec.{key}")).collect()
}
