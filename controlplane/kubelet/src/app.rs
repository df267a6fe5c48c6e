//! Wires the kubelet together.

use std::sync::Arc;

use anyhow::{Context, Result};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::{WatchStreamExt, watcher};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::api::{KubeApi, WATCH_LASTS};
use crate::config::Config;
use crate::events::Recorder;
use crate::logs::LogIndex;
use crate::manager::Manager;
use crate::node::{Machine, Registration};
use crate::pod::dns::{Resolvers, parse_resolv_conf};
use crate::process::{Helper, ProcessOptions, ProcessRuntime};
use crate::server::Server;
use crate::services::Services;
use crate::worker::{Node, Settings};

/// Runs the kubelet until `shutdown`. `ready` is told when the node is registered and pods are followed.
///
/// # Errors
/// When something of the node itself is not as it must be: the kubeconfig, the cgroup, the state directory, the port.
/// An API server that is away is no error: it is waited for.
pub async fn run(config: Config, ready: oneshot::Sender<()>, shutdown: CancellationToken) -> Result<()> {
    let root = absolute(&config.root)?;
    let (client, authorities) = connect(&config).await?;
    let helper = match config.helper.clone() {
        Some(helper) => helper,
        None => Helper::current_exe().context("find this executable, to start containers with it")?,
    };
    let options = ProcessOptions {
        root: root.clone(),
        cgroup: config.cgroup.clone(),
        cni_bin_dir: config.cni_bin_dir.clone(),
        cni_conf_dir: config.cni_conf_dir.clone(),
        helper,
    };
    let runtime = Arc::new(ProcessRuntime::new(options).context("prepare the process runtime")?);
    let machine = Machine::look(&root);
    let server = match config.listen {
        Some(listen) => Some(Server::bind(listen, &config.node, config.address, &authorities).await?),
        None => None,
    };
    let listen = server.as_ref().map(Server::local_addr).transpose().context("read the listening address")?;

    let api = Arc::new(KubeApi(client.clone()));
    let recorder = Recorder::start(api.clone(), &config.node);
    let (services, follow_services) = Services::follow(client.clone());
    let logs = Arc::new(LogIndex::default());
    let node = Arc::new(Node {
        runtime: runtime.clone(),
        api,
        recorder: recorder.clone(),
        services,
        logs: logs.clone(),
        settings: settings(&config, &machine, root),
    });
    let registration = Registration {
        client: client.clone(),
        runtime,
        recorder,
        name: config.node.clone(),
        address: config.address,
        listen,
        labels: config.labels.clone(),
        max_pods: config.max_pods,
        machine,
    };
    let commands = registration.runtime.clone();
    let manager = Manager::new(node).await.context("find the pods of the last run")?;

    let serve = async {
        match server {
            Some(server) => server.run(logs, commands).await,
            None => std::future::pending().await,
        }
    };
    let register = async {
        registration.register().await;
        tracing::info!(node = config.node, "registered");
        let _ = ready.send(());
        tokio::join!(registration.keep_status(), registration.keep_lease());
    };
    tokio::select! {
        // The manager alone ends by itself: at the shutdown, when it is done with the pods.
        () = manager.run(pods(client, &config.node), shutdown, config.stop_pods_on_exit) => {}
        () = async { tokio::join!(register, follow_services, serve); } => {}
    }
    Ok(())
}

async fn connect(config: &Config) -> Result<(kube::Client, Vec<Vec<u8>>)> {
    let path = &config.kubeconfig;
    let file = Kubeconfig::read_from(path).with_context(|| format!("read the kubeconfig {}", path.display()))?;
    let kube = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .with_context(|| format!("use the kubeconfig {}", path.display()))?;
    let authorities = kube.root_cert.clone().unwrap_or_default();
    let client = kube::Client::try_from(kube).with_context(|| format!("make a client from {}", path.display()))?;
    Ok((client, authorities))
}

/// The pods bound to this node, for ever: a watch that breaks begins again with a growing pause.
fn pods(client: kube::Client, node: &str) -> impl futures::Stream<Item = watcher::Event<Pod>> + use<> {
    let selector = watcher::Config::default().fields(&format!("spec.nodeName={node}")).timeout(WATCH_LASTS);
    watcher(kube::Api::<Pod>::all(client), selector)
        .default_backoff()
        .filter_map(|event| async { event.inspect_err(|e| tracing::debug!(error = %e, "the watch of pods begins again")).ok() })
}

fn settings(config: &Config, machine: &Machine, root: std::path::PathBuf) -> Settings {
    let node_dns = std::fs::read_to_string(&config.resolv_conf).unwrap_or_default();
    Settings {
        node: config.node.clone(),
        host_ips: vec![config.address],
        root,
        resolvers: Resolvers {
            cluster_dns: config.cluster_dns.clone(),
            cluster_domain: config.cluster_domain.clone(),
            node: parse_resolv_conf(&node_dns),
        },
        backoff: config.backoff,
        cpu: machine.cpus * 1000,
        memory: machine.memory,
    }
}

/// Helpers and plugins get paths, and run elsewhere.
fn absolute(root: &std::path::Path) -> Result<std::path::PathBuf> {
    std::fs::create_dir_all(root).with_context(|| format!("make the state directory {}", root.display()))?;
    root.canonicalize().with_context(|| format!("find the state directory {}", root.display()))
}
