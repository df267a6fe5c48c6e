//! The `process` runtime: containers are commands of the node's own file system in the pod's namespaces. For labs, tests and
//! machines without a container runtime. It is a convenience, not a wall: programs run as root by default, and see the node's files.

mod cgroup;
mod container;
mod network;
mod pid;
mod sandbox;
mod session;
pub(crate) mod state;
mod terminal;

pub use cgroup::Cgroup;
pub use pid::ProcessRef;
pub(crate) use session::STREAMS;

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use crate::cni::Cni;
use crate::runtime::{
    Container, ContainerConfig, ExecOutput, Result, Runtime, RuntimeError, Sandbox, SandboxConfig, SandboxState,
};
use crate::session::{Session, SessionRequest};

/// The pod's cgroup for the shims of its containers: what ends the kubelet's own cgroup does not end them.
pub(crate) const SHIMS: &str = "shims";

/// The executable that holds the helper subcommands, and their names.
#[derive(Debug, Clone)]
pub struct Helper {
    pub program: PathBuf,
    pub pause: String,
    pub container: String,
}

#[derive(Debug, Clone)]
pub struct ProcessOptions {
    /// State on disk. It must be the same over restarts of the kubelet.
    pub root: PathBuf,
    /// The node's cgroup; pods are in `kubepods/pod<uid>` below it.
    pub cgroup: PathBuf,
    pub cni_bin_dir: PathBuf,
    pub cni_conf_dir: PathBuf,
    pub helper: Helper,
}

/// Runs pods as processes. It keeps nothing in memory: every call looks at the disk and at the processes themselves.
#[derive(Debug, Clone)]
pub struct ProcessRuntime {
    options: ProcessOptions,
    cni: Cni,
}

// === impl Helper ===

impl Helper {
    /// The hidden subcommands of the executable that runs now.
    pub fn current_exe() -> io::Result<Self> {
        let program = std::env::current_exe()?;
        // Replaced by an upgrade: the running one is still there under its other name.
        let program = if program.exists() { program } else { "/proc/self/exe".into() };
        Ok(Self::of(program))
    }

    pub fn of(program: PathBuf) -> Self {
        Self { program, pause: "kubelet-pause".into(), container: "kubelet-container".into() }
    }
}

// === impl ProcessRuntime ===

impl ProcessRuntime {
    /// Checks what the runtime needs and makes its directories.
    pub fn new(options: ProcessOptions) -> io::Result<Self> {
        Cgroup::new(&options.cgroup).check()?;
        // Secrets of pods are in there, as environment and as volumes.
        for dir in ["sandboxes", "containers", "netns", "pods"] {
            let path = options.root.join(dir);
            std::fs::create_dir_all(&path)
                .and_then(|()| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)))
                .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
        }
        let cni = Cni { bin_dir: options.cni_bin_dir.clone(), conf_dir: options.cni_conf_dir.clone() };
        Ok(Self { options, cni })
    }

    fn kubepods(&self) -> Cgroup {
        Cgroup::new(&self.options.cgroup).child("kubepods")
    }

    fn sandbox_dir(&self, id: &str) -> PathBuf {
        self.options.root.join("sandboxes").join(id)
    }

    fn container_dir(&self, id: &str) -> PathBuf {
        self.options.root.join("containers").join(id)
    }

    /// Starts a helper half and waits for its first word; what it said instead is the error.
    async fn helper(&self, subcommand: &str, args: &[&std::ffi::OsStr], log: &Path, within: Duration) -> Result<(), String> {
        use tokio::io::AsyncReadExt;
        let stderr = std::fs::File::create(log).map_err(|e| format!("{}: {e}", log.display()))?;
        let mut child = tokio::process::Command::new(&self.options.helper.program)
            .arg(subcommand)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .map_err(|e| format!("{}: {e}", self.options.helper.program.display()))?;
        let mut answer = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            // Either one line, or the end: the helper's exit.
            let read = async { stdout.take(64).read_buf(&mut answer).await };
            match tokio::time::timeout(within, read).await {
                Ok(Ok(_)) => {}
                Ok(Err(e)) => return Err(e.to_string()),
                Err(_) => {
                    let _ = child.start_kill();
                    return Err(format!("no answer within {} s", within.as_secs()));
                }
            }
        }
        if !answer.is_empty() {
            // It lives on by itself; somebody has to wait for it while this kubelet is its parent.
            tokio::spawn(async move { child.wait().await });
            return Ok(());
        }
        let status = child.wait().await.map_err(|e| e.to_string())?;
        if status.success() {
            return Ok(());
        }
        let words = std::fs::read_to_string(log).unwrap_or_default();
        Err(if words.trim().is_empty() { status.to_string() } else { words.trim().to_owned() })
    }
}

impl Runtime for ProcessRuntime {
    fn version(&self) -> String {
        concat!("process://", env!("CARGO_PKG_VERSION")).into()
    }

    fn network_ready(&self) -> Result<(), String> {
        self.cni.network().map(|_| ()).map_err(|e| e.to_string())
    }

    async fn run_sandbox(&self, config: SandboxConfig) -> Result<Sandbox> {
        self.make_sandbox(config).await
    }

    async fn stop_sandbox(&self, id: &str) -> Result<()> {
        self.end_sandbox(id).await
    }

    async fn remove_sandbox(&self, id: &str) -> Result<()> {
        self.end_sandbox(id).await?;
        for container in self.containers_of(id)? {
            self.forget_container(&container.id).await?;
        }
        remove_dir(&self.sandbox_dir(id))
    }

    async fn sandbox_status(&self, id: &str) -> Result<Sandbox> {
        self.sandbox(id)
    }

    async fn list_sandboxes(&self) -> Result<Vec<Sandbox>> {
        self.sandboxes()
    }

    async fn create_container(&self, sandbox: &str, config: ContainerConfig) -> Result<String> {
        self.make_container(sandbox, config)
    }

    async fn start_container(&self, id: &str) -> Result<()> {
        self.launch(id).await
    }

    async fn stop_container(&self, id: &str, grace: Duration) -> Result<()> {
        self.end_container(id, grace).await
    }

    async fn remove_container(&self, id: &str) -> Result<()> {
        self.forget_container(id).await
    }

    async fn list_containers(&self, sandbox: &str) -> Result<Vec<Container>> {
        self.containers_of(sandbox)
    }

    async fn container_status(&self, id: &str) -> Result<Container> {
        self.container(id)
    }

    async fn wait_container(&self, id: &str) -> Result<Container> {
        self.until_exited(id).await?;
        self.container(id)
    }

    async fn wait_sandbox(&self, id: &str) -> Result<()> {
        while let Some(pause) = self.pause(id)? {
            match pause.open().map_err(|e| failed("watch the pause process", e))? {
                Some(fd) => fd.wait().await.map_err(|e| failed("watch the pause process", e))?,
                None => break,
            }
        }
        Ok(())
    }

    async fn exec(&self, id: &str, command: &[String], timeout: Duration) -> Result<ExecOutput> {
        self.run_inside(id, command, timeout).await
    }

    async fn open_session(&self, id: &str, request: &SessionRequest) -> Result<Session> {
        self.begin_session(id, request).await
    }
}

impl ProcessRuntime {
    fn sandboxes(&self) -> Result<Vec<Sandbox>> {
        let mut found = Vec::new();
        for id in names(&self.options.root.join("sandboxes"))? {
            match self.sandbox(&id) {
                Ok(sandbox) => found.push(sandbox),
                // The kubelet died between making the directory and writing the record: nothing else exists yet.
                Err(RuntimeError::NotFound { .. }) => remove_dir(&self.sandbox_dir(&id))?,
                Err(e) => {
                    tracing::error!(sandbox = id, error = %e, "a sandbox record cannot be read; remove its directory by hand")
                }
            }
        }
        Ok(found)
    }

    fn sandbox(&self, id: &str) -> Result<Sandbox> {
        let record = self.record(id)?;
        let network = self.network_record(id)?;
        let alive = self.pause(id)?.is_some_and(|p| p.alive());
        let attached = record.netns.is_none() || network.as_ref().is_some_and(|n| n.result.is_some());
        let state = if alive && attached { SandboxState::Ready } else { SandboxState::NotReady };
        let ips = network.map(|n| n.ips).unwrap_or_default();
        Ok(Sandbox { id: record.id, config: record.config, state, ips, created_at: record.created_at })
    }
}

fn failed(what: impl Into<String>, source: io::Error) -> RuntimeError {
    RuntimeError::Io { what: what.into(), source }
}

fn names(dir: &Path) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(dir).map_err(|e| failed(format!("list {}", dir.display()), e))?;
    Ok(entries.filter_map(|e| e.ok()?.file_name().into_string().ok()).collect())
}

fn remove_dir(dir: &Path) -> Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed(format!("remove {}", dir.display()), e)),
        _ => Ok(()),
    }
}
