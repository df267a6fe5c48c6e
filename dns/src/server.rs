//! Wires the zone, the sockets and the upstreams together.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use arc_swap::{ArcSwap, ArcSwapOption};
use thalweg_cluster::{Dirty, World};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use crate::cache::Stats as CacheStats;
use crate::config::{Config, max_udp};
use crate::corefile::Target;
use crate::counters::{Counters, Stats};
use crate::forward::{Forwarder, GroupReport, Waiting, resolv_conf};
use crate::gate::{Admission, Gate};
use crate::listen::{self, Listen};
use crate::log::QueryLog;
use crate::name;
use crate::names::Names;
use crate::plan::Plan;
use crate::query::{Rotation, Transport};
use crate::sockets::{UdpWorker, raise_open_files};
use crate::tcp::{CONNECTIONS, Streams};
use crate::traffic::{Totals, Traffic};
use crate::zone::{Zone, ZoneBuilder, ZoneConfig, ZoneError};

/// What the operator chooses.
#[derive(Clone, Debug)]
pub struct Options {
    /// Addresses to serve, over UDP and TCP. Port 0 takes a free one. Name each address: replies leave from it, whereas
    /// those of a wildcard leave from whichever address the route prefers.
    pub listen: Vec<SocketAddr>,
    /// For example `cluster.local`.
    pub zone: String,
    /// Seconds that clients may keep an answer.
    pub ttl: u32,
    /// Where names outside the zone are asked; none: they are refused.
    pub upstreams: Vec<SocketAddr>,
    /// Threads for each address; 0 for one per processor over all addresses, and at least one for each.
    pub workers: usize,
}

#[derive(thiserror::Error, Debug)]
pub enum Error {
    #[error(
        "cannot serve DNS on {address} over {transport}: {source}; check that the address is on this machine and that no \
         other DNS server holds it (`ss -lntup`)"
    )]
    Bind { address: SocketAddr, transport: &'static str, source: io::Error },
    #[error("cannot serve the zones as configured: {0}")]
    Zone(#[from] ZoneError),
    #[error("no address to serve DNS on: give at least one listen address")]
    NoAddress,
    #[error("cannot start the threads of the DNS server: {0}")]
    Threads(io::Error),
    #[error("cannot read the upstream name servers from {}: {source}; check the path in the forward line", path.display())]
    ResolvConf { path: PathBuf, source: io::Error },
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the workers share.
pub struct Shared {
    pub zone: ArcSwap<Zone>,
    /// `None` as long as nobody is to be asked about other names.
    pub forwarder: ArcSwapOption<Forwarder>,
    /// Those who wait for upstreams.
    pub waiting: Arc<Waiting>,
    pub gate: ArcSwap<Gate>,
    pub names: ArcSwap<Names>,
    pub log: ArcSwap<QueryLog>,
    pub stopping: AtomicBool,
    /// All times count from here.
    pub started: Instant,
}

/// A running DNS server. Dropping it stops it.
pub struct Server {
    shared: Arc<Shared>,
    builder: Mutex<ZoneBuilder>,
    counters: Vec<Arc<Counters>>,
    traffic: Vec<Arc<Traffic>>,
    listening: Vec<SocketAddr>,
    workers: Mutex<Vec<JoinHandle<()>>>,
    runtime: Mutex<Option<Runtime>>,
    /// The tasks that accept connections.
    accepting: Vec<AbortHandle>,
    connections: Arc<Semaphore>,
}

// === impl Shared ===

impl Shared {
    /// Whether a query may be answered at all; counts those that may not.
    pub fn admit(&self, gate: &Gate, packet: &[u8], transport: Transport, client: IpAddr, traffic: &Traffic) -> Admission {
        if gate.is_open() {
            return Admission::Pass;
        }
        let admission = gate.admit(packet, client, transport, self.started.elapsed());
        match admission {
            Admission::Pass => {}
            Admission::Cut | Admission::Shed => traffic.limited(),
            Admission::Drop | Admission::Refuse | Admission::Empty => traffic.blocked(),
        }
        admission
    }

    /// Logs a query that was answered, if that is wanted.
    pub fn note(&self, log: &QueryLog, packet: &[u8], reply: &[u8], transport: Transport, client: SocketAddr) {
        if !log.is_off() {
            log.note(packet, reply, transport, client, self.started.elapsed());
        }
    }
}

// === impl Server ===

impl Server {
    /// A server of one zone, with one group of upstreams for everything else; see [`Server::serve`].
    ///
    /// # Errors
    /// As [`Server::serve`].
    pub fn start(options: Options) -> Result<Self> {
        let zone = ZoneConfig { origins: vec![options.zone], ttl: options.ttl, ..ZoneConfig::default() };
        Self::serve(&options.listen, options.workers, &Config::simple(zone, &options.upstreams))
    }

    /// [`Server::serve_at`] of addresses that are all named.
    ///
    /// # Errors
    /// As [`Server::serve_at`].
    pub fn serve(listen: &[SocketAddr], workers: usize, config: &Config) -> Result<Self> {
        let listen: Vec<Listen> = listen.iter().copied().map(Listen::named).collect();
        Self::serve_at(&listen, workers, config)
    }

    /// Binds every address and starts to answer: SERVFAIL for names of the cluster until [`Server::mark_synced`].
    /// `workers` are as in [`Options`]. Raises the process's limit of open files to what it may be at most. An address that was found on this machine and is not there is left out, with a warning.
    ///
    /// Another server of the same user that also shares its port may still be running: both are then asked.
    ///
    /// # Errors
    /// When an address cannot be bound or none is left, the zone cannot be, or a file that lists upstreams cannot be read.
    pub fn serve_at(listen: &[Listen], workers: usize, config: &Config) -> Result<Self> {
        let per_address = listen::workers(workers, listen.len());
        raise_open_files();
        // Everything is bound before anything is started, so that an address that is taken leaves no trace.
        let bound = listen::bind_all(listen, per_address)?;
        let listening: Vec<SocketAddr> = bound.iter().map(|bound| bound.address).collect();
        let builder = zone_builder(config, &listening)?;
        let shared = Arc::new(Shared {
            zone: ArcSwap::from_pointee(builder.snapshot()),
            forwarder: ArcSwapOption::empty(),
            waiting: Arc::default(),
            gate: ArcSwap::from_pointee(Gate::new(&config.servers, config.client_rate)),
            names: ArcSwap::from_pointee(names(config)),
            log: ArcSwap::from_pointee(QueryLog::new(&config.servers)),
            stopping: AtomicBool::new(false),
            started: Instant::now(),
        });
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("dns-stream")
            .enable_all()
            .build()
            .map_err(Error::Threads)?;
        let handle = runtime.handle().clone();
        // From here on the server owns the runtime: were it dropped where an asynchronous caller runs, it would panic.
        let mut server = Self {
            shared,
            builder: Mutex::new(builder),
            counters: Vec::new(),
            traffic: Vec::new(),
            listening,
            workers: Mutex::default(),
            runtime: Mutex::new(Some(runtime)),
            accepting: Vec::new(),
            connections: Arc::new(Semaphore::new(CONNECTIONS)),
        };
        server.shared.forwarder.store(server.new_forwarder(config, &handle)?);
        let (streams, datagrams): (_, Vec<_>) = bound.into_iter().map(|bound| (bound.stream, bound.datagrams)).unzip();
        server.start_streams(&handle, streams)?;
        for (index, socket) in datagrams.into_iter().flatten().enumerate() {
            server.start_worker(index, socket.into(), handle.clone())?;
        }
        tracing::info!(addresses = ?server.listening, workers = per_address, "serving cluster DNS");
        Ok(server)
    }

    /// Brings the zone to this state of the cluster; the services in `dirty` are looked at again. Queries under way see
    /// the zone before or after, never between.
    pub fn publish(&self, world: &World, dirty: &Dirty) {
        if dirty.services.is_empty() && dirty.pods.is_empty() {
            return;
        }
        let mut builder = self.builder.lock().unwrap_or_else(PoisonError::into_inner);
        builder.apply(world, dirty, self.next_serial());
        self.shared.zone.store(Arc::new(builder.snapshot()));
    }

    /// Takes another configuration, all of it or, on an error, nothing. No query is lost: those under way see the old one
    /// or the new one. What upstreams said is kept where they and the cache are configured as before; addresses to listen on
    /// stay.
    ///
    /// # Errors
    /// When the zone cannot be, or a file that lists upstreams cannot be read.
    pub fn reload(&self, config: &Config, world: &World) -> Result<()> {
        let Some(runtime) = self.runtime.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|it| it.handle().clone())
        else {
            return Ok(());
        };
        let forwarder = self.new_forwarder(config, &runtime)?;
        let mut fresh = zone_builder(config, &self.listening)?;
        let mut builder = self.builder.lock().unwrap_or_else(PoisonError::into_inner);
        let mut everything = Dirty::default();
        everything.services.extend(world.services().map(|service| service.name.clone()));
        everything.pods.extend(world.pods().map(|pod| pod.name.clone()));
        fresh.apply(world, &everything, self.next_serial());
        if self.shared.zone.load().synced {
            fresh.set_synced();
        }
        *builder = fresh;
        // Whoever is told to ask others finds somebody to ask.
        if forwarder.is_some() {
            self.shared.forwarder.store(forwarder.clone());
        }
        self.shared.zone.store(Arc::new(builder.snapshot()));
        self.shared.forwarder.store(forwarder);
        self.shared.gate.store(Arc::new(Gate::new(&config.servers, config.client_rate)));
        self.shared.names.store(Arc::new(names(config)));
        self.shared.log.store(Arc::new(QueryLog::new(&config.servers)));
        Ok(())
    }

    /// Reads the hosts files again that the configuration names, which is the one in use.
    pub fn reload_hosts(&self, config: &Config) {
        self.shared.names.store(Arc::new(names(config)));
    }

    /// The cluster has been listed completely and published: from now on a name that is not there does not exist.
    pub fn mark_synced(&self) {
        let mut builder = self.builder.lock().unwrap_or_else(PoisonError::into_inner);
        builder.set_synced();
        self.shared.zone.store(Arc::new(builder.snapshot()));
    }

    /// Counters since the start.
    pub fn stats(&self) -> Stats {
        let zone = self.shared.zone.load();
        let shed = self.shared.waiting.shed();
        let mut stats = Stats { names: zone.names() as u64, serial: zone.serial, shed, ..Stats::default() };
        self.counters.iter().for_each(|counters| counters.add_to(&mut stats));
        stats
    }

    /// The addresses that are served, with the ports that were taken for port 0.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.listening
    }

    /// The zone as it is served now.
    pub fn zone(&self) -> Arc<Zone> {
        self.shared.zone.load_full()
    }

    /// Queries and replies since the start.
    pub fn traffic(&self) -> Totals {
        let mut totals = Totals::default();
        self.traffic.iter().for_each(|traffic| traffic.add_to(&mut totals));
        totals
    }

    /// What was asked of each upstream since the configuration was last changed.
    pub fn upstreams(&self) -> Vec<GroupReport> {
        let forwarder = self.forwarder();
        forwarder.iter().flat_map(|forwarder| forwarder.plan().groups()).map(|group| group.report()).collect()
    }

    /// Whether the cluster has been listed completely.
    pub fn is_synced(&self) -> bool {
        self.shared.zone.load().synced
    }

    /// What each cache has done, by its zone.
    pub fn caches(&self) -> Vec<(String, CacheStats)> {
        let Some(forwarder) = self.forwarder() else { return Vec::new() };
        let blocks = forwarder.plan().blocks();
        blocks.filter_map(|(zone, block)| Some((name::display(zone), block.cache.as_ref()?.stats()))).collect()
    }

    /// Who asks the upstreams now; `None` when nobody is to be asked.
    pub(crate) fn forwarder(&self) -> Option<Arc<Forwarder>> {
        self.shared.forwarder.load_full()
    }

    /// Answers what has arrived and stops, within a fraction of a second. Calling it again does nothing.
    pub fn shutdown(&self) {
        self.shared.stopping.store(true, Ordering::Release);
        self.accepting.iter().for_each(AbortHandle::abort);
        let workers = std::mem::take(&mut *self.workers.lock().unwrap_or_else(PoisonError::into_inner));
        for worker in workers {
            // Panics are caught and counted where they happen.
            let _ended = worker.join();
        }
        if let Some(runtime) = self.runtime.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // Never waits: the caller may itself run in an asynchronous runtime.
            runtime.shutdown_background();
        }
    }

    /// Who asks the upstreams of a configuration; `None` when there are none.
    fn new_forwarder(&self, config: &Config, runtime: &Handle) -> Result<Option<Arc<Forwarder>>> {
        let old = self.shared.forwarder.load();
        let resolve = |target: &Target| addresses(target, &self.listening);
        let plan = Plan::new(&config.servers, old.as_ref().map(|old| old.plan()), &resolve)?;
        Ok(plan.forwards().then(|| Forwarder::new(plan, runtime.clone(), self.shared.started)))
    }

    fn next_serial(&self) -> u32 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as u32);
        now.max(self.shared.zone.load().serial.wrapping_add(1))
    }

    fn start_worker(&mut self, index: usize, socket: Arc<std::net::UdpSocket>, runtime: Handle) -> Result<()> {
        let worker = UdpWorker {
            socket,
            shared: self.shared.clone(),
            counters: self.new_counters(),
            traffic: self.new_traffic(),
            runtime,
        };
        let thread = std::thread::Builder::new().name(format!("dns-udp-{index}"));
        let thread = thread.spawn(move || run_worker(&worker)).map_err(Error::Threads)?;
        self.workers.get_mut().unwrap_or_else(PoisonError::into_inner).push(thread);
        Ok(())
    }

    fn start_streams(&mut self, runtime: &Handle, streams: Vec<std::net::TcpListener>) -> Result<()> {
        let _inside = runtime.enter();
        let serving = Arc::new(Streams {
            shared: self.shared.clone(),
            counters: self.new_counters(),
            traffic: self.new_traffic(),
            rotation: Rotation::default(),
            connections: self.connections.clone(),
            clients: Arc::default(),
        });
        for stream in streams {
            let listener = tokio::net::TcpListener::from_std(stream).map_err(Error::Threads)?;
            self.accepting.push(runtime.spawn(serving.clone().accept(listener)).abort_handle());
        }
        Ok(())
    }

    fn new_traffic(&mut self) -> Arc<Traffic> {
        let traffic = Arc::new(Traffic::default());
        self.traffic.push(traffic.clone());
        traffic
    }

    fn new_counters(&mut self) -> Arc<Counters> {
        let counters = Arc::new(Counters::default());
        self.counters.push(counters.clone());
        counters
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown();
    }
}

/// The zone of a configuration, still without services. Without one nothing is ours but `invalid`, which nobody may have
/// (RFC 6761 section 6.4).
fn zone_builder(config: &Config, listen: &[SocketAddr]) -> Result<ZoneBuilder> {
    let nothing = || ZoneConfig { origins: vec!["invalid".into()], reverse: Vec::new(), ..ZoneConfig::default() };
    let mut zone = config.zone.clone().unwrap_or_else(nothing);
    if zone.nameservers.is_empty() {
        zone.nameservers = listen.iter().map(SocketAddr::ip).filter(|ip| !ip.is_unspecified()).collect();
        // Nobody else can ask there.
        if zone.nameservers.iter().any(|ip| !ip.is_loopback()) {
            zone.nameservers.retain(|ip| !ip.is_loopback());
        }
    }
    zone.max_udp = max_udp(&config.servers);
    zone.recursion = config.servers.iter().any(|server| !server.forwards.is_empty());
    let mut builder = ZoneBuilder::new(&zone)?;
    if config.zone.is_none() {
        builder.set_synced();
    }
    Ok(builder)
}

/// Rules and tables of names, with the files that they name.
fn names(config: &Config) -> Names {
    Names::new(&config.servers, &|path| {
        let text = std::fs::read_to_string(path);
        text.inspect_err(|error| tracing::warn!(path = %path.display(), %error, "no hosts are known from this file")).ok()
    })
}

/// The addresses behind a target, without our own: asking ourselves would never end.
fn addresses(target: &Target, own: &[SocketAddr]) -> Result<Vec<SocketAddr>> {
    let mut addresses = match target {
        Target::Address(address) => return Ok(vec![*address]),
        Target::ResolvConf(path) => {
            let text = std::fs::read_to_string(path).map_err(|source| Error::ResolvConf { path: path.clone(), source })?;
            resolv_conf::nameservers(&text, &|name| nix::net::if_::if_nametoindex(name).ok())
        }
    };
    addresses.retain(|address| !own.contains(address));
    if addresses.is_empty() {
        tracing::warn!(?target, "lists no name server that can be asked");
    }
    Ok(addresses)
}

/// Serves until the server stops. A fault in one query costs its batch, not the node's DNS.
fn run_worker(worker: &UdpWorker) {
    while catch_unwind(AssertUnwindSafe(|| worker.run())).is_err() {
        worker.counters.panics.fetch_add(1, Ordering::Relaxed);
        tracing::error!("a DNS worker panicked and goes on; please report it with the backtrace above");
    }
}

#[cfg(test)]
mod tests;
