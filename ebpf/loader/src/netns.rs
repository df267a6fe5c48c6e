//! Cookies of network namespaces: how kernel programs tell whose a socket is.

#![expect(unsafe_code, reason = "getsockopt(2) writes through a pointer")]

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd},
        unix::net::UnixDatagram,
    },
    path::Path,
    thread,
};

use nix::sched::{CloneFlags, setns};

/// The cookie of the calling thread's network namespace.
///
/// # Errors
/// No socket can be made, or the kernel is older than 5.14.
pub fn own_cookie() -> io::Result<u64> {
    // Of a family that needs neither an address nor a link that is up.
    let socket = UnixDatagram::unbound()?;
    let mut cookie = 0u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: both pointers are to live values of the lengths given.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_NETNS_COOKIE, (&raw mut cookie).cast(), &raw mut len)
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// The cookie of the namespace behind a descriptor (of `/proc/PID/ns/net`, or of a bind mount of it): the key of NETNS.
/// Needs CAP_SYS_ADMIN in that namespace.
///
/// # Errors
/// The namespace cannot be entered, or as [`own_cookie`].
pub fn cookie_of(netns: impl AsFd + Send) -> io::Result<u64> {
    inside(netns, own_cookie)?
}

/// As [`cookie_of`], of a path such as CNI_NETNS.
///
/// # Errors
/// The file cannot be opened, or as [`cookie_of`].
pub fn cookie_at(path: &Path) -> io::Result<u64> {
    cookie_of(File::open(path)?)
}

/// Runs a closure on a thread of its own inside a network namespace; that of the caller's thread never changes.
///
/// # Errors
/// The namespace cannot be entered, or no thread can be made.
pub(crate) fn inside<T: Send>(netns: impl AsFd + Send, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let entered = thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, || {
            setns(netns, CloneFlags::CLONE_NEWNET)?;
            Ok(work())
        })?;
        entered.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
