//! One packet each: what becomes of it, and which findings must be said on the way.

mod flows;
mod tables;
mod words;

use thalweg_abi::{BackendState, FrontendFlags as Flags, NetnsFlags, Proto, Scope};

use super::*;
use tables::{NOW, Tables, addr};

const IN: Scope = Scope::INTERNAL;
const OUT: Scope = Scope::EXTERNAL;

/// Pods .5 (balanced), .6 (opted out) and .7 (not listed) of this node; 10.88.0.9 is a pod of another pod network.
fn node() -> Tables {
    let local = Flags::LOCAL_SET | Flags::LOCAL_ONLY;
    Tables::of(Facts { node: vec![addr("172.30.0.11"), addr("fd00::11")], socket_lb: true })
        .pod("10.244.0.5")
        .pod("10.244.0.6")
        .pod("10.244.0.7")
        .pod("fd01::5")
        .netns(50, "10.244.0.5", "fd01::5", 0)
        .netns(60, "10.244.0.6", "", NetnsFlags::NO_SOCKET_LB)
        .netns(70, "10.88.0.9", "", 0)
        .service(1, "default/web")
        .service(2, "default/local")
        .service(3, "default/empty")
        .service(4, "default/sticky")
        .service(5, "default/ranged")
        .service(6, "kube-system/dns")
        .backend(1, "10.244.0.5:8080", BackendState::READY)
        .backend(2, "10.244.1.6:8080", BackendState::READY)
        .backend(3, "[fd01::5]:8080", BackendState::READY)
        .backend(4, "10.244.1.9:53", BackendState::READY)
        .backend(5, "10.244.0.6:8080", BackendState::READY)
        .backend(6, "[fd02::6]:8080", BackendState::READY)
        .frontend(1, "10.96.0.7:80", IN, 0, &[1, 2])
        .frontend(1, "[fd96::7]:80", IN, 0, &[3, 6])
        .frontend(1, "172.30.0.11:30080", IN, Flags::NODE_PORT, &[1, 2])
        .frontend(1, "172.30.0.11:30080", OUT, Flags::NODE_PORT, &[1, 2])
        .frontend(1, "127.0.0.1:30080", IN, Flags::NODE_PORT, &[1, 2])
        .frontend(1, "[fd00::11]:30080", OUT, Flags::NODE_PORT, &[3, 6])
        .wildcard(1, "10.96.0.7")
        .wildcard(1, "fd96::7")
        .frontend(2, "10.96.0.8:80", IN, Flags::LOCAL_SET | Flags::DROP_WHEN_EMPTY, &[])
        .wildcard(2, "10.96.0.8")
        .frontend(2, "192.0.2.8:80", IN, 0, &[2, 5])
        .frontend(2, "192.0.2.8:80", OUT, local, &[5])
        .frontend(2, "172.30.0.11:30082", OUT, Flags::NODE_PORT | local | Flags::DROP_WHEN_EMPTY, &[])
        .frontend(3, "10.96.0.9:80", IN, 0, &[])
        .frontend(3, "172.30.0.11:30083", OUT, Flags::NODE_PORT, &[])
        .wildcard(3, "10.96.0.9")
        .frontend(4, "10.96.0.10:80", IN, Flags::AFFINITY, &[1, 2])
        .frontend(5, "192.0.2.9:443", IN, Flags::CHECK_SOURCE, &[2])
        .frontend(5, "192.0.2.9:443", OUT, Flags::CHECK_SOURCE, &[2])
        .admit(5, "198.51.100.0/24")
        .admit(5, "10.244.0.5/32")
        .frontend_of(Proto::UDP, 6, "10.96.0.2:53", IN, 0, &[4])
        .frontend_of(Proto::SCTP, 1, "10.96.0.7:80", IN, 0, &[2])
        .wildcard(6, "10.96.0.2")
        .service_range("10.96.0.0/16")
        .service_range("fd96::/112")
}

/// The verdict as people see it; every one of `findings` stands somewhere in the explanation.
#[track_caller]
fn check(tables: &Tables, source: &str, destination: &str, verdict: &str, findings: &[&str]) {
    check_from(tables, None, source, destination, verdict, findings);
}

#[track_caller]
fn check_from(tables: &Tables, from: Option<Origin>, source: &str, destination: &str, verdict: &str, findings: &[&str]) {
    let question = Question::parse(source, destination, from).expect("a clear question");
    let explanation = explain(tables, &tables.facts, &question, NOW).expect("memory");
    let text = explanation.to_text();
    assert_eq!(explanation.verdict.to_string(), verdict, "{text}");
    for finding in findings {
        assert!(text.contains(finding), "{finding:?} is not said in:\n{text}");
    }
}

const BOTH: &str = "10.244.0.5:8080, 10.244.1.6:8080";

#[test]
fn a_pod_dials_a_cluster_ip_at_its_socket() {
    let verdict = format!("translated at the socket to one of {BOTH}");
    check(
        &node(),
        "10.244.0.5",
        "10.96.0.7:80/tcp",
        &verdict,
        &["a pod of this node", "default/web", "generation 3", "2 of slots from 0"],
    );
}

#[test]
fn a_pod_dials_a_cluster_ip_of_ipv6() {
    check(&node(), "fd01::5", "[fd96::7]:80", "translated at the socket to one of [fd01::5]:8080, [fd02::6]:8080", &[]);
}

#[test]
fn the_node_dials_a_cluster_ip() {
    let verdict = format!("translated at the socket to one of {BOTH}");
    check(&node(), "172.30.0.11", "10.96.0.7:80/tcp", &verdict, &["an address of this node", "the node dials default/web"]);
}

#[test]
fn the_node_dials_a_node_port_on_loopback() {
    check(&node(), "127.0.0.1", "127.0.0.1:30080/tcp", &format!("translated at the socket to one of {BOTH}"), &["a NodePort"]);
}

#[test]
fn a_pods_loopback_is_its_own() {
    check(&node(), "10.244.0.5", "127.0.0.1:30080/tcp", "passes untouched", &["a pod's loopback is its own"]);
}

#[test]
fn a_port_that_the_vip_has_not_is_refused_at_the_socket() {
    let verdict = "refused at the socket: connect or sendto fails with ECONNREFUSED";
    check(&node(), "10.244.0.5", "10.96.0.7:81/tcp", verdict, &["default/web has no such port"]);
    check(&node(), "10.244.0.5", "10.96.0.2:53/tcp", verdict, &["kube-system/dns has no such port"]);
}

#[test]
fn a_service_without_endpoints_is_refused_at_the_socket() {
    let verdict = "refused at the socket: connect or sendto fails with ECONNREFUSED";
    check(&node(), "10.244.0.5", "10.96.0.9:80/tcp", verdict, &["default/empty has no endpoints"]);
}

#[test]
fn a_local_policy_without_endpoints_drops_at_tc_what_the_socket_lets_pass() {
    let findings = &["that is for tc to drop", "its Local policy allows none on this node"];
    check(&node(), "10.244.0.5", "10.96.0.8:80/tcp", "dropped by tc: no_local_endpoint", findings);
    check(&node(), "172.30.0.11", "10.96.0.8:80/tcp", "dropped by tc: no_local_endpoint", findings);
}

// cilium#25322
#[test]
fn a_pod_that_opted_out_is_translated_by_tc() {
    let verdict = "translated by tc to one of 10.244.0.5:8080, 10.244.1.6:8080";
    check(&node(), "10.244.0.6", "10.96.0.7:80/tcp", verdict, &["opted out", "source NAT", "sees the client's address"]);
}

#[test]
fn without_socket_load_balancing_tc_does_all_the_work() {
    let verdict = "translated by tc to one of 10.244.0.5:8080 (from the service's address), 10.244.1.6:8080";
    check(&node().without_socket_lb(), "10.244.0.5", "10.96.0.7:80/tcp", verdict, &["is off", "if the pod meets itself"]);
}

#[test]
fn sctp_is_left_to_tc() {
    check(&node(), "10.244.0.5", "10.96.0.7:80/sctp", "translated by tc to 10.244.1.6:8080", &["only TCP and UDP"]);
}

#[test]
fn what_the_node_sends_past_the_socket_ends_on_its_way_out() {
    check(&node().without_socket_lb(), "172.30.0.11", "10.96.0.7:80/tcp", "dropped by tc: no_flow", &["untranslated"]);
}

#[test]
fn the_outside_dials_a_node_port() {
    let verdict = "translated by tc to one of 10.244.0.5:8080, 10.244.1.6:8080 (from the node's address)";
    let findings = &["comes in by the uplink", "for outside", "to 172.30.0.11 for 1 backend elsewhere"];
    check(&node(), "198.51.100.7", "172.30.0.11:30080/tcp", verdict, findings);
}

#[test]
fn the_outside_dials_a_node_port_of_ipv6() {
    let verdict = "translated by tc to one of [fd01::5]:8080, [fd02::6]:8080 (from the node's address)";
    check(&node(), "2001:db8::7", "[fd00::11]:30080/tcp", verdict, &["to fd00::11 for 1 backend elsewhere"]);
}

#[test]
fn an_external_local_policy_keeps_the_source_and_the_node() {
    let verdict = "translated by tc to 10.244.0.6:8080";
    check(
        &node(),
        "198.51.100.7",
        "192.0.2.8:80/tcp",
        verdict,
        &["a Local policy", "sources are kept", "source NAT      none"],
    );
}

#[test]
fn from_inside_an_external_local_policy_is_short_cut_to_the_cluster() {
    let verdict = "translated at the socket to one of 10.244.1.6:8080, 10.244.0.6:8080";
    check(&node(), "10.244.0.5", "192.0.2.8:80/tcp", verdict, &["for inside"]);
}

#[test]
fn an_external_local_policy_without_endpoints_here_drops() {
    let because = &["default/local has endpoints, but its Local policy allows none on this node"];
    check(&node(), "198.51.100.7", "172.30.0.11:30082/tcp", "dropped by tc: no_local_endpoint", because);
}

#[test]
fn a_node_port_without_endpoints_is_refused_on_the_wire() {
    check(&node(), "198.51.100.7", "172.30.0.11:30083/tcp", "refused by tc: TCP RST", &["default/empty has no endpoints"]);
}

// cilium#13329, cilium#14118
#[test]
fn an_unknown_port_of_a_vip_is_refused_on_the_wire_by_its_protocol() {
    let check = |destination: &str, verdict: &str| check(&node(), "198.51.100.7", destination, verdict, &["has no such port"]);
    check("10.96.0.7:81/tcp", "refused by tc: TCP RST");
    check("10.96.0.7:80/udp", "refused by tc: ICMP port unreachable");
    check("10.96.0.9:80/sctp", "refused by tc: ICMP protocol unreachable");
}

#[test]
fn a_cluster_ip_dialled_through_the_node_from_outside() {
    let verdict = "translated by tc to one of 10.244.0.5:8080, 10.244.1.6:8080 (from the node's address)";
    check(&node(), "198.51.100.7", "10.96.0.7:80/tcp", verdict, &["the one for inside serves it"]);
}

#[test]
fn other_ports_of_the_node_are_its_own() {
    check(&node(), "198.51.100.7", "172.30.0.11:22/tcp", "passes untouched", &["no service has 172.30.0.11"]);
}

#[test]
fn an_address_of_the_service_range_that_nobody_has_is_dropped() {
    for source in ["10.244.0.5", "198.51.100.7"] {
        check(&node(), source, "10.96.99.99:80/tcp", "dropped by tc: no_service", &["no service has it"]);
    }
    check(&node(), "fd01::5", "[fd96::99]:80/udp", "dropped by tc: no_service", &[]);
}

#[test]
fn elsewhere_is_not_ours() {
    check(&node(), "10.244.0.5", "93.184.216.34:443/tcp", "passes untouched", &["the kernel routes it"]);
    check(&node(), "172.30.0.11", "93.184.216.34:443/tcp", "passes untouched", &["the kernel routes it"]);
}

#[test]
fn pods_are_no_services() {
    check(&node(), "198.51.100.7", "10.244.0.5:8080/tcp", "passes untouched", &["straight into the pod"]);
    check(
        &node(),
        "10.244.0.6",
        "10.244.0.5:8080/tcp",
        "passes untouched",
        &["none has this destination", "straight into the pod"],
    );
}

#[test]
fn source_ranges_admit() {
    let verdict = "translated by tc to 10.244.1.6:8080 (from the node's address)";
    check(&node(), "198.51.100.7", "192.0.2.9:443/tcp", verdict, &["admit 198.51.100.7"]);
    check(&node(), "10.244.0.5", "192.0.2.9:443/tcp", "translated at the socket to 10.244.1.6:8080", &["admit 10.244.0.5"]);
}

#[test]
fn source_ranges_shut_out_from_outside_and_from_inside() {
    let because = &["loadBalancerSourceRanges of default/ranged do not admit"];
    check(&node(), "203.0.113.7", "192.0.2.9:443/tcp", "dropped by tc: source_range", because);
    let left = &["left to tc, which knows the packet's own source", "do not admit 10.244.0.7"];
    check(&node(), "10.244.0.7", "192.0.2.9:443/tcp", "dropped by tc: source_range", left);
}

#[test]
fn a_client_keeps_its_backend() {
    let tables = node().keeps("10.244.0.5", 4, 2, 1, 800);
    let findings = &["10.244.0.5 keeps 10.244.1.6:8080, for 10000 s after this"];
    check(&tables, "10.244.0.5", "10.96.0.10:80/tcp", "translated at the socket to 10.244.1.6:8080", findings);
    let by_tc = tables.keeps("10.244.0.6", 4, 1, 1, 0);
    check(&by_tc, "10.244.0.6", "10.96.0.10:80/tcp", "translated by tc to 10.244.0.5:8080", &[]);
}

#[test]
fn the_node_is_known_to_affinity_by_its_own_address() {
    let tables = node().keeps("172.30.0.11", 4, 2, 1, 0);
    check(&tables, "127.0.0.1", "10.96.0.10:80/tcp", "translated at the socket to 10.244.1.6:8080", &["172.30.0.11 keeps"]);
}

// cilium#26709, cilium#35254
#[test]
fn affinity_ends_with_its_time_and_with_its_backend() {
    let free = format!("translated at the socket to one of {BOTH}");
    let check = |tables: Tables, finding: &str| check(&tables, "10.244.0.5", "10.96.0.10:80/tcp", &free, &[finding]);
    check(node(), "keeps no backend yet");
    check(node().keeps("10.244.0.5", 4, 2, 1, 10_801), "its time is over");
    check(node().keeps("10.244.0.5", 4, 4, 1, 0), "no candidate any more");
    check(node().keeps("10.244.0.5", 4, 99, 1, 0), "which is gone");
    check(node().keeps("10.244.0.5", 4, 4, 7, 0), "which is gone");
    check(node().keeps("10.244.0.5", 4, 4, 1, 0).state(4, BackendState::DRAINING), "is draining");
}

#[test]
fn a_namespace_that_is_not_listed_has_an_affinity_of_its_own() {
    let verdict = format!("translated at the socket to one of {BOTH}");
    let findings = &["is not listed", "known by its network namespace alone"];
    check(&node(), "10.244.0.7", "10.96.0.10:80/tcp", &verdict, findings);
}

#[test]
fn an_address_of_services_answers_no_protocol_without_ports() {
    check(
        &node(),
        "10.244.0.5",
        "10.96.0.7/icmp",
        "refused by tc: ICMP protocol unreachable",
        &["nobody answers this protocol"],
    );
    check(&node(), "fd01::5", "fd96::7/icmp", "refused by tc: ICMPv6 destination unreachable", &[]);
    check(&node(), "10.244.0.5", "172.30.0.11/icmp", "passes untouched", &[]);
    check(&node(), "10.244.0.5", "10.96.99.99/icmp", "dropped by tc: no_service", &[]);
}

#[test]
fn a_pod_of_another_pod_network_enters_tc_as_from_outside() {
    let tables = node().without_socket_lb();
    let verdict = "translated by tc to one of 10.244.0.5:8080, 10.244.1.6:8080 (from the node's address)";
    check(&tables, "10.88.0.9", "172.30.0.11:30080/tcp", verdict, &["another program's"]);
    check(&node(), "10.88.0.9", "10.96.0.7:80/tcp", &format!("translated at the socket to one of {BOTH}"), &[]);
}

#[test]
fn what_you_say_of_the_origin_counts() {
    let outside = "translated by tc to one of 10.244.0.5:8080, 10.244.1.6:8080 (from the node's address)";
    let findings = &["taken as outside, as you said, though 10.244.0.5 is a pod of this node"];
    check_from(&node(), Some(Origin::Outside), "10.244.0.5", "172.30.0.11:30080/tcp", outside, findings);
    let inside = format!("translated at the socket to one of {BOTH}");
    check_from(&node(), Some(Origin::Pod), "10.244.7.7", "10.96.0.7:80/tcp", &inside, &["taken as a pod", "is not listed"]);
}

#[test]
fn slots_that_do_not_exist_are_a_defect() {
    let refused = "refused at the socket: connect or sendto fails with ECONNREFUSED";
    check(&node().cut(1), "10.244.0.5", "10.96.0.7:80/tcp", refused, &["a defect"]);
    check(&node().cut(1), "198.51.100.7", "172.30.0.11:30080/tcp", "dropped by tc: bad_slot", &["a defect"]);
}

#[test]
fn a_slot_whose_backend_is_another_now_is_shown_as_gone() {
    let verdict = format!("translated at the socket to one of {BOTH}");
    check(&node().reuse(2), "10.244.0.5", "10.96.0.7:80/tcp", &verdict, &["10.244.1.6:8080 (gone)"]);
}
