//! `thalweg proxy`: the service proxy alone, for clusters that keep their pod network and their DNS. It takes
//! kube-proxy's flags and its configuration file.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use thalweg_cluster::{Batch, Dirty};
use thalweg_loader::Datapath;
use thalweg_proxy::config::{self, Flags, KubeProxyConfiguration, Mode, NodePortAddresses, Settings};
use thalweg_proxy::{EbpfBackend, NodeView, Proxy};
use tokio::sync::mpsc;

use crate::interfaces::{self, Interface, Local};
use crate::monitor::{self, Monitor};
use crate::services::{Services, source_ended, until};
use crate::{datapath, shutdown_signal};

/// How often flows are expired.
const SWEEP: Duration = Duration::from_secs(5);
/// How often the node's interfaces and addresses are looked at.
const LOOK: Duration = Duration::from_secs(1);

#[derive(clap::Args, Debug)]
pub struct ProxyArgs {
    /// A KubeProxyConfiguration (kubeproxy.config.k8s.io/v1alpha1); then flags that it could contain are ignored.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Remove everything that a proxy left on this node, and end.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false)]
    cleanup: bool,
    /// Write the default configuration here, and end.
    #[arg(long)]
    write_config_to: Option<PathBuf>,
    /// Not taken: the kubeconfig says where the API server is.
    #[arg(long, hide = true)]
    master: Option<String>,
    #[command(flatten)]
    flags: Flags,
    /// Read the cluster's state from a YAML file or directory instead of an API server: `file:PATH`.
    #[arg(long, value_name = "file:PATH")]
    source: Option<String>,
    /// This node's address, the source of translated flows (default: bindAddress, or that of the default route).
    #[arg(long)]
    node_address: Option<Ipv4Addr>,
    /// Interfaces that packets for services and the answers of pods come in by, as names or starts of names with a
    /// `*` (default: those that have an address). The pods' own, when detectLocalMode names them, always belong to them.
    #[arg(long, value_delimiter = ',')]
    uplink: Vec<String>,
    /// Folder of pinned programs, links and maps; a bpffs is mounted there when it is not on one.
    #[arg(long, default_value = "/sys/fs/bpf/thalweg")]
    bpffs: PathBuf,
    /// Control group whose processes get socket load balancing (default: the root of cgroup2).
    #[arg(long)]
    cgroup: Option<PathBuf>,
    /// Translate at the socket; without it tc does all the work.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    socket_lb: bool,
}

/// The proxy and what only it follows: the node's addresses, and where the programs are to be attached.
struct Lone {
    services: Services<EbpfBackend>,
    datapath: Datapath,
    /// What the programs are on; `None` before they may be.
    attached: Option<BTreeSet<Interface>>,
    uplinks: Vec<String>,
    pod_interfaces: Option<String>,
    /// What could not be attached to, so that it is said once.
    refused: BTreeSet<Interface>,
    node_ports: NodePortAddresses,
}

pub async fn run(args: ProxyArgs) -> Result<()> {
    if let Some(path) = &args.write_config_to {
        let text = KubeProxyConfiguration::defaults().to_yaml()?;
        return std::fs::write(path, text).with_context(|| format!("write {}", path.display()));
    }
    if args.cleanup {
        return cleanup(&args.bpffs);
    }
    if let Some(master) = &args.master {
        bail!("--master {master}: put the API server's address into a kubeconfig and give that by --kubeconfig");
    }
    let (config, settings) = configure(&args)?;
    for note in &settings.notes {
        tracing::info!("configuration: {note}");
    }
    if settings.mode == Mode::Iptables {
        bail!("mode iptables: `thalweg proxy` cannot run it yet: say ebpf, or leave the mode empty");
    }
    adjust_oom_score(settings.oom_score_adj);

    let shutdown = shutdown_signal()?;
    let node = match &settings.hostname_override {
        Some(name) => name.clone(),
        None => nix::unistd::gethostname().context("read the host name")?.to_string_lossy().trim().to_lowercase(),
    };
    let source = datapath::source(args.source.as_deref(), settings.kubeconfig.as_deref(), &node)?;
    let mut lone = Lone::start(&args, &node, config, &settings)?;

    let (sink, mut batches) = mpsc::channel(64);
    let watching = tokio::spawn(source.run(sink));
    let mut sweep = tokio::time::interval(SWEEP);
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            batch = batches.recv() => match batch {
                Some(batch) => lone.take(batch, &mut batches)?,
                None => return source_ended(watching).await,
            },
            () = until(lone.services.next_deadline()) => {
                lone.services.apply(&Dirty::default(), None);
            }
            _ = sweep.tick() => lone.services.sweep(),
            _ = look.tick() => lone.look(),
        }
    }
    // Programs, links and maps stay: packets do not notice that the proxy is gone.
    tracing::info!("stopping; the data path stays");
    watching.abort();
    Ok(())
}

/// The file and the flags, merged and checked.
fn configure(args: &ProxyArgs) -> Result<(KubeProxyConfiguration, Settings)> {
    let file = match &args.config {
        Some(path) => {
            let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
            Some(config::decode(&text).with_context(|| format!("--config {}", path.display()))?)
        }
        None => None,
    };
    let (config, notes) = config::merge(file, args.flags.clone());
    let mut settings = Settings::new(&config).context("configuration")?;
    settings.notes.splice(..0, notes);
    Ok((config, settings))
}

/// Whatever the mode was.
fn cleanup(pins: &Path) -> Result<()> {
    let removed = thalweg_loader::cleanup(pins)?;
    if removed.is_empty() {
        println!("nothing was there");
    }
    for what in removed {
        println!("removed {what}");
    }
    Ok(())
}

/// As kube-proxy does; a container without the right to lower it goes on without.
fn adjust_oom_score(score: i32) {
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", score.to_string()) {
        tracing::debug!("oomScoreAdj {score}: {error}");
    }
}

// === impl Lone ===

impl Lone {
    fn start(args: &ProxyArgs, node: &str, config: KubeProxyConfiguration, settings: &Settings) -> Result<Self> {
        let local = interfaces::look()?;
        let node_addr = node_address(args, settings, &local)?;
        if interfaces::entries(&args.uplink, settings.pod_interfaces.as_deref(), &local).is_empty() {
            bail!(
                "no Ethernet interface of this node {}",
                match args.uplink.as_slice() {
                    [] => "has an address: give --uplink".to_owned(),
                    names => format!("is called {}: check --uplink", names.join(" or ")),
                }
            );
        }
        tracing::info!(node, %node_addr, "service proxy starts");

        let datapath = datapath::open(&args.bpffs, args.cgroup.as_deref(), node_addr, args.socket_lb)?;
        let addresses = interfaces::node_port_addresses(&settings.node_ports, &local);
        let view = NodeView { node: node.into(), addresses, zone: None, redirect: None };
        let mut proxy = Proxy::new(datapath::backend(&datapath)?, view.clone());
        if matches!(settings.node_ports, NodePortAddresses::Ranges(_)) {
            proxy = proxy.only_given_addresses();
        }
        let monitor = Monitor::start(monitor::Options {
            node: node.to_owned(),
            healthz: settings.healthz,
            metrics: settings.metrics,
            hard_fail: settings.hard_fail,
            health_timeout: settings.health_timeout,
            mode: "ebpf",
            config,
            pins: Some(args.bpffs.clone()),
        })?;
        let services = Services::new(proxy, view, Some(datapath.maps()?), monitor);
        let mut lone = Self {
            services,
            datapath,
            attached: None,
            uplinks: args.uplink.clone(),
            pod_interfaces: settings.pod_interfaces.clone(),
            refused: BTreeSet::new(),
            node_ports: settings.node_ports.clone(),
        };
        lone.listen_where_node_ports_are();
        // What an earlier proxy filled works on at once, with this build's programs.
        if lone.datapath.adopted() {
            lone.attach()?;
        }
        Ok(lone)
    }

    fn take(&mut self, batch: Batch, waiting: &mut mpsc::Receiver<Batch>) -> Result<()> {
        let Some(taken) = self.services.take(batch, waiting) else { return Ok(()) };
        self.services.apply(&taken.dirty, Some(taken.received));
        if taken.first {
            self.services.mark_synced();
            // Not before: a program on empty maps would know of no service.
            self.attach()?;
            tracing::info!(services = self.services.world.services().count(), took = ?taken.received.elapsed(), "synced");
        }
        self.services.follow(&taken.dirty);
        Ok(())
    }

    fn attach(&mut self) -> Result<()> {
        if self.attached.is_none() {
            self.datapath.attach_cgroup().context("attach to the control group")?;
            self.attached = Some(BTreeSet::new());
            self.follow_interfaces(&interfaces::look()?);
            if self.attached.as_ref().is_none_or(BTreeSet::is_empty) {
                bail!("the programs could not be attached to any interface");
            }
        }
        Ok(())
    }

    /// Interfaces and addresses come and go while the proxy runs.
    fn look(&mut self) {
        let local = match interfaces::look() {
            Ok(local) => local,
            Err(error) => return tracing::warn!("{error:#}"),
        };
        self.follow_interfaces(&local);
        let addresses = interfaces::node_port_addresses(&self.node_ports, &local);
        if self.services.set_view(NodeView { addresses, ..self.services.view().clone() }) {
            tracing::info!(addresses = ?self.services.view().addresses, "the node's addresses changed");
            self.services.apply(&Dirty::default(), None);
            self.listen_where_node_ports_are();
        }
    }

    /// Attaches to what has come, forgets what has gone.
    fn follow_interfaces(&mut self, local: &Local) {
        let Some(attached) = &mut self.attached else { return };
        let wanted: BTreeSet<Interface> =
            interfaces::entries(&self.uplinks, self.pod_interfaces.as_deref(), local).into_iter().collect();
        for interface in wanted.difference(attached) {
            match self.datapath.attach_uplink(&interface.name) {
                Ok(()) => {
                    tracing::info!(interface = interface.name, "programs attached");
                    self.refused.remove(interface);
                }
                Err(error) => {
                    if self.refused.insert(interface.clone()) {
                        tracing::error!("attach to {}: {error}; trying again", interface.name);
                    }
                }
            }
        }
        if attached.difference(&wanted).next().is_some()
            && let Err(error) = self.datapath.prune_links()
        {
            tracing::warn!("forget interfaces that are gone: {error}");
        }
        self.refused.retain(|interface| wanted.contains(interface));
        *attached = wanted.difference(&self.refused).cloned().collect();
    }

    /// Health checks of services answer on the addresses that serve NodePorts, when somebody chose those.
    fn listen_where_node_ports_are(&mut self) {
        if matches!(self.node_ports, NodePortAddresses::Ranges(_)) {
            let addresses: Vec<IpAddr> = self.services.view().addresses.iter().copied().map(IpAddr::V4).collect();
            self.services.monitor.set_check_addresses(&addresses);
        }
    }
}

/// Said on the command line, or in the configuration, or found.
fn node_address(args: &ProxyArgs, settings: &Settings, local: &Local) -> Result<Ipv4Addr> {
    if let Some(address) = args.node_address {
        return Ok(address);
    }
    match settings.node_address {
        Some(IpAddr::V4(address)) => Ok(address),
        Some(IpAddr::V6(address)) => bail!("bindAddress {address}: an IPv4 address is needed: give --node-address"),
        None => {
            let routes = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
            interfaces::primary(local, &routes)
                .context("this machine has no address but loopback: give --node-address and --uplink")
        }
    }
}
