//! The page of metrics: names, in kube-proxy's words where they mean the same.

use jiff::Timestamp;
use thalweg_cluster::Family;

use super::kernel::{KernelFigures, MapFigure};
use super::registry::Inner;
use super::text::{Exposition, Kind};
use crate::health::Probe;
use crate::iptables::Figures;

/// Both families are programmed in one go, so that what is said about that holds for each of them.
const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];

// === impl Inner ===

impl Inner {
    pub fn render(&self, text: &mut Exposition) {
        self.render_syncs(text);
        self.render_changes(text);
        self.render_probes(text);
        if let Some(rules) = &self.rules {
            render_rules(text, rules);
        }
        self.render_own(text);
    }

    fn render_syncs(&self, text: &mut Exposition) {
        use Kind::{Gauge, Histogram};
        text.family("kubeproxy_sync_proxy_rules_duration_seconds", Histogram, "Time of one sync, planning included.");
        for family in FAMILIES {
            text.histogram(&[("ip_family", family)], &self.sync);
        }
        text.family(
            "kubeproxy_network_programming_duration_seconds",
            Histogram,
            "From the change of an endpoint, as the controller saw it, to its effect here; clocks are compared.",
        );
        for (family, histogram) in FAMILIES.into_iter().zip(&self.programming) {
            text.histogram(&[("ip_family", family)], histogram);
        }
        for (name, help, at) in [
            ("kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds", "When a change was last queued.", self.last_queued),
            (
                "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
                "When everything queued was last in effect.",
                self.last_synced,
            ),
        ] {
            text.family(name, Gauge, help);
            for family in FAMILIES {
                text.sample(&[("ip_family", family)], at.map_or(0.0, seconds));
            }
        }
    }

    fn render_changes(&self, text: &mut Exposition) {
        use Kind::{Counter, Gauge};
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
        for (policy, counts) in [("internal", self.no_local.internal), ("external", self.no_local.external)] {
            for (family, count) in FAMILIES.into_iter().zip(counts) {
                text.count(&[("ip_family", family), ("traffic_policy", policy)], count as u64);
            }
        }
    }

    fn render_probes(&self, text: &mut Exposition) {
        for (probe, name) in [(Probe::Healthz, "kubeproxy_proxy_healthz_total"), (Probe::Livez, "kubeproxy_proxy_livez_total")]
        {
            text.family(name, Kind::Counter, "Answers to probes by status code.");
            for ((_, code), count) in self.probes.range((probe, 0)..=(probe, u16::MAX)) {
                text.count(&[("code", &code.to_string())], *count);
            }
        }
    }

    fn render_own(&self, text: &mut Exposition) {
        use Kind::{Counter, Gauge, Histogram};
        text.family("thalweg_sync_stage_seconds", Histogram, "Time of one sync by stage.");
        for (stage, histogram) in &self.stages {
            text.histogram(&[("stage", stage)], histogram);
        }
        text.family("thalweg_change_to_map_seconds", Histogram, "From the arrival of a change to its effect.")
            .histogram(&[], &self.latency);
        for (name, kind, help, value) in [
            (
                "thalweg_sync_failures_total",
                Counter,
                "Syncs of which something failed that belongs to no service.",
                self.failed_rounds,
            ),
            ("thalweg_services", Gauge, "Services known.", self.services as u64),
            ("thalweg_services_failing", Gauge, "Services that keep their old state because of an error.", self.failing as u64),
            ("thalweg_health_checks", Gauge, "Health checks of services open on this node.", self.health_checks as u64),
            ("thalweg_conntrack_flows", Gauge, "Translated flows at the last expiry.", self.flows as u64),
            ("thalweg_conntrack_expired_total", Counter, "Translated flows that were idle for too long.", self.expired),
        ] {
            text.family(name, kind, help).count(&[], value);
        }
        text.family("thalweg_build_info", Gauge, "The version that runs.").count(&[("version", env!("CARGO_PKG_VERSION"))], 1);
        text.family("process_start_time_seconds", Gauge, "When the process started, since the epoch.")
            .sample(&[], seconds(self.started));
    }
}

fn render_rules(text: &mut Exposition, rules: &Figures) {
    for (name, help, count) in [
        (
            "kubeproxy_sync_proxy_rules_iptables_total",
            "Rules in the chains of the proxy.",
            (|table| table.rules) as fn(&crate::iptables::TableFigures) -> usize,
        ),
        ("kubeproxy_sync_proxy_rules_iptables_last", "Rules that the last sync wrote.", |table| table.last_written),
    ] {
        text.family(name, Kind::Gauge, help);
        for table in &rules.tables {
            let family = FAMILIES[usize::from(table.family == Family::V6)];
            text.count(&[("ip_family", family), ("table", table.table)], count(table) as u64);
        }
    }
    for (name, help, count) in [
        ("restore_failures_total", "Scripts of rules that the kernel refused.", rules.restore_failures),
        (
            "partial_restore_failures_total",
            "Scripts of rules that the kernel refused and that were for a change only.",
            rules.partial_restore_failures,
        ),
    ] {
        text.family(&format!("kubeproxy_sync_proxy_rules_iptables_{name}"), Kind::Counter, help).count(&[], count);
    }
}

pub(super) fn render_maps(text: &mut Exposition, maps: &[MapFigure]) {
    if maps.is_empty() {
        return;
    }
    text.family("thalweg_map_entries", Kind::Gauge, "Entries in use by map, when they were counted last.");
    for map in maps {
        if let Some(entries) = map.entries {
            text.count(&[("map", &map.map.to_lowercase())], entries);
        }
    }
    text.family("thalweg_map_capacity", Kind::Gauge, "Entries that fit by map.");
    for map in maps {
        text.count(&[("map", &map.map.to_lowercase())], map.capacity);
    }
}

pub(super) fn render_kernel(text: &mut Exposition, figures: &KernelFigures) {
    text.family("thalweg_drops_total", Kind::Counter, "Packets dropped by the data path, by reason.");
    for (reason, count) in &figures.drops {
        text.count(&[("reason", reason)], *count);
    }
    text.family("thalweg_events_total", Kind::Counter, "What the data path did, by event.");
    for (event, count) in &figures.events {
        text.count(&[("event", event)], *count);
    }
    text.family("thalweg_adoptions_total", Kind::Counter, "How often the maps were taken over from an earlier process.")
        .count(&[], figures.adoptions);
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds since the epoch fit")]
fn seconds(timestamp: Timestamp) -> f64 {
    timestamp.as_millisecond() as f64 / 1000.0
}
