//! The cases, by family of records. A table is text: a line that says the behaviour, below it the question and, after an
//! arrow, the reply in words; both as [`crate::testkit`] has them.

use ipnetwork::IpNetwork;

use crate::testkit::{Cluster, config, sample as sample_cluster, sample_with, service, slice};
use crate::zone::{Fallthrough, PodMode, ZoneConfig};

mod external;
mod headless;
mod pods;
mod requests;
mod reverse;
mod services;
mod zones;

/// Cases that ask one zone.
pub struct Table {
    pub cluster: fn() -> Cluster,
    cases: &'static str,
}

#[derive(Clone, Debug)]
pub struct Case {
    pub behaviour: &'static str,
    pub name: &'static str,
    pub rtype: &'static str,
    /// What [`crate::testkit::Words::brief`] says, records in any order; or the outcome when there is no reply.
    pub expected: String,
}

pub fn tables() -> impl Iterator<Item = &'static Table> {
    let families =
        [services::TABLES, headless::TABLES, external::TABLES, reverse::TABLES, pods::TABLES, zones::TABLES, requests::TABLES];
    families.into_iter().flatten()
}

// === impl Table ===

impl Table {
    pub fn cases(&self) -> Vec<Case> {
        let mut cases = Vec::new();
        let mut behaviour = "";
        for line in self.cases.lines().filter(|line| !line.is_empty()) {
            let indent = line.len() - line.trim_start().len();
            let text = line.trim();
            match indent {
                0 => behaviour = text,
                2 => {
                    let (question, expected) = text.split_once("->").unwrap_or_else(|| panic!("no reply: {text}"));
                    let (name, rtype) = question.trim().split_once(' ').unwrap_or_else(|| panic!("no type: {text}"));
                    assert!(!behaviour.is_empty(), "nameless: {text}");
                    let expected = expected.trim().into();
                    cases.push(Case { behaviour: std::mem::take(&mut behaviour), name, rtype: rtype.trim(), expected });
                }
                _ => {
                    let case: &mut Case = cases.last_mut().expect("continues a reply");
                    case.expected = format!("{} {text}", case.expected).trim().into();
                }
            }
        }
        cases
    }
}

fn sample() -> Cluster {
    sample_cluster(false)
}

fn forwarding() -> Cluster {
    sample_cluster(true)
}

fn with(change: impl FnOnce(&mut ZoneConfig)) -> Cluster {
    let mut config = config();
    change(&mut config);
    sample_with(&config)
}

fn two_zones() -> Cluster {
    with(|config| config.origins = ["cluster.local", "corp.example", "inner.corp.example."].map(Into::into).into())
}

fn restrict(config: &mut ZoneConfig) {
    let ranges = ["10.96.0.0/12", "10.244.0.0/16", "fd00::/64"];
    config.reverse = ranges.map(|range| range.parse::<IpNetwork>().expect("a range")).into();
    config.fallthrough = Fallthrough::Never;
}

fn restricted_without_upstreams() -> Cluster {
    with(restrict)
}

fn restricted() -> Cluster {
    with(|config| {
        restrict(config);
        config.recursion = true;
    })
}

fn passing_on() -> Cluster {
    with(|config| (config.recursion, config.fallthrough) = (true, Fallthrough::Always))
}

fn with_verified_pods() -> Cluster {
    with(|config| config.pods = PodMode::Verified)
}

fn without_pods() -> Cluster {
    with(|config| config.pods = PodMode::Disabled)
}

fn sample_without_empty_services() -> Cluster {
    with(|config| config.ignore_empty_service = true)
}

fn only_data() -> Cluster {
    with(|config| config.namespaces = Some(vec!["data".into()]))
}

fn without_ttl() -> Cluster {
    with(|config| config.ttl = 0)
}

fn longest_ttl() -> Cluster {
    with(|config| config.ttl = 3600)
}

fn sample_with_pod_names() -> Cluster {
    let mut cluster = Cluster::with(&ZoneConfig { endpoint_pod_names: true, ..config() });
    cluster.service(service("data/db", &[], &[]));
    let mut slice = slice("data/db", 0, &["10.244.9.1", "host-b=10.244.9.2", "10.244.9.3"], &["p/tcp/1"]);
    slice.endpoints[0].pod = Some("pod-a".into());
    slice.endpoints[1].pod = Some("pod-b".into());
    cluster.apply(thalweg_cluster::Change::EndpointSlice(slice.name.clone(), Some(slice.into())));
    cluster.complete()
}

fn without_kube_dns() -> Cluster {
    Cluster::new(false).complete()
}

fn unsynced() -> Cluster {
    let mut cluster = Cluster::new(false);
    cluster.service(service("default/early", &["10.96.0.9"], &[]));
    cluster
}

fn forwarding_unsynced() -> Cluster {
    Cluster::new(true)
}
