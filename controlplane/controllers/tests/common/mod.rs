//! A cluster without machines: API server, scheduler and controllers in this process, and a kubelet that only says that pods run.
#![allow(dead_code, reason = "every test file uses its part of the kit")]

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::Api;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::{Value, json};
use tempfile::TempDir;
use thalweg_controllers::Config;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

/// Everything a test waits for happens within this, also on a busy machine.
pub const WAIT: Duration = Duration::from_secs(30);
const BEAT: Duration = Duration::from_millis(300);

pub struct Cluster {
    pub client: Client,
    pub kubelet: Arc<Kubelet>,
    dir: TempDir,
    tasks: JoinSet<()>,
    shutdown: CancellationToken,
    address: SocketAddr,
    server: Option<(JoinHandle<anyhow::Result<()>>, CancellationToken)>,
}

/// What the pretended kubelets do.
#[derive(Default)]
pub struct Kubelet {
    /// Nodes that show signs of life.
    alive: Mutex<BTreeSet<String>>,
    next_address: Mutex<u32>,
}

impl Cluster {
    pub async fn start(config: Config) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let shutdown = CancellationToken::new();
        let mut tasks = JoinSet::new();
        // A port that is free now, so that a second start finds it again.
        let address = std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port");
        let server = serve(&dir, address).await;
        let kubeconfig = Kubeconfig::read_from(dir.path().join("data/admin.kubeconfig")).expect("a kubeconfig");
        let options = KubeConfigOptions::default();
        let options = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.expect("a configuration");
        let client = Client::try_from(options).expect("a client");
        tasks.spawn(end(thalweg_controllers::run(client.clone(), config, shutdown.clone())));
        let scheduler = thalweg_scheduler::SchedulerConfig::default();
        tasks.spawn(end(thalweg_scheduler::run(client.clone(), scheduler, shutdown.clone())));
        let kubelet = Arc::new(Kubelet::default());
        tasks.spawn(run_pods(client.clone(), Arc::clone(&kubelet)));
        tasks.spawn(beat(client.clone(), Arc::clone(&kubelet)));
        Self { client, kubelet, dir, tasks, shutdown, address, server: Some(server) }
    }

    /// Ends everything; a part that ended before, and badly, fails the test here.
    pub async fn stop(mut self) {
        self.shutdown.cancel();
        self.stop_server().await;
        while let Some(ended) = self.tasks.try_join_next() {
            ended.expect("no panic");
        }
        self.tasks.shutdown().await;
    }

    pub async fn stop_server(&mut self) {
        if let Some((task, shutdown)) = self.server.take() {
            shutdown.cancel();
            tokio::time::timeout(WAIT, task).await.expect("stops in time").expect("no panic").expect("no error");
        }
    }

    pub async fn start_server(&mut self) {
        self.server = Some(serve(&self.dir, self.address).await);
    }

    /// Runs the real kubectl and returns what it printed.
    pub async fn kubectl(&self, arguments: &[&str]) -> String {
        let mut command = tokio::process::Command::new("kubectl");
        command.arg("--kubeconfig").arg(self.dir.path().join("data/admin.kubeconfig"));
        command.arg("--cache-dir").arg(self.dir.path().join("cache")).args(arguments).kill_on_drop(true);
        let output = tokio::time::timeout(WAIT, command.output()).await.expect("kubectl ends in time").expect("kubectl runs");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {arguments:?}: {errors}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Any request: status code and body.
    pub async fn call(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        call(&self.client, method, path, body).await
    }

    /// A request that must succeed.
    pub async fn ok(&self, method: &str, path: &str, body: Value) -> Value {
        let (code, answer) = self.call(method, path, &body).await;
        assert!((200..300).contains(&code), "{method} {path}: {code} {answer}");
        answer
    }

    /// The object at `path`, or null.
    pub async fn get(&self, path: &str) -> Value {
        match self.call("GET", path, &Value::Null).await {
            (404, _) => Value::Null,
            (200, object) => object,
            (code, answer) => panic!("GET {path}: {code} {answer}"),
        }
    }

    pub async fn items(&self, path: &str) -> Vec<Value> {
        self.get(path).await["items"].as_array().cloned().unwrap_or_default()
    }

    /// Asks until `test` has an answer.
    #[track_caller]
    pub fn until<'a, T>(&'a self, path: &'a str, test: impl Fn(&Value) -> Option<T> + 'a) -> impl Future<Output = T> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            let start = Instant::now();
            loop {
                let now = self.get(path).await;
                if let Some(answer) = test(&now) {
                    return answer;
                }
                assert!(start.elapsed() < WAIT, "{caller}: waited in vain; {path} is {now:#}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }

    /// Waits until `value` of the object is `expected`.
    #[track_caller]
    pub fn reaches<'a, T: PartialEq + Debug + 'a>(
        &'a self,
        path: &'a str,
        value: impl Fn(&Value) -> T + 'a,
        expected: T,
    ) -> impl Future<Output = ()> + 'a {
        self.until(path, move |object| (value(object) == expected).then_some(()))
    }

    pub async fn add_node(&self, name: &str) {
        self.kubelet.alive.lock().unwrap().insert(name.to_owned());
        let node =
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}});
        self.ok("POST", "/api/v1/nodes", node).await;
        let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}, "spec": {"holderIdentity": name}});
        self.ok("POST", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", lease).await;
        self.set_ready(name).await;
    }

    /// What a kubelet says when it starts.
    pub async fn set_ready(&self, name: &str) {
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let status = json!({"status": {
            "allocatable": {"cpu": "8", "memory": "16Gi", "pods": "110"}, "capacity": {"cpu": "8", "memory": "16Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "", "lastHeartbeatTime": now, "lastTransitionTime": now}],
        }});
        self.ok("PATCH", &format!("/api/v1/nodes/{name}/status"), status).await;
    }

    /// From now on the node is silent.
    pub fn silence(&self, name: &str) {
        self.kubelet.alive.lock().unwrap().remove(name);
    }

    pub async fn wake(&self, name: &str) {
        self.kubelet.alive.lock().unwrap().insert(name.to_owned());
        self.set_ready(name).await;
    }

    /// A deployment and a service of that name in `namespace`.
    pub async fn deploy(&self, namespace: &str, name: &str, replicas: i32, image: &str) {
        self.ok("POST", &deployments(namespace), deployment(name, replicas, image)).await;
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]}});
        self.ok("POST", &format!("/api/v1/namespaces/{namespace}/services"), service).await;
    }

    /// Addresses of the service's endpoints that are ready, sorted.
    pub async fn ready_endpoints(&self, namespace: &str, service: &str) -> Vec<String> {
        ready_addresses(&self.get(&slices(namespace, service)).await)
    }
}

pub fn deployments(namespace: &str) -> String {
    format!("/apis/apps/v1/namespaces/{namespace}/deployments")
}

pub fn slices(namespace: &str, service: &str) -> String {
    format!(
        "/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices?labelSelector=kubernetes.io/service-name={service}"
    )
}

pub fn ready_addresses(slices: &Value) -> Vec<String> {
    let endpoints =
        slices["items"].as_array().into_iter().flatten().flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
    let ready = endpoints.filter(|endpoint| endpoint["conditions"]["ready"] == true);
    let mut addresses: Vec<String> =
        ready.filter_map(|endpoint| endpoint["addresses"][0].as_str().map(str::to_owned)).collect();
    addresses.sort();
    addresses
}

pub fn deployment(name: &str, replicas: i32, image: &str) -> Value {
    let labels = json!({"app": name});
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "labels": labels}, "spec": {
        "replicas": replicas, "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {
            "terminationGracePeriodSeconds": 1,
            "tolerations": [{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1}],
            "containers": [{"name": "main", "image": image, "ports": [{"name": "http", "containerPort": 8080}]}],
        }},
    }})
}

/// The status of a condition, such as `True NewReplicaSetAvailable`.
pub fn condition(object: &Value, kind: &str) -> String {
    let mut conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    let found = conditions.find(|condition| condition["type"] == kind);
    found.map_or(String::new(), |found| {
        format!("{} {}", found["status"].as_str().unwrap(), found["reason"].as_str().unwrap_or_default())
    })
}

pub fn names(items: &[Value]) -> Vec<String> {
    items.iter().map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

async fn serve(dir: &TempDir, address: SocketAddr) -> (JoinHandle<anyhow::Result<()>>, CancellationToken) {
    let config = thalweg_apiserver::Config {
        data: dir.path().join("data"),
        listen: vec![address],
        inherit: false,
        advertise: "172.30.0.1:6443".parse().expect("an address"),
        service_cidr: "10.96.0.0/16".parse().expect("a network"),
        node_ports: (30000, 32767),
        sans: Vec::new(),
        token_file: None,
    };
    let shutdown = CancellationToken::new();
    let (ready, is_ready) = oneshot::channel();
    let task = tokio::spawn(thalweg_apiserver::run(config, ready, shutdown.clone()));
    if tokio::time::timeout(WAIT, is_ready).await.expect("ready in time").is_err() {
        panic!("the server did not start: {:?}", task.await);
    }
    (task, shutdown)
}

async fn end(task: impl Future<Output = anyhow::Result<()>>) {
    if let Err(error) = task.await {
        panic!("a part of the cluster ended: {error:#}");
    }
}

async fn call(client: &Client, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let content = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let request =
        http::Request::builder().method(method).uri(path).header("content-type", content).body(bytes).expect("a request");
    match client.request::<Value>(request).await {
        Ok(answer) => (200, answer),
        Err(kube::Error::Api(status)) => (status.code, json!(status)),
        // The server is away, as a test may want it.
        Err(error) => (0, json!(error.to_string())),
    }
}

/// Runs pods (those of the image `broken` never become ready): an address and readiness soon after they are bound, gone soon after they are told to.
async fn run_pods(client: Client, kubelet: Arc<Kubelet>) {
    let mut events =
        watcher(Api::<Pod>::all(client.clone()), watcher::Config::default()).default_backoff().applied_objects().boxed();
    while let Some(event) = events.next().await {
        let Ok(pod) = event else { continue };
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
        if !kubelet.alive.lock().unwrap_or_else(PoisonError::into_inner).contains(&node) {
            continue;
        }
        let meta = &pod.metadata;
        let path = format!("/api/v1/namespaces/{}/pods/{}", meta.namespace.as_deref().unwrap(), meta.name.as_deref().unwrap());
        if meta.deletion_timestamp.is_some() {
            let client = client.clone();
            let uid = meta.uid.clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(100)).await;
                let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0, "preconditions": {"uid": uid}});
                call(&client, "DELETE", &path, &options).await;
            });
            continue;
        }
        let held = pod
            .spec
            .as_ref()
            .is_some_and(|spec| spec.containers.iter().any(|container| container.image.as_deref() == Some("broken")));
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending");
        if phase != "Pending" {
            continue;
        }
        let address = {
            let mut next = kubelet.next_address.lock().unwrap();
            *next += 1;
            format!("10.244.{}.{}", *next / 200, *next % 200 + 1)
        };
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let ready = json!({"type": "Ready", "status": if held { "False" } else { "True" }, "lastTransitionTime": now});
        let status = json!({"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "startTime": now,
            "conditions": [{"type": "PodScheduled", "status": "True", "lastTransitionTime": now}, ready]}});
        call(&client, "PATCH", &format!("{path}/status"), &status).await;
    }
}

/// Renews the leases of all living nodes.
async fn beat(client: Client, kubelet: Arc<Kubelet>) {
    loop {
        let alive = kubelet.alive.lock().unwrap().clone();
        for name in alive {
            let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
            let path = format!("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{name}");
            call(&client, "PATCH", &path, &json!({"spec": {"renewTime": now}})).await;
        }
        tokio::time::sleep(BEAT).await;
    }
}
