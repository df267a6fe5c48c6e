//! Other network namespaces: entered by a thread that does nothing else and ends.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;

use nix::sched::{CloneFlags, setns};

/// Runs `work` inside a namespace. What it returns may outlive the thread: a socket belongs to the namespace it was
/// opened in.
///
/// # Errors
/// When the descriptor is no network namespace, and those of `work`.
pub fn within<T: Send>(netns: BorrowedFd<'_>, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let inside = move || {
            setns(netns, CloneFlags::CLONE_NEWNET)?;
            work()
        };
        let thread = thread::Builder::new().name("tw-netns".into()).spawn_scoped(scope, inside)?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread in the namespace panicked")))
    })
}

/// The inode that identifies a namespace while it lives.
///
/// # Errors
/// When the descriptor cannot be read.
pub fn inode(netns: BorrowedFd<'_>) -> io::Result<u64> {
    Ok(fs::File::from(netns.try_clone_to_owned()?).metadata()?.ino())
}

/// Whether the namespace with this inode is to be found there.
pub fn is_at(path: &Path, inode: u64) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.ino() == inode)
}

/// Where runtimes and `ip netns` bind namespaces, looked through for one.
pub fn find(inode: u64) -> Option<PathBuf> {
    let bound = fs::read_dir("/run/netns").ok()?;
    bound.flatten().map(|entry| entry.path()).find(|path| is_at(path, inode))
}

/// The namespace of the calling thread.
///
/// # Errors
/// When /proc is not mounted.
pub fn own() -> io::Result<fs::File> {
    fs::File::open("/proc/thread-self/ns/net")
}

/// Whether the descriptor is the calling thread's own namespace.
///
/// # Errors
/// When either cannot be read.
pub fn is_own(netns: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(inode(own()?.as_fd())? == inode(netns)?)
}
