//! What manifests are held against: an API server of our own, in this process, and each other.
#![allow(dead_code, reason = "every test file uses its part of the kit")]

use std::collections::BTreeSet;
use std::time::Duration;

use http::Request;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use tempfile::TempDir;
use thalweg_deploy::{Manifest, kinds};
use thalweg_proxy::config::{self, Flags, KubeProxyConfiguration, Settings};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const WAIT: Duration = Duration::from_secs(20);

/// Kinds that the API server does not serve yet: [`kinds::check`] alone judges them, and their pods as pods. A kind that it
/// learns makes [`Server::accepts`] fail until it is removed here.
const NOT_SERVED: &[(&str, &str)] = &[
    ("apps/v1", "DaemonSet"),
    ("rbac.authorization.k8s.io/v1", "ClusterRole"),
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding"),
];

pub struct Server {
    client: kube::Client,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), String>>,
    _dir: TempDir,
}

// === impl Server ===

impl Server {
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let config = thalweg_apiserver::Config {
            data: dir.path().join("data"),
            listen: vec!["127.0.0.1:0".parse().expect("an address")],
            inherit: false,
            advertise: "172.30.0.1:6443".parse().expect("an address"),
            service_cidr: "10.96.0.0/16".parse().expect("a network"),
            node_ports: (30000, 32767),
            sans: Vec::new(),
            token_file: None,
        };
        let shutdown = CancellationToken::new();
        let (ready, is_ready) = oneshot::channel();
        let running = thalweg_apiserver::run(config, ready, shutdown.clone());
        let task = tokio::spawn(async move { running.await.map_err(|error| format!("{error:#}")) });
        let started = tokio::time::timeout(WAIT, is_ready).await.expect("ready in time");
        if started.is_err() {
            panic!("the server did not start: {:?}", task.await);
        }
        let file = Kubeconfig::read_from(dir.path().join("data/admin.kubeconfig")).expect("a kubeconfig");
        let mut config =
            kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.expect("a usable kubeconfig");
        config.proxy_url = None;
        config.default_retry = false;
        Self { client: kube::Client::try_from(config).expect("a client"), shutdown, task, _dir: dir }
    }

    pub async fn stop(self) {
        drop(self.client);
        self.shutdown.cancel();
        tokio::time::timeout(WAIT, self.task).await.expect("stops in time").expect("no panic").expect("no error");
    }

    /// Every object would be created: no unknown field, nothing invalid. Pods of DaemonSets and Deployments are tried too.
    pub async fn accepts(&self, manifests: &[Manifest]) {
        for manifest in manifests {
            let object = &manifest.object;
            kinds::check(object).unwrap_or_else(|error| panic!("{}: {error:#}", manifest.origin));
            let said = (manifest.text("/apiVersion"), manifest.kind());
            let served = self.create(object).await;
            assert_eq!(served.is_none(), NOT_SERVED.contains(&said), "{said:?}: served? {served:?}");
            if let Some(Err(refusal)) = served {
                panic!("{}: {refusal}", manifest.origin);
            }
            if let Some(pod) = pod(manifest) {
                match self.create(&pod).await {
                    Some(Ok(())) => {}
                    other => panic!("{}: the pod: {other:?}", manifest.origin),
                }
            }
        }
    }

    /// A dry run with strict validation; `None` when the server does not serve the kind.
    pub async fn create(&self, object: &Value) -> Option<Result<(), String>> {
        let text = |field: &str| object.pointer(field).and_then(Value::as_str).unwrap_or_default();
        let (group, version) = text("/apiVersion").split_once('/').unwrap_or(("", text("/apiVersion")));
        let kind = thalweg_apiserver::kinds::by_kind(group, version, text("/kind"))?;
        let namespace = match kind.namespaced {
            true => format!(
                "namespaces/{}/",
                if text("/metadata/namespace").is_empty() { "default" } else { text("/metadata/namespace") }
            ),
            false => String::new(),
        };
        let path = format!("/{}/{namespace}{}?dryRun=All&fieldValidation=Strict", kind.root(), kind.plural);
        let request = Request::post(path).header("content-type", "application/json");
        let request = request.body(kube::client::Body::from(object.to_string().into_bytes())).expect("a request");
        let response =
            tokio::time::timeout(WAIT, self.client.send(request)).await.expect("an answer in time").expect("an answer");
        let code = response.status();
        let bytes = response.into_body().collect_bytes().await.expect("a body");
        Some(if code.as_u16() == 201 { Ok(()) } else { Err(format!("{code}: {}", String::from_utf8_lossy(&bytes))) })
    }
}

/// The pod that a controller would make.
pub fn pod(manifest: &Manifest) -> Option<Value> {
    let template = manifest.object.pointer("/spec/template")?;
    let mut metadata = template["metadata"].clone();
    metadata["name"] = json!(format!("{}-x", manifest.name()));
    metadata["namespace"] = manifest.object.pointer("/metadata/namespace").cloned().unwrap_or(json!("default"));
    Some(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}))
}

/// What one object says of another is true: accounts, roles, ConfigMaps, selectors, mounts, ports.
pub fn belong_together(manifests: &[Manifest]) {
    let names = |kind: &str| -> BTreeSet<&str> { manifests.iter().filter(|m| m.kind() == kind).map(Manifest::name).collect() };
    for manifest in manifests {
        let origin = &manifest.origin;
        match manifest.kind() {
            "ClusterRoleBinding" => {
                assert!(names("ClusterRole").contains(manifest.text("/roleRef/name")), "{origin}: no such role");
                let account = manifest.text("/subjects/0/name");
                assert!(names("ServiceAccount").contains(account), "{origin}: no such account {account}");
                assert_eq!(manifest.text("/subjects/0/namespace"), "kube-system", "{origin}");
            }
            "DaemonSet" => daemon_set(manifest, &names("ServiceAccount"), &names("ConfigMap")),
            _ => {}
        }
    }
}

fn daemon_set(manifest: &Manifest, accounts: &BTreeSet<&str>, config_maps: &BTreeSet<&str>) {
    let origin = &manifest.origin;
    let object = &manifest.object;
    let labels = object.pointer("/spec/template/metadata/labels").and_then(Value::as_object).expect("labels of the pods");
    for (label, value) in object.pointer("/spec/selector/matchLabels").and_then(Value::as_object).expect("a selector") {
        assert_eq!(labels.get(label), Some(value), "{origin}: the selector's {label}");
    }
    let spec = &object["spec"]["template"]["spec"];
    match spec["serviceAccountName"].as_str() {
        Some(account) => assert!(accounts.contains(account), "{origin}: no account {account}"),
        None => assert_eq!(spec["automountServiceAccountToken"], json!(false), "{origin}: a token that nobody needs"),
    }
    assert_eq!(spec["hostNetwork"], json!(true), "{origin}");
    assert_eq!(spec["tolerations"], json!([{"operator": "Exists"}]), "{origin}: runs on every node");
    let volumes: BTreeSet<&str> =
        spec["volumes"].as_array().expect("volumes").iter().filter_map(|v| v["name"].as_str()).collect();
    for map in spec["volumes"].as_array().expect("volumes").iter().filter_map(|volume| volume.pointer("/configMap/name")) {
        assert!(config_maps.contains(map.as_str().expect("a name")), "{origin}: no ConfigMap {map}");
    }
    let mut mounted = BTreeSet::new();
    for container in containers(spec) {
        assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], json!(true), "{origin}: {}", container["name"]);
        mounted.extend(container["volumeMounts"].as_array().into_iter().flatten().filter_map(|mount| mount["name"].as_str()));
    }
    assert_eq!(volumes, mounted, "{origin}: volumes and mounts");
}

/// Those that start first, too.
pub fn containers(spec: &Value) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers"].into_iter().filter_map(|field| spec[field].as_array()).flatten()
}

pub fn find<'a>(manifests: &'a [Manifest], kind: &str) -> &'a Manifest {
    let mut found = manifests.iter().filter(|manifest| manifest.kind() == kind);
    let first = found.next().unwrap_or_else(|| panic!("no {kind}"));
    assert!(found.next().is_none(), "more than one {kind}");
    first
}

/// The main container of the only DaemonSet.
pub fn container(manifests: &[Manifest]) -> &Value {
    &find(manifests, "DaemonSet").object["spec"]["template"]["spec"]["containers"][0]
}

/// Capabilities beyond none.
pub fn capabilities(container: &Value) -> Vec<&str> {
    let capabilities = &container["securityContext"]["capabilities"];
    assert_eq!(capabilities["drop"], json!(["ALL"]), "{}", container["name"]);
    capabilities["add"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// The configuration in a ConfigMap, as the proxy takes it.
pub fn settings(config_map: &Manifest) -> (KubeProxyConfiguration, Settings) {
    let text = config_map.text("/data/config.conf");
    let file = config::decode(text).unwrap_or_else(|error| panic!("{}: {error}\n{text}", config_map.origin));
    let (config, notes) = config::merge(Some(file), Flags::default());
    assert!(notes.is_empty(), "{notes:?}");
    let settings = Settings::new(&config).unwrap_or_else(|error| panic!("{}: {error}\n{text}", config_map.origin));
    (config, settings)
}

/// The kubeconfig in a ConfigMap leads to `server` with the pod's own token, and says nothing that nobody reads.
pub fn leads_to(config_map: &Manifest, server: &str) {
    let text = config_map.text("/data/kubeconfig.conf");
    let wanted = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "default",
        "clusters": [{"name": "default", "cluster": {
            "certificate-authority": "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt", "server": server}}],
        "users": [{"name": "default", "user": {"tokenFile": "/var/run/secrets/kubernetes.io/serviceaccount/token"}}],
        "contexts": [{"name": "default", "context": {"cluster": "default", "namespace": "default", "user": "default"}}],
    });
    assert_eq!(Manifest::documents("kubeconfig.conf", text).expect("YAML")[0].object, wanted);
    // The field names are those that the client reads.
    let file = Kubeconfig::from_yaml(text).expect("a kubeconfig");
    let (cluster, user) = (file.clusters[0].cluster.as_ref().expect("a cluster"), file.auth_infos[0].auth_info.as_ref());
    assert_eq!(cluster.server.as_deref(), Some(server));
    assert!(cluster.certificate_authority.is_some() && user.is_some_and(|user| user.token_file.is_some()));
    assert_eq!(file.current_context.as_deref(), Some("default"));
}
