//! Where a probe runs: on a node, in a pod, or outside the cluster.

use std::fs;
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;

use crate::cgroup;
use crate::cluster::{Cluster, Pod};
use crate::probe::{Said, parse};

/// A place with its namespaces and control group.
#[derive(Clone, Debug)]
pub struct Place {
    pub label: String,
    enter: Enter,
    /// Joined before the probe starts; None leaves socket load balancing out, so that packets meet tc alone.
    cgroup: Option<PathBuf>,
}

#[derive(Clone, Debug)]
enum Enter {
    Netns(PathBuf),
    /// Network and mount namespace of a process.
    Process(u32),
}

/// One socket in a place, which speaks when it is told to. Ends with its guard.
#[derive(Debug)]
pub struct Session {
    child: Child,
    answers: Lines<BufReader<ChildStdout>>,
    label: String,
}

/// A probe that goes on until it is told to stop.
#[derive(Debug)]
pub struct Running {
    child: Child,
    label: String,
}

// === impl Place ===

impl Place {
    /// A namespace, with the control group that a probe joins first, if any.
    pub fn at(label: &str, netns: &Path, cgroup: Option<&Path>) -> Self {
        Self { label: label.to_owned(), enter: Enter::Netns(netns.to_owned()), cgroup: cgroup.map(Path::to_owned) }
    }

    /// A process of the node itself.
    ///
    /// # Errors
    /// When the lab has no such node.
    pub fn host(cluster: &Cluster, node: &str) -> Result<Self> {
        let net = cluster.net(node)?;
        Ok(Self {
            label: format!("{node} (host)"),
            enter: Enter::Netns(net.netns.path().to_owned()),
            cgroup: Some(cluster.node(node)?.cgroup.join("system")),
        })
    }

    /// A machine outside the cluster.
    pub fn outside(cluster: &Cluster) -> Self {
        Self {
            label: "outside client".to_owned(),
            enter: Enter::Netns(cluster.topology.client.path().to_owned()),
            cgroup: None,
        }
    }

    /// Inside a pod, in its control group: as a container's own process.
    ///
    /// # Errors
    /// When the pod has no running container.
    pub fn pod(cluster: &Cluster, pod: &Pod) -> Result<Self> {
        let group = cluster.node(&pod.node)?.cgroup.join("kubepods").join(format!("pod{}", pod.uid));
        let process = container_process(&group).with_context(|| format!("pod {}", pod.name))?;
        Ok(Self { label: format!("pod {}", pod.name), enter: Enter::Process(process), cgroup: Some(group) })
    }

    /// Inside a pod's namespaces but outside its control group: what a packet meets when the socket load balancer
    /// does not see the connection.
    ///
    /// # Errors
    /// When the pod has no running container.
    pub fn pod_by_tc(cluster: &Cluster, pod: &Pod) -> Result<Self> {
        let place = Self::pod(cluster, pod)?;
        Ok(Self { label: format!("{} (tc only)", place.label), cgroup: None, ..place })
    }

    /// A command in this place.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("sh");
        let join = match &self.cgroup {
            Some(_) => r#"echo $$ > "$0/cgroup.procs" && exec "$@""#,
            None => r#"exec "$@""#,
        };
        command.args(["-c", join]).arg(self.cgroup.as_deref().unwrap_or(Path::new("-"))).arg("nsenter");
        match &self.enter {
            Enter::Netns(path) => command.arg(format!("--net={}", path.display())),
            Enter::Process(id) => command.args(["--target", &id.to_string(), "--net", "--mount"]),
        };
        command.arg("--").arg(program);
        command
    }

    /// Runs a probe to its end and returns its report.
    ///
    /// # Errors
    /// When it cannot run, or prints no report.
    pub fn probe<T: DeserializeOwned>(&self, args: &[&str]) -> Result<T> {
        let output = self
            .probe_command(args)?
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("start a probe in {}", self.label))?;
        let text = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            bail!("probe {args:?} in {}: {}", self.label, String::from_utf8_lossy(&output.stderr).trim());
        }
        parse(&text)
    }

    /// Starts a load that goes on until [`Running::finish`].
    ///
    /// # Errors
    /// When it cannot start.
    pub fn load(&self, args: &[&str]) -> Result<Running> {
        let child = self
            .probe_command(args)?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start a load in {}", self.label))?;
        Ok(Running { child, label: self.label.clone() })
    }

    /// Opens a socket (with the first word) and keeps it.
    ///
    /// # Errors
    /// When the probe cannot start.
    pub fn session(&self, args: &[&str]) -> Result<Session> {
        let mut child = self
            .probe_command(&[&["session"], args].concat())?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start a session in {}", self.label))?;
        let answers = BufReader::new(child.stdout.take().context("no output of the session")?).lines();
        Ok(Session { child, answers, label: self.label.clone() })
    }

    fn probe_command(&self, args: &[&str]) -> Result<Command> {
        let mut command = self.command(&probe_program()?);
        command.arg("probe").args(args);
        Ok(command)
    }
}

// === impl Session ===

impl Session {
    /// Sends one message, and tells how it fared.
    ///
    /// # Errors
    /// When the probe itself is gone.
    pub fn say(&mut self) -> Result<Said> {
        let stdin = self.child.stdin.as_mut().context("no input of the session")?;
        stdin.write_all(b"\n").with_context(|| format!("session in {}", self.label))?;
        stdin.flush()?;
        let line = self.answers.next().with_context(|| format!("the session in {} has ended", self.label))??;
        parse(&line)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// === impl Running ===

impl Running {
    /// Ends the load and returns its report.
    ///
    /// # Errors
    /// When the probe failed or printed no report.
    pub fn finish<T: DeserializeOwned>(mut self) -> Result<T> {
        if let Some(mut stdin) = self.child.stdin.take() {
            let _ = stdin.flush();
        }
        let label = std::mem::take(&mut self.label);
        let mut stdout = String::new();
        let mut stderr = String::new();
        if let Some(mut pipe) = self.child.stdout.take() {
            std::io::Read::read_to_string(&mut pipe, &mut stdout)?;
        }
        if let Some(mut pipe) = self.child.stderr.take() {
            std::io::Read::read_to_string(&mut pipe, &mut stderr)?;
        }
        let status = self.child.wait()?;
        if !status.success() {
            bail!("load in {label}: {}", stderr.trim());
        }
        parse(&stdout)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The program that runs probes: what `THALWEG_LAB` names, what lies in the folder `THALWEG_BIN`, or this executable.
fn probe_program() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("THALWEG_LAB") {
        return Ok(PathBuf::from(path));
    }
    match std::env::var_os("THALWEG_BIN") {
        Some(folder) => Ok(Path::new(&folder).join("thalweg-lab")),
        None => std::env::current_exe().context("find this executable"),
    }
}

/// A process of a container: one that sees a resolv.conf of its own, unlike the pause process.
fn container_process(group: &Path) -> Result<u32> {
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        let processes = cgroup::processes(group)?;
        let has_resolv_conf = |id: &u32| {
            fs::read_to_string(format!("/proc/{id}/mountinfo")).is_ok_and(|mounts| mounts.contains(" /etc/resolv.conf "))
        };
        if let Some(id) = processes.iter().copied().find(has_resolv_conf) {
            return Ok(id);
        }
        if Instant::now() > end {
            bail!("no container process in {} ({} processes)", group.display(), processes.len());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
