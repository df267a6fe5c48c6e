//! Runs a command inside a running container for somebody who is there: `kubectl exec`. Its stdin is a socket to the kubelet:
//! over it go the kubelet's ends of the command's streams, and later the exit code. When the kubelet closes it, or dies, the
//! command is killed with everything it started.

use std::ffi::OsString;
use std::fs::File;
use std::io::{IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitCode};

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};

use super::{exec, init};
use crate::process::{Cgroup, STREAMS};

/// What a shell answers when a program is there and cannot be executed.
const NOT_EXECUTABLE: i32 = 126;
const NOT_FOUND: i32 = 127;

/// Both ends of the command's streams.
struct Streams {
    stdin: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
    /// The kubelet's, by letters: `t`, or `i`, `o`, `e`.
    passed: Vec<(u8, OwnedFd)>,
}

pub(super) fn run(dir: &Path, cgroup: &Path, wanted: &str, words: &[OsString]) -> Result<ExitCode> {
    let control = std::io::stdin().as_fd().try_clone_to_owned().context("keep the socket to the kubelet")?;
    nix::unistd::dup2_stdin(File::open("/dev/null")?)?;
    // Opened now: the container does not see this file.
    let kill = File::options().write(true).open(cgroup.join("cgroup.kill")).context("open the command's cgroup")?;
    let record = exec::enter(dir, Some(&Cgroup::new(cgroup)))?;
    let (program, args) = words.split_first().context("no command")?;
    let terminal = wanted == "t";
    // After the change of the user, whose the terminal shall be.
    let streams = if terminal { on_terminal()? } else { on_pipes(wanted)? };
    let mut stderr = File::from(streams.stderr.try_clone()?);

    let mut command = Command::new(program);
    command.args(args).stdin(streams.stdin).stdout(streams.stdout).stderr(streams.stderr);
    init::environment(&mut command, &record.config, &record.hostname);
    if terminal {
        if !record.config.env.iter().any(|(name, _)| name == "TERM") {
            command.env("TERM", "xterm");
        }
        lead_session(&mut command);
    }
    let child = command.spawn();
    drop(command); // it holds the command's ends
    pass(&control, &streams.passed).context("pass the streams to the kubelet")?;
    drop(streams.passed);
    let code = match child {
        Ok(child) => {
            drop(stderr);
            wait(child, &control, &kill)?
        }
        Err(e) => {
            let newline = if terminal { "\r\n" } else { "\n" };
            let _ = write!(stderr, "{}{newline}", init::explain(&program.to_string_lossy(), &e));
            if e.kind() == std::io::ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE }
        }
    };
    File::from(control).write_all(format!("{code}\n").as_bytes()).context("tell the kubelet")?;
    Ok(ExitCode::SUCCESS)
}

fn on_pipes(wanted: &str) -> Result<Streams> {
    let null = || File::options().read(true).write(true).open("/dev/null").map(OwnedFd::from);
    let mut streams = Streams { stdin: null()?, stdout: null()?, stderr: null()?, passed: Vec::new() };
    for letter in wanted.bytes() {
        let (reader, writer) = std::io::pipe()?;
        let ours = match letter {
            b'i' => {
                streams.stdin = reader.into();
                writer.into()
            }
            b'o' => {
                streams.stdout = writer.into();
                reader.into()
            }
            b'e' => {
                streams.stderr = writer.into();
                reader.into()
            }
            _ => continue,
        };
        streams.passed.push((letter, ours));
    }
    Ok(streams)
}

fn on_terminal() -> Result<Streams> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let control = openpt(flags).context("open a terminal; is there a /dev/ptmx in the container?")?;
    unlockpt(&control).context("unlock the terminal")?;
    let stdin = ioctl_tiocgptpeer(&control, flags).context("open the terminal's other side")?;
    Ok(Streams { stdout: stdin.try_clone()?, stderr: stdin.try_clone()?, stdin, passed: vec![(b't', control)] })
}

/// Makes the command the leader of a session whose terminal is its stdin, as shells expect.
fn lead_session(command: &mut Command) {
    #[expect(unsafe_code, reason = "a session can only be made between fork and exec")]
    // SAFETY: the closure makes two system calls; it allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(|| {
            nix::unistd::setsid()?;
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
            Ok(())
        });
    }
}

fn pass(control: &OwnedFd, ends: &[(u8, OwnedFd)]) -> Result<()> {
    let mut letters = [b' '; STREAMS];
    for (place, (letter, _)) in letters.iter_mut().zip(ends) {
        *place = *letter;
    }
    let fds: Vec<_> = ends.iter().map(|(_, end)| end.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(STREAMS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    }
    sendmsg(control, &[IoSlice::new(&letters)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Waits for the command; kills it when the kubelet leaves.
fn wait(mut child: Child, control: &OwnedFd, mut kill: &File) -> Result<i32> {
    let process = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).context("watch the command")?;
    loop {
        let mut watched = [PollFd::new(process.as_fd(), PollFlags::POLLIN), PollFd::new(control.as_fd(), PollFlags::POLLIN)];
        match poll(&mut watched, PollTimeout::NONE) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(e) => return Err(e).context("watch the command"),
        }
        let [ended, left] = watched.map(|fd| fd.any().unwrap_or(false));
        if ended {
            let status = child.wait().context("wait for the command")?;
            return Ok(status.code().or_else(|| status.signal().map(|s| 128 + s)).unwrap_or(255));
        }
        if left {
            // This process too.
            kill.write_all(b"1").context("kill the command")?;
        }
    }
}
