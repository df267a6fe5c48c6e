//! The border between the kubelet and whatever runs containers. The shapes follow the Container Runtime Interface
//! (sandbox, container, status, log path), so that a CRI client can stand behind the same trait as the `process` runtime.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::session::{Session, SessionRequest};

/// What a pod's sandbox is made of: identity, namespaces, names, network.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SandboxConfig {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// Counts the sandboxes this pod had, from 0.
    pub attempt: u32,
    pub hostname: String,
    pub host_network: bool,
    pub host_pid: bool,
    pub host_ipc: bool,
    pub dns: DnsConfig,
    pub port_mappings: Vec<PortMapping>,
    /// Rate limits of the pod's interface in bits per second.
    pub bandwidth: Bandwidth,
    pub sysctls: BTreeMap<String, String>,
}

/// The lines of a resolv.conf.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DnsConfig {
    pub nameservers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Bandwidth {
    pub ingress: Option<u64>,
    pub egress: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    pub host_port: u16,
    pub container_port: u16,
    /// `tcp`, `udp` or `sctp`, as the CNI convention writes it.
    pub protocol: String,
    pub host_ip: Option<IpAddr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SandboxState {
    /// Its pause process lives and its network is attached.
    Ready,
    NotReady,
}

#[derive(Debug, Clone)]
pub struct Sandbox {
    pub id: String,
    pub config: SandboxConfig,
    pub state: SandboxState,
    /// The addresses the network gave; empty with `host_network`.
    pub ips: Vec<IpAddr>,
    pub created_at: Timestamp,
}

/// What one container runs, and where.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ContainerConfig {
    pub name: String,
    /// Counts the containers of this name in the pod's life, from 0.
    pub attempt: u32,
    pub image: String,
    /// Replaces the image's entry point.
    pub command: Vec<String>,
    pub args: Vec<String>,
    pub working_dir: Option<PathBuf>,
    pub env: Vec<(String, String)>,
    pub mounts: Vec<Mount>,
    pub security: Security,
    pub resources: Resources,
    /// The file that receives stdout and stderr in CRI format.
    pub log_path: PathBuf,
    /// The signal that asks the container to stop; SIGTERM when not given.
    pub stop_signal: Option<String>,
    /// The kubelet's own facts, handed back unchanged.
    pub annotations: BTreeMap<String, String>,
}

/// A file or directory of the node, made visible in the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    pub source: PathBuf,
    pub target: PathBuf,
    pub read_only: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Security {
    pub user: u32,
    pub group: u32,
    pub groups: Vec<u32>,
    pub privileged: bool,
    pub no_new_privileges: bool,
    pub add_capabilities: Vec<String>,
    pub drop_capabilities: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Resources {
    /// Bytes.
    pub memory_limit: Option<u64>,
    /// Thousandths of a core.
    pub cpu_limit: Option<u64>,
    /// Thousandths of a core, as a share when the machine is busy.
    pub cpu_request: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerState {
    Created,
    Running { started_at: Timestamp },
    Exited(Exit),
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// 128 + signal when a signal ended it.
    pub code: i32,
    pub signal: Option<i32>,
    /// `Completed`, `Error`, `StartError`, `OOMKilled`, `ContainerStatusUnknown`.
    pub reason: String,
    pub message: Option<String>,
    pub started_at: Option<Timestamp>,
    pub finished_at: Timestamp,
}

#[derive(Debug, Clone)]
pub struct Container {
    pub id: String,
    pub sandbox: String,
    pub config: ContainerConfig,
    pub created_at: Timestamp,
    pub state: ContainerState,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutput {
    pub code: i32,
    /// stdout and stderr together, cut at 10 KiB.
    pub output: String,
}

#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    #[error("{0}")]
    Network(#[from] crate::cni::CniError),
    /// The container cannot be made from what the pod says.
    #[error("{0}")]
    Invalid(String),
    /// The container was made, its program did not start.
    #[error("{0}")]
    Start(String),
    #[error("no {kind} {id} on this node")]
    NotFound { kind: &'static str, id: String },
    #[error("{what} did not end within {after:?}")]
    Timeout { what: String, after: Duration },
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
    #[error("sandbox helper: {0}")]
    Helper(String),
}

pub type Result<T, E = RuntimeError> = std::result::Result<T, E>;

/// Runs sandboxes and containers. Every call may be repeated: stopping what is stopped and removing what is gone succeed.
pub trait Runtime: Send + Sync + 'static {
    /// Name and version as Node.status.nodeInfo.containerRuntimeVersion shows them (`process://0.1.0`).
    fn version(&self) -> String;

    /// Whether pods can get a network now; the error is for the node's Ready condition.
    fn network_ready(&self) -> Result<(), String>;

    /// Makes the pod's namespaces and attaches its network. On failure nothing is left.
    fn run_sandbox(&self, config: SandboxConfig) -> impl Future<Output = Result<Sandbox>> + Send;

    /// Detaches the network and ends every process of the pod. An error means that it must be tried again.
    fn stop_sandbox(&self, id: &str) -> impl Future<Output = Result<()>> + Send;

    /// Forgets a stopped sandbox and its containers.
    fn remove_sandbox(&self, id: &str) -> impl Future<Output = Result<()>> + Send;

    fn sandbox_status(&self, id: &str) -> impl Future<Output = Result<Sandbox>> + Send;

    /// Every sandbox on this node, also those a former kubelet made.
    fn list_sandboxes(&self) -> impl Future<Output = Result<Vec<Sandbox>>> + Send;

    fn create_container(&self, sandbox: &str, config: ContainerConfig) -> impl Future<Output = Result<String>> + Send;

    fn start_container(&self, id: &str) -> impl Future<Output = Result<()>> + Send;

    /// Asks the container to stop, and kills it after `grace`. A second call with a shorter grace shortens the first.
    fn stop_container(&self, id: &str, grace: Duration) -> impl Future<Output = Result<()>> + Send;

    fn remove_container(&self, id: &str) -> impl Future<Output = Result<()>> + Send;

    fn list_containers(&self, sandbox: &str) -> impl Future<Output = Result<Vec<Container>>> + Send;

    fn container_status(&self, id: &str) -> impl Future<Output = Result<Container>> + Send;

    /// Resolves when the container does not run (any more).
    fn wait_container(&self, id: &str) -> impl Future<Output = Result<Container>> + Send;

    /// Resolves when the sandbox is not ready (any more).
    fn wait_sandbox(&self, id: &str) -> impl Future<Output = Result<()>> + Send;

    /// Runs a command inside a running container.
    fn exec(&self, id: &str, command: &[String], timeout: Duration) -> impl Future<Output = Result<ExecOutput>> + Send;

    /// Starts a command inside a running container and hands out its streams.
    fn open_session(&self, id: &str, request: &SessionRequest) -> impl Future<Output = Result<Session>> + Send;
}
