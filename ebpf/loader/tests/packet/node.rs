//! One node for packet tests: a namespace with an uplink and pods' links, the programs loaded, tables by hand.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    net::{Ipv4Addr, SocketAddrV4},
    ops::{Deref, DerefMut},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use thalweg_abi::{Be16, CtEntry, Proto, Tuple};
use thalweg_lab::{
    netns::Netns,
    packet::{Body, Packet},
};
use thalweg_loader::{Datapath, Injected, Options, Outcome, Sizes, Table};

use super::tables::Tables;

pub const PASS: i32 = 0;
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

pub fn at(addr: Ipv4Addr, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(addr, port)
}

/// The tuple of a flow as the maps have it.
pub fn tuple(proto: Proto, src: SocketAddrV4, dst: SocketAddrV4) -> Tuple {
    Tuple {
        src: (*src.ip()).into(),
        dst: (*dst.ip()).into(),
        sport: Be16::from_host(src.port()),
        dport: Be16::from_host(dst.port()),
        proto,
        pad: [0; 3],
    }
}

/// The tuple of a packet.
pub fn tuple_of(packet: &Packet) -> Tuple {
    let (proto, sport, dport) = match &packet.body {
        Body::Tcp(tcp) => (Proto::TCP, tcp.sport, tcp.dport),
        Body::Udp(udp) => (Proto::UDP, udp.sport, udp.dport),
        Body::Icmp(_) => (Proto::ICMP, 0, 0),
        Body::Raw { proto, .. } => (Proto(*proto), 0, 0),
    };
    tuple(proto, at(packet.src, sport), at(packet.dst, dport))
}

pub fn pod_mac(addr: Ipv4Addr) -> [u8; 6] {
    [0x02, 0xaa, 0, 0, 0, addr.octets()[3]]
}

pub fn host_mac(addr: Ipv4Addr) -> [u8; 6] {
    [0x02, 0xbb, 0, 0, 0, addr.octets()[3]]
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
        let name = unique_name();
        let netns = Netns::create(&name)?;
        let outside = Netns::create(&format!("{name}-out"))?;
        wire(&netns, &outside, "eth0", "wire")?;
        netns.ip(&format!("addr add {NODE}/24 dev eth0"))?;
        netns.ip("route add default via 172.31.0.1")?;
        netns.ip(&format!("route add 10.244.2.0/24 via {OTHER_NODE}"))?;
        for (pod, name) in [(POD_A, "twa"), (POD_B, "twb")] {
            wire(&netns, &outside, name, &format!("{name}p"))?;
            netns.ip(&format!("route add {pod}/32 dev {name}"))?;
        }
        netns.enter(|| fs::write("/proc/sys/net/ipv4/ip_forward", "1"))?.context("ip_forward")?;
        let ifindexes: Vec<u32> = ["eth0", "twa", "twb"].iter().map(|name| ifindex(&netns, name)).collect::<Result<_>>()?;
        let pins = Pins::new(&name)?;
        let options = Options {
            pin_root: pins.path().to_owned(),
            cgroup: PathBuf::from("/sys/fs/cgroup/unified"),
            node_addr: Some(NODE),
            node_addr6: None,
            sizes: Sizes { conntrack, ..Sizes::uniform(256) },
            socket_lb: false,
        };
        let datapath = netns.enter(|| Datapath::open(&options))??;
        let [uplink, pod_a, pod_b] = ifindexes[..] else { anyhow::bail!("three links") };
        let tables = Tables::new(datapath.maps()?, NODE);
        let mut node = Self { datapath, tables, uplink, pod_a, pod_b, netns, _outside: outside, _pins: pins };
        for (pod, ifindex) in [(POD_A, pod_a), (POD_B, pod_b)] {
            node.tables.pod(pod, ifindex, pod_mac(pod), host_mac(pod))?;
        }
        Ok(node)
    }

    /// What the program makes of a packet that arrives on an interface.
    pub fn run(&self, program: &str, ifindex: u32, packet: &[u8]) -> Result<Outcome> {
        let input = Injected { packet, ifindex, ..Default::default() };
        Ok(self.netns.enter(|| self.datapath.test_run(program, &input))??)
    }

    pub fn pod_sends(&self, packet: &Packet) -> Result<Outcome> {
        let ifindex = if packet.src == POD_B { self.pod_b } else { self.pod_a };
        self.run("tc_from_pod", ifindex, &packet.bytes())
    }

    pub fn stack_sends_pod_a(&self, packet: &Packet) -> Result<Outcome> {
        self.run("tc_to_pod", self.pod_a, &packet.bytes())
    }

    pub fn wire_brings(&self, packet: &Packet) -> Result<Outcome> {
        self.run("tc_from_wire", self.uplink, &packet.bytes())
    }

    pub fn stack_sends_out(&self, packet: &Packet) -> Result<Outcome> {
        self.run("tc_to_wire", self.uplink, &packet.bytes())
    }

    pub fn flow(&self, tuple: Tuple) -> Result<Option<CtEntry>> {
        Ok(self.maps.conntrack.get(&tuple)?)
    }

    /// Both entries of the flow that `packet` is the client's side of.
    pub fn pair(&self, packet: &Packet) -> Result<(CtEntry, CtEntry)> {
        let forward = self.flow(tuple_of(packet))?.context("no forward entry")?;
        let reply = self.flow(forward.to.reversed())?.context("no reply entry")?;
        ensure!(reply.to.reversed() == tuple_of(packet), "the reply entry is another flow's: {reply:?}");
        Ok((forward, reply))
    }

    /// How many entries conntrack has.
    pub fn tracked(&self) -> Result<usize> {
        Ok(self.maps.conntrack.entries()?.len())
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
