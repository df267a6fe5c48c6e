//! A server in this process on a free port of the loopback interface, in a temporary directory, and clients for it.
#![allow(dead_code, reason = "every test file uses its part of the kit")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use http::Request;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub const WAIT: Duration = Duration::from_secs(20);

pub struct Server {
    pub dir: TempDir,
    pub client: kube::Client,
    shutdown: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Server {
    pub async fn start() -> Self {
        Self::start_in(tempfile::tempdir().expect("a temporary directory")).await
    }

    pub async fn start_in(dir: TempDir) -> Self {
        let tokens = dir.path().join("tokens.csv");
        std::fs::write(&tokens, "admin-token,alice,1,system:masters\neve-token,eve,2\n").expect("a token file");
        let config = thalweg_apiserver::Config {
            data: dir.path().join("data"),
            listen: vec!["127.0.0.1:0".parse().expect("an address")],
            inherit: false,
            advertise: "172.30.0.1:6443".parse().expect("an address"),
            service_cidr: "10.96.0.0/16".parse().expect("a network"),
            node_ports: (30000, 32767),
            sans: vec!["api.example".into()],
            token_file: Some(tokens),
        };
        let shutdown = CancellationToken::new();
        let (ready, is_ready) = oneshot::channel();
        let task = tokio::spawn(thalweg_apiserver::run(config, ready, shutdown.clone()));
        let started = tokio::time::timeout(WAIT, is_ready).await.expect("ready in time");
        if started.is_err() {
            panic!("the server did not start: {:?}", task.await);
        }
        let client = client(&dir.path().join("data/admin.kubeconfig"), |_| {}).await;
        Self { dir, client, shutdown, task }
    }

    /// Stops the server; its data stays.
    pub async fn stop(self) -> TempDir {
        drop(self.client);
        self.shutdown.cancel();
        tokio::time::timeout(WAIT, self.task).await.expect("stops in time").expect("no panic").expect("no error");
        self.dir
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("data/admin.kubeconfig")
    }

    /// The answer's status code and its body as JSON (or as a JSON string when it is none).
    pub async fn call(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let content_type = match method {
            "PATCH" => "application/merge-patch+json",
            _ => "application/json",
        };
        self.send(method, path, content_type, if body.is_null() { String::new() } else { body.to_string() }).await
    }

    pub async fn send(&self, method: &str, path: &str, content_type: &str, body: String) -> (u16, Value) {
        send(&self.client, method, path, &[("content-type", content_type)], body).await
    }

    /// A call that must succeed.
    pub async fn ok(&self, method: &str, path: &str, body: Value) -> Value {
        let (code, answer) = self.call(method, path, body).await;
        assert!((200..300).contains(&code), "{method} {path}: {code} {answer}");
        answer
    }

    /// A call that must fail with this code, reason and words in the message.
    pub async fn fails(&self, method: &str, path: &str, body: Value, code: u16, reason: &str, words: &str) -> Value {
        let (got, answer) = self.call(method, path, body).await;
        assert_eq!((got, answer["reason"].as_str()), (code, Some(reason)), "{method} {path}: {answer}");
        let message = answer["message"].as_str().unwrap_or_default();
        assert!(message.contains(words), "{method} {path}: {message:?} does not contain {words:?}");
        answer
    }
}

/// A client by a kubeconfig, changed as the test needs it.
pub async fn client(kubeconfig: &Path, change: impl FnOnce(&mut kube::Config)) -> kube::Client {
    let file = Kubeconfig::read_from(kubeconfig).expect("a kubeconfig");
    let mut config =
        kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.expect("a usable kubeconfig");
    config.proxy_url = None;
    // What the server refuses is what the tests look at.
    config.default_retry = false;
    change(&mut config);
    kube::Client::try_from(config).expect("a client")
}

pub async fn send(client: &kube::Client, method: &str, path: &str, headers: &[(&str, &str)], body: String) -> (u16, Value) {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(kube::client::Body::from(body.into_bytes())).expect("a request");
    let response = tokio::time::timeout(WAIT, client.send(request)).await.expect("an answer in time").expect("an answer");
    let code = response.status().as_u16();
    let bytes = response.into_body().collect_bytes().await.expect("a body");
    let text = String::from_utf8_lossy(&bytes).into_owned();
    (code, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

pub fn config_map(name: &str, labels: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": labels}, "data": {"k": "v"}})
}

pub fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "demo"}]}})
}

pub fn deployment(name: &str, replicas: u32) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {
        "replicas": replicas, "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "demo:1"}]}}}})
}

pub fn service(name: &str, spec: Value) -> Value {
    let mut service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
    for (field, value) in spec.as_object().into_iter().flatten() {
        service["spec"][field] = value.clone();
    }
    service
}
