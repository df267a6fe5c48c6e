//! A node's tables, filled by hand.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context, Result};
use thalweg_abi::{
    Backend, BackendState, Be16, Be128, Counter, DropReason, Frontend, FrontendFlags, FrontendKey, LocalPod, Proto, Scope, Slot,
};
use thalweg_loader::{Maps, Table};

pub const SERVICE: u32 = 7;
pub const SERVICE_PORT: u16 = 8;
/// Backend ids start here, so that an id of 0 would be noticed.
pub const FIRST_BACKEND: u32 = 40;

pub struct Tables {
    pub maps: Maps,
    nodes: Vec<IpAddr>,
    next_slot: u32,
    ids: BTreeMap<SocketAddr, u32>,
}

/// A frontend as a test says it.
#[derive(Clone, Copy)]
pub struct Served {
    pub addr: SocketAddr,
    pub proto: Proto,
    pub scope: Scope,
    pub flags: u32,
    /// Seconds; 0 without affinity.
    pub affinity: u32,
}

pub fn served(proto: Proto, addr: impl Into<IpAddr>, port: u16) -> Served {
    Served { addr: SocketAddr::new(addr.into(), port), proto, scope: Scope::INTERNAL, flags: 0, affinity: 0 }
}

impl Served {
    pub fn scope(self, scope: Scope) -> Self {
        Self { scope, ..self }
    }

    pub fn flags(self, flags: u32) -> Self {
        Self { flags, ..self }
    }

    pub fn affinity(self, seconds: u32) -> Self {
        Self { flags: self.flags | FrontendFlags::AFFINITY, affinity: seconds, ..self }
    }
}

impl Tables {
    /// With the addresses of the node, which are no service's alone.
    pub fn new(maps: Maps, nodes: &[IpAddr]) -> Self {
        Self { maps, nodes: nodes.to_vec(), next_slot: 8, ids: BTreeMap::new() }
    }

    pub fn pod(&mut self, addr: IpAddr, ifindex: u32, pod_mac: [u8; 6], host_mac: [u8; 6]) -> Result<()> {
        let pod = LocalPod { ifindex, pod_mac, host_mac };
        match addr {
            IpAddr::V4(addr) => self.maps.local_pods.update(&[(addr.into(), pod)])?,
            IpAddr::V6(addr) => self.maps.local_pods6.update(&[(addr.into(), pod)])?,
        }
        Ok(())
    }

    /// Writes a frontend.
    pub fn frontend(&mut self, served: Served, frontend: Frontend) -> Result<()> {
        let Served { addr, proto, scope, .. } = served;
        let port = Be16::from_host(addr.port());
        match addr.ip() {
            IpAddr::V4(vip) => {
                self.maps.frontends.update(&[(FrontendKey { vip: vip.into(), port, proto, scope }, frontend)])?;
            }
            IpAddr::V6(vip) => {
                self.maps.frontends6.update(&[(FrontendKey { vip: vip.into(), port, proto, scope }, frontend)])?;
            }
        }
        Ok(())
    }

    /// Writes a frontend over `backends`, and the wildcard of a VIP. A backend keeps the id that it gets when it is
    /// first named, from [`FIRST_BACKEND`] on, and comes (back) to life with generation 1.
    pub fn serve(&mut self, served: Served, backends: &[SocketAddr]) -> Result<()> {
        let base = self.next_slot;
        for (index, addr) in (0..).zip(backends) {
            let next = FIRST_BACKEND + u32::try_from(self.ids.len())?;
            let id = *self.ids.entry(*addr).or_insert(next);
            let (addr, port) = (Be128::from(addr.ip()), Be16::from_host(addr.port()));
            let backend = Backend { addr, port, state: BackendState::READY, generation: 1, ..Default::default() };
            self.maps.backends.update(&[(id, backend)])?;
            let slot = Slot { addr, port, backend: id, generation: 1, ..Default::default() };
            self.maps.slots.update(&[(base + index, slot)])?;
            self.next_slot += 1;
        }
        let frontend = Frontend {
            service: SERVICE,
            generation: 1,
            base,
            count: u32::try_from(backends.len())?,
            flags: FrontendFlags(served.flags),
            affinity_seconds: served.affinity,
            service_port: Be16::from_host(SERVICE_PORT),
            pad: 0,
        };
        self.frontend(served, frontend)?;
        let vip = served.addr.ip();
        if !self.nodes.contains(&vip) {
            let wildcard = Frontend { flags: FrontendFlags(FrontendFlags::WILDCARD), ..Default::default() };
            self.frontend(
                Served { addr: SocketAddr::new(vip, 0), proto: Proto::ANY, scope: Scope::INTERNAL, ..served },
                wildcard,
            )?;
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
