//! The backend on a kernel in memory, for both families: what packets meet after each apply, what a change writes, and
//! that steps lead where one leap does.

mod changes;
mod flows;
mod kernel;
mod packets;
mod repair;
mod steps;
#[path = "../../tests/support/words.rs"]
mod words;

use std::time::Instant;

use thalweg_cluster::Family;

use super::*;
use crate::plan;
use kernel::{Kernel, Packet, outcomes};
use words::of;

fn options() -> Options {
    let inside = ["10.244.0.0/16", "fd00::10:244:0:0/96"].map(|network| network.parse().expect("a network"));
    Options { inside: Inside::Sources(inside.into()), ..Options::default() }
}

fn backend(kernel: &Kernel) -> IptablesBackend {
    backend_with(kernel, options())
}

fn backend_with(kernel: &Kernel, options: Options) -> IptablesBackend {
    let mut backend = IptablesBackend::new(kernel.clone(), options).expect("valid options");
    backend.retain_only_known();
    backend
}

/// As soon as there is something to do, or to try again.
fn sync(backend: &mut IptablesBackend) -> Applied {
    let now = backend.next_deadline().unwrap_or_else(Instant::now);
    backend.sync(now).expect("applies")
}

fn apply(backend: &mut IptablesBackend) -> Applied {
    let applied = sync(backend);
    assert!(applied.failed.is_empty(), "{:?}", applied.failed);
    applied
}

fn name(text: &str) -> Name {
    let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
    Name::new(namespace, name)
}

/// A service of one family, its addresses written as those of IPv4.
fn service(family: Family, name: &str, lines: &[&str]) -> ServicePlan {
    let lines: Vec<String> = lines.iter().map(|line| of(family, line)).collect();
    words::service(name, &lines.iter().map(String::as_str).collect::<Vec<_>>())
}

/// What may happen to a packet `FROM > TO/PROTO`; FROM `node` is the node itself.
fn meets(kernel: &Kernel, packet: &str) -> String {
    let (from, to) = packet.split_once(" > ").expect("a packet");
    let (to, protocol) = to.split_once('/').expect("a protocol");
    let source = if from == "node" { None } else { Some(from.parse().expect("an address")) };
    let protocol = match protocol {
        "udp" => "udp",
        "sctp" => "sctp",
        _ => "tcp",
    };
    let found = outcomes(kernel, &Packet { source, to: to.parse().expect("an address"), protocol });
    found.into_iter().collect::<Vec<_>>().join(" ")
}

fn check(kernel: &Kernel, family: Family, cases: &[(&str, &str)]) {
    for (packet, expected) in cases {
        let packet = of(family, packet);
        assert_eq!(meets(kernel, &packet), of(family, expected), "{packet}");
    }
}

const WEB: [&str; 4] = [
    "10.96.0.7:80/tcp -> 10.244.0.5:8080 10.244.1.6:8080",
    "172.30.0.11:30080/tcp -> 10.244.0.5:8080 10.244.1.6:8080",
    "172.30.0.11:30080/tcp ext -> 10.244.0.5:8080 10.244.1.6:8080",
    "ours 10.96.0.7",
];

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
