//! The zone: what a query can find, and how it follows from the cluster's state.
//!
//! [`Zone`] is an immutable snapshot, shared by all workers; [`ZoneBuilder`] owns the next one and changes it by the
//! services that became dirty.

use std::io::Write;
use std::net::IpAddr;
use std::sync::Arc;

use crate::name::{self, WireName};
use crate::query::QueryName;

mod builder;
mod config;
mod record;
mod service;
mod table;

pub use builder::ZoneBuilder;
pub use config::{Fallthrough, MAX_TTL, PodMode, ZoneConfig, ZoneError, reverse_range};
pub use record::{FIXED, Glue, QUESTION_POINTER, RrSet, RrSetBuilder, push_address, push_record};
pub use table::{Dashed, Node, Table};

/// The names that the zone itself consists of.
#[derive(Debug)]
pub struct Apex {
    pub origin: WireName,
    pub services: WireName,
    pub pods: WireName,
    pub nameserver: WireName,
    pub hostmaster: WireName,
    pub ttl: u32,
    pub pod_mode: PodMode,
    pub recursion: bool,
}

/// A snapshot of the zone.
#[derive(Clone)]
pub struct Zone {
    pub apex: Arc<Apex>,
    table: Table,
    /// Of the SOA record.
    pub serial: u32,
    /// The cluster has been listed completely; before, absence means nothing.
    pub synced: bool,
}

/// Whose name it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Realm {
    /// In the cluster's zone, which starts at this offset of the name.
    Cluster(usize),
    /// Below in-addr.arpa or ip6.arpa, which starts at this offset; `whole`: it names one address, not a range.
    Reverse {
        offset: usize,
        whole: bool,
    },
    Outside,
}

/// What is at a name of the zone.
#[derive(Clone, Copy, Debug)]
pub enum Found<'z> {
    Node(&'z Node),
    /// The name of a pod or an endpoint spells its address.
    Dashed(IpAddr),
    Nothing,
}

// === impl Zone ===

impl Zone {
    pub fn realm(&self, name: &QueryName) -> Realm {
        if let Some(offset) = name.offset_of(&self.apex.origin) {
            return Realm::Cluster(offset);
        }
        for (suffix, whole) in [(name::REVERSE_V4, 6), (name::REVERSE_V6, 34)] {
            if let Some(offset) = name.offset_of(suffix) {
                return Realm::Reverse { offset, whole: name.labels() >= whole };
            }
        }
        Realm::Outside
    }

    /// Whether a lower-cased wire name is in the cluster's zone.
    pub fn contains(&self, name: &[u8]) -> bool {
        name::is_within(name, &self.apex.origin)
    }

    /// Looks a lower-cased wire name up.
    pub fn find(&self, name: &[u8]) -> Found<'_> {
        match self.table.get(name) {
            Some(node) => Found::Node(node),
            None => self.find_dashed(name).map_or(Found::Nothing, Found::Dashed),
        }
    }

    pub fn table(&self) -> &Table {
        &self.table
    }

    fn find_dashed(&self, name: &[u8]) -> Option<IpAddr> {
        let address = parse_dashed(name::first_label(name))?;
        let exists = match &self.table.get(name::parent(name)?)?.dashed {
            Dashed::Any => true,
            // An address of IPv6 has many spellings, a name has one.
            Dashed::Only(these) => these.binary_search(&address).is_ok() && is_dashed(name::first_label(name), address),
        };
        exists.then_some(address)
    }
}

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
