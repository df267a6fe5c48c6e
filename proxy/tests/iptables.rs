//! The iptables backend on the real kernel: a node, two pods and a client as namespaces, and real packets between them.
//!
//! Every test runs with both kinds of iptables. Needs the Debian packages `iptables` and `conntrack`.

#[path = "support/wire.rs"]
mod wire;

use std::time::{Duration, Instant};

use thalweg_cluster::{Dirty, Name, Source, World};
use thalweg_proxy::iptables::{Error, Executor as _, Inside, IptablesBackend, Options, Programs, Repaired, Variant, cleanup};
use thalweg_proxy::{Backend as _, NodeView, Proxy};
use wire::{Wire, plan};

const BOTH: [Variant; 2] = [Variant::Nft, Variant::Legacy];

fn backend(variant: Variant) -> IptablesBackend {
    let inside = Inside::Sources(vec!["10.244.0.0/16".parse().expect("a network")]);
    let mut backend = IptablesBackend::new(Programs::new(variant), Options { inside, ..Options::default() }).expect("valid");
    backend.retain_only_known();
    backend
}

fn apply(wire: &Wire, backend: &mut IptablesBackend) {
    let applied = wire.node.enter(|| backend.sync(Instant::now())).expect("the node's namespace").expect("applies");
    assert!(applied.failed.is_empty(), "{:?}", applied.failed);
}

/// Rules as listed, without what only counts.
fn rules(wire: &Wire, variant: Variant) -> String {
    let listing = wire.node.enter(|| Programs::new(variant).save()).expect("the node's namespace").expect("saves");
    let lines = listing.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split(" [").next().unwrap_or(line)).collect::<Vec<_>>().join("\n")
}

/// Lines of the nat table with their counters, of chains that hold `part` in some rule.
fn counted(wire: &Wire, variant: Variant, part: &str) -> Vec<String> {
    let program = if variant == Variant::Nft { "iptables-nft-save" } else { "iptables-legacy-save" };
    let output = wire.node.command(program).args(["-c", "-t", "nat"]).output().expect("runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().filter(|line| line.contains(part)).map(str::to_owned).collect()
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn packets_reach_who_they_should() {
    for (index, variant) in BOTH.into_iter().enumerate() {
        let wire = Wire::new(&format!("p{index}"));
        let mut backend = backend(variant);
        backend.set(plan(
            "shop/web",
            &[
                "10.96.0.7:80/tcp -> 10.244.0.5:8080 10.244.0.6:8080",
                "172.30.0.11:30080/tcp -> 10.244.0.5:8080 10.244.0.6:8080",
                "172.30.0.11:30080/tcp ext -> 10.244.0.5:8080 10.244.0.6:8080",
                "172.30.0.11:30081/tcp -> 10.244.0.5:8080",
                "172.30.0.11:30081/tcp ext local -> 10.244.0.5:8080",
                "172.30.0.11:30082/tcp -> 10.244.0.5:8080",
                "172.30.0.11:30082/tcp ext local drop ->",
                "172.30.0.11:30083/tcp ->",
                "172.30.0.11:30083/tcp ext ->",
                "ours 10.96.0.7",
            ],
        ));
        backend.set(plan(
            "shop/a",
            &["10.96.0.8:80/tcp -> 10.244.0.5:8080", "10.96.0.8:53/udp -> 10.244.0.5:8080", "ours 10.96.0.8"],
        ));
        backend.set(plan("shop/none", &["10.96.0.9:80/tcp ->", "10.96.0.9:53/udp ->", "ours 10.96.0.9"]));
        backend.set(plan("shop/sticky", &["10.96.0.12:80/tcp affinity -> 10.244.0.5:8080 10.244.0.6:8080"]));
        apply(&wire, &mut backend);

        // ClusterIP: both endpoints answer, and see who dialled.
        let seen = wire.dial_often(&wire.b, "10.96.0.8:80", 3);
        assert_eq!(seen, ["a saw 10.244.0.6"], "{variant:?}: from a pod");
        assert_eq!(wire.dial_often(&wire.node, "10.96.0.7:80", 40), ["a saw 172.30.0.11", "b saw 172.30.0.11"], "{variant:?}");
        assert_eq!(wire.datagram(&wire.b, "10.96.0.8:53"), "a saw 10.244.0.6", "{variant:?}");
        // Hairpin: a pod reaches itself.
        assert_eq!(wire.dial_often(&wire.a, "10.96.0.8:80", 3), ["a saw 172.30.0.11"], "{variant:?}: hairpin");
        assert_eq!(wire.datagram(&wire.a, "10.96.0.8:53"), "a saw 172.30.0.11", "{variant:?}: hairpin");
        // From outside.
        let both = ["a saw 172.30.0.11", "b saw 172.30.0.11"];
        assert_eq!(wire.dial_often(&wire.client, "172.30.0.11:30080", 40), both, "{variant:?}: NodePort");
        assert_eq!(wire.dial_often(&wire.client, "10.96.0.7:80", 40), both, "{variant:?}: a ClusterIP from outside");
        assert_eq!(wire.dial(&wire.client, "172.30.0.11:30081"), "a saw 172.30.0.100", "{variant:?}: Local keeps the source");
        assert_eq!(wire.dial(&wire.client, "172.30.0.11:30082"), "timed out", "{variant:?}: Local without an endpoint");
        assert_eq!(wire.dial(&wire.b, "172.30.0.11:30082"), "a saw 10.244.0.6", "{variant:?}: the short cut from inside");
        assert_eq!(wire.dial(&wire.client, "172.30.0.11:30083"), "refused", "{variant:?}: NodePort without endpoints");
        // Refusal, on every way there is.
        for from in [&wire.a, &wire.node, &wire.client] {
            assert_eq!(wire.dial(from, "10.96.0.9:80"), "refused", "{variant:?}: no endpoints, from {}", from.name());
            assert_eq!(wire.dial(from, "10.96.0.7:81"), "refused", "{variant:?}: unknown port, from {}", from.name());
            // The kernel tells a sender on the node itself that the datagram was not let through, before any ICMP error could.
            let expected = if from.name() == wire.node.name() { "not permitted" } else { "refused" };
            assert_eq!(wire.datagram(from, "10.96.0.9:53"), expected, "{variant:?}: UDP, from {}", from.name());
        }
        // Who is no service's is left alone.
        assert_eq!(wire.dial(&wire.client, "10.244.0.5:8080"), "a saw 172.30.0.100", "{variant:?}: a pod's own address");
        assert_eq!(wire.dial(&wire.a, "10.244.0.6:8080"), "b saw 10.244.0.5", "{variant:?}: pod to pod");
        // Affinity: one client, one endpoint.
        assert_eq!(wire.dial_often(&wire.node, "10.96.0.12:80", 20).len(), 1, "{variant:?}: affinity");
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_change_leaves_others_and_foreign_rules_alone() {
    for (index, variant) in BOTH.into_iter().enumerate() {
        let wire = Wire::new(&format!("c{index}"));
        let conntrack = wire.node.command("conntrack").arg("--version").output().expect("nsenter runs");
        assert!(conntrack.status.success(), "install the Debian package conntrack");
        let foreign = "*nat\n:MINE - [0:0]\n-A PREROUTING -m comment --comment \"mine; -j TW-FILTER \\\"x\\\"\" -j MINE\n\
                       -A MINE -s 192.0.2.0/24 -p tcp -m tcp --dport 7 -j REDIRECT --to-ports 9\nCOMMIT\n\
                       *filter\n:MINE - [0:0]\n:TW-NOTOURS - [0:0]\n-A FORWARD -j MINE\n-A MINE -j TW-NOTOURS\nCOMMIT\n";
        let put = |script: &str| wire.node.enter(|| Programs::new(variant).restore(script)).expect("the node's namespace");
        put(foreign).expect("the machine's own rules");
        let before = rules(&wire, variant);

        let mut backend = backend(variant);
        backend.set(plan("shop/a", &["10.96.0.8:80/tcp -> 10.244.0.5:8080", "ours 10.96.0.8"]));
        backend.set(plan("shop/dns", &["10.96.0.10:53/udp -> 10.244.0.6:8080", "ours 10.96.0.10"]));
        apply(&wire, &mut backend);
        assert_eq!(wire.dial(&wire.b, "10.96.0.8:80"), "a saw 10.244.0.6");
        // One UDP socket for the whole test: its flow outlives the endpoint.
        let socket = wire.udp_socket(&wire.a, "10.96.0.10:53");
        assert_eq!(wire::ask(&socket), "b saw 10.244.0.5", "{variant:?}");

        let kept = counted(&wire, variant, "10.244.0.5:8080");
        assert!(kept.len() == 1 && kept[0].starts_with("[1:"), "{variant:?}: {kept:?}");
        let dns = |endpoints: &str| plan("shop/dns", &[&format!("10.96.0.10:53/udp -> {endpoints}"), "ours 10.96.0.10"]);
        backend.set(dns("10.244.0.5:8080"));
        apply(&wire, &mut backend);
        assert_eq!(
            counted(&wire, variant, "-p tcp -m tcp -j DNAT --to-destination 10.244.0.5:8080"),
            kept,
            "{variant:?}: untouched"
        );
        // kubernetes#59368: the next datagram of an old flow reaches a live endpoint. It is also a hairpin.
        assert_eq!(wire::ask(&socket), "a saw 172.30.0.11", "{variant:?}");
        backend.set(dns(""));
        apply(&wire, &mut backend);
        assert_eq!(wire::ask(&socket), "refused", "{variant:?}");
        // kubernetes#139628: from none to some.
        backend.set(dns("10.244.0.6:8080"));
        apply(&wire, &mut backend);
        assert_eq!(wire::ask(&socket), "b saw 10.244.0.5", "{variant:?}");

        // Somebody flushes the nat table with everything in it.
        let good = rules(&wire, variant);
        let mut repair = || wire.node.enter(|| backend.repair()).expect("the node's namespace").expect("repairs");
        assert_eq!(repair(), Repaired::default(), "{variant:?}: all is well");
        put("*nat\n:TW-SERVICES - [0:0]\n:TW-PREROUTING - [0:0]\n-D OUTPUT -m comment --comment \"thalweg service proxy\" -j TW-OUTPUT\nCOMMIT\n").expect("breaks");
        assert_eq!(repair(), Repaired { chains: 2, jumps: 1 }, "{variant:?}");
        assert_eq!(rules(&wire, variant), good, "{variant:?}");
        assert_eq!(wire.dial(&wire.b, "10.96.0.8:80"), "a saw 10.244.0.6", "{variant:?}");

        // A new agent takes over what is there, and forgets what is no more.
        let mut backend = self::backend(variant);
        backend.set(plan("shop/a", &["10.96.0.8:80/tcp -> 10.244.0.5:8080", "ours 10.96.0.8"]));
        apply(&wire, &mut backend);
        assert_eq!(wire.dial(&wire.b, "10.96.0.8:80"), "a saw 10.244.0.6", "{variant:?}");
        assert!(!rules(&wire, variant).contains("10.96.0.10/"), "{variant:?}: dns is gone");
        backend.remove(&Name::new("shop", "a"));
        apply(&wire, &mut backend);

        let clean =
            || wire.node.enter(|| cleanup(&mut Programs::new(variant))).expect("the node's namespace").expect("cleans up");
        assert!(clean(), "{variant:?}");
        assert_eq!(rules(&wire, variant), before, "{variant:?}: byte for byte");
        assert!(!clean(), "{variant:?}: nothing is left");
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn what_is_refused_is_named() {
    for (index, variant) in BOTH.into_iter().enumerate() {
        let wire = Wire::new(&format!("e{index}"));
        let script = "*nat\n:TW-PROBE - [0:0]\n-A TW-PROBE -j ACCEPT\n-A TW-PROBE -m nonsense -j ACCEPT\n-A TW-PROBE -j RETURN\n-A TW-PROBE -j RETURN\nCOMMIT\n";
        let refused = wire.node.enter(|| Programs::new(variant).restore(script)).expect("the node's namespace");
        match refused {
            Err(Error::Refused { line: 4, rule, .. }) => assert_eq!(rule, "-A TW-PROBE -m nonsense -j ACCEPT", "{variant:?}"),
            other => panic!("{variant:?}: {other:?}"),
        }
        assert!(!rules(&wire, variant).contains("TW-PROBE"), "{variant:?}: nothing of it was done");
    }
}

/// nf_tables refuses a chain that is more than 15 jumps deep. Addresses that part at every digit, and ports that part too, make the longest way.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn the_deepest_tree_is_shallow_enough() {
    for (index, variant) in BOTH.into_iter().enumerate() {
        let wire = Wire::new(&format!("d{index}"));
        let inside = Inside::Sources(vec!["10.244.0.0/16".parse().expect("a network")]);
        let options = Options { inside, masquerade_all: true, ..Options::default() };
        let mut backend = IptablesBackend::new(Programs::new(variant), options).expect("valid");
        backend.retain_only_known();
        let deep = u32::from(std::net::Ipv4Addr::new(10, 96, 0, 7));
        let parting = (0..7).map(|digit| deep ^ (0x1000_0000 >> (4 * digit)));
        let neighbours = (0..16).map(|last| (deep & !15) | last);
        for vip in parting.chain(neighbours).map(std::net::Ipv4Addr::from) {
            let lines: Vec<String> = (0..20)
                .flat_map(|port| ["", "ext"].map(|scope| format!("{vip}:{}/tcp {scope} -> 10.244.0.5:8080", 80 + port * 300)))
                .chain([format!("ours {vip}")])
                .collect();
            backend.set(plan(&format!("deep/{vip}"), &lines.iter().map(String::as_str).collect::<Vec<_>>()));
        }
        apply(&wire, &mut backend);
        for from in [&wire.a, &wire.client, &wire.node] {
            assert_eq!(wire.dial(from, "10.96.0.7:5780"), "a saw 172.30.0.11", "{variant:?}: from {}", from.name());
            assert_eq!(wire.dial(from, "10.96.0.7:5781"), "refused", "{variant:?}: from {}", from.name());
        }
        assert_eq!(wire.dial(&wire.a, "10.244.0.6:8080"), "b saw 10.244.0.5", "{variant:?}: no service");
    }
}

const CLUSTER: &str = "
apiVersion: v1
kind: Node
metadata: {name: n1}
status: {addresses: [{type: InternalIP, address: 172.30.0.11}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, externalTrafficPolicy: Local, clusterIP: 10.96.0.7, ports: [{name: http, port: 80, nodePort: 30080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.244.0.5], nodeName: n1}, {addresses: [10.244.0.6], nodeName: n2}]
";

/// From Kubernetes objects to packets, by the same proxy that the eBPF backend has.
#[tokio::test]
#[ignore = "needs root: run by cargo xtask test"]
async fn objects_become_packets() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let manifest = dir.path().join("cluster.yaml");
    std::fs::write(&manifest, CLUSTER).expect("write");
    let (sink, mut batches) = tokio::sync::mpsc::channel(8);
    let watching = tokio::spawn(Source::File(manifest).run(sink));
    let batch = tokio::time::timeout(Duration::from_secs(10), batches.recv()).await.expect("in time").expect("a batch");
    let (mut world, mut dirty) = (World::default(), Dirty::default());
    for change in batch.changes {
        world.apply(change, &mut dirty);
    }
    watching.abort();

    let wire = Wire::new("o");
    let inside = Inside::Sources(vec!["10.244.0.0/16".parse().expect("a network")]);
    let options = Options { inside, ..Options::default() };
    let backend = IptablesBackend::new(Programs::new(Variant::Default), options).expect("valid");
    let view = NodeView { node: "n1".into(), addresses: Vec::new(), zone: None, redirect: None };
    let mut proxy = Proxy::new(backend, view);
    let applied = wire.node.enter(|| proxy.first_sync(&world)).expect("the node's namespace").expect("applies");
    assert!(applied.failed.is_empty() && applied.services == 1, "{applied:?}");
    assert_eq!(wire.dial_often(&wire.node, "10.96.0.7:80", 40), ["a saw 172.30.0.11", "b saw 172.30.0.11"]);
    assert_eq!(wire.dial(&wire.node, "10.96.0.7:81"), "refused");
    assert_eq!(wire.dial_often(&wire.client, "172.30.0.11:30080", 10), ["a saw 172.30.0.100"], "Local: the endpoint here");
}
