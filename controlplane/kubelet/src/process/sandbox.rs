//! Sandboxes: made with everything undone on failure, ended so that a second try can go on where the first one stopped.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::Signal;

use super::state::{self, NetworkRecord, SandboxRecord};
use super::{Cgroup, ProcessRef, ProcessRuntime, failed, remove_dir};
use crate::runtime::{DnsConfig, Result, RuntimeError, Sandbox, SandboxConfig};

const HELPER_TIMEOUT: Duration = Duration::from_secs(15);
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
pub(super) const RESOLV_CONF: &str = "resolv.conf";
pub(super) const HOSTNAME: &str = "hostname";

impl ProcessRuntime {
    pub(super) async fn make_sandbox(&self, config: SandboxConfig) -> Result<Sandbox> {
        let id = state::new_id().map_err(|e| failed("make an id", e))?;
        let dir = self.sandbox_dir(&id);
        let netns = (!config.host_network).then(|| self.options.root.join("netns").join(&id));
        let cgroup = self.kubepods().child(&format!("pod{}", config.uid)).path().to_owned();
        let record = SandboxRecord { id: id.clone(), config, created_at: Timestamp::now(), netns, cgroup };
        match self.fill_sandbox(&dir, &record).await {
            Ok(()) => self.sandbox(&id),
            Err(e) => {
                if let Err(undo) = self.undo_sandbox(&id).await {
                    tracing::warn!(sandbox = id, error = %undo, "a failed sandbox is not undone yet; it is tried again");
                }
                Err(e)
            }
        }
    }

    async fn fill_sandbox(&self, dir: &Path, record: &SandboxRecord) -> Result<()> {
        let list = match record.netns {
            Some(_) => Some(self.cni.network()?),
            None => None,
        };
        std::fs::create_dir_all(dir).map_err(|e| failed("make the sandbox's directory", e))?;
        state::write(&dir.join(state::SANDBOX), record).map_err(|e| failed("record the sandbox", e))?;
        let hostname = format!("{}\n", record.config.hostname);
        std::fs::write(dir.join(HOSTNAME), hostname).map_err(|e| failed("write the hostname", e))?;
        std::fs::write(dir.join(RESOLV_CONF), resolv_conf(&record.config.dns)).map_err(|e| failed("write resolv.conf", e))?;
        let cgroup = Cgroup::new(&record.cgroup).child("sandbox");
        cgroup.create(&self.options.cgroup).map_err(|e| failed("make the pod's cgroup", e))?;
        self.helper(&self.options.helper.pause, &[dir.as_os_str()], &dir.join(state::SHIM_LOG), HELPER_TIMEOUT)
            .await
            .map_err(RuntimeError::Helper)?;
        let Some(list) = list else { return Ok(()) };
        // Recorded before ADD: should the kubelet die meanwhile, DEL is made with the same configuration.
        let path = dir.join(state::NETWORK);
        let mut network = NetworkRecord { list, result: None, ips: Vec::new() };
        state::write(&path, &network).map_err(|e| failed("record the network", e))?;
        let (result, ips) = self.cni.add(&network.list, &self.attachment(record)).await?;
        (network.result, network.ips) = (Some(result), ips);
        state::write(&path, &network).map_err(|e| failed("record the network", e))
    }

    async fn undo_sandbox(&self, id: &str) -> Result<()> {
        self.end_sandbox(id).await?;
        remove_dir(&self.sandbox_dir(id))
    }

    /// Network first, while the namespace is there; then the processes; then what held them.
    pub(super) async fn end_sandbox(&self, id: &str) -> Result<()> {
        let record = match self.record(id) {
            Ok(record) => record,
            Err(RuntimeError::NotFound { .. }) => return Ok(()),
            Err(e) => return Err(e),
        };
        let network = self.network_record(id)?;
        if let Some(network) = &network {
            self.cni.del(&network.list, &self.attachment(&record), network.result.as_ref()).await?;
            let path = self.sandbox_dir(id).join(state::NETWORK);
            std::fs::remove_file(&path).map_err(|e| failed(format!("remove {}", path.display()), e))?;
        }
        self.kill_pause(id).await?;
        // A second sandbox of the same pod would share the pod's cgroup: only this one's children go.
        Cgroup::new(&record.cgroup).child("sandbox").kill().map_err(|e| failed("end the pod's processes", e))?;
        if let Some(netns) = &record.netns {
            release(netns).map_err(|e| failed(format!("release {}", netns.display()), e))?;
        }
        Cgroup::new(&record.cgroup).remove().await.map_err(|e| failed("remove the pod's cgroup", e))
    }

    async fn kill_pause(&self, id: &str) -> Result<()> {
        let Some(pause) = self.pause(id)? else { return Ok(()) };
        let Some(fd) = pause.open().map_err(|e| failed("open the pause process", e))? else { return Ok(()) };
        fd.signal(Signal::SIGKILL).map_err(|e| failed("end the pause process", e))?;
        match tokio::time::timeout(KILL_TIMEOUT, fd.wait()).await {
            Ok(result) => result.map_err(|e| failed("wait for the pause process", e)),
            Err(_) => Err(RuntimeError::Timeout { what: format!("pause process {}", pause.pid), after: KILL_TIMEOUT }),
        }
    }

    pub(super) fn record(&self, id: &str) -> Result<SandboxRecord> {
        let path = self.sandbox_dir(id).join(state::SANDBOX);
        state::read(&path)
            .map_err(|e| failed("read the sandbox's record", e))?
            .ok_or_else(|| RuntimeError::NotFound { kind: "sandbox", id: id.to_owned() })
    }

    pub(super) fn network_record(&self, id: &str) -> Result<Option<NetworkRecord>> {
        state::read(&self.sandbox_dir(id).join(state::NETWORK)).map_err(|e| failed("read the sandbox's network", e))
    }

    pub(super) fn pause(&self, id: &str) -> Result<Option<ProcessRef>> {
        state::read(&self.sandbox_dir(id).join(state::PAUSE)).map_err(|e| failed("read the pause process", e))
    }
}

/// Unmounts a kept network namespace and removes its file; a file that is gone or not mounted is no error.
fn release(path: &Path) -> std::io::Result<()> {
    match umount2(path, MntFlags::MNT_DETACH) {
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
        Err(e) => return Err(e.into()),
    }
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// The text of a resolv.conf.
fn resolv_conf(dns: &DnsConfig) -> String {
    let mut text = String::new();
    for server in &dns.nameservers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    for (word, values) in [("search", &dns.searches), ("options", &dns.options)] {
        if !values.is_empty() {
            text.push_str(&format!("{word} {}\n", values.join(" ")));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_has_only_what_is_set() {
        let words = |w: &[&str]| w.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let dns = DnsConfig {
            nameservers: words(&["10.96.0.10", "fd00::a"]),
            searches: words(&["default.svc.cluster.local", "cluster.local"]),
            options: words(&["ndots:5"]),
        };
        let text =
            "nameserver 10.96.0.10\nnameserver fd00::a\nsearch default.svc.cluster.local cluster.local\noptions ndots:5\n";
        assert_eq!(resolv_conf(&dns), text);
        assert_eq!(resolv_conf(&DnsConfig::default()), "");
    }

    #[test]
    fn releasing_what_is_not_there_is_no_error() {
        release(Path::new("/nonexistent/thalweg")).expect("nothing to do");
    }
}
