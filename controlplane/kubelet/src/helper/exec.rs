//! Runs a command inside a running container: exec probes and hooks. The output goes to our own stdout and stderr, the exit
//! code is the command's.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, ensure};

use super::{Namespaces, drop_privileges, init};
use crate::process::{Cgroup, state};

/// What a shell answers when there is no such program.
const NOT_FOUND: u8 = 127;

pub(super) fn run(dir: &Path, words: &[OsString]) -> Result<ExitCode> {
    let record = enter(dir, None)?;
    let (program, args) = words.split_first().context("no command")?;
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    init::environment(&mut command, &record.config, &record.hostname);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(e) => {
            eprintln!("{}", init::explain(&program.to_string_lossy(), &e));
            return Ok(ExitCode::from(NOT_FOUND));
        }
    };
    let status = child.wait().context("wait for the command")?;
    let code = status.code().or_else(|| status.signal().map(|s| 128 + s)).unwrap_or(255);
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(255)))
}

/// Moves this process into a running container: its namespaces, its cgroup (or the given one below it), its user.
pub(super) fn enter(dir: &Path, cgroup: Option<&Cgroup>) -> Result<state::ContainerRecord> {
    let record: state::ContainerRecord = state::read(&dir.join(state::CONTAINER))?.context("the container has no record")?;
    let running: state::RunningRecord = state::read(&dir.join(state::RUNNING))?.context("the container does not run")?;
    ensure!(running.process.alive(), "the container has ended");
    let namespaces = Namespaces::open(running.process.pid, &["cgroup", "net", "ipc", "uts", "pid", "mnt"])?;
    let own = Cgroup::new(&record.cgroup);
    cgroup.unwrap_or(&own).enter()?;
    namespaces.enter()?;
    let cwd = record.config.working_dir.as_deref().unwrap_or(Path::new("/"));
    std::env::set_current_dir(cwd).with_context(|| format!("enter workingDir {}", cwd.display()))?;
    drop_privileges(&record.config.security)?;
    Ok(record)
}
