//! loadBalancerSourceRanges: who may use the addresses of a load balancer.
//!
//! Each family by itself, as kube-proxy has it: ranges of one family say nothing about the other, whose addresses are
//! open to all when no range of their own is given, and a range of everything lifts the others of its family.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use thalweg_cluster::{Family, Service};

use super::NodeView;
use super::family::{PerFamily, family_of};

/// Who is admitted.
#[derive(Default, Debug)]
pub(super) struct Sources {
    /// Only the ranges of this family are admitted; otherwise everybody is.
    pub checked: PerFamily<bool>,
    pub ranges: BTreeSet<IpNetwork>,
}

// === impl Sources ===

impl Sources {
    pub fn of(service: &Service, view: &NodeView) -> Self {
        let mut sources = Self::default();
        for family in [Family::V4, Family::V6] {
            let given = || service.source_ranges().iter().filter(move |range| family_of(range.ip()) == family);
            if given().next().is_none() || given().any(|range| range.prefix() == 0) {
                continue;
            }
            *sources.checked.of_mut(family) = true;
            sources.ranges.extend(given().filter_map(canonical));
            // A load balancer's address is often an address of the node as well; then what the node sends to it comes
            // from that very address, and belongs to the node, not to the outside.
            if view.addresses.iter().any(|address| given().any(|range| range.contains(*address))) {
                let served = service.load_balancer().iter().filter(|address| !address.proxied).map(|address| address.ip);
                sources.ranges.extend(served.filter(|ip| family_of(*ip) == family).map(IpNetwork::from));
            }
        }
        sources
    }

    pub fn checks(&self, address: IpAddr) -> bool {
        *self.checked.of(family_of(address))
    }
}

/// Without the bits of a host.
fn canonical(range: &IpNetwork) -> Option<IpNetwork> {
    IpNetwork::new(range.network(), range.prefix()).ok()
}
