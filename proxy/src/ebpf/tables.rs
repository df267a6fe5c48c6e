//! The maps that the backend writes, as tables; FRONTENDS and FRONTENDS6 are one to everybody else.

use std::net::IpAddr;

use thalweg_abi::{
    Affinity, AffinityKey, Backend, Be16, Be32, Be128, Frontend, FrontendKey, ServiceName, ServiceRanges, ServiceStats, Slot,
    SourceRangeKey,
};
use thalweg_loader::{Error, Maps, Table};

use crate::plan::Key;

/// A table, in the kernel or in memory.
pub type BoxTable<K, V> = Box<dyn Table<K, V> + Send>;

/// The maps of the data path that the proxy writes.
pub struct Tables {
    pub frontends: Frontends,
    pub slots: BoxTable<u32, Slot>,
    pub backends: BoxTable<u32, Backend>,
    pub services: BoxTable<u32, ServiceName>,
    /// Indexed by service number: as many services as it has entries, without the first, can have one.
    pub service_stats: BoxTable<u32, ServiceStats>,
    pub source_ranges: BoxTable<SourceRangeKey, u32>,
    pub service_ranges: BoxTable<u32, ServiceRanges>,
    pub affinity: BoxTable<AffinityKey, Affinity>,
}

/// The frontends of both families.
pub struct Frontends {
    v4: BoxTable<FrontendKey, Frontend>,
    v6: BoxTable<FrontendKey<Be128>, Frontend>,
}

// === impl Tables ===

impl From<Maps> for Tables {
    fn from(maps: Maps) -> Self {
        Self {
            frontends: Frontends::new(maps.frontends, maps.frontends6),
            slots: Box::new(maps.slots),
            backends: Box::new(maps.backends),
            services: Box::new(maps.services),
            service_stats: Box::new(maps.service_stats),
            source_ranges: Box::new(maps.source_ranges),
            service_ranges: Box::new(maps.service_ranges),
            affinity: Box::new(maps.affinity),
        }
    }
}

// === impl Frontends ===

impl Frontends {
    pub fn new(
        v4: impl Table<FrontendKey, Frontend> + Send + 'static,
        v6: impl Table<FrontendKey<Be128>, Frontend> + Send + 'static,
    ) -> Self {
        Self { v4: Box::new(v4), v6: Box::new(v6) }
    }

    /// Name and capacity of the table of a family: IPv4 without, IPv6 with `ipv6`.
    pub fn table_of(&self, ipv6: bool) -> (&'static str, u32) {
        if ipv6 { ("FRONTENDS6", self.v6.capacity()) } else { ("FRONTENDS", self.v4.capacity()) }
    }
}

impl Table<Key, Frontend> for Frontends {
    fn get(&self, key: &Key) -> Result<Option<Frontend>, Error> {
        match key.vip {
            IpAddr::V4(vip) => self.v4.get(&with(key, vip.into())),
            IpAddr::V6(vip) => self.v6.get(&with(key, vip.into())),
        }
    }

    /// In the order given within each family.
    fn update(&mut self, entries: &[(Key, Frontend)]) -> Result<(), Error> {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (key, value) in entries {
            match key.vip {
                IpAddr::V4(vip) => v4.push((with(key, Be32::from(vip)), *value)),
                IpAddr::V6(vip) => v6.push((with(key, Be128::from(vip)), *value)),
            }
        }
        if !v4.is_empty() {
            self.v4.update(&v4)?;
        }
        if !v6.is_empty() {
            self.v6.update(&v6)?;
        }
        Ok(())
    }

    fn delete(&mut self, keys: &[Key]) -> Result<(), Error> {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for key in keys {
            match key.vip {
                IpAddr::V4(vip) => v4.push(with(key, Be32::from(vip))),
                IpAddr::V6(vip) => v6.push(with(key, Be128::from(vip))),
            }
        }
        if !v4.is_empty() {
            self.v4.delete(&v4)?;
        }
        if !v6.is_empty() {
            self.v6.delete(&v6)?;
        }
        Ok(())
    }

    fn entries(&self) -> Result<Vec<(Key, Frontend)>, Error> {
        let v4 = self.v4.entries()?.into_iter().map(|(key, value)| (key_of(&key, IpAddr::V4(key.vip.into())), value));
        let v6 = self.v6.entries()?.into_iter().map(|(key, value)| (key_of(&key, IpAddr::V6(key.vip.into())), value));
        Ok(v4.chain(v6).collect())
    }

    fn capacity(&self) -> u32 {
        self.v4.capacity().saturating_add(self.v6.capacity())
    }
}

fn with<A>(key: &Key, vip: A) -> FrontendKey<A> {
    FrontendKey { vip, port: Be16::from_host(key.port), proto: key.protocol, scope: key.scope }
}

fn key_of<A>(key: &FrontendKey<A>, vip: IpAddr) -> Key {
    Key { vip, port: key.port.to_host(), protocol: key.proto, scope: key.scope }
}
