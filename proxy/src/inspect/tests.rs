//! Tables of a small node, and what they look like to people and to programs.

use std::net::Ipv4Addr;

use thalweg_abi::{
    Backend, BackendState, Be16, Be32, Be128, Counter, CtDirection, CtEntry, CtFlags, CtState, DropReason, Frontend,
    FrontendFlags, FrontendKey, Proto, Scope, ServiceName, Slot, StateKey, Tuple,
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
            FrontendFlags::NODE_PORT | FrontendFlags::LOCAL_ONLY | FrontendFlags::DROP_WHEN_EMPTY,
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
    let json = serde_json::to_value(&rows[1]).expect("serialises");
    assert_eq!(json["address"], "10.96.0.7:80");
    assert_eq!(json["endpoints"][1]["state"], "draining");
}

#[test]
fn a_range_outside_the_array_shows_no_endpoints() {
    let frontends = [frontend("10.96.0.7:80", Scope::INTERNAL, 1, u32::MAX - 1, 9, 0)];
    let rows = services(&frontends, &[], &[], &[]);
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
