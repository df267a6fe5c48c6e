//! NETNS: by which addresses the sockets of a network namespace are known to affinity and source ranges, and which pods
//! leave socket load balancing to tc.

pub mod discover;

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::Result;
use thalweg_abi::{Be32, Be128, Netns, NetnsFlags};
use thalweg_cluster::Pod;
use thalweg_loader::{Error, Table};

/// Says for a pod whether its sockets are balanced: `"true"` or `"false"`.
const ANNOTATION: &str = "thalweg.dev/socket-lb";

type NetnsTable = Box<dyn Table<u64, Netns> + Send>;

/// The table, and what is in it.
pub struct Clients {
    table: NetnsTable,
    held: BTreeMap<u64, Netns>,
}

/// Whether a pod leaves socket load balancing to tc: because it says so, or because its runtime is a sandbox, whose sockets
/// are not the kernel's.
pub fn opts_out(pod: &Pod) -> bool {
    match pod.annotations.get(ANNOTATION).map(|said| said.trim()) {
        Some("false") => true,
        Some("true") => false,
        said => {
            if let Some(said) = said {
                tracing::warn!(pod = %pod.name, "annotation {ANNOTATION}: {said:?} is neither \"true\" nor \"false\"");
            }
            pod.runtime_class.is_some()
        }
    }
}

/// What is known of a namespace with these addresses: the first of each family is the one that counts.
pub fn netns(addresses: impl IntoIterator<Item = IpAddr>, opts_out: bool) -> Netns {
    let mut netns = Netns { flags: NetnsFlags(if opts_out { NetnsFlags::NO_SOCKET_LB } else { 0 }), ..Netns::default() };
    for address in addresses {
        match address {
            IpAddr::V4(address) if netns.addr == Be32::ZERO => netns.addr = address.into(),
            IpAddr::V6(address) if netns.addr6.is_zero() => netns.addr6 = Be128::from(address),
            _ => {}
        }
    }
    netns
}

// === impl Clients ===

impl Clients {
    /// Knowing what an earlier agent left in the table.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub fn adopt(table: impl Table<u64, Netns> + Send + 'static) -> Result<Self> {
        let held = table.entries()?.into_iter().collect();
        Ok(Self { table: Box::new(table), held })
    }

    /// # Errors
    /// When the table is full, or cannot be written.
    pub fn set(&mut self, cookie: u64, netns: Netns) -> Result<(), Error> {
        if self.held.get(&cookie) != Some(&netns) {
            self.table.update(&[(cookie, netns)])?;
            self.held.insert(cookie, netns);
        }
        Ok(())
    }

    /// # Errors
    /// When the table cannot be written.
    pub fn remove(&mut self, cookie: u64) -> Result<(), Error> {
        if self.held.contains_key(&cookie) {
            self.table.delete(&[cookie])?;
            self.held.remove(&cookie);
        }
        Ok(())
    }

    /// Brings the table to this. True when something was written.
    ///
    /// # Errors
    /// When the table is full, or cannot be written; the next call tries again.
    pub fn sync(&mut self, wanted: &BTreeMap<u64, Netns>) -> Result<bool, Error> {
        // First what goes: its room may be needed.
        let gone: Vec<u64> = self.held.keys().filter(|cookie| !wanted.contains_key(cookie)).copied().collect();
        for cookie in &gone {
            self.remove(*cookie)?;
        }
        let news: Vec<(u64, Netns)> =
            wanted.iter().filter(|(cookie, netns)| self.held.get(cookie) != Some(netns)).map(|(k, v)| (*k, *v)).collect();
        for (cookie, netns) in &news {
            self.set(*cookie, *netns)?;
        }
        Ok(!gone.is_empty() || !news.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use thalweg_cluster::Name;
    use thalweg_loader::MemoryTable;

    use super::*;

    fn pod(runtime_class: Option<&str>, annotation: Option<&str>) -> Pod {
        Pod {
            name: Name::new("default", "client"),
            uid: "1".into(),
            node: "a".into(),
            addresses: Vec::new(),
            host_network: false,
            runtime_class: runtime_class.map(Arc::from),
            annotations: annotation.map(|said| (ANNOTATION.into(), said.into())).into_iter().collect(),
        }
    }

    // cilium#25322
    #[test]
    fn pods_opt_out_by_annotation_and_sandboxes_by_themselves() {
        let check = |runtime_class, annotation, wanted| {
            assert_eq!(opts_out(&pod(runtime_class, annotation)), wanted, "{runtime_class:?} {annotation:?}");
        };
        check(None, None, false);
        check(None, Some("false"), true);
        check(None, Some("true"), false);
        check(Some("gvisor"), None, true);
        check(Some("gvisor"), Some("true"), false);
        check(Some("gvisor"), Some("false"), true);
        check(None, Some(" false "), true);
        check(None, Some("no"), false);
        check(Some("kata"), Some("maybe"), true);
    }

    #[test]
    fn the_first_address_of_each_family_counts() {
        let addresses = ["10.0.0.1", "fd00::1", "10.0.0.2", "fd00::2"].map(|text| text.parse::<IpAddr>().expect("address"));
        let known = netns(addresses, true);
        assert_eq!(IpAddr::from(known.addr), addresses[0]);
        assert_eq!(IpAddr::from(known.addr6), addresses[1]);
        assert!(known.flags.has(NetnsFlags::NO_SOCKET_LB));
        assert_eq!(netns([], false), Netns::default());
    }

    #[test]
    fn the_table_is_brought_to_what_is_wanted_by_the_difference() {
        let mut table = MemoryTable::new("NETNS", 2);
        let one = netns(["10.0.0.1".parse().expect("address")], false);
        let two = netns(["10.0.0.2".parse().expect("address")], true);
        table.update(&[(1, one), (9, two)]).expect("room");
        let mut clients = Clients::adopt(table).expect("memory");
        // There is room for two: what is gone goes first.
        assert!(clients.sync(&BTreeMap::from([(1, one), (2, two)])).expect("room"));
        assert!(!clients.sync(&BTreeMap::from([(1, one), (2, two)])).expect("room"));
        assert!(clients.sync(&BTreeMap::from([(1, two), (2, two)])).expect("room"));
        assert_eq!(clients.table.get(&1).expect("memory"), Some(two));
        assert!(clients.sync(&BTreeMap::from([(1, one), (2, two), (3, two)])).is_err(), "the table is full");
        assert_eq!(clients.held.len(), 2);
    }
}
