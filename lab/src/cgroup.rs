//! Control groups of the lab: found, filled, killed and removed as a tree.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Where cgroup2 is mounted: `/sys/fs/cgroup` on unified systems, `/sys/fs/cgroup/unified` on hybrid ones.
///
/// # Errors
/// When no cgroup2 is mounted.
pub fn root() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("read /proc/self/mounts")?;
    mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|fields| fields.get(2) == Some(&"cgroup2"))
        .and_then(|fields| fields.get(1).map(PathBuf::from))
        .context("no cgroup2 is mounted: mount one with `mount -t cgroup2 none /sys/fs/cgroup`")
}

/// Kills every process in the group and the groups below it, and waits until they are gone.
///
/// # Errors
/// When some are still there at the deadline.
pub fn kill_all(group: &Path, deadline: Duration) -> Result<()> {
    if !group.exists() {
        return Ok(());
    }
    let end = Instant::now() + deadline;
    loop {
        let alive = processes(group)?;
        if alive.is_empty() {
            return Ok(());
        }
        if Instant::now() > end {
            bail!("{} processes did not end within {deadline:?}: {alive:?}", alive.len());
        }
        write_kill(group)?;
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Ids of the processes in the group and below.
///
/// # Errors
/// When the group cannot be read.
pub fn processes(group: &Path) -> Result<Vec<u32>> {
    let mut ids = Vec::new();
    visit(group, &mut |directory| {
        let text = fs::read_to_string(directory.join("cgroup.procs"))?;
        ids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()).filter(|id| *id != 0));
        Ok(())
    })
    .with_context(|| format!("read the processes of {}", group.display()))?;
    Ok(ids)
}

/// Removes the group and those below it.
///
/// # Errors
/// When one is still populated.
pub fn remove_tree(group: &Path) -> Result<()> {
    if !group.exists() {
        return Ok(());
    }
    let end = Instant::now() + Duration::from_secs(2);
    loop {
        let removed = visit(group, &mut |directory| match fs::remove_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        });
        match removed {
            Ok(()) => return Ok(()),
            // A process that was just killed leaves its group a moment after it left the list.
            Err(_) if Instant::now() < end => std::thread::sleep(Duration::from_millis(10)),
            Err(error) => return Err(error).with_context(|| format!("remove {}", group.display())),
        }
    }
}

fn write_kill(group: &Path) -> Result<()> {
    let file = group.join("cgroup.kill");
    match fs::write(&file, "1") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            bail!("{} is missing: the kernel is older than 5.14", file.display())
        }
        result => result.with_context(|| format!("write {}", file.display())),
    }
}

/// Calls `work` on every directory of the tree, children before parents.
fn visit(directory: &Path, work: &mut dyn FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            visit(&entry.path(), work)?;
        }
    }
    work(directory)
}
