//! A query and a zone become the reply's bytes. Pure: no I/O, no clock, and no allocation once the buffer has its size.

use crate::name;
use crate::query::{HEADER, Malformed, Query, Rcode, Transport, class, rtype};
use crate::zone::{Entry, FIXED, Found, QUESTION_POINTER, Realm, Zone, end_record, pointer, push_head, push_record};

mod records;
mod transfer;

pub use transfer::transfer;

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
    /// A whole zone is wanted and the client may have it: nothing was written, [`transfer`] says it in several messages.
    Transfer,
    /// Nothing is sent.
    Drop,
}

/// Aliases that are followed within the zone before the rest is left to the client.
pub const MAX_ALIASES: usize = 8;
/// Octets of our OPT record.
const OPT_SIZE: usize = 11;
const SOA_REFRESH: u32 = 7200;
const SOA_RETRY: u32 = 1800;
const SOA_EXPIRE: u32 = 86400;
/// The names in an SOA, before that of the zone.
const NAMESERVER: &[u8] = b"\x02ns\x03dns";
const HOSTMASTER: &[u8] = b"\x0ahostmaster";
const SOFTWARE: &[u8] = b"\x07thalweg";

/// A reply while it is written.
struct Reply<'a, 'p> {
    query: &'a Query<'p>,
    zone: &'a Zone,
    out: &'a mut Vec<u8>,
    /// `out` may grow to this, the OPT record not counted.
    limit: usize,
    /// What the OPT record says that we take and send, in octets.
    max_udp: usize,
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
    pub const ALL: [Self; 13] = [
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
        Self::Transfer,
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
/// the outcome is [`Outcome::Forward`], [`Outcome::Transfer`] or [`Outcome::Drop`].
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
    let name = query.name.wire();
    let realm = zone.realm(name);
    match query.rtype {
        rtype::AXFR | rtype::IXFR => return reply.zone_transfer(realm),
        // Things that are no types of records.
        0 | rtype::OPT | 128..=254 => return reply.end(Rcode::Refused, Outcome::Refused),
        _ => {}
    }
    match realm {
        Realm::Outside if zone.apex.recursion => reply.forward(),
        Realm::Outside => reply.end(Rcode::Refused, Outcome::Refused),
        _ if !zone.synced => reply.end(Rcode::ServFail, Outcome::ServFail),
        _ => reply.ours(realm),
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
        let max_udp = query.max_udp.min(zone.apex.max_udp);
        let most = if query.transport == Transport::Udp { max_udp } else { usize::MAX };
        let limit = query.limit().min(most).saturating_sub(if query.edns.is_some() { OPT_SIZE } else { 0 });
        Self { query, zone, out, limit, max_udp, counts: [0; 3], authoritative: false, truncated: false }
    }

    /// A name of ours.
    fn ours(mut self, mut realm: Realm) -> Outcome {
        self.authoritative = true;
        let zone = self.zone;
        // The name that is looked up, and where it stands in the reply: first the question's, then that of an alias.
        let (mut name, mut at) = (self.query.name.wire(), HEADER);
        let mut followed: [Option<&Entry>; MAX_ALIASES] = [None; MAX_ALIASES];
        for index in 0..MAX_ALIASES {
            let found = zone.find_in(realm, name);
            if let Some(outcome) = self.records(found, realm, at) {
                return self.end(Rcode::NoError, outcome);
            }
            let (Found::Service(alias), Some(target)) = (found, found.target()) else {
                return self.negative(found, realm, name, at);
            };
            if followed.iter().flatten().any(|entry| std::ptr::eq(*entry, alias)) {
                break;
            }
            followed[index] = Some(alias);
            let start = self.out.len();
            push_record(self.out, pointer(at), rtype::CNAME, zone.apex.ttl, target);
            if !self.keep(start, Section::Answer) {
                self.truncated = true;
                return self.end(Rcode::NoError, Outcome::Truncated);
            }
            // Records of the target are owned by the name that the alias just spelled out.
            (name, at, realm) = (target, start + FIXED, zone.realm(target));
            if realm == Realm::Outside {
                let outcome = if zone.apex.recursion { Outcome::ForwardTarget } else { Outcome::Answer };
                return self.end(Rcode::NoError, outcome);
            }
        }
        // Aliases that lead back to themselves, or are too many.
        self.end(Rcode::NoError, Outcome::Answer)
    }

    /// NXDOMAIN or NODATA for the name that stands at `at`, with the SOA that says how long to remember it; or it is passed on.
    fn negative(mut self, found: Found<'_>, realm: Realm, name: &[u8], at: usize) -> Outcome {
        let unknown = matches!(found, Found::Nothing | Found::Range);
        if unknown && self.zone.apex.passes_on(name) {
            return if at == HEADER { self.forward() } else { self.end(Rcode::NoError, Outcome::ForwardTarget) };
        }
        self.soa(Section::Authority, realm, at);
        match found {
            Found::Nothing => self.end(Rcode::NxDomain, Outcome::NxDomain),
            // To deny part of an address would deny all addresses that start with it.
            _ => self.end(Rcode::NoError, Outcome::NoData),
        }
    }

    /// Of the zone of the name that stands at `at`.
    fn soa(&mut self, section: Section, realm: Realm, at: usize) {
        let (Realm::Cluster { offset, .. } | Realm::Reverse { offset, .. }) = realm else { return };
        let origin = pointer(at + offset);
        let start = self.out.len();
        push_head(self.out, origin, rtype::SOA, self.zone.apex.ttl, 0);
        for label in [NAMESERVER, HOSTMASTER] {
            self.out.extend_from_slice(label);
            self.out.extend_from_slice(&origin.to_be_bytes());
        }
        for number in [self.zone.serial, SOA_REFRESH, SOA_RETRY, SOA_EXPIRE, self.zone.apex.ttl] {
            self.out.extend_from_slice(&number.to_be_bytes());
        }
        end_record(self.out, start);
        self.keep(start, section);
    }

    /// Counts the record that was begun at `start`, or takes it away when it does not fit.
    fn keep(&mut self, start: usize, section: Section) -> bool {
        let fits = self.out.len() <= self.limit;
        if fits {
            self.counts[section as usize] += 1;
        } else {
            self.out.truncate(start);
        }
        fits
    }

    /// AXFR and IXFR: refused, unless this client may.
    fn zone_transfer(mut self, realm: Realm) -> Outcome {
        let apex = matches!(realm, Realm::Cluster { offset: 0, .. });
        if !self.query.may_transfer || !apex {
            return self.end(Rcode::Refused, Outcome::Refused);
        }
        match (self.query.transport, self.query.rtype) {
            _ if !self.zone.synced => self.end(Rcode::ServFail, Outcome::ServFail),
            (Transport::Tcp, _) => {
                self.out.clear();
                Outcome::Transfer
            }
            // RFC 1995 section 2: the SOA alone tells the client to come again over TCP.
            (Transport::Udp, rtype::IXFR) => {
                self.authoritative = true;
                self.soa(Section::Answer, realm, HEADER);
                self.end(Rcode::NoError, Outcome::Answer)
            }
            (Transport::Udp, _) => self.end(Rcode::Refused, Outcome::Refused),
        }
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
            let [high, low] = (self.max_udp.min(usize::from(u16::MAX)) as u16).to_be_bytes();
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
