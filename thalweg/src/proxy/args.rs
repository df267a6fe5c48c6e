//! The command line of `thalweg proxy`.

use std::net::IpAddr;
use std::path::PathBuf;

use thalweg_proxy::config::Flags;

use crate::datapath::DatapathArgs;

#[derive(clap::Args, Debug)]
pub struct ProxyArgs {
    /// A KubeProxyConfiguration (kubeproxy.config.k8s.io/v1alpha1); then flags that it could contain are ignored.
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// Remove everything that a proxy left on this node, and end.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false)]
    pub cleanup: bool,
    /// Do what needs all privileges, and end: there is no such step here.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false)]
    pub init_only: bool,
    /// Write the default configuration here, and end.
    #[arg(long)]
    pub write_config_to: Option<PathBuf>,
    /// Not taken: the kubeconfig says where the API server is.
    #[arg(long, hide = true)]
    pub master: Option<String>,
    #[command(flatten)]
    pub flags: Flags,
    /// Read the cluster's state from a YAML file or directory instead of an API server: `file:PATH`.
    #[arg(long, value_name = "file:PATH")]
    pub source: Option<String>,
    /// This node's addresses, one or one of each family: the sources of translated flows (default: bindAddress, and
    /// those of the default routes).
    #[arg(long, value_delimiter = ',')]
    pub node_address: Vec<IpAddr>,
    /// Interfaces that packets for services and the answers of pods come in by, as names or starts of names with a
    /// `*` (default: those that have an address). The pods' own, when detectLocalMode names them, always belong to them.
    #[arg(long, value_delimiter = ',')]
    pub uplink: Vec<String>,
    #[command(flatten)]
    pub datapath: DatapathArgs,
    /// When one mode takes over from the other: how long flows of that one may go on, in seconds.
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    pub drain_timeout: u64,
    /// What is remembered for as long as the machine runs: which ports have been reserved.
    #[arg(long, default_value = "/run/thalweg")]
    pub run: PathBuf,
}
