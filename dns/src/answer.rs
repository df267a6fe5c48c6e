//! A query and a zone become the reply's bytes. Pure: no I/O, no clock, and no allocation once the buffer has its size.

use std::net::IpAddr;

use crate::name;
use crate::query::{HEADER, MAX_UDP, Malformed, Query, Rcode, Transport, class, rtype};
use crate::zone::{FIXED, Found, Glue, Node, QUESTION_POINTER, Realm, RrSet, Zone, push_address, push_record};

/// How a packet was answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum Outcome {
    Answer,
    /// As many records as fit, and TC: the client comes again over TCP.
    Truncated,
    NoData,
    NxDomain,
    ServFail,
    Refused,
    FormErr,
    NotImp,
    BadVers,
    /// Not our name, and there are upstreams: nothing was written.
    Forward,
    /// An alias to a name that is not ours: the reply holds the alias and can be sent as it is, or be completed with
    /// what the upstreams say of the last target.
    ForwardTarget,
    /// Nothing is sent.
    Drop,
}

/// Aliases that are followed within the zone before the rest is left to the client.
const MAX_ALIASES: usize = 8;
/// Octets of our OPT record.
const OPT_SIZE: usize = 11;
/// What a compression pointer can reach.
const MAX_POINTER: usize = 0x3fff;
const SOA_REFRESH: u32 = 7200;
const SOA_RETRY: u32 = 1800;
const SOA_EXPIRE: u32 = 86400;
const SOFTWARE: &[u8] = b"\x07thalweg";

/// A reply while it is written.
struct Reply<'a, 'p> {
    query: &'a Query<'p>,
    zone: &'a Zone,
    out: &'a mut Vec<u8>,
    /// `out` may grow to this, the OPT record not counted.
    limit: usize,
    counts: [u16; 3],
    authoritative: bool,
    truncated: bool,
}

/// The sections of a message after the question, by their place in the header.
#[derive(Clone, Copy)]
enum Section {
    Answer,
    Authority,
    Additional,
}

// === impl Outcome ===

impl Outcome {
    pub const ALL: [Self; 12] = [
        Self::Answer,
        Self::Truncated,
        Self::NoData,
        Self::NxDomain,
        Self::ServFail,
        Self::Refused,
        Self::FormErr,
        Self::NotImp,
        Self::BadVers,
        Self::Forward,
        Self::ForwardTarget,
        Self::Drop,
    ];
}

/// Answers a packet: parses it, then [`answer`]s, or says what is wrong with it.
pub fn respond(packet: &[u8], transport: Transport, rotation: u32, zone: &Zone, out: &mut Vec<u8>) -> Outcome {
    match Query::parse(packet, transport) {
        Ok(mut query) => {
            query.rotation = rotation;
            answer(&query, zone, out)
        }
        Err(Malformed::Drop) => {
            out.clear();
            Outcome::Drop
        }
        Err(Malformed::Reply(rcode)) => {
            bare(packet, rcode, out);
            if rcode == Rcode::NotImp { Outcome::NotImp } else { Outcome::FormErr }
        }
    }
}

/// Answers a query. `out` is cleared first; afterwards it holds the whole reply, at most [`Query::limit`] octets, unless
/// the outcome is [`Outcome::Forward`] or [`Outcome::Drop`].
pub fn answer(query: &Query<'_>, zone: &Zone, out: &mut Vec<u8>) -> Outcome {
    let reply = Reply::begin(query, zone, out);
    if query.edns.is_some_and(|edns| edns.version > 0) {
        return reply.end(Rcode::BadVers, Outcome::BadVers);
    }
    match query.class {
        class::IN => {}
        class::CHAOS => return reply.chaos(),
        _ => return reply.end(Rcode::Refused, Outcome::Refused),
    }
    // Zone transfers and other things that are no types of records.
    if matches!(query.rtype, 0 | rtype::OPT | 128..=254) {
        return reply.end(Rcode::Refused, Outcome::Refused);
    }
    match zone.realm(&query.name) {
        Realm::Outside if zone.apex.recursion => reply.forward(),
        Realm::Outside => reply.end(Rcode::Refused, Outcome::Refused),
        Realm::Cluster(_) | Realm::Reverse { .. } if !zone.synced => reply.end(Rcode::ServFail, Outcome::ServFail),
        Realm::Cluster(offset) => reply.cluster(offset),
        Realm::Reverse { offset, whole } => reply.reverse(offset, whole),
    }
}

/// SERVFAIL to a query that could not be forwarded.
pub fn servfail(query: &Query<'_>, zone: &Zone, out: &mut Vec<u8>) -> Outcome {
    Reply::begin(query, zone, out).end(Rcode::ServFail, Outcome::ServFail)
}

/// A header and nothing else, for a packet whose question could not be read.
fn bare(packet: &[u8], rcode: Rcode, out: &mut Vec<u8>) {
    out.clear();
    let Some(header) = packet.get(..4) else { return };
    // The identifier, the opcode and "recursion desired" are the client's.
    out.extend_from_slice(&[header[0], header[1], 0x80 | header[2] & 0x79, rcode as u8]);
    out.resize(HEADER, 0);
}

// === impl Reply ===

impl<'a, 'p> Reply<'a, 'p> {
    fn begin(query: &'a Query<'p>, zone: &'a Zone, out: &'a mut Vec<u8>) -> Self {
        out.clear();
        out.extend_from_slice(&query.packet()[..HEADER]);
        out.extend_from_slice(query.question());
        let limit = query.limit() - if query.edns.is_some() { OPT_SIZE } else { 0 };
        Self { query, zone, out, limit, counts: [0; 3], authoritative: false, truncated: false }
    }

    /// A name of the cluster's zone, which starts at `offset` of the question's name.
    fn cluster(mut self, offset: usize) -> Outcome {
        self.authoritative = true;
        let zone = self.zone;
        if self.query.rtype == rtype::SOA && offset == 0 {
            self.soa(Section::Answer, Realm::Cluster(offset));
            return self.end(Rcode::NoError, Outcome::Answer);
        }
        let mut owner = QUESTION_POINTER;
        let mut found = zone.find(self.query.name.wire());
        for _ in 0..MAX_ALIASES {
            let alias = match found {
                Found::Nothing => return self.negative(Realm::Cluster(offset), Rcode::NxDomain),
                Found::Dashed(ip) => return self.dashed(ip, owner, offset),
                Found::Node(node) => match self.positive(node, owner) {
                    Some(outcome) => return self.end(Rcode::NoError, outcome),
                    None => match node.set(rtype::CNAME) {
                        None => return self.negative(Realm::Cluster(offset), Rcode::NoError),
                        Some(alias) => alias,
                    },
                },
            };
            let place = self.out.len() + FIXED;
            if !self.set(alias, owner) {
                return self.end(Rcode::NoError, Outcome::Truncated);
            }
            let target = &alias.record(0)[FIXED..];
            if !zone.contains(target) {
                let outcome = if zone.apex.recursion { Outcome::ForwardTarget } else { Outcome::Answer };
                return self.end(Rcode::NoError, outcome);
            }
            // Records of the target are owned by the name that the alias just spelled out.
            owner = pointer(place);
            found = zone.find(target);
        }
        self.end(Rcode::NoError, Outcome::Answer)
    }

    fn reverse(mut self, offset: usize, whole: bool) -> Outcome {
        let realm = Realm::Reverse { offset, whole };
        let forwards = self.zone.apex.recursion;
        self.authoritative = true;
        match self.zone.find(self.query.name.wire()) {
            Found::Node(node) => match self.positive(node, QUESTION_POINTER) {
                Some(outcome) => self.end(Rcode::NoError, outcome),
                None => self.negative(realm, Rcode::NoError),
            },
            _ if forwards => self.forward(),
            // Whether there are addresses below a range is not worth knowing; saying no would deny them all.
            _ if whole => self.negative(realm, Rcode::NxDomain),
            _ => self.negative(realm, Rcode::NoError),
        }
    }

    /// Writes the records of the asked type; `None` when there are none.
    fn positive(&mut self, node: &Node, owner: u16) -> Option<Outcome> {
        let set = match self.query.rtype {
            // RFC 8482: one of the sets is enough.
            rtype::ANY => node.sets().first(),
            rtype => node.set(rtype),
        }?;
        let answer_at = self.out.len();
        if !self.set(set, owner) {
            return Some(Outcome::Truncated);
        }
        self.glue(set, answer_at);
        Some(Outcome::Answer)
    }

    fn dashed(mut self, ip: IpAddr, owner: u16, offset: usize) -> Outcome {
        let rtype = if ip.is_ipv4() { rtype::A } else { rtype::AAAA };
        if self.query.rtype != rtype && self.query.rtype != rtype::ANY {
            return self.negative(Realm::Cluster(offset), Rcode::NoError);
        }
        // At most 28 octets after a question and a few aliases; 512 always hold them.
        push_address(self.out, owner, self.zone.apex.ttl, ip);
        self.counts[Section::Answer as usize] += 1;
        self.end(Rcode::NoError, Outcome::Answer)
    }

    /// Writes a set into the answer section, starting with the record whose turn it is. False: not all of them fit.
    fn set(&mut self, set: &RrSet, owner: u16) -> bool {
        let (bytes, count) = (set.bytes(), set.count());
        let first = self.first(set);
        let room = self.limit.saturating_sub(self.out.len());
        let start = self.out.len();
        let whole = bytes.len() <= room;
        let mut written = count;
        if whole {
            let split = set.start(first);
            self.out.extend_from_slice(&bytes[split..]);
            self.out.extend_from_slice(&bytes[..split]);
        } else {
            written = 0;
            for index in (first..count).chain(0..first) {
                let record = set.record(index);
                if self.out.len() + record.len() > self.limit {
                    break;
                }
                self.out.extend_from_slice(record);
                written += 1;
            }
            self.truncated = true;
        }
        if owner != QUESTION_POINTER {
            own(&mut self.out[start..], owner);
        }
        self.counts[Section::Answer as usize] += written as u16;
        whole
    }

    /// Adds the addresses of the targets to a set that was written at `answer_at`. What does not fit is left out: the
    /// client can ask.
    fn glue(&mut self, set: &RrSet, answer_at: usize) {
        if let Some(target) = set.one_target() {
            let at = answer_at + set.target_offset();
            match self.zone.find(target) {
                Found::Node(node) => {
                    let sets = [rtype::A, rtype::AAAA].into_iter().filter_map(|rtype| node.set(rtype));
                    sets.for_each(|addresses| self.additional(addresses.bytes(), at));
                }
                Found::Dashed(ip) => self.additional_address(ip, at),
                Found::Nothing => {}
            }
        }
        let split = set.start(self.first(set));
        for (record, addresses) in set.glue().into_iter().flat_map(Glue::targets) {
            let start = set.start(record);
            let moved = if start >= split { start - split } else { start + set.bytes().len() - split };
            self.additional(addresses, answer_at + moved + set.target_offset());
        }
    }

    fn additional_address(&mut self, ip: IpAddr, target: usize) {
        let at = self.out.len();
        push_address(self.out, pointer(target), self.zone.apex.ttl, ip);
        if self.out.len() > self.limit {
            self.out.truncate(at);
        } else {
            self.counts[Section::Additional as usize] += 1;
        }
    }

    /// Adds address records of the name that was written at `target`.
    fn additional(&mut self, addresses: &[u8], target: usize) {
        let at = self.out.len();
        if at + addresses.len() > self.limit || target > MAX_POINTER {
            return;
        }
        self.out.extend_from_slice(addresses);
        self.counts[Section::Additional as usize] += own(&mut self.out[at..], pointer(target));
    }

    fn first(&self, set: &RrSet) -> usize {
        ((u64::from(self.query.rotation) * set.count() as u64) >> 32) as usize
    }

    /// NXDOMAIN or NODATA, with the SOA that says how long to remember it.
    fn negative(mut self, realm: Realm, rcode: Rcode) -> Outcome {
        self.soa(Section::Authority, realm);
        self.end(rcode, if rcode == Rcode::NxDomain { Outcome::NxDomain } else { Outcome::NoData })
    }

    fn soa(&mut self, section: Section, realm: Realm) {
        let (Realm::Cluster(offset) | Realm::Reverse { offset, .. }) = realm else { return };
        let apex = &self.zone.apex;
        let at = self.out.len();
        push_record(self.out, pointer(HEADER + offset), rtype::SOA, apex.ttl, &[]);
        match realm {
            Realm::Cluster(_) => {
                let origin = pointer(HEADER + offset).to_be_bytes();
                for name in [&apex.nameserver, &apex.hostmaster] {
                    self.out.extend_from_slice(&name[..name.len() - apex.origin.len()]);
                    self.out.extend_from_slice(&origin);
                }
            }
            _ => {
                self.out.extend_from_slice(&apex.nameserver);
                self.out.extend_from_slice(&apex.hostmaster);
            }
        }
        for number in [self.zone.serial, SOA_REFRESH, SOA_RETRY, SOA_EXPIRE, apex.ttl] {
            self.out.extend_from_slice(&number.to_be_bytes());
        }
        let length = (self.out.len() - at - FIXED) as u16;
        self.out[at + FIXED - 2..at + FIXED].copy_from_slice(&length.to_be_bytes());
        if self.out.len() > self.limit {
            self.out.truncate(at);
            return;
        }
        self.counts[section as usize] += 1;
    }

    /// Class CHAOS: the name of the software, and nothing else.
    fn chaos(mut self) -> Outcome {
        let known = [&b"\x07version\x04bind\0"[..], b"\x07version\x06server\0"].contains(&self.query.name.wire());
        if !known || !matches!(self.query.rtype, rtype::TXT | rtype::ANY) {
            return self.end(Rcode::Refused, Outcome::Refused);
        }
        let at = self.out.len();
        push_record(self.out, QUESTION_POINTER, rtype::TXT, 0, SOFTWARE);
        self.out[at + 4..at + 6].copy_from_slice(&class::CHAOS.to_be_bytes());
        self.counts[Section::Answer as usize] += 1;
        self.authoritative = true;
        self.end(Rcode::NoError, Outcome::Answer)
    }

    fn forward(self) -> Outcome {
        self.out.clear();
        Outcome::Forward
    }

    /// Writes the OPT record and the header.
    fn end(mut self, rcode: Rcode, outcome: Outcome) -> Outcome {
        if let Some(edns) = self.query.edns {
            let [high, low] = (MAX_UDP as u16).to_be_bytes();
            let dnssec_ok = if edns.dnssec_ok { 0x80 } else { 0 };
            self.out.extend_from_slice(&[0, 0, rtype::OPT as u8, high, low, rcode as u8 >> 4, 0, dnssec_ok, 0, 0, 0]);
            self.counts[Section::Additional as usize] += 1;
        }
        let asked = &self.query.packet()[..HEADER];
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        // A reply; "recursion desired" and "checking disabled" as asked.
        self.out[2] = 0x80 | asked[2] & 0x01 | flag(self.authoritative, 0x04) | flag(self.truncated, 0x02);
        self.out[3] = asked[3] & 0x10 | flag(self.zone.apex.recursion, 0x80) | rcode as u8 & 15;
        for (at, count) in [(6, self.counts[0]), (8, self.counts[1]), (10, self.counts[2])] {
            self.out[at..at + 2].copy_from_slice(&count.to_be_bytes());
        }
        outcome
    }
}

/// A compression pointer to an offset of the message, at most [`MAX_POINTER`].
fn pointer(offset: usize) -> u16 {
    0xc000 | offset as u16
}

/// Gives records that start with a pointer another owner; says how many there are.
fn own(records: &mut [u8], owner: u16) -> u16 {
    let (mut at, mut count) = (0, 0);
    while at + FIXED <= records.len() {
        records[at..at + 2].copy_from_slice(&owner.to_be_bytes());
        at += FIXED + usize::from(u16::from_be_bytes([records[at + FIXED - 2], records[at + FIXED - 1]]));
        count += 1;
    }
    count
}

/// The target of the last alias in a reply that [`answer`] wrote, in wire form. It is always spelled out.
pub fn last_target(reply: &[u8], query: &Query<'_>) -> Option<Box<[u8]>> {
    let mut at = HEADER + query.question().len();
    let mut target = None;
    for _ in 0..u16::from_be_bytes([*reply.get(6)?, *reply.get(7)?]) {
        let data = at + FIXED;
        let length = usize::from(u16::from_be_bytes([*reply.get(data - 2)?, *reply.get(data - 1)?]));
        target = reply.get(data..data + length);
        at = data + length;
    }
    target.filter(|target| name::parent(target).is_some()).map(Into::into)
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
