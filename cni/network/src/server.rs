//! The agent's socket: a fixed number of threads, each with a netlink socket of its own, accept and serve.
//!
//! Threads, not tasks: every step of an ADD is a short blocking system call, and entering a namespace is a property of
//! a thread. More threads than these would only wait for the kernel's one rtnetlink lock.

use std::fs::{self, Permissions};
use std::io::{self, IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::cmsg_space;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, Shutdown, UnixAddr, recvmsg, shutdown};
use thalweg_cni::CniError;
use thalweg_cni::error::code;
use thalweg_cni::protocol::{Command, MAX_DOCUMENT, PROTOCOL, Reply, Request};
use tracing::{error, warn};

use crate::attachments::Attachments;
use crate::error::{Error, Result};
use crate::netlink::Netlink;

const WORKERS: usize = 16;
/// For a plugin to send its request or take its reply: it does so at once, or it is gone.
const TRANSFER: Duration = Duration::from_secs(5);

/// The listening socket and its threads.
#[derive(Debug)]
pub struct Server {
    listener: Arc<UnixListener>,
    path: PathBuf,
    workers: Vec<JoinHandle<()>>,
}

// === impl Server ===

impl Server {
    /// Serves from the calling thread's network namespace, in threads. A socket file that a killed agent left is
    /// replaced in one step: plugins never find none.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn start(path: &Path, attachments: &Arc<Attachments>) -> Result<Self> {
        let failed = || Error::io(format!("the socket {} cannot be made", path.display()));
        let listener = Arc::new(listen(path).map_err(failed())?);
        let mut server = Self { listener, path: path.to_owned(), workers: Vec::with_capacity(WORKERS) };
        for _ in 0..WORKERS {
            let mut host = Netlink::open().map_err(Error::io("no netlink socket"))?;
            let (listener, attachments) = (Arc::clone(&server.listener), Arc::clone(attachments));
            let work = move || accept_all(&listener, &attachments, &mut host);
            server.workers.push(thread::Builder::new().name("tw-cni".into()).spawn(work).map_err(failed())?);
        }
        Ok(server)
    }

    /// No more requests; those under way are finished. Links, routes and the configuration stay.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Before the threads end: a plugin that comes now shall not wait in the queue of a socket that nobody serves.
        let _ = fs::remove_file(&self.path);
        // Every accept returns an error from now on.
        if let Err(error) = shutdown(self.listener.as_raw_fd(), Shutdown::Both) {
            warn!(%error, "the socket cannot be shut down");
            return;
        }
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

// === functions ===

fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let temporary = path.with_extension("new");
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&temporary)?;
    fs::set_permissions(&temporary, Permissions::from_mode(0o600))?;
    fs::rename(&temporary, path)?;
    Ok(listener)
}

fn accept_all(listener: &UnixListener, attachments: &Attachments, host: &mut Netlink) {
    loop {
        match listener.accept() {
            Ok((mut stream, _)) => {
                // A panic is a defect of ours; it costs one request, which has undone itself, not a thread.
                let reply = catch_unwind(AssertUnwindSafe(|| serve(&mut stream, attachments, host))).unwrap_or_else(|_| {
                    error!("a request of the CNI plugin panicked");
                    Err(CniError::new(code::INTERNAL, "the agent failed; see its log"))
                });
                if let Err(error) = answer(&mut stream, reply) {
                    // Whoever asked has gone; a runtime sends a DEL for an ADD that it gave up.
                    warn!(%error, "a reply to the CNI plugin was not delivered");
                }
            }
            // What shutdown makes of accept.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return,
            Err(error) => {
                warn!(%error, "the CNI socket");
                // Out of descriptors or memory: both pass, and a busy loop helps neither.
                thread::sleep(Duration::from_millis(50));
            }
        }
    }
}

fn answer(stream: &mut UnixStream, reply: Result<Reply, CniError>) -> io::Result<()> {
    let reply = reply.unwrap_or_else(|error| {
        if error.code != code::TRY_AGAIN {
            warn!(%error, "the CNI plugin gets an error");
        }
        Reply::Failed(error)
    });
    stream.write_all(&serde_json::to_vec(&reply)?)
}

fn serve(stream: &mut UnixStream, attachments: &Attachments, host: &mut Netlink) -> Result<Reply, CniError> {
    let (document, netns) =
        read(stream).map_err(|error| CniError::new(code::IO, "the request did not arrive").details(error))?;
    let Request { protocol, network, command } = serde_json::from_slice(&document).map_err(|error| {
        CniError::new(code::INTERNAL, "the agent does not understand the plugin")
            .details(format_args!("{error}; are both of one release?"))
    })?;
    if protocol != PROTOCOL {
        let text = format!("the plugin speaks protocol {protocol}, the agent {PROTOCOL}");
        return Err(
            CniError::new(code::INTERNAL, text).details("the agent installs its own plugin when it starts: is CNI_PATH right?")
        );
    }
    let netns = netns.ok_or_else(|| CniError::new(code::INTERNAL, "the plugin sent no network namespace"));
    match command {
        Command::Add(add) => attachments.add(host, &network, &add, &netns?).map(Reply::Added),
        Command::Del(id) => attachments.del(host, &id).map(|()| Reply::Done),
        Command::Check(check) => attachments.check(host, &check, &netns?).map(|()| Reply::Done),
        Command::Gc(valid) => attachments.gc(host, &network, &valid).map(|()| Reply::Done),
        Command::Status => attachments.status().map(|()| Reply::Done),
    }
}

/// The document, and the descriptor that came with its first bytes.
fn read(stream: &mut UnixStream) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
    stream.set_read_timeout(Some(TRANSFER))?;
    stream.set_write_timeout(Some(TRANSFER))?;
    let mut first = [0u8; 16 << 10];
    let mut beside = cmsg_space!([std::os::fd::RawFd; 1]);
    let (length, netns) = {
        let mut parts = [IoSliceMut::new(&mut first)];
        let message = recvmsg::<UnixAddr>(stream.as_raw_fd(), &mut parts, Some(&mut beside), MsgFlags::MSG_CMSG_CLOEXEC)?;
        let mut netns = None;
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(fds) = control {
                netns = fds.into_iter().map(own).next_back();
            }
        }
        (message.bytes, netns)
    };
    let mut document = first[..length].to_vec();
    if length > 0 {
        stream.take(MAX_DOCUMENT).read_to_end(&mut document)?;
    }
    Ok((document, netns))
}

#[expect(unsafe_code, reason = "a descriptor received over a socket is a bare number")]
fn own(fd: std::os::fd::RawFd) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for us in recvmsg, and nobody else knows of it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
