//! Cookies of network namespaces: how kernel programs tell whose a socket is.

#![expect(unsafe_code, reason = "getsockopt(2) writes through a pointer")]

use std::{io, net::UdpSocket, os::fd::AsRawFd};

/// The cookie of the calling thread's network namespace.
///
/// # Errors
/// No socket can be made, or the kernel is older than 5.14.
pub fn own_cookie() -> io::Result<u64> {
    let socket = UdpSocket::bind(("127.0.0.1", 0)).or_else(|_| UdpSocket::bind(("::1", 0)))?;
    let mut cookie = 0u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: both pointers are to live values of the lengths given.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_NETNS_COOKIE, (&raw mut cookie).cast(), &raw mut len)
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}
