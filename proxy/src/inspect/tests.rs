//! Tables of a small node, and what they look like to people and to programs.

use std::net::{Ipv4Addr, Ipv6Addr};

use thalweg_abi::{
    Affinity, AffinityKey, Backend, BackendState, Be16, Be32, Be128, Counter, CtDirection, CtEntry, CtFlags, CtState,
    DropReason, Frontend, FrontendFlags, FrontendKey, Proto, Scope, ServiceName, Slot, StateKey, Tuple,
};

use super::*;

fn be(text: &str) -> (Be32, Be16) {
    let (address, port) = text.split_once(':').expect("address:port");
    (address.parse::<Ipv4Addr>().expect("address").into(), Be16::from_host(port.parse().expect("port")))
}

fn frontend(at: &str, scope: Scope, service: u32, base: u32, count: u32, flags: u32) -> (FrontendKey, Frontend) {
    let (vip, port) = be(at);
    let value = Frontend { service, generation: 3, base, count, flags: FrontendFlags(flags), ..Frontend::default() };
    (FrontendKey { vip, port, proto: Proto::TCP, scope }, value)
}

fn backend(id: u32, at: &str, state: BackendState, generation: u32) -> (u32, Backend) {
    let (addr, port) = be(at);
    (id, Backend { addr: Be128::mapped(addr), port, state, generation, ..Backend::default() })
}

fn slot(index: u32, at: &str, backend: u32, generation: u32) -> (u32, Slot) {
    let (addr, port) = be(at);
    (index, Slot { addr: Be128::mapped(addr), port, backend, generation, ..Slot::default() })
}

fn tuple(src: &str, dst: &str) -> Tuple {
    let ((src, sport), (dst, dport)) = (be(src), be(dst));
    Tuple { src, dst, sport, dport, proto: Proto::TCP, pad: [0; 3] }
}

/// Every line of the expected table is compared; leading blanks of the test's own layout are not.
fn check<R: Row>(rows: &[R], expected: &str) {
    let expected: String =
        expected.trim().lines().map(|line| format!("{}\n", line.trim_start().trim_start_matches('|'))).collect();
    assert_eq!(render(rows), expected);
}

#[test]
fn services_as_a_table() {
    let frontends = [
        frontend(
            "172.30.0.11:30080",
            Scope::EXTERNAL,
            1,
            0,
            0,
            FrontendFlags::NODE_PORT | FrontendFlags::LOCAL_SET | FrontendFlags::DROP_WHEN_EMPTY,
        ),
        frontend("10.96.0.7:80", Scope::INTERNAL, 1, 4, 3, FrontendFlags::AFFINITY),
        frontend("10.96.0.9:80", Scope::INTERNAL, 8, 0, 0, 0),
        frontend("10.96.0.7:0", Scope::INTERNAL, 1, 0, 0, FrontendFlags::WILDCARD),
    ];
    let slots = [
        slot(4, "10.244.0.5:8080", 1, 1),
        slot(5, "10.244.1.6:8080", 2, 1),
        slot(6, "10.244.1.7:8080", 3, 1),
        slot(7, "10.244.1.8:8080", 9, 9),
    ];
    let backends = [
        backend(1, "10.244.0.5:8080", BackendState::READY, 1),
        backend(2, "10.244.1.6:8080", BackendState::DRAINING, 1),
        backend(3, "10.244.9.9:8080", BackendState::READY, 2),
    ];
    let rows = services(&frontends, &slots, &backends, &[(1, ServiceName::new("default/web"))]);
    check(
        &rows,
        "
            |SERVICE       FRONTEND                FROM      TRAITS                GENERATION   BACKENDS
            |#8            10.96.0.9:80/tcp        inside    refuse                3            -
            |default/web   10.96.0.7:80/tcp        inside    affinity              3            10.244.0.5:8080
            |                                                                                   10.244.1.6:8080 (draining)
            |                                                                                   10.244.1.7:8080 (gone)
            |default/web   172.30.0.11:30080/tcp   outside   nodeport,local,drop   3            -",
    );
    let wide = render_wide(&rows);
    let head: Vec<&str> = wide.lines().next().expect("a head").split_whitespace().collect();
    assert_eq!(head.last_chunk(), Some(&["BACKENDS", "IDS", "AFFINITY", "SERVICE-PORT"]));
    let json = serde_json::to_value(&rows[1]).expect("serialises");
    assert_eq!(json["address"], "10.96.0.7:80");
    assert_eq!(json["endpoints"][1]["state"], "draining");
}

#[test]
fn a_range_outside_the_array_shows_no_endpoints() {
    let frontends = [frontend("10.96.0.7:80", Scope::INTERNAL, 1, u32::MAX - 1, 9, 0)];
    let rows: Vec<ServiceRow> = services(&frontends, &[], &[], &[]);
    assert!(rows[0].endpoints.is_empty());
}

#[test]
fn flows_as_a_table() {
    let dialled = tuple("10.244.0.5:40000", "10.96.0.7:80");
    let translated = tuple("172.30.0.11:61000", "10.244.1.6:8080");
    let forward = CtEntry {
        to: translated,
        service: 1,
        last_seen: 90,
        direction: CtDirection::FORWARD,
        state: CtState::ESTABLISHED,
        flags: CtFlags(CtFlags::SNAT | CtFlags::EXTERNAL),
        packets: 4,
        bytes: 400,
        ..CtEntry::default()
    };
    let reply =
        CtEntry { to: dialled.reversed(), direction: CtDirection::REPLY, last_seen: 97, packets: 3, bytes: 3_000, ..forward };
    let stray_client = tuple("10.244.0.6:50000", "10.96.0.8:443");
    let stray = CtEntry {
        to: stray_client.reversed(),
        service: 2,
        direction: CtDirection::REPLY,
        state: CtState::NEW,
        last_seen: 100,
        packets: 1,
        ..CtEntry::default()
    };
    let entries = [(translated.reversed(), reply), (tuple("10.244.1.9:8443", "10.244.0.6:50000"), stray), (dialled, forward)];
    let rows = conntrack(&entries, &[(1, ServiceName::new("default/web"))], 100);
    check(
        &rows,
        "
            |PROTO   STATE         CLIENT             FRONTEND        BACKEND           SERVICE       TRAITS          IDLE   PACKETS   BYTES
            |tcp     established   10.244.0.5:40000   10.96.0.7:80    10.244.1.6:8080   default/web   snat,external   3s     4/3       400/3000
            |tcp     new           10.244.0.6:50000   10.96.0.8:443   10.244.1.9:8443   #2            half            0s     0/1       0/0",
    );
    assert_eq!(rows[0].source.to_string(), "172.30.0.11:61000");
}

#[test]
fn status_of_a_node() {
    let status = status(
        &[(StateKey::Abi, 1), (StateKey::Adoptions, 2), (StateKey::Synced, 1)],
        &[("FRONTENDS", 1, 262_144), ("SLOTS", 10, 10), ("BACKENDS", 0, 10)],
        &[(Counter::TcPackets, 12)],
        &[(DropReason::NoRoute, 3)],
    );
    assert!(status.synced && status.abi == 1 && status.adoptions == 2 && status.applies == 0);
    check(
        &status.maps,
        "
            |MAP         USED   CAPACITY   FULL
            |FRONTENDS   1      262144     1%
            |SLOTS       10     10         100%
            |BACKENDS    0      10         0%",
    );
    check(&status.counters, "NAME         COUNT\n            |tc_packets   12");
    check(&status.drops, "NAME       COUNT\n            |no_route   3");
    check::<CountRow>(&[], "NAME   COUNT");
}

#[test]
fn frontends_of_ipv6() {
    let vip: Be128 = "fd96::7".parse::<Ipv6Addr>().expect("address").into();
    let key = FrontendKey { vip, port: Be16::from_host(443), proto: Proto::UDP, scope: Scope::EXTERNAL };
    let value = Frontend {
        service: 1,
        flags: FrontendFlags(FrontendFlags::LOCAL_ONLY | FrontendFlags::CHECK_SOURCE),
        affinity_seconds: 60,
        service_port: Be16::from_host(80),
        ..Frontend::default()
    };
    let rows = services(&[(key, value)], &[], &[], &[(1, ServiceName::new("default/web"))]);
    let wide = render_wide(&rows);
    let line: Vec<&str> = wide.lines().nth(1).expect("a row").split_whitespace().collect();
    assert_eq!(
        line,
        ["default/web", "[fd96::7]:443/udp", "outside", "keeps-source,source-ranges,refuse", "0", "-", "-", "60s", "80"]
    );
}

#[test]
fn rows_are_filtered_by_what_is_dialled() {
    let frontends =
        [frontend("10.96.0.7:80", Scope::INTERNAL, 1, 0, 0, 0), frontend("10.96.0.8:80", Scope::INTERNAL, 2, 0, 0, 0)];
    let rows = services(&frontends, &[], &[], &[(1, ServiceName::new("default/web")), (2, ServiceName::new("prod/web"))]);
    let check = |filter: Filter, wanted: usize| {
        assert_eq!(rows.iter().filter(|row| row.is_wanted(&filter)).count(), wanted, "{filter:?}");
    };
    check(Filter { vip: "10.96.0.8".parse().ok(), ..Filter::default() }, 1);
    check(Filter { vip: "10.96.0.9".parse().ok(), ..Filter::default() }, 0);
    check(Filter { service: Some("web".to_owned()), ..Filter::default() }, 2);
    check(Filter { namespace: Some("prod".to_owned()), protocol: Some("TCP".to_owned()), ..Filter::default() }, 1);
    check(Filter { protocol: Some("udp".to_owned()), ..Filter::default() }, 0);
}

#[test]
fn backends_with_who_sends_to_them() {
    let ids = [
        backend(1, "10.244.0.5:8080", BackendState::READY, 1),
        backend(2, "10.244.1.6:8080", BackendState::DRAINING, 4),
        backend(3, "10.244.1.7:8080", BackendState::FREE, 2),
    ];
    let frontends = [
        frontend("10.96.0.7:80", Scope::INTERNAL, 1, 4, 1, 0),
        frontend("10.96.0.8:80", Scope::INTERNAL, 2, 4, 1, 0),
        frontend("10.96.0.9:80", Scope::INTERNAL, 2, 5, 1, 0),
    ];
    // The last slot is of an earlier owner of id 2.
    let slots = [slot(4, "10.244.0.5:8080", 1, 1), slot(5, "10.244.1.6:8080", 2, 3)];
    let names = [(1, ServiceName::new("default/web")), (2, ServiceName::new("prod/web"))];
    let rows = backends(&ids, &services(&frontends, &slots, &ids, &names), &HashMap::from([(1, 7), (2, 1)]));
    check(
        &rows,
        "
            |BACKEND           STATE      FLOWS   SERVICES
            |10.244.0.5:8080   ready      7       default/web
            |                                     prod/web
            |10.244.1.6:8080   draining   1       -",
    );
    let wide = render_wide(&rows);
    assert!(wide.lines().nth(1).is_some_and(|line| line.ends_with("1.1   2           tcp         0      0")), "{wide}");
    let prod = Filter { namespace: Some("prod".to_owned()), ..Filter::default() };
    assert_eq!(rows.iter().filter(|row| row.is_wanted(&prod)).count(), 1);
}

#[test]
fn clients_with_a_backend_of_their_own() {
    let key =
        |client: Be128, local: u8| AffinityKey { client, service: 1, port: Be16::from_host(80), proto: Proto::TCP, local };
    let value =
        |backend: u32, generation: u32, last_seen: u32| Affinity { backend, generation, last_seen, seconds: 100, offset: 0 };
    let client = |text: &str| Be128::from(text.parse::<std::net::IpAddr>().expect("address"));
    let entries = [
        (key(client("10.244.0.5"), 0), value(1, 1, 990)),
        (key(client("10.244.0.5"), 1), value(2, 1, 990)),
        (key(client("10.244.0.6"), 0), value(1, 1, 899)),
        (key(client("fd00::7"), 0), value(1, 9, 1_000)),
        (key(Be128([u32::MAX, u32::MAX, 0, 4_711]), 0), value(1, 1, 1_001)),
    ];
    let ids = [backend(1, "10.244.1.6:8080", BackendState::READY, 1), backend(2, "10.244.0.9:8080", BackendState::DRAINING, 1)];
    let rows = affinity(&entries, &ids, &[(1, ServiceName::new("default/web"))], 1_000);
    check(
        &rows,
        "
            |SERVICE       PORT     CLIENT       BACKEND           STATE      IDLE   TIMEOUT
            |default/web   80/tcp   10.244.0.5   10.244.1.6:8080   kept       10s    100s
            |default/web   80/tcp   10.244.0.5   10.244.0.9:8080   draining   10s    100s
            |default/web   80/tcp   10.244.0.6   10.244.1.6:8080   expired    101s   100s
            |default/web   80/tcp   fd00::7      -                 gone       0s     100s
            |default/web   80/tcp   netns 4711   10.244.1.6:8080   kept       0s     100s",
    );
    assert_eq!((rows[0].set, rows[1].set), ("cluster", "local"));
}

#[test]
fn every_reason_to_drop_says_what_it_means() {
    let all: Vec<(DropReason, u64)> = DropReason::ALL.iter().map(|reason| (*reason, *reason as u64)).collect();
    let rows = drops(&all);
    assert_eq!(rows.len(), DropReason::ALL.len());
    assert!(rows.iter().all(|row| row.meaning.len() > 10), "{rows:?}");
    assert_eq!(rows[3].name, "conntrack_full");
}
