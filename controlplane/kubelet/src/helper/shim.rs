//! The parent of one container. It starts the program inside the sandbox's namespaces, copies its output to the log, and
//! records its exit. It belongs to nobody: the kubelet may die and come back meanwhile.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitCode, ExitStatus, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use jiff::Timestamp;

use super::{Namespaces, detach_stdio, reexec};
use crate::logs::{LogWriter, Stream};
use crate::process::{Cgroup, ProcessRef, SHIMS, state};
use crate::runtime::Exit;

/// How long output is awaited after the program ended: something that left the cgroup may hold the pipe.
const DRAIN: Duration = Duration::from_secs(2);

pub(super) fn run(dir: &Path, subcommand: &[OsString]) -> Result<ExitCode> {
    let record: state::ContainerRecord = state::read(&dir.join(state::CONTAINER))?.context("the container has no record")?;
    // A session of its own: Ctrl-C and a closed terminal reach the kubelet, not the pods.
    let _ = nix::unistd::setsid();
    Cgroup::new(&record.cgroup).beside(SHIMS).enter()?;
    let result = start(dir, &record, subcommand);
    let started_at = Timestamp::now();
    let (mut child, process) = match result {
        Ok(started) => started,
        Err(e) => {
            let message = format!("{e:#}");
            let exit = Exit {
                code: 128,
                signal: None,
                reason: "StartError".into(),
                message: Some(message.clone()),
                started_at: None,
                finished_at: Timestamp::now(),
            };
            state::write(&dir.join(state::EXIT), &exit)?;
            return Err(anyhow!(message));
        }
    };
    let shim = ProcessRef::of(std::process::id())?;
    state::write(&dir.join(state::RUNNING), &state::RunningRecord { shim, process, started_at })?;
    let pumps = pump(&record, &mut child)?;
    std::io::stdout().write_all(b"started\n")?;
    std::io::stdout().flush()?;
    detach_stdio().context("detach from the kubelet")?;

    let status = child.wait().context("wait for the container")?;
    let cgroup = Cgroup::new(&record.cgroup);
    let _ = cgroup.kill();
    let deadline = Instant::now() + DRAIN;
    for _ in 0..2 {
        let _ = pumps.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
    state::write(&dir.join(state::EXIT), &exit_of(status, cgroup.out_of_memory(), started_at))?;
    Ok(ExitCode::SUCCESS)
}

/// Starts the container's program and returns once it is executed.
fn start(dir: &Path, record: &state::ContainerRecord, subcommand: &[OsString]) -> Result<(std::process::Child, ProcessRef)> {
    let pause: ProcessRef = state::read(&record.sandbox_dir.join(state::PAUSE))?.context("the sandbox has no pause process")?;
    ensure!(pause.alive(), "the sandbox's pause process has ended");
    let own = Namespaces::open(std::process::id().try_into()?, &["pid"])?;
    if !record.host_pid {
        // For children only: the shim itself stays outside, where the log and the node's processes are.
        Namespaces::open(pause.pid, &["pid"])?.enter()?;
    }
    // The container's init holds the writing end as its stdin; it closes when the program is executed.
    let (mut reader, writer) = std::io::pipe()?;
    let mut child = reexec(subcommand)
        .arg("init")
        .arg(dir)
        .stdin(writer)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start the container's init")?;
    // Otherwise the kernel refuses threads.
    own.enter()?;
    let process = ProcessRef::of(child.id());
    let mut complaint = String::new();
    reader.read_to_string(&mut complaint).context("wait for the container's init")?;
    if complaint.is_empty() {
        return Ok((child, process?));
    }
    child.wait()?;
    Err(anyhow!(complaint))
}

/// Copies stdout and stderr to the log, each in a thread; the channel hears of each end.
fn pump(record: &state::ContainerRecord, child: &mut std::process::Child) -> Result<mpsc::Receiver<()>> {
    let log = Arc::new(Mutex::new(LogWriter::open(&record.config.log_path)?));
    let (done, ended) = mpsc::channel();
    let outputs = [
        (Stream::Stdout, child.stdout.take().map(std::os::fd::OwnedFd::from)),
        (Stream::Stderr, child.stderr.take().map(std::os::fd::OwnedFd::from)),
    ];
    for (stream, pipe) in outputs {
        let (log, done) = (log.clone(), done.clone());
        let pipe = File::from(pipe.context("the container has no output pipe")?);
        std::thread::Builder::new().name(stream.name().into()).spawn(move || {
            crate::logs::copy_lines(pipe, |bytes, partial| {
                // A full disk must not stop the container: the line is lost, the program goes on.
                if let Ok(mut log) = log.lock() {
                    let _ = log.line(Timestamp::now(), stream, partial, bytes);
                }
            });
            let _ = done.send(());
        })?;
    }
    Ok(ended)
}

fn exit_of(status: ExitStatus, out_of_memory: bool, started_at: Timestamp) -> Exit {
    let code = status.code().or_else(|| status.signal().map(|s| 128 + s)).unwrap_or(255);
    let reason = match code {
        0 => "Completed",
        137 if out_of_memory => "OOMKilled",
        _ => "Error",
    };
    Exit {
        code,
        signal: status.signal(),
        reason: reason.into(),
        message: None,
        started_at: Some(started_at),
        finished_at: Timestamp::now(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits_are_told_as_the_container_runtimes_tell_them() {
        for (raw, oom, code, signal, reason) in [
            (0, false, 0, None, "Completed"),
            (3 << 8, false, 3, None, "Error"),
            (15, false, 143, Some(15), "Error"),
            (9, true, 137, Some(9), "OOMKilled"),
        ] {
            let exit = exit_of(ExitStatus::from_raw(raw), oom, Timestamp::now());
            assert_eq!((exit.code, exit.signal, exit.reason.as_str()), (code, signal, reason), "{raw}");
        }
    }
}
