//! The chart: rendered with its own values and with others, taken by the API server, the same as the plain manifests
//! where it should be, and honest about what it does not have.

mod common;

use std::path::Path;

use common::{Server, belong_together, capabilities, container, find, leads_to, settings};
use serde_json::{Value, json};
use thalweg_deploy::{Chart, Manifest, Rendered, folder};
use thalweg_proxy::config::Mode;

const API: &str = "https://192.0.2.10:6443";

fn chart() -> Chart {
    Chart::open(&folder().join("chart/thalweg")).unwrap_or_else(|error| panic!("{error:#}"))
}

fn render(values: &Value) -> Rendered {
    chart().render(values).unwrap_or_else(|error| panic!("{error:#}\n{values}"))
}

/// Values that, together, go through every branch of every template.
fn variants() -> Vec<Value> {
    vec![
        json!({"apiServer": API}),
        json!({"apiServer": API, "proxy": {"configuration": {"mode": "iptables", "clusterCIDR": "10.0.0.0/8"}, "extraCapabilities": ["NET_RAW"]}}),
        json!({"proxy": {"existingConfigMap": "kube-proxy"}, "serviceAccount": {"annotations": {"a": "b"}}}),
        json!({"proxy": {"existingConfigMap": "kube-proxy"}, "podAnnotations": {"a": "b"}}),
        json!({
            "apiServer": API, "image": {"repository": "registry.example/thalweg", "tag": "1.2.3", "pullPolicy": "Always"},
            "imagePullSecrets": [{"name": "pull"}], "log": "debug,hyper=warn", "healthzPort": 11256,
            "proxy": {"socketLB": false, "uplinks": ["eth0", "cali*"], "extraArgs": ["--node-address=192.0.2.4"]},
            "bpffs": {"mount": true, "path": "/run/bpf"}, "cgroup": {"path": "/sys/fs/cgroup/unified"},
            "serviceAccount": {"name": "mine"}, "priorityClassName": "system-cluster-critical",
            "nodeSelector": {"pool": "a"}, "seccompProfile": "Unconfined", "appArmorProfile": "RuntimeDefault", "podLabels": {"team": "net"}, "podAnnotations": {"a": "b"},
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "thalweg.dev/proxy", "operator": "Exists"}]}]}}},
            "updateStrategy": {"type": "OnDelete", "rollingUpdate": null},
            "resources": {"limits": {"cpu": "1"}},
        }),
        json!({"mode": "agent", "apiServer": API, "agent": {"uplink": "eth0"}}),
        json!({
            "mode": "agent", "apiServer": API, "bpffs": {"mount": true}, "podAnnotations": {"a": "b"}, "podLabels": {"x": "y"},
            "agent": {"uplink": "bond0", "mtu": 9000, "socketLB": false, "extraArgs": ["--dns-ttl=5"], "extraCapabilities": ["NET_RAW"],
                "dns": {"port": 0, "upstreams": ["192.0.2.53:53"]}, "metricsBindAddress": ""},
        }),
        json!({"mode": "agent", "apiServer": API, "agent": {"uplink": "eth0"}, "rbac": {"create": false}}),
    ]
}

#[tokio::test]
async fn what_is_rendered_is_taken_by_the_api_server() {
    let server = Server::start().await;
    for values in variants() {
        let rendered = render(&values);
        assert!(rendered.manifests.len() >= 3, "{values}");
        server.accepts(&rendered.manifests).await;
    }
    server.stop().await;
}

#[test]
fn the_objects_of_a_release_fit_together() {
    for values in variants() {
        let mut manifests = render(&values).manifests;
        // Somebody else's, by these values.
        if values.pointer("/proxy/existingConfigMap").is_some() {
            let object = json!({"kind": "ConfigMap", "metadata": {"name": "kube-proxy"}});
            manifests.push(Manifest { origin: "kubeadm".to_owned(), object });
        }
        belong_together(&manifests);
        for manifest in &manifests {
            let namespaced = !manifest.kind().starts_with("ClusterRole") && manifest.origin != "kubeadm";
            assert_eq!(manifest.text("/metadata/namespace") == "kube-system", namespaced, "{}", manifest.origin);
        }
    }
}

/// Without what differs on purpose: labels, annotations, and the values that a cluster must give.
fn bare(manifest: &Manifest) -> Value {
    let mut object = manifest.object.clone();
    for pointer in ["/metadata", "/spec/template/metadata", "/spec/selector", "/data"] {
        if let Some(part) = object.pointer_mut(pointer) {
            *part = Value::Null;
        }
    }
    object
}

#[test]
fn the_chart_says_what_the_plain_manifests_say() {
    let check = |name: &str, values: Value, adapt: &dyn Fn(&mut Value)| {
        let plain = Manifest::load(&folder().join(name)).expect("manifests");
        let rendered = render(&values).manifests;
        assert_eq!(rendered.len(), plain.len());
        for manifest in &plain {
            let mut ours = bare(manifest);
            adapt(&mut ours);
            assert_eq!(bare(find(&rendered, manifest.kind())), ours, "{}", manifest.origin);
        }
    };
    check("proxy", json!({"apiServer": API}), &|_| {});
    let resources = json!({"requests": {"cpu": "100m", "memory": "192Mi"}});
    let values = json!({"mode": "agent", "apiServer": API, "agent": {"uplink": "eth0"}, "resources": resources, "log": "info"});
    check("agent", values, &|ours| {
        if ours["kind"] == "DaemonSet" {
            let container = &mut ours["spec"]["template"]["spec"]["containers"][0];
            container["ports"] = json!([{"name": "healthz", "containerPort": 10256}]);
            let defaults = [
                "--cluster-domain=cluster.local",
                "--dns-port=53",
                "--dns-service=kube-system/kube-dns",
                "--dns-ttl=30",
                "--healthz-bind-address=0.0.0.0:10256",
                "--metrics-bind-address=127.0.0.1:10249",
            ];
            container["args"].as_array_mut().expect("args").extend(defaults.map(Value::from));
        }
    });
}

#[test]
fn the_configuration_of_the_proxy_means_what_the_values_say() {
    let rendered = render(&json!({"apiServer": API}));
    let map = find(&rendered.manifests, "ConfigMap");
    let (_, found) = settings(map);
    assert_eq!(found.mode, Mode::Auto);
    assert_eq!(found.kubeconfig.as_deref(), Some(Path::new("/var/lib/kube-proxy/kubeconfig.conf")));
    assert_eq!(found.healthz, Some("0.0.0.0:10256".parse().expect("an address")));
    assert_eq!(found.metrics, Some("127.0.0.1:10249".parse().expect("an address")));
    assert_eq!(found.notes, ["mode: not said; ebpf is used where it is possible, else iptables"]);
    leads_to(map, API);

    let configuration = json!({"mode": "iptables", "clusterCIDR": "10.0.0.0/8", "nodePortAddresses": ["primary"],
        "metricsBindAddress": "0.0.0.0:10249", "iptables": {"masqueradeAll": true, "syncPeriod": "1m"}});
    let rendered = render(&json!({"apiServer": API, "healthzPort": 11256, "proxy": {"configuration": configuration}}));
    let (config, found) = settings(find(&rendered.manifests, "ConfigMap"));
    assert_eq!((found.mode, found.masquerade_all), (Mode::Iptables, true));
    assert_eq!(found.metrics, Some("0.0.0.0:10249".parse().expect("an address")));
    assert_eq!(found.healthz.map(|address| address.port()), Some(11256));
    assert_eq!(config.node_port_addresses, ["primary"]);
    assert_eq!(container(&rendered.manifests)["ports"][0]["containerPort"], json!(11256));
}

#[test]
fn another_configuration_is_another_pod() {
    let sum = |configuration: Value| {
        let rendered = render(&json!({"apiServer": API, "proxy": {"configuration": configuration}}));
        find(&rendered.manifests, "DaemonSet").text("/spec/template/metadata/annotations/checksum~1config").to_owned()
    };
    assert_eq!(sum(json!({})), sum(json!({"mode": ""})));
    assert_ne!(sum(json!({})), sum(json!({"mode": "iptables"})));
}

#[test]
fn values_reach_the_container() {
    let values = json!({"apiServer": API, "proxy": {"socketLB": false, "uplinks": ["eth0", "cali*"], "extraArgs": ["--x=1"],
        "extraCapabilities": ["NET_RAW"]}, "bpffs": {"mount": true}});
    let manifests = render(&values).manifests;
    let found = container(&manifests);
    let args: Vec<&str> = found["args"].as_array().expect("args").iter().filter_map(Value::as_str).collect();
    assert_eq!(args[3..], ["--cgroup=/host/cgroup", "--socket-lb=false", "--uplink=eth0,cali*", "--x=1"]);
    assert_eq!(capabilities(found), ["BPF", "NET_ADMIN", "PERFMON", "NET_RAW"], "without setns(2)");
    let spec = &find(&manifests, "DaemonSet").object["spec"]["template"]["spec"];
    assert_eq!(spec.get("hostPID"), None, "without sockets of pods");
    assert!(!find(&manifests, "ClusterRole").object.to_string().contains("pods"), "nobody asks for annotations");
    let mount = &spec["initContainers"][0];
    assert_eq!(mount["volumeMounts"][0]["mountPropagation"], "Bidirectional");

    let manifests = render(&json!({"proxy": {"existingConfigMap": "kube-proxy"}})).manifests;
    assert!(manifests.iter().all(|manifest| manifest.kind() != "ConfigMap"));
    let volume = &find(&manifests, "DaemonSet").object["spec"]["template"]["spec"]["volumes"][0];
    assert_eq!(volume["configMap"]["name"], "kube-proxy");
}

#[test]
fn what_a_cluster_must_say_is_asked_for() {
    for (values, word) in [
        (json!({}), "apiServer: say how the nodes reach the API server"),
        (json!({"mode": "agent", "apiServer": API}), "agent.uplink: say which interface"),
        (json!({"apiServer": API, "mode": "both"}), "/mode: \"both\" is none of"),
        (json!({"apiServer": API, "proxi": {}}), "there is no value proxi"),
        (json!({"apiServer": API, "proxy": {"socketLb": true}}), "/proxy: there is no value socketLb"),
        (json!({"apiServer": API, "healthzPort": "10256"}), "/healthzPort"),
        (json!({"apiServer": "192.0.2.10:6443"}), "/apiServer"),
        (json!({"apiServer": API, "proxy": {"configuration": {"mode": "userspace"}}}), "/proxy/configuration/mode"),
    ] {
        let error = chart().render(&values).err().map(|error| format!("{error:#}")).unwrap_or_default();
        assert!(error.contains(word), "{error:?} does not say {word:?}");
    }
}

/// Both ways: a value without a rule would never be checked, a rule without a value would promise what is not there.
#[test]
fn values_and_their_schema_have_the_same_fields() {
    fn compare(values: &Value, schema: &Value, path: &str) {
        if schema["additionalProperties"] != Value::Bool(false) {
            return;
        }
        let names = |value: &Value| -> Vec<String> {
            let mut names: Vec<String> = value.as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect();
            names.retain(|name| name != "global");
            names.sort();
            names
        };
        assert_eq!(names(values), names(&schema["properties"]), "{path}");
        for name in names(values) {
            compare(&values[&name], &schema["properties"][&name], &format!("{path}/{name}"));
        }
    }
    let chart = chart();
    compare(&chart.defaults, &chart.schema, "");
    assert_eq!(chart.metadata["appVersion"], env!("CARGO_PKG_VERSION"));
    assert_eq!(chart.metadata["apiVersion"], "v2");
}

#[test]
fn the_notes_say_what_to_do_next() {
    let proxy = render(&json!({"apiServer": API})).notes;
    assert!(
        proxy.contains("rollout status daemonset/thalweg-proxy") && proxy.contains("docs/replacing-kube-proxy.md"),
        "{proxy}"
    );
    let agent = render(&json!({"mode": "agent", "apiServer": API, "agent": {"uplink": "eth0"}})).notes;
    assert!(agent.contains("daemonset/thalweg-agent") && !agent.contains("kube-proxy still runs"), "{agent}");
}
