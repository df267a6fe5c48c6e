//! What the kubelet is told when it starts.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use crate::pod::backoff::BackoffConfig;
use crate::process::Helper;

#[derive(Debug, Clone)]
pub struct Config {
    /// How to reach the API server; its certificate authority is also the one whose clients may read logs.
    pub kubeconfig: PathBuf,
    /// The Node object's name.
    pub node: String,
    /// The node's InternalIP; pods on the node's network have it.
    pub address: IpAddr,
    /// State: sandboxes, volumes, logs. It must be the same over restarts.
    pub root: PathBuf,
    pub cni_bin_dir: PathBuf,
    pub cni_conf_dir: PathBuf,
    /// The node's cgroup, in a cgroup2 file system; pods are in `kubepods/pod<uid>` below it.
    pub cgroup: PathBuf,
    /// The nameservers of ClusterFirst pods.
    pub cluster_dns: Vec<IpAddr>,
    pub cluster_domain: String,
    /// The API server reads logs here, over TLS. None: no server (and no `kubectl logs`).
    pub listen: Option<SocketAddr>,
    /// Added to the node's labels.
    pub labels: BTreeMap<String, String>,
    pub max_pods: u32,
    /// Containers that keep ending.
    pub backoff: BackoffConfig,
    /// On shutdown, stop all pods and remove every trace; otherwise they keep running, for the next start to take over.
    pub stop_pods_on_exit: bool,
    /// The resolv.conf of the node, for pods that do not use the cluster's DNS.
    pub resolv_conf: PathBuf,
    /// The executable with the hidden subcommands; None: the one that runs now.
    pub helper: Option<Helper>,
}

// === impl Config ===

impl Config {
    /// The usual values for everything that has one.
    pub fn new(kubeconfig: PathBuf, node: String, address: IpAddr, root: PathBuf, cgroup: PathBuf) -> Self {
        Self {
            kubeconfig,
            node,
            address,
            root,
            cgroup,
            cni_bin_dir: "/opt/cni/bin".into(),
            cni_conf_dir: "/etc/cni/net.d".into(),
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".into(),
            listen: Some(SocketAddr::new(address, 10250)),
            labels: BTreeMap::new(),
            max_pods: 110,
            backoff: BackoffConfig::default(),
            stop_pods_on_exit: false,
            resolv_conf: "/etc/resolv.conf".into(),
            helper: None,
        }
    }
}
