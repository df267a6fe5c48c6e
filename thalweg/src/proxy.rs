//! `thalweg proxy`: the service proxy alone, for clusters that keep their pod network and their DNS. It takes
//! kube-proxy's flags and its configuration file.

mod links;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ipnetwork::IpNetwork;
use thalweg_cluster::{Batch, Dirty, Source};
use thalweg_loader::{Datapath, Maps};
use thalweg_proxy::config::{self, Flags, KubeProxyConfiguration, Mode, NodePortAddresses, Settings};
use thalweg_proxy::iptables::{self, Inside, Programs, Variant};
use thalweg_proxy::{Backend, EbpfBackend, IptablesBackend, NodeView, Proxy};
use tokio::sync::mpsc;

use crate::addresses::NodeAddresses;
use crate::interfaces::{self, Local, Routes};
use crate::monitor::{self, Monitor};
use crate::services::{Services, source_ended, until};
use crate::{datapath, shutdown_signal, views};
use links::Links;

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
    /// Do what needs all privileges, and end: there is no such step here.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false)]
    init_only: bool,
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
    /// This node's addresses, one or one of each family: the sources of translated flows (default: bindAddress, and
    /// those of the default routes).
    #[arg(long, value_delimiter = ',')]
    node_address: Vec<IpAddr>,
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
struct Lone<B> {
    services: Services<B>,
    /// `None` in iptables mode.
    links: Option<Links>,
    node_ports: NodePortAddresses,
    pins: PathBuf,
}

/// What both modes start from.
struct Plan<'a> {
    args: &'a ProxyArgs,
    settings: &'a Settings,
    config: KubeProxyConfiguration,
    node: String,
    local: Local,
}

pub async fn run(args: ProxyArgs) -> Result<()> {
    if let Some(path) = &args.write_config_to {
        let text = KubeProxyConfiguration::defaults().to_yaml()?;
        return std::fs::write(path, text).with_context(|| format!("write {}", path.display()));
    }
    if args.cleanup {
        return views::remove_everything(&args.bpffs);
    }
    if let Some(master) = &args.master {
        bail!("--master {master}: put the API server's address into a kubeconfig and give that by --kubeconfig");
    }
    let (config, settings) = configure(&args)?;
    if args.init_only {
        tracing::info!("--init-only: nothing is to be prepared");
        return Ok(());
    }
    for note in &settings.notes {
        tracing::info!("configuration: {note}");
    }
    adjust_oom_score(settings.oom_score_adj);

    let node = match &settings.hostname_override {
        Some(name) => name.clone(),
        None => nix::unistd::gethostname().context("read the host name")?.to_string_lossy().trim().to_lowercase(),
    };
    let source = datapath::source(args.source.as_deref(), settings.kubeconfig.as_deref(), &node)?;
    let local = interfaces::look()?;
    let node_addr = node_addresses(&args, &settings, &local)?;
    let plan = Plan { args: &args, settings: &settings, config, node, local };
    match plan.open(node_addr)? {
        Some(datapath) => drive(plan.ebpf(datapath)?, source, settings.sync_period, |_| {}).await,
        None => drive(plan.iptables()?, source, settings.sync_period, repair).await,
    }
}

/// Follows the source until the end is asked for. `tend` is called every `period`.
async fn drive<B: Backend>(mut lone: Lone<B>, source: Source, period: Duration, mut tend: impl FnMut(&mut B)) -> Result<()> {
    let shutdown = shutdown_signal()?;
    let (sink, mut batches) = mpsc::channel(64);
    let watching = tokio::spawn(source.run(sink));
    let [mut sweep, mut look, mut tending] = [SWEEP, LOOK, period].map(|period| {
        let mut interval = tokio::time::interval(period);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        interval
    });
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
            _ = tending.tick() => tend(lone.services.backend_mut()),
        }
    }
    // What is in the kernel stays: packets do not notice that the proxy is gone.
    tracing::info!("stopping; what is in the kernel stays");
    watching.abort();
    Ok(())
}

/// Others write rules too, and some flush them all.
fn repair(backend: &mut IptablesBackend) {
    if let Err(error) = backend.repair() {
        tracing::error!("look after the rules: {error}");
    }
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

/// As kube-proxy does; a container without the right to lower it goes on without.
fn adjust_oom_score(score: i32) {
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", score.to_string()) {
        tracing::debug!("oomScoreAdj {score}: {error}");
    }
}

// === impl Plan ===

impl Plan<'_> {
    /// The data path, or `None` for rules: as configured, or because this kernel cannot do better.
    fn open(&self, node_addr: NodeAddresses) -> Result<Option<Datapath>> {
        let Self { args, settings, node, .. } = self;
        if settings.mode == Mode::Iptables {
            tracing::info!(node, %node_addr, "service proxy starts with iptables");
            return Ok(None);
        }
        if interfaces::entries(&args.uplink, settings.pod_interfaces.as_deref(), &self.local).is_empty() {
            bail!(
                "no Ethernet interface of this node {}",
                match args.uplink.as_slice() {
                    [] => "has an address: give --uplink".to_owned(),
                    names => format!("is called {}: check --uplink", names.join(" or ")),
                }
            );
        }
        tracing::info!(node, %node_addr, "service proxy starts with eBPF");
        match datapath::open(&args.bpffs, args.cgroup.as_deref(), node_addr, args.socket_lb) {
            Ok(datapath) => Ok(Some(datapath)),
            Err(error) if unable(&error) => {
                tracing::warn!("eBPF is not possible here, so iptables it is: {error:#}");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn ebpf(self, datapath: Datapath) -> Result<Lone<EbpfBackend>> {
        let maps = datapath.maps()?;
        let backend = datapath::backend(&datapath)?;
        let links = Links::new(datapath, self.args.uplink.clone(), self.settings.pod_interfaces.clone());
        let mut lone = self.lone(backend, "ebpf", Some(maps), Some(links))?;
        // What an earlier proxy filled works on at once, with this build's programs.
        if let Some(links) = lone.links.as_mut().filter(|links| links.datapath().adopted()) {
            links.attach()?;
        }
        Ok(lone)
    }

    fn iptables(self) -> Result<Lone<IptablesBackend>> {
        let settings = self.settings;
        let options = iptables::Options {
            inside: inside(settings, &self.config.detect_local_mode)?,
            masquerade_all: settings.masquerade_all,
            masquerade_bit: settings.masquerade_bit,
            // The next one, as far as there is one.
            refuse_bit: (settings.masquerade_bit + 1) % 32,
        };
        let programs = Programs::new(Variant::Default);
        if !programs.installed() {
            bail!("iptables is not installed: install the package `iptables`, or choose the mode ebpf");
        }
        let backend = IptablesBackend::new(programs, options)?;
        self.lone(backend, "iptables", None, None)
    }

    fn lone<B: Backend>(self, backend: B, mode: &'static str, maps: Option<Maps>, links: Option<Links>) -> Result<Lone<B>> {
        let Self { args, settings, config, node, local } = self;
        let addresses = interfaces::node_port_addresses(&settings.node_ports, &local);
        let view = NodeView {
            node: node.as_str().into(),
            addresses,
            zone: None,
            redirect: None,
            localhost_node_ports: config.iptables.localhost_node_ports.unwrap_or(true),
        };
        let mut proxy = Proxy::new(backend, view.clone());
        if matches!(settings.node_ports, NodePortAddresses::Ranges(_)) {
            proxy = proxy.only_given_addresses();
        }
        let monitor = Monitor::start(monitor::Options {
            node,
            healthz: settings.healthz,
            metrics: settings.metrics,
            hard_fail: settings.hard_fail,
            health_timeout: settings.health_timeout(),
            mode,
            config,
            pins: maps.is_some().then(|| args.bpffs.clone()),
        })?;
        let services = Services::new(proxy, view, maps, monitor);
        let mut lone = Lone { services, links, node_ports: settings.node_ports.clone(), pins: args.bpffs.clone() };
        lone.listen_where_node_ports_are();
        Ok(lone)
    }
}

/// True when this kernel or this build cannot do it at all, so that trying again would not help.
fn unable(error: &anyhow::Error) -> bool {
    use thalweg_loader::Error;
    let cause = error.downcast_ref::<Error>();
    cause.is_some_and(|cause| {
        matches!(cause, Error::NoObject | Error::Load { .. } | Error::Program { .. } | Error::Kernel { .. })
    })
}

/// How the rules tell the cluster's pods from the outside.
fn inside(settings: &Settings, mode: &str) -> Result<Inside> {
    if let Some(pattern) = &settings.pod_interfaces {
        return Ok(Inside::Interfaces(vec![pattern.replace('*', "+")]));
    }
    let sources: Vec<IpNetwork> = settings.cluster_cidrs.clone();
    if sources.is_empty() && mode == "NodeCIDR" {
        bail!("detectLocalMode NodeCIDR: iptables mode cannot ask for the node's range: give clusterCIDR too");
    }
    if sources.is_empty() {
        tracing::warn!("without clusterCIDR, pods count as outside of the cluster, where external traffic policies hold");
    }
    Ok(Inside::Sources(sources))
}

// === impl Lone ===

impl<B: Backend> Lone<B> {
    fn take(&mut self, batch: Batch, waiting: &mut mpsc::Receiver<Batch>) -> Result<()> {
        let Some(taken) = self.services.take(batch, waiting) else { return Ok(()) };
        self.services.apply(&taken.dirty, Some(taken.received));
        if taken.first {
            self.services.mark_synced();
            // Not before: a program on empty maps would know of no service.
            if let Some(links) = &mut self.links {
                links.attach()?;
            }
            self.remove_other_mode();
            tracing::info!(services = self.services.world.services().count(), took = ?taken.received.elapsed(), "synced");
        }
        self.services.follow(&taken.dirty);
        Ok(())
    }

    /// What a proxy of the other mode left would translate a second time. Flows that it began and the kernel tracks by
    /// itself go on; those in its maps do not.
    fn remove_other_mode(&self) {
        let removed = match &self.links {
            Some(_) => iptables::cleanup_installed().map_err(anyhow::Error::from),
            None => thalweg_loader::cleanup(&self.pins).map(|removed| !removed.is_empty()).map_err(anyhow::Error::from),
        };
        match removed {
            Ok(true) => tracing::info!("removed what the proxy's other mode had left"),
            Ok(false) => {}
            Err(error) => tracing::warn!("look for what the proxy's other mode has left: {error:#}"),
        }
    }

    /// Interfaces and addresses come and go while the proxy runs.
    fn look(&mut self) {
        let local = match interfaces::look() {
            Ok(local) => local,
            Err(error) => return tracing::warn!("{error:#}"),
        };
        if let Some(links) = &mut self.links {
            links.follow(&local);
        }
        let addresses = interfaces::node_port_addresses(&self.node_ports, &local);
        if self.services.set_view(NodeView { addresses, ..self.services.view().clone() }) {
            tracing::info!(addresses = ?self.services.view().addresses, "the node's addresses changed");
            self.services.apply(&Dirty::default(), None);
            self.listen_where_node_ports_are();
        }
    }

    /// Health checks of services answer on the addresses that serve NodePorts, when somebody chose those.
    fn listen_where_node_ports_are(&mut self) {
        if matches!(self.node_ports, NodePortAddresses::Ranges(_)) {
            let addresses: Vec<IpAddr> = self.services.view().addresses.clone();
            self.services.monitor.set_check_addresses(&addresses);
        }
    }
}

/// Said on the command line, or in the configuration, or found.
fn node_addresses(args: &ProxyArgs, settings: &Settings, local: &Local) -> Result<NodeAddresses> {
    let said = NodeAddresses::new(&args.node_address)?;
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
