//! The helper processes of the `process` runtime. Namespaces are entered only here, in freshly executed single-threaded
//! processes: the kubelet itself is multi-threaded and never forks without executing.
//!
//! `pause` makes a sandbox's namespaces and holds them. `shim` is the parent of one container: it keeps the log, outlives the
//! kubelet and records the exit. `init` becomes the container's program. `exec` and `session` run a command inside a
//! container.

mod capabilities;
mod exec;
mod init;
mod pause;
mod rootfs;
mod session;
mod shim;

use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};

use crate::runtime::Security;

/// Entry point of the hidden subcommand `kubelet-pause`. `args` is what follows the subcommand's name, to the end.
pub fn pause_main(args: Vec<OsString>) -> ExitCode {
    let result = match args.as_slice() {
        [mode, dir] if mode == "--inner" => pause::inner(Path::new(dir)),
        [dir] => pause::outer(Path::new(dir), &subcommand(&args)),
        _ => Err(anyhow::anyhow!("kubelet-pause is run by the kubelet, with a sandbox directory")),
    };
    finish(result)
}

/// Entry point of the hidden subcommand `kubelet-container`. `args` is what follows the subcommand's name, to the end.
pub fn container_main(args: Vec<OsString>) -> ExitCode {
    let result = match args.as_slice() {
        [verb, dir] if verb == "shim" => shim::run(Path::new(dir), &subcommand(&args)),
        [verb, dir] if verb == "init" => init::run(Path::new(dir)),
        [verb, dir, command @ ..] if verb == "exec" && !command.is_empty() => exec::run(Path::new(dir), command),
        [verb, dir, cgroup, wanted, command @ ..] if verb == "session" && !command.is_empty() => {
            session::run(Path::new(dir), Path::new(cgroup), &wanted.to_string_lossy(), command)
        }
        _ => Err(anyhow::anyhow!("kubelet-container is run by the kubelet: shim|init|exec|session DIR [COMMAND…]")),
    };
    finish(result)
}

fn finish(result: Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|e| {
        eprintln!("{e:#}");
        ExitCode::from(125)
    })
}

/// The words of our own command line before `args`, so that a helper can start its other half the same way.
fn subcommand(args: &[OsString]) -> Vec<OsString> {
    let all: Vec<_> = std::env::args_os().skip(1).collect();
    let keep = all.len().saturating_sub(args.len());
    all.into_iter().take(keep).collect()
}

/// This very executable, also when its file was replaced meanwhile.
fn reexec(subcommand: &[OsString]) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.args(subcommand);
    command
}

/// The namespaces of a process, opened before any of them is entered.
struct Namespaces(Vec<(std::fs::File, CloneFlags, PathBuf)>);

impl Namespaces {
    fn open(pid: i32, names: &[&str]) -> Result<Self> {
        let mut files = Vec::new();
        for name in names {
            let flag = match *name {
                "net" => CloneFlags::CLONE_NEWNET,
                "ipc" => CloneFlags::CLONE_NEWIPC,
                "uts" => CloneFlags::CLONE_NEWUTS,
                "pid" => CloneFlags::CLONE_NEWPID,
                "mnt" => CloneFlags::CLONE_NEWNS,
                "cgroup" => CloneFlags::CLONE_NEWCGROUP,
                other => bail!("unknown namespace {other}"),
            };
            let path = PathBuf::from(format!("/proc/{pid}/ns/{name}"));
            let file = std::fs::File::open(&path).with_context(|| format!("open {}", path.display()))?;
            files.push((file, flag, path));
        }
        Ok(Self(files))
    }

    fn enter(self) -> Result<()> {
        for (file, flag, path) in self.0 {
            setns(file.as_fd(), flag).with_context(|| format!("enter {}", path.display()))?;
        }
        Ok(())
    }
}

/// Gives up what the container may not have. The last step before its program: afterwards nothing can be mounted.
fn drop_privileges(security: &Security) -> Result<()> {
    use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
    capabilities::bound(security)?;
    let groups: Vec<_> = std::iter::once(security.group).chain(security.groups.iter().copied()).map(Gid::from_raw).collect();
    setgroups(&groups).context("set the supplementary groups")?;
    let gid = Gid::from_raw(security.group);
    setresgid(gid, gid, gid).context("set the group")?;
    let uid = Uid::from_raw(security.user);
    setresuid(uid, uid, uid).context("set the user")?;
    if security.no_new_privileges {
        nix::sys::prctl::set_no_new_privs().context("set no_new_privs")?;
    }
    Ok(())
}

/// Points stdin, stdout and stderr at nothing, so that no pipe to the kubelet stays open.
fn detach_stdio() -> io::Result<()> {
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    nix::unistd::dup2_stderr(&null)?;
    Ok(())
}
