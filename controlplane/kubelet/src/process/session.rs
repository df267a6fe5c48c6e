//! Commands inside containers with somebody on the other end. A helper enters the container, makes the streams (pipes, or a
//! terminal of the container's own /dev/pts) and passes the kubelet's ends of them over a socket; the exit code comes
//! the same way. The command has a cgroup of its own below the container's, by which it is killed as a whole.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use std::{fs, io};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;

use super::terminal::Terminal;
use super::{Cgroup, ProcessRuntime, failed, state};
use crate::runtime::{Result, RuntimeError};
use crate::session::{Input, Output, Session, SessionRequest};

const START_TIMEOUT: Duration = Duration::from_secs(15);
/// What the helper says about the streams whose ends it passes: `t` and two blanks, or `i`, `o`, `e`, blank for none.
pub(crate) const STREAMS: usize = 3;
/// A helper that was killed could not tell; so was its command.
const KILLED: i32 = 137;

/// The command's cgroup. Dropped early, everything in it is killed.
struct Scope {
    own: Cgroup,
    container: Cgroup,
    over: bool,
}

// === impl Scope ===

impl Scope {
    fn new(container: &Path) -> io::Result<Self> {
        let id = state::new_id()?;
        let container = Cgroup::new(container);
        let own = container.child(&format!("exec-{}", &id[..16]));
        fs::create_dir(own.path())?;
        Ok(Self { own, container, over: false })
    }

    /// The command has ended; what it left running stays in the container.
    fn end(mut self) {
        let procs = |cgroup: &Cgroup| cgroup.path().join("cgroup.procs");
        for _ in 0..3 {
            let left = fs::read_to_string(procs(&self.own)).unwrap_or_default();
            for pid in left.lines() {
                // One that has ended meanwhile needs no place.
                let _ = fs::write(procs(&self.container), pid);
            }
            match fs::remove_dir(self.own.path()) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {}
                _ => {
                    self.over = true;
                    return;
                }
            }
        }
        tracing::debug!(cgroup = %self.own.path().display(), "what a command left behind does not move, and is killed");
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        if let Err(error) = self.own.kill() {
            tracing::warn!(%error, "a command could not be killed; it ends with its container");
        }
        // Outside of a runtime the directory stays until the container goes.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let own = self.own.clone();
            runtime.spawn(async move {
                if let Err(error) = own.remove().await {
                    tracing::debug!(%error, "a killed command's cgroup goes with its container");
                }
            });
        }
    }
}

// === impl ProcessRuntime ===

impl ProcessRuntime {
    pub(super) async fn begin_session(&self, id: &str, request: &SessionRequest) -> Result<Session> {
        let record = self.container_record(id)?;
        let scope = Scope::new(&record.cgroup).map_err(|e| failed("make the command's cgroup", e))?;
        let (ours, theirs) = StdUnixStream::pair().map_err(|e| failed("make a socket", e))?;
        let mut process = tokio::process::Command::new(&self.options.helper.program);
        process
            .args([&self.options.helper.container, "session"])
            .args([self.container_dir(id).as_path(), scope.own.path()])
            .arg(wanted(request))
            .args(&request.command)
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // Ctrl-C at the kubelet is not meant for it.
            .process_group(0);
        let mut child = process.spawn().map_err(|e| failed("start the helper", e))?;
        drop(process); // it holds the helper's end of the socket
        let mut control = ours
            .set_nonblocking(true)
            .and_then(|()| UnixStream::from_std(ours))
            .map_err(|e| failed("listen to the helper", e))?;
        let started = tokio::time::timeout(START_TIMEOUT, receive(&control)).await;
        let started =
            started.map_err(|_| RuntimeError::Timeout { what: "start of the command".into(), after: START_TIMEOUT })?;
        let (streams, ends) = started.map_err(|e| failed("listen to the helper", e))?;
        if ends.is_empty() && streams.iter().all(|s| *s == 0) {
            let output = child.wait_with_output().await.map_err(|e| failed("wait for the helper", e))?;
            return Err(RuntimeError::Start(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
        }
        let exit = async move {
            let mut words = String::new();
            let read = control.read_to_string(&mut words).await;
            read.map_err(|e| failed("wait for the command", e))?;
            child.wait().await.map_err(|e| failed("wait for the helper", e))?;
            scope.end();
            Ok(words.trim().parse().unwrap_or(KILLED))
        };
        let mut session = Session { stdin: None, stdout: None, stderr: None, resize: None, exit: Box::pin(exit) };
        connect(&mut session, streams, ends).map_err(|e| failed("connect the command's streams", e))?;
        Ok(session)
    }
}

fn wanted(request: &SessionRequest) -> String {
    if request.tty {
        return "t".into();
    }
    let streams = [(request.stdin, 'i'), (request.stdout, 'o'), (request.stderr, 'e')];
    // Never empty, or it would be an argument that is easily lost.
    std::iter::once('-').chain(streams.iter().filter(|(wanted, _)| *wanted).map(|(_, letter)| *letter)).collect()
}

fn connect(session: &mut Session, streams: [u8; STREAMS], ends: Vec<OwnedFd>) -> io::Result<()> {
    let kinds: Vec<u8> = streams.into_iter().filter(|s| *s != b' ').collect();
    if kinds.len() != ends.len() {
        return Err(io::Error::other("the helper passed other streams than it said"));
    }
    for (kind, end) in kinds.into_iter().zip(ends) {
        match kind {
            b't' => {
                let terminal = Terminal::new(end)?;
                session.stdin = Some(Box::pin(terminal.clone()) as Input);
                session.stdout = Some(Box::pin(terminal.clone()) as Output);
                session.resize = Some(Box::new(move |size| terminal.resize(size)));
            }
            b'i' => session.stdin = Some(Box::pin(pipe::Sender::from_owned_fd(end)?)),
            b'o' => session.stdout = Some(Box::pin(pipe::Receiver::from_owned_fd(end)?)),
            b'e' => session.stderr = Some(Box::pin(pipe::Receiver::from_owned_fd(end)?)),
            other => return Err(io::Error::other(format!("the helper passed an unknown stream {other}"))),
        }
    }
    Ok(())
}

/// The helper's first word; zeros and nothing when it ended without one.
async fn receive(control: &UnixStream) -> io::Result<([u8; STREAMS], Vec<OwnedFd>)> {
    control
        .async_io(Interest::READABLE, || {
            let mut streams = [0; STREAMS];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(STREAMS))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            recvmsg(control, &mut [IoSliceMut::new(&mut streams)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
            let mut ends = Vec::new();
            for message in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(passed) = message {
                    ends.extend(passed);
                }
            }
            Ok((streams, ends))
        })
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wanted_streams_are_told_by_letters() {
        let check = |stdin, stdout, stderr, tty, expected: &str| {
            assert_eq!(wanted(&SessionRequest { stdin, stdout, stderr, tty, ..SessionRequest::default() }), expected);
        };
        check(false, true, true, false, "-oe");
        check(true, true, false, false, "-io");
        check(false, false, false, false, "-");
        check(true, true, false, true, "t");
    }

    #[tokio::test]
    async fn a_helper_that_ends_without_a_word_is_noticed() {
        let (ours, theirs) = UnixStream::pair().expect("pair");
        drop(theirs);
        let (streams, ends) = receive(&ours).await.expect("the end");
        assert_eq!((streams, ends.len()), ([0; STREAMS], 0));
    }

    #[test]
    fn streams_and_their_names_must_agree() {
        let mut session = Session { stdin: None, stdout: None, stderr: None, resize: None, exit: Box::pin(async { Ok(0) }) };
        let error = connect(&mut session, *b"o  ", Vec::new()).expect_err("no end");
        assert!(error.to_string().contains("other streams"), "{error}");
    }
}
