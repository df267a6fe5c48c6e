//! What the `process` runtime keeps on disk, so that a killed and restarted kubelet finds its pods again. The kubelet and the
//! helper processes share these files; each file has one writer and is replaced by rename.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::pid::ProcessRef;
use crate::runtime::{ContainerConfig, SandboxConfig};

/// `sandboxes/<id>/sandbox.json`, written before anything else of the sandbox exists.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SandboxRecord {
    pub id: String,
    pub config: SandboxConfig,
    pub created_at: Timestamp,
    /// Where the network namespace is kept; none with the node's network.
    pub netns: Option<PathBuf>,
    /// The pod's cgroup, parent of its containers' cgroups.
    pub cgroup: PathBuf,
}

/// `sandboxes/<id>/network.json`: what was handed to the CNI plugins, so that DEL repeats it, and what they answered.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NetworkRecord {
    pub list: crate::cni::NetworkList,
    /// None until ADD succeeded.
    pub result: Option<serde_json::Value>,
    pub ips: Vec<IpAddr>,
}

/// `containers/<id>/container.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContainerRecord {
    pub id: String,
    pub sandbox: String,
    pub config: ContainerConfig,
    pub created_at: Timestamp,
    pub cgroup: PathBuf,
    /// The sandbox's directory.
    pub sandbox_dir: PathBuf,
    /// The kubelet's state, hidden from the container.
    pub state_root: PathBuf,
    pub hostname: String,
    pub host_pid: bool,
}

/// `containers/<id>/running.json`, written by the shim when the program runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunningRecord {
    pub shim: ProcessRef,
    pub process: ProcessRef,
    pub started_at: Timestamp,
}

pub const SANDBOX: &str = "sandbox.json";
pub const NETWORK: &str = "network.json";
pub const PAUSE: &str = "pause.json";
pub const CONTAINER: &str = "container.json";
pub const RUNNING: &str = "running.json";
pub const EXIT: &str = "exit.json";
pub const SHIM_LOG: &str = "shim.log";

/// Reads a state file; `None` when there is none.
pub fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {e}", path.display()))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(io::Error::new(e.kind(), format!("{}: {e}", path.display()))),
    }
}

/// Replaces a state file in one step: a reader sees the old or the new one, never half.
pub fn write<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let bytes = serde_json::to_vec(value).map_err(io::Error::other)?;
    let scratch = path.with_extension("json.new");
    std::fs::write(&scratch, bytes)
        .and_then(|()| std::fs::rename(&scratch, path))
        .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
}

/// 64 hexadecimal digits, as container ids are usually written.
pub fn new_id() -> io::Result<String> {
    use std::io::Read;
    let mut bytes = [0u8; 32];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}
