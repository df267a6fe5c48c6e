//! A node's tables, filled by hand.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddrV4},
};

use anyhow::{Context, Result};
use thalweg_abi::{
    Backend, BackendState, Be16, Be32, Be128, Counter, DropReason, Frontend, FrontendFlags, FrontendKey, LocalPod, Proto,
    Scope, Slot,
};
use thalweg_loader::{Maps, Table};

pub const SERVICE: u32 = 7;
/// Backend ids start here, so that an id of 0 would be noticed.
pub const FIRST_BACKEND: u32 = 40;

pub struct Tables {
    pub maps: Maps,
    node: Ipv4Addr,
    next_slot: u32,
    ids: BTreeMap<SocketAddrV4, u32>,
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
    Served { addr: SocketAddrV4::new(addr, port), proto, scope: Scope::INTERNAL, flags: 0 }
}

impl Served {
    pub fn scope(self, scope: Scope) -> Self {
        Self { scope, ..self }
    }

    pub fn flags(self, flags: u32) -> Self {
        Self { flags, ..self }
    }
}

impl Tables {
    pub fn new(maps: Maps, node: Ipv4Addr) -> Self {
        Self { maps, node, next_slot: 8, ids: BTreeMap::new() }
    }

    pub fn pod(&mut self, addr: Ipv4Addr, ifindex: u32, pod_mac: [u8; 6], host_mac: [u8; 6]) -> Result<()> {
        let pod = LocalPod { ifindex, pod_mac, host_mac };
        Ok(self.maps.local_pods.update(&[(Be32::from(addr), pod)])?)
    }

    /// Writes a frontend over `backends`, and the wildcard of a VIP. A backend keeps the id that it gets when it is
    /// first named, from [`FIRST_BACKEND`] on, and comes (back) to life with generation 1.
    pub fn serve(&mut self, served: Served, backends: &[SocketAddrV4]) -> Result<()> {
        let base = self.next_slot;
        for (index, addr) in (0..).zip(backends) {
            let next = FIRST_BACKEND + u32::try_from(self.ids.len())?;
            let id = *self.ids.entry(*addr).or_insert(next);
            let (addr, port) = (Be128::mapped((*addr.ip()).into()), Be16::from_host(addr.port()));
            let backend = Backend { addr, port, state: BackendState::READY, generation: 1, ..Default::default() };
            self.maps.backends.update(&[(id, backend)])?;
            let slot = Slot { addr, port, backend: id, generation: 1, ..Default::default() };
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
            ..Default::default()
        };
        self.maps.frontends.update(&[(key, frontend)])?;
        if *served.addr.ip() != self.node {
            let wildcard = Frontend { flags: FrontendFlags(FrontendFlags::WILDCARD), ..Default::default() };
            self.maps.frontends.update(&[(FrontendKey::wildcard(vip), wildcard)])?;
        }
        Ok(())
    }

    pub fn set_backend(&mut self, id: u32, state: BackendState, generation: u32) -> Result<()> {
        let backend = self.maps.backends.get(&id)?.context("no such backend")?;
        Ok(self.maps.backends.update(&[(id, Backend { state, generation, ..backend })])?)
    }

    pub fn counter(&self, counter: Counter) -> Result<u64> {
        let counters = self.maps.counters()?;
        Ok(counters.iter().find(|(which, _)| *which == counter).context("no such counter")?.1)
    }

    /// All drops that are not 0.
    pub fn drops(&self) -> Result<Vec<(DropReason, u64)>> {
        Ok(self.maps.drops()?.into_iter().filter(|(_, count)| *count != 0).collect())
    }
}
