//! The tables of one small node, in memory.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use ipnetwork::IpNetwork;
use thalweg_abi::{
    Affinity, AffinityKey, Backend, BackendState, Be16, Be32, Be128, CtDirection, CtFlags, CtState, Frontend, FrontendFlags,
    Netns, NetnsFlags, Proto, Range, Scope, ServiceRanges, Slot, Tuple,
};
use thalweg_loader::Error;

use super::super::{AnyEntry, AnyTuple, Facts, Lookup};
use crate::plan::Key;

/// Seconds since boot in every test.
pub const NOW: u32 = 100_000;

/// The tables, filled by words.
#[derive(Default)]
pub struct Tables {
    pub facts: Facts,
    frontends: BTreeMap<Key, Frontend>,
    slots: BTreeMap<u32, Slot>,
    backends: BTreeMap<u32, Backend>,
    services: BTreeMap<u32, String>,
    ranges: Vec<(u32, IpNetwork)>,
    affinity: BTreeMap<AffinityKey, Affinity>,
    flows: BTreeMap<AnyTuple, AnyEntry>,
    pods: Vec<IpAddr>,
    netns: Vec<(u64, Netns)>,
    service_ranges: ServiceRanges,
}

/// A flow in the making.
pub struct FlowWords<'a> {
    pub client: &'a str,
    pub dialled: &'a str,
    pub source: &'a str,
    pub backend: &'a str,
    pub proto: Proto,
    pub service: u32,
    pub id: u32,
    pub generation: u32,
    pub state: CtState,
    pub flags: u16,
}

pub fn addr(text: &str) -> IpAddr {
    text.parse().expect(text)
}

pub fn at(text: &str) -> SocketAddr {
    text.parse().expect(text)
}

// === impl FlowWords ===

impl Default for FlowWords<'_> {
    fn default() -> Self {
        Self {
            client: "10.244.0.5:40000",
            dialled: "10.96.0.7:80",
            source: "10.244.0.5:40000",
            backend: "10.244.1.6:8080",
            proto: Proto::TCP,
            service: 1,
            id: 2,
            generation: 1,
            state: CtState::ESTABLISHED,
            flags: 0,
        }
    }
}

// === impl Tables ===

impl Tables {
    pub fn of(facts: Facts) -> Self {
        Self { facts, ..Self::default() }
    }

    pub fn service(mut self, number: u32, name: &str) -> Self {
        self.services.insert(number, name.to_owned());
        self
    }

    /// A frontend of TCP with the slots of these backends, in order.
    pub fn frontend(self, service: u32, vip: &str, scope: Scope, flags: u32, backends: &[u32]) -> Self {
        self.frontend_of(Proto::TCP, service, vip, scope, flags, backends)
    }

    pub fn frontend_of(mut self, protocol: Proto, service: u32, vip: &str, scope: Scope, flags: u32, backends: &[u32]) -> Self {
        let base = self.slots.keys().next_back().map_or(0, |last| last + 1);
        for (index, id) in (base..).zip(backends) {
            let backend = self.backends[id];
            let Backend { addr, port, generation, .. } = backend;
            self.slots.insert(index, Slot { addr, port, backend: *id, generation, ..Slot::default() });
        }
        let vip = at(vip);
        let key = Key { vip: vip.ip(), port: vip.port(), protocol, scope };
        let value = Frontend {
            service,
            generation: 3,
            base,
            count: u32::try_from(backends.len()).expect("few"),
            flags: FrontendFlags(flags),
            affinity_seconds: if flags & FrontendFlags::AFFINITY == 0 { 0 } else { 10_800 },
            service_port: Be16::from_host(80),
            pad: 0,
        };
        self.frontends.insert(key, value);
        self
    }

    pub fn wildcard(mut self, service: u32, vip: &str) -> Self {
        let key = Key { vip: addr(vip), port: 0, protocol: Proto::ANY, scope: Scope::INTERNAL };
        let flags = FrontendFlags(FrontendFlags::WILDCARD);
        self.frontends.insert(key, Frontend { service, flags, ..Frontend::default() });
        self
    }

    pub fn backend(mut self, id: u32, address: &str, state: BackendState) -> Self {
        let address = at(address);
        let (addr, port) = (Be128::from(address.ip()), Be16::from_host(address.port()));
        self.backends.insert(id, Backend { addr, port, state, generation: 1, ..Backend::default() });
        self
    }

    /// The id is another's now.
    pub fn reuse(mut self, id: u32) -> Self {
        self.backends.get_mut(&id).expect("a backend").generation += 1;
        self
    }

    pub fn state(mut self, id: u32, state: BackendState) -> Self {
        self.backends.get_mut(&id).expect("a backend").state = state;
        self
    }

    pub fn admit(mut self, service: u32, range: &str) -> Self {
        self.ranges.push((service, range.parse().expect(range)));
        self
    }

    pub fn keeps(mut self, client: &str, service: u32, backend: u32, generation: u32, seconds_ago: u32) -> Self {
        let (client, port) = (Be128::from(addr(client)), Be16::from_host(80));
        let key = AffinityKey { client, service, port, proto: Proto::TCP, local: 0 };
        let last_seen = NOW - seconds_ago;
        self.affinity.insert(key, Affinity { backend, generation, offset: 0, last_seen, seconds: 10_800 });
        self
    }

    /// Both directions of a flow.
    pub fn flow(mut self, words: FlowWords<'_>) -> Self {
        let tuple = |src: &str, dst: &str| {
            let (src, dst) = (at(src), at(dst));
            Tuple {
                src: Be128::from(src.ip()),
                dst: Be128::from(dst.ip()),
                sport: Be16::from_host(src.port()),
                dport: Be16::from_host(dst.port()),
                proto: words.proto,
                pad: [0; 3],
            }
        };
        let (dialled, translated) = (tuple(words.client, words.dialled), tuple(words.source, words.backend));
        let forward = AnyEntry {
            to: translated,
            service: words.service,
            backend: words.id,
            generation: words.generation,
            last_seen: NOW - 7,
            direction: CtDirection::FORWARD,
            state: words.state,
            flags: CtFlags(words.flags),
            packets: 12,
            bytes: 3_000,
        };
        let reply = AnyEntry { to: dialled.reversed(), direction: CtDirection::REPLY, ..forward };
        self.flows.insert(dialled, forward);
        self.flows.insert(translated.reversed(), reply);
        self
    }

    pub fn pod(mut self, address: &str) -> Self {
        self.pods.push(addr(address));
        self
    }

    pub fn netns(mut self, cookie: u64, v4: &str, v6: &str, flags: u32) -> Self {
        let addr = v4.parse::<std::net::Ipv4Addr>().map_or(Be32::ZERO, Be32::from);
        let addr6 = v6.parse::<std::net::Ipv6Addr>().map_or(Be128::ZERO, Be128::from);
        self.netns.push((cookie, Netns { addr, addr6, flags: NetnsFlags(flags) }));
        self
    }

    pub fn service_range(mut self, range: &str) -> Self {
        match range.parse().expect(range) {
            IpNetwork::V4(range) => {
                self.service_ranges.v4[0] = Range { addr: range.network().into(), mask: range.mask().into() };
                self.service_ranges.used = 1;
            }
            IpNetwork::V6(range) => {
                self.service_ranges.v6[0] = Range { addr: range.network().into(), mask: range.mask().into() };
                self.service_ranges.used6 = 1;
            }
        }
        self
    }

    pub fn without_socket_lb(mut self) -> Self {
        self.facts.socket_lb = false;
        self
    }

    /// The array ends before this slot.
    pub fn cut(mut self, index: u32) -> Self {
        self.slots.retain(|at, _| *at < index);
        self
    }
}

impl Lookup for Tables {
    fn frontend(&self, key: &Key) -> Result<Option<Frontend>, Error> {
        Ok(self.frontends.get(key).copied())
    }

    fn slot(&self, index: u32) -> Result<Option<Slot>, Error> {
        Ok(self.slots.get(&index).copied())
    }

    fn backend(&self, id: u32) -> Result<Option<Backend>, Error> {
        Ok(self.backends.get(&id).copied())
    }

    fn service(&self, number: u32) -> Result<Option<String>, Error> {
        Ok(self.services.get(&number).cloned())
    }

    fn admits(&self, service: u32, client: IpAddr) -> Result<bool, Error> {
        Ok(self.ranges.iter().any(|(number, range)| *number == service && range.contains(client)))
    }

    fn affinity(&self, key: &AffinityKey) -> Result<Option<Affinity>, Error> {
        Ok(self.affinity.get(key).copied())
    }

    fn flow(&self, tuple: &AnyTuple) -> Result<Option<AnyEntry>, Error> {
        Ok(self.flows.get(tuple).copied())
    }

    fn flows(&self, like: &AnyTuple) -> Result<Vec<(u16, AnyEntry)>, Error> {
        let is_like = |key: &AnyTuple| Tuple { sport: like.sport, ..*key } == *like;
        Ok(self.flows.iter().filter(|(key, _)| is_like(key)).map(|(key, entry)| (key.sport.to_host(), *entry)).collect())
    }

    fn is_local_pod(&self, addr: IpAddr) -> Result<bool, Error> {
        Ok(self.pods.contains(&addr))
    }

    fn netns(&self, addr: IpAddr) -> Result<Option<(u64, Netns)>, Error> {
        let has = |netns: &Netns| match addr {
            IpAddr::V4(addr) => netns.addr == Be32::from(addr),
            IpAddr::V6(addr) => netns.addr6 == Be128::from(addr),
        };
        Ok(self.netns.iter().find(|(_, netns)| has(netns)).copied())
    }

    fn service_ranges(&self) -> Result<ServiceRanges, Error> {
        Ok(self.service_ranges)
    }
}
