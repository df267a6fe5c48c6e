//! The volumes of a pod: each has a name and one source.

use std::collections::HashSet;

use serde_json::Value;

use super::{list, text};
use crate::admit::{Causes, Path, names};

pub(super) fn volumes(volumes: &Value, at: &Path<'_>, causes: &mut Causes) {
    let mut seen = HashSet::new();
    for (i, volume) in list(volumes).iter().enumerate() {
        let at = at.index(i);
        let name = text(&volume["name"]);
        if name.is_empty() {
            causes.required(&at.field("name"), "");
        } else {
            causes.all_invalid(&at.field("name"), name, names::dns_label(name));
            if !seen.insert(name) {
                causes.duplicate(&at.field("name"), name);
            }
        }
        let mut sources = volume.as_object().into_iter().flatten().map(|(key, _)| key.as_str()).filter(|key| *key != "name");
        let Some(source) = sources.next() else {
            causes.required(&at, "must specify a volume type");
            continue;
        };
        for other in sources {
            causes.forbidden(&at.field(other), "may not specify more than 1 volume type");
        }
        one(source, &volume[source], &at.field(source), causes);
    }
}

fn one(source: &str, volume: &Value, at: &Path<'_>, causes: &mut Causes) {
    let mut required = |field: &'static str| {
        if text(&volume[field]).is_empty() {
            causes.required(&at.field(field), "");
        }
    };
    match source {
        "configMap" => required("name"),
        "secret" => required("secretName"),
        "hostPath" => required("path"),
        "persistentVolumeClaim" => required("claimName"),
        "nfs" => {
            required("server");
            required("path");
        }
        "csi" => required("driver"),
        _ => {}
    }
    if source == "hostPath" && text(&volume["path"]).split('/').any(|step| step == "..") {
        causes.invalid(&at.field("path"), text(&volume["path"]), "must not contain '..'");
    }
    if let Some(mode) = volume["defaultMode"].as_i64() {
        file_mode(mode, &at.field("defaultMode"), causes);
    }
    items(&volume["items"], &at.field("items"), causes);
    let path = at.field("sources");
    for (i, projection) in list(&volume["sources"]).iter().enumerate() {
        let at = path.index(i);
        for (kind, source) in projection.as_object().into_iter().flatten() {
            items(&source["items"], &at.field(kind).field("items"), causes);
            if kind == "serviceAccountToken" {
                let token = at.field(kind);
                if source["expirationSeconds"].as_i64().is_some_and(|s| s < 600) {
                    let path = token.field("expirationSeconds");
                    causes.invalid(
                        &path,
                        source["expirationSeconds"].clone(),
                        "may not specify a duration less than 10 minutes",
                    );
                }
                if text(&source["path"]).is_empty() {
                    causes.required(&token.field("path"), "");
                }
            }
        }
    }
}

/// Files of a volume, by key or by field.
fn items(items: &Value, at: &Path<'_>, causes: &mut Causes) {
    for (i, item) in list(items).iter().enumerate() {
        let at = at.index(i);
        if item["fieldRef"].is_null() && item["resourceFieldRef"].is_null() && text(&item["key"]).is_empty() {
            causes.required(&at.field("key"), "");
        }
        let path = text(&item["path"]);
        if path.is_empty() {
            causes.required(&at.field("path"), "");
        } else if path.starts_with('/') {
            causes.invalid(&at.field("path"), path, "must be a relative path");
        } else if path.split('/').any(|step| step == "..") {
            causes.invalid(&at.field("path"), path, "must not contain '..'");
        }
        if let Some(mode) = item["mode"].as_i64() {
            file_mode(mode, &at.field("mode"), causes);
        }
    }
}

fn file_mode(mode: i64, at: &Path<'_>, causes: &mut Causes) {
    if !(0..=0o777).contains(&mode) {
        causes.invalid(at, mode, "must be a number between 0 and 0777 (octal), both inclusive");
    }
}
