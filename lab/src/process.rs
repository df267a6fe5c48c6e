//! The long-running processes of a lab: started in a namespace and a control group, logging to a file, ended by id.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A child of the lab. Dropping it leaves the process to the control group's removal.
#[derive(Debug)]
pub struct Process {
    pub name: String,
    pub log: PathBuf,
    child: Child,
}

/// What to start and where.
pub struct Spec<'a> {
    pub name: &'a str,
    /// Path of a network namespace.
    pub netns: &'a Path,
    pub cgroup: &'a Path,
    pub log: PathBuf,
    pub program: &'a Path,
    pub args: Vec<String>,
    pub env: Vec<(&'static str, String)>,
    /// Becomes descriptor 3, announced by the sd_listen_fds protocol.
    pub listener: Option<OwnedFd>,
}

// === impl Process ===

impl Process {
    /// # Errors
    /// When the log or the control group cannot be made, or the program cannot start.
    pub fn start(spec: Spec<'_>) -> Result<Self> {
        std::fs::create_dir_all(spec.cgroup).with_context(|| format!("create control group {}", spec.cgroup.display()))?;
        let log = File::options()
            .create(true)
            .append(true)
            .open(&spec.log)
            .with_context(|| format!("open {}", spec.log.display()))?;
        // The shell joins the group before it becomes the program: from its first system call on the program is inside.
        // LISTEN_PID must be the program's own id, which is the shell's.
        let (script, stdin) = match spec.listener {
            Some(fd) => (
                r#"echo $$ > "$0/cgroup.procs" && exec 3<&0 0</dev/null && LISTEN_FDS=1 LISTEN_PID=$$ exec "$@""#,
                Stdio::from(fd),
            ),
            None => (r#"echo $$ > "$0/cgroup.procs" && exec "$@""#, Stdio::null()),
        };
        let mut command = Command::new("sh");
        command
            .args(["-c", script])
            .arg(spec.cgroup)
            .arg("nsenter")
            .arg(format!("--net={}", spec.netns.display()))
            .arg("--")
            .arg(spec.program)
            .args(&spec.args)
            .envs(spec.env)
            .stdin(stdin)
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C in the terminal is the lab's to handle, not its children's.
            .process_group(0);
        let child = command.spawn().with_context(|| format!("start {}", spec.name))?;
        Ok(Self { name: spec.name.to_owned(), log: spec.log, child })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its exit status, when it has ended.
    ///
    /// # Errors
    /// When the child cannot be waited for.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("wait for {}", self.name))
    }

    /// kill -9, and waits for the end.
    ///
    /// # Errors
    /// When the child cannot be killed or waited for.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().with_context(|| format!("kill {}", self.name))?;
        self.child.wait().with_context(|| format!("wait for {}", self.name))?;
        Ok(())
    }

    /// SIGTERM; kill -9 after the deadline. Returns whether it ended by itself.
    ///
    /// # Errors
    /// When the child cannot be signalled or waited for.
    pub fn stop(&mut self, deadline: Duration) -> Result<bool> {
        if self.ended()?.is_some() {
            return Ok(true);
        }
        let id = i32::try_from(self.child.id()).context("process id")?;
        kill(Pid::from_raw(id), Signal::SIGTERM).with_context(|| format!("end {}", self.name))?;
        let end = Instant::now() + deadline;
        while Instant::now() < end {
            if self.ended()?.is_some() {
                return Ok(true);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.kill()?;
        Ok(false)
    }

    /// The last lines of its log.
    pub fn log_tail(&self, lines: usize) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

/// Waits until `ready` is true; fails at the deadline, or at once when one of the processes has ended.
///
/// # Errors
/// Names what was waited for, and shows the log of a process that ended.
pub fn wait_until(
    what: &str,
    deadline: Duration,
    processes: &mut [&mut Process],
    mut ready: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let end = Instant::now() + deadline;
    let mut last_error = None;
    loop {
        match ready() {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error) => last_error = Some(error),
        }
        for process in processes.iter_mut() {
            if let Some(status) = process.ended()? {
                bail!(
                    "{} ended ({status}) before {what}; the end of {}:\n{}",
                    process.name,
                    process.log.display(),
                    process.log_tail(15)
                );
            }
        }
        if Instant::now() > end {
            let cause = last_error.map(|error| format!(": {error:#}")).unwrap_or_default();
            bail!("{what}: not within {deadline:?}{cause}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
