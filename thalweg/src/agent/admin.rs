//! The agent's own figures, served on a unix socket: whoever connects gets one JSON object.

use std::io::Read;
use std::net::IpAddr;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixListener;

/// Longest latency that is told apart, in microseconds.
const LONGEST: u64 = 60_000_000;

/// What the agent says of itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Figures {
    pub process: u32,
    /// `ebpf` or `iptables`.
    #[serde(default)]
    pub mode: String,
    /// The node's own addresses; the first of a family is what sources are translated to.
    #[serde(default)]
    pub node_addresses: Vec<IpAddr>,
    /// Whether destinations are translated at the socket.
    #[serde(default)]
    pub socket_lb: Option<bool>,
    /// Every source has been listed completely.
    pub synced: bool,
    /// Batches that changed the maps.
    pub changes: u64,
    /// Microseconds from the watch event to live maps.
    pub change_to_map_p50_us: u64,
    pub change_to_map_p99_us: u64,
    pub change_to_map_max_us: u64,
    /// Microseconds of the first complete apply.
    pub first_sync_us: u64,
    pub services: usize,
    pub pods: usize,
    /// Services whose last apply failed, with the cause.
    pub failures: Vec<String>,
    pub dns: DnsFigures,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct DnsFigures {
    pub udp: u64,
    pub tcp: u64,
    pub answered: u64,
    pub nxdomain: u64,
    pub nodata: u64,
    pub servfail: u64,
    pub names: u64,
}

/// Shared by the agent's loop, which writes, and the socket, which reads.
#[derive(Clone)]
pub struct Board(Arc<Mutex<State>>);

struct State {
    figures: Figures,
    latency: Histogram<u64>,
}

/// Removes the socket's file with the agent.
pub struct Socket(PathBuf);

// === impl Board ===

impl Board {
    /// # Errors
    /// Never with the bounds used here; the histogram's constructor checks them.
    pub fn new() -> Result<Self> {
        let latency = Histogram::new_with_bounds(1, LONGEST, 3).context("make a histogram")?;
        let figures = Figures { process: std::process::id(), ..Figures::default() };
        Ok(Self(Arc::new(Mutex::new(State { figures, latency }))))
    }

    pub fn update(&self, change: impl FnOnce(&mut Figures)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).figures);
    }

    /// One batch that changed the maps, and how long after it was received.
    pub fn changed(&self, after: Duration) {
        let micros = u64::try_from(after.as_micros()).unwrap_or(LONGEST).clamp(1, LONGEST);
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.latency.saturating_record(micros);
        state.figures.changes += 1;
    }

    fn figures(&self) -> Figures {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = |quantile| state.latency.value_at_quantile(quantile);
        Figures {
            change_to_map_p50_us: at(0.5),
            change_to_map_p99_us: at(0.99),
            change_to_map_max_us: state.latency.max(),
            ..state.figures.clone()
        }
    }
}

/// Starts to serve; a socket file that a killed agent left is replaced.
///
/// # Errors
/// When the socket cannot be made.
pub fn serve(path: &Path, board: Board, refresh: impl Fn(&mut Figures) + Send + 'static) -> Result<Socket> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("replace {}", path.display()));
        }
        _ => {}
    }
    let listener = UnixListener::bind(path).with_context(|| format!("listen on {}", path.display()))?;
    tokio::spawn(async move {
        loop {
            let Ok((mut stream, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let mut figures = board.figures();
            refresh(&mut figures);
            let bytes = serde_json::to_vec(&figures).unwrap_or_default();
            // A reader that goes away is its own loss.
            let _ = tokio::time::timeout(Duration::from_secs(1), stream.write_all(&bytes)).await;
        }
    });
    Ok(Socket(path.to_owned()))
}

/// The figures of a running agent; None when none listens.
pub fn read(path: &Path) -> Option<Figures> {
    let mut stream = StdUnixStream::connect(path).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_become_quantiles_and_longer_ones_are_kept_at_the_bound() {
        let board = Board::new().expect("board");
        for millis in 1..=100 {
            board.changed(Duration::from_millis(millis));
        }
        board.changed(Duration::from_secs(3600));
        let figures = board.figures();
        assert_eq!(figures.changes, 101);
        assert!((49_000..=52_000).contains(&figures.change_to_map_p50_us), "{}", figures.change_to_map_p50_us);
        assert!(figures.change_to_map_max_us >= LONGEST - LONGEST / 100, "{}", figures.change_to_map_max_us);
    }

    #[test]
    fn no_agent_means_no_figures() {
        assert!(read(Path::new("/nonexistent/agent.sock")).is_none());
    }
}
