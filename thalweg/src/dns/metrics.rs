//! Figures by CoreDNS's names where they mean the same, so that its dashboards and alerts go on working.

use std::time::{Duration, SystemTime};

use thalweg_cluster::Family;
use thalweg_dns::histogram::{BOUNDS, Counts, Histogram};
use thalweg_dns::traffic::{OTHER, RCODES, TYPES, Totals};
use thalweg_dns::{GroupReport, Server};
use thalweg_proxy::metrics::{Exposition, Histogram as Written, Kind};

/// How long after its cause a change of endpoints was answered.
#[derive(Default)]
pub struct Programming(Histogram);

// === impl Programming ===

impl Programming {
    /// `causes` as the source tells them; those of the future are clocks that differ.
    pub fn observe(&self, causes: &[(Family, SystemTime)]) {
        let now = SystemTime::now();
        causes.iter().filter_map(|(_, cause)| now.duration_since(*cause).ok()).for_each(|took: Duration| self.0.observe(took));
    }
}

/// All figures, as Prometheus reads them. `reloads`: those that worked, and those that did not.
pub fn render(dns: &Server, programming: &Programming, reloads: [u64; 2]) -> String {
    let server: String = dns.addresses().first().map(|address| format!("dns://:{}", address.port())).unwrap_or_default();
    let mut text = Exposition::default();
    text.family("coredns_build_info", Kind::Gauge, "Which build answers.");
    text.sample(&[("version", env!("CARGO_PKG_VERSION")), ("implementation", "thalweg")], 1.0);
    let stats = dns.stats();
    text.family("coredns_panics_total", Kind::Counter, "Faults of the server.").count(&[], stats.panics);
    traffic(&mut text, &server, &dns.traffic());
    caches(&mut text, &server, dns);
    forwarding(&mut text, &dns.upstreams());
    let name = "coredns_kubernetes_dns_programming_duration_seconds";
    text.family(name, Kind::Histogram, "From the cause of a change of endpoints to its being answered.");
    text.histogram(&[("service_kind", "any")], &written(&programming.0.read()));
    text.family("coredns_reload_failed_total", Kind::Counter, "Configurations that could not be used.").count(&[], reloads[1]);
    text.family("thalweg_dns_reloads_total", Kind::Counter, "Configurations taken into use.").count(&[], reloads[0]);
    text.family("thalweg_dns_names", Kind::Gauge, "Names of the cluster's zone.").count(&[], stats.names);
    text.family("thalweg_dns_truncated_total", Kind::Counter, "Answers cut to fit.").count(&[], stats.truncated);
    text.family("thalweg_dns_send_errors_total", Kind::Counter, "Replies that the kernel did not take.");
    text.count(&[], stats.send_errors);
    text.finish()
}

fn traffic(text: &mut Exposition, server: &str, totals: &Totals) {
    let common = [("server", server), ("zone", "."), ("view", "")];
    text.family("coredns_dns_requests_total", Kind::Counter, "Queries by transport, family and type.");
    for (proto, by_family) in ["udp", "tcp"].iter().zip(&totals.requests) {
        for (family, by_type) in ["1", "2"].iter().zip(by_family) {
            let types = TYPES.iter().map(|(_, name)| *name).chain([OTHER]);
            // Whatever never came is left out, as by CoreDNS.
            for (rtype, count) in types.zip(by_type).filter(|(_, count)| **count > 0) {
                let labels = [common.as_slice(), &[("proto", proto), ("family", family), ("type", rtype)]].concat();
                text.count(&labels, *count);
            }
        }
    }
    text.family("coredns_dns_responses_total", Kind::Counter, "Replies by code.");
    for (rcode, count) in RCODES.iter().zip(totals.responses).filter(|(_, count)| *count > 0) {
        text.count(&[common.as_slice(), &[("rcode", rcode), ("plugin", "")]].concat(), count);
    }
    text.family("coredns_dns_request_duration_seconds", Kind::Histogram, "From the query to its reply.");
    text.histogram(&common, &written(&totals.duration));
    text.family("coredns_acl_blocked_requests_total", Kind::Counter, "Queries turned away by access lists.");
    text.count(&common, totals.blocked);
    text.family("thalweg_dns_limited_total", Kind::Counter, "Queries beyond the rate of their client.")
        .count(&[], totals.limited);
}

fn caches(text: &mut Exposition, server: &str, dns: &Server) {
    let caches = dns.caches();
    let mut family = |name: &str, kind: Kind, help: &str, of: &dyn Fn(&thalweg_dns::CacheStats) -> [(&'static str, u64); 2]| {
        text.family(name, kind, help);
        for (zone, stats) in &caches {
            for (class, count) in of(stats) {
                text.count(&[("server", server), ("type", class), ("zones", zone), ("view", "")], count);
            }
        }
    };
    family("coredns_cache_entries", Kind::Gauge, "Answers that are kept.", &|stats| {
        [("success", stats.success_entries), ("denial", stats.denial_entries)]
    });
    family("coredns_cache_hits_total", Kind::Counter, "Queries answered by the cache.", &|stats| {
        [("success", stats.success_hits), ("denial", stats.denial_hits)]
    });
    family("coredns_cache_evictions_total", Kind::Counter, "Answers that made room before their time.", &|stats| {
        [("success", stats.success_evictions), ("denial", stats.denial_evictions)]
    });
    let mut single = |name: &str, help: &str, of: &dyn Fn(&thalweg_dns::CacheStats) -> u64| {
        text.family(name, if name.ends_with("_octets") { Kind::Gauge } else { Kind::Counter }, help);
        for (zone, stats) in &caches {
            text.count(&[("server", server), ("zones", zone), ("view", "")], of(stats));
        }
    };
    single("coredns_cache_misses_total", "Queries that the cache could not answer.", &|stats| stats.misses);
    single("coredns_cache_prefetch_total", "Answers asked for again before their end.", &|stats| stats.prefetches);
    single("coredns_cache_served_stale_total", "Answers given past their time.", &|stats| stats.served_stale);
    single("thalweg_dns_cache_octets", "Memory of the answers that are kept.", &|stats| stats.octets);
}

fn forwarding(text: &mut Exposition, groups: &[GroupReport]) {
    let sum = |of: fn(&GroupReport) -> u64| groups.iter().map(of).sum::<u64>();
    let name = "coredns_forward_healthcheck_broken_total";
    text.family(name, Kind::Counter, "Queries sent somewhere while every upstream was down.")
        .count(&[], sum(|group| group.broken));
    let name = "coredns_forward_max_concurrent_rejects_total";
    text.family(name, Kind::Counter, "Queries beyond those that may be under way.").count(&[], sum(|group| group.rejected));
    let name = "thalweg_dns_forward_hedges_total";
    text.family(name, Kind::Counter, "Second upstreams asked since the first took long.").count(&[], sum(|group| group.hedges));
    // The same upstream may stand in several lines.
    let mut upstreams: Vec<(String, thalweg_dns::UpstreamReport)> = Vec::new();
    for report in groups.iter().flat_map(|group| &group.upstreams) {
        match upstreams.iter_mut().find(|(_, held)| held.address == report.address) {
            Some((_, held)) => held.add(report),
            None => upstreams.push((report.address.to_string(), *report)),
        }
    }
    text.family("coredns_forward_requests_total", Kind::Counter, "Questions to each upstream.");
    for (to, report) in &upstreams {
        text.count(&[("to", to)], report.asked());
    }
    text.family("coredns_forward_responses_total", Kind::Counter, "Answers of each upstream by code.");
    for (to, report) in &upstreams {
        for (rcode, count) in RCODES.iter().zip(report.answers).filter(|(_, count)| *count > 0) {
            text.count(&[("to", to), ("rcode", rcode)], count);
        }
    }
    text.family("coredns_proxy_request_duration_seconds", Kind::Histogram, "From a question to an upstream to its answer.");
    for (to, report) in &upstreams {
        text.histogram(&[("proxy_name", "forward"), ("to", to)], &written(&report.duration));
    }
    text.family("coredns_proxy_healthcheck_failures_total", Kind::Counter, "Health checks that failed.");
    for (to, report) in &upstreams {
        text.count(&[("proxy_name", "forward"), ("to", to)], report.failed_checks);
    }
    text.family("thalweg_dns_upstream_up", Kind::Gauge, "Whether an upstream is asked.");
    for (to, report) in &upstreams {
        text.count(&[("to", to)], report.up.into());
    }
    text.family(
        "thalweg_dns_upstream_failures_total",
        Kind::Counter,
        "Questions without an answer, and packets that were none.",
    );
    for (to, report) in &upstreams {
        let failures = [
            ("timeout", report.timeouts),
            ("network", report.network_errors),
            ("malformed", report.malformed),
            ("forged", report.forgeries),
        ];
        for (reason, count) in failures {
            text.count(&[("to", to), ("reason", reason)], count);
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "samples are floating point numbers in this format")]
fn written(counts: &Counts) -> Written {
    let bounds = BOUNDS.iter().map(|micros| *micros as f64 / 1e6).collect();
    Written::counted(bounds, counts.counts.to_vec(), counts.micros as f64 / 1e6)
}
