//! The wires of a lab cluster: a bridge in a namespace of its own, one namespace per node, and one for a client
//! outside the cluster, all with addresses of both families. Nothing is connected to the host's own network.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Result, ensure};

use crate::netns::Netns;

/// Most nodes that a lab's address plan has room for.
pub const MAX_NODES: usize = 40;
/// Address of the bridge's namespace, where the control plane runs.
pub const LAN_ADDR: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 1);
/// Address of the client outside the cluster.
pub const CLIENT_ADDR: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 100);
/// The same of IPv6: unique local addresses throughout.
pub const LAN_ADDR6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x30, 0, 0, 0, 0, 0, 0x1);
pub const CLIENT_ADDR6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x30, 0, 0, 0, 0, 0, 0x100);
pub const CLUSTER_CIDR: &str = "10.244.0.0/16";
/// Prefix length of one node's pods: small, so that a check can fill it.
pub const NODE_MASK: u8 = 26;
pub const SERVICE_CIDR: &str = "10.96.0.0/16";
pub const CLUSTER_DNS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// Name of a node's link to the bridge.
pub const UPLINK: &str = "eth0";

/// One node: its namespace and its address on the bridge.
#[derive(Debug)]
pub struct NodeNet {
    pub name: String,
    pub netns: Netns,
    pub addr: Ipv4Addr,
    pub addr6: Ipv6Addr,
}

/// All namespaces of a lab; they go with it.
#[derive(Debug)]
pub struct Topology {
    pub lan: Netns,
    pub nodes: Vec<NodeNet>,
    pub client: Netns,
}

// === impl Topology ===

impl Topology {
    /// Makes the namespaces and wires of lab `id` with `count` nodes named `node-a`, `node-b`, …
    ///
    /// # Errors
    /// When `count` is 0 or above [`MAX_NODES`], or the machine refuses.
    pub fn build(id: &str, count: usize) -> Result<Self> {
        ensure!((1..=MAX_NODES).contains(&count), "{count} nodes: a lab has 1 to {MAX_NODES}");
        let lan = Netns::create(&format!("thalweg-{id}-lan"))?;
        lan.ip("link add lan0 type bridge")?;
        lan.ip(&format!("addr add {LAN_ADDR}/24 dev lan0"))?;
        lan.ip(&format!("addr add {LAN_ADDR6}/64 dev lan0 nodad"))?;
        lan.ip("link set lan0 up")?;
        let mut nodes = Vec::with_capacity(count);
        for index in 0..count {
            let name = node_name(index);
            let netns = Netns::create(&format!("thalweg-{id}-{name}"))?;
            let host = 11 + u8::try_from(index)?;
            let addr = Ipv4Addr::new(172, 30, 0, host);
            let addr6 = Ipv6Addr::new(0xfd00, 0x30, 0, 0, 0, 0, 0, host.into());
            plug(&lan, &netns, &format!("port{index}"), addr, addr6)?;
            nodes.push(NodeNet { name, netns, addr, addr6 });
        }
        let client = Netns::create(&format!("thalweg-{id}-client"))?;
        plug(&lan, &client, "portc", CLIENT_ADDR, CLIENT_ADDR6)?;
        Ok(Self { lan, nodes, client })
    }
}

/// `node-a` … `node-z`, then `node-27` and on.
fn node_name(index: usize) -> String {
    match u8::try_from(index) {
        Ok(index @ 0..26) => format!("node-{}", char::from(b'a' + index)),
        _ => format!("node-{}", index + 1),
    }
}

/// A veth from the bridge (port name `port`) to `eth0` in `netns`, with its addresses and the lan as default gateway.
fn plug(lan: &Netns, netns: &Netns, port: &str, addr: Ipv4Addr, addr6: Ipv6Addr) -> Result<()> {
    lan.ip(&format!("link add {port} type veth peer name {UPLINK} netns {}", netns.name()))?;
    lan.ip(&format!("link set {port} master lan0 up"))?;
    netns.ip(&format!("addr add {addr}/24 dev {UPLINK}"))?;
    // Nobody else has it: duplicate address detection would only cost a second.
    netns.ip(&format!("addr add {addr6}/64 dev {UPLINK} nodad"))?;
    // The link-local one likewise: what is forwarded asks for its next hop from it, and not while it is tentative.
    let [.., host] = addr6.segments();
    netns.ip(&format!("link set {UPLINK} addrgenmode none"))?;
    netns.ip(&format!("addr add fe80::{host:x}/64 dev {UPLINK} nodad"))?;
    netns.ip(&format!("link set {UPLINK} up"))?;
    // So that a look-up for any address has a route and meets the service proxy, as on a machine with a gateway.
    netns.ip(&format!("route add default via {LAN_ADDR}"))?;
    netns.ip(&format!("-6 route add default via {LAN_ADDR6}"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_names_stay_distinct_past_the_alphabet() {
        let names: std::collections::BTreeSet<_> = (0..MAX_NODES).map(node_name).collect();
        assert_eq!(names.len(), MAX_NODES);
        assert_eq!(node_name(0), "node-a");
        assert_eq!(node_name(26), "node-27");
    }

    #[test]
    fn a_lab_without_nodes_is_refused_before_anything_is_made() {
        let error = Topology::build("none", 0).expect_err("no nodes");
        assert!(error.to_string().contains("1 to 40"), "{error}");
    }
}
