//! The real API server and the whole kubelet, in this process.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::Value;
use thalweg_kubelet::Config;
use thalweg_kubelet::process::Helper;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::common::Node as Machine;

/// Something that runs until it is told to stop.
pub struct Running {
    shutdown: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Running {
    pub async fn stop(self) {
        self.shutdown.cancel();
        let result = tokio::time::timeout(Duration::from_secs(60), self.task).await.expect("stops in time").expect("task");
        result.expect("ends well");
    }
}

pub async fn server(data: &Path) -> Running {
    let listen: SocketAddr = "127.0.0.1:6443".parse().expect("address");
    let config = thalweg_apiserver::Config {
        data: data.to_owned(),
        listen: vec![listen],
        inherit: false,
        advertise: listen,
        service_cidr: "10.96.0.0/16".parse().expect("cidr"),
        node_ports: (30000, 32767),
        sans: vec![],
        token_file: None,
    };
    let (ready, started) = oneshot::channel();
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(thalweg_apiserver::run(config, ready, shutdown.clone()));
    tokio::time::timeout(Duration::from_secs(30), started).await.expect("server starts").expect("server");
    Running { shutdown, task }
}

pub async fn kubelet(machine: &Machine, kubeconfig: PathBuf, stop_pods_on_exit: bool) -> Running {
    let address = "10.77.0.1".parse().expect("address");
    let options = machine.options();
    let mut config = Config::new(kubeconfig, "node1".into(), address, options.root, options.cgroup);
    config.cni_bin_dir = options.cni_bin_dir;
    config.cni_conf_dir = options.cni_conf_dir;
    config.helper = Some(Helper::of(env!("CARGO_BIN_EXE_thalweg-kubelet-helper").into()));
    config.labels = [("zone".to_owned(), "a".to_owned())].into();
    config.stop_pods_on_exit = stop_pods_on_exit;
    let (ready, started) = oneshot::channel();
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(thalweg_kubelet::run(config, ready, shutdown.clone()));
    tokio::time::timeout(Duration::from_secs(30), started).await.expect("kubelet starts").expect("kubelet");
    Running { shutdown, task }
}

pub async fn client(kubeconfig: &Path) -> kube::Client {
    let file = Kubeconfig::read_from(kubeconfig).expect("kubeconfig");
    let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.expect("config");
    kube::Client::try_from(config).expect("client")
}

/// Asks until the answer fits; whatever goes wrong on the way is asked again.
pub async fn until<T>(what: &str, seconds: u64, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..seconds * 20 {
        if let Some(answer) = ask().await {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("not within {seconds} s: {what}");
}

pub fn condition(status: &Value, kind: &str) -> bool {
    status["conditions"].as_array().is_some_and(|c| c.iter().any(|c| c["type"] == kind && c["status"] == "True"))
}
