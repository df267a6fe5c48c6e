//! The command line of `thalweg proxy`.

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use thalweg_proxy::config::{self, Flags, KubeProxyConfiguration, Settings};

use crate::addresses::NodeAddresses;
use crate::datapath::DatapathArgs;
use crate::interfaces::{self, Local, Routes};

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

// === impl ProxyArgs ===

impl ProxyArgs {
    /// The file and the flags, merged and checked.
    ///
    /// # Errors
    /// Names the file, or every field that makes no sense.
    pub fn configure(&self) -> Result<(KubeProxyConfiguration, Settings)> {
        let file = match &self.config {
            Some(path) => {
                let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
                Some(config::decode(&text).with_context(|| format!("--config {}", path.display()))?)
            }
            None => None,
        };
        let (config, notes) = config::merge(file, self.flags.clone());
        let mut settings = Settings::new(&config).context("configuration")?;
        settings.notes.splice(..0, notes);
        Ok((config, settings))
    }

    /// This node's addresses: said on the command line, or in the configuration, or found.
    ///
    /// # Errors
    /// When there are none, or they cannot be a node's.
    pub fn node_addresses(&self, settings: &Settings, local: &Local) -> Result<NodeAddresses> {
        let said = NodeAddresses::new(&self.node_address)?;
        if !said.is_empty() {
            return Ok(said);
        }
        let configured: Vec<IpAddr> = settings.node_address.into_iter().collect();
        let found = NodeAddresses::new(&configured)?.or(interfaces::primary(local, &Routes::read()));
        if found.is_empty() {
            bail!("this machine has no address but loopback: give --node-address and --uplink");
        }
        Ok(found)
    }
}
