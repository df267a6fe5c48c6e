//! Defaults and validation, kind by kind.

use serde_json::{Value, json};

use super::*;
use crate::kinds::by_kind;
use crate::patch::merge_patch;

mod pods;

pub(super) fn kind(group: &str, kind: &str) -> &'static Kind {
    by_kind(group, "v1", kind).unwrap()
}

/// The object with its defaults.
pub(super) fn defaulted(kind: &Kind, mut object: Value) -> Value {
    default(kind, &mut object);
    let once = object.clone();
    default(kind, &mut object);
    assert_eq!(object, once, "defaults are set once");
    object
}

/// Defaults a valid object with a change merged into it, and compares the complaints.
#[track_caller]
pub(super) fn check(kind: &Kind, base: &Value, change: Value, expected: &[&str]) {
    let object = defaulted(kind, merge_patch(base, &change));
    let causes: Vec<String> = validate_create(kind, &object).iter().map(ToString::to_string).collect();
    compare(&causes, expected, &change);
}

/// The same for an update from the valid object.
#[track_caller]
pub(super) fn check_update(kind: &Kind, base: &Value, change: Value, expected: &[&str]) {
    let old = defaulted(kind, base.clone());
    let new = defaulted(kind, merge_patch(&old, &change));
    let causes: Vec<String> = validate_update(kind, &new, &old).iter().map(ToString::to_string).collect();
    compare(&causes, expected, &change);
}

/// Long sentences are compared by their beginning.
#[track_caller]
fn compare(found: &[String], expected: &[&str], change: &Value) {
    let same = found.len() == expected.len() && found.iter().zip(expected).all(|(found, expected)| found.starts_with(expected));
    assert!(same, "{change}\nfound    {found:#?}\nexpected {expected:#?}");
}

fn meta(namespace: bool) -> Value {
    if namespace { json!({ "name": "web", "namespace": "default" }) } else { json!({ "name": "web" }) }
}

#[test]
fn metadata() {
    let (map, node) = (kind("", "ConfigMap"), kind("", "Node"));
    let base = json!({ "metadata": meta(true) });
    let change = |metadata: Value| json!({ "metadata": metadata });
    check(map, &base, json!({}), &[]);
    check(map, &base, change(json!({ "name": null })), &["metadata.name: Required value: name or generateName is required"]);
    check(
        map,
        &base,
        change(json!({ "name": "A_b" })),
        &["metadata.name: Invalid value: \"A_b\": a lowercase RFC 1123 subdomain must"],
    );
    check(map, &base, change(json!({ "namespace": null })), &["metadata.namespace: Required value"]);
    check(node, &base, json!({}), &["metadata.namespace: Forbidden: not allowed on this type"]);
    check(
        kind("", "Namespace"),
        &json!({ "metadata": { "name": "a.b" } }),
        json!({}),
        &["metadata.name: Invalid value: \"a.b\": a lowercase RFC 1123 label"],
    );
    check(
        map,
        &base,
        change(json!({ "labels": { "a b": "c", "d": "e f" } })),
        &[
            "metadata.labels: Invalid value: \"a b\": name part must consist of",
            "metadata.labels: Invalid value: \"e f\": a valid label must be",
        ],
    );
    check(
        map,
        &base,
        change(json!({ "annotations": { "A/b": "x", "-": "y" } })),
        &["metadata.annotations: Invalid value: \"-\": name part"],
    );
    let long = "x".repeat(256 * 1024);
    check(
        map,
        &base,
        change(json!({ "annotations": { "a": long } })),
        &["metadata.annotations: Too long: may not be more than 262144 bytes"],
    );
    let owner = |name: &str| json!({ "apiVersion": "v1", "kind": "Pod", "name": name, "uid": "1", "controller": true });
    check(
        map,
        &base,
        change(json!({ "ownerReferences": [owner("a"), owner("b"), {}] })),
        &[
            "metadata.ownerReferences[1].controller: Invalid value: true: Only one reference can have Controller set to true. Found \"true\" in references for a and b",
            "metadata.ownerReferences[2].apiVersion: Invalid value: \"\": version must not be empty",
            "metadata.ownerReferences[2].kind",
            "metadata.ownerReferences[2].name",
            "metadata.ownerReferences[2].uid",
        ],
    );
    check_update(
        map,
        &base,
        change(json!({ "name": "other" })),
        &["metadata.name: Invalid value: \"other\": field is immutable"],
    );
}

#[test]
fn messages_summarise() {
    let causes = validate_create(kind("apps", "Deployment"), &json!({ "metadata": meta(true), "spec": {} }));
    assert!(causes.iter().any(|c| c.field == "spec.selector" && c.reason.as_str() == "FieldValueRequired"));
    let one = [Cause::invalid(
        &Path::Root.field("spec").field("ports").index(0).field("port"),
        80000,
        "must be between 1 and 65535, inclusive",
    )];
    assert_eq!(
        invalid_message(kind("", "Service"), "web", &one),
        "Service \"web\" is invalid: spec.ports[0].port: Invalid value: 80000: must be between 1 and 65535, inclusive"
    );
    let two = [one[0].clone(), one[0].clone()];
    assert!(
        invalid_message(kind("apps", "Deployment"), "web", &two)
            .starts_with("Deployment.apps \"web\" is invalid: [spec.ports[0]")
    );
}

#[test]
fn services() {
    let service = kind("", "Service");
    let base = json!({ "metadata": meta(true), "spec": { "ports": [{ "port": 80 }], "selector": { "app": "web" } } });
    assert_eq!(
        defaulted(service, base.clone())["spec"],
        json!({
            "type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster", "selector": { "app": "web" },
            "ports": [{ "port": 80, "protocol": "TCP", "targetPort": 80 }],
        })
    );
    let balancer =
        defaulted(service, merge_patch(&base, &json!({ "spec": { "type": "LoadBalancer", "sessionAffinity": "ClientIP" } })));
    assert_eq!(balancer["spec"]["externalTrafficPolicy"], "Cluster");
    assert_eq!(balancer["spec"]["allocateLoadBalancerNodePorts"], true);
    assert_eq!(balancer["spec"]["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"], 10800);
    assert_eq!(balancer["status"], json!({ "loadBalancer": {} }));

    let check = |change: Value, expected: &[&str]| check(service, &base, json!({ "spec": change }), expected);
    check(json!({}), &[]);
    check(json!({ "ports": null }), &["spec.ports: Required value"]);
    check(json!({ "ports": null, "clusterIP": "None" }), &[]);
    check(
        json!({ "ports": [{ "port": 80000 }] }),
        &["spec.ports[0].port: Invalid value: 80000: must be between 1 and 65535, inclusive", "spec.ports[0].targetPort"],
    );
    check(
        json!({ "ports": [{ "port": 80, "protocol": "XTP" }] }),
        &["spec.ports[0].protocol: Unsupported value: \"XTP\": supported values: \"SCTP\", \"TCP\", \"UDP\""],
    );
    check(
        json!({ "ports": [{ "port": 80 }, { "port": 80 }] }),
        &[
            "spec.ports[0].name: Required value",
            "spec.ports[1].name: Required value",
            "spec.ports[1]: Duplicate value: {\"port\":80,\"protocol\":\"TCP\"}",
        ],
    );
    check(json!({ "ports": [{ "port": 53, "protocol": "UDP", "name": "dns" }, { "port": 53, "name": "dns-tcp" }] }), &[]);
    check(
        json!({ "ports": [{ "port": 80, "nodePort": 30080 }] }),
        &["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"],
    );
    check(
        json!({ "ports": [{ "port": 80, "targetPort": "Web" }] }),
        &["spec.ports[0].targetPort: Invalid value: \"Web\": must contain only alpha-numeric"],
    );
    check(
        json!({ "type": "Magic" }),
        &[
            "spec.type: Unsupported value: \"Magic\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
        ],
    );
    check(json!({ "type": "ExternalName" }), &["spec.externalName: Required value"]);
    check(json!({ "type": "ExternalName", "externalName": "db.example." }), &[]);
    check(
        json!({ "type": "NodePort", "clusterIP": "None" }),
        &["spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services"],
    );
    check(json!({ "clusterIP": "ten" }), &["spec.clusterIP: Invalid value: \"ten\": must be a valid IP address"]);
    check(
        json!({ "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.8"] }),
        &["spec.clusterIPs: Invalid value: [\"10.96.0.8\"]: first value must match `clusterIP`"],
    );
    check(
        json!({ "externalIPs": ["127.0.0.1"] }),
        &["spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range"],
    );
    check(
        json!({ "externalTrafficPolicy": "Local" }),
        &["spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services"],
    );
    check(
        json!({ "sessionAffinity": "ClientIP", "sessionAffinityConfig": { "clientIP": { "timeoutSeconds": 86401 } } }),
        &["spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 86401: must be greater than 0"],
    );
    check(
        json!({ "loadBalancerSourceRanges": ["10.0.0.0/8"] }),
        &["spec.loadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'"],
    );
    check(
        json!({ "type": "LoadBalancer", "loadBalancerSourceRanges": ["10.0.0.0"] }),
        &["spec.loadBalancerSourceRanges[0]: Invalid value: \"10.0.0.0\": must be a valid CIDR value"],
    );
    check(json!({ "selector": { "app": "a b" } }), &["spec.selector: Invalid value: \"a b\": a valid label"]);
    super::tests::check(
        service,
        &json!({ "metadata": { "name": "1web", "namespace": "x" }, "spec": { "ports": [{ "port": 1 }] } }),
        json!({}),
        &["metadata.name: Invalid value: \"1web\": a DNS-1035 label"],
    );
}

#[test]
fn service_updates() {
    let service = kind("", "Service");
    let base = json!({
        "metadata": meta(true),
        "spec": { "clusterIP": "10.96.1.1", "clusterIPs": ["10.96.1.1"], "type": "NodePort", "ports": [{ "port": 80, "nodePort": 30080 }] },
    });
    let check = |change: Value, expected: &[&str]| check_update(service, &base, json!({ "spec": change }), expected);
    check(
        json!({ "clusterIP": "10.96.1.2", "clusterIPs": ["10.96.1.2"] }),
        &["spec.clusterIPs[0]: Invalid value: [\"10.96.1.2\"]: may not change once set"],
    );
    check(json!({ "clusterIP": null, "clusterIPs": null }), &[]);
    check(json!({ "type": "ClusterIP" }), &[]);
    check(json!({ "type": "ExternalName", "externalName": "a.example" }), &[]);
    check(
        json!({ "clusterIP": "None", "clusterIPs": ["None"], "type": "ClusterIP" }),
        &["spec.clusterIPs[0]: Invalid value: [\"None\"]: may not change once set"],
    );
}

#[test]
fn deployments() {
    let deployment = kind("apps", "Deployment");
    let base = json!({
        "metadata": meta(true),
        "spec": {
            "selector": { "matchLabels": { "app": "web" } },
            "template": { "metadata": { "labels": { "app": "web" } }, "spec": { "containers": [{ "name": "web", "image": "nginx:1.27" }] } },
        },
    });
    assert_eq!(
        defaulted(deployment, base.clone()),
        json!({
            "metadata": meta(true),
            "spec": {
                "replicas": 1, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600,
                "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxSurge": "25%", "maxUnavailable": "25%" } },
                "selector": { "matchLabels": { "app": "web" } },
                "template": {
                    "metadata": { "labels": { "app": "web" } },
                    "spec": {
                        "containers": [{
                            "name": "web", "image": "nginx:1.27", "imagePullPolicy": "IfNotPresent", "resources": {},
                            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                        }],
                        "restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "terminationGracePeriodSeconds": 30,
                        "schedulerName": "default-scheduler", "securityContext": {},
                    },
                },
            },
            "status": {},
        })
    );
    let check = |change: Value, expected: &[&str]| check(deployment, &base, json!({ "spec": change }), expected);
    check(json!({}), &[]);
    check(json!({ "replicas": 0 }), &[]);
    check(json!({ "replicas": -1 }), &["spec.replicas: Invalid value: -1: must be greater than or equal to 0"]);
    check(json!({ "selector": null }), &["spec.selector: Required value"]);
    check(
        json!({ "selector": { "matchLabels": null } }),
        &["spec.selector: Invalid value: {}: empty selector is invalid for deployment"],
    );
    check(
        json!({ "selector": { "matchLabels": { "app": "api" } } }),
        &["spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template `labels`"],
    );
    check(
        json!({ "template": { "spec": { "restartPolicy": "Never" } } }),
        &["spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\""],
    );
    check(
        json!({ "template": { "spec": { "containers": [{ "image": "x" }] } } }),
        &["spec.template.spec.containers[0].name: Required value"],
    );
    check(
        json!({ "strategy": { "type": "Recreate", "rollingUpdate": {} } }),
        &["spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"],
    );
    check(json!({ "strategy": { "type": "Recreate" } }), &[]);
    check(
        json!({ "strategy": { "type": "Slow" } }),
        &["spec.strategy.type: Unsupported value: \"Slow\": supported values: \"Recreate\", \"RollingUpdate\""],
    );
    let rolling = |unavailable: Value, surge: Value| json!({ "strategy": { "rollingUpdate": { "maxUnavailable": unavailable, "maxSurge": surge } } });
    check(
        rolling(json!(0), json!("0%")),
        &["spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0"],
    );
    check(
        rolling(json!("101%"), json!("150%")),
        &["spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"101%\": must not be greater than 100%"],
    );
    check(
        rolling(json!("few"), json!(1)),
        &["spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"few\": a valid percent string"],
    );
    check(
        json!({ "progressDeadlineSeconds": 5, "minReadySeconds": 5 }),
        &["spec.progressDeadlineSeconds: Invalid value: 5: must be greater than minReadySeconds"],
    );
    check_update(
        deployment,
        &base,
        json!({ "spec": { "selector": { "matchLabels": { "app": "api" } }, "template": { "metadata": { "labels": { "app": "api" } } } } }),
        &["spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"api\"}}: field is immutable"],
    );
    check_update(deployment, &base, json!({ "spec": { "template": { "metadata": { "labels": { "x": "y" } } } } }), &[]);
}

#[test]
fn config_maps_and_secrets() {
    let (map, secret) = (kind("", "ConfigMap"), kind("", "Secret"));
    let base = json!({ "metadata": meta(true), "immutable": true, "data": { "a": "YQ==" } });
    check(map, &base, json!({ "data": { "a b": "1" } }), &["data[a b]: Invalid value: \"a b\": a valid config key"]);
    check(
        map,
        &base,
        json!({ "binaryData": { "a": "YQ==" } }),
        &["data[a]: Invalid value: \"a\": duplicate of key present in binaryData"],
    );
    check_update(map, &base, json!({ "data": { "a": "2" } }), &["data: Forbidden: field is immutable when `immutable` is set"]);
    check_update(
        map,
        &base,
        json!({ "immutable": null }),
        &["immutable: Forbidden: field is immutable when `immutable` is set"],
    );
    check_update(map, &base, json!({ "metadata": { "labels": { "a": "b" } } }), &[]);

    let stored = defaulted(secret, json!({ "data": { "a": "eA==" }, "stringData": { "a": "new", "b": "ü" } }));
    assert_eq!(stored, json!({ "type": "Opaque", "data": { "a": "bmV3", "b": "w7w=" } }));
    check(
        secret,
        &base,
        json!({ "type": "kubernetes.io/tls" }),
        &["data[tls.crt]: Required value", "data[tls.key]: Required value"],
    );
    check_update(secret, &base, json!({ "type": "other" }), &["type: Invalid value: \"other\": field is immutable"]);
    check_update(secret, &base, json!({ "data": { "a": null } }), &["data: Forbidden: field is immutable"]);
    let big = "A".repeat(1_400_000);
    check(secret, &base, json!({ "data": { "a": big } }), &["data: Too long: may not be more than 1048576 bytes"]);
}

#[test]
fn endpoints_and_slices() {
    let slice = kind("discovery.k8s.io", "EndpointSlice");
    let base = json!({
        "metadata": meta(true), "addressType": "IPv4",
        "endpoints": [{ "addresses": ["10.0.0.1"] }], "ports": [{ "port": 80 }],
    });
    let made = defaulted(slice, base.clone());
    assert_eq!(made["ports"], json!([{ "port": 80, "name": "", "protocol": "TCP" }]));
    assert_eq!(made["endpoints"], json!([{ "addresses": ["10.0.0.1"], "conditions": {} }]));
    check(slice, &base, json!({}), &[]);
    check(slice, &base, json!({ "addressType": null }), &["addressType: Required value"]);
    check(
        slice,
        &base,
        json!({ "endpoints": [{ "addresses": [] }] }),
        &["endpoints[0].addresses: Required value: must contain at least 1 address"],
    );
    check(
        slice,
        &base,
        json!({ "endpoints": [{ "addresses": ["fd00::1"] }] }),
        &["endpoints[0].addresses[0]: Invalid value: \"fd00::1\": must be a valid IPv4 address"],
    );
    check(slice, &base, json!({ "ports": [{ "port": 80 }, { "port": 81 }] }), &["ports[1].name: Duplicate value: \"\""]);
    let many: Value = (0..1001).map(|_| json!({ "addresses": ["10.0.0.1"] })).collect();
    check(slice, &base, json!({ "endpoints": many }), &["endpoints: Too many: 1001: must have at most 1000 items"]);
    check_update(
        slice,
        &base,
        json!({ "addressType": "FQDN", "endpoints": [] }),
        &["addressType: Invalid value: \"FQDN\": field is immutable"],
    );

    let endpoints = kind("", "Endpoints");
    let base =
        json!({ "metadata": meta(true), "subsets": [{ "addresses": [{ "ip": "10.0.0.1" }], "ports": [{ "port": 80 }] }] });
    assert_eq!(defaulted(endpoints, base.clone())["subsets"][0]["ports"][0]["protocol"], "TCP");
    check(
        endpoints,
        &base,
        json!({ "subsets": [{}] }),
        &["subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`"],
    );
    check(
        endpoints,
        &base,
        json!({ "subsets": [{ "addresses": [{ "ip": "x" }] }] }),
        &["subsets[0].addresses[0].ip: Invalid value: \"x\": must be a valid IP"],
    );
}

#[test]
fn nodes_leases_bindings_events_and_namespaces() {
    let node = kind("", "Node");
    let base = json!({ "metadata": { "name": "n1" }, "spec": { "podCIDR": "10.244.0.0/24", "podCIDRs": ["10.244.0.0/24"] }, "status": { "capacity": { "cpu": "2" } } });
    assert_eq!(defaulted(node, base.clone())["status"]["allocatable"], json!({ "cpu": "2" }));
    check(
        node,
        &base,
        json!({ "spec": { "taints": [{ "key": "a", "effect": "Never" }] } }),
        &["spec.taints[0].effect: Unsupported value: \"Never\""],
    );
    check(
        node,
        &base,
        json!({ "spec": { "podCIDRs": ["10.244.0.0"] } }),
        &["spec.podCIDRs[0]: Invalid value: \"10.244.0.0\": must be a valid CIDR value"],
    );
    check_update(
        node,
        &base,
        json!({ "spec": { "podCIDRs": ["10.244.1.0/24"] } }),
        &["spec.podCIDRs: Forbidden: node updates may not change podCIDR"],
    );
    check_update(node, &base, json!({ "spec": { "unschedulable": true } }), &[]);

    let lease = json!({ "metadata": meta(true), "spec": { "leaseDurationSeconds": 0, "leaseTransitions": -1 } });
    check(
        kind("coordination.k8s.io", "Lease"),
        &lease,
        json!({}),
        &["spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0", "spec.leaseTransitions: Invalid value: -1"],
    );
    let binding = json!({ "metadata": meta(true), "target": { "kind": "Pod" } });
    check(
        kind("", "Binding"),
        &binding,
        json!({}),
        &["target.kind: Unsupported value: \"Pod\": supported values: \"Node\"", "target.name: Required value"],
    );
    check(
        kind("autoscaling", "Scale"),
        &json!({ "metadata": meta(true), "spec": { "replicas": -3 } }),
        json!({}),
        &["spec.replicas: Invalid value: -3"],
    );

    let event = json!({ "metadata": meta(true), "involvedObject": { "namespace": "other" } });
    check(
        kind("", "Event"),
        &event,
        json!({}),
        &["involvedObject.namespace: Invalid value: \"other\": does not match event.namespace"],
    );
    let namespace = defaulted(kind("", "Namespace"), json!({ "metadata": { "name": "a" } }));
    assert_eq!(namespace["metadata"]["labels"], json!({ "kubernetes.io/metadata.name": "a" }));
    assert_eq!(
        (&namespace["spec"], &namespace["status"]),
        (&json!({ "finalizers": ["kubernetes"] }), &json!({ "phase": "Active" }))
    );
}
