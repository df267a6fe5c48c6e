//! Rules go, flows stay: what changing to the eBPF mode relies on.

use thalweg_proxy::iptables::translated_flows;

use super::wire::{ask, echo};
use super::*;

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn flows_outlive_their_rules() {
    for_all("r", |wire, backend, variant, family| {
        let own = |text: &str| of(family, text);
        let case = |what: &str| format!("{variant:?} {family:?}: {what}");
        backend.retain_only_known();
        backend.set(service(
            family,
            "shop/web",
            &[
                "10.96.0.7:80/tcp -> 10.244.0.5:8081",
                "10.96.0.7:53/udp -> 10.244.0.5:8080",
                "172.30.0.11:30080/tcp ext -> 10.244.0.5:8081",
            ],
        ));
        apply(wire, backend);
        let ways = [(&wire.b, "10.96.0.7:80"), (&wire.node, "10.96.0.7:80"), (&wire.client, "172.30.0.11:30080")];
        let streams = ways.map(|(from, to)| wire.connect(from, &own(to)));
        let socket = wire.udp_socket(&wire.b, &own("10.96.0.7:53"));
        assert_eq!(ask(&socket), own("a saw 10.244.0.6"));

        let draining = wire.node.enter(|| backend.drain()).expect("the node's namespace").expect("drains");
        let left = rules(wire, variant).lines().filter(|line| line.starts_with("-A") && line.contains("TW-")).count();
        assert_eq!(left, 2, "{}", case("what keeps the kernel translating, of each family"));
        let flows = wire.node.enter(|| draining.flows()).expect("the node's namespace").expect("reads");
        assert_eq!(flows.len(), 4, "{}: {flows:?}", case("three connections and a UDP flow"));
        assert!(
            flows.iter().all(|flow| flow.reply.0.ip() == own("10.244.0.5").parse::<std::net::IpAddr>().expect("an address"))
        );
        for (stream, (from, _)) in streams.iter().zip(&ways) {
            assert_eq!(echo(stream), "hello", "{}", case(from.name()));
        }
        assert_eq!(ask(&socket), own("a saw 10.244.0.6"), "{}", case("UDP"));
        assert_eq!(wire.dial(&wire.client, &own("172.30.0.11:30080")), "refused", "{}", case("nobody serves new flows"));
        let vip: std::net::SocketAddr = own("10.96.0.7:80").parse().expect("an address");
        let others = wire.node.enter(|| translated_flows(&|_, dialled| dialled == vip)).expect("enter").expect("reads");
        assert_eq!(others.len(), 2, "{}: {others:?}", case("whose flows are asked for"));
    });
}
