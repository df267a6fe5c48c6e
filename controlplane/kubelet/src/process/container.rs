//! Containers of the `process` runtime, as the kubelet sees them: records on disk, a shim process per running one.

use std::ffi::OsStr;
use std::process::Stdio;
use std::time::Duration;

use jiff::Timestamp;
use nix::sys::signal::Signal;

use super::sandbox::{HOSTNAME, RESOLV_CONF};
use super::state::{self, ContainerRecord, RunningRecord};
use super::{Cgroup, ProcessRuntime, SHIMS, failed, names, remove_dir};
use crate::runtime::{Container, ContainerConfig, ContainerState, ExecOutput, Exit, Mount, Result, RuntimeError};

const START_TIMEOUT: Duration = Duration::from_secs(30);
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
/// Between the end of the program and the shim's record of it.
const RECORD_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_OUTPUT: u64 = 10 * 1024;

impl ProcessRuntime {
    pub(super) fn make_container(&self, sandbox: &str, mut config: ContainerConfig) -> Result<String> {
        if config.command.is_empty() {
            return Err(RuntimeError::Invalid(format!(
                "container {} has no command: the process runtime has no image {:?} to take an entry point from; set `command`",
                config.name, config.image
            )));
        }
        signal(config.stop_signal.as_deref())?;
        let pod = self.record(sandbox)?;
        let id = state::new_id().map_err(|e| failed("make an id", e))?;
        let sandbox_dir = self.sandbox_dir(sandbox);
        for (file, target) in [(RESOLV_CONF, "/etc/resolv.conf"), (HOSTNAME, "/etc/hostname")] {
            if !config.mounts.iter().any(|m| m.target == std::path::Path::new(target)) {
                config.mounts.push(Mount { source: sandbox_dir.join(file), target: target.into(), read_only: false });
            }
        }
        let cgroup = Cgroup::new(&pod.cgroup).child(&id);
        let record = ContainerRecord {
            id: id.clone(),
            sandbox: sandbox.to_owned(),
            config,
            created_at: Timestamp::now(),
            cgroup: cgroup.path().to_owned(),
            sandbox_dir,
            state_root: self.options.root.canonicalize().map_err(|e| failed("find the state directory", e))?,
            hostname: pod.config.hostname,
            host_pid: pod.config.host_pid,
        };
        let dir = self.container_dir(&id);
        std::fs::create_dir_all(&dir).map_err(|e| failed("make the container's directory", e))?;
        state::write(&dir.join(state::CONTAINER), &record).map_err(|e| failed("record the container", e))?;
        Ok(id)
    }

    pub(super) async fn launch(&self, id: &str) -> Result<()> {
        let record = self.container_record(id)?;
        let dir = self.container_dir(id);
        let cgroup = Cgroup::new(&record.cgroup);
        for cgroup in [&cgroup, &cgroup.beside(SHIMS)] {
            cgroup.create(&self.options.cgroup).map_err(|e| failed("make the container's cgroup", e))?;
        }
        cgroup.limit(&record.config.resources).map_err(|e| failed("limit the container", e))?;
        let args = [OsStr::new("shim"), dir.as_os_str()];
        let started = self.helper(&self.options.helper.container, &args, &dir.join(state::SHIM_LOG), START_TIMEOUT).await;
        let Err(message) = started else { return Ok(()) };
        let _ = cgroup.kill();
        // The shim records its own failures; one that could not even do that is recorded here.
        if self.exit(id)?.is_none() {
            let exit = Exit {
                code: 128,
                signal: None,
                reason: "StartError".into(),
                message: Some(message.clone()),
                started_at: None,
                finished_at: Timestamp::now(),
            };
            state::write(&dir.join(state::EXIT), &exit).map_err(|e| failed("record the exit", e))?;
        }
        Err(RuntimeError::Start(message))
    }

    pub(super) async fn end_container(&self, id: &str, grace: Duration) -> Result<()> {
        let record = match self.container_record(id) {
            Ok(record) => record,
            Err(RuntimeError::NotFound { .. }) => return Ok(()),
            Err(e) => return Err(e),
        };
        let Some(running) = self.running(id)?.filter(|r| r.process.alive()) else {
            // Starting right now, or ended: either way nothing of it may live on.
            return Cgroup::new(&record.cgroup).kill().map_err(|e| failed("kill the container", e));
        };
        if !grace.is_zero() {
            let signal = signal(record.config.stop_signal.as_deref())?;
            running.process.signal(signal).map_err(|e| failed("signal the container", e))?;
            if tokio::time::timeout(grace, self.until_exited(id)).await.is_ok() {
                return Ok(());
            }
        }
        running.process.signal(Signal::SIGKILL).map_err(|e| failed("kill the container", e))?;
        Cgroup::new(&record.cgroup).kill().map_err(|e| failed("kill the container", e))?;
        match tokio::time::timeout(KILL_TIMEOUT, self.until_exited(id)).await {
            Ok(result) => result,
            Err(_) => Err(RuntimeError::Timeout { what: format!("container {id}"), after: KILL_TIMEOUT }),
        }
    }

    pub(super) async fn forget_container(&self, id: &str) -> Result<()> {
        let record = match self.container_record(id) {
            Ok(record) => record,
            Err(RuntimeError::NotFound { .. }) => return remove_dir(&self.container_dir(id)),
            Err(e) => return Err(e),
        };
        self.end_container(id, Duration::ZERO).await?;
        Cgroup::new(&record.cgroup).remove().await.map_err(|e| failed("remove the container's cgroup", e))?;
        remove_dir(&self.container_dir(id))
    }

    /// Waits for the program, and then for the shim's word on it.
    pub(super) async fn until_exited(&self, id: &str) -> Result<()> {
        let Some(running) = self.running(id)? else { return Ok(()) };
        if let Some(fd) = running.process.open().map_err(|e| failed("watch the container", e))? {
            fd.wait().await.map_err(|e| failed("watch the container", e))?;
        }
        if let Some(fd) = running.shim.open().map_err(|e| failed("watch the shim", e))? {
            let _ = tokio::time::timeout(RECORD_TIMEOUT, fd.wait()).await;
        }
        Ok(())
    }

    pub(super) fn container(&self, id: &str) -> Result<Container> {
        let record = self.container_record(id)?;
        let running = self.running(id)?;
        let exit = self.exit(id)?;
        let state = match (exit, running) {
            (Some(exit), _) => ContainerState::Exited(exit),
            (None, Some(r)) if r.process.alive() || r.shim.alive() => ContainerState::Running { started_at: r.started_at },
            // Read again: it may have been recorded between the two looks.
            (None, Some(r)) => ContainerState::Exited(self.exit(id)?.unwrap_or_else(|| unknown_exit(&r))),
            (None, None) => ContainerState::Created,
        };
        Ok(Container { id: record.id, sandbox: record.sandbox, config: record.config, created_at: record.created_at, state })
    }

    pub(super) fn containers_of(&self, sandbox: &str) -> Result<Vec<Container>> {
        let mut found = Vec::new();
        for id in names(&self.options.root.join("containers"))? {
            match self.container(&id) {
                Ok(container) if container.sandbox == sandbox => found.push(container),
                Ok(_) => {}
                Err(RuntimeError::NotFound { .. }) => remove_dir(&self.container_dir(&id))?,
                Err(e) => tracing::error!(container = id, error = %e, "a container record cannot be read"),
            }
        }
        found.sort_by_key(|c| (c.created_at, c.config.attempt));
        Ok(found)
    }

    pub(super) async fn run_inside(&self, id: &str, command: &[String], timeout: Duration) -> Result<ExecOutput> {
        use tokio::io::AsyncReadExt;
        self.container_record(id)?;
        let (reader, writer) = std::io::pipe().map_err(|e| failed("make a pipe", e))?;
        let same = writer.try_clone().map_err(|e| failed("make a pipe", e))?;
        let mut process = tokio::process::Command::new(&self.options.helper.program);
        process
            .arg(&self.options.helper.container)
            .args([OsStr::new("exec"), self.container_dir(id).as_os_str()])
            .args(command)
            .stdin(Stdio::null())
            .stdout(writer)
            .stderr(same)
            // A group of its own, so that a timeout ends the helper and what it started.
            .process_group(0);
        let mut child = process.spawn().map_err(|e| failed("start exec", e))?;
        drop(process); // it holds the pipe's writing ends
        let group = child.id().and_then(|id| i32::try_from(id).ok()).map(nix::unistd::Pid::from_raw);
        let mut output = Vec::new();
        let reader = tokio::net::unix::pipe::Receiver::from_owned_fd(reader.into()).map_err(|e| failed("read exec", e))?;
        let finished = tokio::time::timeout(timeout, async {
            let mut head = reader.take(MAX_OUTPUT);
            head.read_to_end(&mut output).await?;
            // The rest is read and dropped, so that the command does not hang on a full pipe.
            tokio::io::copy(&mut head.into_inner(), &mut tokio::io::sink()).await?;
            child.wait().await
        })
        .await;
        match finished {
            Ok(Ok(status)) => {
                let output = String::from_utf8_lossy(&output).trim_end().to_owned();
                Ok(ExecOutput { code: status.code().unwrap_or(255), output })
            }
            Ok(Err(e)) => Err(failed("exec", e)),
            Err(_) => {
                if let Some(group) = group {
                    let _ = nix::sys::signal::killpg(group, Signal::SIGKILL);
                }
                let _ = child.wait().await;
                Err(RuntimeError::Timeout { what: format!("command {command:?}"), after: timeout })
            }
        }
    }

    pub(super) fn container_record(&self, id: &str) -> Result<ContainerRecord> {
        state::read(&self.container_dir(id).join(state::CONTAINER))
            .map_err(|e| failed("read the container's record", e))?
            .ok_or_else(|| RuntimeError::NotFound { kind: "container", id: id.to_owned() })
    }

    fn running(&self, id: &str) -> Result<Option<RunningRecord>> {
        state::read(&self.container_dir(id).join(state::RUNNING)).map_err(|e| failed("read the container's process", e))
    }

    fn exit(&self, id: &str) -> Result<Option<Exit>> {
        state::read(&self.container_dir(id).join(state::EXIT)).map_err(|e| failed("read the container's exit", e))
    }
}

/// The container ended and nobody saw how: its shim was killed, or the machine restarted.
fn unknown_exit(running: &RunningRecord) -> Exit {
    Exit {
        code: 137,
        signal: None,
        reason: "ContainerStatusUnknown".into(),
        message: Some("the container ended while nothing watched it".into()),
        started_at: Some(running.started_at),
        finished_at: Timestamp::now(),
    }
}

fn signal(name: Option<&str>) -> Result<Signal> {
    let name = name.unwrap_or("SIGTERM");
    name.parse().map_err(|_| RuntimeError::Invalid(format!("stopSignal {name} is not a signal of this machine")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_signals() {
        assert_eq!(signal(None).expect("default"), Signal::SIGTERM);
        assert_eq!(signal(Some("SIGQUIT")).expect("known"), Signal::SIGQUIT);
        assert!(signal(Some("QUIT!")).expect_err("unknown").to_string().contains("QUIT!"));
    }
}
