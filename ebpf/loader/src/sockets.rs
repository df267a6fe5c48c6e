//! The end of sockets whose backend is gone. A socket that was translated at connect goes to its backend by itself, so
//! nobody tells it when that goes: a UDP socket would send into the void for ever, a TCP connection until it times out. It
//! is ended instead, in whichever network namespace it is, and its owner dials again.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::PathBuf,
};

use thalweg_abi::{BackendState, Proto, SockBackend};

use crate::{
    Error, Maps, Table, netns,
    sock_diag::{Connected, SockDiag},
};

/// What was ended.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Destroyed {
    pub udp: usize,
    pub tcp: usize,
}

/// Ends every connected socket of SOCK_BACKENDS whose backend is gone: its owner gets ECONNABORTED. No other socket is
/// touched. Call it after an apply that has freed backends, on a thread of its own with maps of its own: with nothing to
/// do it costs a walk over SOCK_BACKENDS; else every network namespace of the machine's processes is entered once, and
/// those of `namespaces`, paths such as CNI_NETNS, for pods that have no process at this moment.
///
/// Needs CAP_SYS_ADMIN and CAP_NET_ADMIN, and a kernel with CONFIG_INET_DIAG_DESTROY; in a container also the host's
/// processes (hostPID) and CAP_SYS_PTRACE, or paths for all namespaces.
///
/// # Errors
/// [`Error::Table`] when a map cannot be read, [`Error::Sockets`] when the kernel ends no sockets.
pub fn destroy_gone(maps: &mut Maps, namespaces: &[PathBuf]) -> Result<Destroyed, Error> {
    let gone = gone(maps)?;
    let mut destroyed = Destroyed::default();
    if gone.is_empty() {
        return Ok(destroyed);
    }
    let mut left: HashSet<u64> = gone.keys().copied().collect();
    let mut ended = Vec::new();
    let mut saw_all = true;
    for netns in all_namespaces(namespaces) {
        let found = netns::inside(netns, || end(maps, &gone)).and_then(|result| result);
        match found {
            Ok(found) => {
                for socket in &found {
                    left.remove(&socket.cookie());
                    ended.push(socket.cookie());
                    match socket.proto() {
                        Proto::UDP => destroyed.udp += 1,
                        _ => destroyed.tcp += 1,
                    }
                }
            }
            // Not there, or not ours to enter; but a kernel that cannot do it cannot do it anywhere.
            Err(source) if source.raw_os_error() == Some(libc::EOPNOTSUPP) => return Err(Error::Sockets { source }),
            Err(error) => {
                tracing::debug!(%error, "sockets of a network namespace were not looked at");
                saw_all = false;
            }
        }
        if left.is_empty() {
            break;
        }
    }
    // What is nowhere was closed while programs were switched, when nobody removed it.
    if saw_all {
        ended.extend(left);
    }
    forget(maps, &gone, &ended)?;
    Ok(destroyed)
}

/// Sockets by cookie whose backend is not any more what it was when they were connected.
fn gone(maps: &Maps) -> Result<HashMap<u64, SockBackend>, Error> {
    let mut sockets = HashMap::new();
    let mut alive: HashMap<(u32, u32), bool> = HashMap::new();
    let mut failed = None;
    maps.sock_backends.visit(&mut |cookie, socket| {
        let backend = (socket.backend, socket.generation);
        let is_alive = *alive.entry(backend).or_insert_with(|| match maps.backends.get(&backend.0) {
            Ok(found) => found.is_some_and(|found| found.generation == backend.1 && found.state != BackendState::FREE),
            Err(error) => {
                failed = Some(error);
                true
            }
        });
        if !is_alive {
            sockets.insert(*cookie, *socket);
        }
    })?;
    failed.map_or(Ok(sockets), Err)
}

/// Ends the sockets of the calling thread's namespace that are among those; returns them.
fn end(maps: &Maps, gone: &HashMap<u64, SockBackend>) -> io::Result<Vec<Connected>> {
    let diag = SockDiag::open()?;
    let mut found = Vec::new();
    for proto in [Proto::UDP, Proto::TCP] {
        if gone.values().any(|socket| socket.proto == proto) {
            diag.connected(proto, &mut |socket| {
                if gone.contains_key(&socket.cookie()) {
                    found.push(socket);
                }
            })?;
        }
    }
    let mut ended = Vec::with_capacity(found.len());
    for socket in found {
        // It may have dialled again since.
        let known = maps.sock_backends.get(&socket.cookie()).map_err(io::Error::other)?;
        if known.as_ref() == gone.get(&socket.cookie()) && diag.destroy(&socket)? {
            ended.push(socket);
        }
    }
    Ok(ended)
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

/// One open file for each network namespace: those of processes, and those that paths name. A process that ends while it
/// is looked at is passed over.
fn all_namespaces(paths: &[PathBuf]) -> Vec<File> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let of_processes = processes
        .filter(|entry| entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit))
        .map(|entry| entry.path().join("ns/net"));
    let mut seen = HashSet::new();
    let mut namespaces = Vec::new();
    for path in of_processes.chain(paths.iter().cloned()) {
        if let Ok(metadata) = fs::metadata(&path)
            && seen.insert((metadata.dev(), metadata.ino()))
            && let Ok(file) = File::open(&path)
        {
            namespaces.push(file);
        }
    }
    namespaces
}
