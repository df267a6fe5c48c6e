//! The node's own interfaces and addresses: which there are, which serve NodePorts, which the programs belong on.

use std::net::IpAddr;

use anyhow::{Context, Result};
use nix::ifaddrs::getifaddrs;
use nix::net::if_::{InterfaceFlags, if_nametoindex};
use thalweg_proxy::config::NodePortAddresses;

use crate::addresses::NodeAddresses;

/// Hardware type of interfaces whose packets have Ethernet headers. The programs read no others.
const ETHERNET: u16 = nix::libc::ARPHRD_ETHER;

/// What there is in this network namespace at one moment.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Local {
    /// Interfaces with Ethernet headers, but loopback.
    pub interfaces: Vec<Interface>,
    /// Addresses of all interfaces.
    pub addresses: Vec<LocalAddress>,
}

/// An interface that is made anew under the same name has another index.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Interface {
    pub name: String,
    pub index: u32,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LocalAddress {
    pub interface: String,
    pub address: IpAddr,
}

/// The kernel's routes: the contents of /proc/net/route and /proc/net/ipv6_route.
#[derive(Clone, Default, Debug)]
pub struct Routes {
    pub v4: String,
    pub v6: String,
}

/// A route that leads nowhere.
const RTF_REJECT: u32 = 0x200;

/// Looks at this network namespace.
///
/// # Errors
/// When the kernel does not tell.
pub fn look() -> Result<Local> {
    let mut local = Local::default();
    for entry in getifaddrs().context("list the interfaces of this machine")? {
        let Some(address) = entry.address else { continue };
        let name = entry.interface_name;
        if let Some(address) = address.as_sockaddr_in() {
            local.addresses.push(LocalAddress { interface: name, address: address.ip().into() });
        } else if let Some(address) = address.as_sockaddr_in6() {
            local.addresses.push(LocalAddress { interface: name, address: address.ip().into() });
        } else if let Some(link) = address.as_link_addr()
            && link.hatype() == ETHERNET
            && !entry.flags.contains(InterfaceFlags::IFF_LOOPBACK)
            // Gone since the list was made.
            && let Ok(index) = if_nametoindex(name.as_str())
        {
            local.interfaces.push(Interface { name, index });
        }
    }
    Ok(local)
}

/// The interfaces that the programs belong on. `wanted` are names, or starts of names with a `*`; without any, every
/// interface with an address: packets for services come in there, and so do the answers of pods on bridges and tunnels.
pub fn entries(wanted: &[String], pods: Option<&str>, local: &Local) -> Vec<Interface> {
    let named = |pattern: &str, name: &str| match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => pattern == name,
    };
    // Every interface that is up has a link-local address of IPv6.
    let has_address = |name: &str| local.addresses.iter().any(|local| local.interface == name && !is_link_local(local.address));
    let chosen = |name: &str| {
        let said = wanted.iter().any(|pattern| named(pattern, name));
        said || wanted.is_empty() && has_address(name) || pods.is_some_and(|pattern| named(pattern, name))
    };
    local.interfaces.iter().filter(|interface| chosen(&interface.name)).cloned().collect()
}

/// The addresses that serve NodePorts, in order. Loopback does not: what is sent to it never passes an interface; nor do
/// link-local addresses of IPv6, which mean nothing without one.
pub fn node_port_addresses(wanted: &NodePortAddresses, local: &Local) -> Vec<IpAddr> {
    let mut chosen: Vec<IpAddr> = local
        .addresses
        .iter()
        .map(|local| local.address)
        .filter(|address| !address.is_loopback() && !is_link_local(*address))
        .filter(|address| match wanted {
            NodePortAddresses::All => true,
            // They come with the Node object.
            NodePortAddresses::Primary => false,
            NodePortAddresses::Ranges(ranges) | NodePortAddresses::PrimaryAnd(ranges) => {
                ranges.iter().any(|range| range.contains(*address))
            }
        })
        .collect();
    chosen.sort_unstable();
    chosen.dedup();
    chosen
}

/// The node's primary addresses, when nobody says which: of each family that of the interface with the default route, else
/// the first one that others can reach.
pub fn primary(local: &Local, routes: &Routes) -> NodeAddresses {
    let v4 = |address: IpAddr| match address {
        IpAddr::V4(address) if !address.is_loopback() => Some(address),
        _ => None,
    };
    let v6 = |address: IpAddr| match address {
        IpAddr::V6(address) if !address.is_loopback() && !address.is_unicast_link_local() => Some(address),
        _ => None,
    };
    NodeAddresses { v4: first(local, default_interface(&routes.v4), v4), v6: first(local, default_interface6(&routes.v6), v6) }
}

/// The first address that is wanted, on this interface if there is one on it.
fn first<A>(local: &Local, on: Option<&str>, wanted: impl Fn(IpAddr) -> Option<A>) -> Option<A> {
    let there = local.addresses.iter().filter(|local| Some(local.interface.as_str()) == on);
    there.chain(&local.addresses).find_map(|local| wanted(local.address))
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

// === impl Local ===

impl Local {
    /// The addresses of one interface, or of all of them, that a socket can be bound to by themselves: link-local ones of
    /// IPv6 mean nothing without their interface.
    pub fn bindable<'a>(&'a self, interface: Option<&'a str>) -> impl Iterator<Item = IpAddr> + 'a {
        let wanted = move |local: &&LocalAddress| interface.is_none_or(|name| local.interface == name);
        self.addresses.iter().filter(wanted).map(|local| local.address).filter(|address| !is_link_local(*address))
    }
}

// === impl Routes ===

impl Routes {
    /// Of this network namespace; a family that the kernel does not have has none.
    pub fn read() -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        Self { v4: read("/proc/net/route"), v6: read("/proc/net/ipv6_route") }
    }
}

/// The interface of the default route with the lowest metric.
fn default_interface(routes: &str) -> Option<&str> {
    let routes = routes.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [interface, destination, _, _, _, _, metric, mask, ..] = fields.as_slice() else { return None };
        (*destination == "00000000" && *mask == "00000000").then_some((metric.parse::<u32>().ok()?, *interface))
    });
    routes.min().map(|(_, interface)| interface)
}

/// As above, of IPv6.
fn default_interface6(routes: &str) -> Option<&str> {
    let routes = routes.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [destination, length, _, _, _, metric, _, _, flags, interface] = fields.as_slice() else { return None };
        let leads = u32::from_str_radix(flags, 16).ok()? & RTF_REJECT == 0 && *interface != "lo";
        let is_default = *length == "00" && destination.bytes().all(|digit| digit == b'0');
        (leads && is_default).then_some((u32::from_str_radix(metric, 16).ok()?, *interface))
    });
    routes.min().map(|(_, interface)| interface)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTES: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
        eth1\t00000000\t0101A8C0\t0003\t0\t0\t200\t00000000\t0\t0\t0\n\
        eth0\t00000000\t01001EAC\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
        cni0\t0000F40A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";

    const ROUTES6: &str = "\
00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo
00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003     eth1
00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000002 00000064 00000001 00000000 00000003     eth0
fd010000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     cni0
";

    fn local() -> Local {
        let addresses = [
            ("lo", "127.0.0.1"),
            ("cni0", "10.244.0.1"),
            ("eth0", "172.30.0.11"),
            ("eth1", "192.168.1.5"),
            ("lo", "::1"),
            ("cni0", "fd01::1"),
            ("cali1", "fe80::7"),
            ("eth0", "fe80::1"),
            ("eth0", "fd00::11"),
        ];
        let interfaces = [("cni0", 4), ("eth0", 2), ("eth1", 3), ("cali1", 7), ("cali2", 8)];
        Local {
            interfaces: interfaces.map(|(name, index)| Interface { name: name.to_owned(), index }).to_vec(),
            addresses: addresses
                .map(|(interface, address)| LocalAddress {
                    interface: interface.to_owned(),
                    address: address.parse().expect("address"),
                })
                .to_vec(),
        }
    }

    #[track_caller]
    fn check(wanted: &NodePortAddresses, chosen: &[&str]) {
        let chosen: Vec<IpAddr> = chosen.iter().map(|address| address.parse().expect("address")).collect();
        assert_eq!(node_port_addresses(wanted, &local()), chosen);
    }

    #[test]
    fn node_ports_are_served_where_the_configuration_says() {
        let ranges =
            |texts: &[&str]| NodePortAddresses::Ranges(texts.iter().map(|text| text.parse().expect("range")).collect());
        check(&NodePortAddresses::All, &["10.244.0.1", "172.30.0.11", "192.168.1.5", "fd00::11", "fd01::1"]);
        check(&NodePortAddresses::Primary, &[]);
        check(&ranges(&["172.30.0.0/24", "172.0.0.0/8"]), &["172.30.0.11"]);
        check(&ranges(&["127.0.0.0/8", "fd00::/16"]), &["fd00::11"]);
    }

    #[test]
    fn programs_belong_where_packets_come_in() {
        let check = |wanted: &[&str], pods: Option<&str>, names: &[&str]| {
            let wanted: Vec<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
            let found = entries(&wanted, pods, &local());
            assert_eq!(found.iter().map(|interface| interface.name.as_str()).collect::<Vec<_>>(), names);
        };
        check(&[], None, &["cni0", "eth0", "eth1"]);
        check(&[], Some("cali*"), &["cni0", "eth0", "eth1", "cali1", "cali2"]);
        check(&["eth0"], None, &["eth0"]);
        check(&["eth*"], None, &["eth0", "eth1"]);
        check(&["eth0"], Some("cni0"), &["cni0", "eth0"]);
        check(&["wlan0"], None, &[]);
    }

    #[test]
    fn addresses_that_can_be_bound() {
        let of = |interface| local().bindable(interface).map(|address| address.to_string()).collect::<Vec<_>>();
        assert_eq!(of(Some("eth0")), ["172.30.0.11", "fd00::11"]);
        assert_eq!(of(Some("cali1")), [""; 0]);
        assert_eq!(of(None), ["127.0.0.1", "10.244.0.1", "172.30.0.11", "192.168.1.5", "::1", "fd01::1", "fd00::11"]);
    }

    #[test]
    fn the_primary_address_is_on_the_way_out() {
        let check = |local: &Local, v4: &str, v6: &str, wanted: &str| {
            assert_eq!(primary(local, &Routes { v4: v4.to_owned(), v6: v6.to_owned() }).to_string(), wanted);
        };
        check(&local(), ROUTES, ROUTES6, "172.30.0.11,fd00::11");
        check(&local(), "Iface\n", "", "10.244.0.1,fd01::1");
        check(&Local::default(), ROUTES, ROUTES6, "");
        let mut v4 = local();
        v4.addresses.retain(|local| local.address.is_ipv4() || is_link_local(local.address) || local.address.is_loopback());
        check(&v4, ROUTES, ROUTES6, "172.30.0.11");
    }

    #[test]
    fn this_machine_has_a_loopback_that_is_no_entry() {
        let local = look().expect("look");
        assert!(local.addresses.iter().any(|address| address.address.is_loopback()), "{local:?}");
        assert!(local.interfaces.iter().all(|interface| interface.name != "lo"), "{local:?}");
    }
}
