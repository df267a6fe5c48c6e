//! FRONTENDS and FRONTENDS6 as one table, keyed by what names a frontend in a plan.

use std::net::IpAddr;

use thalweg_abi::{Be16, Be32, Be128, Frontend, FrontendKey};
use thalweg_loader::{Error, Table};

use crate::plan::Key;

/// The frontends of both families.
pub(super) struct Frontends {
    v4: Box<dyn Table<FrontendKey, Frontend> + Send>,
    v6: Box<dyn Table<FrontendKey<Be128>, Frontend> + Send>,
}

/// A key of one of the two tables.
enum Split {
    V4(FrontendKey),
    V6(FrontendKey<Be128>),
}

// === impl Frontends ===

impl Frontends {
    pub fn new(
        v4: impl Table<FrontendKey, Frontend> + Send + 'static,
        v6: impl Table<FrontendKey<Be128>, Frontend> + Send + 'static,
    ) -> Self {
        Self { v4: Box::new(v4), v6: Box::new(v6) }
    }

    /// The table that an address belongs to: its name and its capacity.
    pub fn table_of(&self, vip: IpAddr) -> (&'static str, u32) {
        match vip {
            IpAddr::V4(_) => ("FRONTENDS", self.v4.capacity()),
            IpAddr::V6(_) => ("FRONTENDS6", self.v6.capacity()),
        }
    }
}

impl Table<Key, Frontend> for Frontends {
    fn get(&self, key: &Key) -> Result<Option<Frontend>, Error> {
        match split(key) {
            Split::V4(key) => self.v4.get(&key),
            Split::V6(key) => self.v6.get(&key),
        }
    }

    /// In the order given within each family.
    fn update(&mut self, entries: &[(Key, Frontend)]) -> Result<(), Error> {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (key, value) in entries {
            match split(key) {
                Split::V4(key) => v4.push((key, *value)),
                Split::V6(key) => v6.push((key, *value)),
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
            match split(key) {
                Split::V4(key) => v4.push(key),
                Split::V6(key) => v6.push(key),
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
        let v4 = self.v4.entries()?.into_iter().map(|(key, value)| (key_of(key, IpAddr::V4(key.vip.into())), value));
        let v6 = self.v6.entries()?.into_iter().map(|(key, value)| (key_of(key, IpAddr::V6(key.vip.into())), value));
        Ok(v4.chain(v6).collect())
    }

    fn capacity(&self) -> u32 {
        self.v4.capacity().saturating_add(self.v6.capacity())
    }
}

fn split(key: &Key) -> Split {
    let Key { vip, port, protocol: proto, scope } = *key;
    let port = Be16::from_host(port);
    match vip {
        IpAddr::V4(vip) => Split::V4(FrontendKey { vip: Be32::from(vip), port, proto, scope }),
        IpAddr::V6(vip) => Split::V6(FrontendKey { vip: Be128::from(vip), port, proto, scope }),
    }
}

fn key_of<A>(key: FrontendKey<A>, vip: IpAddr) -> Key {
    Key { vip, port: key.port.to_host(), protocol: key.proto, scope: key.scope }
}
