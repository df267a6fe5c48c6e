//! What the controllers are started with.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ipnetwork::{IpNetwork, Ipv4Network};

/// How to run the controllers.
#[derive(Clone, Debug)]
pub struct Config {
    /// Addresses of pods. Every node gets a part of it.
    pub cluster_cidr: IpNetwork,
    /// Prefix length of a node's part.
    pub node_mask: u8,
    /// Silence after which a node's state is unknown, and absence after which a node's pods are removed.
    pub node_grace: Duration,
    /// How long pods stay on a node that is not ready or not reachable, when they do not say it themselves by a toleration.
    pub pod_eviction: Duration,
    /// Certificate of the cluster's CA (PEM). When given, every namespace has it as ConfigMap `kube-root-ca.crt`.
    pub root_ca: Option<String>,
}

// === impl Config ===

impl Config {
    /// # Errors
    /// When the nodes' parts do not fit into the cluster's range.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let (range, mask) = (self.cluster_cidr, self.node_mask);
        let bits = if range.is_ipv4() { 32 } else { 128 };
        if mask < range.prefix() || mask > bits {
            anyhow::bail!("node mask {mask}: it must lie between the cluster CIDR's {} ({range}) and {bits}", range.prefix());
        }
        Ok(())
    }
}

impl Default for Config {
    fn default() -> Self {
        let cluster_cidr = Ipv4Network::new_checked(Ipv4Addr::new(10, 244, 0, 0), 16).map(IpNetwork::V4);
        Self {
            cluster_cidr: cluster_cidr.unwrap_or_else(|| IpNetwork::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED))),
            node_mask: 24,
            node_grace: Duration::from_secs(40),
            pod_eviction: Duration::from_secs(300),
            root_ca: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nodes_part_fits_into_the_clusters_range() {
        let check = |range: &str, mask: u8, fits: bool| {
            let config = Config { cluster_cidr: range.parse().unwrap(), node_mask: mask, ..Config::default() };
            assert_eq!(config.check().is_ok(), fits, "{range} {mask}");
        };
        check("10.244.0.0/16", 24, true);
        check("10.244.0.0/24", 24, true);
        check("10.244.0.0/24", 23, false);
        check("10.244.0.0/16", 33, false);
        check("fd00::/48", 64, true);
        assert!(Config::default().check().is_ok());
    }
}
