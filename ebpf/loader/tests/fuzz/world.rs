//! The node: a namespace with an uplink and two pods' links, the programs loaded (and attached nowhere), tables by hand.
//! The far ends of the links belong to a namespace where nobody is: what a program really sends ends there.

use std::{collections::BTreeMap, fs, net::IpAddr};

use anyhow::{Context, Result};
use thalweg_abi::{
    Affinity, Backend, BackendState, Be16, Be32, Be128, CtDirection, CtEntry, CtState, Frontend, FrontendFlags, FrontendKey,
    LocalPod, Proto, Range, ServiceRanges, Slot, SourceRange, SourceRangeKey, Tuple,
};
use thalweg_lab::netns::Netns;
use thalweg_loader::{Datapath, Error, Injected, Maps, Options, Outcome, Sizes, Table, conntrack};

use crate::{
    kit::Pins,
    model::{
        ADMITTED, BACKEND_PORT, ENDPOINTS, LB, NARROW, NODE, OTHER_NODE, POD_A, POD_B, Party, REMOTE, SERVICES, State, WILD,
    },
    script::Way,
    seeds::hex,
    wire::{ETH, Flow, TCP},
};

/// So few that they fill up.
pub const CONNTRACK: u32 = 96;
const CLIENTS: u32 = 16;
/// To whom frames of the corpus are sent.
const UPLINK_MAC: &str = "02:00:00:00:00:02";
/// A service's place in SLOTS: a range for each family.
const RANGE: u32 = 8;
const AFFINITY_SECONDS: u32 = 60;

pub const UNSPEC: i32 = -1;
pub const PASS: i32 = 0;
pub const DROP: i32 = 2;
pub const REDIRECT: i32 = 7;

/// What outlives the programs: namespaces and pins. Removed when dropped.
pub struct Place {
    pub netns: Netns,
    _outside: Netns,
    pins: Pins,
}

pub struct World {
    datapath: Datapath,
    maps: Maps,
    uplink: u32,
    pods: [u32; 2],
    /// Programs of IPv6, by the name of their hook's first program.
    twins: BTreeMap<&'static str, String>,
    pub services: [(u8, u32); SERVICES.len()],
    pub admits: bool,
    generations: [u32; ENDPOINTS.len()],
}

/// An entry of CONNTRACK of either family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    pub to: Flow,
    pub is_reply: bool,
    pub state: CtState,
    pub flags: u16,
    pub owner: (u32, u32, u32),
}

/// What the tables say at one moment.
#[derive(Clone, Default, Debug)]
pub struct Snapshot {
    pub flows: BTreeMap<Flow, Entry>,
    pub clients: u32,
    pub fragments: u32,
    pub held: u32,
    pub counters: Vec<u64>,
    pub drops: Vec<u64>,
}

/// What became of a packet.
pub struct Run {
    pub verdict: i32,
    pub frame: Vec<u8>,
}

// === impl Place ===

impl Place {
    pub fn new() -> Result<Self> {
        let netns = Netns::create("tw-fuzz")?;
        let outside = Netns::create("tw-fuzz-out")?;
        for name in ["eth0", "twa", "twb"] {
            netns.ip(&format!("link add {name} type veth peer name {name}-far netns {}", outside.name()))?;
            outside.enter(|| fs::write(format!("/proc/sys/net/ipv6/conf/{name}-far/disable_ipv6"), "1"))??;
            netns.ip(&format!("link set {name} up"))?;
            outside.ip(&format!("link set {name}-far up"))?;
        }
        netns.ip(&format!("link set eth0 address {UPLINK_MAC}"))?;
        let both = |what: &str, v4: &str, v6: &str| netns.ip(&format!("{what} {v4}")).and(netns.ip(&format!("-6 {what} {v6}")));
        both("addr add", &format!("{}/24 dev eth0", NODE.v4), &format!("{}/64 dev eth0 nodad", NODE.v6))?;
        both("route add default via", "172.31.0.1", "fd00:172:31::1")?;
        both("route add", &via(REMOTE, 24, ""), &via(REMOTE, 64, ""))?;
        both("route add", &via(NARROW, 24, "mtu 600"), &via(NARROW, 64, "mtu 1280"))?;
        for (pod, name) in [(POD_A, "twa"), (POD_B, "twb")] {
            both("route add", &format!("{}/32 dev {name}", pod.v4), &format!("{}/128 dev {name}", pod.v6))?;
        }
        let switches = ["/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"];
        netns.enter(|| switches.iter().try_for_each(|switch| fs::write(switch, "1")))?.context("forwarding")?;
        Ok(Self { netns, _outside: outside, pins: Pins::new("fuzz") })
    }
}

/// A route to a party's subnet.
fn via(party: Party, prefix: u8, more: &str) -> String {
    let (net, gateway) = match prefix {
        24 => (party.v4.to_string(), OTHER_NODE.v4.to_string()),
        _ => (party.v6.to_string(), OTHER_NODE.v6.to_string()),
    };
    let net = net.trim_end_matches('5');
    let net = if prefix == 24 { format!("{net}0") } else { net.to_owned() };
    format!("{net}/{prefix} via {gateway} {more}")
}

// === impl World ===

impl World {
    /// On a thread that is in the place's namespace.
    pub fn open(place: &Place) -> Result<Self> {
        let sizes = Sizes { conntrack: CONNTRACK, conntrack6: CONNTRACK, affinity: CLIENTS, ..Sizes::uniform(256) };
        let options =
            Options { node_addr: Some(NODE.v4), node_addr6: Some(NODE.v6), sizes, socket_lb: false, ..place.pins.options() };
        let datapath = Datapath::open(&options)?;
        let maps = datapath.maps()?;
        let ifindex = |name: &str| nix::net::if_::if_nametoindex(name).with_context(|| format!("interface {name}"));
        let names: Vec<String> = datapath.programs()?.into_iter().map(|program| program.name).collect();
        let hooks = ["tc_from_pod", "tc_to_pod", "tc_from_wire", "tc_to_wire"];
        let twins = hooks.into_iter().map(|hook| (hook, format!("{hook}6"))).filter(|(_, twin)| names.contains(twin)).collect();
        let (uplink, pods) = (ifindex("eth0")?, [ifindex("twa")?, ifindex("twb")?]);
        let services = SERVICES.each_ref().map(|service| (service.set, service.flags));
        let generations = [1; ENDPOINTS.len()];
        let mut world = Self { datapath, maps, uplink, pods, twins, services, admits: true, generations };
        let range = Range { addr: Be32::from_octets([10, 96, 0, 0]), mask: Be32::from_octets([255, 255, 255, 0]) };
        let addr: Be128 = std::net::Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0).into();
        let range6 = Range { addr, mask: Be128([u32::MAX, u32::MAX, u32::MAX, 0xffff_0000_u32.to_be()]) };
        let mut ranges = ServiceRanges { used: 1, used6: 1, ..ServiceRanges::default() };
        (ranges.v4[0], ranges.v6[0]) = (range, range6);
        world.maps.service_ranges.update(&[(0, ranges)])?;
        let wildcard = Frontend { flags: FrontendFlags(FrontendFlags::WILDCARD), ..Frontend::default() };
        let parties = SERVICES.iter().map(|service| service.addr).filter(|addr| *addr != NODE).chain([WILD, LB]);
        for party in parties {
            world.maps.frontends.update(&[(FrontendKey::wildcard(party.v4.into()), wildcard)])?;
            world.maps.frontends6.update(&[(FrontendKey::wildcard(party.v6.into()), wildcard)])?;
        }
        Ok(world)
    }

    /// As every case finds it.
    pub fn reset(&mut self) -> Result<()> {
        let maps = &mut self.maps;
        delete_all(&mut maps.conntrack)?;
        delete_all(&mut maps.conntrack6)?;
        delete_all(&mut maps.affinity)?;
        delete_all(&mut maps.fragments)?;
        delete_all(&mut maps.held)?;
        self.generations = [1; ENDPOINTS.len()];
        for endpoint in 0..ENDPOINTS.len() {
            self.change(State::Backend { endpoint, state: BackendState::READY, generation: 1 })?;
        }
        for (service, about) in SERVICES.iter().enumerate() {
            self.change(State::Service { service, set: about.set, flags: about.flags })?;
        }
        self.change(State::Pod { endpoint: 0, present: true })?;
        self.change(State::Pod { endpoint: 1, present: true })?;
        self.change(State::Admit { any: true })
    }

    pub fn change(&mut self, state: State) -> Result<()> {
        match state {
            State::Service { service, set, flags } => self.serve(service, set, flags),
            State::Backend { endpoint, state, generation } => {
                self.generations[endpoint] = generation;
                for is_v6 in [false, true] {
                    let addr = ENDPOINTS[endpoint].of(is_v6).into();
                    let port = Be16::from_host(BACKEND_PORT);
                    let backend = Backend { addr, port, state, generation, ..Backend::default() };
                    self.maps.backends.update(&[(id(endpoint, is_v6), backend)])?;
                }
                Ok(())
            }
            State::Pod { endpoint, present } => self.pod(endpoint.min(1), present),
            State::Admit { any } => {
                self.admits = any;
                let all = ADMITTED.into_iter().flat_map(|party| [party.of(false), party.of(true)]);
                let services = (0..SERVICES.len()).flat_map(|service| all.clone().map(move |addr| admitted(service, addr)));
                let keys: Vec<_> = services.collect();
                if any {
                    return Ok(self.maps.source_ranges.update(&keys.into_iter().map(|key| (key, 1)).collect::<Vec<_>>())?);
                }
                Ok(self.maps.source_ranges.delete(&keys)?)
            }
            State::Fill { free } => {
                fill(&mut self.maps.conntrack, free, |index| Be32::from_host(0x0a63_0000 | index))?;
                fill(&mut self.maps.conntrack6, free, |index| Be128([0xfd63_u32.to_be(), 0, 0, index.to_be()]))
            }
            State::Age { seconds } => {
                age(&mut self.maps.conntrack, seconds)?;
                age(&mut self.maps.conntrack6, seconds)?;
                let clients: Vec<_> = self.maps.affinity.entries()?;
                let older = |known: Affinity| Affinity { last_seen: known.last_seen.wrapping_sub(seconds), ..known };
                Ok(self
                    .maps
                    .affinity
                    .update(&clients.into_iter().map(|(key, known)| (key, older(known))).collect::<Vec<_>>())?)
            }
            State::Sweep => {
                conntrack::sweep(&mut self.maps, conntrack::now())?;
                Ok(())
            }
        }
    }

    fn serve(&mut self, service: usize, set: u8, flags: u32) -> Result<()> {
        self.services[service] = (set, flags);
        let about = &SERVICES[service];
        for is_v6 in [false, true] {
            let base = (service as u32 * 2 + u32::from(is_v6)) * RANGE;
            let members = (0..ENDPOINTS.len()).filter(|endpoint| set & (1 << endpoint) != 0);
            let mut slots: Vec<Slot> = members
                .map(|endpoint| Slot {
                    addr: ENDPOINTS[endpoint].of(is_v6).into(),
                    port: Be16::from_host(BACKEND_PORT),
                    backend: id(endpoint, is_v6),
                    generation: self.generations[endpoint],
                    ..Slot::default()
                })
                .collect();
            slots.sort_by_key(|slot| slot.addr.octets());
            self.maps.slots.update(&(base..).zip(slots.iter().copied()).collect::<Vec<_>>())?;
            let frontend = Frontend {
                service: service as u32,
                generation: 1,
                base,
                count: slots.len() as u32,
                flags: FrontendFlags(flags),
                affinity_seconds: if flags & FrontendFlags::AFFINITY != 0 { AFFINITY_SECONDS } else { 0 },
                service_port: Be16::from_host(about.port),
                pad: 0,
            };
            let (port, proto, scope) = (Be16::from_host(about.port), Proto(about.proto), about.scope);
            if is_v6 {
                let key = FrontendKey { vip: about.addr.v6.into(), port, proto, scope };
                self.maps.frontends6.update(&[(key, frontend)])?;
            } else {
                let key = FrontendKey { vip: about.addr.v4.into(), port, proto, scope };
                self.maps.frontends.update(&[(key, frontend)])?;
            }
        }
        Ok(())
    }

    fn pod(&mut self, endpoint: usize, present: bool) -> Result<()> {
        let party = ENDPOINTS[endpoint];
        let mac = |first| [2, first, 0, 0, 0, endpoint as u8];
        let pod = LocalPod { ifindex: self.pods[endpoint], pod_mac: mac(0xaa), host_mac: mac(0xbb) };
        if present {
            self.maps.local_pods.update(&[(party.v4.into(), pod)])?;
            self.maps.local_pods6.update(&[(party.v6.into(), pod)])?;
        } else {
            self.maps.local_pods.delete(&[party.v4.into()])?;
            self.maps.local_pods6.delete(&[party.v6.into()])?;
        }
        Ok(())
    }

    /// Runs the programs of a hook as its links do: the first, and the second when that leaves the packet to it. `None` when
    /// the kernel does not take the frame: it is shorter than the header of its family.
    pub fn run(&self, way: Way, frame: &[u8]) -> Result<Option<Run>> {
        let first = self.program(way, way.program(), frame)?;
        Ok(match (first, self.twins.get(way.program())) {
            (Some(run), Some(twin)) if run.verdict == UNSPEC => self.program(way, twin, &run.frame)?,
            (run, _) => run,
        })
    }

    fn program(&self, way: Way, program: &str, frame: &[u8]) -> Result<Option<Run>> {
        let (ifindex, ingress_ifindex) = match way {
            Way::FromPodA => (self.pods[0], self.pods[0]),
            Way::FromPodB => (self.pods[1], self.pods[1]),
            Way::FromWire => (self.uplink, self.uplink),
            Way::ToPodA => (self.pods[0], 0),
            Way::ToWire => (self.uplink, 0),
            Way::Forwarded => (self.uplink, self.pods[0]),
        };
        match self.datapath.test_run(program, &Injected { packet: frame, ifindex, ingress_ifindex, ..Default::default() }) {
            Ok(Outcome { verdict, packet, .. }) => Ok(Some(Run { verdict, frame: packet })),
            Err(Error::Program { .. }) if frame.len() < ETH + 40 => Ok(None),
            Err(error) => Err(error).with_context(|| format!("at {way}, of {}", hex(frame))),
        }
    }

    /// Whether there is a program for IPv6 at each hook.
    pub fn has_v6(&self) -> bool {
        self.twins.len() == 4
    }

    /// What the tables say; of fragments what `last` says, where that is given.
    pub fn snapshot(&self, last: Option<&Snapshot>) -> Result<Snapshot> {
        let mut flows = BTreeMap::new();
        self.maps.conntrack.visit(&mut |key, entry| _ = flows.insert(flow(key), Entry::of(entry)))?;
        self.maps.conntrack6.visit(&mut |key, entry| _ = flows.insert(flow(key), Entry::of(entry)))?;
        let (fragments, held) = match last {
            Some(last) => (last.fragments, last.held),
            None => (self.maps.fragments.count()?, self.maps.held.count()?),
        };
        Ok(Snapshot {
            flows,
            clients: self.maps.affinity.count()?,
            fragments,
            held,
            counters: self.maps.counters()?.into_iter().map(|(_, count)| count).collect(),
            drops: self.maps.drops()?.into_iter().map(|(_, count)| count).collect(),
        })
    }
}

// === impl Entry ===

impl Entry {
    fn of<A: Copy + Into<IpAddr>>(entry: &CtEntry<A>) -> Self {
        Self {
            to: flow(&entry.to),
            is_reply: entry.direction == CtDirection::REPLY,
            state: entry.state,
            flags: entry.flags.0,
            owner: (entry.service, entry.backend, entry.generation),
        }
    }
}

/// A backend's id.
fn id(endpoint: usize, is_v6: bool) -> u32 {
    1 + endpoint as u32 * 2 + u32::from(is_v6)
}

fn flow<A: Copy + Into<IpAddr>>(tuple: &Tuple<A>) -> Flow {
    let (sport, dport) = (tuple.sport.to_host(), tuple.dport.to_host());
    Flow { src: tuple.src.into(), dst: tuple.dst.into(), sport, dport, proto: tuple.proto.0 }
}

fn admitted(service: usize, client: IpAddr) -> SourceRangeKey {
    SourceRangeKey { prefix: SourceRange::WHOLE, range: SourceRange { service: service as u32, addr: client.into() } }
}

fn delete_all<K: Copy, V>(table: &mut impl Table<K, V>) -> Result<()> {
    let mut keys = Vec::new();
    table.visit(&mut |key, _| keys.push(*key))?;
    Ok(table.delete(&keys)?)
}

/// Flows between two addresses of nobody, both directions, until `free` entries are left.
fn fill<A: Copy + Default>(table: &mut impl Table<Tuple<A>, CtEntry<A>>, free: usize, addr: impl Fn(u32) -> A) -> Result<()> {
    let used = table.count()? as usize;
    let flows = (CONNTRACK as usize).saturating_sub(used + free) / 2;
    let now = conntrack::now();
    let mut entries = Vec::new();
    for index in 0..flows as u32 {
        let ports = (Be16::from_host(1 + index as u16), Be16::from_host(9));
        let proto = Proto(TCP);
        let forward = Tuple { src: addr(1), dst: addr(2), sport: ports.0, dport: ports.1, proto, pad: [0; 3] };
        let to = Tuple { dst: addr(3), ..forward };
        let entry = CtEntry { to, last_seen: now, ..CtEntry::default() };
        entries.push((forward, entry));
        entries.push((to.reversed(), CtEntry { to: forward.reversed(), direction: CtDirection::REPLY, ..entry }));
    }
    Ok(table.update(&entries)?)
}

fn age<A: Copy>(table: &mut impl Table<Tuple<A>, CtEntry<A>>, seconds: u32) -> Result<()> {
    let mut entries = table.entries()?;
    entries.iter_mut().for_each(|(_, entry)| entry.last_seen = entry.last_seen.wrapping_sub(seconds));
    Ok(table.update(&entries)?)
}
