//! Address ranges: every node gets its part of the cluster's, and keeps it.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::Node;

use super::COMPONENT;
use crate::action::{Action, Op};
use crate::{Config, meta};

/// Parts that are looked at before the range counts as full. A cluster has fewer nodes.
const MOST_PARTS: u64 = 1 << 20;

/// The ranges that a node has.
pub fn of(node: &Node) -> Vec<IpNetwork> {
    let spec = node.spec.as_ref();
    let one = spec.and_then(|spec| spec.pod_cidr.as_ref()).into_iter();
    let all = spec.and_then(|spec| spec.pod_cidrs.as_ref()).into_iter().flatten();
    let mut ranges: Vec<IpNetwork> = one.chain(all).filter_map(|range| range.parse().ok()).collect();
    ranges.dedup();
    ranges
}

/// A range for every node that has none. The oldest node is served first.
pub fn reconcile(nodes: &[Arc<Node>], config: &Config) -> Vec<Action> {
    let used: Vec<IpNetwork> = nodes.iter().flat_map(|node| of(node)).collect();
    let mut without: Vec<&Arc<Node>> = nodes.iter().filter(|node| super::needs_range(node)).collect();
    without.sort_by_key(|node| (meta::created(&node.metadata), meta::name(&node.metadata).to_owned()));
    let mut free = free(config, &used);
    let assign = |node: &Arc<Node>| match free.next() {
        Some(range) => {
            let mut assigned = Node::clone(node);
            let spec = assigned.spec.get_or_insert_default();
            spec.pod_cidr = Some(range.to_string());
            spec.pod_cidrs = Some(vec![range.to_string()]);
            Op::edit(node.as_ref(), &assigned).map(Into::into)
        }
        None => {
            let message = format!(
                "no /{} is left in the cluster's range {}: remove nodes, or start the server with a larger --cluster-cidr or --node-mask",
                config.node_mask, config.cluster_cidr
            );
            Some(Action::warning(meta::reference(node.as_ref()), COMPONENT, "CIDRNotAvailable", message))
        }
    };
    without.into_iter().filter_map(assign).collect()
}

/// The free parts of the cluster's range, from its start.
fn free(config: &Config, used: &[IpNetwork]) -> impl Iterator<Item = IpNetwork> {
    let (cluster, mask) = (config.cluster_cidr, config.node_mask);
    let bits: u8 = if cluster.is_ipv4() { 32 } else { 128 };
    let extra = mask.checked_sub(cluster.prefix()).filter(|_| mask <= bits);
    let parts = extra.map_or(0, |extra| 1_u64.checked_shl(u32::from(extra)).unwrap_or(MOST_PARTS).min(MOST_PARTS));
    // Most ranges in use are parts themselves and are found at once; the others are compared.
    let (exact, odd): (Vec<IpNetwork>, Vec<IpNetwork>) = used.iter().copied().partition(|range| range.prefix() == mask);
    let exact: HashSet<IpNetwork> = exact.into_iter().map(|range| network(range.network(), mask, range)).collect();
    (0..parts)
        .map(move |index| network(nth(cluster.network(), bits - mask, index), mask, cluster))
        .filter(move |part| !exact.contains(part) && !odd.iter().any(|range| overlap(*range, *part)))
}

fn network(address: IpAddr, mask: u8, otherwise: IpNetwork) -> IpNetwork {
    IpNetwork::new(address, mask).unwrap_or(otherwise)
}

/// The address `index` parts of `2^host_bits` addresses after `start`.
fn nth(start: IpAddr, host_bits: u8, index: u64) -> IpAddr {
    match start {
        IpAddr::V4(start) => {
            let offset = u32::try_from(index).unwrap_or(u32::MAX).checked_shl(u32::from(host_bits)).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from(u32::from(start).wrapping_add(offset)))
        }
        IpAddr::V6(start) => {
            let offset = u128::from(index).checked_shl(u32::from(host_bits)).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from(u128::from(start).wrapping_add(offset)))
        }
    }
}

/// Two prefixes overlap when one has the other's first address.
fn overlap(a: IpNetwork, b: IpNetwork) -> bool {
    a.contains(b.network()) || b.contains(a.network())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Nodes as `name` or `name=range`; expects ranges, or an event, for those without.
    #[track_caller]
    fn check(cluster: &str, mask: u8, nodes: &[&str], expected: &[&str]) {
        let nodes: Vec<Arc<Node>> = nodes
            .iter()
            .map(|node| {
                let (name, range) = node.split_once('=').unwrap_or((node, ""));
                let spec = if range.is_empty() { json!({}) } else { json!({"podCIDR": range, "podCIDRs": [range]}) };
                Arc::new(serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap())
            })
            .collect();
        let config = Config { cluster_cidr: cluster.parse().unwrap(), node_mask: mask, ..Config::default() };
        let got: Vec<String> = reconcile(&nodes, &config)
            .into_iter()
            .map(|action| match action {
                Action::Node(Op::Edit { key, patch, .. }) => {
                    assert_eq!(patch["spec"]["podCIDRs"], json!([patch["spec"]["podCIDR"]]));
                    format!("{}={}", key.name, patch["spec"]["podCIDR"].as_str().unwrap())
                }
                Action::Event(notice) => format!("{} {}", notice.about.name.unwrap(), notice.reason),
                other => other.to_string(),
            })
            .collect();
        assert_eq!(got, expected);
    }

    #[test]
    fn every_node_gets_a_range() {
        check("10.244.0.0/16", 24, &["a", "b"], &["a=10.244.0.0/24", "b=10.244.1.0/24"]);
        check("10.244.0.0/16", 24, &["a=10.244.0.0/24", "b"], &["b=10.244.1.0/24"]);
        check("10.244.0.0/16", 24, &["a=10.244.1.0/24", "b", "c"], &["b=10.244.0.0/24", "c=10.244.2.0/24"]);
        check("10.244.0.0/16", 24, &["a=10.244.0.0/24"], &[]);
        // Ranges of another size, and of another cluster, are respected.
        check("10.244.0.0/16", 24, &["a=10.244.0.0/23", "b"], &["b=10.244.2.0/24"]);
        check("10.244.0.0/16", 24, &["a=10.1.0.0/24", "b"], &["b=10.244.0.0/24"]);
        check("fd00:10:244::/48", 64, &["a=fd00:10:244::/64", "b"], &["b=fd00:10:244:1::/64"]);
    }

    #[test]
    fn a_full_range_is_told() {
        check("10.0.0.0/23", 24, &["a", "b", "c"], &["a=10.0.0.0/24", "b=10.0.1.0/24", "c CIDRNotAvailable"]);
        check("10.0.0.0/24", 24, &["a", "b"], &["a=10.0.0.0/24", "b CIDRNotAvailable"]);
        check("10.0.0.0/24", 16, &["a"], &["a CIDRNotAvailable"]);
        check("10.0.0.0/24", 33, &["a"], &["a CIDRNotAvailable"]);
    }
}
