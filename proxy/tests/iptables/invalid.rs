//! Packets out of the window: nobody answers them by a reset.

use std::net::SocketAddr;

use super::raw::{ACK, RST, Raw, TCP, segment};
use super::wire::{echo, set as settings};
use super::*;

/// The endpoint says something far out of the window, which the kernel does not translate. kubernetes#74839: it came to the
/// client as from a stranger, whose reset came to the endpoint and ended the connection. When the node's address stands for
/// the client it is the node that would reset.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn packets_out_of_the_window_end_nothing() {
    for_all("i", |wire, backend, variant, family| {
        settings(&wire.node, &[("netfilter/nf_conntrack_tcp_be_liberal", "0")]);
        backend.set(service(
            family,
            "shop/web",
            &["10.96.0.7:80/tcp -> 10.244.0.5:8081", "172.30.0.11:30080/tcp ext -> 10.244.0.5:8081"],
        ));
        apply(wire, backend);
        let endpoint: SocketAddr = of(family, "10.244.0.5:8081").parse().expect("an address");
        // From a pod, whose source stays; from outside and from the node, whose source is the node's.
        let ways = [
            (&wire.b, "10.96.0.7:80", "10.244.0.6"),
            (&wire.client, "172.30.0.11:30080", "172.30.0.11"),
            (&wire.node, "10.96.0.7:80", "172.30.0.11"),
        ];
        for (from, to, seen_as) in ways {
            let case = format!("{variant:?} {family:?}: from {}", from.name());
            let at_endpoint = Raw::open(&wire.a, TCP, family == Family::V6);
            let at_client = Raw::open(from, TCP, family == Family::V6);
            let stream = wire.connect(from, &of(family, to));
            assert_eq!(echo(&stream), "hello", "{case}");
            // What the endpoint saw last says where both are.
            let seen = at_endpoint.drain();
            let last = seen.iter().rfind(|seen| seen.tcp_flags() & ACK != 0).expect("packets came");
            assert_eq!(last.from.ip().to_string(), of(family, seen_as), "{case}");
            let peer = SocketAddr::new(last.from.ip(), last.from.port());
            at_client.drain();

            let far = last.tcp_acknowledged().wrapping_add(0x3000_0000);
            at_endpoint.send(peer.ip(), &segment(endpoint, peer, far, last.tcp_sequence().wrapping_add(5), ACK));
            // On the same way, so that it comes after.
            assert_eq!(echo(&stream), "hello", "{case}: goes on");
            let strangers: Vec<_> = at_client.drain().into_iter().filter(|seen| seen.from == endpoint).collect();
            // A process of the node sees packets of its own namespace; there only the answer counts.
            assert!(strangers.is_empty() || from.name() == wire.node.name(), "{case}: {strangers:?}");
            let resets: Vec<_> = at_endpoint.drain().into_iter().filter(|seen| seen.tcp_flags() & RST != 0).collect();
            assert!(resets.is_empty(), "{case}: {resets:?}");
        }
    });
}
