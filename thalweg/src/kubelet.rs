//! `thalweg kubelet`: options into the kubelet's configuration.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::Result;
use tokio::sync::oneshot;

use crate::shutdown_signal;

#[derive(clap::Args, Debug)]
pub struct KubeletArgs {
    /// Name of this node in the cluster.
    #[arg(long, env = "NODE_NAME")]
    node: String,
    #[arg(long)]
    kubeconfig: PathBuf,
    /// This node's address (InternalIP).
    #[arg(long)]
    address: IpAddr,
    /// Pod directories, volumes and logs.
    #[arg(long, default_value = "/var/lib/thalweg/kubelet")]
    root: PathBuf,
    #[arg(long, default_value = "/opt/cni/bin")]
    cni_bin_dir: PathBuf,
    #[arg(long, default_value = "/etc/cni/net.d")]
    cni_conf_dir: PathBuf,
    /// The node's control group (cgroup2); pods are made below it.
    #[arg(long)]
    cgroup: PathBuf,
    /// Name servers in the pods' resolv.conf.
    #[arg(long)]
    cluster_dns: Vec<IpAddr>,
    #[arg(long, default_value = "cluster.local")]
    cluster_domain: String,
    /// Where logs and health are served over TLS (default: port 10250 of the node's address).
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// Labels of the node, `key=value`.
    #[arg(long = "label", value_parser = label)]
    labels: Vec<(String, String)>,
    #[arg(long, default_value_t = 110)]
    max_pods: u32,
    /// End and remove all pods when the kubelet ends; without it they keep running, as with any kubelet.
    #[arg(long)]
    stop_pods_on_exit: bool,
}

pub async fn run(args: KubeletArgs) -> Result<()> {
    let shutdown = shutdown_signal()?;
    let listen = args.listen.unwrap_or_else(|| SocketAddr::new(args.address, 10250));
    let config = thalweg_kubelet::Config {
        cni_bin_dir: args.cni_bin_dir,
        cni_conf_dir: args.cni_conf_dir,
        cluster_dns: args.cluster_dns,
        cluster_domain: args.cluster_domain,
        listen: Some(listen),
        labels: args.labels.into_iter().collect(),
        max_pods: args.max_pods,
        stop_pods_on_exit: args.stop_pods_on_exit,
        ..thalweg_kubelet::Config::new(args.kubeconfig, args.node, args.address, args.root, args.cgroup)
    };
    let (ready, is_ready) = oneshot::channel();
    tokio::spawn(async move {
        if is_ready.await.is_ok() {
            tracing::info!("the node is registered");
        }
    });
    thalweg_kubelet::run(config, ready, shutdown).await
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("{text:?}: a label is key=value"))?;
    Ok((key.to_owned(), value.to_owned()))
}
