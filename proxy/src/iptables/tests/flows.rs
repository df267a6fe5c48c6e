//! Which flows a change ends, and how much of the connection table is looked at for it.

use std::net::SocketAddr;

use thalweg_abi::Proto;

use super::*;
use crate::iptables::flows::{Filter, Flow, Narrow};

const POD: &str = "10.244.0.9:4000";

/// A flow `PROTO POD > DIALLED > ENDPOINT`.
fn flow(family: Family, text: &str) -> Flow {
    let address = |text: &str| -> SocketAddr { of(family, text).parse().expect("an address") };
    let (protocol, rest) = text.split_once(' ').expect("a protocol");
    let (dialled, endpoint) = rest.split_once(" > ").expect("an endpoint");
    Flow {
        protocol: match protocol {
            "udp" => Proto::UDP,
            "sctp" => Proto::SCTP,
            _ => Proto::TCP,
        },
        original: (address(POD), address(dialled)),
        reply: (address(endpoint), address(POD)),
    }
}

/// Runs two applies with flows between them, and says which of those are left, and how the table was walked.
fn left(family: Family, before: &[&str], flows: &[&str], after: &[&str]) -> (Vec<String>, Vec<Filter>) {
    let kernel = Kernel::default();
    let mut backend = backend(&kernel);
    backend.set(service(family, "shop/x", before));
    apply(&mut backend);
    kernel.take_walks();
    for text in flows {
        kernel.add_flow(flow(family, text));
    }
    backend.set(service(family, "shop/x", after));
    apply(&mut backend);
    let left = kernel.flows();
    let left = flows.iter().filter(|text| left.contains(&flow(family, text))).map(|text| (*text).to_owned()).collect();
    (left, kernel.take_walks())
}

fn narrow(family: Family, protocol: Proto, narrow: Narrow) -> Filter {
    Filter { family, protocol, narrow }
}

#[test]
fn endpoints_that_go_take_their_flows_along() {
    for family in FAMILIES {
        let address = |text: &str| -> SocketAddr { of(family, text).parse().expect("an address") };
        // kubernetes#59368, and for TCP kubernetes#46753
        for (protocol, number) in [("udp", Proto::UDP), ("sctp", Proto::SCTP), ("tcp", Proto::TCP)] {
            let dialled = format!("10.96.0.10:53/{protocol}");
            let (kept, lost) =
                (format!("{protocol} 10.96.0.10:53 > 10.244.0.2:53"), format!("{protocol} 10.96.0.10:53 > 10.244.0.1:53"));
            let other = format!("{protocol} 10.96.0.99:53 > 10.244.0.1:53");
            let (left, walks) = left(
                family,
                &[&format!("{dialled} -> 10.244.0.1:53 10.244.0.2:53")],
                &[&kept, &lost, &other],
                &[&format!("{dialled} -> 10.244.0.2:53")],
            );
            assert_eq!(left, [kept, other], "of another service: let be");
            assert_eq!(
                walks,
                [narrow(family, number, Narrow::Endpoint(address("10.244.0.1:53")))],
                "one walk for one endpoint"
            );
        }
    }
}

// kubernetes#129982, #135323: the table is not walked for nothing.
#[test]
fn nothing_is_looked_at_when_nothing_was_lost() {
    for (before, after) in [
        ("10.96.0.10:53/udp -> 10.244.0.1:53", "10.96.0.10:53/udp -> 10.244.0.1:53 10.244.0.2:53"),
        ("10.96.0.10:80/tcp ->", "10.96.0.10:80/tcp -> 10.244.0.1:80"),
        ("10.96.0.10:53/udp -> 10.244.0.1:53", "10.96.0.10:53/udp affinity -> 10.244.0.1:53"),
    ] {
        assert_eq!(left(Family::V4, &[before], &[], &[after]).1, [], "{before} to {after}");
    }
}

// kubernetes#139628
#[test]
fn from_none_to_some() {
    for family in FAMILIES {
        let untranslated = "udp 10.96.0.10:53 > 10.96.0.10:53";
        let (left, walks) = left(family, &["10.96.0.10:53/udp ->"], &[untranslated], &["10.96.0.10:53/udp -> 10.244.0.1:53"]);
        assert!(left.is_empty());
        let dialled = of(family, "10.96.0.10:53").parse().expect("an address");
        assert_eq!(walks, [narrow(family, Proto::UDP, Narrow::Dialled(dialled))]);
    }
}

#[test]
fn who_drains_keeps_his_flows() {
    let flows = ["tcp 10.96.0.10:80 > 10.244.0.1:80", "tcp 10.96.0.10:80 > 10.244.0.2:80"];
    let after = ["10.96.0.10:80/tcp -> 10.244.0.2:80", "draining -> 10.244.0.1:80"];
    let (left_all, walks) = left(Family::V4, &["10.96.0.10:80/tcp -> 10.244.0.1:80 10.244.0.2:80"], &flows, &after);
    assert_eq!((left_all, walks.len()), (flows.map(str::to_owned).to_vec(), 0));
    // Until he is gone.
    let (left_one, walks) = left(Family::V4, &after, &flows, &after[..1]);
    assert_eq!((left_one, walks.len()), (vec![flows[1].to_owned()], 1));
}

#[test]
fn a_frontend_that_goes_and_one_that_only_drops() {
    let flows =
        ["udp 10.96.0.10:53 > 10.244.0.1:53", "udp 172.30.0.11:30053 > 10.244.0.1:53", "tcp 172.30.0.11:22 > 172.30.0.11:22"];
    let before = [
        "10.96.0.10:53/udp -> 10.244.0.1:53",
        "172.30.0.11:30053/udp -> 10.244.0.1:53",
        "172.30.0.11:30053/udp ext local -> 10.244.0.1:53",
    ];
    let (left_one, _) = left(Family::V4, &before, &flows, &before[..1]);
    assert_eq!(left_one, [flows[0], flows[2]], "the NodePort's flows go with it");
    // Outside there is none of this node any more, inside there is.
    let (left_all, _) = left(Family::V4, &before, &flows, &[before[0], before[1], "172.30.0.11:30053/udp ext local drop ->"]);
    assert_eq!(left_all, flows, "one of both scopes serves it");
}

#[test]
fn a_process_that_had_the_port_keeps_its_connections() {
    let own = "tcp 172.30.0.11:30080 > 172.30.0.11:30080";
    let many: Vec<String> = (1..=9).map(|last| format!("10.244.0.{last}:80")).collect();
    let before = format!("172.30.0.11:30080/tcp -> {}", many.join(" "));
    let (left, walks) = left(Family::V4, &[&before], &[own], &["172.30.0.11:30080/tcp ->"]);
    assert_eq!(left, [own]);
    assert_eq!(walks, [narrow(Family::V4, Proto::TCP, Narrow::All)], "nine of a protocol are looked for in one walk");
}

// kubernetes#122740
#[test]
fn a_new_agent_looks_for_what_the_old_one_missed() {
    for family in FAMILIES {
        let kernel = Kernel::default();
        let texts =
            ["udp 10.96.0.10:53 > 10.244.0.1:53", "udp 10.96.0.10:53 > 10.244.0.2:53", "udp 10.99.0.1:53 > 10.244.0.1:53"];
        for text in texts {
            kernel.add_flow(flow(family, text));
        }
        let mut backend = backend(&kernel);
        backend.set(service(family, "shop/dns", &["10.96.0.10:53/udp -> 10.244.0.2:53"]));
        apply(&mut backend);
        assert_eq!(kernel.flows(), [flow(family, texts[1]), flow(family, texts[2])]);
        assert_eq!(kernel.take_walks(), [narrow(family, Proto::UDP, Narrow::All)]);
    }
}
