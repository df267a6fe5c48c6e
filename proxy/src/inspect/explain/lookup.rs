//! What an explanation asks of the tables: single look-ups, as the kernel programs make them. Addresses of IPv4 come
//! mapped where one type serves both families.

use std::net::IpAddr;

use thalweg_abi::{
    Affinity, AffinityKey, Backend, Be16, Be32, Be128, CtEntry, Frontend, FrontendKey, Netns, ServiceRanges, Slot, SourceRange,
    SourceRangeKey, Tuple,
};
use thalweg_loader::{Error, Maps, Table};

use crate::plan::Key;

/// A tuple of either family.
pub type AnyTuple = Tuple<Be128>;
/// An entry of CONNTRACK of either family.
pub type AnyEntry = CtEntry<Be128>;

/// The tables of one node. The kernel may refuse any of them ([`Error::Table`]).
#[expect(clippy::missing_errors_doc, reason = "said once, above")]
pub trait Lookup {
    fn frontend(&self, key: &Key) -> Result<Option<Frontend>, Error>;

    fn slot(&self, index: u32) -> Result<Option<Slot>, Error>;

    fn backend(&self, id: u32) -> Result<Option<Backend>, Error>;

    /// `namespace/name`.
    fn service(&self, number: u32) -> Result<Option<String>, Error>;

    /// Whether the source ranges of a service admit a client.
    fn admits(&self, service: u32, client: IpAddr) -> Result<bool, Error>;

    fn affinity(&self, key: &AffinityKey) -> Result<Option<Affinity>, Error>;

    fn flow(&self, tuple: &AnyTuple) -> Result<Option<AnyEntry>, Error>;

    /// Flows that differ from `like` in their source port alone, with that port.
    fn flows(&self, like: &AnyTuple) -> Result<Vec<(u16, AnyEntry)>, Error>;

    /// Whether this is a pod whose link is this node's.
    fn is_local_pod(&self, addr: IpAddr) -> Result<bool, Error>;

    /// The network namespace that has this address, with its cookie.
    fn netns(&self, addr: IpAddr) -> Result<Option<(u64, Netns)>, Error>;

    /// From which ranges the addresses of services are.
    fn service_ranges(&self) -> Result<ServiceRanges, Error>;
}

// === impl Lookup ===

impl Lookup for Maps {
    fn frontend(&self, key: &Key) -> Result<Option<Frontend>, Error> {
        let (port, proto, scope) = (Be16::from_host(key.port), key.protocol, key.scope);
        match key.vip {
            IpAddr::V4(vip) => self.frontends.get(&FrontendKey { vip: vip.into(), port, proto, scope }),
            IpAddr::V6(vip) => self.frontends6.get(&FrontendKey { vip: vip.into(), port, proto, scope }),
        }
    }

    fn slot(&self, index: u32) -> Result<Option<Slot>, Error> {
        if index < self.slots.capacity() { self.slots.get(&index) } else { Ok(None) }
    }

    fn backend(&self, id: u32) -> Result<Option<Backend>, Error> {
        if id < self.backends.capacity() { self.backends.get(&id) } else { Ok(None) }
    }

    fn service(&self, number: u32) -> Result<Option<String>, Error> {
        Ok(self.services.get(&number)?.map(|name| name.as_str().to_owned()))
    }

    fn admits(&self, service: u32, client: IpAddr) -> Result<bool, Error> {
        let range = SourceRange { service, addr: client.into() };
        Ok(self.source_ranges.get(&SourceRangeKey { prefix: SourceRange::WHOLE, range })?.is_some())
    }

    fn affinity(&self, key: &AffinityKey) -> Result<Option<Affinity>, Error> {
        Table::get(&self.affinity, key)
    }

    fn flow(&self, tuple: &AnyTuple) -> Result<Option<AnyEntry>, Error> {
        match narrow(tuple) {
            Some(tuple) => Ok(self.conntrack.get(&tuple)?.map(widen)),
            None => self.conntrack6.get(tuple),
        }
    }

    fn flows(&self, like: &AnyTuple) -> Result<Vec<(u16, AnyEntry)>, Error> {
        let is_like = |key: &AnyTuple| Tuple { sport: like.sport, ..*key } == *like;
        if narrow(like).is_some() {
            let entries = self.conntrack.entries()?.into_iter().map(|(key, entry)| (wide(key), widen(entry)));
            return Ok(entries.filter(|(key, _)| is_like(key)).map(|(key, entry)| (key.sport.to_host(), entry)).collect());
        }
        let entries = self.conntrack6.entries()?.into_iter();
        Ok(entries.filter(|(key, _)| is_like(key)).map(|(key, entry)| (key.sport.to_host(), entry)).collect())
    }

    fn is_local_pod(&self, addr: IpAddr) -> Result<bool, Error> {
        match addr {
            IpAddr::V4(addr) => Ok(self.local_pods.get(&addr.into())?.is_some()),
            IpAddr::V6(addr) => Ok(self.local_pods6.get(&addr.into())?.is_some()),
        }
    }

    fn netns(&self, addr: IpAddr) -> Result<Option<(u64, Netns)>, Error> {
        let has = |netns: &Netns| match addr {
            IpAddr::V4(addr) => netns.addr == Be32::from(addr),
            IpAddr::V6(addr) => netns.addr6 == Be128::from(addr),
        };
        Ok(self.netns.entries()?.into_iter().find(|(_, netns)| has(netns)))
    }

    fn service_ranges(&self) -> Result<ServiceRanges, Error> {
        Ok(self.service_ranges.get(&0)?.unwrap_or_default())
    }
}

/// The tuple of IPv4 in a wide one, if it is.
fn narrow(tuple: &AnyTuple) -> Option<Tuple> {
    let Tuple { src, dst, sport, dport, proto, pad } = *tuple;
    (src.is_mapped() && dst.is_mapped()).then(|| Tuple { src: src.v4(), dst: dst.v4(), sport, dport, proto, pad })
}

fn wide(tuple: Tuple) -> AnyTuple {
    let Tuple { src, dst, sport, dport, proto, pad } = tuple;
    Tuple { src: Be128::mapped(src), dst: Be128::mapped(dst), sport, dport, proto, pad }
}

fn widen(entry: CtEntry) -> AnyEntry {
    let CtEntry { to, service, backend, generation, last_seen, direction, state, flags, packets, bytes } = entry;
    CtEntry { to: wide(to), service, backend, generation, last_seen, direction, state, flags, packets, bytes }
}
