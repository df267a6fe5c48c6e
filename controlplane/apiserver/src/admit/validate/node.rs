//! Nodes, leases, and the binding of a pod to a node.

use std::collections::HashSet;

use serde_json::Value;

use super::{cidr, is_empty, list, one_of, text};
use crate::admit::{Causes, Path, names};

const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

pub(crate) fn node(node: &Value, causes: &mut Causes) {
    let (spec, at) = (&node["spec"], Path::Root.field("spec"));
    let ranges = at.field("podCIDRs");
    for (i, range) in list(&spec["podCIDRs"]).iter().enumerate() {
        cidr(range, &ranges.index(i), causes);
    }
    let taints = at.field("taints");
    let mut seen = HashSet::new();
    for (i, taint) in list(&spec["taints"]).iter().enumerate() {
        let at = taints.index(i);
        let (key, effect) = (text(&taint["key"]), text(&taint["effect"]));
        causes.all_invalid(&at.field("key"), key, names::qualified_name(key));
        causes.all_invalid(&at.field("value"), text(&taint["value"]), names::label_value(text(&taint["value"])));
        one_of(&taint["effect"], &EFFECTS, &at.field("effect"), causes);
        if !seen.insert((key, effect)) {
            causes.duplicate(&at, taint.clone());
        }
    }
}

pub(crate) fn node_update(new: &Value, old: &Value, causes: &mut Causes) {
    let (new, old, at) = (&new["spec"], &old["spec"], Path::Root.field("spec"));
    if !is_empty(&old["podCIDRs"]) && new["podCIDRs"] != old["podCIDRs"] {
        causes.forbidden(&at.field("podCIDRs"), "node updates may not change podCIDR except from \"\" to valid");
    }
    if !is_empty(&old["providerID"]) && new["providerID"] != old["providerID"] {
        causes.forbidden(&at.field("providerID"), "node updates may not change providerID except from \"\" to valid");
    }
}

pub(crate) fn lease(lease: &Value, causes: &mut Causes) {
    let (spec, at) = (&lease["spec"], Path::Root.field("spec"));
    if let Some(seconds) = spec["leaseDurationSeconds"].as_i64().filter(|s| *s <= 0) {
        causes.invalid(&at.field("leaseDurationSeconds"), seconds, "must be greater than 0");
    }
    super::not_negative(&spec["leaseTransitions"], &at.field("leaseTransitions"), causes);
}

pub(crate) fn binding(binding: &Value, causes: &mut Causes) {
    let (target, at) = (&binding["target"], Path::Root.field("target"));
    if !matches!(text(&target["kind"]), "" | "Node") {
        causes.unsupported(&at.field("kind"), text(&target["kind"]), &["Node", "<empty>"]);
    }
    if text(&target["name"]).is_empty() {
        causes.required(&at.field("name"), "");
    }
}
