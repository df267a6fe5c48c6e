//! The backend on a kernel in memory: what packets meet after each apply, and that steps lead where one leap does.

mod kernel;
mod steps;

use std::net::SocketAddr;
use std::time::Instant;

use thalweg_abi::{FrontendFlags, Proto, Scope};

use super::*;
use crate::plan::{EndpointSet, PlannedFrontend};
use kernel::{Kernel, Packet, outcomes};

fn options() -> Options {
    Options { inside: Inside::Sources(vec!["10.244.0.0/16".parse().expect("a network")]), ..Options::default() }
}

fn backend(kernel: &Kernel) -> IptablesBackend {
    let mut backend = IptablesBackend::new(kernel.clone(), options()).expect("valid options");
    backend.retain_only_known();
    backend
}

fn apply(backend: &mut IptablesBackend) -> Applied {
    let applied = backend.sync(Instant::now()).expect("applies");
    assert!(applied.failed.is_empty(), "{:?}", applied.failed);
    applied
}

fn name(text: &str) -> Name {
    let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
    Name::new(namespace, name)
}

/// One frontend per line: `VIP:PORT/PROTO [ext] [local] [drop] [affinity] -> ENDPOINT …`, or `ours VIP`.
fn plan(service: &str, lines: &[&str]) -> ServicePlan {
    let mut plan = ServicePlan {
        name: name(service),
        frontends: Vec::new(),
        sets: Vec::new(),
        draining: Vec::new(),
        source_ranges: Vec::new(),
    };
    for line in lines {
        let (left, right) = line.split_once("->").unwrap_or((line, ""));
        let words: Vec<&str> = left.split_whitespace().collect();
        let endpoints: Vec<SocketAddr> = right.split_whitespace().map(|word| word.parse().expect("an endpoint")).collect();
        if words[0] == "draining" {
            plan.draining = endpoints;
            continue;
        }
        let set = plan.sets.iter().position(|set| set.endpoints == endpoints).unwrap_or(plan.sets.len());
        if set == plan.sets.len() {
            plan.sets.push(EndpointSet { endpoints });
        }
        let has = |word| words.contains(&word);
        let flag = |word, flag| if has(word) { flag } else { 0 };
        let wildcard = words[0] == "ours";
        let (vip, protocol) = if wildcard {
            (format!("{}:0", words[1]), Proto::ANY)
        } else {
            let (dialled, protocol) = words[0].split_once('/').expect("a protocol");
            (dialled.to_owned(), if protocol == "udp" { Proto::UDP } else { Proto::TCP })
        };
        let dialled: SocketAddr = vip.parse().expect("an address");
        plan.frontends.push(PlannedFrontend {
            vip: dialled.ip(),
            port: dialled.port(),
            protocol,
            scope: if has("ext") { Scope::EXTERNAL } else { Scope::INTERNAL },
            flags: FrontendFlags(
                flag("ours", FrontendFlags::WILDCARD)
                    | flag("drop", FrontendFlags::DROP_WHEN_EMPTY)
                    | flag("local", FrontendFlags::LOCAL_ONLY)
                    | flag("affinity", FrontendFlags::AFFINITY),
            ),
            affinity_seconds: if has("affinity") { 30 } else { 0 },
            service_port: dialled.port(),
            set,
        });
    }
    plan.frontends.sort_by_key(PlannedFrontend::key);
    plan
}

/// What may happen to a packet `FROM > TO/PROTO`; FROM `node` is the node itself.
fn meets(kernel: &Kernel, packet: &str) -> String {
    let (from, to) = packet.split_once(" > ").expect("a packet");
    let (to, protocol) = to.split_once('/').expect("a protocol");
    let source = if from == "node" { None } else { Some(from.parse().expect("an address")) };
    let protocol = if protocol == "udp" { "udp" } else { "tcp" };
    let found = outcomes(kernel, &Packet { source, to: to.parse().expect("an address"), protocol });
    found.into_iter().collect::<Vec<_>>().join(" ")
}

fn check(kernel: &Kernel, cases: &[(&str, &str)]) {
    for (packet, expected) in cases {
        assert_eq!(meets(kernel, packet), *expected, "{packet}");
    }
}

const WEB: [&str; 4] = [
    "10.96.0.7:80/tcp -> 10.244.0.5:8080 10.244.1.6:8080",
    "172.30.0.11:30080/tcp -> 10.244.0.5:8080 10.244.1.6:8080",
    "172.30.0.11:30080/tcp ext -> 10.244.0.5:8080 10.244.1.6:8080",
    "ours 10.96.0.7",
];

#[test]
fn what_packets_meet() {
    let kernel = Kernel::default();
    let mut backend = backend(&kernel);
    backend.set(plan("shop/web", &WEB));
    backend.set(plan(
        "shop/dns",
        &["10.96.0.10:53/udp -> 10.244.0.5:53", "10.96.0.10:53/tcp -> 10.244.0.5:53", "ours 10.96.0.10"],
    ));
    backend.set(plan("shop/none", &["10.96.0.8:80/tcp ->", "10.96.0.8:81/tcp drop ->", "ours 10.96.0.8"]));
    backend.set(plan(
        "shop/local",
        &[
            "172.30.0.11:30090/tcp -> 10.244.1.6:80",
            "172.30.0.11:30090/tcp ext local drop ->",
            "172.30.0.11:30091/tcp -> 10.244.0.5:80 10.244.1.6:80",
            "172.30.0.11:30091/tcp ext local -> 10.244.0.5:80",
            "172.30.0.11:30092/tcp ext local ->",
            "172.30.0.11:30092/tcp -> 10.244.1.6:80",
        ],
    ));
    let applied = apply(&mut backend);
    assert_eq!((applied.services, applied.frontends_written), (4, 16));
    check(
        &kernel,
        &[
            ("10.244.0.9 > 10.96.0.7:80/tcp", "10.244.0.5:8080 10.244.1.6:8080"),
            ("node > 10.96.0.7:80/tcp", "10.244.0.5:8080 10.244.1.6:8080"),
            ("hairpin: 10.244.0.5 > 10.96.0.7:80/tcp", "10.244.0.5:8080/masquerade 10.244.1.6:8080"),
            ("172.30.0.100 > 10.96.0.7:80/tcp", "10.244.0.5:8080/masquerade 10.244.1.6:8080/masquerade"),
            ("10.244.0.9 > 10.96.0.7:81/tcp", "refused"),
            ("10.244.0.9 > 10.96.0.7:80/udp", "refused"),
            ("172.30.0.100 > 10.96.0.7:81/tcp", "refused"),
            ("10.244.0.9 > 10.96.0.9:80/tcp", "passed"),
            ("10.244.0.9 > 10.244.1.6:8080/tcp", "passed"),
            ("172.30.0.100 > 10.244.1.6:8080/tcp", "passed"),
            ("172.30.0.100 > 172.30.0.11:22/tcp", "passed"),
            ("10.244.0.9 > 10.96.0.10:53/udp", "10.244.0.5:53"),
            ("10.244.0.9 > 10.96.0.10:53/tcp", "10.244.0.5:53"),
            ("10.244.0.9 > 10.96.0.8:80/tcp", "refused"),
            ("node > 10.96.0.8:80/tcp", "refused"),
            ("172.30.0.100 > 10.96.0.8:80/tcp", "refused"),
            ("10.244.0.9 > 10.96.0.8:81/tcp", "dropped"),
            ("172.30.0.100 > 172.30.0.11:30080/tcp", "10.244.0.5:8080/masquerade 10.244.1.6:8080/masquerade"),
            ("10.244.0.9 > 172.30.0.11:30080/tcp", "10.244.0.5:8080 10.244.1.6:8080"),
            ("node > 172.30.0.11:30080/tcp", "10.244.0.5:8080 10.244.1.6:8080"),
            ("172.30.0.100 > 172.30.0.11:30090/tcp", "dropped"),
            ("10.244.0.9 > 172.30.0.11:30090/tcp", "10.244.1.6:80"),
            ("172.30.0.100 > 172.30.0.11:30091/tcp", "10.244.0.5:80"),
            ("172.30.0.100 > 172.30.0.11:30092/tcp", "refused"),
        ]
        .map(|(packet, expected)| (packet.trim_start_matches("hairpin: "), expected)),
    );
    assert!(backend.next_deadline().is_none());
    let listed = |table: &str, jumps: usize| kernel.rules(table).iter().filter(|line| line.starts_with("-A")).count() - jumps;
    assert_eq!(backend.rule_counts(), [("filter", listed("filter", 4)), ("nat", listed("nat", 3))]);
}

#[test]
fn masquerade_all() {
    let kernel = Kernel::default();
    let options = Options { masquerade_all: true, ..options() };
    let mut backend = IptablesBackend::new(kernel.clone(), options).expect("valid options");
    backend.retain_only_known();
    backend.set(plan("shop/web", &WEB));
    apply(&mut backend);
    let both = "10.244.0.5:8080/masquerade 10.244.1.6:8080/masquerade";
    check(
        &kernel,
        &[
            ("10.244.0.9 > 10.96.0.7:80/tcp", both),
            ("node > 10.96.0.7:80/tcp", both),
            ("node > 10.96.0.7:81/tcp", "refused"),
            ("10.244.0.9 > 10.244.1.6:80/tcp", "passed"),
            ("node > 10.244.1.6:80/tcp", "passed"),
        ],
    );
}

#[test]
fn nothing_is_written_before_every_service_is_known() {
    let kernel = Kernel::default();
    let mut backend = IptablesBackend::new(kernel.clone(), options()).expect("valid options");
    backend.set(plan("shop/web", &WEB));
    assert_eq!(apply(&mut backend).services, 0);
    assert!(backend.repair().expect("repairs") == Repaired::default() && kernel.scripts().is_empty());
    backend.retain_only_known();
    assert_eq!(apply(&mut backend).services, 1);
}

#[test]
fn a_change_writes_its_own_chains_only() {
    let kernel = Kernel::default();
    let mut backend = backend(&kernel);
    for index in 1..=200_u8 {
        let vip = format!("10.96.{}.{index}:80/tcp -> 10.244.0.{index}:80 10.244.1.{index}:80", index % 3);
        backend.set(plan(&format!("s{index}"), &[&vip, &format!("ours 10.96.{}.{index}", index % 3)]));
    }
    apply(&mut backend);
    kernel.forget_scripts();

    // Nothing changed: nothing is written.
    let again = plan("s7", &["10.96.1.7:80/tcp -> 10.244.0.7:80 10.244.1.7:80", "ours 10.96.1.7"]);
    backend.set(again);
    assert!(!apply(&mut backend).changed() && kernel.scripts().is_empty());

    // One endpoint less: the set is written, the endpoint goes.
    backend.set(plan("s7", &["10.96.1.7:80/tcp -> 10.244.1.7:80", "ours 10.96.1.7"]));
    let applied = apply(&mut backend);
    assert_eq!((applied.slots_written, applied.backends_written), (1, 0));
    let scripts = kernel.scripts();
    assert_eq!(scripts.len(), 1);
    let lines: Vec<&str> = scripts[0].lines().collect();
    assert_eq!(lines.len(), 6, "{lines:?}");
    assert!(
        lines[1].starts_with(":TW-SEP-") && lines[2].starts_with(":TW-SVC-") && lines[3].starts_with("-A TW-SVC-"),
        "{lines:?}"
    );
    assert!(lines[4].starts_with("-X TW-SEP-"), "{lines:?}");

    // A service goes: its own chains, and the one chain that named it.
    kernel.forget_scripts();
    backend.remove(&name("s8"));
    assert_eq!(apply(&mut backend).removed, 2);
    let chains: Vec<String> =
        kernel.scripts()[0].lines().filter_map(|line| line.strip_prefix(':')).map(|line| line[..6].to_owned()).collect();
    assert_eq!(chains, ["TW-I-0", "TW-SEP", "TW-SEP", "TW-SVC"]);
}

#[test]
fn affinity_needs_the_kernel_to_remember() {
    let kernel = Kernel::default();
    kernel.refuse("-m recent");
    let mut backend = backend(&kernel);
    let sticky = plan("shop/sticky", &["10.96.0.9:80/tcp affinity -> 10.244.0.5:80 10.244.1.6:80"]);
    backend.set(sticky.clone());
    backend.set(plan("shop/web", &WEB));
    let applied = backend.sync(Instant::now()).expect("applies");
    let [failure] = &applied.failed[..] else { panic!("{:?}", applied.failed) };
    assert!(failure.service == name("shop/sticky") && failure.error.to_string().contains("xt_recent"), "{failure}");
    check(&kernel, &[("10.244.0.9 > 10.96.0.9:80/tcp", "passed"), ("10.244.0.9 > 10.96.0.7:81/tcp", "refused")]);
    assert!(backend.next_deadline().is_some(), "it is tried again");

    kernel.refuse("");
    backend.repair().expect("asks the kernel again");
    apply(&mut backend);
    check(&kernel, &[("10.244.0.9 > 10.96.0.9:80/tcp", "10.244.0.5:80 10.244.1.6:80")]);
    let rules = kernel.rules("nat");
    assert!(rules.iter().any(|rule| rule.contains("--rcheck --seconds 30 --reap -j TW-SEP-")), "{rules:?}");
    assert_eq!(rules.iter().filter(|rule| rule.contains("--set -j DNAT")).count(), 2);
    assert!(!rules.iter().any(|rule| rule.contains("TW-PROBE")));
}

#[test]
fn one_bad_service_does_not_hold_up_the_others() {
    let kernel = Kernel::default();
    let mut backend = backend(&kernel);
    backend.set(plan("bad", &["10.96.0.66:80/tcp -> 10.244.6.6:80"]));
    apply(&mut backend);
    kernel.refuse("10.244.6.7");
    for index in 1..=20_u8 {
        backend.set(plan(&format!("s{index}"), &[&format!("10.96.0.{index}:80/tcp -> 10.244.0.{index}:80")]));
    }
    backend.set(plan("bad", &["10.96.0.66:80/tcp -> 10.244.6.7:80"]));
    let applied = backend.sync(Instant::now()).expect("applies");
    let [failure] = &applied.failed[..] else { panic!("{:?}", applied.failed) };
    assert_eq!(failure.service, name("bad"));
    assert!(failure.error.to_string().contains("-s 10.244.6.7/32 -j MARK"), "the rule is named: {failure}");
    check(
        &kernel,
        &[
            ("10.244.0.9 > 10.96.0.20:80/tcp", "10.244.0.20:80"),
            ("10.244.0.9 > 10.96.0.1:80/tcp", "10.244.0.1:80"),
            ("10.244.0.9 > 10.96.0.66:80/tcp", "10.244.6.6:80"),
        ],
    );
    kernel.refuse("");
    apply(&mut backend);
    check(&kernel, &[("10.244.0.9 > 10.96.0.66:80/tcp", "10.244.6.7:80")]);
}

#[test]
fn two_services_want_one_address() {
    let kernel = Kernel::default();
    let mut backend = backend(&kernel);
    backend.set(plan("a", &["192.0.2.1:80/tcp -> 10.244.0.1:80", "ours 192.0.2.1"]));
    apply(&mut backend);
    backend.set(plan("b", &["192.0.2.1:80/tcp -> 10.244.0.2:80", "192.0.2.1:81/tcp -> 10.244.0.2:80", "ours 192.0.2.1"]));
    apply(&mut backend);
    let held = [("10.244.0.9 > 192.0.2.1:80/tcp", "10.244.0.1:80"), ("10.244.0.9 > 192.0.2.1:81/tcp", "10.244.0.2:80")];
    check(&kernel, &held);
    backend.remove(&name("a"));
    apply(&mut backend);
    check(&kernel, &[("10.244.0.9 > 192.0.2.1:80/tcp", "10.244.0.2:80"), ("10.244.0.9 > 192.0.2.1:82/tcp", "refused")]);
}

#[test]
fn udp_flows_that_became_wrong_are_forgotten() {
    let kernel = Kernel::default();
    let mut backend = backend(&kernel);
    let dns = |endpoints: &str| plan("dns", &[&format!("10.96.0.10:53/udp -> {endpoints}"), "ours 10.96.0.10"]);
    backend.set(dns("10.244.0.1:53 10.244.0.2:53"));
    apply(&mut backend);
    assert!(kernel.forgotten().is_empty(), "the first sync knows of no change");
    backend.set(dns("10.244.0.2:53"));
    apply(&mut backend);
    backend.set(dns(""));
    apply(&mut backend);
    backend.set(dns("10.244.0.3:53"));
    apply(&mut backend);
    assert_eq!(
        kernel.forgotten(),
        [
            "-p udp --dst-nat 10.244.0.1 --reply-port-src 53",
            "-p udp --dst-nat 10.244.0.2 --reply-port-src 53",
            "-p udp --orig-dst 10.96.0.10 --orig-port-dst 53",
        ]
    );
}

#[test]
fn a_restart_leaves_no_old_chain_behind_and_touches_nothing_foreign() {
    let kernel = Kernel::default();
    let foreign = "*nat\n:MINE - [0:0]\n:TW-MINE - [0:0]\n-A MINE -j TW-MINE\n-A PREROUTING -j MINE\n-A POSTROUTING -s 192.0.2.0/24 -j MASQUERADE\nCOMMIT\n\
                   *filter\n:MINE - [0:0]\n-A FORWARD -j MINE\nCOMMIT\n";
    kernel.clone().restore(foreign).expect("the machine's own rules");
    let untouched = kernel.clone().save().expect("saves");

    let mut first = backend(&kernel);
    first.set(plan("shop/web", &WEB));
    first.set(plan("shop/old", &["10.96.7.7:80/tcp -> 10.244.0.7:80"]));
    apply(&mut first);
    let mut second = backend(&kernel);
    second.set(plan("shop/web", &WEB));
    apply(&mut second);
    let fresh = Kernel::default();
    fresh.clone().restore(foreign).expect("the machine's own rules");
    let mut third = backend(&fresh);
    third.set(plan("shop/web", &WEB));
    apply(&mut third);
    assert_eq!(kernel.rules("nat"), fresh.rules("nat"));
    assert_eq!(kernel.rules("filter"), fresh.rules("filter"));

    assert!(cleanup(&mut kernel.clone()).expect("cleans up"));
    assert_eq!(kernel.clone().save().expect("saves"), untouched);
    assert!(!cleanup(&mut kernel.clone()).expect("cleans up"));
}

#[test]
fn what_somebody_broke_is_repaired() {
    let packets =
        [("10.244.0.9 > 10.96.0.7:80/tcp", "10.244.0.5:8080 10.244.1.6:8080"), ("node > 10.96.0.7:81/tcp", "refused")];
    for (case, script) in [
        ("a jump", "*nat\n-D OUTPUT -m comment --comment \"thalweg service proxy\" -j TW-OUTPUT\nCOMMIT\n"),
        ("a jump twice", "*nat\n-A OUTPUT -m comment --comment \"thalweg service proxy\" -j TW-OUTPUT\nCOMMIT\n"),
        (
            "a jump of another mark",
            "*filter\n-A INPUT -m comment --comment \"thalweg service proxy\" -m mark --mark 0x1/0x1 -j TW-FILTER\nCOMMIT\n",
        ),
        ("a chain's rules", "*nat\n:TW-SERVICES - [0:0]\n:TW-MASQ - [0:0]\nCOMMIT\n"),
        ("everything", "*nat\n*flush\nCOMMIT\n*filter\n*flush\nCOMMIT\n"),
    ] {
        let kernel = Kernel::default();
        let mut backend = backend(&kernel);
        backend.set(plan("shop/web", &WEB));
        apply(&mut backend);
        let good = (kernel.rules("nat"), kernel.rules("filter"));
        kernel.forget_scripts();
        assert_eq!(backend.repair().expect("looks"), Repaired::default());
        assert!(kernel.scripts().is_empty(), "{case}: nothing to repair");
        kernel.clone().restore(script).expect("breaks");
        assert_ne!((kernel.rules("nat"), kernel.rules("filter")), good, "{case}");
        assert_ne!(backend.repair().expect("repairs"), Repaired::default(), "{case}");
        assert_eq!((kernel.rules("nat"), kernel.rules("filter")), good, "{case}");
        assert_eq!(backend.repair().expect("looks"), Repaired::default(), "{case}");
        check(&kernel, &packets);
    }
}

#[test]
fn options_that_cannot_be() {
    for options in [
        Options { refuse_bit: 14, ..options() },
        Options { refuse_bit: 32, ..options() },
        Options { inside: Inside::Interfaces(vec!["eth0 -j".to_owned()]), ..options() },
        Options { inside: Inside::Interfaces(vec![String::new()]), ..options() },
    ] {
        let text = format!("{options:?}");
        assert!(matches!(IptablesBackend::new(Kernel::default(), options), Err(Error::Options { .. })), "{text}");
    }
}
