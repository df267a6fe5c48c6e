//! What a server does, from whatever says it: a Corefile with the stub domains beside it, or a few options.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::corefile::{
    Bind, Cache, CacheClass, Corefile, Fallthrough, Forward, Health, Key, Pods, Reload, ServerBlock, Target,
};
use crate::name::{self, WireName};
use crate::query::{MAX_UDP, PLAIN_UDP};
use crate::stub_domains::StubDomains;
use crate::zone::{self, PodMode, ZoneConfig};

/// What an answer from upstream is kept for at most when nothing is said, in seconds: as kubeadm has it.
const CACHE_TTL: u32 = 30;

/// Everything that can change while a server runs.
#[derive(Clone, Debug)]
pub struct Config {
    /// The cluster's names; `None` when there are none to serve.
    pub zone: Option<ZoneConfig>,
    /// For all other names.
    pub servers: Vec<ServerBlock>,
    pub operation: Operation,
    /// Queries a second from each client over UDP; 0: any number.
    pub client_rate: u32,
}

/// What is offered beside answers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Operation {
    pub health: Option<Health>,
    pub ready: Option<SocketAddr>,
    pub prometheus: Option<SocketAddr>,
    pub reload: Option<Reload>,
}

#[derive(thiserror::Error, Clone, PartialEq, Eq, Debug)]
pub enum Error {
    #[error("Corefile line {line}: this block is for port {port}, the first one for port {first}; serve all zones on one port")]
    Ports { line: usize, first: u16, port: u16 },
    #[error("Corefile line {line}: this block listens elsewhere than the first one; give both the same `bind`")]
    Binds { line: usize },
    #[error("Corefile line {line}: a second `kubernetes`; name all zones of the cluster in one")]
    Kubernetes { line: usize },
    #[error("Corefile line {line}: `{what}` differs from that of another block; there is one for the whole server")]
    Differs { line: usize, what: &'static str },
    #[error("Corefile line {line}: `{zone}` is no zone of addresses; name reverse zones such as in-addr.arpa")]
    Reverse { line: usize, zone: String },
    #[error("stub domain `{0}` is the cluster's own zone; remove it, or take the zone out of `kubernetes`")]
    Stub(String),
    #[error("Corefile line {line}: {what} is not supported yet; remove it")]
    NotYet { line: usize, what: &'static str },
}

// === impl Config ===

impl Config {
    /// A zone, and one group of upstreams for everything else.
    pub fn simple(zone: ZoneConfig, upstreams: &[SocketAddr]) -> Self {
        let class = CacheClass { max_ttl: CACHE_TTL, ..Cache::default().success };
        let cache = Cache { success: class, denial: class, ..Cache::default() };
        let root = root();
        let to = upstreams.iter().copied().map(Target::Address).collect();
        let server = ServerBlock {
            keys: vec![Key { zone: root.clone(), port: 0 }],
            errors: true,
            forwards: vec![Forward::new(0, root, to)],
            cache: Some(cache),
            detect_loops: true,
            ..ServerBlock::default()
        };
        let servers = if upstreams.is_empty() { Vec::new() } else { vec![server] };
        Self { zone: Some(zone), servers, operation: Operation::default(), client_rate: 0 }
    }

    /// What a Corefile says, and kube-dns's stub domains beside it.
    ///
    /// # Errors
    /// When blocks contradict each other: here they share sockets and the cluster's zone.
    pub fn from_corefile(corefile: &Corefile, stubs: &StubDomains) -> Result<Self, Error> {
        let (servers, operation) = (corefile.servers.clone(), Operation::default());
        let mut config = Self { zone: None, servers, operation, client_rate: 0 };
        let ports = |server: &ServerBlock| server.keys.first().map_or(0, |key| key.port);
        let first = corefile.servers.first().map_or(0, ports);
        for server in &corefile.servers {
            let line = server.line;
            if let Some(key) = server.keys.iter().find(|key| key.port != first) {
                return Err(Error::Ports { line, first, port: key.port });
            }
            if corefile.servers.first().is_some_and(|first| first.bind != server.bind) {
                return Err(Error::Binds { line });
            }
            if server.autopath.is_some() {
                return Err(Error::NotYet { line, what: "autopath" });
            }
            config.operation.take(server)?;
            if let Some(kubernetes) = &server.kubernetes {
                if config.zone.is_some() {
                    return Err(Error::Kubernetes { line });
                }
                config.zone = Some(zone_config(server, kubernetes)?);
            }
        }
        config.share_zones(stubs)?;
        config.add_stubs(stubs);
        Ok(config)
    }

    /// Addresses that the Corefile names to listen on, and the names of interfaces.
    pub fn binds(&self) -> (Vec<IpAddr>, Vec<&str>) {
        let (mut addresses, mut interfaces) = (Vec::new(), Vec::new());
        for bind in self.servers.first().map_or(&[][..], |server| &server.bind) {
            match bind {
                Bind::Address(address) => addresses.push(*address),
                Bind::Interface(name) => interfaces.push(name.as_str()),
            }
        }
        (addresses, interfaces)
    }

    /// The port that the Corefile names.
    pub fn port(&self) -> Option<u16> {
        self.servers.first()?.keys.first().map(|key| key.port)
    }

    /// Says which names in the cluster's zones are somebody else's: those that meet a block without `kubernetes` first, as
    /// in CoreDNS, and those of stub domains in a zone, as in kube-dns.
    fn share_zones(&mut self, stubs: &StubDomains) -> Result<(), Error> {
        let Some(server) = self.servers.iter().find(|server| server.kubernetes.is_some()) else { return Ok(()) };
        let zones: Vec<&WireName> =
            server.kubernetes.iter().flat_map(|kubernetes| kubernetes.zones.iter().chain(&kubernetes.reverse)).collect();
        let blocks = self.servers.iter().flat_map(|server| {
            let ours = server.kubernetes.is_some();
            server.keys.iter().map(move |key| (key.zone.clone(), ours))
        });
        let mut shares: Vec<(WireName, bool)> = blocks.collect();
        for (stub, _) in &stubs.stubs {
            if zones.contains(&stub) {
                return Err(Error::Stub(name::display(stub)));
            }
            if zones.iter().any(|zone| name::is_within(stub, zone)) {
                shares.push((stub.clone(), false));
            }
        }
        let block = |zone: &WireName| longest(shares.iter().map(|(domain, ours)| (domain, *ours)), zone);
        let is_all_ours = |zone: &&WireName| {
            let others_within = shares.iter().any(|(domain, ours)| !ours && name::is_within(domain, zone));
            !others_within && block(zone) != Some(false)
        };
        if !zones.iter().all(is_all_ours)
            && let Some(zone) = &mut self.zone
        {
            zone.shares = shares;
        }
        Ok(())
    }

    /// Stub domains go before what the block that they are in says of other names.
    fn add_stubs(&mut self, stubs: &StubDomains) {
        let mut homeless = Vec::new();
        // Each goes to the front, so that longer ones, which come first, end up there.
        for stub in stubs.forwards().into_iter().rev() {
            let keys =
                self.servers.iter().enumerate().flat_map(|(at, server)| server.keys.iter().map(move |key| (&key.zone, at)));
            match longest(keys, &stub.from) {
                Some(at) => {
                    let forwards = &mut self.servers[at].forwards;
                    // Upstreams of the ConfigMap replace those of the Corefile, as kube-dns's replaced the node's.
                    forwards.retain(|forward| forward.from != stub.from);
                    forwards.insert(0, stub);
                }
                None => homeless.insert(0, stub),
            }
        }
        if !homeless.is_empty() {
            let keys = vec![Key { zone: root(), port: self.port().unwrap_or(0) }];
            let cache = Some(Cache::default());
            self.servers.push(ServerBlock { keys, forwards: homeless, cache, errors: true, ..ServerBlock::default() });
        }
    }
}

// === impl Operation ===

impl Operation {
    /// Adds what a block offers; several may, if they say the same.
    fn take(&mut self, server: &ServerBlock) -> Result<(), Error> {
        let line = server.line;
        one(&mut self.health, server.health.as_ref()).ok_or(Error::Differs { line, what: "health" })?;
        one(&mut self.ready, server.ready.as_ref()).ok_or(Error::Differs { line, what: "ready" })?;
        one(&mut self.prometheus, server.prometheus.as_ref()).ok_or(Error::Differs { line, what: "prometheus" })?;
        one(&mut self.reload, server.reload.as_ref()).ok_or(Error::Differs { line, what: "reload" })
    }

    /// How long a server that ends goes on answering.
    pub fn lameduck(&self) -> Duration {
        self.health.as_ref().map_or(Duration::ZERO, |health| health.lameduck)
    }
}

/// `None` when there is one already that differs.
fn one<T: Clone + PartialEq>(held: &mut Option<T>, more: Option<&T>) -> Option<()> {
    let Some(more) = more else { return Some(()) };
    held.as_ref().is_none_or(|held| held == more).then(|| *held = Some(more.clone()))
}

fn zone_config(server: &ServerBlock, kubernetes: &crate::corefile::Kubernetes) -> Result<ZoneConfig, Error> {
    let text = |zone: &WireName| name::display(zone).trim_end_matches('.').to_owned();
    let range = |zone: &WireName| {
        let text = text(zone);
        // The suffixes themselves are every address of their family.
        let range = match text.as_str() {
            "in-addr.arpa" => "0.0.0.0/0".parse().ok(),
            "ip6.arpa" => "::/0".parse().ok(),
            other => zone::reverse_range(other),
        };
        range.ok_or(Error::Reverse { line: server.line, zone: text })
    };
    Ok(ZoneConfig {
        origins: kubernetes.zones.iter().map(text).collect(),
        reverse: kubernetes.reverse.iter().map(range).collect::<Result<_, _>>()?,
        ttl: kubernetes.ttl,
        pods: match kubernetes.pods {
            Pods::Disabled => PodMode::Disabled,
            Pods::Insecure => PodMode::Insecure,
            Pods::Verified => PodMode::Verified,
        },
        recursion: true,
        fallthrough: match &kubernetes.fallthrough {
            Fallthrough::Never => zone::Fallthrough::Never,
            Fallthrough::Always => zone::Fallthrough::Always,
            Fallthrough::Zones(zones) => zone::Fallthrough::Below(zones.iter().map(text).collect()),
        },
        namespaces: (!kubernetes.namespaces.is_empty()).then(|| kubernetes.namespaces.clone()),
        endpoint_pod_names: kubernetes.endpoint_pod_names,
        ignore_empty_service: kubernetes.ignore_empty_service,
        ..ZoneConfig::default()
    })
}

/// The largest reply over UDP, in octets: by the smallest `bufsize` of all blocks, and [`MAX_UDP`] at most.
pub fn max_udp(servers: &[ServerBlock]) -> usize {
    servers.iter().filter_map(|server| server.bufsize).map(usize::from).min().unwrap_or(MAX_UDP).clamp(PLAIN_UDP, MAX_UDP)
}

/// What goes with the longest domain that a name is in.
fn longest<'a, T>(domains: impl Iterator<Item = (&'a WireName, T)>, name: &[u8]) -> Option<T> {
    domains.filter(|(domain, _)| name::is_within(name, domain)).max_by_key(|(domain, _)| domain.len()).map(|(_, what)| what)
}

fn root() -> WireName {
    [0u8][..].into()
}

#[cfg(test)]
mod tests;
