//! Packets of flows that are under way.

use thalweg_abi::{BackendState, CtFlags, CtState, Proto};

use super::tables::FlowWords;
use super::{BOTH, check, node};

#[test]
fn a_flow_under_way_keeps_its_backend() {
    let tables = node().flow(FlowWords::default());
    let findings = &["an entry of default/web to 10.244.1.6:8080, 12 packets, idle for 7 s", "keeps it"];
    check(&tables, "10.244.0.5:40000", "10.96.0.7:80/tcp", "translated by tc to 10.244.1.6:8080", findings);
    let verdict = format!("translated at the socket to one of {BOTH}");
    check(&tables, "10.244.0.5:40001", "10.96.0.7:80/tcp", &verdict, &["no entry: a new connection"]);
    check(
        &tables,
        "10.244.0.5",
        "10.96.0.7:80/tcp",
        &verdict,
        &["1 flow of this client under way keep", ":40000 to 10.244.1.6:8080"],
    );
}

#[test]
fn a_flow_keeps_a_draining_backend() {
    let tables = node().flow(FlowWords::default()).state(2, BackendState::DRAINING);
    let findings = &["draining: it keeps its flows"];
    check(&tables, "10.244.0.5:40000", "10.96.0.7:80/tcp", "translated by tc to 10.244.1.6:8080", findings);
}

// kubernetes#46753
#[test]
fn a_connection_to_a_backend_that_is_gone_is_reset() {
    let verdict = "refused by tc: TCP RST (counted as backend_gone)";
    let because = &["the connection's backend 10.244.1.6:8080 is gone"];
    check(&node().flow(FlowWords::default()).reuse(2), "10.244.0.5:40000", "10.96.0.7:80/tcp", verdict, because);
}

// kubernetes#59368
#[test]
fn datagrams_to_a_backend_that_is_gone_move() {
    let flow = FlowWords {
        client: "10.244.0.6:40000",
        dialled: "10.96.0.2:53",
        source: "10.244.0.6:40000",
        proto: Proto::UDP,
        service: 6,
        id: 1,
        ..FlowWords::default()
    };
    let tables = node().flow(flow).state(1, BackendState::FREE);
    check(
        &tables,
        "10.244.0.6:40000",
        "10.96.0.2:53/udp",
        "translated by tc to 10.244.1.9:53",
        &["gets another backend at once"],
    );
}

#[test]
fn a_connection_that_is_over_does_not_decide() {
    let tables = node().flow(FlowWords { state: CtState::CLOSED, ..FlowWords::default() });
    check(&tables, "10.244.0.5:40000", "10.96.0.7:80/tcp", &format!("translated at the socket to one of {BOTH}"), &["is over"]);
}

#[test]
fn an_answer_comes_from_the_address_that_was_dialled() {
    let flow = FlowWords {
        client: "198.51.100.7:40000",
        dialled: "172.30.0.11:30080",
        source: "172.30.0.11:61000",
        flags: CtFlags::SNAT | CtFlags::EXTERNAL,
        ..FlowWords::default()
    };
    let tables = node().flow(flow);
    let verdict = "translated back by tc: from 172.30.0.11:30080 to 198.51.100.7:40000";
    check(&tables, "10.244.1.6:8080", "172.30.0.11:61000/tcp", verdict, &["must see its answer come from there"]);
    let forward = "translated by tc to 10.244.1.6:8080 (from the node's address)";
    check(&tables, "198.51.100.7:40000", "172.30.0.11:30080/tcp", forward, &[]);
}

#[test]
fn flows_say_what_became_of_their_source() {
    let check = |flags: u16, source: &str, said: &str| {
        let tables = node().flow(FlowWords { flags, source, ..FlowWords::default() });
        check(&tables, "10.244.0.5:40000", "10.96.0.7:80/tcp", &format!("translated by tc to 10.244.1.6:8080{said}"), &[]);
    };
    check(CtFlags::SNAT | CtFlags::HAIRPIN, "10.96.0.7:40000", " (from the service's address)");
    check(0, "10.244.0.5:61001", " (from another port)");
}

#[test]
fn a_direct_connection_beside_a_flow_has_another_port() {
    let flow = FlowWords {
        dialled: "10.244.1.6:8080",
        source: "10.244.0.5:61001",
        flags: CtFlags::DIRECT,
        service: 0,
        ..FlowWords::default()
    };
    let findings = &["a direct connection"];
    check(
        &node().flow(flow),
        "10.244.0.5:40000",
        "10.244.1.6:8080/tcp",
        "translated by tc to 10.244.1.6:8080 (from another port)",
        findings,
    );
}
