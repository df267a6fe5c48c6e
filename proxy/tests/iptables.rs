//! The iptables backend on the real kernel: a node, two pods and a client as namespaces, and real packets between them.
//!
//! Every test runs with both kinds of iptables and both families. Needs the Debian package `iptables`.

#[path = "iptables/changes.rs"]
mod changes;
#[path = "iptables/drain.rs"]
mod drain;
#[path = "iptables/flows.rs"]
mod flows;
#[path = "iptables/foreign.rs"]
mod foreign;
#[path = "iptables/invalid.rs"]
mod invalid;
#[path = "iptables/objects.rs"]
mod objects;
#[path = "iptables/packets.rs"]
mod packets;
#[path = "iptables/raw.rs"]
mod raw;
#[path = "iptables/sctp.rs"]
mod sctp;
#[path = "support/wire.rs"]
mod wire;

use std::time::Instant;

use thalweg_cluster::Family;
use thalweg_proxy::Backend as _;
use thalweg_proxy::iptables::{Executor as _, Inside, IptablesBackend, Options, Programs, Variant};
use thalweg_proxy::plan::ServicePlan;
use wire::Wire;
use wire::words::{self, of};

const BOTH: [Variant; 2] = [Variant::Nft, Variant::Legacy];
const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

fn options() -> Options {
    let inside = ["10.244.0.0/16", "fd00::10:244:0:0/96"].map(|network| network.parse().expect("a network"));
    Options { inside: Inside::Sources(inside.into()), ..Options::default() }
}

fn backend(variant: Variant) -> IptablesBackend {
    let mut backend = IptablesBackend::new(Programs::new(variant), options()).expect("valid");
    backend.retain_only_known();
    backend
}

fn apply(wire: &Wire, backend: &mut IptablesBackend) {
    let applied = wire.node.enter(|| backend.sync(Instant::now())).expect("the node's namespace").expect("applies");
    assert!(applied.failed.is_empty(), "{:?}", applied.failed);
}

/// A service of one family, its addresses written as those of IPv4.
fn service(family: Family, name: &str, lines: &[&str]) -> ServicePlan {
    let lines: Vec<String> = lines.iter().map(|line| of(family, line)).collect();
    words::service(&format!("{name}-{family:?}"), &lines.iter().map(String::as_str).collect::<Vec<_>>())
}

/// The same service in each family.
fn set(backend: &mut IptablesBackend, name: &str, lines: &[&str]) {
    for family in FAMILIES {
        backend.set(service(family, name, lines));
    }
}

/// Runs a script of somebody else.
fn put(wire: &Wire, variant: Variant, family: Family, script: &str) {
    wire.node.enter(|| Programs::new(variant).restore(family, script)).expect("the node's namespace").expect("restores");
}

/// Rules of both families as listed, without what only counts.
fn rules(wire: &Wire, variant: Variant) -> String {
    let listings = FAMILIES.map(|family| {
        let listing = wire.node.enter(|| Programs::new(variant).save(family)).expect("the node's namespace").expect("saves");
        let lines = listing.lines().filter(|line| !line.starts_with('#'));
        lines.map(|line| line.split(" [").next().unwrap_or(line).to_owned()).collect::<Vec<_>>().join("\n")
    });
    listings.join("\n")
}

/// Calls a test for each kind of iptables, with namespaces of its own, and each family.
fn for_all(name: &str, mut test: impl FnMut(&Wire, &mut IptablesBackend, Variant, Family)) {
    for (index, variant) in BOTH.into_iter().enumerate() {
        let wire = Wire::new(&format!("{name}{index}"));
        let mut backend = backend(variant);
        for family in FAMILIES {
            test(&wire, &mut backend, variant, family);
        }
    }
}
