//! What the proxy counts about itself. kube-proxy's names are kept where they mean the same; what counts rules is shown
//! only where there are rules.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use thalweg_cluster::{Change, Family};

use super::kernel::{KernelFigures, MapFigure};
use super::process;
use super::render::{render_kernel, render_maps};
use super::text::{Exposition, Histogram};
use crate::STAGES;
use crate::health::Probe;
use crate::iptables::Figures;

/// One round of bringing the kernel to the world.
#[derive(Clone, Default, Debug)]
pub struct Round {
    /// Planning and applying together.
    pub took: Duration,
    /// As [`Applied::stages`](crate::Applied): of those, whatever was done.
    pub stages: Vec<(&'static str, Duration)>,
    /// From the arrival of the change to its effect, when the kernel was changed because of one.
    pub latency: Option<Duration>,
    /// Nothing but single services failed.
    pub complete: bool,
    /// Services that keep their old state because of an error.
    pub failing: usize,
    /// Since when changes have been waiting that came too late for it.
    pub behind: Option<Instant>,
}

/// Shared by the loop, which counts, and the server, which shows.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Mutex<Inner>>);

#[derive(Debug)]
pub(super) struct Inner {
    pub started: Timestamp,
    pub service_changes: Changes,
    pub endpoint_changes: Changes,
    pub last_queued: Option<Timestamp>,
    pub last_synced: Option<Timestamp>,
    pub sync: Histogram,
    pub stages: BTreeMap<&'static str, Histogram>,
    pub latency: Histogram,
    /// From the cause of a change to its effect, in IPv4 and in IPv6.
    pub programming: [Histogram; 2],
    pub failed_rounds: u64,
    pub services: usize,
    pub failing: usize,
    pub no_local: NoLocal,
    pub probes: BTreeMap<(Probe, u16), u64>,
    pub flows: usize,
    pub expired: u64,
    pub health_checks: usize,
    maps: Vec<MapFigure>,
    pub rules: Option<Figures>,
}

#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Changes {
    pub total: u64,
    pub pending: u64,
}

/// How many services have endpoints, but by a Local policy none on this node; each in IPv4 and in IPv6.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct NoLocal {
    pub internal: [usize; 2],
    pub external: [usize; 2],
}

// === impl Metrics ===

impl Default for Metrics {
    fn default() -> Self {
        // From 10 µs to 2.6 s.
        let fine = || Histogram::exponential(0.000_01, 4.0, 10);
        Self(Arc::new(Mutex::new(Inner {
            started: Timestamp::now(),
            service_changes: Changes::default(),
            endpoint_changes: Changes::default(),
            last_queued: None,
            last_synced: None,
            sync: Histogram::exponential(0.001, 2.0, 15),
            stages: STAGES.into_iter().map(|stage| (stage, fine())).collect(),
            latency: fine(),
            programming: [programming(), programming()],
            failed_rounds: 0,
            services: 0,
            failing: 0,
            no_local: NoLocal::default(),
            probes: BTreeMap::new(),
            flows: 0,
            expired: 0,
            health_checks: 0,
            maps: Vec::new(),
            rules: None,
        })))
    }
}

impl Metrics {
    /// Changes arrived that are not in the kernel yet.
    pub fn queued(&self, changes: &[Change]) {
        let mut inner = self.lock();
        for change in changes {
            match change {
                Change::Service(..) => inner.service_changes.queue(),
                Change::EndpointSlice(..) => inner.endpoint_changes.queue(),
                Change::Node(..) | Change::Pod(..) | Change::ServiceCidr(..) => {}
            }
        }
        inner.last_queued = Some(Timestamp::now());
    }

    /// `services`: how many there are.
    pub fn synced(&self, round: &Round, services: usize) {
        let mut inner = self.lock();
        inner.sync.observe(round.took);
        for (stage, took) in &round.stages {
            if let Some(histogram) = inner.stages.get_mut(stage) {
                histogram.observe(*took);
            }
        }
        if let Some(latency) = round.latency {
            inner.latency.observe(latency);
        }
        inner.services = services;
        inner.failing = round.failing;
        if round.complete {
            if round.behind.is_none() {
                inner.service_changes.pending = 0;
                inner.endpoint_changes.pending = 0;
            }
            inner.last_synced = Some(Timestamp::now());
        } else {
            inner.failed_rounds += 1;
        }
    }

    /// These causes of changes are in effect now: [`Dirty::triggered`](thalweg_cluster::Dirty). What was caused before
    /// this process started is left out, because the wait was not for it.
    pub fn programmed(&self, causes: &[(Family, SystemTime)]) {
        let now = SystemTime::now();
        let mut inner = self.lock();
        let started = SystemTime::from(inner.started);
        for (family, cause) in causes.iter().filter(|(_, cause)| *cause >= started) {
            // Clocks differ: what is caused in the future took no time.
            let took = now.duration_since(*cause).unwrap_or_default();
            inner.programming[usize::from(*family == Family::V6)].observe(took);
        }
    }

    pub fn no_local_endpoints(&self, counts: NoLocal) {
        self.lock().no_local = counts;
    }

    /// A probe was answered.
    pub fn probed(&self, probe: Probe, code: u16) {
        *self.lock().probes.entry((probe, code)).or_default() += 1;
    }

    /// How full the maps were when they were counted last.
    pub fn maps(&self, maps: impl IntoIterator<Item = impl Into<MapFigure>>) {
        let maps = maps.into_iter().map(Into::into).collect();
        self.lock().maps = maps;
    }

    /// What the rules are, in iptables mode.
    pub fn rules(&self, figures: Figures) {
        self.lock().rules = Some(figures);
    }

    /// One expiry of flows: how many stay, how many went.
    pub fn swept(&self, kept: usize, expired: usize) {
        let mut inner = self.lock();
        inner.flows = kept;
        inner.expired += expired as u64;
    }

    /// How many services have a health check open on this node.
    pub fn health_checks(&self, open: usize) {
        self.lock().health_checks = open;
    }

    /// The whole page; without `kernel` (it could not be read) what the data path counts is left out. Costs in proportion
    /// to its length: no map is walked for it.
    pub fn render(&self, kernel: Option<&KernelFigures>) -> String {
        let mut text = Exposition::default();
        {
            let inner = self.lock();
            inner.render(&mut text);
            render_maps(&mut text, &inner.maps);
        }
        if let Some(figures) = kernel {
            render_kernel(&mut text, figures);
        }
        process::render(&mut text);
        text.finish()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Changes ===

impl Changes {
    fn queue(&mut self) {
        self.total += 1;
        self.pending += 1;
    }
}

/// kube-proxy's bounds: a quarter and half a second, every second of a minute, then wider up to five minutes.
fn programming() -> Histogram {
    let seconds = |first: u32, step: u32, count: u32| (0..count).map(move |index| f64::from(first + step * index));
    let bounds = [0.25, 0.5].into_iter().chain(seconds(1, 1, 59)).chain(seconds(60, 5, 12)).chain(seconds(120, 30, 7));
    Histogram::new(bounds.collect())
}
