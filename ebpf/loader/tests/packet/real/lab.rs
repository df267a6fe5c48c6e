//! Two nodes and a client on one bridge, with real pods, real sockets and the programs attached; tables by hand.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use anyhow::{Context, Result, bail, ensure};
use thalweg_lab::{
    netns::Netns,
    topology::{CLIENT_ADDR, CLIENT_ADDR6, Topology, UPLINK},
};
use thalweg_loader::{Datapath, Options, Sizes};

use crate::{
    node::{Pins, unique_name},
    tables::Tables,
};

/// Address that pods send to for everything; it exists on no link.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// Interface of the pod's end.
pub const POD_LINK: &str = "eth0";

pub struct Pod {
    pub netns: Netns,
    /// Of the lab's family, as are all addresses of it.
    pub addr: IpAddr,
    /// Hardware addresses of both ends of its link.
    pub macs: Macs,
}

/// Hardware addresses of a link's two ends.
#[derive(Clone, Copy, Debug)]
pub struct Macs {
    pub own: [u8; 6],
    pub peer: [u8; 6],
}

pub struct LabNode {
    pub addr: IpAddr,
    pub tables: Tables,
    pub pods: Vec<Pod>,
    _datapath: Datapath,
    _pins: Pins,
}

/// Which of a lab's addresses are used; it has all of both.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    Ipv4,
    Ipv6,
}

/// Nodes 0 and 1, each with pods 0 and 1. Everything goes with it.
pub struct Lab {
    pub family: Family,
    pub nodes: Vec<LabNode>,
    topology: Topology,
}

// === impl Family ===

impl Family {
    /// The address of this family.
    pub fn of(self, v4: Ipv4Addr, v6: Ipv6Addr) -> IpAddr {
        match self {
            Self::Ipv4 => v4.into(),
            Self::Ipv6 => v6.into(),
        }
    }
}

// === impl Lab ===

impl Lab {
    /// # Errors
    /// When the machine refuses: not root, or no BPF.
    pub fn build(family: Family) -> Result<Self> {
        let name = unique_name();
        let topology = Topology::build(&name, 2)?;
        let mut nodes = Vec::new();
        for (index, net) in topology.nodes.iter().enumerate() {
            let other = topology.nodes[1 - index].addr;
            net.netns.ip(&format!("route add 10.244.{}.0/24 via {other}", 2 - index))?;
            let other = topology.nodes[1 - index].addr6;
            net.netns.ip(&format!("-6 route add fd00:244:{}::/64 via {other}", 2 - index))?;
            for (file, value) in [("ipv4/ip_forward", "1"), ("ipv4/conf/all/rp_filter", "0"), ("ipv6/conf/all/forwarding", "1")]
            {
                let path = format!("/proc/sys/net/{file}");
                net.netns.enter(|| fs::write(&path, value))?.with_context(|| path.clone())?;
            }
            let pins = Pins::new(&format!("{name}-{index}"))?;
            let options = Options {
                pin_root: pins.path().to_owned(),
                cgroup: "/sys/fs/cgroup/unified".into(),
                node_addr: Some(net.addr),
                node_addr6: Some(net.addr6),
                sizes: Sizes { conntrack: 1024, ..Sizes::uniform(256) },
                socket_lb: false,
            };
            let mut datapath = net.netns.enter(|| Datapath::open(&options))??;
            net.netns.enter(|| datapath.attach_uplink(UPLINK))??;
            let mut tables = Tables::new(datapath.maps()?, &[net.addr.into(), net.addr6.into()]);
            let mut pods = Vec::new();
            for pod in 0..2_u8 {
                let (third, host) = (u8::try_from(index)? + 1, 2 + pod);
                let addr = Ipv4Addr::new(10, 244, third, host);
                let addr6 = Ipv6Addr::new(0xfd00, 0x244, third.into(), 0, 0, 0, 0, host.into());
                let name = format!("{name}-{index}{pod}");
                let (netns, macs) = plug_pod(&name, &net.netns, addr, addr6, &mut datapath, &mut tables)?;
                pods.push(Pod { netns, addr: family.of(addr, addr6), macs });
            }
            let addr = family.of(net.addr, net.addr6);
            nodes.push(LabNode { addr, tables, pods, _datapath: datapath, _pins: pins });
        }
        Ok(Self { family, nodes, topology })
    }

    /// A service's address.
    pub fn vip(&self) -> IpAddr {
        self.family.of(Ipv4Addr::new(10, 96, 0, 80), Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 0x80))
    }

    /// The namespace of a node.
    pub fn host(&self, node: usize) -> &Netns {
        &self.topology.nodes[node].netns
    }

    /// A node's address of IPv6, whatever the lab's family.
    pub fn address6(&self, node: usize) -> Ipv6Addr {
        self.topology.nodes[node].addr6
    }

    pub fn client(&self) -> &Netns {
        &self.topology.client
    }

    pub fn client_addr(&self) -> IpAddr {
        self.family.of(CLIENT_ADDR, CLIENT_ADDR6)
    }

    /// Makes the nodes' uplinks complete every checksum before a packet leaves, as a plain network card does. A
    /// checksum that is wrong until then, or was completed once too often, is then seen by whoever receives it.
    pub fn complete_checksums(&self) -> Result<()> {
        for node in &self.topology.nodes {
            node.netns.enter(|| set_tx_checksumming(UPLINK, false))??;
        }
        Ok(())
    }
}

/// A pod as the CNI plugin makes it: one address of each family, everything else behind gateways with permanent neighbour
/// entries.
fn plug_pod(
    name: &str,
    node: &Netns,
    addr: Ipv4Addr,
    addr6: Ipv6Addr,
    datapath: &mut Datapath,
    tables: &mut Tables,
) -> Result<(Netns, Macs)> {
    let netns = Netns::create(name)?;
    let link = format!("twp{}", addr.octets()[3]);
    node.ip(&format!("link add {link} type veth peer name {POD_LINK} netns {name}"))?;
    node.ip(&format!("link set {link} up"))?;
    netns.ip(&format!("link set {POD_LINK} up"))?;
    let (host_mac, ifindex) = link_of(node, &link)?;
    let (pod_mac, _) = link_of(&netns, POD_LINK)?;
    netns.ip(&format!("addr add {addr}/32 dev {POD_LINK}"))?;
    netns.ip(&format!("addr add {addr6}/128 dev {POD_LINK} nodad"))?;
    for (gateway, default) in [(IpAddr::from(GATEWAY), "-4"), (GATEWAY6.into(), "-6")] {
        netns.ip(&format!("neigh add {gateway} lladdr {} dev {POD_LINK} nud permanent", mac_text(host_mac)))?;
        netns.ip(&format!("{default} route add default via {gateway} dev {POD_LINK} onlink"))?;
    }
    node.ip(&format!("route add {addr}/32 dev {link}"))?;
    node.ip(&format!("-6 route add {addr6}/128 dev {link}"))?;
    let (addr, addr6) = (IpAddr::from(addr), IpAddr::from(addr6));
    for addr in [addr, addr6] {
        node.ip(&format!("neigh add {addr} lladdr {} dev {link} nud permanent", mac_text(pod_mac)))?;
        tables.pod(addr, ifindex, pod_mac, host_mac)?;
    }
    node.enter(|| datapath.attach_pod(&link))??;
    Ok((netns, Macs { own: pod_mac, peer: host_mac }))
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Hardware address and index of a link.
pub fn link_of(netns: &Netns, link: &str) -> Result<([u8; 6], u32)> {
    let shown = netns.ip(&format!("-o link show dev {link}"))?;
    let index = shown.split(':').next().context("ip link shows nothing")?.trim().parse()?;
    let text = shown.split("link/ether ").nth(1).and_then(|rest| rest.split_whitespace().next());
    let bytes: Vec<u8> = text
        .with_context(|| format!("no hardware address in {shown:?}"))?
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16))
        .collect::<Result<_, _>>()?;
    Ok((bytes.try_into().map_err(|bytes| anyhow::anyhow!("hardware address {bytes:?}"))?, index))
}

/// What `ethtool -K LINK tx on|off` does, in the namespace of the calling thread.
pub fn set_tx_checksumming(link: &str, on: bool) -> Result<()> {
    const ETHTOOL_STXCSUM: u32 = 0x17;
    #[repr(C)]
    struct Request {
        name: [u8; libc::IFNAMSIZ],
        data: *mut [u32; 2],
        rest: [u8; 16],
    }
    ensure!(link.len() < libc::IFNAMSIZ, "link name {link:?} is too long");
    let mut value = [ETHTOOL_STXCSUM, u32::from(on)];
    let mut request = Request { name: [0; libc::IFNAMSIZ], data: &raw mut value, rest: [0; 16] };
    request.name[..link.len()].copy_from_slice(link.as_bytes());
    let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    // SAFETY: an ifreq of full size that points to an ethtool_value; both outlive the call.
    #[expect(unsafe_code, reason = "the ethtool ioctl has no safe wrapper here")]
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    if result != 0 {
        bail!("ethtool on {link}: {}", std::io::Error::last_os_error());
    }
    Ok(())
}

/// Sends a frame as it is, in the namespace of the calling thread.
#[expect(unsafe_code, reason = "packet sockets have no safe wrapper here")]
pub fn send_frame(link: &str, frame: &[u8]) -> Result<()> {
    let name = std::ffi::CString::new(link)?;
    // SAFETY: a terminated string.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    ensure!(index != 0, "no link {link}");
    let protocol = u16::from_ne_bytes([frame[12], frame[13]]);
    // SAFETY: no pointers.
    let raw = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0) };
    ensure!(raw >= 0, "packet socket: {}", std::io::Error::last_os_error());
    // SAFETY: just opened, and owned by nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    // SAFETY: integers only.
    let mut addr: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    addr.sll_family = libc::AF_PACKET as u16;
    addr.sll_protocol = protocol;
    addr.sll_ifindex = i32::try_from(index)?;
    // SAFETY: the buffer and the address are valid for the lengths given.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const addr).cast(),
            size_of::<libc::sockaddr_ll>() as u32,
        )
    };
    ensure!(usize::try_from(sent) == Ok(frame.len()), "send: {}", std::io::Error::last_os_error());
    Ok(())
}
