//! The plain manifests: each is what its kind allows, the API server takes it, they fit together, and the
//! configuration in them means what it says.

mod common;

use std::collections::BTreeSet;
use std::path::Path;

use common::{Server, belong_together, capabilities, container, containers, find, leads_to, settings};
use serde_json::json;
use thalweg_deploy::{Manifest, folder};
use thalweg_proxy::config::{Mode, NodePortAddresses};

/// Each folder is applied as a whole.
fn load(name: &str) -> Vec<Manifest> {
    Manifest::load(&folder().join(name)).unwrap_or_else(|error| panic!("{error:#}"))
}

#[tokio::test]
async fn every_manifest_is_taken_by_the_api_server() {
    let server = Server::start().await;
    for name in ["", "proxy", "agent", "cleanup"] {
        let manifests = load(name);
        server.accepts(&manifests).await;
        let named: BTreeSet<_> = manifests.iter().map(|m| (m.kind(), m.name())).collect();
        assert_eq!(named.len(), manifests.len(), "two objects of one name in deploy/{name}");
    }
    server.stop().await;
}

/// Or the test above would prove nothing.
#[tokio::test]
async fn a_manifest_with_a_mistake_is_refused() {
    let server = Server::start().await;
    let manifests = load("proxy");
    let mut pod = common::pod(find_daemon_set(&manifests, "thalweg-proxy")).expect("a pod");
    for (pointer, value, word) in [
        ("/spec/volumes/0/name", json!("another"), "volumeMounts"),
        ("/spec/containers/0/livenessProbe/httpGet/port", json!(0), "livenessProbe"),
        ("/spec/containers/0/name", json!("Proxy"), "name"),
    ] {
        let old = std::mem::replace(pod.pointer_mut(pointer).expect(pointer), value);
        let refusal = server.create(&pod).await.expect("pods are served").expect_err(pointer);
        assert!(refusal.contains(word), "{refusal}");
        *pod.pointer_mut(pointer).expect(pointer) = old;
    }
    pod["spec"]["hostNetwrk"] = json!(true);
    let refusal = server.create(&pod).await.expect("pods are served").expect_err("an unknown field");
    assert!(refusal.contains("hostNetwrk"), "{refusal}");
    server.stop().await;
}

#[test]
fn the_objects_of_a_folder_fit_together() {
    for name in ["proxy", "agent", "cleanup"] {
        belong_together(&load(name));
    }
}

#[test]
fn every_yaml_file_is_looked_at() {
    let mut folders = BTreeSet::new();
    let mut waiting = vec![folder()];
    while let Some(path) = waiting.pop() {
        for entry in std::fs::read_dir(&path).expect("a folder") {
            let entry = entry.expect("an entry").path();
            if entry.is_dir() {
                waiting.push(entry);
            } else if entry.extension().is_some_and(|extension| extension == "yaml") {
                folders.insert(path.strip_prefix(folder()).expect("below deploy").to_owned());
            }
        }
    }
    let wanted =
        ["", "agent", "chart/thalweg", "chart/thalweg/templates", "cleanup", "proxy"].map(|name| Path::new(name).to_owned());
    assert_eq!(folders, BTreeSet::from(wanted), "a folder of manifests that no test reads");
}

#[test]
fn the_configuration_of_the_proxy_means_what_it_says() {
    let manifests = load("proxy");
    let map = find(&manifests, "ConfigMap");
    let (_, settings) = settings(map);
    assert_eq!(settings.mode, Mode::Auto);
    assert_eq!(settings.kubeconfig.as_deref(), Some(Path::new("/var/lib/kube-proxy/kubeconfig.conf")));
    assert_eq!(settings.healthz, Some("0.0.0.0:10256".parse().expect("an address")));
    assert_eq!(settings.metrics, Some("127.0.0.1:10249".parse().expect("an address")));
    assert_eq!(settings.cluster_cidrs, ["10.244.0.0/16".parse().expect("a range")]);
    assert_eq!(settings.node_ports, NodePortAddresses::All);
    assert!(settings.hostname_override.is_none(), "the DaemonSet says it");
    // Nothing in it means nothing, but for the mode that is left open and the range that only iptables asks for.
    let fields: Vec<&str> = settings.notes.iter().filter_map(|note| note.split(':').next()).collect();
    assert_eq!(fields, ["mode", "clusterCIDR"]);
    leads_to(map, "https://CONTROL-PLANE:6443");
    leads_to(find(&load("agent"), "ConfigMap"), "https://CONTROL-PLANE:6443");
}

#[test]
fn containers_have_the_least_rights() {
    let check = |name: &str, wanted: &[(&str, &[&str])]| {
        for (set, granted) in wanted {
            let manifests = load(name);
            let spec = &find_daemon_set(&manifests, set).object["spec"]["template"]["spec"];
            for container in containers(spec) {
                let security = &container["securityContext"];
                match container["name"].as_str() {
                    // Not ours.
                    Some("kube-proxy") => assert_eq!(security["privileged"], json!(true)),
                    Some("done") => assert!(capabilities(container).is_empty()),
                    _ => {
                        assert_eq!(capabilities(container), *granted, "{set}");
                        assert_eq!(security["allowPrivilegeEscalation"], json!(false), "{set}");
                        assert!(security.get("privileged").is_none(), "{set}");
                    }
                }
            }
        }
    };
    check("proxy", &[("thalweg-proxy", &["NET_ADMIN", "SYS_ADMIN", "SYS_PTRACE"])]);
    check("cleanup", &[("thalweg-cleanup", &["BPF", "NET_ADMIN", "PERFMON"]), ("kube-proxy-cleanup", &[])]);
    check("agent", &[("thalweg-agent", &["NET_ADMIN", "NET_BIND_SERVICE", "SYS_ADMIN"])]);
}

#[test]
fn probes_ask_where_the_proxy_answers() {
    let manifests = load("agent");
    let agent = container(&manifests).clone();
    let manifests = load("proxy");
    let proxy = find_daemon_set(&manifests, "thalweg-proxy").object["spec"]["template"]["spec"]["containers"][0].clone();
    let (_, settings) = settings(find(&manifests, "ConfigMap"));
    let healthz = settings.healthz.expect("a health server").port();
    for container in [&proxy, &agent] {
        assert_eq!(container["ports"][0], json!({"name": "healthz", "containerPort": healthz}));
        let get = |path: &str| json!({"path": path, "port": "healthz"});
        assert_eq!(container["livenessProbe"]["httpGet"], get("/livez"));
        assert_eq!(container["readinessProbe"]["httpGet"], get("/healthz"));
    }
}

fn find_daemon_set<'a>(manifests: &'a [Manifest], name: &str) -> &'a Manifest {
    manifests.iter().find(|m| m.kind() == "DaemonSet" && m.name() == name).unwrap_or_else(|| panic!("no DaemonSet {name}"))
}
