//! What watches a service proxy: health, metrics, and the health checks of services; and the servers that show them.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use anyhow::Result;
use thalweg_cluster::{Change, Family, Name, World};
use thalweg_loader::Maps;
use thalweg_proxy::config::KubeProxyConfiguration;
use thalweg_proxy::health::{self, Dial, Health, Moment, Prober, ServiceChecks};
use thalweg_proxy::http::Server;
use thalweg_proxy::iptables;
use thalweg_proxy::metrics::{self, KernelReader, Metrics, NoLocal, Round};

/// Where a server listens; written as an address, or empty for nowhere.
#[derive(Clone, Copy, Debug)]
pub struct Address(pub Option<SocketAddr>);

pub struct Options {
    /// Name of this node.
    pub node: String,
    /// `None` turns a server off.
    pub healthz: Option<SocketAddr>,
    pub metrics: Option<SocketAddr>,
    /// End when one of them cannot listen; otherwise it tries again.
    pub hard_fail: bool,
    /// How long a change may wait before the proxy is unhealthy.
    pub health_timeout: Duration,
    /// Shown by /proxyMode.
    pub mode: &'static str,
    /// Shown by /configz.
    pub config: KubeProxyConfiguration,
    /// Whose figures are shown; `None` when there are none.
    pub maps: Option<Maps>,
}

/// Told by the loop what happens; the servers tell everybody else.
pub struct Monitor {
    node: String,
    health: Health,
    metrics: Metrics,
    checks: ServiceChecks,
    prober: Option<Prober>,
    _servers: Vec<Server>,
}

// === impl Address ===

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.map_or(Ok(()), |address| address.fmt(f))
    }
}

/// Reads an [`Address`].
///
/// # Errors
/// When the text is neither empty nor `IP:PORT`.
pub fn address(text: &str) -> Result<Address, String> {
    if text.is_empty() {
        return Ok(Address(None));
    }
    text.parse().map(|address| Address(Some(address))).map_err(|_| format!("{text:?}: must be IP:PORT, or empty for none"))
}

// === impl Monitor ===

impl Monitor {
    /// Starts the servers. Call it inside the runtime.
    ///
    /// # Errors
    /// With `hard_fail`, when a server cannot listen.
    pub fn start(options: Options) -> Result<Self> {
        let Options { node, healthz, metrics: metrics_address, hard_fail, health_timeout, mode, config, maps } = options;
        let (health, metrics) = (Health::new(health_timeout), Metrics::default());
        let mut servers = Vec::new();
        if let Some(address) = healthz {
            let handler = health::handler(health.clone(), metrics.clone());
            servers.push(Server::listen("health", address, hard_fail, handler)?);
        }
        if let Some(address) = metrics_address {
            let reader = maps.map(KernelReader::new);
            let kernel = move || reader.as_ref().and_then(KernelReader::figures);
            let handler = metrics::handler(metrics.clone(), mode, config, kernel);
            servers.push(Server::listen("metrics", address, hard_fail, handler)?);
        }
        let checks = ServiceChecks::new(node.as_str(), health.clone());
        Ok(Self { node, health, metrics, checks, prober: None, _servers: servers })
    }

    /// Changes arrived that are not in the kernel yet.
    pub fn queued(&self, changes: &[Change]) {
        self.metrics.queued(changes);
        if changes.iter().any(|change| matches!(change, Change::Service(..) | Change::EndpointSlice(..))) {
            self.health.update(|state| state.queued(Moment::now()));
        }
    }

    /// Everything has been listed, and waits.
    pub fn listed(&self) {
        self.health.update(|state| state.listed(Moment::now()));
    }

    /// The kernel was brought to the world, as far as `round` says.
    pub fn synced(&self, round: &Round, services: usize) {
        self.metrics.synced(round, services);
        if round.complete {
            self.health.update(|state| state.updated(Moment::now(), round.behind));
        }
    }

    /// Follows what became of these services, and of this node.
    pub fn follow(&mut self, world: &World, services: &BTreeSet<Name>, no_local: NoLocal) {
        let node = world.node(&self.node).map(|node| &**node);
        self.health.update(|state| state.sync_node(node));
        self.checks.update(world, services);
        self.metrics.health_checks(self.checks.len());
        self.metrics.no_local_endpoints(no_local);
    }

    /// These causes of changes are in effect; `rules` are what there are now, if there are any.
    pub fn programmed(&self, causes: &[(Family, SystemTime)], rules: Option<iptables::Figures>) {
        self.metrics.programmed(causes);
        if let Some(rules) = rules {
            self.metrics.rules(rules);
        }
    }

    /// For whoever counts elsewhere.
    pub fn metrics(&self) -> Metrics {
        self.metrics.clone()
    }

    /// Dials a virtual IP of our own from now on, and says so in /healthz.
    pub fn probe(&mut self, dial: Dial) {
        self.prober = Some(Prober::start(self.health.clone(), health::EVERY, dial));
    }

    /// Nobody dials, for this reason.
    pub fn unprobed(&self, reason: &'static str) {
        tracing::info!("/healthz says nothing of whether packets flow: {reason}");
        self.health.update(|state| state.unprobed(reason));
    }

    /// Tries again to open health checks that could not listen.
    pub fn retry(&mut self) {
        self.checks.sync();
        self.metrics.health_checks(self.checks.len());
    }

    /// Where health checks of services listen; empty: on every address.
    pub fn set_check_addresses(&mut self, addresses: &[IpAddr]) {
        self.checks.set_addresses(addresses);
        self.retry();
    }
}
