//! One node for packet tests: a namespace with an uplink and pods' links, the programs loaded, tables by hand.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::{Deref, DerefMut},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use thalweg_abi::{Be16, Be128, CtEntry, Proto, Tuple};
use thalweg_lab::{
    netns::Netns,
    packet::{Body, Packet},
};
use thalweg_loader::{Datapath, Injected, Options, Outcome, Sizes, Table};

use super::tables::Tables;

pub const PASS: i32 = 0;
/// To the next program on the hook.
pub const NEXT: i32 = -1;
pub const DROP: i32 = 2;
pub const REDIRECT: i32 = 7;

pub const NODE: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 11);
/// The other node; the way to `REMOTE`.
pub const OTHER_NODE: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 12);
/// Outside the cluster, on the node's own subnet.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 100);
pub const POD_A: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 2);
pub const POD_B: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 3);
/// A pod of the other node.
pub const REMOTE: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 5);
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 80);

pub const NODE6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x31, 0, 0, 0, 0, 0, 11);
pub const OTHER_NODE6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x31, 0, 0, 0, 0, 0, 12);
pub const CLIENT6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x31, 0, 0, 0, 0, 0, 0x100);
pub const POD_A6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x244, 1, 0, 0, 0, 0, 2);
pub const POD_B6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x244, 1, 0, 0, 0, 0, 3);
pub const REMOTE6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x244, 2, 0, 0, 0, 0, 5);
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 0x80);

/// A family's addresses.
#[derive(Clone, Copy, Debug)]
pub struct Net {
    pub vip: IpAddr,
    pub node: IpAddr,
    pub client: IpAddr,
    pub pods: [IpAddr; 2],
    pub remote: IpAddr,
}

/// Of IPv4, then of IPv6.
pub fn nets() -> [Net; 2] {
    [
        Net {
            vip: VIP.into(),
            node: NODE.into(),
            client: CLIENT.into(),
            pods: [POD_A.into(), POD_B.into()],
            remote: REMOTE.into(),
        },
        Net {
            vip: VIP6.into(),
            node: NODE6.into(),
            client: CLIENT6.into(),
            pods: [POD_A6.into(), POD_B6.into()],
            remote: REMOTE6.into(),
        },
    ]
}

pub fn at(addr: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(addr.into(), port)
}

/// A flow's entry, of either family. Addresses of IPv4 are mapped.
pub type Entry = CtEntry<Be128>;
/// A flow's tuple, of either family.
pub type Key = Tuple<Be128>;

/// The tuple of a flow.
pub fn tuple(proto: Proto, src: SocketAddr, dst: SocketAddr) -> Key {
    Tuple {
        src: src.ip().into(),
        dst: dst.ip().into(),
        sport: Be16::from_host(src.port()),
        dport: Be16::from_host(dst.port()),
        proto,
        pad: [0; 3],
    }
}

/// The tuple as the map of IPv4 has it.
pub fn tuple4(tuple: Key) -> Tuple {
    let Tuple { src, dst, sport, dport, proto, pad } = tuple;
    Tuple { src: src.v4(), dst: dst.v4(), sport, dport, proto, pad }
}

fn mapped(tuple: Tuple) -> Key {
    let Tuple { src, dst, sport, dport, proto, pad } = tuple;
    Tuple { src: Be128::mapped(src), dst: Be128::mapped(dst), sport, dport, proto, pad }
}

/// The tuple of a packet.
pub fn tuple_of(packet: &Packet) -> Key {
    let (proto, sport, dport) = match &packet.body {
        Body::Tcp(tcp) => (Proto::TCP, tcp.sport, tcp.dport),
        Body::Udp(udp) => (Proto::UDP, udp.sport, udp.dport),
        Body::Sctp(sctp) => (Proto::SCTP, sctp.sport, sctp.dport),
        Body::Icmp(_) => (Proto::ICMP, 0, 0),
        Body::Raw { proto, .. } => (Proto(*proto), 0, 0),
    };
    tuple(proto, at(packet.src, sport), at(packet.dst, dport))
}

/// The last byte of an address, by which its host is told in both families.
fn host(addr: IpAddr) -> u8 {
    match addr {
        IpAddr::V4(addr) => addr.octets()[3],
        IpAddr::V6(addr) => addr.octets()[15],
    }
}

pub fn pod_mac(addr: impl Into<IpAddr>) -> [u8; 6] {
    [0x02, 0xaa, 0, 0, 0, host(addr.into())]
}

pub fn host_mac(addr: impl Into<IpAddr>) -> [u8; 6] {
    [0x02, 0xbb, 0, 0, 0, host(addr.into())]
}

/// The node. Removes its namespaces, pins and mounts when dropped.
pub struct Node {
    pub datapath: Datapath,
    pub tables: Tables,
    pub uplink: u32,
    pub pod_a: u32,
    pub pod_b: u32,
    pub netns: Netns,
    /// The far ends of all links.
    _outside: Netns,
    /// Last: pins are in use until the data path is closed.
    _pins: Pins,
}

impl Deref for Node {
    type Target = Tables;

    fn deref(&self) -> &Tables {
        &self.tables
    }
}

impl DerefMut for Node {
    fn deref_mut(&mut self) -> &mut Tables {
        &mut self.tables
    }
}

/// The folder of pins, removed with everything in it.
pub struct Pins(PathBuf);

impl Pins {
    /// # Errors
    /// When what a killed run left cannot be removed.
    pub fn new(name: &str) -> Result<Self> {
        let pins = Self(PathBuf::from("/run").join(name));
        thalweg_loader::cleanup(&pins.0)?;
        Ok(pins)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        if let Err(error) = thalweg_loader::cleanup(&self.0) {
            eprintln!("pins in {} stay behind: {error}", self.0.display());
        }
    }
}

impl Node {
    pub fn new() -> Result<Self> {
        Self::with_conntrack(256)
    }

    pub fn with_conntrack(conntrack: u32) -> Result<Self> {
        Self::build(conntrack, Some((NODE, NODE6)))
    }

    /// Whose programs know no address of its own.
    pub fn without_addresses() -> Result<Self> {
        Self::build(256, None)
    }

    fn build(conntrack: u32, addresses: Option<(Ipv4Addr, Ipv6Addr)>) -> Result<Self> {
        let name = unique_name();
        let netns = Netns::create(&name)?;
        let outside = Netns::create(&format!("{name}-out"))?;
        wire(&netns, &outside, "eth0", "wire")?;
        // Whom packets are for that say nothing else.
        netns.ip("link set eth0 address 02:00:00:00:00:02")?;
        netns.ip(&format!("addr add {NODE}/24 dev eth0"))?;
        netns.ip("route add default via 172.31.0.1")?;
        netns.ip(&format!("route add 10.244.2.0/24 via {OTHER_NODE}"))?;
        netns.ip(&format!("addr add {NODE6}/64 dev eth0 nodad"))?;
        netns.ip("-6 route add default via fd00:31::1")?;
        netns.ip(&format!("-6 route add fd00:244:2::/64 via {OTHER_NODE6}"))?;
        for (pod, pod6, name) in [(POD_A, POD_A6, "twa"), (POD_B, POD_B6, "twb")] {
            wire(&netns, &outside, name, &format!("{name}p"))?;
            netns.ip(&format!("route add {pod}/32 dev {name}"))?;
            netns.ip(&format!("-6 route add {pod6}/128 dev {name}"))?;
        }
        for file in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            netns.enter(|| fs::write(format!("/proc/sys/net/{file}"), "1"))?.context(file)?;
        }
        let ifindexes: Vec<u32> = ["eth0", "twa", "twb"].iter().map(|name| ifindex(&netns, name)).collect::<Result<_>>()?;
        let pins = Pins::new(&name)?;
        let options = Options {
            pin_root: pins.path().to_owned(),
            cgroup: PathBuf::from("/sys/fs/cgroup/unified"),
            node_addr: addresses.map(|(addr, _)| addr),
            node_addr6: addresses.map(|(_, addr)| addr),
            sizes: Sizes { conntrack, ..Sizes::uniform(256) },
            socket_lb: false,
        };
        let datapath = netns.enter(|| Datapath::open(&options))??;
        let [uplink, pod_a, pod_b] = ifindexes[..] else { anyhow::bail!("three links") };
        let tables = Tables::new(datapath.maps()?, &[NODE.into(), NODE6.into()]);
        let mut node = Self { datapath, tables, uplink, pod_a, pod_b, netns, _outside: outside, _pins: pins };
        let pods: [(IpAddr, u32); 4] =
            [(POD_A.into(), pod_a), (POD_B.into(), pod_b), (POD_A6.into(), pod_a), (POD_B6.into(), pod_b)];
        for (pod, ifindex) in pods {
            node.tables.pod(pod, ifindex, pod_mac(pod), host_mac(pod))?;
        }
        Ok(node)
    }

    /// What the program makes of a packet that arrives on an interface.
    pub fn run(&self, program: &str, ifindex: u32, packet: &[u8]) -> Result<Outcome> {
        let input = Injected { packet, ifindex, ..Default::default() };
        Ok(self.netns.enter(|| self.datapath.test_run(program, &input))??)
    }

    /// What the hook's program for the packet's family makes of it.
    fn hook(&self, hook: &str, ifindex: u32, packet: &Packet) -> Result<Outcome> {
        self.hook_after(hook, ifindex, 0, packet)
    }

    /// The same for a packet that has come in by a link before; 0: by none.
    fn hook_after(&self, hook: &str, ifindex: u32, ingress_ifindex: u32, packet: &Packet) -> Result<Outcome> {
        let program = if packet.src.is_ipv4() { hook.to_owned() } else { format!("{hook}6") };
        let input = Injected { packet: &packet.bytes(), ifindex, ingress_ifindex, ..Default::default() };
        Ok(self.netns.enter(|| self.datapath.test_run(&program, &input))??)
    }

    pub fn pod_sends(&self, packet: &Packet) -> Result<Outcome> {
        self.hook("tc_from_pod", self.link_of(packet.src), packet)
    }

    /// The link of a pod; pod A's for every other address.
    pub fn link_of(&self, pod: IpAddr) -> u32 {
        if pod == POD_B || pod == POD_B6 { self.pod_b } else { self.pod_a }
    }

    pub fn stack_sends_pod_a(&self, packet: &Packet) -> Result<Outcome> {
        self.hook("tc_to_pod", self.pod_a, packet)
    }

    pub fn wire_brings(&self, packet: &Packet) -> Result<Outcome> {
        self.hook("tc_from_wire", self.uplink, packet)
    }

    pub fn stack_sends_out(&self, packet: &Packet) -> Result<Outcome> {
        self.hook("tc_to_wire", self.uplink, packet)
    }

    /// What pod A has sent, or a program has sent on, by whatever source address it leaves.
    pub fn stack_forwards_out(&self, packet: &Packet) -> Result<Outcome> {
        self.hook_after("tc_to_wire", self.uplink, self.pod_a, packet)
    }

    pub fn flow(&self, tuple: Key) -> Result<Option<Entry>> {
        if !tuple.src.is_mapped() {
            return Ok(self.maps.conntrack6.get(&tuple)?);
        }
        let found = self.maps.conntrack.get(&tuple4(tuple))?;
        Ok(found.map(|entry| {
            let CtEntry { to, service, backend, generation, last_seen, direction, state, flags, packets, bytes } = entry;
            let to = mapped(to);
            CtEntry { to, service, backend, generation, last_seen, direction, state, flags, packets, bytes }
        }))
    }

    pub fn set_flow(&mut self, tuple: Key, entry: Entry) -> Result<()> {
        if !tuple.src.is_mapped() {
            return Ok(self.maps.conntrack6.update(&[(tuple, entry)])?);
        }
        let CtEntry { to, service, backend, generation, last_seen, direction, state, flags, packets, bytes } = entry;
        let to = tuple4(to);
        let entry = CtEntry { to, service, backend, generation, last_seen, direction, state, flags, packets, bytes };
        Ok(self.maps.conntrack.update(&[(tuple4(tuple), entry)])?)
    }

    pub fn remove_flow(&mut self, tuple: Key) -> Result<()> {
        if tuple.src.is_mapped() {
            return Ok(self.maps.conntrack.delete(&[tuple4(tuple)])?);
        }
        Ok(self.maps.conntrack6.delete(&[tuple])?)
    }

    /// Both entries of the flow that `packet` is the client's side of.
    pub fn pair(&self, packet: &Packet) -> Result<(Entry, Entry)> {
        let forward = self.flow(tuple_of(packet))?.context("no forward entry")?;
        let reply = self.flow(forward.to.reversed())?.context("no reply entry")?;
        ensure!(reply.to.reversed() == tuple_of(packet), "the reply entry is another flow's: {reply:?}");
        Ok((forward, reply))
    }

    /// How many entries conntrack has, of both families.
    pub fn tracked(&self) -> Result<usize> {
        Ok(self.maps.conntrack.entries()?.len() + self.maps.conntrack6.entries()?.len())
    }
}

/// A name that is this test's alone and the same in every run, so that a run replaces what a killed one left.
pub fn unique_name() -> String {
    let mut hasher = DefaultHasher::new();
    std::thread::current().name().unwrap_or("main").hash(&mut hasher);
    format!("tw-pkt-{:06x}", hasher.finish() & 0xff_ffff)
}

/// A link between two namespaces, up on both ends.
fn wire(a: &Netns, b: &Netns, name_a: &str, name_b: &str) -> Result<()> {
    a.ip(&format!("link add {name_a} type veth peer name {name_b} netns {}", b.name()))?;
    a.ip(&format!("link set {name_a} up"))?;
    b.ip(&format!("link set {name_b} up"))?;
    Ok(())
}

fn ifindex(netns: &Netns, name: &str) -> Result<u32> {
    let shown = netns.ip(&format!("-o link show dev {name}"))?;
    let index = shown.split(':').next().context("ip link shows nothing")?;
    index.trim().parse().with_context(|| format!("ifindex in {shown:?}"))
}
