//! A pod's veth pair: one message creates both ends, one batch finishes each side, nothing is read back but the indices.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use ipnetwork::IpNetwork;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;
use thalweg_cni::protocol::{GATEWAY_V4, GATEWAY_V6, Mac};

use crate::alias::Alias;
use crate::journal::Entry;
use crate::netlink::{Netlink, Op, OpError};

/// Marks our routes in `ip route` and lets us find them again (`/etc/iproute2/rt_protos`; 116 is nobody's).
pub const ROUTE_PROTOCOL: RouteProtocol = RouteProtocol::Other(116);
/// Every network namespace has its loopback there.
const LOOPBACK: u32 = 1;
const MAIN_TABLE: u8 = RouteHeader::RT_TABLE_MAIN;

/// Both ends of a new pair, each by the index in its own namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ends {
    pub host: u32,
    pub pod: u32,
}

/// A link of the host that begins with our prefix, and what its alias says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostLink {
    pub name: String,
    pub index: u32,
    pub mac: Option<Mac>,
    pub mtu: u32,
    pub alias: Option<Alias>,
}

/// The interface that reaches the other nodes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Uplink {
    pub index: u32,
    pub mtu: u32,
    /// Its addresses with their subnets.
    pub subnets: Vec<IpNetwork>,
}

// === making and removing ===

/// Creates the pair, the pod's end in its namespace. EEXIST: either name is taken.
///
/// # Errors
/// What the kernel said.
pub fn create(host: &mut Netlink, entry: &Entry, netns: BorrowedFd<'_>) -> Result<Ends, OpError> {
    let mut peer = LinkMessage::default();
    peer.attributes = vec![
        LinkAttribute::IfName(entry.id.ifname.clone()),
        LinkAttribute::Address(entry.pod_mac.0.to_vec()),
        LinkAttribute::Mtu(entry.mtu),
        LinkAttribute::NetNsFd(netns.as_raw_fd()),
    ];
    let mut pair = LinkMessage::default();
    pair.attributes = vec![
        LinkAttribute::IfName(entry.host_ifname.clone()),
        LinkAttribute::Address(entry.host_mac.0.to_vec()),
        LinkAttribute::Mtu(entry.mtu),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth), LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer)))]),
    ];
    let what = format!("create the link {} to {}", entry.host_ifname, entry.id);
    let answers = host.batch(vec![
        Op::new(what.clone(), RouteNetlinkMessage::NewLink(pair), NLM_F_CREATE | NLM_F_EXCL),
        get_op(&entry.host_ifname),
    ])?;
    let Some(Some(RouteNetlinkMessage::NewLink(made))) = answers.into_iter().nth(1) else {
        return Err(OpError::new(what, Errno::ENODEV));
    };
    let pod = made.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Link(index) => Some(*index),
        _ => None,
    });
    let pod = pod.ok_or_else(|| OpError::new(what, Errno::ENODEV))?;
    Ok(Ends { host: made.header.index, pod })
}

/// Loopback up; addresses, up, the gateway's permanent neighbour entry, and the default route.
///
/// # Errors
/// What the kernel said to the first step that failed.
pub fn configure_pod(pod: &mut Netlink, entry: &Entry, index: u32) -> Result<(), OpError> {
    let mut ops = vec![up_op("lo", LOOPBACK)];
    ops.extend(entry.addresses.iter().map(|address| address_op(*address, index)));
    ops.push(up_op(&entry.id.ifname, index));
    for address in &entry.addresses {
        let gateway = gateway_of(*address);
        ops.push(neighbour_op(gateway, index, entry.host_mac));
        let route = RouteNetlinkMessage::NewRoute(default_route(gateway, index));
        ops.push(Op::new(format!("add the default route via {gateway}"), route, NLM_F_CREATE));
    }
    pod.batch(ops).map(drop)
}

/// Alias, up, the route to the pod, and its permanent neighbour entry: no ARP, no neighbour table to overflow. Every
/// step may be repeated on a link that carries traffic.
///
/// # Errors
/// What the kernel said to the first step that failed.
pub fn configure_host(host: &mut Netlink, entry: &Entry, index: u32) -> Result<(), OpError> {
    let mut ops = Vec::with_capacity(4);
    if let Some(text) = Alias::of(entry).text() {
        let mut alias = LinkMessage::default();
        alias.header.index = index;
        alias.attributes = vec![LinkAttribute::IfAlias(text)];
        ops.push(Op::new(format!("set the alias of {}", entry.host_ifname), RouteNetlinkMessage::SetLink(alias), 0));
    }
    ops.push(up_op(&entry.host_ifname, index));
    for address in &entry.addresses {
        ops.push(neighbour_op(*address, index, entry.pod_mac));
        ops.push(Op::new(
            format!("add the route to {address}"),
            RouteNetlinkMessage::NewRoute(pod_route(*address, index)),
            NLM_F_CREATE | NLM_F_REPLACE,
        ));
    }
    host.batch(ops).map(drop)
}

/// False when there is no such link.
///
/// # Errors
/// What else the kernel said.
pub fn delete(host: &mut Netlink, name: &str) -> Result<bool, OpError> {
    let mut message = LinkMessage::default();
    message.attributes = vec![LinkAttribute::IfName(name.to_owned())];
    match host.batch(vec![Op::new(format!("remove the link {name}"), RouteNetlinkMessage::DelLink(message), 0)]) {
        Ok(_) => Ok(true),
        Err(error) if error.is(Errno::ENODEV) => Ok(false),
        Err(error) => Err(error),
    }
}

// === looking ===

/// The link of that name, if there is one.
///
/// # Errors
/// What else the kernel said.
pub fn get(netlink: &mut Netlink, name: &str) -> Result<Option<LinkMessage>, OpError> {
    match netlink.batch(vec![get_op(name)]) {
        Ok(answers) => Ok(answers.into_iter().flatten().find_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(link) => Some(link),
            _ => None,
        })),
        Err(error) if error.is(Errno::ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Every link of the host that begins with our prefix.
///
/// # Errors
/// What the kernel said.
pub fn list(host: &mut Netlink) -> Result<Vec<HostLink>, OpError> {
    let found = host.dump("list the links", &RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
    let links = found.into_iter().filter_map(|message| match message {
        RouteNetlinkMessage::NewLink(link) => host_link(&link),
        _ => None,
    });
    Ok(links.filter(|link| link.name.len() == 15 && link.name.starts_with("tw")).collect())
}

/// The uplink as it is now.
///
/// # Errors
/// ENODEV when there is none of that name.
pub fn uplink(host: &mut Netlink, name: &str) -> Result<Uplink, OpError> {
    let what = format!("find the uplink {name}");
    let link = get(host, name)?.ok_or_else(|| OpError::new(what, Errno::ENODEV))?;
    let index = link.header.index;
    Ok(Uplink { index, mtu: mtu_of(&link), subnets: addresses(host, index)? })
}

/// The addresses of one link.
///
/// # Errors
/// What the kernel said.
pub fn addresses(netlink: &mut Netlink, index: u32) -> Result<Vec<IpNetwork>, OpError> {
    let found = netlink.dump("list the addresses", &RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
    let addresses = found.into_iter().filter_map(|message| match message {
        RouteNetlinkMessage::NewAddress(message) if message.header.index == index => {
            // On a link with a peer address, Local is ours.
            let local = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Local(address) => Some(*address),
                _ => None,
            });
            let address = local.or_else(|| {
                message.attributes.iter().find_map(|attribute| match attribute {
                    AddressAttribute::Address(address) => Some(*address),
                    _ => None,
                })
            })?;
            IpNetwork::new(address, message.header.prefix_len).ok()
        }
        _ => None,
    });
    Ok(addresses.collect())
}

/// The link through which the namespace sends to an address; `None` when it does not.
///
/// # Errors
/// What else the kernel said.
pub fn route_to(netlink: &mut Netlink, address: IpAddr) -> Result<Option<u32>, OpError> {
    let mut message = RouteMessage::default();
    message.header.address_family = family_of(address);
    message.header.destination_prefix_length = host_network(address).prefix();
    message.attributes = vec![RouteAttribute::Destination(address.into())];
    let get = Op::new(format!("find the route to {address}"), RouteNetlinkMessage::GetRoute(message), 0);
    match netlink.batch(vec![get]) {
        Ok(answers) => Ok(answers.into_iter().flatten().find_map(|answer| match answer {
            RouteNetlinkMessage::NewRoute(route) => oif(&route),
            _ => None,
        })),
        Err(error) if error.is(Errno::ENETUNREACH) || error.is(Errno::EHOSTUNREACH) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether the default route that a pod gets with this address is there.
///
/// # Errors
/// What the kernel said.
pub fn has_default_route(pod: &mut Netlink, address: IpAddr, index: u32) -> Result<bool, OpError> {
    let gateway = RouteAttribute::Gateway(gateway_of(address).into());
    let mut request = RouteMessage::default();
    request.header.address_family = family_of(address);
    let found = pod.dump("list the routes", &RouteNetlinkMessage::GetRoute(request))?;
    Ok(found.iter().any(|message| match message {
        RouteNetlinkMessage::NewRoute(route) => {
            route.header.destination_prefix_length == 0 && oif(route) == Some(index) && route.attributes.contains(&gateway)
        }
        _ => false,
    }))
}

pub fn is_up(link: &LinkMessage) -> bool {
    link.header.flags.contains(LinkFlags::Up)
}

fn oif(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

fn host_link(link: &LinkMessage) -> Option<HostLink> {
    let mut found = HostLink { name: String::new(), index: link.header.index, mac: None, mtu: mtu_of(link), alias: None };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => found.name.clone_from(name),
            LinkAttribute::Address(octets) => found.mac = octets.as_slice().try_into().ok().map(Mac),
            LinkAttribute::IfAlias(text) => found.alias = text.parse().ok(),
            _ => {}
        }
    }
    (!found.name.is_empty()).then_some(found)
}

fn mtu_of(link: &LinkMessage) -> u32 {
    let mtu = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    });
    mtu.unwrap_or(1500)
}

// === messages ===

fn get_op(name: &str) -> Op {
    let mut message = LinkMessage::default();
    message.attributes = vec![LinkAttribute::IfName(name.to_owned())];
    Op::new(format!("find the link {name}"), RouteNetlinkMessage::GetLink(message), 0)
}

fn up_op(name: &str, index: u32) -> Op {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    Op::new(format!("set {name} up"), RouteNetlinkMessage::SetLink(message), 0)
}

fn address_op(address: IpAddr, index: u32) -> Op {
    let mut message = AddressMessage::default();
    message.header.family = family_of(address);
    message.header.prefix_len = host_network(address).prefix();
    message.header.scope = AddressScope::Universe;
    message.header.index = index;
    message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
    if address.is_ipv6() {
        // Nobody else is on this link: no second of silence for duplicate address detection.
        message.header.flags = AddressHeaderFlags::Nodad;
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    Op::new(format!("add the address {address}"), RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL)
}

fn neighbour_op(address: IpAddr, index: u32, mac: Mac) -> Op {
    let mut message = NeighbourMessage::default();
    message.header.family = family_of(address);
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.header.kind = RouteType::Unicast;
    let destination = match address {
        IpAddr::V4(address) => NeighbourAddress::Inet(address),
        IpAddr::V6(address) => NeighbourAddress::Inet6(address),
    };
    message.attributes =
        vec![NeighbourAttribute::Destination(destination), NeighbourAttribute::LinkLayerAddress(mac.0.to_vec())];
    let what = format!("add the neighbour {address}");
    Op::new(what, RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
}

/// A route of ours to nowhere yet, in the main table.
pub fn route(destination: IpNetwork) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family_of(destination.ip());
    message.header.destination_prefix_length = destination.prefix();
    message.header.table = MAIN_TABLE;
    message.header.protocol = ROUTE_PROTOCOL;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![RouteAttribute::Destination(destination.network().into())];
    message
}

fn pod_route(address: IpAddr, index: u32) -> RouteMessage {
    let mut message = route(host_network(address));
    if address.is_ipv4() {
        message.header.scope = RouteScope::Link;
    }
    message.attributes.push(RouteAttribute::Oif(index));
    message
}

/// Without a destination: everything.
fn default_route(gateway: IpAddr, index: u32) -> RouteMessage {
    let mut message = route(host_network(gateway));
    message.header.destination_prefix_length = 0;
    message.header.flags = RouteFlags::Onlink;
    message.attributes = vec![RouteAttribute::Gateway(gateway.into()), RouteAttribute::Oif(index)];
    message
}

pub fn family_of(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn gateway_of(address: IpAddr) -> IpAddr {
    if address.is_ipv4() { GATEWAY_V4.into() } else { GATEWAY_V6.into() }
}

/// The /32 or /128.
fn host_network(address: IpAddr) -> IpNetwork {
    IpNetwork::from(address)
}
