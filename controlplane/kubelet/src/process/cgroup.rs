//! cgroup2 directories of pods and containers: the agent's programs see pods through them, and killing one ends every
//! process in it. Limits are set where the machine gives cgroup2 the controllers; on a hybrid machine it may give none.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

use crate::runtime::Resources;

const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];
const CPU_PERIOD_MICROS: u64 = 100_000;

/// One directory of the cgroup2 hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup(PathBuf);

impl Cgroup {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn child(&self, name: &str) -> Self {
        Self(self.0.join(name))
    }

    pub fn beside(&self, name: &str) -> Self {
        Self(self.0.with_file_name(name))
    }

    /// Fails with what to check when the directory is not of a cgroup2 hierarchy.
    pub fn check(&self) -> io::Result<()> {
        let kind = statfs(&self.0).map_err(|e| named(&self.0, e.into()))?.filesystem_type();
        if kind == CGROUP2_SUPER_MAGIC {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "{} is not in a cgroup2 file system; give the node's cgroup with --cgroup",
            self.0.display()
        )))
    }

    /// Makes it and its parents, and passes the controllers down where they can be.
    pub fn create(&self, root: &Path) -> io::Result<()> {
        std::fs::create_dir_all(&self.0).map_err(|e| named(&self.0, e))?;
        let mut parents: Vec<_> = self.0.ancestors().skip(1).take_while(|p| p.starts_with(root)).collect();
        parents.reverse();
        for parent in parents {
            let available = std::fs::read_to_string(parent.join("cgroup.controllers")).unwrap_or_default();
            for controller in available.split_whitespace().filter(|c| CONTROLLERS.contains(c)) {
                // Refused where the parent holds processes itself: then there are no limits, and that is all.
                let _ = std::fs::write(parent.join("cgroup.subtree_control"), format!("+{controller}"));
            }
        }
        Ok(())
    }

    /// Moves the calling process into it.
    pub fn enter(&self) -> io::Result<()> {
        let procs = self.0.join("cgroup.procs");
        std::fs::write(&procs, "0").map_err(|e| named(&procs, e))
    }

    /// Sets the limits whose controllers are here.
    pub fn limit(&self, resources: &Resources) -> io::Result<()> {
        let cpu = resources.cpu_limit.map(|m| format!("{} {CPU_PERIOD_MICROS}", (m * CPU_PERIOD_MICROS / 1000).max(1000)));
        let weight = resources.cpu_request.map(|m| cpu_weight(m).to_string());
        let settings =
            [("memory.max", resources.memory_limit.map(|b| b.to_string())), ("cpu.max", cpu), ("cpu.weight", weight)];
        for (file, value) in settings {
            let path = self.0.join(file);
            if let Some(value) = value
                && path.exists()
            {
                std::fs::write(&path, value).map_err(|e| named(&path, e))?;
            }
        }
        Ok(())
    }

    /// Whether the memory limit killed something here.
    pub fn out_of_memory(&self) -> bool {
        let events = std::fs::read_to_string(self.0.join("memory.events")).unwrap_or_default();
        events.lines().any(|l| l.strip_prefix("oom_kill ").is_some_and(|n| n != "0"))
    }

    /// Kills every process in it and below.
    pub fn kill(&self) -> io::Result<()> {
        let path = self.0.join("cgroup.kill");
        match std::fs::write(&path, "1") {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(named(&path, e)),
            _ => Ok(()),
        }
    }

    /// Removes it and everything below, killing what is still inside; waits a bounded time for the processes to go.
    pub async fn remove(&self) -> io::Result<()> {
        for attempt in 0..100 {
            match remove_tree(&self.0) {
                Ok(()) => return Ok(()),
                Err(e) if attempt == 99 => return Err(named(&self.0, e)),
                Err(_) => self.kill()?,
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

fn remove_tree(path: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    std::fs::remove_dir(path)
}

/// CPU shares of version 1 (2..262144, 1024 per core) mapped on weights (1..10000), as Kubernetes maps them.
fn cpu_weight(millis: u64) -> u64 {
    let shares = (millis * 1024 / 1000).clamp(2, 262_144);
    1 + (shares - 2) * 9999 / 262_142
}

fn named(path: &Path, e: io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("{}: {e}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_requests_become_weights() {
        for (millis, weight) in [(0, 1), (2, 1), (100, 4), (1000, 39), (1_000_000, 10000)] {
            assert_eq!(cpu_weight(millis), weight, "{millis}m");
        }
    }

    #[test]
    fn a_plain_directory_is_refused() {
        let error = Cgroup::new("/").check().expect_err("not cgroup2");
        assert!(error.to_string().contains("not in a cgroup2 file system"), "{error}");
    }
}
