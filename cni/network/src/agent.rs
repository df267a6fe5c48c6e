//! The pod network of one node, wired: what the agent starts, feeds and stops.

use std::fs::{self, File, TryLockError};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use thalweg_cluster::World;
use thalweg_cni::protocol::tombstone_dir;
use tracing::{info, warn};

use crate::attachments::Attachments;
use crate::error::{Error, Result};
use crate::hook::{PodDatapath, PodLink};
use crate::host_ports::HostPorts;
use crate::ipam::{Ipam, Usage};
use crate::journal::Journal;
use crate::keys::{Keys, lock};
use crate::namespace;
use crate::netlink::Netlink;
use crate::routes::{Routes, canonical, peers};
use crate::server::Server;
use crate::sysctl::Switches;

/// Between two looks at tombstones, vanished links, the uplink and the routes.
const TEND: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
pub struct Options {
    /// Where the plugin finds us (`/run/thalweg/cni.sock`).
    pub socket: PathBuf,
    /// Journal and tombstones lie in its `cni` (`/var/lib/thalweg`).
    pub state_dir: PathBuf,
    /// Name of this node.
    pub node: String,
    /// The interface that reaches the other nodes.
    pub uplink: String,
    /// Of pods' links; that of the uplink by default.
    pub mtu: Option<u32>,
    /// How long a released address rests at least.
    pub quarantine: Duration,
}

/// The running pod network. Dropping it is [`PodNetwork::shutdown`].
pub struct PodNetwork {
    shared: Arc<Shared>,
    server: Mutex<Option<Server>>,
    keeper: Mutex<Option<JoinHandle<()>>>,
    /// Held as long as we live: two agents on one state directory would give addresses twice.
    _lock: File,
}

struct Shared {
    options: Options,
    attachments: Arc<Attachments>,
    routes: Mutex<Routes>,
    switches: Mutex<Switches>,
    /// Of the thread that started us: callers may live in others.
    netns: File,
    stop: Mutex<bool>,
    stopped: Condvar,
}

// === impl PodNetwork ===

impl PodNetwork {
    /// Adopts what an earlier agent left, then serves. Everything happens in the network namespace of the calling thread.
    ///
    /// # Errors
    /// No uplink of that name, no rights on links or sysctls, a state directory that cannot be written or that another
    /// agent holds.
    pub fn start(options: Options, datapath: Arc<dyn PodDatapath>) -> Result<Self> {
        let directory = options.state_dir.join("cni");
        fs::create_dir_all(&directory).map_err(Error::io(format!("{} cannot be made", directory.display())))?;
        let lock_file = hold(&directory.join("lock"))?;
        let netns = namespace::own().map_err(Error::io("/proc/thread-self/ns/net cannot be opened"))?;
        let boot = boot_id()?;
        let mut switches = Switches::open(&directory, &boot);
        switches.prepare_v4(&options.uplink)?;

        let open = || Netlink::open().map_err(Error::io("no netlink socket"));
        let mut host = open()?;
        let routes = Routes::new(open()?, options.uplink.clone())?;
        let (journal, damage) = Journal::open(&directory, &boot, options.quarantine)
            .map_err(Error::io(format!("the journal in {} cannot be opened", directory.display())))?;
        if damage != Default::default() {
            warn!(?damage, "the journal was damaged; what is missing is recovered from the links");
        }
        let attachments = Arc::new(Attachments {
            datapath,
            journal,
            ipam: Mutex::new(Ipam::new(options.quarantine)),
            pods: Mutex::default(),
            keys: Keys::default(),
            host_ports: HostPorts::default(),
            tombstones: tombstone_dir(&options.state_dir),
            mtu: AtomicU32::new(options.mtu.unwrap_or(routes.uplink().mtu)),
        });
        attachments.restore(&mut host)?;
        let server = Server::start(&options.socket, &attachments)?;
        info!(socket = %options.socket.display(), pods = attachments.links().len(), "the pod network serves");
        let shared = Arc::new(Shared {
            options,
            attachments,
            routes: Mutex::new(routes),
            switches: Mutex::new(switches),
            netns,
            stop: Mutex::new(false),
            stopped: Condvar::new(),
        });
        let keeper = {
            let shared = Arc::clone(&shared);
            let work = move || shared.keep(&mut host);
            thread::Builder::new().name("tw-keeper".into()).spawn(work).map_err(Error::io("no thread"))?
        };
        Ok(Self { shared, server: Mutex::new(Some(server)), keeper: Mutex::new(Some(keeper)), _lock: lock_file })
    }

    /// Node.spec.podCIDRs. Until the first call, ADD answers "try again". Blocks for some system calls.
    ///
    /// # Errors
    /// Without an IPv4 CIDR (nothing changes then), or when a route cannot be set (it is tried again).
    pub fn set_pod_cidrs(&self, cidrs: Vec<IpNetwork>) -> Result<()> {
        if !cidrs.iter().any(IpNetwork::is_ipv4) {
            return Err(Error::NeedsV4(cidrs));
        }
        let cidrs: Vec<IpNetwork> = cidrs.iter().filter_map(canonical).collect();
        let Shared { options, attachments, routes, switches, netns, .. } = &*self.shared;
        if cidrs.iter().any(IpNetwork::is_ipv6) {
            let set = || lock(switches).prepare_v6(&options.uplink).map_err(std::io::Error::other);
            namespace::within(netns.as_fd(), set).map_err(Error::io("IPv6 forwarding"))?;
        }
        lock(&attachments.ipam).set_cidrs(&cidrs);
        let mut routes = lock(routes);
        routes.set_own(cidrs);
        Ok(routes.sync()?)
    }

    /// Routes to the other nodes' pods, as of this snapshot; call it when every node is known, and after each change.
    /// Blocks for some system calls.
    ///
    /// # Errors
    /// The first route that the kernel refused; the others are set, and it is tried again.
    pub fn update_nodes(&self, world: &World) -> Result<()> {
        let mut routes = lock(&self.shared.routes);
        routes.set_peers(peers(world, &self.shared.options.node));
        Ok(routes.sync()?)
    }

    /// The pods that are attached now.
    pub fn pods(&self) -> Vec<PodLink> {
        self.shared.attachments.links()
    }

    /// How full each podCIDR is.
    pub fn usage(&self) -> Vec<Usage> {
        lock(&self.shared.attachments.ipam).usage(Instant::now())
    }

    /// Serves no more; requests under way are finished. Pods, routes and the runtime's configuration stay as they are.
    pub fn shutdown(&self) {
        if let Some(server) = lock(&self.server).take() {
            server.stop();
        }
        *lock(&self.shared.stop) = true;
        self.shared.stopped.notify_all();
        if let Some(keeper) = lock(&self.keeper).take() {
            let _ = keeper.join();
        }
    }
}

impl Drop for PodNetwork {
    fn drop(&mut self) {
        self.shutdown();
    }
}

// === impl Shared ===

impl Shared {
    fn keep(&self, host: &mut Netlink) {
        let mut stop = lock(&self.stop);
        loop {
            let (guard, _) = self.stopped.wait_timeout(stop, TEND).unwrap_or_else(std::sync::PoisonError::into_inner);
            stop = guard;
            if *stop {
                return;
            }
            drop(stop);
            self.attachments.bury(host);
            self.attachments.tend(host);
            let mut routes = lock(&self.routes);
            match routes.sync() {
                Ok(()) => self.attachments.mtu.store(self.options.mtu.unwrap_or(routes.uplink().mtu), Ordering::Relaxed),
                Err(error) => warn!(%error, "routes between nodes"),
            }
            drop(routes);
            stop = lock(&self.stop);
        }
    }
}

// === functions ===

pub(crate) fn boot_id() -> Result<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").map_err(Error::io("the boot id cannot be read"))?;
    Ok(text.trim().to_owned())
}

/// Locked as long as the file is open.
pub(crate) fn hold(path: &Path) -> Result<File> {
    let failed = || Error::io(format!("{} cannot be locked", path.display()));
    let file = File::options().create(true).write(true).truncate(false).open(path).map_err(failed())?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Locked(path.to_owned())),
        Err(TryLockError::Error(error)) => Err(failed()(error)),
    }
}
