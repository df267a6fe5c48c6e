//! Who owns a lab, and what a lab that lost its owner leaves behind.
//!
//! Everything of lab `ID` is found by name, without any record: the run directory `/run/thalweg-lab/ID` (locked by
//! its owner while it lives), the control group `thalweg-ID` with every process of the lab in it, the namespaces
//! `thalweg-ID-…`, and the mounts below the run directory. So a lab whose owner was killed with -9 is removed
//! completely by the next one, and a lab that is in use is never touched.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, umount2};

use crate::cgroup;
use crate::netns::Netns;

const RUN_DIR: &str = "/run/thalweg-lab";
/// How long the processes of a lab may take to die after cgroup.kill.
const KILL_DEADLINE: Duration = Duration::from_secs(10);

/// A lab of ours. Dropping it removes every trace.
#[derive(Debug)]
pub struct Owner {
    id: String,
    run: PathBuf,
    cgroup: PathBuf,
    lock: Option<Flock<File>>,
    keep: bool,
}

// === impl Owner ===

impl Owner {
    /// Claims the lab `id`, after removing every lab that lost its owner.
    ///
    /// # Errors
    /// When a living process owns `id`, or the machine refuses.
    pub fn claim(id: &str) -> Result<Self> {
        ensure!(
            !id.is_empty() && id.len() <= 20 && id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()),
            "lab name {id:?}: 1 to 20 lower-case letters and digits"
        );
        sweep()?;
        let run = Path::new(RUN_DIR).join(id);
        fs::create_dir_all(&run).with_context(|| format!("create {}", run.display()))?;
        let Some(lock) = lock(&run)? else {
            bail!("lab {id} is in use by another process: end that one first, or choose another name")
        };
        let cgroup = cgroup::root()?.join(format!("thalweg-{id}"));
        fs::create_dir_all(&cgroup).with_context(|| format!("create control group {}", cgroup.display()))?;
        Ok(Self { id: id.to_owned(), run, cgroup, lock: Some(lock), keep: false })
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    /// `/run/thalweg-lab/ID`: sockets, pins and mounts of the lab.
    pub fn run(&self) -> &Path {
        &self.run
    }

    /// The control group that holds every process of the lab.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// Leaves everything in place when this is dropped; the next lab then takes it for abandoned.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    /// Removes every trace, and says what could not be removed.
    ///
    /// # Errors
    /// Lists each thing that stays behind with its cause.
    pub fn remove(mut self) -> Result<()> {
        self.keep = true;
        let result = remove(&self.id);
        drop(self.lock.take());
        let _ = fs::remove_dir(RUN_DIR);
        result
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        if !self.keep
            && let Err(error) = remove(&self.id)
        {
            eprintln!("lab {}: {error:#}", self.id);
        }
        drop(self.lock.take());
        let _ = fs::remove_dir(RUN_DIR);
    }
}

/// Removes every lab that lost its owner. Returns their names.
///
/// # Errors
/// When one of them cannot be removed.
pub fn sweep() -> Result<Vec<String>> {
    let mut swept = Vec::new();
    let Ok(entries) = fs::read_dir(RUN_DIR) else { return Ok(swept) };
    for entry in entries.flatten() {
        let Ok(id) = entry.file_name().into_string() else { continue };
        if let Some(held) = lock(&entry.path())? {
            remove(&id)?;
            drop(held);
            swept.push(id);
        }
    }
    Ok(swept)
}

/// The lock of a run directory, or None when somebody else holds it.
fn lock(run: &Path) -> Result<Option<Flock<File>>> {
    let path = run.join("owner");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("open {}", path.display()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, error)) => Err(error).with_context(|| format!("lock {}", path.display())),
    }
}

/// Removes all that belongs to the lab `id`; goes on after an error and reports them together.
fn remove(id: &str) -> Result<()> {
    let mut errors = Vec::new();
    let mut attempt = |what: String, result: Result<()>| {
        if let Err(error) = result {
            errors.push(format!("{what}: {error:#}"));
        }
    };
    let run = Path::new(RUN_DIR).join(id);
    match cgroup::root() {
        Ok(root) => {
            let group = root.join(format!("thalweg-{id}"));
            attempt(format!("processes in {}", group.display()), cgroup::kill_all(&group, KILL_DEADLINE));
            for name in Netns::list(&format!("thalweg-{id}-")) {
                attempt(format!("namespace {name}"), Netns::remove(&name));
            }
            attempt(format!("control group {}", group.display()), cgroup::remove_tree(&group));
        }
        Err(error) => attempt("control groups".to_owned(), Err(error)),
    }
    attempt("mounts".to_owned(), unmount_below(&run));
    attempt(format!("{}", run.display()), remove_dir(&run));
    ensure!(errors.is_empty(), "left behind: {}", errors.join("; "));
    Ok(())
}

/// Unmounts everything below `directory`, innermost first.
fn unmount_below(directory: &Path) -> Result<()> {
    let prefix = format!("{}/", directory.display());
    let mounts = fs::read_to_string("/proc/self/mounts").context("read /proc/self/mounts")?;
    let mut below: Vec<&str> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .filter(|path| path.starts_with(&prefix) || Path::new(path) == directory)
        .collect();
    below.sort_by_key(|path| std::cmp::Reverse(path.len()));
    for path in below {
        umount2(path, MntFlags::MNT_DETACH).with_context(|| format!("unmount {path}"))?;
    }
    Ok(())
}

/// Removes a directory; a mount that was just detached may keep it busy for a moment.
fn remove_dir(directory: &Path) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(2);
    loop {
        match fs::remove_dir_all(directory) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
            Err(error) => return Err(error).with_context(|| format!("remove {}", directory.display())),
        }
    }
}
