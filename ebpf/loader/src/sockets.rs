//! The end of sockets whose backend is gone. A socket that was translated at connect goes to its backend by itself, so
//! nobody tells it when that goes: a UDP socket would send into the void for ever, a TCP connection until it times out. It
//! is ended instead, in whichever network namespace it is, and its owner dials again. The same for UDP sockets whose backend
//! has left the service that they dialled and lives on behind another: TCP may finish there what it has begun.

use std::{
    collections::{HashMap, HashSet},
    ffi::OsStr,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use thalweg_abi::{BackendState, Be16, Proto, SockBackend};

use crate::{
    Error, Maps, Table, netns,
    sock_diag::{Connected, SockDiag},
};

/// What was ended, and what could not be.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Destroyed {
    pub udp: usize,
    pub tcp: usize,
    /// Sockets that the kernel refused to end.
    pub failed: usize,
    /// Namespaces that could not be looked at (of processes that may not be looked at, each counts), while some sockets were
    /// found nowhere else. Those whose backend is gone are tried again at the next call; of those whose backend has left its
    /// service only when that is named again.
    pub unseen: usize,
}

/// What is known of backends and services while all sockets are looked at.
struct Look<'a> {
    maps: &'a Maps,
    /// Numbers of services, ids of backends.
    left: &'a HashSet<(u32, u32)>,
    /// By id and generation.
    alive: HashMap<(u32, u32), bool>,
}

/// What happened to the sockets of one namespace.
#[derive(Default)]
struct Ended {
    sockets: Vec<Connected>,
    failed: usize,
    /// The first.
    error: Option<io::Error>,
    /// Some sockets could not be looked at.
    is_partial: bool,
}

/// Network namespaces, and how many there are besides that cannot be opened.
#[derive(Default)]
struct Namespaces {
    open: Vec<File>,
    unseen: usize,
    /// What is open, by device and inode.
    known: HashSet<(u64, u64)>,
}

/// Ends every connected socket of SOCK_BACKENDS whose backend is gone: its owner gets ECONNABORTED. No other socket is
/// touched, and one that cannot be ended does not keep the others from it. Call it after an apply that has freed backends, on
/// a thread of its own with maps of its own: with nothing to do it costs a walk over SOCK_BACKENDS; else every network
/// namespace of the machine's processes is entered once, and those of `namespaces`, paths such as CNI_NETNS, for pods that
/// have no process at this moment.
///
/// Needs CAP_SYS_ADMIN and CAP_NET_ADMIN, and a kernel with CONFIG_INET_DIAG_DESTROY; in a container also the host's
/// processes (hostPID) and CAP_SYS_PTRACE, or paths for all namespaces.
///
/// # Errors
/// [`Error::Table`] when a map cannot be read, [`Error::Sockets`] when the kernel ends no sockets.
pub fn destroy_gone(maps: &mut Maps, namespaces: &[PathBuf]) -> Result<Destroyed, Error> {
    destroy(maps, &HashSet::new(), namespaces)
}

/// As [`destroy_gone`], and ends the UDP sockets that dialled a service which has lost their backend. `left` names numbers of
/// services and ids of backends, as [`crate::conntrack::forget`] takes them.
///
/// # Errors
/// As [`destroy_gone`].
pub fn destroy(maps: &mut Maps, left: &HashSet<(u32, u32)>, namespaces: &[PathBuf]) -> Result<Destroyed, Error> {
    let gone = gone(maps, left)?;
    let mut destroyed = Destroyed::default();
    if gone.is_empty() {
        return Ok(destroyed);
    }
    let mut left: HashSet<u64> = gone.keys().copied().collect();
    let mut ended = Vec::new();
    let mut first_error = None;
    let Namespaces { open, mut unseen, .. } = Namespaces::all(namespaces);
    for netns in open {
        let found = netns::inside(netns, || end(maps, &gone)).unwrap_or_else(|error| Ended {
            error: Some(error),
            is_partial: true,
            ..Ended::default()
        });
        for socket in &found.sockets {
            left.remove(&socket.cookie());
            ended.push(socket.cookie());
            match socket.proto() {
                Proto::UDP => destroyed.udp += 1,
                _ => destroyed.tcp += 1,
            }
        }
        destroyed.failed += found.failed;
        unseen += usize::from(found.is_partial);
        first_error = first_error.or(found.error);
        if left.is_empty() {
            break;
        }
    }
    if !left.is_empty() {
        destroyed.unseen = unseen;
    }
    // What is nowhere was closed while programs were switched, when nobody removed it; but it may be where nobody can look.
    if destroyed.unseen == 0 && destroyed.failed == 0 {
        ended.extend(left);
    }
    forget(maps, &gone, &ended)?;
    match first_error {
        // A kernel that cannot do it cannot do it anywhere.
        Some(source) if ended.is_empty() && source.raw_os_error() == Some(libc::EOPNOTSUPP) => Err(Error::Sockets { source }),
        Some(error) => {
            tracing::warn!(%error, ?destroyed, "not every socket of a backend that is gone could be ended");
            Ok(destroyed)
        }
        None => Ok(destroyed),
    }
}

/// Sockets by cookie that have lost their backend.
fn gone(maps: &Maps, left: &HashSet<(u32, u32)>) -> Result<HashMap<u64, SockBackend>, Error> {
    let mut look = Look { maps, left, alive: HashMap::new() };
    let (mut sockets, mut failed) = (HashMap::new(), None);
    maps.sock_backends.visit(&mut |cookie, socket| match look.has_lost(socket) {
        Ok(false) => {}
        Ok(true) => _ = sockets.insert(*cookie, *socket),
        Err(error) => failed = Some(error),
    })?;
    failed.map_or(Ok(sockets), Err)
}

/// Ends the sockets of the calling thread's namespace that are among those.
fn end(maps: &Maps, gone: &HashMap<u64, SockBackend>) -> Ended {
    let mut ended = Ended::default();
    for proto in [Proto::UDP, Proto::TCP] {
        if gone.values().any(|socket| socket.proto == proto)
            && let Err(error) = end_those_of(proto, maps, gone, &mut ended)
        {
            ended.is_partial = true;
            ended.error.get_or_insert(error);
        }
    }
    ended
}

fn end_those_of(proto: Proto, maps: &Maps, gone: &HashMap<u64, SockBackend>, ended: &mut Ended) -> io::Result<()> {
    let diag = SockDiag::open()?;
    let mut found = Vec::new();
    diag.connected(proto, &mut |socket| {
        if gone.contains_key(&socket.cookie()) {
            found.push(socket);
        }
    })?;
    ended.each(found, |socket| {
        // It may have dialled again since.
        let known = maps.sock_backends.get(&socket.cookie()).map_err(io::Error::other)?;
        Ok(known.as_ref() == gone.get(&socket.cookie()) && diag.destroy(socket)?)
    });
    Ok(())
}

/// Removes entries that are still what they were.
fn forget(maps: &mut Maps, gone: &HashMap<u64, SockBackend>, cookies: &[u64]) -> Result<(), Error> {
    let mut stale = Vec::new();
    for cookie in cookies {
        if maps.sock_backends.get(cookie)?.as_ref() == gone.get(cookie) {
            stale.push(*cookie);
        }
    }
    maps.sock_backends.delete(&stale)
}

// === impl Look ===

impl Look<'_> {
    /// Whether a socket's backend is not any more what it was when the socket was connected, or not any more its service's.
    fn has_lost(&mut self, socket: &SockBackend) -> Result<bool, Error> {
        Ok(!self.is_alive(socket.backend, socket.generation)? || self.is_left(socket))
    }

    fn is_alive(&mut self, backend: u32, generation: u32) -> Result<bool, Error> {
        if let Some(known) = self.alive.get(&(backend, generation)) {
            return Ok(*known);
        }
        let found = self.maps.backends.get(&backend)?;
        let is_alive = found.is_some_and(|found| found.generation == generation && found.state != BackendState::FREE);
        self.alive.insert((backend, generation), is_alive);
        Ok(is_alive)
    }

    fn is_left(&self, socket: &SockBackend) -> bool {
        // Without a port: of an agent that did not write down what was dialled.
        let is_told = socket.proto == Proto::UDP && socket.vip_port != Be16::ZERO;
        is_told && self.left.contains(&(socket.service, socket.backend))
    }
}

// === impl Ended ===

impl Ended {
    /// Ends one socket after the other; one that fails is counted, and the next one has its turn.
    fn each(&mut self, sockets: Vec<Connected>, mut end: impl FnMut(&Connected) -> io::Result<bool>) {
        for socket in sockets {
            match end(&socket) {
                Ok(true) => self.sockets.push(socket),
                // It is gone, or goes elsewhere by now.
                Ok(false) => {}
                Err(error) => {
                    self.failed += 1;
                    self.error.get_or_insert(error);
                }
            }
        }
    }
}

// === impl Namespaces ===

impl Namespaces {
    /// One open file for each network namespace: those of processes, and those that paths name. A process that ends while
    /// it is looked at is passed over.
    fn all(paths: &[PathBuf]) -> Self {
        let mut this = Self::default();
        this.add_processes();
        this.add_paths(paths);
        this
    }

    fn add_processes(&mut self) {
        match fs::read_dir("/proc") {
            Ok(entries) => {
                let is_process = |name: &OsStr| name.as_encoded_bytes().iter().all(u8::is_ascii_digit);
                for entry in entries.flatten().filter(|entry| is_process(&entry.file_name())) {
                    let ended = |error: &io::Error| matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH));
                    match self.open_once(&entry.path().join("ns/net")) {
                        Err(error) if ended(&error) => {}
                        namespace => self.add(namespace),
                    }
                }
            }
            Err(error) => self.add(Err(error)),
        }
    }

    fn add_paths(&mut self, paths: &[PathBuf]) {
        for path in paths {
            // One that is not there may be one that this process does not see.
            let namespace = self.open_once(path);
            self.add(namespace);
        }
    }

    /// `None`: it is open already.
    fn open_once(&mut self, path: &Path) -> io::Result<Option<File>> {
        let metadata = fs::metadata(path)?;
        let id = (metadata.dev(), metadata.ino());
        if self.known.contains(&id) {
            return Ok(None);
        }
        let file = File::open(path)?;
        self.known.insert(id);
        Ok(Some(file))
    }

    fn add(&mut self, namespace: io::Result<Option<File>>) {
        match namespace {
            Ok(file) => self.open.extend(file),
            Err(error) => {
                tracing::debug!(%error, "a network namespace cannot be looked at");
                self.unseen += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // One that has closed, or that the kernel will not end, does not stand in the way of the others.
    #[test]
    fn a_socket_that_cannot_be_ended_does_not_spare_the_others() {
        let sockets: Vec<_> = (1..=5).map(|cookie| Connected::of_cookie(Proto::TCP, cookie)).collect();
        let mut ended = Ended::default();
        ended.each(sockets, |socket| match socket.cookie() {
            2 => Err(io::Error::from_raw_os_error(libc::EPERM)),
            3 => Ok(false),
            4 => Err(io::Error::from_raw_os_error(libc::ENOMEM)),
            _ => Ok(true),
        });
        assert_eq!(ended.sockets.iter().map(Connected::cookie).collect::<Vec<_>>(), [1, 5]);
        assert_eq!((ended.failed, ended.is_partial), (2, false));
        assert_eq!(ended.error.and_then(|error| error.raw_os_error()), Some(libc::EPERM), "the first");
    }

    #[test]
    fn a_namespace_that_cannot_be_opened_is_counted() {
        let own = PathBuf::from("/proc/self/ns/net");
        let mut namespaces = Namespaces::default();
        namespaces.add_paths(&[own.clone(), PathBuf::from("/run/netns/tw-there-is-none"), own]);
        assert_eq!((namespaces.open.len(), namespaces.unseen), (1, 1), "each is looked at once");
    }
}
