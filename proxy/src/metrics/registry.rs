//! What the proxy counts about itself. kube-proxy's names are kept where they mean the same.
//!
//! Left out because they would not be true here: network_programming_duration_seconds (the watch does not carry the
//! trigger time), and whatever counts rules while there are none.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use thalweg_cluster::Change;

use super::process;
use super::text::{Exposition, Histogram, Kind};
use crate::health::Probe;
use crate::inspect::Status;

const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];
/// Both families are programmed in one go: what is about that has one figure, under the name of the first.
const FAMILY: (&str, &str) = ("ip_family", FAMILIES[0]);

/// One round of bringing the kernel to the world.
#[derive(Clone, Copy, Default, Debug)]
pub struct Round {
    /// Planning and applying together.
    pub took: Duration,
    /// Of that, applying.
    pub apply: Duration,
    /// From the arrival of the change to its effect, when the kernel was changed because of one.
    pub latency: Option<Duration>,
    /// Nothing but single services failed.
    pub complete: bool,
    /// Services that keep their old state because of an error.
    pub failing: usize,
}

/// Shared by the loop, which counts, and the server, which shows.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    started: Timestamp,
    service_changes: Changes,
    endpoint_changes: Changes,
    last_queued: Option<Timestamp>,
    last_synced: Option<Timestamp>,
    sync: Histogram,
    plan: Histogram,
    apply: Histogram,
    latency: Histogram,
    failed_rounds: u64,
    services: usize,
    failing: usize,
    no_local: NoLocal,
    probes: BTreeMap<(&'static str, u16), u64>,
    flows: usize,
    expired: u64,
    health_checks: usize,
}

#[derive(Clone, Copy, Default, Debug)]
struct Changes {
    total: u64,
    pending: u64,
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
            plan: fine(),
            apply: fine(),
            latency: fine(),
            failed_rounds: 0,
            services: 0,
            failing: 0,
            no_local: NoLocal::default(),
            probes: BTreeMap::new(),
            flows: 0,
            expired: 0,
            health_checks: 0,
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
        inner.apply.observe(round.apply);
        inner.plan.observe(round.took.saturating_sub(round.apply));
        if let Some(latency) = round.latency {
            inner.latency.observe(latency);
        }
        inner.services = services;
        inner.failing = round.failing;
        if round.complete {
            inner.service_changes.pending = 0;
            inner.endpoint_changes.pending = 0;
            inner.last_synced = Some(Timestamp::now());
        } else {
            inner.failed_rounds += 1;
        }
    }

    pub fn no_local_endpoints(&self, counts: NoLocal) {
        self.lock().no_local = counts;
    }

    /// A probe was answered.
    pub fn probed(&self, probe: Probe, code: u16) {
        let name = match probe {
            Probe::Healthz => "kubeproxy_proxy_healthz_total",
            Probe::Livez => "kubeproxy_proxy_livez_total",
        };
        *self.lock().probes.entry((name, code)).or_default() += 1;
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

    /// The whole page; without `kernel` (it could not be read) what is in the maps is left out.
    pub fn render(&self, kernel: Option<&Status>) -> String {
        let mut text = Exposition::default();
        self.lock().render(&mut text);
        if let Some(status) = kernel {
            render_kernel(&mut text, status);
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

// === impl Inner ===

impl Inner {
    fn render(&self, text: &mut Exposition) {
        use Kind::{Counter, Gauge};
        text.family("kubeproxy_sync_proxy_rules_duration_seconds", Kind::Histogram, "Time of one sync, planning included.")
            .histogram(&[FAMILY], &self.sync);
        for (name, help, at) in [
            ("kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds", "When a change was last queued.", self.last_queued),
            (
                "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
                "When everything queued was last in effect.",
                self.last_synced,
            ),
        ] {
            text.family(name, Gauge, help).sample(&[FAMILY], at.map_or(0.0, seconds));
        }
        for (what, changes) in [("service", self.service_changes), ("endpoint", self.endpoint_changes)] {
            let prefix = format!("kubeproxy_sync_proxy_rules_{what}_changes");
            text.family(&format!("{prefix}_total"), Counter, &format!("Changes of {what}s received."))
                .count(&[], changes.total);
            text.family(&format!("{prefix}_pending"), Gauge, &format!("Changes of {what}s that are not in effect yet."))
                .count(&[], changes.pending);
        }
        text.family(
            "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
            Gauge,
            "Services with a Local traffic policy and no endpoint on this node.",
        );
        for (policy, count) in [("internal", self.no_local.internal), ("external", self.no_local.external)] {
            for (family, count) in FAMILIES.into_iter().zip(count) {
                text.count(&[("ip_family", family), ("traffic_policy", policy)], count as u64);
            }
        }
        for name in ["kubeproxy_proxy_healthz_total", "kubeproxy_proxy_livez_total"] {
            text.family(name, Counter, "Answers to probes by status code.");
            for ((_, code), count) in self.probes.iter().filter(|((probe, _), _)| *probe == name) {
                text.count(&[("code", &code.to_string())], *count);
            }
        }
        text.family("thalweg_sync_stage_seconds", Kind::Histogram, "Time of one sync by stage.")
            .histogram(&[("stage", "plan")], &self.plan)
            .histogram(&[("stage", "apply")], &self.apply);
        text.family("thalweg_change_to_map_seconds", Kind::Histogram, "From the arrival of a change to its effect.")
            .histogram(&[], &self.latency);
        text.family("thalweg_sync_failures_total", Counter, "Syncs of which something failed that belongs to no service.")
            .count(&[], self.failed_rounds);
        text.family("thalweg_services", Gauge, "Services known.").count(&[], self.services as u64);
        text.family("thalweg_services_failing", Gauge, "Services that keep their old state because of an error.")
            .count(&[], self.failing as u64);
        text.family("thalweg_health_checks", Gauge, "Health checks of services open on this node.")
            .count(&[], self.health_checks as u64);
        text.family("thalweg_conntrack_flows", Gauge, "Translated flows at the last expiry.").count(&[], self.flows as u64);
        text.family("thalweg_conntrack_expired_total", Counter, "Translated flows that were idle for too long.")
            .count(&[], self.expired);
        text.family("thalweg_build_info", Gauge, "The version that runs.").count(&[("version", env!("CARGO_PKG_VERSION"))], 1);
        text.family("process_start_time_seconds", Gauge, "When the process started, since the epoch.")
            .sample(&[], seconds(self.started));
    }
}

fn render_kernel(text: &mut Exposition, status: &Status) {
    let maps = || status.maps.iter().map(|row| (row.map.to_lowercase(), row));
    text.family("thalweg_map_entries", Kind::Gauge, "Entries in use by map.");
    for (map, row) in maps() {
        text.count(&[("map", &map)], row.used);
    }
    text.family("thalweg_map_capacity", Kind::Gauge, "Entries that fit by map.");
    for (map, row) in maps() {
        text.count(&[("map", &map)], row.capacity);
    }
    text.family("thalweg_drops_total", Kind::Counter, "Packets dropped by the data path, by reason.");
    for row in &status.drops {
        text.count(&[("reason", row.name)], row.count);
    }
    text.family("thalweg_events_total", Kind::Counter, "What the data path did, by event.");
    for row in &status.counters {
        text.count(&[("event", row.name)], row.count);
    }
    text.family("thalweg_adoptions_total", Kind::Counter, "How often the maps were taken over from an earlier process.")
        .count(&[], status.adoptions);
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds since the epoch fit")]
fn seconds(timestamp: Timestamp) -> f64 {
    timestamp.as_millisecond() as f64 / 1000.0
}
