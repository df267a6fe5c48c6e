//! The zone follows the cluster: changes one by one lead to the same table as all at once.

use std::sync::Arc;

use proptest::prelude::*;
use thalweg_cluster::{Change, Service};

use super::*;
use crate::query::rtype;
use crate::testkit::{Cluster, TTL, external, sample, service, service_name, slice};

#[test]
fn dashed_labels() {
    for (label, expected) in [
        ("10-0-0-1", Some("10.0.0.1")),
        ("fd00--1", Some("fd00::1")),
        ("--", Some("::")),
        ("1-2-3-4-5-6-7-8", Some("1:2:3:4:5:6:7:8")),
        ("10-0-0", None),
        ("10-0-0-256", None),
        ("10-0-0-01", None),
        ("10-0--1", Some("10:0::1")),
        ("10---1", None),
        ("web", None),
        ("", None),
        ("10.0.0.1", None),
        ("fd00::1", None),
        ("+1-0-0-1", None),
    ] {
        assert_eq!(parse_dashed(label.as_bytes()), expected.map(|ip| ip.parse().expect("an address")), "{label}");
    }
    assert_eq!(parse_dashed(&[0xff; 63]), None);
    for ip in ["10.1.2.3", "fd00::1:2", "::1", "::ffff:10.0.0.1"] {
        let ip: IpAddr = ip.parse().expect("an address");
        if ip != "::ffff:10.0.0.1".parse::<IpAddr>().expect("an address") {
            assert_eq!(parse_dashed(dashed(ip).as_bytes()), Some(ip));
        }
    }
}

#[test]
fn origins() {
    let new = |origin: &str| ZoneBuilder::new(&ZoneConfig { origins: vec![origin.into()], ..ZoneConfig::default() }).is_ok();
    assert!(new("cluster.local") && new("Cluster.Example.") && new("local"));
    assert!(!new("a..b") && !new(&"x".repeat(64)) && !new(&"abcdefg.".repeat(31)));
}

#[test]
fn disabled_pod_names_do_not_exist() {
    let config = ZoneConfig { pods: PodMode::Disabled, ..ZoneConfig::default() };
    let mut cluster = Cluster { builder: ZoneBuilder::new(&config).expect("a zone"), ..Cluster::new(false) };
    let zone = cluster.service(service("default/web", &["10.0.0.1"], &[])).publish();
    for name in ["1-2-3-4.default.pod.cluster.local", "default.pod.cluster.local"] {
        assert!(matches!(zone.find(&name::encode(name).expect("a name")), Found::Nothing), "{name}");
    }
    assert!(matches!(zone.find(&name::encode("pod.cluster.local").expect("a name")), Found::Node(_)));
}

#[test]
fn endpoints_without_a_hostname_are_found_by_their_address_alone() {
    let mut cluster = Cluster::new(false);
    cluster.service(service("default/web", &["10.0.0.1"], &["http/tcp/80"])).service(service("data/db", &[], &["p/tcp/1"]));
    cluster.slice("default/web", &["10.244.1.9", "!10.244.1.10", "h=10.244.1.11", "10-244-1-12=10.244.1.13"], &["http/tcp/80"]);
    cluster.slice("data/db", &["fd00::1:0:2"], &["p/tcp/1"]);
    let zone = cluster.publish();
    let check = |name: &str, expected: Option<&str>| {
        let found = match zone.find(&name::encode(&format!("{name}.svc.cluster.local")).expect("a name")) {
            Found::Dashed(ip) => Some(ip),
            Found::Nothing => None,
            Found::Node(node) => panic!("{name}: {node:?}"),
        };
        assert_eq!(found, expected.map(|ip| ip.parse().expect("an address")), "{name}");
    };
    check("10-244-1-9.web.default", Some("10.244.1.9"));
    check("10-244-1-10.web.default", None);
    check("10-244-1-11.web.default", None);
    check("10-244-1-9.db.data", None);
    check("10-244-1-9.10-244-1-9.web.default", None);
    check("fd00--1-0-2.db.data", Some("fd00::1:0:2"));
    check("fd00-0--1-0-2.db.data", None);
    for (name, ip) in [("h", "10.244.1.11"), ("10-244-1-12", "10.244.1.13")] {
        let name = name::encode(&format!("{name}.web.default.svc.cluster.local")).expect("a name");
        let Found::Node(node) = zone.find(&name) else { panic!("{ip} has a name of its own") };
        assert_eq!(node.set(rtype::A), RrSet::addresses(TTL, rtype::A, &[ip.parse().expect("an address")]).as_ref());
    }
}

#[test]
fn nothing_is_left_of_a_cluster_that_empties() {
    let empty = Cluster::new(false).builder.dump();
    let mut cluster = sample(false);
    cluster.publish();
    assert!(cluster.builder.dump().len() > empty.len() + 250);
    let names: Vec<_> = cluster.world.services().map(|service| service.name.clone()).collect();
    for name in names {
        cluster.apply(Change::Service(name, None));
    }
    cluster.publish();
    assert_eq!(cluster.builder.dump(), empty);
}

#[test]
fn a_change_leaves_other_names_untouched() {
    let mut cluster = sample(false);
    let before = cluster.publish();
    cluster.slice("data/db", &["db-9=10.244.1.9"], &["mysql/tcp/3306"]);
    let after = cluster.publish();
    let same = |name: &str| {
        let name = name::encode(name).expect("a name");
        match (before.table().get(&name), after.table().get(&name)) {
            (Some(before), Some(after)) => Arc::ptr_eq(before, after),
            _ => panic!("{} is missing", name::display(&name)),
        }
    };
    assert!(same("web.default.svc.cluster.local"));
    assert!(same("db-0.db.data.svc.cluster.local"), "of the same service, but its records are the same");
    assert!(!same("db.data.svc.cluster.local"));
}

#[test]
fn what_a_change_leaves_as_it_was_is_held_once() {
    let mut cluster = Cluster::new(false);
    cluster.service(service("data/db", &[], &[])).slice("data/db", &["db-0=10.244.1.1"], &["p/tcp/1"]);
    drop(cluster.publish());
    cluster.slice("data/db", &["db-1=10.244.1.2"], &["p/tcp/1"]);
    let zone = cluster.publish();
    let node = zone.table().get(&name::encode("db-0.db.data.svc.cluster.local").expect("a name")).expect("there");
    assert_eq!(Arc::strong_count(node), 2, "the table's leaf, which the snapshot shares, and the service");
    assert_eq!(Arc::strong_count(&node.name), 3, "the node, and its pointer in the service and among all");
}

/// One thing that happens to a small cluster, so that names and addresses meet.
#[derive(Clone, Debug)]
enum Event {
    Service(usize, Kind),
    Gone(usize),
    Slice(usize, usize, Vec<(u8, bool, Option<u8>)>),
    SliceGone(usize, usize),
}

#[derive(Clone, Debug)]
enum Kind {
    ClusterIp(u8, bool),
    Headless(bool),
    External(usize),
}

const SERVICES: [&str; 5] = ["a/x", "a/y", "b/x", "c/z", "kube-system/kube-dns"];

fn event() -> impl Strategy<Value = Event> {
    let endpoints = prop::collection::vec((0..6u8, any::<bool>(), prop::option::of(0..4u8)), 0..5);
    let kind = prop_oneof![
        (0..6u8, any::<bool>()).prop_map(|(ip, dual)| Kind::ClusterIp(ip, dual)),
        any::<bool>().prop_map(Kind::Headless),
        (0..SERVICES.len()).prop_map(Kind::External),
    ];
    prop_oneof![
        3 => (0..SERVICES.len(), kind).prop_map(|(index, kind)| Event::Service(index, kind)),
        1 => (0..SERVICES.len()).prop_map(Event::Gone),
        3 => (0..SERVICES.len(), 0..2usize, endpoints).prop_map(|(index, slice, list)| Event::Slice(index, slice, list)),
        1 => (0..SERVICES.len(), 0..2usize).prop_map(|(index, slice)| Event::SliceGone(index, slice)),
    ]
}

fn happen(cluster: &mut Cluster, event: &Event) {
    let ports = ["p/tcp/1", "q/udp/2"];
    match event {
        Event::Service(index, kind) => {
            let name = SERVICES[*index];
            cluster.service(match kind {
                Kind::ClusterIp(ip, dual) => {
                    let ips = [format!("10.0.0.{ip}"), format!("fd00::{ip}")];
                    let ips: Vec<&str> = ips.iter().take(if *dual { 2 } else { 1 }).map(String::as_str).collect();
                    service(name, &ips, &ports)
                }
                Kind::Headless(publish_not_ready) => {
                    Service { publish_not_ready: *publish_not_ready, ..service(name, &[], &ports) }
                }
                Kind::External(target) => {
                    let target = service_name(SERVICES[*target]);
                    external(name, &format!("{}.{}.svc.cluster.local", target.name, target.namespace))
                }
            });
        }
        Event::Gone(index) => {
            cluster.apply(Change::Service(service_name(SERVICES[*index]), None));
        }
        Event::Slice(index, number, endpoints) => {
            let endpoints: Vec<String> = endpoints
                .iter()
                .map(|(ip, ready, hostname)| {
                    let hostname = hostname.map(|hostname| format!("h{hostname}=")).unwrap_or_default();
                    format!("{}{hostname}10.0.0.{ip}", if *ready { "" } else { "!" })
                })
                .collect();
            let endpoints: Vec<&str> = endpoints.iter().map(String::as_str).collect();
            let slice = slice(SERVICES[*index], *number, &endpoints, &ports);
            cluster.apply(Change::EndpointSlice(slice.name.clone(), Some(Arc::new(slice))));
        }
        Event::SliceGone(index, number) => {
            let name = slice(SERVICES[*index], *number, &[], &[]).name;
            cluster.apply(Change::EndpointSlice(name, None));
        }
    }
}

proptest! {
    #[test]
    fn step_by_step_equals_all_at_once(events in prop::collection::vec((event(), any::<bool>()), 1..60)) {
        let mut cluster = Cluster::new(false);
        for (event, publish) in &events {
            happen(&mut cluster, event);
            if *publish {
                let snapshot = cluster.publish();
                prop_assert_eq!(snapshot.table().len(), snapshot.table().iter().count());
            }
        }
        cluster.publish();
        let mut rebuilt = Cluster::new(false);
        events.iter().for_each(|(event, _)| happen(&mut rebuilt, event));
        rebuilt.publish();
        prop_assert_eq!(cluster.builder.dump(), rebuilt.builder.dump());
    }
}
