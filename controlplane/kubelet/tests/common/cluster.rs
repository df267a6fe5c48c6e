//! A cluster of one node without an API server: pods are handed to the manager, and what it tells is kept.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, Pod};
use kube::runtime::watcher;
use serde_json::{Value, json};
use thalweg_kubelet::BackoffConfig;
use thalweg_kubelet::api::{ApiError, ClusterApi, Data, PodId};
use thalweg_kubelet::events::Recorder;
use thalweg_kubelet::logs::LogIndex;
use thalweg_kubelet::manager::Manager;
use thalweg_kubelet::pod::dns::Resolvers;
use thalweg_kubelet::process::ProcessRuntime;
use thalweg_kubelet::services::Services;
use thalweg_kubelet::worker::{Node, Settings};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

#[derive(Default)]
pub struct Fake {
    pods: Mutex<HashMap<String, Pod>>,
    told: Mutex<Vec<(String, String)>>,
    watcher: Mutex<Option<mpsc::UnboundedSender<watcher::Event<Pod>>>>,
}

impl Fake {
    fn send(&self, event: watcher::Event<Pod>) {
        if let Some(watcher) = &*self.watcher.lock().expect("lock") {
            let _ = watcher.send(event);
        }
    }

    /// Creates or changes a pod, as the API server would tell the node of it.
    pub fn apply(&self, name: &str, change: impl FnOnce(&mut Pod)) {
        let mut pods = self.pods.lock().expect("lock");
        let pod = pods.entry(name.to_owned()).or_default();
        change(pod);
        self.send(watcher::Event::Apply(pod.clone()));
    }

    pub fn create(&self, name: &str, spec: Value) {
        let json = json!({"metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}")}, "spec": spec});
        self.apply(name, |pod| *pod = serde_json::from_value(json).expect("pod"));
    }

    pub fn delete(&self, name: &str, grace: i64) {
        self.apply(name, |pod| {
            let end = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(grace);
            pod.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(end));
            pod.metadata.deletion_grace_period_seconds = Some(grace);
        });
    }

    /// The object is gone at once, as after a forced deletion.
    pub fn vanish(&self, name: &str) {
        let pod = self.pods.lock().expect("lock").remove(name).expect("pod");
        self.send(watcher::Event::Delete(pod));
    }

    /// The pod's status; null when there is no pod.
    pub fn status(&self, name: &str) -> Value {
        let pods = self.pods.lock().expect("lock");
        pods.get(name).map_or(Value::Null, |p| serde_json::to_value(&p.status).expect("status"))
    }

    pub fn exists(&self, name: &str) -> bool {
        self.pods.lock().expect("lock").contains_key(name)
    }

    pub fn ready(&self, name: &str) -> bool {
        let status = self.status(name);
        status["conditions"].as_array().is_some_and(|c| c.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
    }

    pub fn told(&self, reason: &str) -> Vec<String> {
        let told = self.told.lock().expect("lock");
        told.iter().filter(|(r, _)| r == reason).map(|(_, m)| m.clone()).collect()
    }
}

impl ClusterApi for Fake {
    async fn config_map(&self, _: &str, name: &str) -> Result<Data, ApiError> {
        match name {
            "settings" => Ok(Data::from([("COLOR".into(), b"blue".to_vec())])),
            _ => Err(ApiError::NotFound),
        }
    }

    async fn secret(&self, _: &str, _: &str) -> Result<Data, ApiError> {
        Err(ApiError::NotFound)
    }

    async fn token(&self, _: &PodId, account: &str, _: Option<&str>, _: i64) -> Result<String, ApiError> {
        Ok(account.to_owned())
    }

    async fn patch_status(&self, pod: &PodId, status: Value) -> Result<String, ApiError> {
        if !self.exists(&pod.name) {
            return Err(ApiError::NotFound);
        }
        self.apply(&pod.name, |p| p.status = serde_json::from_value(status).expect("status"));
        Ok(String::new())
    }

    async fn delete_pod(&self, pod: &PodId) -> Result<(), ApiError> {
        self.vanish(&pod.name);
        Ok(())
    }

    async fn create_event(&self, event: Event) -> Result<(), ApiError> {
        self.told.lock().expect("lock").push((event.reason.unwrap_or_default(), event.message.unwrap_or_default()));
        Ok(())
    }

    async fn patch_event(&self, _: &str, _: &str, _: Value) -> Result<(), ApiError> {
        Ok(())
    }
}

/// A kubelet without its API client; ended by `stop`.
pub struct Kubelet {
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Kubelet {
    /// Starts on the pods that `api` has now.
    pub async fn start(node: &super::Node, api: &Arc<Fake>, evacuate: bool) -> Self {
        let runtime = Arc::new(ProcessRuntime::new(node.options()).expect("runtime"));
        let settings = Settings {
            node: "node1".into(),
            host_ips: vec!["10.77.0.1".parse().expect("ip")],
            root: node.dir.path().join("state"),
            resolvers: Resolvers {
                cluster_dns: vec!["10.96.0.10".parse().expect("ip")],
                cluster_domain: "cluster.local".into(),
                ..Resolvers::default()
            },
            backoff: BackoffConfig { initial: Duration::from_millis(300), max: Duration::from_secs(2) },
            cpu: 2000,
            memory: 1 << 30,
        };
        let (sender, receiver) = mpsc::unbounded_channel();
        let _ = sender.send(watcher::Event::Init);
        for pod in api.pods.lock().expect("lock").values() {
            let _ = sender.send(watcher::Event::InitApply(pod.clone()));
        }
        let _ = sender.send(watcher::Event::InitDone);
        *api.watcher.lock().expect("lock") = Some(sender);
        let node = Arc::new(Node {
            runtime,
            api: api.clone(),
            recorder: Recorder::start(api.clone(), "node1"),
            services: Services::none(),
            logs: Arc::new(LogIndex::default()),
            settings,
        });
        let manager = Manager::new(node).await.expect("manager");
        let pods = futures::stream::unfold(receiver, |mut r| async { r.recv().await.map(|e| (e, r)) });
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(manager.run(pods, shutdown.clone(), evacuate));
        Self { shutdown, task }
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(Duration::from_secs(60), self.task).await.expect("stops").expect("manager");
    }
}
