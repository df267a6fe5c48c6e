//! Record sets, encoded once and copied into replies as they are.
//!
//! Every record starts with a compression pointer to the question's name, so an answer is two `memcpy`s (two, because the
//! records rotate) and carries the client's own casing. Only the reply to an alias points its records elsewhere.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::name::WireName;
use crate::query::{HEADER, class, rtype};

/// A compression pointer to the question's name, which always starts right after the header.
pub const QUESTION_POINTER: u16 = 0xc000 | HEADER as u16;
/// Octets of a record before its data: pointer, type, class, TTL, length.
pub const FIXED: usize = 12;
/// Octets of an SRV record's data before the target's name.
pub const SRV_TARGET: usize = 6;

/// All records of one type at one name, ready to send.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RrSet {
    rtype: u16,
    /// All records name the same target: its addresses are found at its node.
    one_target: bool,
    layout: Layout,
    bytes: Box<[u8]>,
    /// Addresses of several targets, for the additional section of an SRV or NS answer.
    glue: Option<Box<Glue>>,
}

/// Where record i starts.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Layout {
    /// Every record has this many octets.
    Stride(u32),
    Starts(Box<[u32]>),
}

/// Address records of targets; their owner is filled in when the reply is written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Glue {
    /// For each target the index of a record that names it, and where its addresses start.
    targets: Box<[(u32, u32)]>,
    bytes: Box<[u8]>,
}

/// Collects the data of one set.
pub struct RrSetBuilder {
    rtype: u16,
    ttl: u32,
    one_target: bool,
    starts: Vec<u32>,
    bytes: Vec<u8>,
    glue_targets: Vec<(u32, u32)>,
    glue_bytes: Vec<u8>,
}

// === impl RrSet ===

impl RrSet {
    pub fn rtype(&self) -> u16 {
        self.rtype
    }

    /// Number of records; at least one.
    pub fn count(&self) -> usize {
        match &self.layout {
            Layout::Stride(stride) => self.bytes.len() / *stride as usize,
            Layout::Starts(starts) => starts.len(),
        }
    }

    /// All records, one after the other.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Where record `index` starts in [`Self::bytes`]; the end of them for `count()`.
    pub fn start(&self, index: usize) -> usize {
        match &self.layout {
            Layout::Stride(stride) => index * *stride as usize,
            Layout::Starts(starts) => starts.get(index).map_or(self.bytes.len(), |&start| start as usize),
        }
    }

    pub fn record(&self, index: usize) -> &[u8] {
        &self.bytes[self.start(index)..self.start(index + 1)]
    }

    /// The target of all records, when they have but one and its addresses belong into the additional section.
    pub fn one_target(&self) -> Option<&[u8]> {
        self.one_target.then(|| &self.record(0)[self.target_offset()..])
    }

    pub fn glue(&self) -> Option<&Glue> {
        self.glue.as_deref()
    }

    /// Octets of record data before the name that glue belongs to.
    pub fn target_offset(&self) -> usize {
        if self.rtype == rtype::SRV { FIXED + SRV_TARGET } else { FIXED }
    }

    /// Addresses of one family at one name; `None` when there are none.
    pub fn addresses<'a>(ttl: u32, rtype: u16, addresses: impl IntoIterator<Item = &'a IpAddr>) -> Option<Self> {
        let mut set = RrSetBuilder::new(rtype, ttl);
        for address in addresses {
            match address {
                IpAddr::V4(ip) if rtype == rtype::A => set.push(&ip.octets()),
                IpAddr::V6(ip) if rtype == rtype::AAAA => set.push(&ip.octets()),
                _ => {}
            }
        }
        set.finish()
    }

    /// One record whose data is a name: CNAME.
    pub fn alias(ttl: u32, target: &WireName) -> Option<Self> {
        let mut set = RrSetBuilder::new(rtype::CNAME, ttl);
        set.push(target);
        set.finish()
    }
}

// === impl Glue ===

impl Glue {
    /// For each target that has addresses: the index of a record that names it, and its address records.
    pub fn targets(&self) -> impl Iterator<Item = (usize, &[u8])> {
        let ends = self.targets.iter().skip(1).map(|&(_, start)| start as usize).chain([self.bytes.len()]);
        self.targets.iter().zip(ends).map(|(&(record, start), end)| (record as usize, &self.bytes[start as usize..end]))
    }
}

// === impl RrSetBuilder ===

impl RrSetBuilder {
    pub fn new(rtype: u16, ttl: u32) -> Self {
        let (starts, bytes, glue_targets, glue_bytes) = Default::default();
        Self { rtype, ttl, one_target: false, starts, bytes, glue_targets, glue_bytes }
    }

    /// Adds a record with this data.
    pub fn push(&mut self, data: &[u8]) {
        self.starts.push(self.bytes.len() as u32);
        push_record(&mut self.bytes, QUESTION_POINTER, self.rtype, self.ttl, data);
    }

    /// Says that all records have the same target, which is a name of the zone: its addresses need not be kept here.
    pub fn set_one_target(&mut self) {
        self.one_target = true;
    }

    /// Says the addresses of the target of the record that was pushed last.
    pub fn push_glue(&mut self, addresses: &BTreeSet<IpAddr>) {
        let Some(record) = self.starts.len().checked_sub(1) else { return };
        if !addresses.is_empty() {
            self.glue_targets.push((record as u32, self.glue_bytes.len() as u32));
            addresses.iter().for_each(|&ip| push_address(&mut self.glue_bytes, QUESTION_POINTER, self.ttl, ip));
        }
    }

    /// `None` when nothing was pushed.
    pub fn finish(self) -> Option<RrSet> {
        let stride = match self.starts.len() {
            0 => return None,
            count => self.bytes.len() / count,
        };
        let even = self.starts.iter().enumerate().all(|(index, &start)| start as usize == index * stride);
        let layout = if even && stride * self.starts.len() == self.bytes.len() {
            Layout::Stride(stride as u32)
        } else {
            Layout::Starts(self.starts.into())
        };
        let glue = (!self.glue_targets.is_empty())
            .then(|| Box::new(Glue { targets: self.glue_targets.into(), bytes: self.glue_bytes.into() }));
        Some(RrSet { rtype: self.rtype, one_target: self.one_target, layout, bytes: self.bytes.into(), glue })
    }
}

/// Appends one record.
pub fn push_record(bytes: &mut Vec<u8>, owner: u16, rtype: u16, ttl: u32, data: &[u8]) {
    bytes.extend_from_slice(&owner.to_be_bytes());
    bytes.extend_from_slice(&rtype.to_be_bytes());
    bytes.extend_from_slice(&class::IN.to_be_bytes());
    bytes.extend_from_slice(&ttl.to_be_bytes());
    bytes.extend_from_slice(&(data.len() as u16).to_be_bytes());
    bytes.extend_from_slice(data);
}

/// Appends an A or AAAA record.
pub fn push_address(bytes: &mut Vec<u8>, owner: u16, ttl: u32, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => push_record(bytes, owner, rtype::A, ttl, &ip.octets()),
        IpAddr::V6(ip) => push_record(bytes, owner, rtype::AAAA, ttl, &ip.octets()),
    }
}
