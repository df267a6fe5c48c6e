//! Sockets handed over by whoever started the process, by the protocol of sd_listen_fds(3): `LISTEN_PID` names this process,
//! `LISTEN_FDS` says how many descriptors from 3 on are listening sockets.

use std::net::TcpListener;
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};

use anyhow::{Context as _, Result, bail};
use socket2::Socket;

const FIRST: RawFd = 3;

/// The inherited listeners. Call it once: it takes the descriptors over.
pub(crate) fn listeners() -> Result<Vec<TcpListener>> {
    let variable = |name: &str| std::env::var(name).ok();
    count(variable("LISTEN_PID").as_deref(), variable("LISTEN_FDS").as_deref(), std::process::id())
        .map(|count| (FIRST..).take(count).map(take).collect())?
}

/// How many descriptors are meant for the process `pid`.
fn count(listen_pid: Option<&str>, listen_fds: Option<&str>, pid: u32) -> Result<usize> {
    let Some(fds) = listen_fds else {
        bail!("inherited sockets were asked for, but LISTEN_FDS is not set: start the server by a socket-passing parent");
    };
    if let Some(meant) = listen_pid
        && meant.parse() != Ok(pid)
    {
        bail!("LISTEN_PID is {meant}, this process is {pid}: the sockets are meant for another process");
    }
    match fds.parse() {
        Ok(0) => bail!("LISTEN_FDS is 0: no socket was passed"),
        Ok(count) if count <= 64 => Ok(count),
        _ => bail!("LISTEN_FDS is {fds:?}: it must be a number from 1 to 64"),
    }
}

#[expect(unsafe_code, reason = "taking over a descriptor that the parent left open for us has no safe form")]
fn take(fd: RawFd) -> Result<TcpListener> {
    std::fs::read_link(format!("/proc/self/fd/{fd}")).with_context(|| format!("inherited descriptor {fd} is not open"))?;
    // SAFETY: the descriptor is open (checked above) and by the protocol ours alone: nothing else in this process uses it.
    let socket = Socket::from(unsafe { OwnedFd::from_raw_fd(fd) });
    socket.set_cloexec(true)?;
    if !socket.is_listener().with_context(|| format!("inherited descriptor {fd} is not a socket"))? {
        bail!("inherited descriptor {fd} is a socket that does not listen");
    }
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::os::fd::IntoRawFd as _;

    use super::*;

    #[test]
    fn the_protocol_is_followed_and_faults_are_named() {
        let check = |pid: Option<&str>, fds: Option<&str>, expected: std::result::Result<usize, &str>| match (
            count(pid, fds, 42),
            expected,
        ) {
            (Ok(count), Ok(expected)) => assert_eq!(count, expected),
            (Err(error), Err(words)) => assert!(error.to_string().contains(words), "{error}"),
            (got, _) => panic!("{pid:?} {fds:?}: {got:?}"),
        };
        check(Some("42"), Some("1"), Ok(1));
        check(None, Some("2"), Ok(2));
        check(Some("7"), Some("1"), Err("another process"));
        check(Some("42"), None, Err("LISTEN_FDS is not set"));
        check(Some("42"), Some("0"), Err("no socket"));
        check(Some("42"), Some("many"), Err("must be a number"));
    }

    #[test]
    fn only_listening_sockets_are_taken() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let taken = take(listener.into_raw_fd()).unwrap();
        assert_eq!(taken.local_addr().unwrap(), address);
        let connected = TcpStream::connect(address).unwrap();
        let check = |fd: RawFd, words: &str| {
            let error = format!("{:#}", take(fd).err().unwrap());
            assert!(error.contains(words), "{error}");
        };
        check(connected.into_raw_fd(), "does not listen");
        check(std::fs::File::open("/proc/self/status").unwrap().into_raw_fd(), "is not a socket");
        check(9999, "is not open");
    }
}
