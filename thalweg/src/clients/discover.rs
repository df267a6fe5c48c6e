//! The pods' network namespaces where another program makes them: found by their processes, and told apart by the
//! addresses inside. A thread of its own looks, because it enters them.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::ifaddrs::getifaddrs;
use nix::sched::{CloneFlags, setns};
use thalweg_abi::Netns;
use thalweg_cluster::World;
use thalweg_loader::{Table, netns};

use super::Clients;

/// How often it looks, when no pod has changed.
const LOOK: Duration = Duration::from_secs(10);
/// How long what was found in a namespace is believed: it may get other addresses, and its inode another namespace.
const BELIEVED: Duration = Duration::from_secs(60);

/// A pod that is being made has an address before it is seen; after so many looks it is said that none is.
const BLIND: u32 = 4;

/// The thread's owner; it ends when this is dropped.
pub struct Discovery(Sender<Pods>);

/// Pods of this node by their addresses: whether they opt out.
type Pods = BTreeMap<IpAddr, bool>;

/// A network namespace.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Found {
    cookie: u64,
    /// Those that others can reach.
    addresses: Vec<IpAddr>,
}

/// What has been found, by inode.
#[derive(Default)]
struct Known(HashMap<u64, (Instant, Found)>);

// === impl Discovery ===

impl Discovery {
    /// # Errors
    /// When the table cannot be read, or there is no thread to be had.
    pub fn start(table: impl Table<u64, Netns> + Send + 'static) -> Result<Self> {
        let clients = Clients::adopt(table).context("read which network namespaces are known")?;
        let (sender, receiver) = mpsc::channel();
        thread::Builder::new().name("tw-clients".into()).spawn(move || follow(clients, &receiver)).context("start a thread")?;
        Ok(Self(sender))
    }

    /// The pods of this node are these now.
    pub fn pods(&self, world: &World, node: &str) {
        let own = world.pods().filter(|pod| &*pod.node == node && !pod.host_network);
        let pods = own.flat_map(|pod| pod.addresses.iter().map(|address| (*address, super::opts_out(pod)))).collect();
        // Fails when the thread has panicked, which has been logged.
        let _ = self.0.send(pods);
    }
}

fn follow(mut clients: Clients, receiver: &Receiver<Pods>) {
    let mut known = Known::default();
    let mut pods: Option<Pods> = None;
    // Looks in which there were pods, but none was to be seen.
    let mut blind = 0;
    let mut next = Instant::now();
    loop {
        match receiver.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Ok(news) => pods = Some(receiver.try_iter().last().unwrap_or(news)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        next = Instant::now() + LOOK;
        // Until the pods are known, what an earlier proxy wrote stands.
        let Some(pods) = &pods else { continue };
        let synced = known.look().map_err(anyhow::Error::from).and_then(|()| Ok(clients.sync(&wanted(known.all(), pods))?));
        match synced {
            Ok(true) => tracing::debug!(namespaces = known.0.len(), "network namespaces changed"),
            Ok(false) => {}
            Err(error) => tracing::warn!("network namespaces of pods: {error:#}"),
        }
        let is_blind = !pods.is_empty() && !known.all().any(|found| found.addresses.iter().any(|addr| pods.contains_key(addr)));
        blind = if is_blind { blind + 1 } else { 0 };
        if blind == BLIND {
            tracing::warn!(
                "no network namespace of this node's {} pods is to be seen, so that none can opt out of socket load balancing, and \
                 source ranges are left to tc: run in the host's process namespace (hostPID: true)",
                pods.len()
            );
        }
    }
}

/// Of a namespace in which a pod's address is, that is the one; others are known by what they have.
fn wanted<'a>(found: impl Iterator<Item = &'a Found>, pods: &Pods) -> BTreeMap<u64, Netns> {
    let entry = |found: &Found| {
        let of_pods: Vec<IpAddr> = found.addresses.iter().filter(|address| pods.contains_key(address)).copied().collect();
        let opts_out = of_pods.iter().any(|address| pods.get(address) == Some(&true));
        let others = found.addresses.iter().copied();
        super::netns(of_pods.iter().copied().chain(others), opts_out)
    };
    found.filter(|found| !found.addresses.is_empty()).map(|found| (found.cookie, entry(found))).collect()
}

// === impl Known ===

impl Known {
    fn all(&self) -> impl Iterator<Item = &Found> {
        self.0.values().map(|(_, found)| found)
    }

    /// Looks at every namespace that a process is in, and into those that are new or have not been looked into for long.
    fn look(&mut self) -> io::Result<()> {
        let there = namespaces()?;
        self.0.retain(|inode, _| there.contains_key(inode));
        let now = Instant::now();
        let fresh = |known: &(Instant, Found)| now.duration_since(known.0) < BELIEVED && !known.1.addresses.is_empty();
        let doubtful: Vec<(u64, PathBuf)> =
            there.into_iter().filter(|(inode, _)| !self.0.get(inode).is_some_and(fresh)).collect();
        // A thread for them all: it never comes back to its own namespace.
        let looked = thread::scope(|scope| {
            let work = || doubtful.into_iter().map(|(inode, path)| (inode, look_into(inode, &path))).collect::<Vec<_>>();
            thread::Builder::new().name("tw-netns".into()).spawn_scoped(scope, work).map(|thread| thread.join())
        })?;
        for (inode, found) in looked.map_err(|_| io::Error::other("the thread in the namespaces panicked"))? {
            match found {
                Ok(found) => {
                    self.0.insert(inode, (now, found));
                }
                // Its last process has ended meanwhile, or it is being made.
                Err(error) => {
                    tracing::debug!(inode, "network namespace: {error}");
                    self.0.remove(&inode);
                }
            }
        }
        Ok(())
    }
}

/// The network namespaces of all processes but our own, by inode, each with a path to it.
fn namespaces() -> io::Result<HashMap<u64, PathBuf>> {
    let own = fs::metadata("/proc/self/ns/net")?.ino();
    let mut found = HashMap::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        if !entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            continue;
        }
        let path = entry.path().join("ns/net");
        // Processes end while one looks.
        if let Ok(metadata) = fs::metadata(&path)
            && metadata.ino() != own
        {
            found.entry(metadata.ino()).or_insert(path);
        }
    }
    Ok(found)
}

/// Leaves the thread in that namespace.
fn look_into(inode: u64, path: &PathBuf) -> io::Result<Found> {
    let file = File::open(path)?;
    if file.metadata()?.ino() != inode {
        return Err(io::Error::other("the process has moved"));
    }
    setns(file.as_fd(), CloneFlags::CLONE_NEWNET)?;
    let cookie = netns::own_cookie()?;
    let mut addresses = Vec::new();
    for entry in getifaddrs()? {
        let Some(address) = entry.address else { continue };
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        let v6 = address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip()));
        addresses.extend(v4.or(v6).filter(is_reachable));
    }
    Ok(Found { cookie, addresses })
}

fn is_reachable(address: &IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !address.is_loopback() && !link_local
}

#[cfg(test)]
mod tests {
    use thalweg_abi::NetnsFlags;

    use super::*;

    fn addr(text: &str) -> IpAddr {
        text.parse().expect(text)
    }

    #[test]
    fn namespaces_are_told_apart_by_the_addresses_inside() {
        let found = [
            // A sidecar's own bridge comes first.
            Found { cookie: 1, addresses: vec![addr("172.17.0.1"), addr("10.244.0.5"), addr("fd01::5")] },
            Found { cookie: 2, addresses: vec![addr("10.244.0.6")] },
            Found { cookie: 3, addresses: vec![addr("192.168.9.9")] },
            Found { cookie: 4, addresses: vec![] },
        ];
        let pods = Pods::from([(addr("10.244.0.5"), false), (addr("fd01::5"), false), (addr("10.244.0.6"), true)]);
        let table = wanted(found.iter(), &pods);
        assert_eq!(table.keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
        let shown = |cookie: u64| (IpAddr::from(table[&cookie].addr), table[&cookie].flags.has(NetnsFlags::NO_SOCKET_LB));
        assert_eq!(shown(1), (addr("10.244.0.5"), false));
        assert_eq!(IpAddr::from(table[&1].addr6), addr("fd01::5"));
        assert_eq!(shown(2), (addr("10.244.0.6"), true));
        assert_eq!(shown(3), (addr("192.168.9.9"), false));
    }

    #[test]
    fn our_own_namespace_is_none_of_them() {
        let own = fs::metadata("/proc/self/ns/net").expect("/proc").ino();
        assert!(!namespaces().expect("/proc").contains_key(&own));
    }

    #[test]
    fn what_only_a_link_can_reach_is_no_clients_address() {
        assert!(is_reachable(&addr("10.0.0.1")) && is_reachable(&addr("fd00::1")));
        for text in ["127.0.0.1", "::1", "169.254.1.1", "fe80::1"] {
            assert!(!is_reachable(&addr(text)), "{text}");
        }
    }
}
