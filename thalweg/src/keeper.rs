//! Work on the maps that must not hold up changes of services: expiry, fill levels, and sockets whose backend is gone.
//! A thread of its own does it.

use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use thalweg_loader::{Maps, conntrack, sockets};
use thalweg_proxy::metrics::Metrics;

use crate::pressure::Alarm;

/// How often flows are expired.
const SWEEP: Duration = Duration::from_secs(5);

/// The thread's owner; it ends when this is dropped.
pub struct Keeper(Sender<BackendsGone>);

/// Some backends are not any more who they were.
struct BackendsGone;

// === impl Keeper ===

impl Keeper {
    /// `maps`: for the thread alone. `namespaces`: paths of pods' network namespaces, as far as they are known.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn start(maps: Maps, metrics: Metrics, namespaces: impl Fn() -> Vec<PathBuf> + Send + 'static) -> Result<Self> {
        let (sender, receiver) = mpsc::channel();
        // Namespaces of pods are entered from here, so it is no thread of the runtime.
        let work = move || keep(maps, &metrics, &receiver, &namespaces);
        thread::Builder::new().name("tw-keeper".into()).spawn(work).context("start a thread")?;
        Ok(Self(sender))
    }

    /// Backends have become free: whoever is connected to one waits in vain.
    pub fn backends_gone(&self) {
        // Fails when the thread has panicked, which has been logged.
        let _ = self.0.send(BackendsGone);
    }
}

fn keep(mut maps: Maps, metrics: &Metrics, receiver: &Receiver<BackendsGone>, namespaces: &dyn Fn() -> Vec<PathBuf>) {
    let mut alarm = Alarm::default();
    let mut next = Instant::now() + SWEEP;
    let mut is_measured = false;
    loop {
        match receiver.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Ok(BackendsGone) => {
                // One look serves all that has been said until now.
                while receiver.try_recv().is_ok() {}
                end_sockets(&mut maps, &namespaces());
                // The first word comes when everything is written; later, each map is counted in its turn.
                if !is_measured {
                    is_measured = maps.measure().map_err(|error| tracing::warn!("fill levels: {error}")).is_ok();
                    metrics.maps(maps.pressure());
                }
            }
            Err(RecvTimeoutError::Timeout) => {
                next = Instant::now() + SWEEP;
                sweep(&mut maps, metrics);
                metrics.maps(maps.pressure());
                metrics.maps(maps.pressure());
                let known = maps.pressure().into_iter();
                let full = known.filter_map(|map| Some((map.table, map.entries?.into(), map.capacity.into())));
                alarm.look(full).into_iter().for_each(crate::pressure::Turn::log);
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn sweep(maps: &mut Maps, metrics: &Metrics) {
    match conntrack::sweep(maps, conntrack::now()) {
        Ok(swept) => {
            if swept.expired + swept.strays > 0 {
                tracing::debug!(?swept, "flows expired");
            }
            metrics.swept(swept.kept, swept.expired);
        }
        Err(error) => tracing::warn!("expire flows: {error}"),
    }
}

/// A socket that is connected to a backend sends to it for ever, whatever becomes of the service: only its end makes the
/// program connect again.
fn end_sockets(maps: &mut Maps, namespaces: &[PathBuf]) {
    match sockets::destroy_gone(maps, namespaces) {
        Ok(ended) => tracing::debug!(?ended, "sockets of backends that are gone"),
        Err(error) => tracing::warn!("end the sockets of backends that are gone: {error}"),
    }
}
