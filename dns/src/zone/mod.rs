//! The zone: what a query can find, and how it follows from the cluster's state.
//!
//! [`Zone`] is an immutable snapshot, shared by all workers; [`ZoneBuilder`] owns the next one and changes it by what
//! became dirty. It holds services, not names: `find` takes a name apart and looks its service up.

use std::hash::{BuildHasher, RandomState};
use std::io::Write;
use std::net::IpAddr;
use std::sync::Arc;

use thalweg_cluster::Name;

mod builder;
mod config;
mod entry;
mod find;
mod record;
mod service;
mod table;

pub use builder::ZoneBuilder;
pub use config::{Apex, Fallthrough, MAX_TTL, PodMode, SERVICES, ZoneConfig, ZoneError, reverse_range};
pub use entry::{Address, Entry, Group, Kind, Port, Segment};
pub use find::{Found, Host, Realm, Spelled};
pub use record::{FIXED, QUESTION_POINTER, end_record, pointer, push_address, push_dashed, push_head, push_record};
use table::Trie;

/// A snapshot of the zone.
#[derive(Clone)]
pub struct Zone {
    pub apex: Arc<Apex>,
    /// Of the SOA record.
    pub serial: u32,
    /// The cluster has been listed completely; before, absence means nothing.
    pub synced: bool,
    services: Trie<Slot>,
    reverse: Trie<Pointer>,
    pods: Trie<PodAddress>,
    nameservers: Arc<[IpAddr]>,
    /// Keyed at random: names are chosen by users.
    hasher: RandomState,
}

/// A service or a namespace, found by the hash of its key.
#[derive(Clone)]
struct Slot {
    hash: u64,
    entry: Entry,
}

/// That a service has an address. The name follows from the service, so there is none here; that both hashes mean what was
/// looked up shows there, too.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Pointer {
    address: u32,
    /// The hash of the service's key, in halves, since nothing here needs more than four octets to stand on.
    service: [u32; 2],
}

/// That a pod has an address.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct PodAddress {
    ip: IpAddr,
    pod: Name,
}

// === impl Zone ===

impl Zone {
    fn new(apex: Apex, nameservers: &[IpAddr]) -> Self {
        Self {
            apex: Arc::new(apex),
            serial: 0,
            synced: false,
            services: Trie::default(),
            reverse: Trie::default(),
            pods: Trie::default(),
            nameservers: nameservers.into(),
            hasher: RandomState::new(),
        }
    }

    /// Number of services and namespaces.
    pub fn len(&self) -> usize {
        self.services.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of names that exist, those of one zone and without reverse names.
    pub fn names(&self) -> usize {
        self.entries().map(Entry::names).sum()
    }

    /// All services and namespaces, in no order that means anything.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.services.iter().map(|slot| &slot.entry)
    }

    /// What is known of a service or a namespace by its key: labels in wire form, lower-cased, without the root.
    pub fn entry(&self, key: &[u8]) -> Option<&Entry> {
        let hash = self.hash(key);
        self.slots(hash).find(|entry| entry.key() == key)
    }

    /// Shows each service and namespace that may differ from an older snapshot of the same zone: as it was there, as it is here.
    pub fn changes<'a>(&'a self, old: &'a Self, see: &mut dyn FnMut(Option<&'a Entry>, Option<&'a Entry>)) {
        self.services.changes(&old.services, &mut |old, new| see(old.map(|slot| &slot.entry), new.map(|slot| &slot.entry)));
    }

    /// Addresses of the name servers of the zones.
    pub fn nameservers(&self) -> &[IpAddr] {
        &self.nameservers
    }

    /// The services that have an address, as a cluster IP or at an endpoint.
    pub fn services_of(&self, ip: IpAddr) -> impl Iterator<Item = &Entry> + Clone {
        self.candidates(ip).filter(move |entry| entry.has(ip))
    }

    /// The same, and by a rare chance others.
    pub fn candidates(&self, ip: IpAddr) -> impl Iterator<Item = &Entry> + Clone {
        let (hash, address) = self.place(ip);
        let leaf = self.reverse.leaf(hash);
        let first = leaf.partition_point(|pointer| pointer.address < address);
        let same = leaf[first..].iter().take_while(move |pointer| pointer.address == address);
        same.flat_map(|pointer| self.slots(u64::from(pointer.service[0]) << 32 | u64::from(pointer.service[1])))
    }

    /// Pods that have an address. None unless [`PodMode::Verified`].
    pub fn pods_of(&self, ip: IpAddr) -> impl Iterator<Item = &Name> {
        let leaf = self.pods.leaf(self.hash(ip));
        let first = leaf.partition_point(|held| held.ip < ip);
        leaf[first..].iter().take_while(move |held| held.ip == ip).map(|held| &held.pod)
    }

    fn slots(&self, hash: u64) -> impl Iterator<Item = &Entry> + Clone {
        let leaf = self.services.leaf(hash);
        let first = leaf.partition_point(|slot| slot.hash < hash);
        leaf[first..].iter().take_while(move |slot| slot.hash == hash).map(|slot| &slot.entry)
    }

    fn hash(&self, key: impl std::hash::Hash) -> u64 {
        self.hasher.hash_one(key)
    }

    /// Where the pointers of an address are, and what tells them from others there.
    fn place(&self, ip: IpAddr) -> (u64, u32) {
        let hash = self.hash(ip);
        (hash, hash as u32)
    }
}

// === impl Slot ===

impl Ord for Slot {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.hash, self.entry.key()).cmp(&(other.hash, other.entry.key()))
    }
}

impl PartialOrd for Slot {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Slot {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Slot {}

/// The label that spells an address: dots and colons become dashes.
pub fn dashed(ip: IpAddr) -> String {
    ip.to_string().replace(['.', ':'], "-")
}

/// Whether the label is [`dashed`] of that address, without allocating.
fn is_dashed(label: &[u8], ip: IpAddr) -> bool {
    let mut text = [0; 63];
    let mut rest = &mut text[..];
    if write!(rest, "{ip}").is_err() {
        return false;
    }
    let room = rest.len();
    let text = &text[..text.len() - room];
    text.iter().map(|&byte| if matches!(byte, b'.' | b':') { b'-' } else { byte }).eq(label.iter().copied())
}

/// The address that a label spells, without allocating.
fn parse_dashed(label: &[u8]) -> Option<IpAddr> {
    let mut text = [0; 63];
    let text = text.get_mut(..label.len())?;
    let v4 = label.iter().filter(|&&byte| byte == b'-').count() == 3 && !label.windows(2).any(|pair| pair == b"--");
    for (to, &from) in text.iter_mut().zip(label) {
        *to = match from {
            b'-' if v4 => b'.',
            b'-' => b':',
            b'.' | b':' => return None,
            other => other,
        };
    }
    let text = std::str::from_utf8(text).ok()?;
    if v4 { text.parse().map(IpAddr::V4).ok() } else { text.parse().map(IpAddr::V6).ok() }
}

#[cfg(test)]
mod tests;
