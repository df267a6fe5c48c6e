//! Choosing endpoints: slices merged, readiness, termination, topology, locality.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use thalweg_cluster::{Endpoint, EndpointSlice, Port};

use super::NodeView;

/// What all slices together say about one endpoint of one port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Candidate {
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
    /// On this node.
    pub local: bool,
    pub zones: Vec<Arc<str>>,
    pub nodes: Vec<Arc<str>>,
}

/// Who was chosen, for each family by itself.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Chosen {
    v4: Sets,
    v6: Sets,
}

/// Endpoints for new flows, in order.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Sets {
    pub cluster: Vec<SocketAddr>,
    pub local: Vec<SocketAddr>,
    /// There is an endpoint somewhere that would be used if policies allowed.
    pub any: bool,
}

/// What the hints on the endpoints allow.
enum Topology<'a> {
    All,
    Node(&'a str),
    Zone(&'a str),
}

/// Merges the slices of a service for one of its ports. The number of a named port may differ from slice to slice.
pub(super) fn merge<'a>(
    slices: impl Iterator<Item = &'a Arc<EndpointSlice>>,
    port: &Port,
    node: &str,
) -> BTreeMap<SocketAddr, Candidate> {
    let mut merged = BTreeMap::new();
    for slice in slices {
        for number in slice.ports.iter().filter(|offered| offered.name == port.name && offered.protocol == port.protocol) {
            for endpoint in &slice.endpoints {
                let Some(address) = endpoint.addresses.first() else { continue };
                let address = SocketAddr::new(*address, number.port);
                let candidate = Candidate::new(endpoint, node);
                merged.entry(address).and_modify(|held: &mut Candidate| held.merge(&candidate)).or_insert(candidate);
            }
        }
    }
    merged
}

/// Decides for each family by itself: an endpoint of one is none for the other.
pub(super) fn choose(candidates: &BTreeMap<SocketAddr, Candidate>, view: &NodeView) -> Chosen {
    let (v4, v6) = candidates.clone().into_iter().partition(|(address, _)| address.is_ipv4());
    Chosen { v4: choose_sets(&v4, view), v6: choose_sets(&v6, view) }
}

/// Decides the cluster set and the local set, each with its own fallback to endpoints that serve while they terminate.
fn choose_sets(candidates: &BTreeMap<SocketAddr, Candidate>, view: &NodeView) -> Sets {
    let topology = Topology::of(candidates, view);
    let pick = |allowed: &dyn Fn(&Candidate) -> bool| -> Vec<SocketAddr> {
        candidates.iter().filter(|(_, candidate)| allowed(candidate)).map(|(address, _)| *address).collect()
    };
    let mut cluster = pick(&|candidate| candidate.ready && topology.allows(candidate));
    if cluster.is_empty() {
        cluster = pick(&Candidate::last_resort);
    }
    let mut local = pick(&|candidate| candidate.ready && candidate.local);
    if local.is_empty() {
        local = pick(&|candidate| candidate.last_resort() && candidate.local);
    }
    Sets { any: candidates.values().any(|candidate| candidate.ready || candidate.last_resort()), cluster, local }
}

// === impl Candidate ===

impl Candidate {
    fn new(endpoint: &Endpoint, node: &str) -> Self {
        Self {
            ready: endpoint.condition.ready,
            serving: endpoint.condition.serving,
            terminating: endpoint.condition.terminating,
            local: endpoint.node.as_deref() == Some(node),
            zones: endpoint.hint_zones.clone(),
            nodes: endpoint.hint_nodes.clone(),
        }
    }

    /// The same endpoint in two slices, as happens while the controller moves it: the better news is believed.
    fn merge(&mut self, other: &Self) {
        if other.ready && !self.ready {
            self.zones.clone_from(&other.zones);
            self.nodes.clone_from(&other.nodes);
        }
        self.ready |= other.ready;
        self.serving |= other.serving;
        self.terminating &= other.terminating;
        self.local |= other.local;
    }

    /// Used only when nobody is ready.
    fn last_resort(&self) -> bool {
        self.serving && self.terminating
    }
}

// === impl Chosen ===

impl Chosen {
    /// Endpoints that are always there.
    pub fn fixed(to: &[SocketAddr]) -> Self {
        let sets = |is_ours: fn(&SocketAddr) -> bool| {
            let of_family: Vec<SocketAddr> = to.iter().copied().filter(is_ours).collect();
            Sets { any: !of_family.is_empty(), local: of_family.clone(), cluster: of_family }
        };
        Self { v4: sets(SocketAddr::is_ipv4), v6: sets(SocketAddr::is_ipv6) }
    }

    /// Those of this address's family.
    pub fn of(&self, vip: IpAddr) -> &Sets {
        match vip {
            IpAddr::V4(_) => &self.v4,
            IpAddr::V6(_) => &self.v6,
        }
    }
}

// === impl Topology ===

impl<'a> Topology<'a> {
    /// Hints count only when every ready endpoint carries one, and one of them is for us: a half-hinted service
    /// would overload those that have hints.
    fn of(candidates: &BTreeMap<SocketAddr, Candidate>, view: &'a NodeView) -> Self {
        let ready = || candidates.values().filter(|candidate| candidate.ready);
        let node: &str = &view.node;
        if ready().all(|candidate| !candidate.nodes.is_empty()) && ready().any(|candidate| names(&candidate.nodes, node)) {
            return Self::Node(node);
        }
        match view.zone.as_deref() {
            Some(zone)
                if ready().all(|candidate| !candidate.zones.is_empty())
                    && ready().any(|candidate| names(&candidate.zones, zone)) =>
            {
                Self::Zone(zone)
            }
            _ => Self::All,
        }
    }

    fn allows(&self, candidate: &Candidate) -> bool {
        match self {
            Self::All => true,
            Self::Node(node) => names(&candidate.nodes, node),
            Self::Zone(zone) => names(&candidate.zones, zone),
        }
    }
}

fn names(list: &[Arc<str>], wanted: &str) -> bool {
    list.iter().any(|name| &**name == wanted)
}
