//! `thalweg top`: what happens per second, from two looks at the tables. Pure; [`super::live::sample`] looks.

use std::collections::HashMap;
use std::time::Duration;

use serde::Serialize;
use thalweg_abi::{DropReason, ServiceStats};

use super::{Filter, Row};

/// The tables at one moment.
#[derive(Clone, Default, Debug)]
pub struct Sample {
    /// On any clock that only goes forward.
    pub at: Duration,
    /// `namespace/name` by service number.
    pub names: HashMap<u32, String>,
    pub stats: Vec<(u32, ServiceStats)>,
    pub flows: Vec<FlowSample>,
    pub drops: Vec<(DropReason, u64)>,
}

/// One entry of CONNTRACK: one direction of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowSample {
    /// Tells entries apart.
    pub key: u64,
    pub service: u32,
    /// Towards the backend: every flow is counted by this direction, and its bytes by both.
    pub is_forward: bool,
    pub bytes: u64,
}

/// One service. Rates are per second since the sample before.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct TopRow {
    pub service: String,
    /// New connections and first datagrams: at the socket and through tc.
    pub new_per_second: f64,
    /// Of these, translated at the socket.
    pub sockets_per_second: f64,
    /// Flows through tc that there are now.
    pub flows: u64,
    /// Through tc, both directions. Connections translated at the socket pass without being counted.
    pub bytes_per_second: f64,
    /// Of the flows that there are now, since they began.
    pub bytes: u64,
    /// Connections and flows since the maps were made.
    pub total: u64,
}

/// One reason to drop that occurred.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct DropRate {
    pub reason: &'static str,
    pub per_second: f64,
    pub total: u64,
}

/// By what rows are sorted; the largest first, names from the first letter on.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Sort {
    #[default]
    New,
    Flows,
    Bytes,
    Name,
}

/// Samples in, rates out.
#[derive(Default, Debug)]
pub struct Top {
    last: Option<Last>,
    rows: Vec<TopRow>,
    drops: Vec<DropRate>,
}

/// What of a sample the next one is compared with.
#[derive(Debug)]
struct Last {
    at: Duration,
    stats: HashMap<u32, ServiceStats>,
    bytes: HashMap<u64, u64>,
    drops: Vec<(DropReason, u64)>,
}

/// One service while a sample is gone through.
#[derive(Default)]
struct Sum {
    stats: ServiceStats,
    flows: u64,
    bytes: u64,
    moved: u64,
}

// === impl Top ===

impl Top {
    /// Takes a sample in; rates are those since the one before, and zero after the first.
    pub fn feed(&mut self, sample: Sample) {
        let last = self.last.as_ref();
        let seconds = last.map_or(0.0, |last| sample.at.saturating_sub(last.at).as_secs_f64());
        let rate = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };

        let mut sums: HashMap<u32, Sum> = sample.names.keys().map(|number| (*number, Sum::default())).collect();
        for (number, stats) in &sample.stats {
            if let Some(sum) = sums.get_mut(number) {
                sum.stats = *stats;
            }
        }
        for flow in &sample.flows {
            let Some(sum) = sums.get_mut(&flow.service) else { continue };
            sum.flows += u64::from(flow.is_forward);
            sum.bytes += flow.bytes;
            // An entry that is new since the last sample has moved all that it has.
            let before = last.and_then(|last| last.bytes.get(&flow.key)).copied().unwrap_or_default();
            sum.moved += since(before, flow.bytes);
        }
        self.rows = sums
            .iter()
            .map(|(number, sum)| {
                let before = last.and_then(|last| last.stats.get(number)).copied().unwrap_or_default();
                let sockets = since(before.sockets, sum.stats.sockets);
                let flows = since(before.flows, sum.stats.flows);
                TopRow {
                    service: sample.names.get(number).cloned().unwrap_or_default(),
                    new_per_second: rate(sockets + flows),
                    sockets_per_second: rate(sockets),
                    flows: sum.flows,
                    bytes_per_second: rate(sum.moved),
                    bytes: sum.bytes,
                    total: sum.stats.sockets + sum.stats.flows,
                }
            })
            .collect();
        self.drops = sample
            .drops
            .iter()
            .filter(|(_, total)| *total > 0)
            .map(|(reason, total)| {
                let before = last.and_then(|last| last.drops.iter().find(|(known, _)| known == reason));
                let before = before.map_or(0, |(_, count)| *count);
                DropRate { reason: reason.name(), per_second: rate(since(before, *total)), total: *total }
            })
            .collect();
        self.last = Some(Last {
            at: sample.at,
            stats: sample.stats.into_iter().collect(),
            bytes: sample.flows.iter().map(|flow| (flow.key, flow.bytes)).collect(),
            drops: sample.drops,
        });
    }

    /// The services that the filter wants, in order.
    pub fn rows(&self, sort: Sort, reverse: bool, filter: &Filter) -> Vec<&TopRow> {
        let mut rows: Vec<&TopRow> = self.rows.iter().filter(|row| filter.wants_service(&row.service)).collect();
        rows.sort_by(|a, b| {
            let by = match sort {
                Sort::New => b.new_per_second.total_cmp(&a.new_per_second).then(b.total.cmp(&a.total)),
                Sort::Flows => b.flows.cmp(&a.flows),
                Sort::Bytes => b.bytes_per_second.total_cmp(&a.bytes_per_second).then(b.bytes.cmp(&a.bytes)),
                Sort::Name => std::cmp::Ordering::Equal,
            };
            let by = by.then_with(|| a.service.cmp(&b.service));
            if reverse { by.reverse() } else { by }
        });
        rows
    }

    /// Reasons that occurred since the maps were made, the most frequent now first.
    pub fn drops(&self) -> Vec<&DropRate> {
        let mut drops: Vec<&DropRate> = self.drops.iter().collect();
        drops.sort_by(|a, b| b.per_second.total_cmp(&a.per_second).then(b.total.cmp(&a.total)).then(a.reason.cmp(b.reason)));
        drops
    }

    /// All services together.
    pub fn sum(&self) -> TopRow {
        let add = |value: fn(&TopRow) -> f64| self.rows.iter().map(value).sum();
        let count = |value: fn(&TopRow) -> u64| self.rows.iter().map(value).sum();
        TopRow {
            service: format!("{} services", self.rows.len()),
            new_per_second: add(|row| row.new_per_second),
            sockets_per_second: add(|row| row.sockets_per_second),
            flows: count(|row| row.flows),
            bytes_per_second: add(|row| row.bytes_per_second),
            bytes: count(|row| row.bytes),
            total: count(|row| row.total),
        }
    }
}

/// How far a count has come; one that is smaller than before began anew.
fn since(before: u64, now: u64) -> u64 {
    now.checked_sub(before).unwrap_or(now)
}

/// A number in three digits with a decimal prefix: `0`, `7.5`, `999`, `1.23k`, `12.3M`.
pub fn short(value: f64) -> String {
    const PREFIXES: [&str; 6] = ["", "k", "M", "G", "T", "P"];
    let mut scaled = value.max(0.0);
    let mut prefix = 0;
    // What would be rounded to four digits is the next prefix's.
    while scaled >= 999.5 && prefix + 1 < PREFIXES.len() {
        scaled /= 1000.0;
        prefix += 1;
    }
    let digits = match scaled {
        _ if scaled == 0.0 || scaled >= 99.95 => 0,
        _ if prefix == 0 || scaled >= 9.995 => 1,
        _ => 2,
    };
    format!("{scaled:.digits$}{}", PREFIXES[prefix])
}

// === impl Row ===

impl Row for TopRow {
    const COLUMNS: &'static [&'static str] = &["SERVICE", "NEW/S", "SOCKETS/S", "FLOWS", "BYTES/S", "BYTES", "TOTAL"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.service.clone(),
            short(self.new_per_second),
            short(self.sockets_per_second),
            short(self.flows as f64),
            short(self.bytes_per_second),
            short(self.bytes as f64),
            short(self.total as f64),
        ]
    }
}

impl Row for DropRate {
    const COLUMNS: &'static [&'static str] = &["DROPPED", "PER-SECOND", "TOTAL"];

    fn cells(&self) -> Vec<String> {
        vec![self.reason.to_owned(), short(self.per_second), short(self.total as f64)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at: u64, stats: &[(u32, u64, u64)], flows: &[(u64, u32, bool, u64)], no_route: u64) -> Sample {
        Sample {
            at: Duration::from_secs(at),
            names: HashMap::from([(1, "default/web".to_owned()), (2, "default/db".to_owned()), (3, "prod/web".to_owned())]),
            stats: stats
                .iter()
                .map(|(number, sockets, flows)| (*number, ServiceStats { sockets: *sockets, flows: *flows }))
                .collect(),
            flows: flows
                .iter()
                .map(|(key, service, is_forward, bytes)| FlowSample {
                    key: *key,
                    service: *service,
                    is_forward: *is_forward,
                    bytes: *bytes,
                })
                .collect(),
            drops: vec![(DropReason::NoRoute, no_route), (DropReason::Malformed, 0)],
        }
    }

    fn fed(samples: impl IntoIterator<Item = Sample>) -> Top {
        let mut top = Top::default();
        samples.into_iter().for_each(|sample| top.feed(sample));
        top
    }

    fn row(top: &Top, service: &str) -> TopRow {
        let all = top.rows(Sort::Name, false, &Filter::default());
        all.into_iter().find(|row| row.service == service).cloned().expect(service)
    }

    #[test]
    fn one_sample_has_no_rates() {
        let top = fed([sample(10, &[(1, 100, 50)], &[(7, 1, true, 900)], 4)]);
        let web = row(&top, "default/web");
        assert_eq!((web.new_per_second, web.bytes_per_second, web.flows, web.bytes, web.total), (0.0, 0.0, 1, 900, 150));
        assert_eq!(top.drops(), [&DropRate { reason: "no_route", per_second: 0.0, total: 4 }]);
    }

    #[test]
    fn rates_are_what_happened_between_two_samples() {
        let before = sample(10, &[(1, 100, 50), (2, 5, 0)], &[(7, 1, true, 900), (8, 1, false, 100)], 4);
        let after = sample(12, &[(1, 120, 60), (2, 5, 0)], &[(7, 1, true, 1_900), (8, 1, false, 100)], 10);
        let top = fed([before, after]);
        let web = row(&top, "default/web");
        assert_eq!((web.new_per_second, web.sockets_per_second), (15.0, 10.0));
        assert_eq!((web.flows, web.bytes_per_second, web.bytes), (1, 500.0, 2_000));
        assert_eq!(row(&top, "default/db").new_per_second, 0.0);
        assert_eq!(top.drops()[0].per_second, 3.0);
        assert_eq!(top.sum().new_per_second, 15.0);
    }

    #[test]
    fn flows_that_come_and_go_never_make_a_rate_negative() {
        let before = sample(10, &[(1, 9, 9)], &[(7, 1, true, 5_000), (8, 1, true, 1)], 0);
        // The first is over; a new one has the second's place in the table, and the maps were made anew.
        let after = sample(11, &[(1, 2, 1)], &[(8, 1, true, 300), (9, 1, true, 200)], 0);
        let web = row(&fed([before, after]), "default/web");
        assert_eq!((web.flows, web.bytes_per_second, web.new_per_second), (2, 499.0, 3.0));
    }

    #[test]
    fn entries_of_no_service_are_nobodys() {
        let top = fed([sample(1, &[(99, 1, 1)], &[(1, 99, true, 1)], 0)]);
        assert_eq!(top.sum().total, 0);
        assert_eq!(top.sum().flows, 0);
    }

    #[test]
    fn rows_are_sorted_and_filtered() {
        let flows = [(1, 1, true, 10), (2, 2, true, 500), (3, 2, true, 1)];
        let top = fed([sample(1, &[(1, 0, 0)], &[], 0), sample(2, &[(1, 9, 0), (3, 100, 0)], &flows, 0)]);
        let check = |sort: Sort, reverse: bool, filter: Filter, wanted: &[&str]| {
            let names: Vec<&str> = top.rows(sort, reverse, &filter).into_iter().map(|row| row.service.as_str()).collect();
            assert_eq!(names, wanted, "{sort:?} {reverse} {filter:?}");
        };
        check(Sort::New, false, Filter::default(), &["prod/web", "default/web", "default/db"]);
        check(Sort::Flows, false, Filter::default(), &["default/db", "default/web", "prod/web"]);
        check(Sort::Bytes, false, Filter::default(), &["default/db", "default/web", "prod/web"]);
        check(Sort::Name, false, Filter::default(), &["default/db", "default/web", "prod/web"]);
        check(Sort::Name, true, Filter::default(), &["prod/web", "default/web", "default/db"]);
        let web = Filter { service: Some("web".to_owned()), ..Filter::default() };
        check(Sort::New, false, web, &["prod/web", "default/web"]);
    }

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (0.04, "0.0"),
            (7.5, "7.5"),
            (99.94, "99.9"),
            (99.96, "100"),
            (999.4, "999"),
            (999.6, "1.00k"),
            (1_234.0, "1.23k"),
            (12_345.0, "12.3k"),
            (999_600.0, "1.00M"),
            (3.2e15, "3.20P"),
            (-1.0, "0"),
        ] {
            assert_eq!(short(value), text, "{value}");
        }
    }
}
