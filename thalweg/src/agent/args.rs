//! The command line of `thalweg agent`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnetwork::IpNetwork;

use crate::backend::ProxyMode;
use crate::datapath::DatapathArgs;
use crate::dns::CorefileArgs;
use crate::monitor;

#[derive(clap::Args, Debug)]
pub struct AgentArgs {
    /// Name of this node in the cluster.
    #[arg(long, env = "NODE_NAME")]
    pub node: String,
    /// Where the cluster's state comes from: a kubeconfig (without one: the service account of this pod, or $KUBECONFIG).
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// Read the cluster's state from a YAML file or directory instead: `file:PATH`.
    #[arg(long, conflicts_with = "kubeconfig", value_name = "file:PATH")]
    pub source: Option<String>,
    /// This node's addresses, one or one of each family: NodePorts are served on them, and DNS listens on them.
    #[arg(long, value_delimiter = ',', required = true)]
    pub node_address: Vec<IpAddr>,
    /// Ranges of further addresses that serve NodePorts while this node has them: addresses that come and go are followed. With
    /// eBPF, who is outside reaches them through the uplink only.
    #[arg(long, value_delimiter = ',', value_name = "CIDR")]
    pub node_port_addresses: Vec<IpNetwork>,
    /// Interface that reaches the other nodes.
    #[arg(long)]
    pub uplink: String,
    /// MTU of the pods' links (default: that of the uplink).
    #[arg(long)]
    pub mtu: Option<u32>,
    #[command(flatten)]
    pub datapath: DatapathArgs,
    /// How services are served. Flows that another mode began on this node go on.
    #[arg(long, value_enum, default_value = "auto")]
    pub proxy_mode: ProxyMode,
    /// When one mode takes over from the other: how long flows of that one may go on, in seconds.
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    pub drain_timeout: u64,
    /// What must outlive a restart: the journal of pod addresses.
    #[arg(long, default_value = "/var/lib/thalweg")]
    pub state: PathBuf,
    /// Unix sockets: cni.sock and agent.sock.
    #[arg(long, default_value = "/run/thalweg")]
    pub run: PathBuf,
    /// The cluster's DNS domain.
    #[arg(long, default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Port of DNS on the node's address; 0 leaves DNS to somebody else.
    #[arg(long, default_value_t = 53)]
    pub dns_port: u16,
    /// Service whose virtual IP is answered by this node's own DNS.
    #[arg(long, default_value = "kube-system/kube-dns")]
    pub dns_service: String,
    /// Name servers for names outside the cluster; without one they are refused.
    #[arg(long)]
    pub dns_upstream: Vec<SocketAddr>,
    /// Seconds that clients may keep an answer.
    #[arg(long, default_value_t = 30)]
    pub dns_ttl: u32,
    #[command(flatten)]
    pub corefile: CorefileArgs,
    /// Address of /healthz and /livez; empty turns them off.
    #[arg(long, default_value = "0.0.0.0:10256", value_parser = monitor::address)]
    pub healthz_bind_address: monitor::Address,
    /// Address of /metrics; empty turns it off.
    #[arg(long, default_value = "127.0.0.1:10249", value_parser = monitor::address)]
    pub metrics_bind_address: monitor::Address,
    /// Install the CNI configuration here once the node's network is ready.
    #[arg(long, requires = "cni_bin_dir")]
    pub cni_conf_dir: Option<PathBuf>,
    /// Install the CNI plugin here.
    #[arg(long, requires = "cni_plugin")]
    pub cni_bin_dir: Option<PathBuf>,
    /// The thalweg-cni executable to install.
    #[arg(long)]
    pub cni_plugin: Option<PathBuf>,
}

// === impl AgentArgs ===

impl AgentArgs {
    pub fn drain_timeout(&self) -> Duration {
        Duration::from_secs(self.drain_timeout)
    }
}
