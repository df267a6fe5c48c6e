//! Choosing endpoints: slices merged, readiness, termination, topology, locality. As pkg/proxy/topology.go of
//! Kubernetes 1.36 decides, for each family by itself.

use std::net::SocketAddr;
use std::sync::Arc;

use thalweg_cluster::{Condition, Endpoint, EndpointSlice, Family, Port};

use super::NodeView;

/// What all slices together say about one endpoint of one port.
#[derive(Debug)]
pub(super) struct Candidate<'a> {
    address: SocketAddr,
    condition: Condition,
    /// On this node.
    local: bool,
    hint_nodes: &'a [Arc<str>],
    hint_zones: &'a [Arc<str>],
    /// It is in a set, so that it gets new flows.
    chosen: bool,
}

/// The endpoints of one service port: in the order of their addresses, which is IPv4 before IPv6, each once.
#[derive(Debug)]
pub(super) struct Candidates<'a>(Vec<Candidate<'a>>);

/// What the hints on the endpoints allow.
#[derive(Clone, Copy)]
enum Topology<'a> {
    All,
    Node(&'a str),
    Zone(&'a str),
}

// === impl Candidates ===

impl<'a> Candidates<'a> {
    /// Merges the slices of a service for one of its ports. The number of a named port may differ from slice to slice.
    pub fn merge(slices: impl Iterator<Item = &'a Arc<EndpointSlice>>, port: &Port, node: &str) -> Self {
        let mut all = Vec::new();
        for slice in slices {
            for number in slice.ports.iter().filter(|offered| offered.name == port.name && offered.protocol == port.protocol) {
                all.extend(slice.endpoints.iter().map(|endpoint| Candidate::new(endpoint, number.port, node)));
            }
        }
        // Stable: of one endpoint in two slices the first one stays first.
        all.sort_by_key(|candidate| candidate.address);
        all.dedup_by(|later, first| {
            let same = later.address == first.address;
            if same {
                first.merge(later);
            }
            same
        });
        Self(all)
    }

    /// Puts listeners of this node in the place of the endpoints of their family; the other family keeps its own.
    pub fn replace(&mut self, listeners: &[SocketAddr]) {
        self.0.retain(|candidate| !listeners.iter().any(|listener| listener.is_ipv4() == candidate.address.is_ipv4()));
        self.0.extend(listeners.iter().map(|listener| Candidate::fixed(*listener)));
        self.0.sort_by_key(|candidate| candidate.address);
        self.0.dedup_by_key(|candidate| candidate.address);
    }

    /// Where traffic under the policy Cluster goes: to the ready endpoints that topology allows, or when nobody is ready
    /// to those that serve while they terminate.
    pub fn cluster(&mut self, family: Family, view: &NodeView) -> Vec<SocketAddr> {
        let candidates = self.of_family(family);
        let topology = Topology::of(candidates, view);
        let chosen = choose(candidates, |candidate| candidate.condition.ready && topology.allows(candidate));
        if chosen.is_empty() { choose(candidates, |candidate| candidate.last_resort()) } else { chosen }
    }

    /// Where traffic under a policy Local goes. It falls back by itself: an endpoint that terminates here serves on,
    /// although others are ready elsewhere. Topology does not matter.
    pub fn local(&mut self, family: Family) -> Vec<SocketAddr> {
        let candidates = self.of_family(family);
        let chosen = choose(candidates, |candidate| candidate.condition.ready && candidate.local);
        if chosen.is_empty() { choose(candidates, |candidate| candidate.last_resort() && candidate.local) } else { chosen }
    }

    /// There is an endpoint somewhere that would be used if policies allowed.
    pub fn any(&mut self, family: Family) -> bool {
        self.of_family(family).iter().any(|candidate| candidate.condition.ready || candidate.last_resort())
    }

    /// Those in no set: the address, and whether it still serves.
    pub fn left_over(&self) -> impl Iterator<Item = (SocketAddr, bool)> {
        let left = self.0.iter().filter(|candidate| !candidate.chosen);
        left.map(|candidate| (candidate.address, candidate.condition.ready || candidate.condition.serving))
    }

    fn of_family(&mut self, family: Family) -> &mut [Candidate<'a>] {
        let split = self.0.partition_point(|candidate| candidate.address.is_ipv4());
        match family {
            Family::V4 => &mut self.0[..split],
            Family::V6 => &mut self.0[split..],
        }
    }
}

fn choose(candidates: &mut [Candidate<'_>], allowed: impl Fn(&Candidate<'_>) -> bool) -> Vec<SocketAddr> {
    let chosen = candidates.iter_mut().filter(|candidate| allowed(candidate));
    chosen
        .map(|candidate| {
            candidate.chosen = true;
            candidate.address
        })
        .collect()
}

// === impl Candidate ===

impl<'a> Candidate<'a> {
    fn new(endpoint: &'a Endpoint, port: u16, node: &str) -> Self {
        Self {
            address: SocketAddr::new(endpoint.address, port),
            condition: endpoint.condition,
            local: endpoint.node.as_deref() == Some(node),
            hint_nodes: endpoint.hint_nodes(),
            hint_zones: endpoint.hint_zones(),
            chosen: false,
        }
    }

    /// A listener of this node.
    fn fixed(address: SocketAddr) -> Self {
        let condition = Condition { ready: true, serving: true, terminating: false };
        Self { address, condition, local: true, hint_nodes: &[], hint_zones: &[], chosen: false }
    }

    /// The same endpoint in two slices, as happens while the controller moves it: the better news is believed.
    fn merge(&mut self, other: &Self) {
        if other.condition.ready && !self.condition.ready {
            (self.hint_nodes, self.hint_zones) = (other.hint_nodes, other.hint_zones);
        }
        self.condition.ready |= other.condition.ready;
        self.condition.serving |= other.condition.serving;
        self.condition.terminating &= other.condition.terminating;
        self.local |= other.local;
    }

    /// Used only when nobody is ready.
    fn last_resort(&self) -> bool {
        self.condition.serving && self.condition.terminating
    }
}

// === impl Topology ===

impl<'a> Topology<'a> {
    /// Hints count only when every ready endpoint carries one, and one of them is for us: a half-hinted service
    /// would overload those that have hints. Hints for nodes (PreferSameNode) come before hints for zones
    /// (PreferSameZone, PreferClose); what the service itself says has been turned into hints already.
    fn of(candidates: &[Candidate<'_>], view: &'a NodeView) -> Self {
        let (node, zone): (&str, _) = (&view.node, view.zone.as_deref());
        let ready = || candidates.iter().filter(|candidate| candidate.condition.ready);
        match zone {
            _ if count(|| ready().map(|candidate| candidate.hint_nodes), node) => Self::Node(node),
            Some(zone) if count(|| ready().map(|candidate| candidate.hint_zones), zone) => Self::Zone(zone),
            _ => Self::All,
        }
    }

    fn allows(self, candidate: &Candidate<'_>) -> bool {
        match self {
            Self::All => true,
            Self::Node(node) => names(candidate.hint_nodes, node),
            Self::Zone(zone) => names(candidate.hint_zones, zone),
        }
    }
}

fn count<'h, I: Iterator<Item = &'h [Arc<str>]>>(hints: impl Fn() -> I, wanted: &str) -> bool {
    hints().all(|hints| !hints.is_empty()) && hints().any(|hints| names(hints, wanted))
}

fn names(list: &[Arc<str>], wanted: &str) -> bool {
    list.iter().any(|name| &**name == wanted)
}
