//! Nanoseconds of each tc program for each packet, by repeated test runs on one CPU, less what the same driver takes over
//! a program that does nothing. Nothing is sent: the cost of the wire, the stack and the redirect itself is not in it.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use thalweg_abi::{
    Backend, BackendState, Be16, Be32, Be128, Frontend, FrontendFlags, FrontendKey, LocalPod, Proto, Scope, Slot,
};
use thalweg_lab::netns::Netns;
use thalweg_loader::{Datapath, Driver, Frame, Maps, Options, Sizes, Table, cleanup};

use crate::bench::{Bench, Case as BenchCase};
use crate::run::Better;
use crate::scenario::{Need, Scenario};
use crate::settings::Settings;

const MANY: u32 = 64_000;
const NODE: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 11);
const NODE6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x31, 0, 0, 0, 0, 0, 11);
const CLIENT: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 100);
const CLIENT6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x31, 0, 0, 0, 0, 0, 100);
const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 80);
const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 80);
const NODE_PORT: u16 = 30_080;
/// Outside of the cluster.
const WORLD: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const WORLD6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

pub struct Packets;

/// One packet in one program.
struct Case {
    name: &'static str,
    program: &'static str,
    link: Link,
    from: SocketAddr,
    to: SocketAddr,
    proto: Proto,
    flows: u32,
    /// Every packet finds an empty table.
    first: bool,
}

#[derive(Clone, Copy)]
enum Link {
    Uplink,
    PodA,
}

/// Where the programs and maps are pinned, by the name of the lab, so that runs of two names do not meet. Dropping it removes
/// them.
struct Pins {
    name: String,
    root: PathBuf,
    removed: bool,
}

struct Node {
    netns: Netns,
    datapath: Datapath,
    maps: Maps,
    uplink: u32,
    pod_a: u32,
    _outside: Netns,
}

// === impl Packets ===

impl Scenario for Packets {
    fn name(&self) -> &'static str {
        "packets"
    }

    fn about(&self) -> &'static str {
        "nanoseconds of each tc program for each packet, above what the same driver takes over a program that does nothing"
    }

    fn ours(&self) -> &'static [&'static str] {
        &["program"]
    }

    fn against(&self) -> &'static [&'static str] {
        &[]
    }

    fn needs(&self) -> &'static [Need] {
        &[Need::Root, Need::Program("ip", "iproute2")]
    }

    fn cases(&self, _settings: &Settings) -> usize {
        cases().len()
    }

    fn run(&self, bench: &mut Bench<'_>) -> Result<()> {
        let pins = Pins::claim(&bench.settings.lab)?;
        let result = Node::new(&pins).and_then(|mut node| measure(bench, &mut node));
        // The node is gone by now, and nothing holds the programs.
        let removed = pins.remove();
        result.and(removed)
    }
}

fn measure(bench: &mut Bench<'_>, node: &mut Node) -> Result<()> {
    let mut driver = Driver::load()?;
    let (runs, packets) = (bench.settings.plan.runs, packets(bench.settings.millis));
    for case in cases() {
        if bench.stopped() {
            return Ok(());
        }
        bench.say(case.name);
        let bytes = frame(&case);
        let ifindex = match case.link {
            Link::Uplink => node.uplink,
            Link::PodA => node.pod_a,
        };
        let frame = Frame { bytes: &bytes, ifindex, flows: case.flows };
        let packets = if case.first { case.flows } else { packets };
        node.forget_flows()?;
        let netns = &node.netns;
        let (datapath, driver) = (&node.datapath, &mut driver);
        let mut time = |program: Option<&'static str>| -> Result<f64> {
            let spent: Duration = netns.enter(|| driver.time(datapath, program, &frame, packets))??;
            Ok(spent.as_nanos() as f64)
        };
        // Flows are made once, and caches filled.
        time(Some(case.program))?;
        let (mut spent, mut alone) = (Vec::new(), Vec::new());
        for _ in 0..runs {
            let base = time(None)?;
            if case.first {
                forget(&mut node.maps)?;
            }
            spent.push(time(Some(case.program))? - base);
            alone.push(base);
        }
        let labels = BenchCase::new("ns", Better::Lower).with("packet", case.name).with("program", case.program);
        bench.figures(labels, vec![("program", spent), ("driver alone", alone)]);
        bench.over();
    }
    Ok(())
}

/// About as many as take that long, and every flow at least once.
fn packets(millis: u64) -> u32 {
    u32::try_from(millis.saturating_mul(1_000)).unwrap_or(u32::MAX).clamp(MANY, 10_000_000)
}

fn cases() -> Vec<Case> {
    let at = |address: IpAddr, port: u16| SocketAddr::new(address, port);
    let mut cases = Vec::new();
    let families = [
        (
            ["tc_from_pod", "tc_from_wire", "tc_to_pod", "tc_to_wire"],
            pods4(),
            VIP.into(),
            WORLD.into(),
            NODE.into(),
            CLIENT.into(),
        ),
        (
            ["tc_from_pod6", "tc_from_wire6", "tc_to_pod6", "tc_to_wire6"],
            pods6(),
            VIP6.into(),
            WORLD6.into(),
            NODE6.into(),
            CLIENT6.into(),
        ),
    ];
    for ([from_pod, from_wire, to_pod, to_wire], [pod_a, pod_b, _], vip, world, node, client) in families {
        let mut case = |name, program, link, from: IpAddr, to: (IpAddr, u16), proto, flows, first| {
            cases.push(Case { name, program, link, from: at(from, 40_000), to: at(to.0, to.1), proto, flows, first });
        };
        case("pod to VIP, TCP, one flow", from_pod, Link::PodA, pod_a, (vip, 80), Proto::TCP, 1, false);
        case("pod to VIP, TCP, 64,000 flows", from_pod, Link::PodA, pod_a, (vip, 80), Proto::TCP, MANY, false);
        case("pod to VIP, UDP, one flow", from_pod, Link::PodA, pod_a, (vip, 53), Proto::UDP, 1, false);
        case("pod to VIP, UDP, first packet of each flow", from_pod, Link::PodA, pod_a, (vip, 53), Proto::UDP, MANY, true);
        case("pod to pod of the node, TCP", from_pod, Link::PodA, pod_a, (pod_b, 80), Proto::TCP, 1, false);
        case("pod to the outside, TCP", from_pod, Link::PodA, pod_a, (world, 80), Proto::TCP, 1, false);
        case("outside to NodePort, TCP, one flow", from_wire, Link::Uplink, client, (node, NODE_PORT), Proto::TCP, 1, false);
        case(
            "outside to NodePort, TCP, 64,000 flows",
            from_wire,
            Link::Uplink,
            client,
            (node, NODE_PORT),
            Proto::TCP,
            MANY,
            false,
        );
        case("outside to pod, TCP", from_wire, Link::Uplink, client, (pod_a, 80), Proto::TCP, 1, false);
        case("stack to pod, TCP", to_pod, Link::PodA, client, (pod_a, 80), Proto::TCP, 1, false);
        case("stack to the wire, TCP", to_wire, Link::Uplink, node, (client, 80), Proto::TCP, 1, false);
    }
    cases
}

fn pods4() -> [IpAddr; 3] {
    [2, 3, 4].map(|host| Ipv4Addr::new(10, 244, 1, host).into())
}

fn pods6() -> [IpAddr; 3] {
    [2, 3, 4].map(|host| Ipv6Addr::new(0xfd00, 0x244, 0, 1, 0, 0, 0, host).into())
}

/// 64 bytes and more: an acknowledgement, or a datagram of as many bytes. Checksums are left 0: no program checks them.
fn frame(case: &Case) -> Vec<u8> {
    const PAYLOAD: usize = 10;
    let transport = if case.proto == Proto::TCP { 20 } else { 20 + PAYLOAD };
    let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    match (case.from.ip(), case.to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            bytes.extend([0x08, 0x00, 0x45, 0]);
            bytes.extend(u16::try_from(20 + transport).unwrap_or(u16::MAX).to_be_bytes());
            bytes.extend([0, 0, 0x40, 0, 64, case.proto.0, 0, 0]);
            bytes.extend(from.octets());
            bytes.extend(to.octets());
        }
        (from, to) => {
            let octets = |address: IpAddr| if let IpAddr::V6(address) = address { address.octets() } else { [0; 16] };
            bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            bytes.extend(u16::try_from(transport).unwrap_or(u16::MAX).to_be_bytes());
            bytes.extend([case.proto.0, 64]);
            bytes.extend(octets(from));
            bytes.extend(octets(to));
        }
    }
    bytes.extend(case.from.port().to_be_bytes());
    bytes.extend(case.to.port().to_be_bytes());
    if case.proto == Proto::TCP {
        // An acknowledgement.
        bytes.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
    } else {
        bytes.extend(u16::try_from(transport).unwrap_or(u16::MAX).to_be_bytes());
        bytes.extend([0; 2]);
        bytes.resize(bytes.len() + transport - 8, 0);
    }
    bytes
}

// === impl Pins ===

impl Pins {
    /// # Errors
    /// When what an earlier run left there cannot be removed, or is in use.
    fn claim(lab: &str) -> Result<Self> {
        let pins = Self::of(lab);
        cleanup(&pins.root)?;
        Ok(pins)
    }

    fn of(lab: &str) -> Self {
        let name = format!("thalweg-{lab}-packets");
        Self { root: Path::new("/run").join(&name), name, removed: false }
    }

    /// # Errors
    /// Names what stays behind.
    fn remove(mut self) -> Result<()> {
        self.removed = true;
        cleanup(&self.root)?;
        Ok(())
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        if !self.removed
            && let Err(error) = cleanup(&self.root)
        {
            eprintln!("{}: {error}", self.root.display());
        }
    }
}

// === impl Node ===

impl Node {
    fn new(pins: &Pins) -> Result<Self> {
        let netns = Netns::create(&pins.name)?;
        let outside = Netns::create(&format!("{}-out", pins.name))?;
        for (link, addresses) in [("eth0", vec![format!("{NODE}/24"), format!("{NODE6}/64")]), ("twa", vec![]), ("twb", vec![])]
        {
            netns.ip(&format!("link add {link} type veth peer name {link}p netns {}", outside.name()))?;
            for address in addresses {
                let nodad = if address.contains(':') { " nodad" } else { "" };
                netns.ip(&format!("addr add {address} dev {link}{nodad}"))?;
            }
            netns.ip(&format!("link set {link} up"))?;
            outside.ip(&format!("link set {link}p up"))?;
        }
        // Whom the frames are for.
        netns.ip("link set eth0 address 02:00:00:00:00:01")?;
        netns.ip("route add default via 172.31.0.1")?;
        netns.ip("-6 route add default via fd00:31::1")?;
        netns.enter(|| {
            fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
            fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")
        })??;
        let index = |link: &str| -> Result<u32> {
            let shown = netns.ip(&format!("-o link show dev {link}"))?;
            shown.split(':').next().and_then(|index| index.trim().parse().ok()).context("an interface index")
        };
        let (uplink, pod_a, pod_b) = (index("eth0")?, index("twa")?, index("twb")?);
        let options = Options {
            pin_root: pins.root.clone(),
            cgroup: PathBuf::new(),
            node_addr: Some(NODE),
            node_addr6: Some(NODE6),
            sizes: Sizes { conntrack: 262_144, conntrack6: 262_144, ..Sizes::uniform(1_024) },
            socket_lb: false,
        };
        let datapath = netns.enter(|| Datapath::open(&options))??;
        let mut maps = datapath.maps()?;
        fill(&mut maps, pod_a, pod_b)?;
        Ok(Self { netns, datapath, maps, uplink, pod_a, _outside: outside })
    }

    fn forget_flows(&mut self) -> Result<()> {
        forget(&mut self.maps)
    }
}

fn forget(maps: &mut Maps) -> Result<()> {
    let keys: Vec<_> = maps.conntrack.entries()?.into_iter().map(|(key, _)| key).collect();
    maps.conntrack.delete(&keys)?;
    let keys: Vec<_> = maps.conntrack6.entries()?.into_iter().map(|(key, _)| key).collect();
    Ok(maps.conntrack6.delete(&keys)?)
}

/// One service with a pod of the node behind each of its ports.
fn fill(maps: &mut Maps, pod_a: u32, pod_b: u32) -> Result<()> {
    for (pods, six) in [(pods4(), false), (pods6(), true)] {
        for (address, ifindex) in [(pods[0], pod_a), (pods[1], pod_b)] {
            let pod = LocalPod { ifindex, pod_mac: [2, 0, 0, 0, 0, 3], host_mac: [2, 0, 0, 0, 0, 4] };
            match address {
                IpAddr::V4(address) => maps.local_pods.update(&[(Be32::from(address), pod)])?,
                IpAddr::V6(address) => maps.local_pods6.update(&[(Be128::from(address), pod)])?,
            }
        }
        let id = 1 + u32::from(six);
        let (addr, port) = (Be128::from(pods[1]), Be16::from_host(8080));
        maps.backends
            .update(&[(id, Backend { addr, port, state: BackendState::READY, generation: 1, ..Default::default() })])?;
        maps.slots.update(&[(id, Slot { addr, port, backend: id, generation: 1, ..Default::default() })])?;
        let frontend = Frontend { service: 1, generation: 1, base: id, count: 1, ..Default::default() };
        let wildcard = Frontend { flags: FrontendFlags(FrontendFlags::WILDCARD), ..Default::default() };
        for (port, proto, scope, node) in [
            (80, Proto::TCP, Scope::INTERNAL, false),
            (53, Proto::UDP, Scope::INTERNAL, false),
            (NODE_PORT, Proto::TCP, Scope::EXTERNAL, true),
        ] {
            let port = Be16::from_host(port);
            if six {
                let vip = Be128::from(if node { NODE6 } else { VIP6 });
                maps.frontends6.update(&[(FrontendKey { vip, port, proto, scope }, frontend)])?;
                maps.frontends6.update(&[(FrontendKey::wildcard(Be128::from(VIP6)), wildcard)])?;
            } else {
                let vip = Be32::from(if node { NODE } else { VIP });
                maps.frontends.update(&[(FrontendKey { vip, port, proto, scope }, frontend)])?;
                maps.frontends.update(&[(FrontendKey::wildcard(Be32::from(VIP)), wildcard)])?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labs_of_two_names_pin_in_two_places() {
        let (one, two) = (Pins::of("one"), Pins::of("two"));
        assert!(one.root != two.root && one.name != two.name);
        assert_eq!(one.root, Path::new("/run/thalweg-one-packets"));
    }

    #[test]
    fn dropping_removes_what_is_there_and_nothing_is_fine_too() {
        let folder = tempfile::tempdir().expect("folder");
        let root = folder.path().join("pins");
        std::fs::create_dir(&root).expect("folder");
        drop(Pins { name: "pins".to_owned(), root: root.clone(), removed: false });
        assert!(!root.exists(), "{}", root.display());
        Pins { name: "pins".to_owned(), root, removed: false }.remove().expect("nothing to remove");
    }
}
