//! Routes to the other nodes' pods, and the refusal of what is in our CIDR but no pod.
//!
//! Desired state is set, then [`Routes::sync`] brings the kernel to it by the smallest difference. Ours are found by
//! their protocol number, so an agent that was killed leaves nothing behind for ever.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use nix::errno::Errno;
use thalweg_cluster::World;
use tracing::{info, warn};

use crate::links::{self, ROUTE_PROTOCOL, Uplink};
use crate::netlink::{Netlink, Op, OpError};

/// Where a CIDR goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hop {
    /// Another node, on the uplink.
    Via(IpAddr),
    /// Our own CIDR: pods have routes of their own; for the rest the sender hears at once that there is nobody, instead
    /// of the packet going round between us and our default gateway.
    Unreachable,
}

pub type Table = BTreeMap<IpNetwork, Hop>;

/// A node as routes see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    pub name: Arc<str>,
    pub addresses: Vec<IpAddr>,
    pub cidrs: Vec<IpNetwork>,
}

/// Desired routes and the socket to set them with.
#[derive(Debug)]
pub struct Routes {
    host: Netlink,
    uplink_name: String,
    uplink: Uplink,
    /// Unknown until the first snapshot: then nothing is removed.
    peers: Option<Vec<Peer>>,
    own: Option<Vec<IpNetwork>>,
    problems: Vec<String>,
}

// === impl Routes ===

impl Routes {
    /// # Errors
    /// When there is no such uplink.
    pub fn new(mut host: Netlink, uplink_name: String) -> Result<Self, OpError> {
        let uplink = links::uplink(&mut host, &uplink_name)?;
        Ok(Self { host, uplink_name, uplink, peers: None, own: None, problems: Vec::new() })
    }

    pub fn uplink(&self) -> &Uplink {
        &self.uplink
    }

    pub fn set_own(&mut self, cidrs: Vec<IpNetwork>) {
        self.own = Some(cidrs);
    }

    pub fn set_peers(&mut self, peers: Vec<Peer>) {
        self.peers = Some(peers);
    }

    /// Looks at the uplink and the kernel's routes, and changes what differs.
    ///
    /// # Errors
    /// The first change that the kernel refused; the others are made.
    pub fn sync(&mut self) -> Result<(), OpError> {
        self.uplink = links::uplink(&mut self.host, &self.uplink_name)?;
        let own = self.own.as_deref().unwrap_or_default();
        let (desired, problems) = plan(self.peers.as_deref().unwrap_or_default(), own, &self.uplink.subnets);
        if problems != self.problems {
            problems.iter().for_each(|problem| warn!("{problem}"));
            self.problems = problems;
        }
        let installed = installed(&mut self.host, self.uplink.index)?;
        let mut ops = Vec::new();
        for (cidr, hop) in &desired {
            if installed.get(cidr) != Some(hop) {
                info!(%cidr, ?hop, "route");
                ops.push(add_op(*cidr, *hop, self.uplink.index));
            }
        }
        for (cidr, hop) in installed.iter().filter(|(cidr, _)| !desired.contains_key(*cidr)) {
            let known = match hop {
                Hop::Via(_) => self.peers.is_some(),
                Hop::Unreachable => self.own.is_some(),
            };
            if known {
                info!(%cidr, ?hop, "route removed");
                ops.push(remove_op(*cidr, *hop, self.uplink.index));
            }
        }
        if ops.is_empty() {
            return Ok(());
        }
        let outcomes = self.host.try_batch(ops)?;
        match outcomes.into_iter().filter_map(Result::err).find(|error| !error.is(Errno::ESRCH)) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

// === functions ===

/// Every node but this one, in name order.
pub fn peers(world: &World, own: &str) -> Vec<Peer> {
    world
        .nodes()
        .filter(|node| &*node.name != own)
        .map(|node| Peer {
            name: Arc::clone(&node.name),
            addresses: node.addresses.clone(),
            cidrs: node.pod_cidrs.iter().filter_map(canonical).collect(),
        })
        .collect()
}

/// Without host bits, as the kernel lists it.
pub fn canonical(cidr: &IpNetwork) -> Option<IpNetwork> {
    IpNetwork::new(cidr.network(), cidr.prefix()).ok()
}

/// The routes that should be, and in words what could not be routed.
pub fn plan(peers: &[Peer], own: &[IpNetwork], subnets: &[IpNetwork]) -> (Table, Vec<String>) {
    let mut table: Table = own.iter().map(|cidr| (*cidr, Hop::Unreachable)).collect();
    let mut problems = Vec::new();
    for Peer { name, addresses, cidrs } in peers {
        for cidr in cidrs {
            if let Some(other) = table.get(cidr) {
                problems.push(format!("node {name}: podCIDR {cidr} is also that of {other:?}; it is not routed twice"));
                continue;
            }
            let same_family = addresses.iter().filter(|address| address.is_ipv4() == cidr.is_ipv4());
            let mut on_link = same_family.clone().filter(|address| subnets.iter().any(|subnet| subnet.contains(**address)));
            match (on_link.next(), same_family.clone().next()) {
                (Some(address), _) => {
                    table.insert(*cidr, Hop::Via(*address));
                }
                (None, Some(address)) => problems.push(format!(
                    "node {name}: InternalIP {address} is on no subnet of our uplink, its pods ({cidr}) are not routed"
                )),
                (None, None) => problems.push(format!("node {name} has no InternalIP of the family of its podCIDR {cidr}")),
            }
        }
    }
    (table, problems)
}

/// Our routes as the kernel has them, without those to single pods. Routes through an uplink that was replaced went with
/// it.
fn installed(host: &mut Netlink, uplink: u32) -> Result<Table, OpError> {
    let request = RouteNetlinkMessage::GetRoute(RouteMessage::default());
    let mut table = Table::new();
    for message in host.dump("list the routes", &request)? {
        let RouteNetlinkMessage::NewRoute(route) = message else { continue };
        if route.header.protocol != ROUTE_PROTOCOL {
            continue;
        }
        let (mut destination, mut gateway, mut link) = (None, None, None);
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::Destination(address) => destination = ip_of(address),
                RouteAttribute::Gateway(address) => gateway = ip_of(address),
                RouteAttribute::Oif(index) => link = Some(*index),
                _ => {}
            }
        }
        let cidr = destination.and_then(|address| IpNetwork::new(address, route.header.destination_prefix_length).ok());
        let hop = match (route.header.kind, gateway) {
            (RouteType::Unreachable, _) => Hop::Unreachable,
            (_, Some(gateway)) if link == Some(uplink) => Hop::Via(gateway),
            _ => continue,
        };
        table.extend(cidr.map(|cidr| (cidr, hop)));
    }
    Ok(table)
}

fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

fn message(cidr: IpNetwork, hop: Hop, uplink: u32) -> RouteMessage {
    let mut message = links::route(cidr);
    match hop {
        Hop::Via(gateway) => message.attributes.extend([RouteAttribute::Gateway(gateway.into()), RouteAttribute::Oif(uplink)]),
        Hop::Unreachable => message.header.kind = RouteType::Unreachable,
    }
    message
}

fn add_op(cidr: IpNetwork, hop: Hop, uplink: u32) -> Op {
    let message = RouteNetlinkMessage::NewRoute(message(cidr, hop, uplink));
    Op::new(format!("add the route to {cidr}"), message, NLM_F_CREATE | NLM_F_REPLACE)
}

fn remove_op(cidr: IpNetwork, hop: Hop, uplink: u32) -> Op {
    let message = RouteNetlinkMessage::DelRoute(message(cidr, hop, uplink));
    Op::new(format!("remove the route to {cidr}"), message, 0)
}

#[cfg(test)]
mod tests {
    use thalweg_cluster::{Change, Dirty, Node};

    use super::*;

    fn node(name: &str, addresses: &[&str], cidrs: &[&str]) -> Node {
        Node {
            name: name.into(),
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            pod_cidrs: cidrs.iter().map(|text| text.parse().unwrap()).collect(),
            zone: None,
            deleting: false,
            taints: Vec::new(),
        }
    }

    /// Plans for node `a` with uplink 172.30.0.11/24 and podCIDR 10.244.0.0/24.
    #[track_caller]
    fn check(nodes: &[Node], want: &[(&str, &str)], words: &[&str]) {
        let mut world = World::default();
        for node in nodes {
            world.apply(Change::Node(Arc::clone(&node.name), Some(Arc::new(node.clone()))), &mut Dirty::default());
        }
        let own = ["10.244.0.0/24".parse().unwrap()];
        let subnets = ["172.30.0.11/24".parse().unwrap(), "fd30::11/64".parse().unwrap()];
        let (table, problems) = plan(&peers(&world, "a"), &own, &subnets);
        let mut expected = Table::from([(own[0], Hop::Unreachable)]);
        expected.extend(want.iter().map(|(cidr, via)| (cidr.parse().unwrap(), Hop::Via(via.parse().unwrap()))));
        assert_eq!(table, expected);
        assert_eq!(problems.len(), words.len(), "{problems:?}");
        for (problem, words) in problems.iter().zip(words) {
            assert!(problem.contains(words), "{words:?} in {problem:?}");
        }
    }

    #[test]
    fn plans() {
        let own = node("a", &["172.30.0.11"], &["10.244.0.0/24"]);
        let b = node("b", &["172.30.0.12"], &["10.244.1.0/24"]);
        check(std::slice::from_ref(&own), &[], &[]);
        check(&[own.clone(), b.clone()], &[("10.244.1.0/24", "172.30.0.12")], &[]);
        // Not yet known of itself, host bits in the CIDR, two families.
        let c = node("c", &["172.30.0.13", "fd30::13"], &["10.244.2.9/24", "fd00:2::/64"]);
        check(&[c], &[("10.244.2.0/24", "172.30.0.13"), ("fd00:2::/64", "fd30::13")], &[]);
        // The first address on our subnet is the one.
        let d = node("d", &["192.0.2.1", "172.30.0.14"], &["10.244.3.0/24"]);
        check(&[d], &[("10.244.3.0/24", "172.30.0.14")], &[]);
        check(&[node("e", &["192.0.2.1"], &["10.244.4.0/24"])], &[], &["no subnet of our uplink"]);
        check(&[node("f", &[], &["10.244.4.0/24"])], &[], &["no InternalIP"]);
        check(&[node("f", &["172.30.0.15"], &[])], &[], &[]);
        let twin = node("g", &["172.30.0.16"], &["10.244.1.0/24"]);
        check(&[b, twin], &[("10.244.1.0/24", "172.30.0.12")], &["node g"]);
        check(&[node("h", &["172.30.0.17"], &["10.244.0.0/24"])], &[], &["node h"]);
    }
}
