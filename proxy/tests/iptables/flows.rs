//! Flows whose endpoint goes: datagrams move on, connections end at once.

use thalweg_proxy::Backend as _;

use super::wire::{ask, echo};
use super::*;

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn datagrams_follow_the_endpoints() {
    for_all("u", |wire, backend, variant, family| {
        let own = |text: &str| of(family, text);
        let case = format!("{variant:?} {family:?}");
        let mut serve = |endpoints: &str| {
            backend.set(service(family, "shop/dns", &[&format!("10.96.0.10:53/udp -> {endpoints}"), "ours 10.96.0.10"]));
            apply(wire, backend);
        };
        serve("10.244.0.6:8080");
        // One socket for the whole test: its flow outlives the endpoint.
        let socket = wire.udp_socket(&wire.a, &own("10.96.0.10:53"));
        assert_eq!(ask(&socket), own("b saw 10.244.0.5"), "{case}");
        serve("10.244.0.5:8080");
        // kubernetes#59368: the next datagram of an old flow reaches a live endpoint. It is also a hairpin.
        assert_eq!(ask(&socket), own("a saw 172.30.0.11"), "{case}");
        serve("");
        assert_eq!(ask(&socket), "refused", "{case}");
        // kubernetes#139628: from none to some.
        serve("10.244.0.6:8080");
        assert_eq!(ask(&socket), own("b saw 10.244.0.5"), "{case}");
        // kubernetes#122740: the endpoint changes while no agent runs.
        let mut next = self::backend(variant);
        next.set(service(family, "shop/dns", &["10.96.0.10:53/udp -> 10.244.0.5:8080"]));
        apply(wire, &mut next);
        assert_eq!(ask(&socket), own("a saw 172.30.0.11"), "{case}: after a restart");
    });
}

/// What was sent before there was a service went somewhere untranslated, and would go there for as long as it is sent.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn datagrams_from_before_the_service_find_it() {
    for_all("n", |wire, backend, variant, family| {
        apply(wire, backend);
        let socket = wire.udp_socket(&wire.a, &of(family, "10.96.0.77:53"));
        assert_eq!(ask(&socket), "timed out", "{variant:?} {family:?}: out by the default route");
        backend.set(service(family, "shop/new", &["10.96.0.77:53/udp -> 10.244.0.6:8080"]));
        apply(wire, backend);
        assert_eq!(ask(&socket), of(family, "b saw 10.244.0.5"), "{variant:?} {family:?}");
    });
}

// kubernetes#46753
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn connections_to_an_endpoint_that_is_gone_are_reset() {
    for_all("t", |wire, backend, variant, family| {
        let own = |text: &str| of(family, text);
        let mut serve = |lines: &[&str]| {
            backend.set(service(family, "shop/web", lines));
            apply(wire, backend);
        };
        for (after, others) in [("with others", "10.96.0.7:80/tcp -> 10.244.0.6:8081"), ("without", "10.96.0.7:80/tcp ->")] {
            for from in [&wire.b, &wire.node, &wire.client] {
                let case = format!("{variant:?} {family:?}: {after}, from {}", from.name());
                serve(&["10.96.0.7:80/tcp -> 10.244.0.5:8081"]);
                let stream = wire.connect(from, &own("10.96.0.7:80"));
                assert_eq!(echo(&stream), "hello", "{case}");
                // Draining, it goes on.
                serve(&[others, "draining -> 10.244.0.5:8081"]);
                assert_eq!(echo(&stream), "hello", "{case}: draining");
                serve(&[others]);
                assert_eq!(echo(&stream), "reset", "{case}");
            }
        }
    });
}
