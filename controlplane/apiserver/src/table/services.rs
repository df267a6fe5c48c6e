//! The service columns.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::Value;

use super::{items, join, or, text};

pub(super) fn cluster_ip(service: &Value, _: Timestamp) -> Value {
    let first = items(&service["spec"]["clusterIPs"]).first().map(text).unwrap_or_default();
    or(or(first, text(&service["spec"]["clusterIP"])), "<none>").into()
}

pub(super) fn external_ip(service: &Value, _: Timestamp) -> Value {
    let spec = &service["spec"];
    let external = items(&spec["externalIPs"]).iter().map(text);
    match text(&spec["type"]) {
        "ExternalName" => text(&spec["externalName"]).into(),
        "LoadBalancer" => {
            let ingress: BTreeSet<&str> = items(&service["status"]["loadBalancer"]["ingress"])
                .iter()
                .map(|i| or(text(&i["ip"]), text(&i["hostname"])))
                .filter(|address| !address.is_empty())
                .collect();
            or(&join(ingress.into_iter().chain(external)), "<pending>").into()
        }
        _ => or(&join(external), "<none>").into(),
    }
}

pub(super) fn ports(service: &Value, _: Timestamp) -> Value {
    let ports: Vec<String> = items(&service["spec"]["ports"])
        .iter()
        .map(|p| {
            let (port, protocol) = (p["port"].as_i64().unwrap_or(0), or(text(&p["protocol"]), "TCP"));
            match p["nodePort"].as_i64().unwrap_or(0) {
                0 => format!("{port}/{protocol}"),
                node => format!("{port}:{node}/{protocol}"),
            }
        })
        .collect();
    or(&ports.join(","), "<none>").into()
}
