//! One network namespace as a guard: made (replacing a stale one of the same name), entered, removed on drop.
//!
//! Entered by setns in a thread of its own or by `nsenter --net`; never by `ip netns exec`, which remounts /sys
//! and hides the cgroup and bpf mounts.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CloneFlags, setns};

/// Where `ip netns` keeps its bind mounts.
const NETNS_DIR: &str = "/run/netns";

/// A network namespace of ours. Dropping it removes the namespace with every link in it.
#[derive(Debug)]
pub struct Netns {
    name: String,
    path: PathBuf,
    owned: bool,
}

/// Lets `enter` return whatever its closure made.
type Joined<T> = std::thread::Result<Result<T>>;

// === impl Netns ===

impl Netns {
    /// Makes the namespace with its loopback up; a stale one of the same name (a run that was killed) is replaced.
    ///
    /// # Errors
    /// When the name does not start with `thalweg-` or `tw-`, or the machine refuses (not root, no iproute2).
    pub fn create(name: &str) -> Result<Self> {
        ensure!(
            name.starts_with("thalweg-") || name.starts_with("tw-"),
            "namespace {name:?}: names of the lab start with thalweg- or tw-, so that what is left behind can be told"
        );
        Self::remove(name)?;
        run(Command::new("ip").args(["netns", "add", name]))?;
        let netns = Self { name: name.to_owned(), path: Path::new(NETNS_DIR).join(name), owned: true };
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// A namespace that somebody else made and will remove.
    pub fn existing(name: &str) -> Self {
        Self { name: name.to_owned(), path: Path::new(NETNS_DIR).join(name), owned: false }
    }

    /// Removes a namespace by name; one that is not there is not an error.
    ///
    /// # Errors
    /// When `ip netns delete` fails.
    pub fn remove(name: &str) -> Result<()> {
        if Path::new(NETNS_DIR).join(name).exists() {
            run(Command::new("ip").args(["netns", "delete", name]))?;
        }
        Ok(())
    }

    /// Names of the namespaces that exist and start with `prefix`.
    pub fn list(prefix: &str) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(NETNS_DIR) else { return Vec::new() };
        let mut names: Vec<String> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| name.starts_with(prefix))
            .collect();
        names.sort();
        names
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The bind mount that keeps the namespace: what CNI_NETNS and nsenter take.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A command that will run inside. Mounts, cgroups and files stay the host's.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path.display())).arg("--").arg(program);
        command
    }

    /// Runs iproute2 inside: `ns.ip("link set lo up")`.
    ///
    /// # Errors
    /// With the command line and what it wrote to stderr.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        let mut command = Command::new("ip");
        command.args(["-netns", &self.name]).args(arguments.split_whitespace());
        run(&mut command)
    }

    /// Runs a closure on a thread of its own inside the namespace and returns what it returns. Sockets that it
    /// opens stay in this namespace wherever they are used later; so do processes that it spawns.
    ///
    /// # Errors
    /// When the namespace cannot be entered, or the closure panicked.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let file = File::open(&self.path).with_context(|| format!("open {}", self.path.display()))?;
        let joined: Joined<T> = std::thread::scope(|scope| {
            scope
                .spawn(move || {
                    setns(&file, CloneFlags::CLONE_NEWNET).context("setns")?;
                    Ok(work())
                })
                .join()
        });
        match joined {
            Ok(result) => result.with_context(|| format!("enter namespace {}", self.name)),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if self.owned
            && let Err(error) = Self::remove(&self.name)
        {
            eprintln!("namespace {} stays behind: {error:#}", self.name);
        }
    }
}

/// Runs a command to its end and returns its standard output.
///
/// # Errors
/// When it cannot start, or exits other than 0: then with its command line and its standard error.
pub fn run(command: &mut Command) -> Result<String> {
    let Output { status, stdout, stderr } = command.output().with_context(|| format!("start {command:?}"))?;
    if !status.success() {
        bail!("{command:?}: {status}: {}", String::from_utf8_lossy(&stderr).trim());
    }
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}
