//! What the tables hold, and what it costs to keep them so; in memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use thalweg_abi::{Be32, DNS_ADDRESSES, DnsName, DnsNode, DnsNodeFlags, DnsZone, DnsZoneFlags, MAX_DNS_ZONES};
use thalweg_cluster::Change;
use thalweg_loader::{MemoryTable, Table};

use super::{Follower, Settings, export};
use crate::config::Config;
use crate::corefile;
use crate::name;
use crate::testkit::{Cluster, config, external, sample, service, service_name};
use crate::zone::{Fallthrough, PodMode, Zone, ZoneConfig};

const SETTINGS: Settings = Settings { udp_size: 1232, may_answer: true, may_deny: true, lease: Duration::from_nanos(100) };

type Memory = Follower<MemoryTable<DnsName, DnsNode>, MemoryTable<u32, DnsZone>>;

fn follower(names: u32) -> Memory {
    Follower::new(MemoryTable::new("DNS_NAMES", names), MemoryTable::new("DNS_ZONES", MAX_DNS_ZONES), SETTINGS)
}

fn key(text: &str) -> DnsName {
    DnsName::new(&name::encode(text).expect("a name")).expect("a name that the kernel takes")
}

fn exported(zone: &Zone) -> BTreeMap<DnsName, DnsNode> {
    let mut names = BTreeMap::new();
    export::names(zone, &mut |name, node| assert_eq!(names.insert(name, node), None, "twice"));
    names
}

impl Memory {
    fn held(&self) -> BTreeMap<DnsName, DnsNode> {
        self.names.entries().expect("in memory").into_iter().collect()
    }

    fn zone(&self, at: u32) -> DnsZone {
        self.zones.get(&at).expect("in memory").unwrap_or_default()
    }

    fn show(&mut self, cluster: &mut Cluster, now: u64) -> u64 {
        let before = self.names.writes;
        self.follow(&Arc::new(cluster.publish()), now).expect("in memory");
        self.names.writes - before
    }
}

#[test]
fn what_is_at_names_of_the_cluster() {
    let zone = sample(false).publish();
    let names = exported(&zone);
    let below = DnsNodeFlags::OTHERS_BELOW;
    let others = DnsNodeFlags::OTHER_A | DnsNodeFlags::OTHER_AAAA;
    for (name, expected) in [
        ("cluster.local", Some((0, 0, 0))),
        ("svc.cluster.local", Some((0, 0, 0))),
        ("pod.cluster.local", Some((below, 0, 0))),
        ("dns.cluster.local", Some((0, 0, 0))),
        ("ns.dns.cluster.local", Some((0, 1, 0))),
        ("dns-version.cluster.local", Some((0, 0, 0))),
        ("default.svc.cluster.local", Some((0, 0, 0))),
        // Only a pod is there.
        ("jobs.svc.cluster.local", Some((0, 0, 0))),
        ("web.default.svc.cluster.local", Some((below, 1, 0))),
        ("dual.default.svc.cluster.local", Some((below, 1, 1))),
        ("db.data.svc.cluster.local", Some((below, 2, 0))),
        ("peers.data.svc.cluster.local", Some((below, 1, 1))),
        // Three endpoints of one address.
        ("twice.data.svc.cluster.local", Some((below, 1, 0))),
        // Two hundred endpoints.
        ("many.lots.svc.cluster.local", Some((below | DnsNodeFlags::OTHER_A, 0, 0))),
        ("docs.ext.svc.cluster.local", Some((below | others, 0, 0))),
        // No endpoint is ready.
        ("none.data.svc.cluster.local", None),
        // An alias of what is no name.
        ("bad.ext.svc.cluster.local", Some((below, 0, 0))),
        // Of endpoints, not of services.
        ("db-0.db.data.svc.cluster.local", None),
    ] {
        let found = names.get(&key(name)).map(|node| (node.flags.0, node.a_count, node.aaaa_count));
        assert_eq!(found, expected, "{name}");
    }
    let dns = names[&key("kube-dns.kube-system.svc.cluster.local")];
    assert_eq!((dns.zone, dns.a_count, dns.a[0]), (0, 1, Be32::from_octets([10, 96, 0, 10])));
}

#[test]
fn more_addresses_than_fit_are_left_out_altogether() {
    let addresses: Vec<String> = (1..=DNS_ADDRESSES + 1).map(|octet| format!("10.244.0.{octet}")).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    for count in [DNS_ADDRESSES, DNS_ADDRESSES + 1] {
        let mut cluster = Cluster::new(false);
        cluster.service(service("a/b", &[], &[])).slice("a/b", &addresses[..count], &[]).slice("a/b", &["fd00::1"], &[]);
        let node = exported(&cluster.synced())[&key("b.a.svc.cluster.local")];
        let fits = count == DNS_ADDRESSES;
        assert_eq!(usize::from(node.a_count), if fits { count } else { 0 });
        assert_eq!(node.flags.has(DnsNodeFlags::OTHER_A), !fits);
        assert_eq!((node.aaaa_count, node.flags.has(DnsNodeFlags::OTHER_AAAA)), (1, false));
    }
}

#[test]
fn what_is_not_there_exists_when_somebody_else_may_know_it() {
    let complete = |recursion, fallthrough| {
        let zone = Cluster::with(&ZoneConfig { recursion, fallthrough, ..config() }).synced();
        let [zone] = export::zones(&zone, 1232, true, 7)[..] else { panic!("one zone") };
        assert_eq!(zone.flags.has(DnsZoneFlags::RECURSION), recursion);
        zone.flags.has(DnsZoneFlags::COMPLETE)
    };
    let below = |domain: &str| Fallthrough::Below(vec![domain.into()]);
    assert!(
        complete(false, Fallthrough::Always) && complete(true, Fallthrough::Never) && complete(true, below("in-addr.arpa"))
    );
    for domain in ["cluster.local", "local", "svc.cluster.local", "x.y.cluster.local"] {
        assert!(!complete(true, below(domain)), "{domain}");
    }
    assert!(!complete(true, Fallthrough::Always));
    let zone = Cluster::new(false).synced();
    assert!(!export::zones(&zone, 1232, false, 7)[0].flags.has(DnsZoneFlags::COMPLETE));
}

#[test]
fn zones_inside_of_zones_keep_their_names_to_themselves() {
    let origins = |origins: &[&str]| origins.iter().map(|origin| (*origin).to_owned()).collect();
    let mut cluster =
        Cluster::with(&ZoneConfig { origins: origins(&["cluster.local", "svc.cluster.local", "other"]), ..config() });
    cluster.service(service("svc/web", &["10.0.0.1"], &[])).service(service("a/b", &["10.0.0.2"], &[]));
    let names = exported(&cluster.synced());
    for (name, zone) in [
        ("cluster.local", Some(0)),
        ("svc.cluster.local", Some(1)),
        ("b.a.svc.cluster.local", None),
        ("b.a.svc.svc.cluster.local", Some(1)),
        ("b.a.svc.other", Some(2)),
    ] {
        assert_eq!(names.get(&key(name)).map(|node| node.zone), zone, "{name}");
    }
    let nine: Vec<String> = (0..=MAX_DNS_ZONES).map(|at| format!("zone-{at}")).collect();
    let zone = Cluster::with(&ZoneConfig { origins: nine, ..config() }).synced();
    assert!(exported(&zone).is_empty() && export::zones(&zone, 1232, true, 7).is_empty());
}

#[test]
fn names_that_somebody_else_answers_are_neither_shown_nor_denied() {
    let shares = vec![(name::encode("a.svc.cluster.local").expect("a name"), false)];
    let mut cluster = Cluster::with(&ZoneConfig { shares, ..config() });
    cluster.service(service("a/b", &["10.0.0.1"], &[])).service(service("c/d", &["10.0.0.2"], &[]));
    let zone = cluster.synced();
    let names = exported(&zone);
    for (name, shown) in [("b.a.svc.cluster.local", false), ("a.svc.cluster.local", false), ("d.c.svc.cluster.local", true)] {
        assert_eq!(names.contains_key(&key(name)), shown, "{name}");
    }
    assert!(!export::zones(&zone, 1232, true, 7)[0].flags.has(DnsZoneFlags::COMPLETE));
}

#[test]
fn nothing_is_shown_before_all_is_known() {
    let mut cluster = Cluster::new(false);
    cluster.service(service("a/b", &["10.0.0.1"], &[]));
    let mut follower = follower(100);
    // What an earlier agent has left is answered on.
    follower.names.update(&[(key("old.cluster.local"), DnsNode::default())]).expect("in memory");
    let old = DnsZone { valid_until: 9, origin: 15, ..DnsZone::default() };
    follower.zones.update(&[(0, old)]).expect("in memory");
    assert_eq!(follower.show(&mut cluster, 50), 0);
    follower.renew(60).expect("in memory");
    assert_eq!((follower.held().len(), follower.zone(0)), (1, old));
    cluster.builder.set_synced();
    follower.show(&mut cluster, 70);
    assert_eq!(follower.held(), exported(&cluster.publish()));
    let zone = follower.zone(0);
    assert_eq!((zone.valid_until, zone.origin, zone.serial, zone.ttl, zone.udp_size), (170, 15, 42, 5, 1232));
    follower.renew(90).expect("in memory");
    assert_eq!(follower.zone(0), DnsZone { valid_until: 190, ..zone });
    follower.withdraw().expect("in memory");
    assert_eq!(follower.zone(0), DnsZone::default());
    follower.renew(100).expect("in memory");
    assert_eq!(follower.zone(0), DnsZone::default(), "not shown, so not renewed");
}

#[test]
fn nothing_is_left_to_the_kernel_that_it_would_answer_otherwise() {
    let settings = |lines: &str, block: &str| {
        let text = format!(". {{\nkubernetes cluster.local\n{lines}\n}}\n{block}");
        let parsed = corefile::parse(&text, &|_| None).unwrap_or_else(|error| panic!("{error}"));
        let config = Config::from_corefile(&parsed, &Default::default()).expect("a configuration");
        (Settings::new(&config, SETTINGS.lease), config)
    };
    let rewrite = "rewrite name a.test b.test";
    let blocks = |zone: &str| format!("{zone} {{\n{rewrite}\n}}");
    for (lines, block, may_answer) in [
        ("errors\nbufsize 700", "", true),
        ("log", "", false),
        ("log {\nclass error\n}", "", true),
        ("log {\nclass denial\n}", "", false),
        ("log example.org", "", true),
        ("log local", "", false),
        ("hosts {\n10.0.0.1 a.test\n}", "", false),
        ("hosts /etc/hosts example.org", "", true),
        ("acl {\nblock type A\n}", "", false),
        ("acl a.svc.cluster.local {\nblock\n}", "", false),
        (rewrite, "", false),
        ("", &blocks("example.org"), true),
        ("", &blocks("a.svc.cluster.local"), false),
    ] {
        let (settings, config) = settings(lines, block);
        assert_eq!(settings.may_answer, may_answer, "{lines} {block}");
        assert!(!Settings::new(&Config { client_rate: 1, ..config }, SETTINGS.lease).may_answer);
    }
    assert_eq!(settings("bufsize 700", "").0, Settings { udp_size: 700, ..SETTINGS });
}

#[test]
fn what_was_shown_is_withdrawn_when_the_kernel_may_not_answer_any_more() {
    let mut cluster = sample(false);
    let silent = Settings { may_answer: false, ..SETTINGS };
    let shown = || {
        let mut follower = follower(1_000);
        follower.show(&mut sample(false), 0);
        assert_ne!(follower.zone(0), DnsZone::default());
        follower.set(silent);
        follower
    };
    let mut renewed = shown();
    renewed.renew(1).expect("in memory");
    assert_eq!(renewed.zone(0), DnsZone::default());
    let mut followed = shown();
    followed.show(&mut cluster, 1);
    assert_eq!(followed.zone(0), DnsZone::default());
    // Also what an earlier agent has left, before anything is known.
    let before = shown();
    let mut next = Follower::new(before.names, before.zones, silent);
    next.show(&mut Cluster::new(false), 1);
    assert_eq!(next.zone(0), DnsZone::default());
    next.set(SETTINGS);
    next.show(&mut cluster, 2);
    assert_eq!(next.held(), exported(&cluster.publish()));
}

#[test]
fn a_change_costs_what_it_changes() {
    let mut cluster = sample(false);
    let mut follower = follower(1_000);
    let all = follower.show(&mut cluster, 0);
    assert_eq!(all, follower.held().len() as u64);
    assert_eq!(follower.show(&mut cluster, 0), 0);
    // An endpoint behind a cluster IP is no business of the name's.
    cluster.slice("default/web", &["10.244.7.7"], &[]);
    assert_eq!(follower.show(&mut cluster, 0), 0);
    cluster.slice("data/db", &["10.244.7.8"], &[]);
    assert_eq!(follower.show(&mut cluster, 0), 1);
    cluster.service(service("fresh/fresh", &["10.96.9.9"], &[]));
    assert_eq!(follower.show(&mut cluster, 0), 2, "and its namespace");
    cluster.apply(Change::Service(service_name("fresh/fresh"), None));
    assert_eq!(follower.show(&mut cluster, 0), 2);
    cluster.service(service("kube-system/kube-dns", &["10.96.0.11"], &[]));
    assert_eq!(follower.show(&mut cluster, 0), 2, "and the zone's name server");
    assert_eq!(follower.held(), exported(&cluster.publish()));
}

#[test]
fn a_restarted_agent_changes_only_what_is_wrong() {
    let mut cluster = sample(false);
    let mut first = follower(1_000);
    first.show(&mut cluster, 0);
    let mut second = Follower::new(first.names.clone(), first.zones.clone(), SETTINGS);
    assert_eq!(second.show(&mut cluster, 0), 0);
    let mut third = Follower::new(first.names, first.zones, SETTINGS);
    cluster.apply(Change::Service(service_name("default/web"), None)).service(external("default/dual", "example.com"));
    third.names.update(&[(key("stray.cluster.local"), DnsNode::default())]).expect("in memory");
    assert_eq!(third.show(&mut cluster, 0), 3);
    assert_eq!(third.held(), exported(&cluster.publish()));
}

#[test]
fn another_configuration_takes_the_place_of_the_old_one() {
    let mut follower = follower(1_000);
    follower.show(&mut sample(false), 0);
    let mut other = Cluster::with(&ZoneConfig { origins: vec!["example".into()], pods: PodMode::Disabled, ..config() });
    other.service(service("a/b", &["10.0.0.1"], &[]));
    other.builder.set_synced();
    follower.show(&mut other, 0);
    assert_eq!(follower.held(), exported(&other.publish()));
    assert_eq!(follower.zone(0).origin, 9);
    assert_eq!(follower.held()[&key("pod.example")].flags.0, 0);
}

#[test]
fn a_table_without_room_denies_nothing_and_holds_nothing_old() {
    let mut cluster = Cluster::new(false);
    for index in 0..20 {
        cluster.service(service(&format!("a/s{index}"), &[&format!("10.0.0.{index}")], &[]));
    }
    cluster.builder.set_synced();
    let mut follower = follower(12);
    follower.show(&mut cluster, 0);
    assert!(!follower.is_complete() && !follower.zone(0).flags.has(DnsZoneFlags::COMPLETE));
    assert_eq!(follower.held().len(), 12);
    for index in 0..20 {
        cluster.service(service(&format!("a/s{index}"), &[&format!("10.0.1.{index}")], &[]));
    }
    follower.show(&mut cluster, 0);
    let all = exported(&cluster.publish());
    assert!(follower.held().iter().all(|(name, node)| all.get(name) == Some(node)));
    for index in 5..20 {
        cluster.apply(Change::Service(service_name(&format!("a/s{index}")), None));
    }
    follower.show(&mut cluster, 0);
    assert!(follower.is_complete() && follower.zone(0).flags.has(DnsZoneFlags::COMPLETE));
    assert_eq!(follower.held(), exported(&cluster.publish()));
}
