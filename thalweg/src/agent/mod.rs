//! `thalweg agent`: one copy of the cluster's state, three consumers: service proxy, DNS, pod network.

pub mod admin;
mod args;
mod host_ports;
mod kernel;
mod plain;
mod pods;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use thalweg_cluster::source::ServiceScope;
use thalweg_cluster::{Batch, Name};
use thalweg_loader::Maps;
use thalweg_network::{PodDatapath, PodNetwork};
use thalweg_proxy::config::{KubeProxyConfiguration, NodePortAddresses};
use thalweg_proxy::{NodeView, Proxy, Redirect};
use tokio::sync::mpsc;

use crate::addresses::NodeAddresses;
use crate::dns::NodeDns;
use crate::handover::Switch;
use crate::keeper::Keeper;
use crate::monitor::{self, Monitor};
use crate::ports::ReservedPorts;
use crate::services::{Services, Settled, Taken, source_ended, ticks, until};
use crate::{datapath, end_in_time, interfaces, probe, shutdown_signal};
use admin::Board;
pub use args::AgentArgs;
use host_ports::HostPorts;
use kernel::{Kernel, open};

/// How long the address of a removed pod rests before another pod may get it.
const QUARANTINE: Duration = Duration::from_secs(30);
/// How long a change of services may wait before the node is unhealthy, as with kube-proxy's defaults.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(60);
/// How often what waits or drains is looked after.
const TEND: Duration = Duration::from_secs(5);
/// How often the node's addresses are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How often rules are looked after, as with kube-proxy's defaults.
const REPAIR: Duration = Duration::from_secs(30);

/// Everything that one batch of changes is handed to.
struct Agent {
    args: AgentArgs,
    node: NodeAddresses,
    services: Services,
    kernel: Kernel,
    /// To take over what iptables began.
    switch: Switch,
    dns: Option<NodeDns>,
    network: PodNetwork,
    host_ports: Arc<HostPorts>,
    ports: ReservedPorts,
    board: Board,
    /// What is to be written as soon as that may be.
    waiting: Option<Taken>,
    /// What has been written and is not known to be in effect.
    written: Taken,
    /// The CNI configuration has been installed.
    installed: bool,
}

pub async fn run(args: AgentArgs) -> Result<()> {
    let shutdown = shutdown_signal()?;
    end_in_time(&shutdown);
    let source = datapath::source(args.source.as_deref(), args.kubeconfig.as_deref(), &args.node, ServiceScope::All)?;
    for dir in [&args.state, &args.run] {
        std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    }
    let (mut agent, _socket) = Agent::start(args)?;
    let host_ports = Arc::clone(&agent.host_ports);

    let (sink, mut batches) = mpsc::channel(64);
    let watching = tokio::spawn(source.run(sink));
    let [mut tend, mut look] = [TEND, LOOK].map(ticks);
    loop {
        let deadline = agent.services.next_deadline();
        tokio::select! {
            () = shutdown.cancelled() => break,
            batch = batches.recv() => match batch {
                Some(batch) => agent.take(batch, &mut batches)?,
                None => return source_ended(watching).await,
            },
            () = until(deadline) => agent.apply(Taken::default())?,
            settled = agent.services.settled() => agent.settle(settled)?,
            stepped = agent.switch.step() => {
                stepped?;
                agent.follow_switch()?;
            }
            () = host_ports.changed() => agent.follow_host_ports()?,
            _ = look.tick() => agent.look()?,
            _ = tend.tick() => agent.tend(),
        }
    }
    agent.switch.end().await;
    // Programs, links and maps stay: packets do not notice that the agent is gone.
    tracing::info!("stopping; the data path stays");
    watching.abort();
    agent.network.shutdown();
    if let Some(dns) = &agent.dns {
        dns.server().shutdown();
    }
    Ok(())
}

// === impl Agent ===

impl Agent {
    fn start(args: AgentArgs) -> Result<(Self, admin::Socket)> {
        let node = NodeAddresses::new(&args.node_address)?;
        let redirect = (args.dns_port != 0).then(|| Redirect {
            service: parse_name(&args.dns_service),
            to: node.all().into_iter().map(|address| SocketAddr::new(address, args.dns_port)).collect(),
        });
        let view = NodeView {
            node: args.node.as_str().into(),
            addresses: node_port_addresses(&args, node)?,
            zone: None,
            redirect,
            localhost_node_ports: true,
        };
        let (backend, kernel, switch, maps) = open(&args, node)?;
        let mode = backend.mode();
        let proxy = Proxy::new(backend, view.clone());
        let dns = start_dns(&args, node)?;

        let host_ports = Arc::new(HostPorts::before(kernel.pod_datapath()));
        let network = PodNetwork::start(
            thalweg_network::Options {
                socket: args.run.join("cni.sock"),
                state_dir: args.state.clone(),
                node: args.node.clone(),
                uplink: args.uplink.clone(),
                mtu: args.mtu,
                quarantine: QUARANTINE,
            },
            Arc::clone(&host_ports) as Arc<dyn PodDatapath>,
        )
        .context("start the pod network")?;
        if let Kernel::Ebpf { attacher } = &kernel {
            attacher.keep_only(&network.pods());
        }

        let board = Board::new()?;
        board.update(|figures| {
            figures.mode = mode.to_owned();
            figures.node_addresses = node.all();
            figures.socket_lb = Some(mode == "ebpf" && args.datapath.socket_lb);
        });
        let socket = serve_figures(&args, &board, dns.as_ref().map(NodeDns::server))?;
        let (for_metrics, for_services) = maps.unzip();
        let monitor = Monitor::start(monitor_options(&args, node, mode, for_metrics))?;
        let maps = match (for_services, &kernel) {
            (Some(maps), Kernel::Ebpf { attacher }) => {
                let attacher = Arc::clone(attacher);
                let keeper = Keeper::start(maps.keeper, monitor.metrics(), move || attacher.namespaces())?;
                Some((maps.state, keeper))
            }
            _ => None,
        };
        let mut services = Services::new(proxy, view, maps, monitor);
        services.set_probe(match &kernel {
            Kernel::Ebpf { .. } => args.datapath.probe(node),
            Kernel::Iptables { .. } => probe::by_rules(node),
        });
        let ports = ReservedPorts::open(&args.run, matches!(kernel, Kernel::Ebpf { .. }));
        let agent = Self {
            args,
            node,
            services,
            kernel,
            switch,
            dns,
            network,
            host_ports,
            ports,
            board,
            waiting: None,
            written: Taken::default(),
            installed: false,
        };
        Ok((agent, socket))
    }

    /// Takes in a batch, together with those that wait behind it, and brings everything to it.
    fn take(&mut self, first: Batch, waiting: &mut mpsc::Receiver<Batch>) -> Result<()> {
        let Some(taken) = self.services.take(first, waiting) else { return Ok(()) };
        if let Kernel::Ebpf { attacher } = &self.kernel {
            attacher.follow(&self.services.world, &taken.dirty.pods);
        }
        self.switch.prepare()?;
        self.ports.follow(&self.services.world, &taken.dirty.services);
        // Pods come only when services are in place.
        if self.installed && !taken.dirty.nodes.is_empty() {
            self.follow_nodes();
        }
        self.apply(taken)
    }

    /// Brings the kernel to the world, as soon as that may be.
    fn apply(&mut self, taken: Taken) -> Result<()> {
        if !self.switch.may_write() {
            self.waiting.get_or_insert_default().add(taken);
            return Ok(());
        }
        if let Some(pods) = self.host_ports.take() {
            self.ports.set_host_ports(pods.iter().flat_map(|pod| &pod.ports).map(|port| port.port).collect());
            self.services.set_host_ports(pods);
        }
        match self.services.apply(taken) {
            Some(settled) => self.settle(settled),
            None => Ok(()),
        }
    }

    /// What has been written takes effect, and everybody follows.
    fn settle(&mut self, settled: Settled) -> Result<()> {
        let Settled { taken, changed, complete, failures } = settled;
        let services = self.services.world.services().count();
        self.board.update(|figures| {
            figures.failures = failures;
            figures.services = services;
        });
        // The first sync is a figure of its own.
        if let Some(received) = taken.received.filter(|_| changed && !taken.first) {
            self.board.changed(received.elapsed());
        }
        self.written.add(taken);
        if complete {
            self.serve()?;
        }
        self.announce();
        Ok(())
    }

    /// What has been written and is in effect is told to who asks.
    fn announce(&mut self) {
        if self.switch.is_attaching() || self.written.is_nothing() {
            return;
        }
        let taken = std::mem::take(&mut self.written);
        // Names after addresses: what a name answers must be reachable.
        if let Some(dns) = &self.dns {
            dns.publish(&self.services.world, &taken.dirty, taken.first);
        }
        self.services.follow(&taken.dirty);
        if !self.installed && !taken.dirty.nodes.is_empty() {
            self.follow_nodes();
        }
    }

    /// Everything is written: it takes effect, and the other mode's flows end in their time.
    fn serve(&mut self) -> Result<()> {
        match &mut self.kernel {
            Kernel::Ebpf { attacher } => {
                let (attacher, uplink) = (Arc::clone(attacher), self.args.uplink.clone());
                self.switch.attach(self.args.drain_timeout(), move || attacher.go_live(&uplink))?;
            }
            Kernel::Iptables { drain: Some(drain), .. } => drain.begin(&self.services.world),
            Kernel::Iptables { drain: None, .. } => {}
        }
        self.follow_switch()
    }

    /// A step of the way from iptables to eBPF is done.
    fn follow_switch(&mut self) -> Result<()> {
        if let Some(taken) = self.waiting.take_if(|_| self.switch.may_write()) {
            return self.apply(taken);
        }
        if self.switch.is_over() && self.services.is_whole() {
            if let Some(took) = self.services.serves() {
                self.board.update(|figures| {
                    figures.synced = true;
                    figures.first_sync_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
                });
            }
            self.announce();
        }
        Ok(())
    }

    /// A pod came or went that has ports of the node. Before the first sync that waits: it takes all of them.
    fn follow_host_ports(&mut self) -> Result<()> {
        if self.services.is_synced() {
            self.apply(Taken { received: Some(Instant::now()), ..Taken::default() })?;
        }
        Ok(())
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

    /// NodePorts are served at the addresses that the node has now.
    fn look(&mut self) -> Result<()> {
        if self.args.node_port_addresses.is_empty() {
            return Ok(());
        }
        let addresses = match node_port_addresses(&self.args, self.node) {
            Ok(addresses) => addresses,
            Err(error) => {
                tracing::warn!("{error:#}");
                return Ok(());
            }
        };
        if self.services.set_view(NodeView { addresses, ..self.services.view().clone() }) {
            tracing::info!(addresses = ?self.services.view().addresses, "the node's addresses changed");
            self.apply(Taken::default())?;
        }
        Ok(())
    }

    /// What is done from time to time.
    fn tend(&mut self) {
        self.services.tend();
        if let Some(dns) = &mut self.dns {
            dns.tend(&self.services.world);
        }
        if let Kernel::Iptables { pods, drain, repaired } = &mut self.kernel {
            if repaired.elapsed() >= REPAIR {
                *repaired = Instant::now();
                self.services.backend().repair();
            }
            if let Some(draining) = drain {
                self.services.backend().set_lenient(!draining.has_left());
                if draining.tick(&self.services.world) {
                    *drain = None;
                    pods.drained();
                }
            }
        }
        let pods = self.network.pods().len();
        self.board.update(|figures| figures.pods = pods);
    }
}

/// Where NodePorts are served: at the addresses that were said, and at those in the ranges that were, as far as they are there.
///
/// # Errors
/// When the kernel does not list the node's addresses.
fn node_port_addresses(args: &AgentArgs, node: NodeAddresses) -> Result<Vec<IpAddr>> {
    let mut addresses = node.all();
    if !args.node_port_addresses.is_empty() {
        let wanted = NodePortAddresses::Ranges(args.node_port_addresses.clone());
        addresses.extend(interfaces::node_port_addresses(&wanted, &interfaces::look()?));
        addresses.sort_unstable();
        addresses.dedup();
    }
    Ok(addresses)
}

fn start_dns(args: &AgentArgs, node: NodeAddresses) -> Result<Option<NodeDns>> {
    if args.dns_port == 0 {
        return Ok(None);
    }
    let options = thalweg_dns::Options {
        listen: node.all().into_iter().map(|address| SocketAddr::new(address, args.dns_port)).collect(),
        zone: args.cluster_domain.clone(),
        ttl: args.dns_ttl,
        upstreams: args.dns_upstream.clone(),
        workers: 1,
    };
    NodeDns::start(&args.corefile, options).map(Some)
}

fn serve_figures(args: &AgentArgs, board: &Board, dns: Option<Arc<thalweg_dns::Server>>) -> Result<admin::Socket> {
    admin::serve(&args.run.join("agent.sock"), board.clone(), move |figures| {
        if let Some(dns) = &dns {
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
    })
}

fn monitor_options(args: &AgentArgs, node: NodeAddresses, mode: &'static str, maps: Option<Maps>) -> monitor::Options {
    monitor::Options {
        node: args.node.clone(),
        healthz: args.healthz_bind_address.0,
        metrics: args.metrics_bind_address.0,
        hard_fail: false,
        health_timeout: HEALTH_TIMEOUT,
        mode,
        config: KubeProxyConfiguration {
            hostname_override: args.node.clone(),
            bind_address: node.all().first().map(ToString::to_string).unwrap_or_default(),
            healthz_bind_address: args.healthz_bind_address.to_string(),
            metrics_bind_address: args.metrics_bind_address.to_string(),
            mode: mode.to_owned(),
            ..KubeProxyConfiguration::defaults()
        },
        maps,
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
