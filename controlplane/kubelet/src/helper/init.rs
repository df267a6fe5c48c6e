//! Becomes a container's program: joins the sandbox's namespaces, builds the container's root file system, gives up
//! privileges, executes. Its stdin is a pipe to the shim: what is written there is why the program did not start.

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, unshare};

use super::{Namespaces, drop_privileges, rootfs};
use crate::process::{Cgroup, ProcessRef, state};
use crate::runtime::ContainerConfig;

/// What a program finds when neither pod nor node says a PATH. There is no image that could: programs are the node's own, and
/// so is the PATH that finds them.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(super) fn run(dir: &Path) -> Result<ExitCode> {
    // Closes on exec, and so tells the shim that the program runs.
    let report = std::io::stdin().as_fd().try_clone_to_owned().context("keep the pipe to the shim")?;
    let null = std::fs::File::open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    let Err(error) = become_program(dir);
    let mut report = std::fs::File::from(report);
    report.write_all(format!("{error:#}").as_bytes())?;
    Ok(ExitCode::from(128))
}

fn become_program(dir: &Path) -> Result<std::convert::Infallible> {
    let record: state::ContainerRecord = state::read(&dir.join(state::CONTAINER))?.context("the container has no record")?;
    let pause: ProcessRef = state::read(&record.sandbox_dir.join(state::PAUSE))?.context("the sandbox has no pause process")?;
    Cgroup::new(&record.cgroup).enter()?;
    Namespaces::open(pause.pid, &["net", "ipc", "uts"])?.enter()?;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWCGROUP).context("make the container's mount namespace")?;
    let config = &record.config;
    rootfs::enter(dir, &record)?;
    let cwd = config.working_dir.as_deref().unwrap_or(Path::new("/"));
    std::env::set_current_dir(cwd).with_context(|| format!("enter workingDir {}", cwd.display()))?;
    drop_privileges(&config.security)?;
    let mut command = command(config, &record.hostname).context("the container has no command")?;
    Err(anyhow!(explain(&config.command[0], &command.exec())))
}

/// The program with its arguments and environment; stdio is as it stands.
pub(super) fn command(config: &ContainerConfig, hostname: &str) -> Option<Command> {
    let (program, first) = config.command.split_first()?;
    let mut command = Command::new(program);
    command.args(first).args(&config.args).stdin(Stdio::null());
    environment(&mut command, config, hostname);
    Some(command)
}

pub(super) fn environment(command: &mut Command, config: &ContainerConfig, hostname: &str) {
    let home = if config.security.user == 0 { "/root" } else { "/" };
    let path = std::env::var_os("PATH").unwrap_or_else(|| PATH.into());
    command.env_clear().env("PATH", path).env("HOSTNAME", hostname).env("HOME", home);
    command.envs(config.env.iter().map(|(k, v)| (k, v)));
}

pub(super) fn explain(program: &str, error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => {
            format!("exec: {program:?}: not found; the process runtime runs programs of the node's own file system")
        }
        _ => format!("exec: {program:?}: {error}"),
    }
}
