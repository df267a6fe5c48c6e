//! Defaults of pods and pod templates.

use serde_json::{Map, Value, json};

use super::{Fields, Object};
use crate::schema::quantity::Quantity;

/// Requests and limits count for the quality of service by these resources alone.
const COMPUTE: [&str; 2] = ["cpu", "memory"];
/// How long a pod stays on a node that is not ready or not reachable.
const TOLERATION_SECONDS: i64 = 300;

pub(crate) fn pod(pod: &mut Object) {
    let Some(spec) = pod.object("spec") else { return };
    pod_spec(spec);
    spec.default_to("enableServiceLinks", true);
    let host_network = spec.get("hostNetwork").is_some_and(|h| *h == true);
    for containers in ["containers", "initContainers"] {
        for container in spec.each(containers) {
            if let Some(resources) = container.object_if("resources") {
                requests_from_limits(resources);
            }
            if host_network {
                for port in container.each("ports") {
                    if let Some(number) = port.get("containerPort").cloned() {
                        port.default_to("hostPort", number);
                    }
                }
            }
        }
    }
    // What the admission plugins ServiceAccount, Priority and DefaultTolerationSeconds add.
    spec.default_to("serviceAccountName", "default");
    let account = spec["serviceAccountName"].clone();
    spec.insert("serviceAccount".into(), account);
    spec.default_to("priority", 0);
    spec.default_to("preemptionPolicy", "PreemptLowerPriority");
    tolerate(spec, "node.kubernetes.io/not-ready");
    tolerate(spec, "node.kubernetes.io/unreachable");

    let class = quality_of_service(spec);
    if let Some(status) = pod.object("status") {
        status.default_to("phase", "Pending");
        status.default_to("qosClass", class);
    }
}

/// What pods and templates share.
pub(crate) fn pod_spec(spec: &mut Object) {
    spec.default_to("restartPolicy", "Always");
    spec.default_to("dnsPolicy", "ClusterFirst");
    spec.default_to("terminationGracePeriodSeconds", 30);
    spec.default_to("schedulerName", "default-scheduler");
    spec.object("securityContext");
    // serviceAccount is the older name of serviceAccountName; both are shown.
    let named = if spec.text("serviceAccountName").is_empty() { "serviceAccount" } else { "serviceAccountName" };
    let account = spec.text(named).to_owned();
    if !account.is_empty() {
        spec.insert("serviceAccountName".into(), account.clone().into());
        spec.insert("serviceAccount".into(), account.into());
    }
    for containers in ["containers", "initContainers", "ephemeralContainers"] {
        for c in spec.each(containers) {
            container(c);
        }
    }
    for v in spec.each("volumes") {
        volume(v);
    }
}

fn container(container: &mut Object) {
    container.default_to("terminationMessagePath", "/dev/termination-log");
    container.default_to("terminationMessagePolicy", "File");
    let policy = if is_latest(container.text("image")) { "Always" } else { "IfNotPresent" };
    container.default_to("imagePullPolicy", policy);
    container.object("resources");
    for port in container.each("ports") {
        port.default_to("protocol", "TCP");
    }
    for variable in container.each("env") {
        if let Some(from) = variable.object_if("valueFrom").and_then(|v| v.object_if("fieldRef")) {
            from.default_to("apiVersion", "v1");
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.object_if(name) {
            // Zero is the unset value of these.
            for (field, value) in
                [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
            {
                if probe.get(field).is_none_or(|v| v.is_null() || *v == 0) {
                    probe.insert(field.into(), value.into());
                }
            }
            handler(probe);
            if let Some(grpc) = probe.object_if("grpc") {
                grpc.default_to("service", "");
            }
        }
    }
    if let Some(lifecycle) = container.object_if("lifecycle") {
        for hook in ["postStart", "preStop"] {
            if let Some(hook) = lifecycle.object_if(hook) {
                handler(hook);
            }
        }
    }
}

fn handler(handler: &mut Object) {
    if let Some(get) = handler.object_if("httpGet") {
        get.default_to("path", "/");
        get.default_to("scheme", "HTTP");
    }
}

fn volume(volume: &mut Object) {
    if volume.keys().all(|key| key == "name") {
        volume.insert("emptyDir".into(), Value::Object(Map::new()));
    }
    for source in ["configMap", "secret", "projected", "downwardAPI"] {
        if let Some(source) = volume.object_if(source) {
            source.default_to("defaultMode", 0o644);
        }
    }
    if let Some(host) = volume.object_if("hostPath") {
        host.default_to("type", "");
    }
    if let Some(downward) = volume.object_if("downwardAPI") {
        downward_items(downward);
    }
    if let Some(projected) = volume.object_if("projected") {
        for source in projected.each("sources") {
            if let Some(token) = source.object_if("serviceAccountToken") {
                token.default_to("expirationSeconds", 3600);
            }
            if let Some(downward) = source.object_if("downwardAPI") {
                downward_items(downward);
            }
        }
    }
    let claim = volume.object_if("ephemeral").and_then(|e| e.object_if("volumeClaimTemplate"));
    if let Some(spec) = claim.and_then(|c| c.object_if("spec")) {
        spec.default_to("volumeMode", "Filesystem");
    }
}

fn downward_items(source: &mut Object) {
    for item in source.each("items") {
        if let Some(field) = item.object_if("fieldRef") {
            field.default_to("apiVersion", "v1");
        }
    }
}

/// An image is pulled always when its tag is `latest` or it has neither tag nor digest.
fn is_latest(image: &str) -> bool {
    let (name, digest) = image.split_once('@').map_or((image, None), |(name, digest)| (name, Some(digest)));
    // A colon before the last slash belongs to a registry's port.
    let tag = name.rsplit('/').next().and_then(|last| last.split_once(':')).map(|(_, tag)| tag);
    match tag {
        Some(tag) => tag == "latest",
        None => digest.is_none(),
    }
}

fn requests_from_limits(resources: &mut Object) {
    if let Some(Value::Object(limits)) = resources.get("limits").cloned()
        && !limits.is_empty()
        && let Some(requests) = resources.object("requests")
    {
        for (resource, limit) in limits {
            requests.default_to(&resource, limit);
        }
    }
}

fn tolerate(spec: &mut Object, taint: &str) {
    let tolerates = |t: &Value| {
        let effect = t["effect"].as_str().unwrap_or_default();
        let key = t["key"].as_str().unwrap_or_default();
        (key == taint || (key.is_empty() && t["operator"] == "Exists")) && (effect == "NoExecute" || effect.is_empty())
    };
    spec.default_to("tolerations", json!([]));
    if let Some(Value::Array(tolerations)) = spec.get_mut("tolerations")
        && !tolerations.iter().any(tolerates)
    {
        tolerations.push(json!({
            "key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": TOLERATION_SECONDS,
        }));
    }
}

/// Guaranteed when every container limits CPU and memory and requests as much; BestEffort when none asks for anything.
fn quality_of_service(spec: &Object) -> &'static str {
    let containers = ["containers", "initContainers"];
    let resources = containers.iter().filter_map(|c| spec.get(*c)?.as_array()).flatten().map(|c| &c["resources"]);
    let amount = |list: &Value, resource: &str| list[resource].as_str()?.parse::<Quantity>().ok().filter(|q| q.ceil() != 0);
    let (mut guaranteed, mut anything) = (true, false);
    for resources in resources {
        for resource in COMPUTE {
            let (limit, request) = (amount(&resources["limits"], resource), amount(&resources["requests"], resource));
            anything |= limit.is_some() || request.is_some();
            guaranteed &= limit.is_some() && request == limit;
        }
    }
    match (anything, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}
