//! ConfigMaps, Secrets and Events.

use base64::Engine;
use serde_json::Value;

use super::{IMMUTABLE, is_empty, text};
use crate::admit::{Causes, Path, names};

const MAX_SIZE: usize = 1024 * 1024;

pub(crate) fn config_map(map: &Value, causes: &mut Causes) {
    let (mut size, binary) = (0, map["binaryData"].as_object());
    for (key, value) in map["data"].as_object().into_iter().flatten() {
        let at = Path::Root.field("data");
        causes.all_invalid(&at.key(key), key, names::config_key(key));
        if binary.is_some_and(|b| b.contains_key(key)) {
            causes.invalid(&at.key(key), key.as_str(), "duplicate of key present in binaryData");
        }
        size += text(value).len();
    }
    for (key, value) in binary.into_iter().flatten() {
        causes.all_invalid(&Path::Root.field("binaryData").key(key), key, names::config_key(key));
        size += decoded_size(value);
    }
    if size > MAX_SIZE {
        causes.too_long(&Path::Root, MAX_SIZE);
    }
}

pub(crate) fn config_map_update(new: &Value, old: &Value, causes: &mut Causes) {
    immutable(new, old, &["data", "binaryData"], causes);
}

pub(crate) fn secret(secret: &Value, causes: &mut Causes) {
    let at = Path::Root.field("data");
    let data = &secret["data"];
    let mut size = 0;
    for (key, value) in data.as_object().into_iter().flatten() {
        causes.all_invalid(&at.key(key), key, names::config_key(key));
        size += decoded_size(value);
    }
    if size > MAX_SIZE {
        causes.too_long(&at, MAX_SIZE);
    }
    let mut required = |keys: &[&str]| {
        for key in keys.iter().filter(|key| !data[**key].is_string()) {
            causes.required(&at.key(key), "");
        }
    };
    match text(&secret["type"]) {
        "kubernetes.io/tls" => required(&["tls.crt", "tls.key"]),
        "kubernetes.io/ssh-auth" => required(&["ssh-privatekey"]),
        "kubernetes.io/dockercfg" => required(&[".dockercfg"]),
        "kubernetes.io/dockerconfigjson" => required(&[".dockerconfigjson"]),
        "kubernetes.io/basic-auth" if is_empty(&data["username"]) && is_empty(&data["password"]) => {
            required(&["username", "password"]);
        }
        "kubernetes.io/service-account-token" => {
            let annotation = "kubernetes.io/service-account.name";
            if text(&secret["metadata"]["annotations"][annotation]).is_empty() {
                causes.required(&Path::Root.field("metadata").field("annotations").key(annotation), "");
            }
        }
        _ => {}
    }
}

pub(crate) fn secret_update(new: &Value, old: &Value, causes: &mut Causes) {
    if new["type"] != old["type"] {
        causes.invalid(&Path::Root.field("type"), new["type"].clone(), IMMUTABLE);
    }
    immutable(new, old, &["data"], causes);
}

/// An object that was made immutable stays so, with its data.
fn immutable(new: &Value, old: &Value, fields: &[&str], causes: &mut Causes) {
    const MESSAGE: &str = "field is immutable when `immutable` is set";
    if old["immutable"] != true {
        return;
    }
    if new["immutable"] != true {
        causes.forbidden(&Path::Root.field("immutable"), MESSAGE);
    }
    for field in fields {
        if new[field] != old[field] && !(is_empty(&new[field]) && is_empty(&old[field])) {
            causes.forbidden(&Path::Root.field(field), MESSAGE);
        }
    }
}

pub(crate) fn event(event: &Value, causes: &mut Causes) {
    let involved = text(&event["involvedObject"]["namespace"]);
    let namespace = text(&event["metadata"]["namespace"]);
    // Events of objects without a namespace live in default.
    let expected = if involved.is_empty() { "default" } else { involved };
    if namespace != expected && !(involved.is_empty() && namespace == "kube-system") {
        let at = Path::Root.field("involvedObject");
        causes.invalid(&at.field("namespace"), involved, "does not match event.namespace");
    }
}

fn decoded_size(value: &Value) -> usize {
    base64::engine::general_purpose::STANDARD.decode(text(value)).map_or(0, |bytes| bytes.len())
}
