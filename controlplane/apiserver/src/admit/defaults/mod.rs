//! Defaults of each kind. They are part of the API: a missing one shows as an endless difference in `kubectl apply`,
//! or as a new pod-template-hash for an unchanged template.

use base64::Engine;
use serde_json::{Map, Value, json};

pub(crate) mod pod;

type Object = Map<String, Value>;

/// Access to fields that may not be there.
pub(crate) trait Fields {
    /// Sets a field that is absent, null or an empty string.
    fn default_to(&mut self, key: &str, value: impl Into<Value>);
    /// The object in a field, made when it is absent.
    fn object(&mut self, key: &str) -> Option<&mut Object>;
    /// The object in a field, if it is there.
    fn object_if(&mut self, key: &str) -> Option<&mut Object>;
    /// The objects of the list in a field.
    fn each(&mut self, key: &str) -> impl Iterator<Item = &mut Object>;
    fn text(&self, key: &str) -> &str;
}

impl Fields for Object {
    fn default_to(&mut self, key: &str, value: impl Into<Value>) {
        let unset = match self.get(key) {
            None | Some(Value::Null) => true,
            Some(Value::String(s)) => s.is_empty(),
            Some(_) => false,
        };
        if unset {
            self.insert(key.to_owned(), value.into());
        }
    }

    fn object(&mut self, key: &str) -> Option<&mut Object> {
        if !self.contains_key(key) || self[key].is_null() {
            self.insert(key.to_owned(), Value::Object(Map::new()));
        }
        self.object_if(key)
    }

    fn object_if(&mut self, key: &str) -> Option<&mut Object> {
        self.get_mut(key)?.as_object_mut()
    }

    fn each(&mut self, key: &str) -> impl Iterator<Item = &mut Object> {
        self.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
    }

    fn text(&self, key: &str) -> &str {
        self.get(key).and_then(Value::as_str).unwrap_or_default()
    }
}

pub(crate) fn namespace(namespace: &mut Object) {
    let deleting = namespace.get("metadata").is_some_and(|m| m["deletionTimestamp"].is_string());
    let name = namespace.get("metadata").and_then(|m| m["name"].as_str()).unwrap_or_default().to_owned();
    if !name.is_empty()
        && let Some(labels) = namespace.object("metadata").and_then(|m| m.object("labels"))
    {
        labels.insert("kubernetes.io/metadata.name".into(), name.into());
    }
    if let Some(spec) = namespace.object("spec")
        && !deleting
    {
        spec.default_to("finalizers", json!(["kubernetes"]));
    }
    if let Some(status) = namespace.object("status") {
        status.default_to("phase", if deleting { "Terminating" } else { "Active" });
    }
}

pub(crate) fn node(node: &mut Object) {
    node.object("spec");
    if let Some(status) = node.object("status")
        && let Some(capacity) = status.get("capacity").cloned()
    {
        status.default_to("allocatable", capacity);
    }
}

pub(crate) fn secret(secret: &mut Object) {
    secret.default_to("type", "Opaque");
    // stringData is for writing only.
    if let Some(Value::Object(strings)) = secret.remove("stringData")
        && !strings.is_empty()
        && let Some(data) = secret.object("data")
    {
        for (key, value) in strings {
            let encoded = base64::engine::general_purpose::STANDARD.encode(value.as_str().unwrap_or_default());
            data.insert(key, encoded.into());
        }
    }
}

/// Except addresses and their families: those are allocated.
pub(crate) fn service(service: &mut Object) {
    if let Some(status) = service.object("status") {
        status.object("loadBalancer");
    }
    let Some(spec) = service.object("spec") else { return };
    spec.default_to("type", "ClusterIP");
    spec.default_to("sessionAffinity", "None");
    match spec.text("sessionAffinity") {
        "None" => {
            spec.remove("sessionAffinityConfig");
        }
        "ClientIP" => {
            let client = spec.object("sessionAffinityConfig").and_then(|c| c.object("clientIP"));
            if let Some(client) = client {
                client.default_to("timeoutSeconds", 10_800);
            }
        }
        _ => {}
    }
    for port in spec.each("ports") {
        port.default_to("protocol", "TCP");
        let unset =
            matches!(port.get("targetPort"), None | Some(Value::Null)) || port["targetPort"] == 0 || port["targetPort"] == "";
        if let (true, Some(number)) = (unset, port.get("port").cloned()) {
            port.insert("targetPort".into(), number);
        }
        if port.get("nodePort").is_some_and(|n| *n == 0) {
            port.remove("nodePort");
        }
    }
    let kind = spec.text("type").to_owned();
    let external_ips = spec.get("externalIPs").and_then(Value::as_array).is_some_and(|ips| !ips.is_empty());
    if kind != "ExternalName" {
        spec.default_to("internalTrafficPolicy", "Cluster");
    }
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") || (kind == "ClusterIP" && external_ips) {
        spec.default_to("externalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        spec.default_to("allocateLoadBalancerNodePorts", true);
    }
}

pub(crate) fn endpoints(endpoints: &mut Object) {
    for subset in endpoints.each("subsets") {
        for port in subset.each("ports") {
            port.default_to("protocol", "TCP");
        }
    }
}

pub(crate) fn endpoint_slice(slice: &mut Object) {
    slice.default_to("endpoints", json!([]));
    slice.default_to("ports", json!([]));
    for endpoint in slice.each("endpoints") {
        endpoint.object("conditions");
    }
    for port in slice.each("ports") {
        port.default_to("name", "");
        port.default_to("protocol", "TCP");
    }
}

pub(crate) fn deployment(deployment: &mut Object) {
    deployment.object("status");
    let Some(spec) = deployment.object("spec") else { return };
    spec.default_to("replicas", 1);
    spec.default_to("revisionHistoryLimit", 10);
    spec.default_to("progressDeadlineSeconds", 600);
    if let Some(strategy) = spec.object("strategy") {
        strategy.default_to("type", "RollingUpdate");
        if strategy.text("type") == "RollingUpdate"
            && let Some(rolling) = strategy.object("rollingUpdate")
        {
            rolling.default_to("maxUnavailable", "25%");
            rolling.default_to("maxSurge", "25%");
        }
    }
    template(spec);
}

pub(crate) fn replica_set(replica_set: &mut Object) {
    if let Some(status) = replica_set.object("status") {
        status.default_to("replicas", 0);
    }
    let Some(spec) = replica_set.object("spec") else { return };
    spec.default_to("replicas", 1);
    template(spec);
}

/// The pod template of a workload's spec.
fn template(spec: &mut Object) {
    let template = spec.object("template");
    if let Some(template) = template {
        template.object("metadata");
        if let Some(spec) = template.object("spec") {
            pod::pod_spec(spec);
        }
    }
}
