//! `thalweg proxy`: the service proxy alone, for clusters that keep their pod network and their DNS. It takes
//! kube-proxy's flags and its configuration file.

mod args;
mod links;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ipnetwork::IpNetwork;
use thalweg_cluster::source::ServiceScope;
use thalweg_cluster::{Batch, Source};
use thalweg_loader::{Datapath, Maps};
use thalweg_proxy::config::{KernelTable, KubeProxyConfiguration, Mode, NodePortAddresses, Settings};
use thalweg_proxy::iptables::{self, Inside};
use thalweg_proxy::{NodeView, Proxy};
use tokio::sync::mpsc;

use crate::addresses::NodeAddresses;
use crate::backend::{self, AnyBackend, ProxyMode};
use crate::clients::discover::Discovery;
use crate::handover::{self, Drain, Switch};
use crate::interfaces::{self, Local};
use crate::keeper::Keeper;
use crate::monitor::{self, Monitor};
use crate::ports::ReservedPorts;
use crate::rights::Rights;
use crate::services::{Services, Settled, Taken, source_ended, ticks, until};
use crate::{datapath, end_in_time, kernel_table, probe, shutdown_signal, views};
pub use args::ProxyArgs;
use links::Links;

/// How often what waits or drains is looked after.
const TEND: Duration = Duration::from_secs(5);
/// How often the node's interfaces and addresses are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// The proxy and what only it follows: the node's addresses, and where the programs are to be attached.
struct Lone {
    services: Services,
    kernel: Kernel,
    /// To take over what iptables began.
    switch: Switch,
    node: String,
    node_ports: NodePortAddresses,
    ports: ReservedPorts,
    /// What is to be written as soon as that may be.
    waiting: Option<Taken>,
    /// What has been written and is not known to be in effect.
    written: Taken,
    /// How often rules are looked after.
    period: Duration,
}

/// What goes with the backend.
enum Kernel {
    Ebpf {
        /// Locked while the programs are attached.
        links: Arc<Mutex<Links>>,
        drain_timeout: Duration,
        discovery: Discovery,
    },
    Iptables {
        /// An earlier eBPF data path.
        drain: Option<Box<Drain>>,
        repaired: Instant,
        /// To be used with the node's own ranges for its pods, which its object says; `None` when others are configured.
        by_node: Option<iptables::Options>,
        /// How the kernel's connection table is to be, once the rules have made the kernel load it.
        table: Option<KernelTable>,
        /// Packets that fit no flow are let through, as configured.
        is_lenient: bool,
    },
}

/// What both modes start from.
struct Plan<'a> {
    args: &'a ProxyArgs,
    settings: &'a Settings,
    config: KubeProxyConfiguration,
    node: String,
    node_addr: NodeAddresses,
    local: Local,
}

pub async fn run(args: ProxyArgs) -> Result<()> {
    if let Some(path) = &args.write_config_to {
        let text = KubeProxyConfiguration::defaults().to_yaml()?;
        return std::fs::write(path, text).with_context(|| format!("write {}", path.display()));
    }
    if args.cleanup {
        return views::remove_everything(&args.datapath.bpffs, &args.run, None);
    }
    if let Some(master) = &args.master {
        bail!("--master {master}: put the API server's address into a kubeconfig and give that by --kubeconfig");
    }
    let (config, settings) = args.configure()?;
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
    let source = datapath::source(args.source.as_deref(), settings.kubeconfig.as_deref(), &node, ServiceScope::Proxied)?;
    let local = interfaces::look()?;
    let node_addr = args.node_addresses(&settings, &local)?;
    let plan = Plan { args: &args, settings: &settings, config, node, node_addr, local };
    let lone = match plan.open()? {
        Some(datapath) => plan.ebpf(datapath)?,
        None => plan.iptables()?,
    };
    drive(lone, source).await
}

/// Follows the source until the end is asked for.
async fn drive(mut lone: Lone, source: Source) -> Result<()> {
    let shutdown = shutdown_signal()?;
    end_in_time(&shutdown);
    let (sink, mut batches) = mpsc::channel(64);
    let watching = tokio::spawn(source.run(sink));
    let [mut tend, mut look] = [TEND, LOOK].map(ticks);
    loop {
        let deadline = lone.services.next_deadline();
        tokio::select! {
            () = shutdown.cancelled() => break,
            batch = batches.recv() => match batch {
                Some(batch) => lone.take(batch, &mut batches)?,
                None => return source_ended(watching).await,
            },
            () = until(deadline) => lone.apply(Taken::default())?,
            settled = lone.services.settled() => lone.settle(settled)?,
            stepped = lone.switch.step() => {
                stepped?;
                lone.follow_switch()?;
            }
            _ = look.tick() => lone.look()?,
            _ = tend.tick() => lone.tend(),
        }
    }
    lone.switch.end().await;
    // What is in the kernel stays: packets do not notice that the proxy is gone.
    tracing::info!("stopping; what is in the kernel stays");
    watching.abort();
    Ok(())
}

/// As kube-proxy does; a container without the right to lower it goes on without.
fn adjust_oom_score(score: i32) {
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", score.to_string()) {
        tracing::debug!("oomScoreAdj {score}: {error}");
    }
}

// === impl Plan ===

impl Plan<'_> {
    /// The data path, or `None` for rules: as configured, or because this machine cannot do better.
    fn open(&self) -> Result<Option<Datapath>> {
        let Self { args, settings, node, node_addr, .. } = self;
        tracing::info!(node, %node_addr, "service proxy starts");
        let mode = match settings.mode {
            Mode::Auto => ProxyMode::Auto,
            Mode::Ebpf => ProxyMode::Ebpf,
            Mode::Iptables => ProxyMode::Iptables,
        };
        backend::choose(mode, Rights::own(), || {
            if interfaces::entries(&args.uplink, settings.pod_interfaces.as_deref(), &self.local).is_empty() {
                bail!(
                    "no Ethernet interface of this node {}",
                    match args.uplink.as_slice() {
                        [] => "has an address: give --uplink".to_owned(),
                        names => format!("is called {}: check --uplink", names.join(" or ")),
                    }
                );
            }
            args.datapath.open(*node_addr)
        })
    }

    fn ebpf(self, datapath: Datapath) -> Result<Lone> {
        let backend = AnyBackend::ebpf(&datapath)?;
        let (state, keeper, own) = (datapath.maps()?, datapath.maps()?, datapath.maps()?);
        let discovery = Discovery::start(datapath.maps()?.netns)?;
        let monitor = self.monitor(backend.mode(), Some(datapath.maps()?))?;
        let filled = datapath::is_filled(&datapath)?;
        let mut links = Links::new(datapath, self.args.uplink.clone(), self.settings.pod_interfaces.clone());
        let drain_timeout = Duration::from_secs(self.args.drain_timeout);
        // What an earlier proxy filled works on at once, with this build's programs.
        let switch = if filled {
            links.attach()?;
            // It may have been killed while it took over.
            handover::drain_rules(own, drain_timeout);
            Switch::Over
        } else {
            Switch::Waiting(Box::new(own))
        };
        // Namespaces are found by their processes.
        let keeper = Keeper::start(keeper, monitor.metrics(), Vec::new)?;
        let probe = self.args.datapath.probe(self.node_addr);
        let kernel = Kernel::Ebpf { links: Arc::new(Mutex::new(links)), drain_timeout, discovery };
        let mut lone = self.lone(backend, kernel, monitor, Some((state, keeper)));
        lone.switch = switch;
        lone.services.set_probe(probe);
        Ok(lone)
    }

    fn iptables(self) -> Result<Lone> {
        let settings = self.settings;
        let options = iptables::Options {
            inside: inside(settings),
            masquerade_all: settings.masquerade_all,
            masquerade_bit: settings.masquerade_bit,
            // The next one, as far as there is one.
            refuse_bit: (settings.masquerade_bit + 1) % 32,
        };
        let is_by_node = self.config.detect_local_mode == "NodeCIDR" && options.inside == Inside::Sources(Vec::new());
        let by_node = is_by_node.then(|| options.clone());
        if !is_by_node && options.inside == Inside::Sources(Vec::new()) {
            warn_of_no_ranges("clusterCIDR");
        }
        let backend = AnyBackend::iptables(options)?;
        let drain = Drain::find(&self.args.datapath.bpffs, Duration::from_secs(self.args.drain_timeout))?;
        let monitor = self.monitor(backend.mode(), None)?;
        let is_lenient = kernel_table::is_liberal(&settings.kernel_table);
        backend.set_lenient(is_lenient || drain.is_some());
        let kernel = Kernel::Iptables {
            drain: drain.map(Box::new),
            repaired: Instant::now(),
            by_node,
            table: Some(settings.kernel_table),
            is_lenient,
        };
        let probe = probe::by_rules(self.node_addr);
        let mut lone = self.lone(backend, kernel, monitor, None);
        lone.services.set_probe(probe);
        Ok(lone)
    }

    fn monitor(&self, mode: &'static str, maps: Option<Maps>) -> Result<Monitor> {
        let Self { settings, config, node, .. } = self;
        Monitor::start(monitor::Options {
            node: node.clone(),
            healthz: settings.healthz,
            metrics: settings.metrics,
            hard_fail: settings.hard_fail,
            health_timeout: settings.health_timeout(),
            mode,
            config: config.clone(),
            maps,
        })
    }

    fn lone(self, backend: AnyBackend, kernel: Kernel, monitor: Monitor, maps: Option<(Maps, Keeper)>) -> Lone {
        let Self { args, settings, node, local, .. } = self;
        let addresses = interfaces::node_port_addresses(&settings.node_ports, &local);
        let view = NodeView {
            node: node.as_str().into(),
            addresses,
            zone: None,
            redirect: None,
            localhost_node_ports: settings.localhost_node_ports,
        };
        let mut proxy = Proxy::new(backend, view.clone());
        if matches!(settings.node_ports, NodePortAddresses::Ranges(_)) {
            proxy = proxy.only_given_addresses();
        }
        let services = Services::new(proxy, view, maps, monitor);
        if let Err(error) = std::fs::create_dir_all(&args.run) {
            tracing::warn!("{}: {error}", args.run.display());
        }
        let ports = ReservedPorts::open(&args.run, matches!(kernel, Kernel::Ebpf { .. }));
        let (node_ports, period) = (settings.node_ports.clone(), settings.sync_period);
        let mut lone = Lone {
            services,
            kernel,
            switch: Switch::Over,
            node,
            node_ports,
            ports,
            waiting: None,
            written: Taken::default(),
            period,
        };
        lone.listen_where_node_ports_are();
        lone
    }
}

/// How the rules tell the cluster's pods from the outside.
fn inside(settings: &Settings) -> Inside {
    match &settings.pod_interfaces {
        Some(pattern) => Inside::Interfaces(vec![pattern.replace('*', "+")]),
        None => Inside::Sources(settings.cluster_cidrs.clone()),
    }
}

/// What `options` become when the node's ranges are these; `None` when they are so already.
fn with_ranges(options: &iptables::Options, ranges: &[IpNetwork]) -> Option<iptables::Options> {
    let inside = Inside::Sources(ranges.to_vec());
    (options.inside != inside).then(|| iptables::Options { inside, ..options.clone() })
}

fn warn_of_no_ranges(what: &str) {
    tracing::warn!("without {what}, pods count as outside of the cluster, where external traffic policies hold");
}

// === impl Lone ===

impl Lone {
    fn take(&mut self, batch: Batch, waiting: &mut mpsc::Receiver<Batch>) -> Result<()> {
        let Some(taken) = self.services.take(batch, waiting) else { return Ok(()) };
        if let Kernel::Ebpf { discovery, .. } = &self.kernel
            && (taken.first || !taken.dirty.pods.is_empty())
        {
            discovery.pods(&self.services.world, &self.node);
        }
        self.switch.prepare()?;
        if taken.first || taken.dirty.nodes.contains(self.node.as_str()) {
            self.follow_node_ranges(taken.first);
        }
        self.ports.follow(&self.services.world, &taken.dirty.services);
        self.apply(taken)
    }

    /// The rules tell pods by the ranges that the node's object says, from when it says them.
    fn follow_node_ranges(&mut self, is_first: bool) {
        let Kernel::Iptables { by_node: Some(options), .. } = &mut self.kernel else { return };
        let node = self.services.world.node(&self.node);
        let ranges = node.map(|node| node.pod_cidrs.clone()).unwrap_or_default();
        if ranges.is_empty() {
            if is_first {
                warn_of_no_ranges("podCIDRs of this node's object (detectLocalMode NodeCIDR)");
            }
            // One that is deleted has pods still.
            return;
        }
        let Some(next) = with_ranges(options, &ranges) else { return };
        match self.services.replace_rules(next.clone()) {
            Ok(()) => {
                tracing::info!(?ranges, "the node's pods are told by these ranges");
                *options = next;
            }
            Err(error) => tracing::error!("the node's ranges are {ranges:?}, and rules do not know them: {error:#}"),
        }
    }

    /// Brings the kernel to the world, as soon as that may be.
    fn apply(&mut self, taken: Taken) -> Result<()> {
        if !self.switch.may_write() {
            self.waiting.get_or_insert_default().add(taken);
            return Ok(());
        }
        match self.services.apply(taken) {
            Some(settled) => self.settle(settled),
            None => Ok(()),
        }
    }

    /// What has been written takes effect, and the other mode's flows end in their time.
    fn settle(&mut self, settled: Settled) -> Result<()> {
        self.written.add(settled.taken);
        if settled.complete {
            self.serve()?;
        }
        self.announce();
        Ok(())
    }

    /// What has been written and is in effect is told to who asks.
    fn announce(&mut self) {
        if !self.switch.is_attaching() && !self.written.is_nothing() {
            self.services.follow(&std::mem::take(&mut self.written).dirty);
        }
    }

    /// Everything is written: it takes effect, and the other mode's flows end in their time.
    fn serve(&mut self) -> Result<()> {
        match &mut self.kernel {
            Kernel::Ebpf { links, drain_timeout, .. } => {
                let links = Arc::clone(links);
                let attach = move || links.lock().unwrap_or_else(PoisonError::into_inner).attach();
                self.switch.attach(*drain_timeout, attach)?;
            }
            Kernel::Iptables { drain, table, .. } => {
                if let Some(table) = table.take() {
                    kernel_table::apply(&table);
                }
                if let Some(drain) = drain {
                    drain.begin(&self.services.world);
                }
            }
        }
        self.follow_switch()
    }

    /// A step of the way from iptables to eBPF is done.
    fn follow_switch(&mut self) -> Result<()> {
        if let Some(taken) = self.waiting.take_if(|_| self.switch.may_write()) {
            return self.apply(taken);
        }
        if self.switch.is_over() && self.services.is_whole() {
            self.services.serves();
            self.announce();
        }
        Ok(())
    }

    /// What is done from time to time.
    fn tend(&mut self) {
        self.services.tend();
        let Kernel::Iptables { drain, repaired, is_lenient, .. } = &mut self.kernel else { return };
        if repaired.elapsed() >= self.period {
            *repaired = Instant::now();
            // Others write rules too, and some flush them all.
            self.services.backend().repair();
        }
        if let Some(draining) = drain {
            self.services.backend().set_lenient(*is_lenient || !draining.has_left());
            if draining.tick(&self.services.world) {
                *drain = None;
            }
        }
    }

    /// Interfaces and addresses come and go while the proxy runs.
    fn look(&mut self) -> Result<()> {
        let local = match interfaces::look() {
            Ok(local) => local,
            Err(error) => {
                tracing::warn!("{error:#}");
                return Ok(());
            }
        };
        // Whoever attaches looks by himself.
        if let Kernel::Ebpf { links, .. } = &self.kernel
            && let Ok(mut links) = links.try_lock()
        {
            links.follow(&local);
        }
        let addresses = interfaces::node_port_addresses(&self.node_ports, &local);
        if self.services.set_view(NodeView { addresses, ..self.services.view().clone() }) {
            tracing::info!(addresses = ?self.services.view().addresses, "the node's addresses changed");
            self.apply(Taken::default())?;
            self.listen_where_node_ports_are();
        }
        Ok(())
    }

    /// Health checks of services answer on the addresses that serve NodePorts, when somebody chose those.
    fn listen_where_node_ports_are(&mut self) {
        if matches!(self.node_ports, NodePortAddresses::Ranges(_)) {
            let addresses: Vec<IpAddr> = self.services.view().addresses.clone();
            self.services.monitor.set_check_addresses(&addresses);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_the_node_are_taken_when_they_are_news() {
        let options =
            iptables::Options { inside: Inside::Sources(Vec::new()), masquerade_all: true, masquerade_bit: 14, refuse_bit: 15 };
        let ranges: Vec<IpNetwork> = vec!["10.244.1.0/24".parse().expect("range")];
        let next = with_ranges(&options, &ranges).expect("news");
        assert!(next.inside == Inside::Sources(ranges.clone()) && next.masquerade_all);
        assert!(with_ranges(&next, &ranges).is_none());
    }
}
