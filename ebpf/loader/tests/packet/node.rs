//! One node for packet tests: a namespace with an uplink and pods' links, the programs loaded, tables by hand.

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, SocketAddrV4},
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, ensure};
use thalweg_abi::{
    Backend, BackendState, Be16, Be32, Counter, CtEntry, DropReason, Frontend, FrontendFlags, FrontendKey, LocalPod, PodFlags,
    Proto, Scope, Slot, Tuple,
};
use thalweg_lab::{
    netns::Netns,
    packet::{Body, Packet},
};
use thalweg_loader::{Datapath, Injected, Maps, Options, Outcome, Sizes, Table};

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

pub const SERVICE: u32 = 7;
/// Backend ids start here, so that an id of 0 would be noticed.
pub const FIRST_BACKEND: u32 = 40;

static SERIAL: AtomicU32 = AtomicU32::new(0);

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

/// A frontend as a test says it.
#[derive(Clone, Copy)]
pub struct Served {
    pub addr: SocketAddrV4,
    pub proto: Proto,
    pub scope: Scope,
    pub flags: u32,
}

pub fn served(proto: Proto, addr: Ipv4Addr, port: u16) -> Served {
    Served { addr: at(addr, port), proto, scope: Scope::INTERNAL, flags: 0 }
}

impl Served {
    pub fn scope(self, scope: Scope) -> Self {
        Self { scope, ..self }
    }

    pub fn flags(self, flags: u32) -> Self {
        Self { flags, ..self }
    }
}

/// The node. Removes its namespaces, pins and mounts when dropped.
pub struct Node {
    pub datapath: Datapath,
    pub maps: Maps,
    pub uplink: u32,
    pub pod_a: u32,
    pub pod_b: u32,
    pub netns: Netns,
    /// The far ends of all links.
    _outside: Netns,
    next_slot: u32,
    ids: BTreeMap<SocketAddrV4, u32>,
    /// Last: pins are in use until the data path is closed.
    _pins: Pins,
}

/// The folder of pins, removed with everything in it.
pub struct Pins(PathBuf);

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
        let name = format!("tw-pkt-{}-{}", std::process::id(), SERIAL.fetch_add(1, Ordering::Relaxed));
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
        let pins = Pins(std::env::temp_dir().join(&name));
        let options = Options {
            pin_root: pins.0.clone(),
            cgroup: PathBuf::from("/sys/fs/cgroup/unified"),
            node_addr: NODE,
            sizes: Sizes { frontends: 256, slots: 256, backends: 256, conntrack, local_pods: 16, services: 16 },
            socket_lb: false,
        };
        let datapath = netns.enter(|| Datapath::open(&options))??;
        let maps = datapath.maps()?;
        let [uplink, pod_a, pod_b] = ifindexes[..] else { anyhow::bail!("three links") };
        let mut node = Self {
            datapath,
            maps,
            uplink,
            pod_a,
            pod_b,
            netns,
            _outside: outside,
            next_slot: 8,
            ids: BTreeMap::new(),
            _pins: pins,
        };
        for (pod, ifindex) in [(POD_A, pod_a), (POD_B, pod_b)] {
            let value = LocalPod {
                ifindex,
                pod_mac: pod_mac(pod),
                host_mac: host_mac(pod),
                flags: PodFlags::default(),
                addr: pod.into(),
            };
            node.maps.local_pods.update(&[(Be32::from(pod), value)])?;
        }
        Ok(node)
    }

    /// Writes a frontend over `backends`, and the wildcard of a VIP. A backend keeps the id that it gets when it is
    /// first named, from [`FIRST_BACKEND`] on, and comes (back) to life with generation 1.
    pub fn serve(&mut self, served: Served, backends: &[SocketAddrV4]) -> Result<()> {
        let base = self.next_slot;
        for (index, addr) in (0..).zip(backends) {
            let next = FIRST_BACKEND + u32::try_from(self.ids.len())?;
            let id = *self.ids.entry(*addr).or_insert(next);
            let (addr, port) = (Be32::from(*addr.ip()), Be16::from_host(addr.port()));
            let backend = Backend { addr, port, state: BackendState::READY, generation: 1, ..Default::default() };
            self.maps.backends.update(&[(id, backend)])?;
            let slot = Slot { addr, port, flags: 0, backend: id, generation: 1 };
            self.maps.slots.update(&[(base + index, slot)])?;
            self.next_slot += 1;
        }
        let vip = Be32::from(*served.addr.ip());
        let key = FrontendKey { vip, port: Be16::from_host(served.addr.port()), proto: served.proto, scope: served.scope };
        let frontend = Frontend {
            service: SERVICE,
            generation: 1,
            base,
            count: u32::try_from(backends.len())?,
            flags: FrontendFlags(served.flags),
            affinity_seconds: 0,
        };
        self.maps.frontends.update(&[(key, frontend)])?;
        if *served.addr.ip() != NODE {
            let wildcard = Frontend { flags: FrontendFlags(FrontendFlags::WILDCARD), ..Default::default() };
            self.maps.frontends.update(&[(FrontendKey::wildcard(vip), wildcard)])?;
        }
        Ok(())
    }

    pub fn set_backend(&mut self, id: u32, state: BackendState, generation: u32) -> Result<()> {
        let backend = self.maps.backends.get(&id)?.context("no such backend")?;
        Ok(self.maps.backends.update(&[(id, Backend { state, generation, ..backend })])?)
    }

    /// What the program makes of a packet that arrives on an interface.
    pub fn run(&self, program: &str, ifindex: u32, packet: &[u8]) -> Result<Outcome> {
        let input = Injected { packet, ifindex, ..Default::default() };
        Ok(self.netns.enter(|| self.datapath.test_run(program, &input))??)
    }

    pub fn from_pod(&self, packet: &Packet) -> Result<Outcome> {
        let ifindex = if packet.src == POD_B { self.pod_b } else { self.pod_a };
        self.run("tc_from_pod", ifindex, &packet.bytes())
    }

    pub fn to_pod_a(&self, packet: &Packet) -> Result<Outcome> {
        self.run("tc_to_pod", self.pod_a, &packet.bytes())
    }

    pub fn from_wire(&self, packet: &Packet) -> Result<Outcome> {
        self.run("tc_from_wire", self.uplink, &packet.bytes())
    }

    pub fn to_wire(&self, packet: &Packet) -> Result<Outcome> {
        self.run("tc_to_wire", self.uplink, &packet.bytes())
    }

    pub fn counter(&self, counter: Counter) -> Result<u64> {
        let counters = self.maps.counters()?;
        Ok(counters.iter().find(|(which, _)| *which == counter).context("no such counter")?.1)
    }

    /// All drops that are not 0.
    pub fn drops(&self) -> Result<Vec<(DropReason, u64)>> {
        Ok(self.maps.drops()?.into_iter().filter(|(_, count)| *count != 0).collect())
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
