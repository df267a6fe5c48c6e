//! Addresses of nodes, and the services that care: an external address that is a node's own is served, but its other
//! ports are not refused. Both sides come and go; the work is in proportion to what changed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use thalweg_cluster::{Name, Node, Service};

/// The addresses of all nodes.
#[derive(Default, Debug)]
pub(super) struct Nodes {
    by_node: BTreeMap<Arc<str>, Vec<IpAddr>>,
    /// How many nodes say that an address is theirs.
    claims: BTreeMap<IpAddr, usize>,
}

/// Who uses which addresses from outside of the cluster.
#[derive(Default, Debug)]
pub(super) struct External {
    by_address: BTreeMap<IpAddr, BTreeSet<Name>>,
    by_service: BTreeMap<Name, BTreeSet<IpAddr>>,
}

// === impl Nodes ===

impl Nodes {
    pub fn contains(&self, address: IpAddr) -> bool {
        self.claims.contains_key(&address)
    }

    /// This is what became of a node; returns the addresses that have become a node's, or no node's any more.
    pub fn set(&mut self, name: &Arc<str>, node: Option<&Node>) -> BTreeSet<IpAddr> {
        let new: Vec<IpAddr> = node.map(|node| node.addresses.clone()).unwrap_or_default();
        let old = match node {
            Some(_) => self.by_node.insert(name.clone(), new.clone()),
            None => self.by_node.remove(name),
        };
        let old = old.unwrap_or_default();
        let mut changed = BTreeSet::new();
        for address in new {
            let claims = self.claims.entry(address).or_default();
            *claims += 1;
            if *claims == 1 {
                changed.insert(address);
            }
        }
        for address in old {
            if let Some(claims) = self.claims.get_mut(&address) {
                *claims -= 1;
                if *claims == 0 {
                    self.claims.remove(&address);
                    // Given up and claimed at once: nothing happened.
                    if !changed.remove(&address) {
                        changed.insert(address);
                    }
                }
            }
        }
        changed
    }
}

// === impl External ===

impl External {
    pub fn set(&mut self, name: &Name, service: Option<&Service>) {
        let new: BTreeSet<IpAddr> = service
            .map(|service| {
                let balanced = service.load_balancer().iter().map(|address| address.ip);
                service.external_ips().iter().copied().chain(balanced).collect()
            })
            .unwrap_or_default();
        let old = if new.is_empty() { self.by_service.remove(name) } else { self.by_service.insert(name.clone(), new.clone()) };
        let old = old.unwrap_or_default();
        for address in old.difference(&new) {
            if let Some(names) = self.by_address.get_mut(address) {
                names.remove(name);
                if names.is_empty() {
                    self.by_address.remove(address);
                }
            }
        }
        for address in new.difference(&old) {
            self.by_address.entry(*address).or_default().insert(name.clone());
        }
    }

    pub fn users(&self, address: IpAddr) -> impl Iterator<Item = &Name> {
        self.by_address.get(&address).into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(addresses: &[&str]) -> Node {
        Node {
            name: "n".into(),
            addresses: addresses.iter().map(|address| address.parse().expect("address")).collect(),
            pod_cidrs: Vec::new(),
            zone: None,
            deleting: false,
            taints: Vec::new(),
        }
    }

    #[test]
    fn only_what_changes_for_all_nodes_together_is_reported() {
        let mut nodes = Nodes::default();
        let mut check = |name: &str, addresses: Option<&[&str]>, wanted: &[&str]| {
            let node = addresses.map(node);
            let changed = nodes.set(&name.into(), node.as_ref());
            let wanted: BTreeSet<IpAddr> = wanted.iter().map(|address| address.parse().expect("address")).collect();
            assert_eq!(changed, wanted, "{name} {addresses:?}");
        };
        check("a", Some(&["192.0.2.1", "2001:db8::1"]), &["192.0.2.1", "2001:db8::1"]);
        check("a", Some(&["192.0.2.1", "2001:db8::1"]), &[]);
        check("b", Some(&["192.0.2.1"]), &[]);
        check("a", None, &["2001:db8::1"]);
        check("b", Some(&["192.0.2.2"]), &["192.0.2.1", "192.0.2.2"]);
        check("c", None, &[]);
        assert!(nodes.contains([192, 0, 2, 2].into()) && !nodes.contains([192, 0, 2, 1].into()));
    }
}
