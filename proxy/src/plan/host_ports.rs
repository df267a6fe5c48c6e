//! hostPorts: ports of the node that lead to one of its own pods, planned as if the pod had a service of its own. Pure.
//!
//! From inside such a port is what a NodePort is. From outside it is one whose external policy is Local: the only endpoint
//! is on this node, so its answers come back through the node, and the client's address is kept.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use thalweg_abi::{FrontendFlags, Proto, Scope, ServiceName};
use thalweg_cluster::Name;

use super::family::family_of;
use super::{EndpointSet, Key, NodeView, PlannedFrontend, ServicePlan};

/// What stands where services have their namespace. No service can have such a name: names of services have no dots.
pub const NAMESPACE: &str = "hostport";

/// A pod with ports of the node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PodHostPorts {
    pub pod: Name,
    pub addresses: Vec<IpAddr>,
    pub ports: Vec<HostPort>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostPort {
    /// `None`: every address on which NodePorts are served. An unspecified address: those of its family.
    pub ip: Option<IpAddr>,
    pub port: u16,
    /// The port of the pod.
    pub target: u16,
    pub protocol: Proto,
}

/// The plan of one name.
struct Builder<'a> {
    view: &'a NodeView,
    frontends: BTreeMap<Key, PlannedFrontend>,
    sets: Vec<EndpointSet>,
}

/// How the plan of a pod is called: `hostport/NAMESPACE.POD`. A name that the kernel's table has no room for ends in a
/// number instead, so that it is still one pod's.
pub fn name(pod: &Name) -> Name {
    let text = format!("{}.{}", pod.namespace, pod.name);
    let room = size_of::<ServiceName>() - NAMESPACE.len() - 1;
    if text.len() <= room {
        return Name::new(NAMESPACE, text);
    }
    let number = format!("~{:016x}", hash(&text));
    let end = (0..=room - number.len()).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
    Name::new(NAMESPACE, format!("{}{number}", &text[..end]))
}

/// Plans the ports of the pods that share a name; mostly it is one, but an old sandbox of a pod may go while its new one
/// comes. The first to claim an address and a port has them, and of a pod's own ports the one with the address comes first.
pub fn plan(name: &Name, pods: &[PodHostPorts], view: &NodeView) -> ServicePlan {
    let mut builder = Builder { view, frontends: BTreeMap::new(), sets: Vec::new() };
    for pod in pods {
        let is_special = |port: &&HostPort| port.ip.is_some_and(|ip| !ip.is_unspecified());
        let (special, general): (Vec<_>, Vec<_>) = pod.ports.iter().partition(is_special);
        for port in special.into_iter().chain(general) {
            for address in &pod.addresses {
                builder.port(port, SocketAddr::new(*address, port.target));
            }
        }
    }
    ServicePlan {
        name: name.clone(),
        frontends: builder.frontends.into_values().collect(),
        sets: builder.sets,
        draining: Vec::new(),
        source_ranges: Vec::new(),
    }
}

/// FNV-1a: the same in every version, since a restarted agent finds what it wrote by its name.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

// === impl Builder ===

impl Builder<'_> {
    /// Where a port leads in the family of this address of the pod.
    fn port(&mut self, port: &HostPort, to: SocketAddr) {
        for vip in self.vips(port.ip, to.ip()) {
            self.add(port, vip, Scope::INTERNAL, FrontendFlags::NODE_PORT, to);
            // Loopback has no outside.
            if !vip.is_loopback() {
                self.add(port, vip, Scope::EXTERNAL, FrontendFlags::NODE_PORT | FrontendFlags::LOCAL_ONLY, to);
            }
        }
    }

    /// The addresses on which a port is served, of the family of the pod's address.
    fn vips(&self, wanted: Option<IpAddr>, pod: IpAddr) -> Vec<IpAddr> {
        let is_alike = |address: &IpAddr| family_of(*address) == family_of(pod);
        match wanted {
            Some(ip) if !is_alike(&ip) => Vec::new(),
            Some(ip) if !ip.is_unspecified() => vec![ip],
            _ => {
                let localhost = IpAddr::V4(Ipv4Addr::LOCALHOST);
                let has_localhost = self.view.localhost_node_ports || self.view.addresses.contains(&localhost);
                let addresses = self.view.addresses.iter().copied().filter(|address| !address.is_loopback());
                addresses.chain(has_localhost.then_some(localhost)).filter(is_alike).collect()
            }
        }
    }

    fn add(&mut self, port: &HostPort, vip: IpAddr, scope: Scope, flags: u32, to: SocketAddr) {
        let key = Key { vip, port: port.port, protocol: port.protocol, scope };
        if self.frontends.contains_key(&key) {
            return;
        }
        let set = self.sets.iter().position(|set| set.endpoints == [to]).unwrap_or_else(|| {
            self.sets.push(EndpointSet { endpoints: vec![to] });
            self.sets.len() - 1
        });
        let flags = FrontendFlags(flags);
        let (port, protocol) = (port.port, port.protocol);
        self.frontends
            .insert(key, PlannedFrontend { vip, port, protocol, scope, flags, affinity_seconds: 0, service_port: port, set });
    }
}

#[cfg(test)]
mod tests;
