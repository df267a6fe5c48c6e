//! Tables, row by row as kubectl prints them.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::*;
use crate::kinds::by_kind;

const NOW: &str = "2026-01-01T12:00:00Z";

fn line(kind: &Kind, object: &Value, wide: bool) -> String {
    let table = table_at(kind, std::slice::from_ref(object), Include::Metadata, NOW.parse().unwrap());
    let definitions = table["columnDefinitions"].as_array().unwrap();
    let cells = table["rows"][0]["cells"].as_array().unwrap();
    assert_eq!(cells.len(), definitions.len());
    let shown = cells.iter().zip(definitions).filter(|(_, d)| wide || d["priority"] == 0);
    let words = shown.map(|(cell, _)| cell.as_str().map_or_else(|| cell.to_string(), str::to_owned));
    words.collect::<Vec<_>>().join(" | ")
}

/// Cells of one object that was made two minutes ago, joined by bars.
#[track_caller]
fn check(group: &str, kind: &str, wide: bool, mut object: Value, expected: &str) {
    object["metadata"]["creationTimestamp"] = "2026-01-01T11:58:00Z".into();
    if object["metadata"]["name"].is_null() {
        object["metadata"]["name"] = "a".into();
    }
    assert_eq!(line(by_kind(group, "v1", kind).unwrap(), &object, wide), expected);
}

#[test]
fn the_table_has_its_envelope() {
    let kind = by_kind("", "v1", "ConfigMap").unwrap();
    let object = json!({ "metadata": { "name": "a" }, "data": { "k": "v" } });
    let now: Timestamp = NOW.parse().unwrap();
    let table = table_at(kind, std::slice::from_ref(&object), Include::Metadata, now);
    assert_eq!((&table["kind"], &table["apiVersion"]), (&json!("Table"), &json!("meta.k8s.io/v1")));
    assert_eq!(table["columnDefinitions"][0]["format"], "name");
    let partial = json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": { "name": "a" } });
    assert_eq!(table["rows"][0]["object"], partial);
    assert_eq!(row(kind, &object, "Object".parse().unwrap(), now)["object"], object);
    assert_eq!(row(kind, &object, "None".parse().unwrap(), now)["object"], Value::Null);
    assert!("All".parse::<Include>().is_err());
}

#[test]
fn pods() {
    let pod = |status: Value| {
        json!({ "spec": { "nodeName": "n1", "containers": [{ "name": "a" }, { "name": "b" }], "initContainers": [{ "name": "i" }] },
            "status": status })
    };
    let check = |status: Value, expected: &str| check("", "Pod", false, pod(status), &format!("a | {expected} | 2m"));
    let running = |name: &str| json!({ "name": name, "ready": true, "restartCount": 0, "state": { "running": {} } });
    let waiting = |reason: &str| {
        json!({ "name": "a", "ready": false, "restartCount": 3, "state": { "waiting": { "reason": reason } },
            "lastState": { "terminated": { "finishedAt": "2026-01-01T11:59:30Z" } } })
    };
    let ended = |reason: &str, code: i64| json!({ "name": "a", "restartCount": 0, "state": { "terminated": { "reason": reason, "exitCode": code } } });

    check(json!({ "phase": "Pending" }), "0/2 | Pending | 0");
    check(json!({ "phase": "Running", "containerStatuses": [running("a"), running("b")] }), "2/2 | Running | 0");
    check(
        json!({ "phase": "Running", "containerStatuses": [waiting("CrashLoopBackOff"), running("b")] }),
        "1/2 | CrashLoopBackOff | 3 (30s ago)",
    );
    check(
        json!({ "phase": "Pending", "containerStatuses": [waiting("ImagePullBackOff")] }),
        "0/2 | ImagePullBackOff | 3 (30s ago)",
    );
    check(json!({ "phase": "Succeeded", "containerStatuses": [ended("Completed", 0)] }), "0/2 | Completed | 0");
    check(json!({ "phase": "Failed", "containerStatuses": [ended("", 7)] }), "0/2 | ExitCode:7 | 0");
    check(json!({ "phase": "Failed", "reason": "Evicted" }), "0/2 | Evicted | 0");
    check(
        json!({ "phase": "Running", "containerStatuses": [ended("Completed", 0), running("b")],
            "conditions": [{ "type": "Ready", "status": "True" }] }),
        "1/2 | Running | 0",
    );
    check(json!({ "phase": "Running", "containerStatuses": [ended("Completed", 0), running("b")] }), "1/2 | NotReady | 0");
    let init = |state: Value| json!({ "phase": "Pending", "initContainerStatuses": [{ "name": "i", "restartCount": 1, "state": state }] });
    check(init(json!({ "waiting": { "reason": "PodInitializing" } })), "0/2 | Init:0/1 | 1");
    check(init(json!({ "running": {} })), "0/2 | Init:0/1 | 1");
    check(init(json!({ "waiting": { "reason": "CrashLoopBackOff" } })), "0/2 | Init:CrashLoopBackOff | 1");
    check(init(json!({ "terminated": { "exitCode": 2, "reason": "Error" } })), "0/2 | Init:Error | 1");
    check(init(json!({ "terminated": { "exitCode": 2, "signal": 9 } })), "0/2 | Init:Signal:9 | 1");
    check(
        json!({ "phase": "Pending", "conditions": [{ "type": "PodScheduled", "reason": "SchedulingGated", "status": "False" }] }),
        "0/2 | SchedulingGated | 0",
    );
}

#[test]
fn pods_that_end_have_sidecars_or_are_wide() {
    let mut pod = json!({ "spec": { "containers": [{ "name": "a" }] }, "status": { "phase": "Running" },
        "metadata": { "deletionTimestamp": NOW } });
    check("", "Pod", false, pod.clone(), "a | 0/1 | Terminating | 0 | 2m");
    pod["status"]["reason"] = "NodeLost".into();
    check("", "Pod", false, pod.clone(), "a | 0/1 | Unknown | 0 | 2m");
    pod["status"] = json!({ "phase": "Succeeded" });
    check("", "Pod", false, pod, "a | 0/1 | Succeeded | 0 | 2m");

    let sidecar = json!({
        "spec": { "containers": [{ "name": "a" }], "initContainers": [{ "name": "s", "restartPolicy": "Always" }] },
        "status": {
            "phase": "Running",
            "initContainerStatuses": [{ "name": "s", "started": true, "ready": true, "restartCount": 2, "state": { "running": {} } }],
            "containerStatuses": [{ "name": "a", "ready": true, "restartCount": 1, "state": { "running": {} } }],
        },
    });
    check("", "Pod", false, sidecar, "a | 2/2 | Running | 3 | 2m");

    let wide = json!({
        "spec": { "containers": [{ "name": "a" }], "nodeName": "n1", "readinessGates": [{ "conditionType": "x" }, { "conditionType": "y" }] },
        "status": { "phase": "Running", "podIP": "10.244.0.5", "conditions": [{ "type": "x", "status": "True" }] },
    });
    check("", "Pod", true, wide, "a | 0/1 | Running | 0 | 2m | 10.244.0.5 | n1 | <none> | 1/2");
    let none = json!({ "spec": { "containers": [] }, "status": {} });
    check("", "Pod", true, none, "a | 0/0 |  | 0 | 2m | <none> | <none> | <none> | <none>");
}

#[test]
fn services() {
    let check = |spec: Value, status: Value, expected: &str| {
        check("", "Service", true, json!({ "spec": spec, "status": status }), &format!("a | {expected}"));
    };
    check(
        json!({ "type": "ClusterIP", "clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10"], "selector": { "k8s-app": "dns", "a": "b" },
            "ports": [{ "port": 53, "protocol": "UDP" }, { "port": 53, "protocol": "TCP" }] }),
        json!({}),
        "ClusterIP | 10.96.0.10 | <none> | 53/UDP,53/TCP | 2m | a=b,k8s-app=dns",
    );
    check(
        json!({ "type": "NodePort", "clusterIP": "10.96.0.11", "ports": [{ "port": 80, "nodePort": 30080, "protocol": "TCP" }],
            "externalIPs": ["192.0.2.1", "192.0.2.2"] }),
        json!({}),
        "NodePort | 10.96.0.11 | 192.0.2.1,192.0.2.2 | 80:30080/TCP | 2m | <none>",
    );
    let balancer = json!({ "type": "LoadBalancer", "clusterIP": "10.96.0.12", "ports": [{ "port": 80, "protocol": "TCP" }] });
    check(balancer.clone(), json!({}), "LoadBalancer | 10.96.0.12 | <pending> | 80/TCP | 2m | <none>");
    let ingress = json!({ "loadBalancer": { "ingress": [{ "ip": "192.0.2.9" }, { "hostname": "lb.example" }] } });
    check(balancer, ingress, "LoadBalancer | 10.96.0.12 | 192.0.2.9,lb.example | 80/TCP | 2m | <none>");
    check(json!({ "type": "ClusterIP", "clusterIP": "None" }), json!({}), "ClusterIP | None | <none> | <none> | 2m | <none>");
    check(
        json!({ "type": "ExternalName", "externalName": "a.example" }),
        json!({}),
        "ExternalName | <none> | a.example | <none> | 2m | <none>",
    );
}

#[test]
fn endpoints_and_slices() {
    let subset = |ips: &[&str], ports: Value| json!({ "addresses": ips.iter().map(|ip| json!({ "ip": ip })).collect::<Value>(), "ports": ports });
    let check_endpoints = |subsets: Value, expected: &str| {
        check("", "Endpoints", false, json!({ "subsets": subsets }), &format!("a | {expected} | 2m"));
    };
    check_endpoints(json!([]), "<none>");
    check_endpoints(json!([subset(&["10.0.0.1", "fd00::1"], json!([{ "port": 80 }]))]), "10.0.0.1:80,[fd00::1]:80");
    check_endpoints(
        json!([subset(&["10.0.0.1", "10.0.0.2"], json!([{ "port": 1 }, { "port": 2 }]))]),
        "10.0.0.1:1,10.0.0.2:1,10.0.0.1:2 + 1 more...",
    );
    check_endpoints(json!([subset(&["10.0.0.1"], json!([]))]), "10.0.0.1");

    let check_slice = |endpoints: Value, ports: Value, expected: &str| {
        let slice = json!({ "addressType": "IPv4", "endpoints": endpoints, "ports": ports });
        check("discovery.k8s.io", "EndpointSlice", false, slice, &format!("a | IPv4 | {expected} | 2m"));
    };
    check_slice(json!([]), json!([]), "<unset> | <unset>");
    let four: Value = (1..=4).map(|i| json!({ "addresses": [format!("10.0.0.{i}")] })).collect();
    check_slice(four, json!([{ "port": 80 }, { "name": "any" }]), "80,* | 10.0.0.1,10.0.0.2,10.0.0.3 + 1 more...");
}

#[test]
fn workloads() {
    let template =
        json!({ "spec": { "containers": [{ "name": "web", "image": "nginx:1" }, { "name": "log", "image": "fluent" }] } });
    let spec = json!({ "replicas": 3, "selector": { "matchLabels": { "app": "web" } }, "template": template });
    let status = json!({ "replicas": 3, "readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 1 });
    let object = json!({ "spec": spec, "status": status });
    check("apps", "Deployment", false, object.clone(), "a | 2/3 | 3 | 1 | 2m");
    check("apps", "Deployment", true, object.clone(), "a | 2/3 | 3 | 1 | 2m | web,log | nginx:1,fluent | app=web");
    check("apps", "ReplicaSet", true, object, "a | 3 | 3 | 2 | 2m | web,log | nginx:1,fluent | app=web");
    check("apps", "Deployment", false, json!({ "spec": { "replicas": 0 } }), "a | 0/0 | 0 | 0 | 2m");
}

#[test]
fn nodes() {
    let check = |mut node: Value, labels: Value, expected: &str| {
        node["metadata"]["labels"] = labels;
        node["status"]["nodeInfo"] = json!({ "kubeletVersion": "v1.36.0" });
        check("", "Node", false, node, &format!("a | {expected} | 2m | v1.36.0"));
    };
    let ready = |status: &str| json!({ "status": { "conditions": [{ "type": "Ready", "status": status }] } });
    check(ready("True"), json!({}), "Ready | <none>");
    check(
        ready("Unknown"),
        json!({ "node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "edge" }),
        "NotReady | control-plane,edge",
    );
    check(json!({ "spec": { "unschedulable": true } }), json!({}), "Unknown,SchedulingDisabled | <none>");
}

#[test]
fn nodes_are_wide() {
    let node = json!({ "status": {
        "addresses": [{ "type": "InternalIP", "address": "172.30.0.11" }],
        "nodeInfo": { "osImage": "Debian 12", "kernelVersion": "6.18.0", "kubeletVersion": "v1", "containerRuntimeVersion": "process://1" },
    } });
    check("", "Node", true, node, "a | Unknown | <none> | 2m | v1 | 172.30.0.11 | <none> | Debian 12 | 6.18.0 | process://1");
}

#[test]
fn events() {
    let event = json!({
        "type": "Normal", "reason": "Started", "message": " Started container\n", "count": 4,
        "involvedObject": { "kind": "Pod", "name": "web-1", "fieldPath": "spec.containers{web}" },
        "source": { "component": "kubelet", "host": "n1" },
        "firstTimestamp": "2026-01-01T11:50:00Z", "lastTimestamp": "2026-01-01T11:59:00Z",
    });
    check("", "Event", false, event.clone(), "60s | Normal | Started | pod/web-1 | Started container");
    check(
        "",
        "Event",
        true,
        event,
        "60s | Normal | Started | pod/web-1 | spec.containers{web} | kubelet, n1 | Started container | 10m | 4 | a",
    );
    let series = json!({
        "type": "Warning", "reason": "Failed", "involvedObject": { "kind": "Node", "name": "n1" }, "reportingComponent": "x",
        "eventTime": "2026-01-01T11:00:00.000000Z", "series": { "count": 9, "lastObservedTime": "2026-01-01T11:59:59.000000Z" },
    });
    check("", "Event", true, series, "1s | Warning | Failed | node/n1 |  | x |  | 60m | 9 | a");
    check("", "Event", false, json!({}), "<unknown> |  |  |  | ");
}

#[test]
fn the_other_kinds() {
    check("", "ConfigMap", false, json!({ "data": { "a": "", "b": "" }, "binaryData": { "c": "" } }), "a | 3 | 2m");
    check("", "Secret", false, json!({ "type": "Opaque", "data": { "a": "" } }), "a | Opaque | 1 | 2m");
    check("", "ServiceAccount", false, json!({}), "a | 0 | 2m");
    check("", "Namespace", false, json!({ "status": { "phase": "Active" } }), "a | Active | 2m");
    check("coordination.k8s.io", "Lease", false, json!({ "spec": { "holderIdentity": "n1" } }), "a | n1 | 2m");
}
