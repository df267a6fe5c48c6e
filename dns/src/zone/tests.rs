//! The zone follows the cluster: changes one by one lead to the same zone as all at once.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use thalweg_cluster::{Change, Family, Service};

use super::*;
use crate::name;
use crate::testkit::{Cluster, config, external, pod, sample, service, service_name, slice};

mod model;

/// What a zone says, whatever its hashes are: entries by key, and for every address the services and pods that have it.
type Content = (BTreeMap<Vec<u8>, Vec<u8>>, BTreeMap<IpAddr, (BTreeSet<Vec<u8>>, BTreeSet<String>)>, Vec<IpAddr>);

fn content(zone: &Zone) -> Content {
    let entries: BTreeMap<_, _> = zone.entries().map(|entry| (entry.key().to_vec(), entry.octets().to_vec())).collect();
    assert_eq!(entries.len(), zone.len());
    let mut addresses: BTreeSet<IpAddr> = zone.entries().flat_map(Entry::addresses).collect();
    let pointers: usize = zone.entries().map(|entry| entry.addresses().len()).sum();
    assert_eq!(zone.reverse.len(), pointers, "a pointer for every address of every service, and no other");
    addresses.extend(zone.pods.iter().map(|held| held.ip));
    let holders = addresses.into_iter().map(|ip| {
        let services = zone.services_of(ip).map(|entry| entry.key().to_vec()).collect();
        (ip, (services, zone.pods_of(ip).map(Name::to_string).collect()))
    });
    let holders = holders.collect();
    let mut nameservers = zone.nameservers().to_vec();
    nameservers.sort_unstable();
    (entries, holders, nameservers)
}

fn wire(name: &str) -> name::WireName {
    name::encode(name).expect("a name")
}

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
    for ip in ["10.1.2.3", "fd00::1:2", "::1"] {
        let ip: IpAddr = ip.parse().expect("an address");
        assert_eq!(parse_dashed(dashed(ip).as_bytes()), Some(ip));
        let mut pushed = Vec::new();
        push_dashed(&mut pushed, ip);
        assert_eq!(name::first_label(&pushed), dashed(ip).as_bytes());
    }
}

#[test]
fn configurations_that_cannot_be() {
    let new = |config: ZoneConfig| ZoneBuilder::new(&config).err();
    for origin in ["cluster.local", "Cluster.Example.", "local"] {
        assert_eq!(new(ZoneConfig { origins: vec![origin.into()], ..config() }), None, "{origin}");
    }
    for origin in ["a..b", &"x".repeat(64), &"abcdefg.".repeat(31)] {
        let expected = Some(ZoneError::Origin(origin.into()));
        assert_eq!(new(ZoneConfig { origins: vec!["ok.example".into(), origin.into()], ..config() }), expected);
    }
    assert_eq!(new(ZoneConfig { origins: Vec::new(), ..config() }), Some(ZoneError::NoOrigin));
    assert_eq!(new(ZoneConfig { ttl: MAX_TTL + 1, ..config() }), Some(ZoneError::Ttl(3601)));
    assert_eq!((new(ZoneConfig { ttl: MAX_TTL, ..config() }), new(ZoneConfig { ttl: 0, ..config() })), (None, None));
    let fallthrough = Fallthrough::Below(vec!["a..b".into()]);
    assert_eq!(new(ZoneConfig { fallthrough, ..config() }), Some(ZoneError::Fallthrough("a..b".into())));
}

#[test]
fn ranges_of_reverse_zones() {
    for (zone, expected) in [
        ("in-addr.arpa", Some("0.0.0.0/0")),
        ("ip6.arpa.", Some("::/0")),
        ("10.in-addr.arpa", Some("10.0.0.0/8")),
        ("96.10.IN-ADDR.arpa", Some("10.96.0.0/16")),
        ("1.0.96.10.in-addr.arpa", Some("10.96.0.1/32")),
        ("0.0.d.f.ip6.arpa", Some("fd00::/16")),
        ("D.f.ip6.arpa", Some("fd00::/8")),
        ("1.1.0.96.10.in-addr.arpa", None),
        ("256.in-addr.arpa", None),
        ("+1.in-addr.arpa", None),
        ("x.in-addr.arpa", None),
        ("10.ip6.arpa", None),
        ("g.ip6.arpa", None),
        ("cluster.local", None),
        ("arpa", None),
        ("a..in-addr.arpa", None),
    ] {
        assert_eq!(reverse_range(zone), expected.map(|range| range.parse().expect("a range")), "{zone}");
    }
}

#[test]
fn nothing_is_left_of_a_cluster_that_empties() {
    for pods in [PodMode::Disabled, PodMode::Insecure, PodMode::Verified] {
        let mut cluster = crate::testkit::sample_with(&ZoneConfig { pods, ..config() });
        assert!(cluster.publish().len() > 30);
        let services: Vec<_> = cluster.world.services().map(|service| service.name.clone()).collect();
        for name in services {
            cluster.apply(Change::Service(name, None));
        }
        assert!(!cluster.publish().is_empty(), "the namespaces of pods are still there");
        let pods: Vec<_> = cluster.world.pods().map(|pod| pod.name.clone()).collect();
        for name in pods {
            cluster.apply(Change::Pod(name, None));
        }
        let zone = cluster.publish();
        assert_eq!(content(&zone), content(&Cluster::new(false).publish()));
        assert_eq!((zone.len(), zone.reverse.len(), zone.pods.len()), (0, 0, 0));
    }
}

#[test]
fn a_change_leaves_other_services_untouched() {
    let mut cluster = sample(false);
    let before = cluster.publish();
    cluster.slice("data/db", &["db-9=10.244.1.9"], &["mysql/tcp/3306"]);
    let after = cluster.publish();
    let same = |key: &[u8]| {
        let [before, after] = [&before, &after].map(|zone| zone.entry(key).expect("there").octets().as_ptr());
        before == after
    };
    assert!(same(b"\x03web\x07default") && same(b"\x04data"));
    assert!(!same(b"\x02db\x04data"));
    let gone = "db-9.db.data.svc.cluster.local";
    assert!(matches!(before.find(&wire(gone)), Found::Nothing), "a snapshot does not change");
    assert!(matches!(after.find(&wire(gone)), Found::Host(_)));
}

#[test]
fn a_change_without_effect_changes_nothing() {
    let mut cluster = sample(false);
    let before = cluster.publish();
    // An endpoint that is not ready says nothing.
    cluster.slice("data/db", &["!db-9=10.244.1.9"], &["mysql/tcp/3306"]);
    let after = cluster.publish();
    let [before, after] = [&before, &after].map(|zone| zone.entry(b"\x02db\x04data").expect("there").octets().as_ptr());
    assert_eq!(before, after);
}

#[test]
fn an_entry_says_what_was_put_into_it() {
    let zone = sample(false).publish();
    let entry = |key: &[u8]| zone.entry(key).expect("there").clone();
    let texts = |entry: &Entry| entry.addresses().iter().map(IpAddr::to_string).collect::<Vec<_>>();
    let web = entry(b"\x03web\x07default");
    assert_eq!((web.kind(), texts(&web).len()), (Kind::ClusterIp, 4), "the cluster IP and three endpoints that are ready");
    let ports = |group: Group<'_>| group.ports().map(|port| (port.number, port.name.to_vec())).collect::<Vec<_>>();
    assert_eq!(web.front().map(ports), Some(vec![(80, b"http".to_vec())]));
    assert_eq!(web.endpoints().map(ports).collect::<Vec<_>>(), [vec![(8080, b"http".to_vec())]]);
    let duo = entry(b"\x03duo\x04data");
    assert_eq!((duo.kind(), texts(&duo)), (Kind::Headless, vec!["10.244.0.11".into(), "fd00::11".into()]));
    let group = duo.endpoints().next().expect("a group");
    let named: Vec<_> = group.named(b"d-0").iter().map(|segment| (segment.family, segment.len())).collect();
    assert_eq!(named, [(Family::V4, 1), (Family::V6, 1)]);
    let repeats: Vec<_> = group.segments().flat_map(|segment| (0..segment.len()).map(move |at| segment.get(at))).collect();
    assert_eq!(
        repeats.iter().map(|at| (at.repeats_label, at.repeats_address)).collect::<Vec<_>>(),
        [(false, false), (true, false)]
    );
    assert_eq!((entry(b"\x04none\x04data").kind(), entry(b"\x04data").kind()), (Kind::Bare, Kind::Bare));
    let docs = entry(b"\x04docs\x03ext");
    assert_eq!((docs.kind(), docs.target(), docs.groups().count()), (Kind::Alias, Some(&*wire("docs.example.com")), 0));
}

#[test]
fn hostnames_that_dns_cannot_carry_are_none() {
    let origin = "abcdefg.".repeat(20);
    let mut cluster = Cluster::with(&ZoneConfig { origins: vec!["cluster.local".into(), origin], ..config() });
    let service_59 = "x".repeat(59);
    let name = format!("n/{service_59}");
    // 62 octets of key, 4 of svc and 161 of the longer zone leave 28, one of them for the label's length.
    let [longest, too_long] = [27, 28].map(|length| "y".repeat(length));
    let hosts = [format!("{longest}=10.0.0.1"), format!("{too_long}=10.0.0.2"), "a.b=10.0.0.3".into(), "10.0.0.4".into()];
    cluster.service(service(&name, &[], &[])).slice(&name, &hosts.each_ref().map(String::as_str), &["p/tcp/1"]);
    let zone = cluster.synced();
    let found = |label: &str| {
        let wire = wire(&format!("{label}.{service_59}.n.svc.cluster.local"));
        matches!(zone.find(&wire), Found::Host(host) if host.segments.iter().map(Segment::len).sum::<usize>() == 1)
    };
    assert!(found(&longest) && found("10-0-0-2") && found("10-0-0-3") && found("10-0-0-4"));
    assert!(!found(&too_long) && !found("10-0-0-1"));
    let long_service = format!("n/{}", "z".repeat(64));
    cluster.service(service(&long_service, &["10.0.0.9"], &[]));
    assert_eq!(cluster.publish().services_of("10.0.0.9".parse().expect("an address")).count(), 0, "it has no name at all");
}

/// One thing that happens to a small cluster, so that names and addresses meet.
#[derive(Clone, Debug)]
enum Event {
    Service(usize, Kinds),
    Gone(usize),
    Slice(usize, usize, Vec<(u8, bool, Option<u8>, bool)>, bool),
    SliceGone(usize, usize),
    Pod(usize, u8, bool),
}

#[derive(Clone, Debug)]
enum Kinds {
    ClusterIp(u8, bool),
    Headless(bool),
    External(usize),
}

const SERVICES: [&str; 5] = ["a/x", "a/y", "b/x", "c/z", "kube-system/kube-dns"];

fn event() -> impl Strategy<Value = Event> {
    let endpoints = prop::collection::vec((0..6u8, any::<bool>(), prop::option::of(0..4u8), any::<bool>()), 0..5);
    let kind = prop_oneof![
        (0..6u8, any::<bool>()).prop_map(|(ip, dual)| Kinds::ClusterIp(ip, dual)),
        any::<bool>().prop_map(Kinds::Headless),
        (0..SERVICES.len()).prop_map(Kinds::External),
    ];
    let slices = (0..SERVICES.len(), 0..2usize, endpoints, any::<bool>());
    prop_oneof![
        3 => (0..SERVICES.len(), kind).prop_map(|(index, kind)| Event::Service(index, kind)),
        1 => (0..SERVICES.len()).prop_map(Event::Gone),
        3 => slices.prop_map(|(index, slice, list, ports)| Event::Slice(index, slice, list, ports)),
        1 => (0..SERVICES.len(), 0..2usize).prop_map(|(index, slice)| Event::SliceGone(index, slice)),
        1 => (0..4usize, 0..6u8, any::<bool>()).prop_map(|(index, ip, there)| Event::Pod(index, ip, there)),
    ]
}

fn happen(cluster: &mut Cluster, event: &Event) {
    let ports = ["p/tcp/1", "q/udp/2"];
    match event {
        Event::Service(index, kind) => {
            let name = SERVICES[*index];
            cluster.service(match kind {
                Kinds::ClusterIp(ip, dual) => {
                    let ips = [format!("10.0.0.{ip}"), format!("fd00::{ip}")];
                    let ips: Vec<&str> = ips.iter().take(if *dual { 2 } else { 1 }).map(String::as_str).collect();
                    service(name, &ips, &ports)
                }
                Kinds::Headless(publish_not_ready) => {
                    Service { publish_not_ready: *publish_not_ready, ..service(name, &[], &ports) }
                }
                Kinds::External(target) => {
                    let target = service_name(SERVICES[*target]);
                    external(name, &format!("{}.{}.svc.cluster.local", target.name, target.namespace))
                }
            });
        }
        Event::Gone(index) => {
            cluster.apply(Change::Service(service_name(SERVICES[*index]), None));
        }
        Event::Slice(index, number, endpoints, both_ports) => {
            let endpoint = |(ip, ready, hostname, v6): &(u8, bool, Option<u8>, bool)| {
                // One hostname spells an address, so that it meets an endpoint without one.
                let hostname = hostname.map(|hostname| match hostname {
                    0 => "10-0-0-1=".into(),
                    other => format!("h{other}="),
                });
                let (ready, hostname) = (if *ready { "" } else { "!" }, hostname.unwrap_or_default());
                format!("{ready}{hostname}{}{ip}", if *v6 { "fd00::" } else { "10.0.0." })
            };
            let endpoints: Vec<String> = endpoints.iter().map(endpoint).collect();
            let endpoints: Vec<&str> = endpoints.iter().map(String::as_str).collect();
            let slice = slice(SERVICES[*index], *number, &endpoints, &ports[..if *both_ports { 2 } else { 1 }]);
            cluster.apply(Change::EndpointSlice(slice.name.clone(), Some(Arc::new(slice))));
        }
        Event::SliceGone(index, number) => {
            let name = slice(SERVICES[*index], *number, &[], &[]).name;
            cluster.apply(Change::EndpointSlice(name, None));
        }
        Event::Pod(index, ip, there) => {
            let pod = pod(["a/p", "a/q", "b/p", "only/p"][*index], &[&format!("10.0.0.{ip}")]);
            cluster.apply(Change::Pod(pod.name.clone(), there.then(|| Arc::new(pod))));
        }
    }
}

proptest! {
    #[test]
    fn step_by_step_equals_all_at_once(
        events in prop::collection::vec((event(), any::<bool>()), 1..60),
        verified: bool,
        ignore_empty_service: bool,
    ) {
        let pods = if verified { PodMode::Verified } else { PodMode::Insecure };
        let config = ZoneConfig { pods, ignore_empty_service, ..config() };
        let mut cluster = Cluster::with(&config);
        for (event, publish) in &events {
            happen(&mut cluster, event);
            if *publish {
                content(&cluster.publish());
            }
        }
        let mut rebuilt = Cluster::with(&config);
        events.iter().for_each(|(event, _)| happen(&mut rebuilt, event));
        prop_assert_eq!(content(&cluster.publish()), content(&rebuilt.publish()));
    }
}
