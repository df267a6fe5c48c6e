//! The round trip to the agent, bounded by one deadline over all of its steps.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, sendmsg, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

use crate::protocol::{MAX_DOCUMENT, Reply, Request};

/// Between two attempts to reach an agent that is just being restarted.
const RETRY: Duration = Duration::from_millis(25);

/// Why there is no reply.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody listens: nothing was asked.
    #[error("no agent listens: {0}")]
    Unreachable(#[source] io::Error),
    /// The agent may or may not have done it.
    #[error("the agent did not answer: {0}")]
    Interrupted(#[source] io::Error),
}

/// How long a call may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For an agent that does not listen yet; zero to give up at once.
    pub connect: Duration,
    /// For everything.
    pub total: Duration,
}

/// Asks the agent; `netns` goes beside the request.
///
/// # Errors
/// [`CallError`] says whether the agent can have heard of it.
pub fn call(path: &Path, request: &Request, netns: Option<BorrowedFd<'_>>, patience: Patience) -> Result<Reply, CallError> {
    let start = Instant::now();
    let deadline = start + patience.total;
    let mut stream = loop {
        match dial(path, deadline) {
            Ok(stream) => break stream,
            Err(error) => {
                let coming = matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused | ErrorKind::WouldBlock);
                if !coming || start.elapsed() + RETRY >= patience.connect {
                    return Err(CallError::Unreachable(error));
                }
                sleep(RETRY);
            }
        }
    };
    exchange(&mut stream, request, netns, deadline).map_err(CallError::Interrupted)
}

/// A full backlog makes connect wait, so the socket has its time-out before it is connected.
fn dial(path: &Path, deadline: Instant) -> io::Result<UnixStream> {
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let left = left(deadline)?;
    setsockopt(&fd, sockopt::SendTimeout, &TimeVal::new(left.as_secs() as i64, left.subsec_micros().into()))?;
    connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(UnixStream::from(fd))
}

fn exchange(stream: &mut UnixStream, request: &Request, netns: Option<BorrowedFd<'_>>, deadline: Instant) -> io::Result<Reply> {
    let document = serde_json::to_vec(request)?;
    stream.set_write_timeout(Some(left(deadline)?))?;
    let sent = match netns {
        None => 0,
        Some(netns) => {
            let fds = [netns.as_raw_fd()];
            let beside = [ControlMessage::ScmRights(&fds)];
            sendmsg::<UnixAddr>(stream.as_raw_fd(), &[IoSlice::new(&document)], &beside, MsgFlags::MSG_NOSIGNAL, None)?
        }
    };
    stream.write_all(&document[sent..])?;
    stream.shutdown(Shutdown::Write)?;

    let mut answer = Vec::with_capacity(1024);
    let mut chunk = [0u8; 4096];
    loop {
        stream.set_read_timeout(Some(left(deadline)?))?;
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(length) => answer.extend_from_slice(&chunk[..length]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(ErrorKind::TimedOut.into()),
            Err(error) => return Err(error),
        }
        if answer.len() as u64 > MAX_DOCUMENT {
            return Err(io::Error::new(ErrorKind::InvalidData, "the reply is too long"));
        }
    }
    if answer.is_empty() {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(&answer)?)
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(left) }
}
