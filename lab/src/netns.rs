//! One network namespace as a guard: made (replacing a stale one of the same name), entered, removed on drop.
//!
//! Entered by setns in a thread of its own or by `nsenter --net`; never by `ip netns exec`, which remounts /sys
//! and hides the cgroup and bpf mounts.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Once;

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sched::{CloneFlags, setns};

/// Where `ip netns` keeps its bind mounts.
const NETNS_DIR: &str = "/run/netns";
/// One file per namespace of ours, locked by the process that made it as long as that lives.
const OWNERS: &str = "/run/thalweg-netns";

/// A network namespace of ours. Dropping it removes the namespace with every link in it.
#[derive(Debug)]
pub struct Netns {
    name: String,
    path: PathBuf,
    /// Held by who made it. None: somebody else's.
    owner: Option<Flock<File>>,
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
        static SWEPT: Once = Once::new();
        SWEPT.call_once(sweep);
        fs::create_dir_all(OWNERS).with_context(|| format!("create {OWNERS}"))?;
        let owner =
            lock(name)?.with_context(|| format!("namespace {name} is in use by another process: end that one first"))?;
        Self::remove(name)?;
        run(Command::new("ip").args(["netns", "add", name]))?;
        let netns = Self { name: name.to_owned(), path: Path::new(NETNS_DIR).join(name), owner: Some(owner) };
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// A namespace that somebody else made and will remove.
    pub fn existing(name: &str) -> Self {
        Self { name: name.to_owned(), path: Path::new(NETNS_DIR).join(name), owner: None }
    }

    /// Removes a namespace by name; one that is not there is not an error.
    ///
    /// # Errors
    /// When `ip netns delete` fails.
    pub fn remove(name: &str) -> Result<()> {
        if Path::new(NETNS_DIR).join(name).exists() {
            run(Command::new("ip").args(["netns", "delete", name]))?;
        }
        // What its maker's death left locked by nobody.
        if Path::new(OWNERS).join(name).exists()
            && let Some(owner) = lock(name)?
        {
            release(name, owner);
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
        let Some(owner) = self.owner.take() else { return };
        match Self::remove(&self.name) {
            Ok(()) => release(&self.name, owner),
            Err(error) => eprintln!("namespace {} stays behind: {error:#}", self.name),
        }
    }
}

/// The lock of a namespace's name, or None when a living process holds it.
fn lock(name: &str) -> Result<Option<Flock<File>>> {
    let path = Path::new(OWNERS).join(name);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("open {}", path.display()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, error)) => Err(error).with_context(|| format!("lock {}", path.display())),
    }
}

/// Gives a name up. The file goes while it is still locked; the folder goes with the last one.
fn release(name: &str, owner: Flock<File>) {
    let _ = fs::remove_file(Path::new(OWNERS).join(name));
    drop(owner);
    let _ = fs::remove_dir(OWNERS);
}

/// Removes the namespaces whose makers were killed. Those of labs are left to the lab's owner, who removes more.
fn sweep() {
    for entry in fs::read_dir(OWNERS).into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let lab = name.strip_prefix("thalweg-").and_then(|rest| rest.split('-').next());
        if lab.is_some_and(|id| Path::new("/run/thalweg-lab").join(id).exists()) {
            continue;
        }
        if let Ok(Some(owner)) = lock(&name) {
            match Netns::remove(&name) {
                Ok(()) => release(&name, owner),
                Err(error) => eprintln!("namespace {name} of a killed run: {error:#}"),
            }
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

#[cfg(test)]
mod tests {
    use super::Netns;

    #[test]
    fn names_tell_whose_namespace_it_is() {
        let error = Netns::create("eth-test").expect_err("a foreign name");
        assert!(error.to_string().contains("thalweg- or tw-"), "{error}");
    }

    #[test]
    #[ignore = "needs root: run by cargo xtask test"]
    fn a_name_in_use_is_refused_and_free_again_afterwards() {
        let first = Netns::create("tw-twice").expect("create");
        let error = Netns::create("tw-twice").expect_err("in use");
        assert!(error.to_string().contains("in use"), "{error}");
        assert_eq!(first.enter(|| 7).expect("enter"), 7);
        drop(first);
        assert!(!Netns::list("tw-twice").iter().any(|name| name == "tw-twice"));
        drop(Netns::create("tw-twice").expect("create again"));
    }
}
