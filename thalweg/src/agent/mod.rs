//! `thalweg agent`: one copy of the cluster's state, three consumers: service proxy, DNS, pod network.

pub mod admin;
mod pods;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use thalweg_cluster::{Batch, Dirty, Name};
use thalweg_network::PodNetwork;
use thalweg_proxy::config::KubeProxyConfiguration;
use thalweg_proxy::{EbpfBackend, NodeView, Proxy, Redirect};
use tokio::sync::mpsc;

use crate::addresses::NodeAddresses;
use crate::monitor::{self, Monitor};
use crate::services::{Services, source_ended, until};
use crate::{datapath, shutdown_signal};
use admin::Board;
use pods::PodAttacher;

/// How long the address of a removed pod rests before another pod may get it.
const QUARANTINE: Duration = Duration::from_secs(30);
/// How long a change of services may wait before the node is unhealthy, as with kube-proxy's defaults.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(60);
/// How often flows are expired and freed ranges reused.
const SWEEP: Duration = Duration::from_secs(5);

#[derive(clap::Args, Debug)]
pub struct AgentArgs {
    /// Name of this node in the cluster.
    #[arg(long, env = "NODE_NAME")]
    node: String,
    /// Where the cluster's state comes from: a kubeconfig (without one: the service account of this pod, or $KUBECONFIG).
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// Read the cluster's state from a YAML file or directory instead: `file:PATH`.
    #[arg(long, conflicts_with = "kubeconfig", value_name = "file:PATH")]
    source: Option<String>,
    /// This node's addresses, one or one of each family: NodePorts are served on them, and DNS listens on them.
    #[arg(long, value_delimiter = ',', required = true)]
    node_address: Vec<IpAddr>,
    /// Interface that reaches the other nodes.
    #[arg(long)]
    uplink: String,
    /// MTU of the pods' links (default: that of the uplink).
    #[arg(long)]
    mtu: Option<u32>,
    /// Folder of pinned programs, links and maps; a bpffs is mounted there when it is not on one.
    #[arg(long, default_value = "/sys/fs/bpf/thalweg")]
    bpffs: PathBuf,
    /// Control group whose processes get socket load balancing (default: the root of cgroup2).
    #[arg(long)]
    cgroup: Option<PathBuf>,
    /// What must outlive a restart: the journal of pod addresses.
    #[arg(long, default_value = "/var/lib/thalweg")]
    state: PathBuf,
    /// Unix sockets: cni.sock and agent.sock.
    #[arg(long, default_value = "/run/thalweg")]
    run: PathBuf,
    /// Translate at the socket; without it tc does all the work.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    socket_lb: bool,
    /// The cluster's DNS domain.
    #[arg(long, default_value = "cluster.local")]
    cluster_domain: String,
    /// Port of DNS on the node's address; 0 leaves DNS to somebody else.
    #[arg(long, default_value_t = 53)]
    dns_port: u16,
    /// Service whose virtual IP is answered by this node's own DNS.
    #[arg(long, default_value = "kube-system/kube-dns")]
    dns_service: String,
    /// Name servers for names outside the cluster; without one they are refused.
    #[arg(long)]
    dns_upstream: Vec<SocketAddr>,
    /// Seconds that clients may keep an answer.
    #[arg(long, default_value_t = 30)]
    dns_ttl: u32,
    /// Address of /healthz and /livez; empty turns them off.
    #[arg(long, default_value = "0.0.0.0:10256", value_parser = monitor::address)]
    healthz_bind_address: monitor::Address,
    /// Address of /metrics; empty turns it off.
    #[arg(long, default_value = "127.0.0.1:10249", value_parser = monitor::address)]
    metrics_bind_address: monitor::Address,
    /// Install the CNI configuration here once the node's network is ready.
    #[arg(long, requires = "cni_bin_dir")]
    cni_conf_dir: Option<PathBuf>,
    /// Install the CNI plugin here.
    #[arg(long, requires = "cni_plugin")]
    cni_bin_dir: Option<PathBuf>,
    /// The thalweg-cni executable to install.
    #[arg(long)]
    cni_plugin: Option<PathBuf>,
}

/// Everything that one batch of changes is handed to.
struct Agent {
    args: AgentArgs,
    services: Services<EbpfBackend>,
    dns: Option<Arc<thalweg_dns::Server>>,
    network: PodNetwork,
    board: Board,
    /// The CNI configuration has been installed.
    installed: bool,
}

pub async fn run(args: AgentArgs) -> Result<()> {
    let shutdown = shutdown_signal()?;
    let source = datapath::source(args.source.as_deref(), args.kubeconfig.as_deref(), &args.node)?;
    for dir in [&args.state, &args.run] {
        std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    }
    let (mut agent, _socket) = Agent::start(args)?;

    let (sink, mut batches) = mpsc::channel(64);
    let watching = tokio::spawn(source.run(sink));
    let mut sweep = tokio::time::interval(SWEEP);
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            batch = batches.recv() => match batch {
                Some(batch) => agent.take(batch, &mut batches),
                None => return source_ended(watching).await,
            },
            () = until(agent.services.next_deadline()) => { agent.apply(&Dirty::default(), None); }
            _ = sweep.tick() => agent.sweep(),
        }
    }
    // Programs, links and maps stay: packets do not notice that the agent is gone.
    tracing::info!("stopping; the data path stays");
    watching.abort();
    agent.network.shutdown();
    if let Some(dns) = &agent.dns {
        dns.shutdown();
    }
    Ok(())
}

// === impl Agent ===

impl Agent {
    fn start(args: AgentArgs) -> Result<(Self, admin::Socket)> {
        let node = NodeAddresses::new(&args.node_address)?;
        let mut datapath = datapath::open(&args.bpffs, args.cgroup.as_deref(), node, args.socket_lb)?;

        let redirect = (args.dns_port != 0).then(|| Redirect {
            service: parse_name(&args.dns_service),
            to: node.all().into_iter().map(|address| SocketAddr::new(address, args.dns_port)).collect(),
        });
        let view = NodeView {
            node: args.node.as_str().into(),
            addresses: node.all(),
            zone: None,
            redirect,
            localhost_node_ports: true,
        };
        let proxy = Proxy::new(datapath::backend(&datapath)?, view.clone());

        let dns = match args.dns_port {
            0 => None,
            port => {
                let options = thalweg_dns::Options {
                    listen: node.all().into_iter().map(|address| SocketAddr::new(address, port)).collect(),
                    zone: args.cluster_domain.clone(),
                    ttl: args.dns_ttl,
                    upstreams: args.dns_upstream.clone(),
                    workers: 1,
                };
                Some(Arc::new(thalweg_dns::Server::start(options)?))
            }
        };

        datapath.attach_cgroup().context("attach to the control group")?;
        datapath.attach_uplink(&args.uplink).context("attach to the uplink")?;
        let maps = datapath.maps()?;
        let attacher = Arc::new(PodAttacher::new(datapath)?);
        let network = PodNetwork::start(
            thalweg_network::Options {
                socket: args.run.join("cni.sock"),
                state_dir: args.state.clone(),
                node: args.node.clone(),
                uplink: args.uplink.clone(),
                mtu: args.mtu,
                quarantine: QUARANTINE,
            },
            Arc::clone(&attacher) as Arc<dyn thalweg_network::PodDatapath>,
        )
        .context("start the pod network")?;
        attacher.keep_only(&network.pods());

        let board = Board::new()?;
        board.update(|figures| {
            figures.mode = "ebpf".to_owned();
            figures.node_addresses = node.all();
            figures.socket_lb = Some(args.socket_lb);
        });
        let dns_stats = dns.clone();
        let socket = admin::serve(&args.run.join("agent.sock"), board.clone(), move |figures| {
            if let Some(dns) = &dns_stats {
                let stats = dns.stats();
                figures.dns = admin::DnsFigures {
                    udp: stats.udp,
                    tcp: stats.tcp,
                    answered: stats.answered,
                    nxdomain: stats.nxdomain,
                    nodata: stats.nodata,
                    servfail: stats.servfail,
                    names: stats.names,
                };
            }
        })?;
        let monitor = Monitor::start(monitor::Options {
            node: args.node.clone(),
            healthz: args.healthz_bind_address.0,
            metrics: args.metrics_bind_address.0,
            hard_fail: false,
            health_timeout: HEALTH_TIMEOUT,
            mode: "ebpf",
            config: KubeProxyConfiguration {
                hostname_override: args.node.clone(),
                bind_address: args.node_address.first().map(ToString::to_string).unwrap_or_default(),
                healthz_bind_address: args.healthz_bind_address.to_string(),
                metrics_bind_address: args.metrics_bind_address.to_string(),
                mode: "ebpf".to_owned(),
                ..KubeProxyConfiguration::defaults()
            },
            pins: Some(args.bpffs.clone()),
        })?;
        let services = Services::new(proxy, view, Some(maps), monitor);
        let agent = Self { args, services, dns, network, board, installed: false };
        Ok((agent, socket))
    }

    /// Takes in a batch, together with those that wait behind it, and brings everything to it.
    fn take(&mut self, first: Batch, waiting: &mut mpsc::Receiver<Batch>) {
        let Some(taken) = self.services.take(first, waiting) else { return };
        let written = self.apply(&taken.dirty, Some(taken.received));
        // The first sync is a figure of its own.
        if written && !taken.first {
            self.board.changed(taken.received.elapsed());
        }
        // Names after addresses: what a name answers must be reachable.
        if let Some(dns) = &self.dns {
            dns.publish(&self.services.world, &taken.dirty);
            if taken.first {
                dns.mark_synced();
            }
        }
        self.services.follow(&taken.dirty);
        if taken.first {
            self.first_sync(taken.received);
        }
        if !taken.dirty.nodes.is_empty() {
            self.follow_nodes();
        }
    }

    /// Brings the maps to the world; `received` is when the cause arrived. True when something was written.
    fn apply(&mut self, dirty: &Dirty, received: Option<Instant>) -> bool {
        let outcome = self.services.apply(dirty, received);
        let services = self.services.world.services().count();
        self.board.update(|figures| {
            figures.failures = outcome.failures;
            figures.services = services;
        });
        outcome.changed
    }

    fn first_sync(&mut self, received: Instant) {
        let micros = u64::try_from(received.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.services.mark_synced();
        self.board.update(|figures| {
            figures.synced = true;
            figures.first_sync_us = micros;
        });
        tracing::info!(services = self.services.world.services().count(), micros, "synced");
    }

    /// Routes to the other nodes, and this node's own address ranges; then pods may come.
    fn follow_nodes(&mut self) {
        if let Err(error) = self.network.update_nodes(&self.services.world) {
            tracing::error!("routes to the other nodes: {error}");
        }
        let Some(node) = self.services.world.node(&self.args.node) else { return };
        if node.pod_cidrs.is_empty() {
            return;
        }
        if let Err(error) = self.network.set_pod_cidrs(node.pod_cidrs.clone()) {
            tracing::error!("this node's pod addresses: {error}");
            return;
        }
        if self.installed {
            return;
        }
        match self.install() {
            Ok(()) => self.installed = true,
            Err(error) => tracing::error!("install the CNI plugin: {error:#}"),
        }
    }

    fn install(&self) -> Result<()> {
        let (Some(bin), Some(conf), Some(plugin)) = (&self.args.cni_bin_dir, &self.args.cni_conf_dir, &self.args.cni_plugin)
        else {
            return Ok(());
        };
        thalweg_network::install(bin, conf, plugin, &self.args.run.join("cni.sock"), &self.args.state)?;
        tracing::info!(conf = %conf.display(), "CNI plugin and configuration installed");
        Ok(())
    }

    /// Forgets flows that were idle for too long.
    fn sweep(&mut self) {
        self.services.sweep();
        let pods = self.network.pods().len();
        self.board.update(|figures| figures.pods = pods);
    }
}

/// `namespace/name`; a bare name is in kube-system.
fn parse_name(text: &str) -> Name {
    let (namespace, name) = text.split_once('/').unwrap_or(("kube-system", text));
    Name::new(namespace, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_names_default_to_kube_system() {
        assert_eq!(parse_name("dns/coredns"), Name::new("dns", "coredns"));
        assert_eq!(parse_name("kube-dns"), Name::new("kube-system", "kube-dns"));
    }
}
