//! Pods: the kind with the most rules.

use serde_json::{Value, json};

use super::{check, check_update, defaulted, kind};
use crate::patch::merge_patch;

fn base() -> Value {
    json!({ "metadata": { "name": "web", "namespace": "default" }, "spec": { "containers": [{ "name": "web", "image": "nginx" }] } })
}

fn container(change: Value) -> Value {
    json!({ "spec": { "containers": [merge_patch(&json!({ "name": "web", "image": "nginx" }), &change)] } })
}

#[test]
fn defaults() {
    let pod = defaulted(kind("", "Pod"), base());
    assert_eq!(
        pod["spec"],
        json!({
            "containers": [{
                "name": "web", "image": "nginx", "imagePullPolicy": "Always", "resources": {},
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
            }],
            "restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "terminationGracePeriodSeconds": 30,
            "schedulerName": "default-scheduler", "securityContext": {}, "enableServiceLinks": true,
            "serviceAccountName": "default", "serviceAccount": "default", "priority": 0, "preemptionPolicy": "PreemptLowerPriority",
            "tolerations": [
                { "key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300 },
                { "key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300 },
            ],
        })
    );
    assert_eq!(pod["status"], json!({ "phase": "Pending", "qosClass": "BestEffort" }));
}

#[test]
fn images_without_a_tag_are_always_pulled() {
    let check = |image: &str, expected: &str| {
        let pod = defaulted(kind("", "Pod"), merge_patch(&base(), &container(json!({ "image": image }))));
        assert_eq!(pod["spec"]["containers"][0]["imagePullPolicy"], expected, "{image}");
    };
    check("nginx", "Always");
    check("nginx:latest", "Always");
    check("nginx:1.27", "IfNotPresent");
    check("registry:5000/nginx", "Always");
    check("registry:5000/nginx:1", "IfNotPresent");
    check("nginx@sha256:abc", "IfNotPresent");
    check("nginx:latest@sha256:abc", "Always");
}

#[test]
fn parts_of_containers_and_volumes() {
    let change = container(json!({
        "ports": [{ "containerPort": 80 }],
        "env": [{ "name": "A", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } }],
        "livenessProbe": { "httpGet": { "port": 80 }, "periodSeconds": 3, "failureThreshold": 0 },
        "lifecycle": { "preStop": { "httpGet": { "port": 80, "path": "/bye" } } },
    }));
    let volumes = json!({ "spec": { "volumes": [
        { "name": "a" }, { "name": "b", "configMap": { "name": "c" } }, { "name": "d", "hostPath": { "path": "/x" } },
        { "name": "e", "projected": { "sources": [{ "serviceAccountToken": { "path": "token" } }] } },
    ] } });
    let pod = defaulted(kind("", "Pod"), merge_patch(&merge_patch(&base(), &change), &volumes));
    let container = &pod["spec"]["containers"][0];
    assert_eq!(container["ports"][0]["protocol"], "TCP");
    assert_eq!(container["env"][0]["valueFrom"]["fieldRef"]["apiVersion"], "v1");
    assert_eq!(
        container["livenessProbe"],
        json!({ "httpGet": { "port": 80, "path": "/", "scheme": "HTTP" }, "periodSeconds": 3, "timeoutSeconds": 1, "successThreshold": 1, "failureThreshold": 3 })
    );
    assert_eq!(container["lifecycle"]["preStop"]["httpGet"]["scheme"], "HTTP");
    assert_eq!(
        pod["spec"]["volumes"],
        json!([
            { "name": "a", "emptyDir": {} },
            { "name": "b", "configMap": { "name": "c", "defaultMode": 420 } },
            { "name": "d", "hostPath": { "path": "/x", "type": "" } },
            { "name": "e", "projected": { "defaultMode": 420, "sources": [{ "serviceAccountToken": { "path": "token", "expirationSeconds": 3600 } }] } },
        ])
    );
}

#[test]
fn resources_host_ports_and_tolerations() {
    let check = |change: Value, pointer: &str, expected: Value| {
        let pod = defaulted(kind("", "Pod"), merge_patch(&base(), &change));
        assert_eq!(pod.pointer(pointer), Some(&expected), "{change}");
    };
    let limits = json!({ "resources": { "limits": { "cpu": "1", "memory": "1Gi" }, "requests": { "cpu": "500m" } } });
    check(container(limits.clone()), "/spec/containers/0/resources/requests", json!({ "cpu": "500m", "memory": "1Gi" }));
    check(container(limits), "/status/qosClass", json!("Burstable"));
    check(
        container(json!({ "resources": { "limits": { "cpu": "1", "memory": "1Gi" } } })),
        "/status/qosClass",
        json!("Guaranteed"),
    );
    check(container(json!({ "resources": { "limits": { "cpu": "1" } } })), "/status/qosClass", json!("Burstable"));
    let mut host = container(json!({ "ports": [{ "containerPort": 80 }] }));
    host["spec"]["hostNetwork"] = true.into();
    check(host, "/spec/containers/0/ports/0/hostPort", json!(80));
    let all = json!([{ "operator": "Exists" }]);
    check(json!({ "spec": { "tolerations": all } }), "/spec/tolerations", all.clone());
    check(json!({ "spec": { "serviceAccount": "robot" } }), "/spec/serviceAccountName", json!("robot"));
}

#[test]
fn what_kubernetes_refuses() {
    let check = |change: Value, expected: &[&str]| check(kind("", "Pod"), &base(), change, expected);
    let spec = |change: Value| json!({ "spec": change });
    check(json!({}), &[]);
    check(spec(json!({ "containers": null })), &["spec.containers: Required value"]);
    check(container(json!({ "name": null })), &["spec.containers[0].name: Required value"]);
    check(container(json!({ "name": "A" })), &["spec.containers[0].name: Invalid value: \"A\": a lowercase RFC 1123 label"]);
    check(container(json!({ "image": null })), &["spec.containers[0].image: Required value"]);
    check(
        container(json!({ "image": " a" })),
        &["spec.containers[0].image: Invalid value: \" a\": must not have leading or trailing whitespace"],
    );
    check(
        container(json!({ "imagePullPolicy": "Maybe" })),
        &[
            "spec.containers[0].imagePullPolicy: Unsupported value: \"Maybe\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
        ],
    );
    check(
        spec(json!({ "initContainers": [{ "name": "web", "image": "x" }] })),
        &["spec.containers[0].name: Duplicate value: \"web\""],
    );
    check(
        spec(json!({ "restartPolicy": "Often" })),
        &["spec.restartPolicy: Unsupported value: \"Often\": supported values: \"Always\", \"Never\", \"OnFailure\""],
    );
    check(spec(json!({ "nodeName": "A" })), &["spec.nodeName: Invalid value: \"A\""]);
    check(spec(json!({ "nodeSelector": { "a b": "c" } })), &["spec.nodeSelector: Invalid value: \"a b\""]);
    check(
        spec(json!({ "activeDeadlineSeconds": 0 })),
        &["spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive"],
    );
    check(
        spec(json!({ "dnsPolicy": "None" })),
        &["spec.dnsConfig.nameservers: Required value: must provide at least one DNS nameserver"],
    );
    check(
        spec(json!({ "hostAliases": [{ "ip": "x", "hostnames": ["a"] }] })),
        &["spec.hostAliases[0].ip: Invalid value: \"x\": must be a valid IP address"],
    );
    check(
        spec(
            json!({ "tolerations": [{ "key": "", "operator": "Equal" }, { "key": "a", "operator": "Exists", "value": "v" }, { "key": "a", "effect": "Never" }] }),
        ),
        &[
            "spec.tolerations[0].operator: Invalid value: \"Equal\": operator must be Exists when `key` is empty",
            "spec.tolerations[1].operator: Invalid value: \"v\": value must be empty when `operator` is 'Exists'",
            "spec.tolerations[2].effect: Unsupported value: \"Never\"",
        ],
    );
    check(
        spec(
            json!({ "affinity": { "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [] } },
            "podAntiAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": [{ "labelSelector": {} }] } } }),
        ),
        &[
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: Required value: must have at least one",
            "spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: Required value: can not be empty",
        ],
    );
}

#[test]
fn what_kubernetes_refuses_in_containers() {
    let check = |change: Value, expected: &[&str]| check(kind("", "Pod"), &base(), container(change), expected);
    check(json!({ "ports": [{}] }), &["spec.containers[0].ports[0].containerPort: Required value"]);
    check(
        json!({ "ports": [{ "containerPort": 70000 }] }),
        &["spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive"],
    );
    check(
        json!({ "ports": [{ "containerPort": 1, "name": "a", "hostPort": 9 }, { "containerPort": 2, "name": "a", "hostPort": 9 }] }),
        &[
            "spec.containers[0].ports[1].name: Duplicate value: \"a\"",
            "spec.containers[0].ports[1].hostPort: Duplicate value: 9",
        ],
    );
    check(json!({ "env": [{ "value": "x" }] }), &["spec.containers[0].env[0].name: Required value"]);
    check(
        json!({ "env": [{ "name": "A", "valueFrom": {} }] }),
        &["spec.containers[0].env[0].valueFrom: Invalid value: \"\": must specify one of"],
    );
    check(
        json!({ "env": [{ "name": "A", "valueFrom": { "secretKeyRef": { "name": "s" } } }] }),
        &["spec.containers[0].env[0].valueFrom.secretKeyRef.key: Required value"],
    );
    check(
        json!({ "volumeMounts": [{ "name": "v", "mountPath": "/x" }] }),
        &["spec.containers[0].volumeMounts[0].name: Not found: \"v\""],
    );
    check(
        json!({ "resources": { "limits": { "cpu": "1" }, "requests": { "cpu": "2" } } }),
        &["spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1"],
    );
    check(
        json!({ "resources": { "requests": { "memory": "-1", "gpu": "1" } } }),
        &[
            "spec.containers[0].resources.requests[gpu]: Invalid value: \"gpu\": must be a standard resource type",
            "spec.containers[0].resources.requests[memory]: Invalid value: \"-1\": must be greater than or equal to 0",
        ],
    );
    check(json!({ "livenessProbe": {} }), &["spec.containers[0].livenessProbe: Required value: must specify a handler type"]);
    check(
        json!({ "livenessProbe": { "exec": { "command": [] }, "tcpSocket": { "port": 1 }, "successThreshold": 2 } }),
        &[
            "spec.containers[0].livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type",
            "spec.containers[0].livenessProbe.exec.command: Required value",
            "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
        ],
    );
    check(
        json!({ "readinessProbe": { "httpGet": { "port": 0 } } }),
        &["spec.containers[0].readinessProbe.httpGet.port: Invalid value: 0: must be between 1"],
    );
}

#[test]
fn what_kubernetes_refuses_in_volumes() {
    let check = |volumes: Value, expected: &[&str]| {
        check(kind("", "Pod"), &base(), json!({ "spec": { "volumes": volumes } }), expected)
    };
    check(json!([{ "emptyDir": {} }]), &["spec.volumes[0].name: Required value"]);
    check(json!([{ "name": "a" }, { "name": "a" }]), &["spec.volumes[1].name: Duplicate value: \"a\""]);
    check(
        json!([{ "name": "a", "emptyDir": {}, "hostPath": { "path": "/x" } }]),
        &["spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type"],
    );
    check(json!([{ "name": "a", "secret": {} }]), &["spec.volumes[0].secret.secretName: Required value"]);
    check(
        json!([{ "name": "a", "configMap": { "name": "c", "items": [{ "key": "k", "path": "../x" }] } }]),
        &["spec.volumes[0].configMap.items[0].path: Invalid value: \"../x\": must not contain '..'"],
    );
    check(
        json!([{ "name": "a", "configMap": { "name": "c", "defaultMode": 1000 } }]),
        &["spec.volumes[0].configMap.defaultMode: Invalid value: 1000: must be a number between 0 and 0777"],
    );
}

#[test]
fn updates_change_little() {
    let mut old = base();
    old["spec"]["activeDeadlineSeconds"] = 100.into();
    old["spec"]["tolerations"] = json!([{ "key": "a", "operator": "Exists" }]);
    let check = |change: Value, expected: &[&str]| check_update(kind("", "Pod"), &old, change, expected);
    check(json!({ "metadata": { "labels": { "a": "b" } } }), &[]);
    check(
        container(
            json!({ "image": "nginx:2", "imagePullPolicy": "Always", "resources": {}, "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File" }),
        ),
        &[],
    );
    check(json!({ "spec": { "activeDeadlineSeconds": 50 } }), &[]);
    check(
        json!({ "spec": { "activeDeadlineSeconds": 150 } }),
        &["spec.activeDeadlineSeconds: Invalid value: 150: must be less than or equal to previous value"],
    );
    check(
        json!({ "spec": { "tolerations": [{ "key": "a", "operator": "Exists" }, { "key": "b", "operator": "Exists" }] } }),
        &[],
    );
    check(
        json!({ "spec": { "tolerations": [{ "key": "b", "operator": "Exists" }] } }),
        &["spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"],
    );
    check(
        json!({ "spec": { "nodeName": "n2" } }),
        &["spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`"],
    );
    check(
        json!({ "spec": { "containers": [] } }),
        &["spec.containers: Required value", "spec.containers: Forbidden: pod updates may not add or remove containers"],
    );
}
