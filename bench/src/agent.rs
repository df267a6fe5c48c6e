//! What an agent of a lab tells of itself, read from its socket: the same words in either mode, whether it has maps or not.

use std::fs;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;
use thalweg_lab::process::{Process, wait_until};

const DEADLINE: Duration = Duration::from_secs(600);

/// The fields that benchmarks read.
#[derive(Clone, Debug, Deserialize)]
pub struct Figures {
    pub mode: String,
    pub synced: bool,
    pub services: u64,
    /// Of the first complete sync, from the last object read to its effect.
    pub first_sync_us: u64,
    /// Batches after that, and how long each took from its arrival to its effect.
    pub changes: u64,
    pub change_to_map_p50_us: u64,
    pub change_to_map_p99_us: u64,
}

/// Asks the agent whose folder of sockets is `run`.
fn figures(run: &Path) -> Result<Figures> {
    let path = run.join("agent.sock");
    let mut stream = UnixStream::connect(&path).with_context(|| format!("ask the agent at {}", path.display()))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    serde_json::from_str(&text).context("the agent's figures")
}

/// Waits until an agent says `ready`; one that is starting says nothing yet.
///
/// # Errors
/// Names what was waited for, and shows the end of the agent's log when it is gone.
pub fn until(agent: &mut Process, run: &Path, what: &str, ready: impl Fn(&Figures) -> bool) -> Result<Figures> {
    let mut last = None;
    wait_until(what, DEADLINE, &mut [agent], || {
        last = Some(figures(run)?).filter(&ready);
        Ok(last.is_some())
    })?;
    last.with_context(|| format!("{what}: no figures"))
}

/// VmRSS and RssAnon of a process, in MB.
///
/// # Errors
/// When the process is gone.
pub fn memory(process: u32) -> Result<(f64, f64)> {
    let text = fs::read_to_string(format!("/proc/{process}/status")).context("read the memory of a process")?;
    let field = |name: &str| -> Option<f64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<f64>().ok().map(|kb| kb / 1024.0)
    };
    Ok((field("VmRSS:").context("VmRSS")?, field("RssAnon:").context("RssAnon")?))
}
