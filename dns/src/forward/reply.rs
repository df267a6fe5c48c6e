//! An answer from upstream, ready to be given to many clients: encoded once, with the places of what differs between them.
//!
//! Only what belongs to the question is taken over ([`Reply::take`]): in the answer section the records along the chain of
//! aliases from the name that was asked; in the authority section the SOA above where the chain ends, and with DNSSEC the
//! records that prove what is said. Whatever else an upstream sends, no client sees.

use hickory_proto::op::{Message, OpCode, Query as WireQuestion};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::question::Question;
use crate::query::{HEADER, PLAIN_UDP, Query, rtype, skip_name};

/// Aliases that are followed in an answer.
const MAX_ALIASES: usize = 16;
/// Type, class, TTL and length of a record, after its name.
const FIXED: usize = 10;
const TTL_AT: usize = 4;
/// Longer than this no TTL is meant (RFC 2181 section 8).
const MAX_TTL: u32 = i32::MAX as u32;
const OPT_SIZE: usize = 11;
const AUTHENTIC_DATA: u8 = 0x20;
const CHECKING_DISABLED: u8 = 0x10;
const RECURSION_AVAILABLE: u8 = 0x80;

/// What an answer says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Kind {
    /// Records of the type that was asked for.
    Success,
    /// The name exists, without that type.
    NoData,
    NxDomain,
    /// SERVFAIL, REFUSED and the like.
    #[default]
    Failure,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reply {
    /// Header, question in lower case, records; no OPT.
    bytes: Box<[u8]>,
    records_at: u16,
    marks: Box<[Mark]>,
    /// Addresses of one name, which each client gets in another order.
    run: Option<Run>,
    rcode: u8,
    authentic: bool,
    kind: Kind,
    ttl: Option<u32>,
}

/// Records of equal size, one after another, from `start` to `end`. None of them holds a name that others point to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Run {
    start: u16,
    end: u16,
    size: u16,
}

/// Where a record's TTL stands, and where the record ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Mark {
    ttl_at: u16,
    end: u16,
    section: u8,
}

// === impl Reply ===

impl Reply {
    /// Takes over what a message says to a question; `None` when it cannot be encoded again.
    pub fn take(message: Message, question: &Question) -> Option<Self> {
        let asked = super::ask::decode_name(question.name())?;
        let rcode = message.metadata.response_code.low();
        let authentic = message.metadata.authentic_data;
        let (answers, last) = along_the_chain(message.answers, &asked, question);
        let success = answers.iter().any(|record| question.wants(record.record_type().into()));
        let kind = match rcode {
            0 if success => Kind::Success,
            0 => Kind::NoData,
            3 => Kind::NxDomain,
            _ => Kind::Failure,
        };
        let keep = |record: &Record| {
            kind != Kind::Success && record.record_type() == RecordType::SOA && record.name.zone_of(&last)
                || question.dnssec_ok() && is_proof(record.record_type())
        };
        let authorities: Vec<Record> = message.authorities.into_iter().filter(keep).collect();
        let of_answers = answers.iter().map(|record| ttl_of(record.ttl)).min();
        let of_denial = authorities.iter().find_map(|record| match &record.data {
            RData::SOA(soa) => Some(ttl_of(record.ttl).min(ttl_of(soa.minimum))),
            _ => None,
        });
        let ttl = match kind {
            Kind::Success => of_answers,
            Kind::NoData | Kind::NxDomain => of_denial.map(|ttl| of_answers.map_or(ttl, |other| ttl.min(other))),
            Kind::Failure => None,
        };
        let mut clean = Message::response(0, OpCode::Query);
        let mut wire_question = WireQuestion::query(asked, question.rtype().into());
        wire_question.set_query_class(DNSClass::from(question.class()));
        clean.add_query(wire_question);
        clean.add_answers(answers);
        clean.add_authorities(authorities);
        let bytes = clean.to_vec().ok()?;
        let records_at = HEADER + question.wire().len();
        let marks = marks(&bytes, records_at)?;
        let (bytes, records_at) = (bytes.into(), records_at as u16);
        let mut reply = Self { bytes, records_at, marks, run: None, rcode, authentic, kind, ttl };
        reply.run = reply.addresses();
        Some(reply)
    }

    /// An answer without records.
    pub fn bare(rcode: u8, question: &Question) -> Self {
        let bytes: Box<[u8]> = [&[0; HEADER][..], question.wire()].concat().into();
        Self { records_at: bytes.len() as u16, bytes, rcode, ..Self::default() }
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub fn rcode(&self) -> u8 {
        self.rcode
    }

    /// Seconds that it is good for; `None` when it does not say.
    pub fn ttl(&self) -> Option<u32> {
        self.ttl
    }

    /// What it takes in memory.
    pub fn octets(&self) -> usize {
        size_of::<Self>() + self.bytes.len() + size_of_val(&*self.marks)
    }

    /// The records of the answer section, decoded; none when there are none.
    pub fn answers(&self) -> Vec<Record> {
        self.decoded().map(|message| message.answers).unwrap_or_default()
    }

    /// The records of the authority section, decoded.
    pub fn authorities(&self) -> Vec<Record> {
        self.decoded().map(|message| message.authorities).unwrap_or_default()
    }

    /// Writes it for a client that asked the same question: its identifier and casing, `ttl` seconds in each record unless
    /// that is `None`, and no more octets than it takes and `most` allows.
    pub fn write(&self, query: &Query<'_>, ttl: Option<u32>, most: usize, out: &mut Vec<u8>) {
        out.clear();
        let opt = if query.edns.is_some() { OPT_SIZE } else { 0 };
        let limit = query.limit().min(most.max(PLAIN_UDP)) - opt;
        let records_at = usize::from(self.records_at);
        let asked = query.packet();
        out.extend_from_slice(&asked[..HEADER]);
        out.extend_from_slice(query.question());
        debug_assert_eq!(out.len(), records_at, "the same question");
        let fitting = self.marks.iter().take_while(|mark| usize::from(mark.end) <= limit).count();
        let truncated = fitting < self.marks.len();
        let end = self.marks[..fitting].last().map_or(records_at, |mark| usize::from(mark.end));
        self.copy_records(records_at, end, out, u16::from_be_bytes([asked[0], asked[1]]));
        let mut counts = [0u16; 3];
        for mark in &self.marks[..fitting] {
            counts[usize::from(mark.section)] += 1;
            if let Some(ttl) = ttl {
                let at = usize::from(mark.ttl_at);
                out[at..at + 4].copy_from_slice(&ttl.to_be_bytes());
            }
        }
        if let Some(edns) = query.edns {
            let [high, low] = (query.max_udp.min(most.max(PLAIN_UDP)) as u16).to_be_bytes();
            let dnssec_ok = if edns.dnssec_ok { 0x80 } else { 0 };
            out.extend_from_slice(&[0, 0, rtype::OPT as u8, high, low, 0, 0, dnssec_ok, 0, 0, 0]);
            counts[2] += 1;
        }
        // Only who asks for it can tell what "authentic data" means (RFC 6840 section 5.7).
        let wants_ad = asked[3] & AUTHENTIC_DATA != 0 || query.edns.is_some_and(|edns| edns.dnssec_ok);
        out[2] = 0x80 | asked[2] & 1 | if truncated { 2 } else { 0 };
        out[3] = RECURSION_AVAILABLE
            | if self.authentic && wants_ad { AUTHENTIC_DATA } else { 0 }
            | asked[3] & CHECKING_DISABLED
            | self.rcode & 15;
        out[4..6].copy_from_slice(&1u16.to_be_bytes());
        for (at, count) in [(6, counts[0]), (8, counts[1]), (10, counts[2])] {
            out[at..at + 2].copy_from_slice(&count.to_be_bytes());
        }
    }

    /// Copies the records; the addresses begin with another one by `turn`, for which the identifier of the query does:
    /// clients draw it at random.
    fn copy_records(&self, start: usize, end: usize, out: &mut Vec<u8>, turn: u16) {
        let run = self.run.map(|run| (usize::from(run.start), usize::from(run.end), usize::from(run.size)));
        match run {
            Some((first, last, size)) if last <= end => {
                let split = first + usize::from(turn) % ((last - first) / size) * size;
                for part in [start..first, split..last, first..split, last..end] {
                    out.extend_from_slice(&self.bytes[part]);
                }
            }
            _ => out.extend_from_slice(&self.bytes[start..end]),
        }
    }

    /// The addresses at the end of the answer section, if there are several and all are of one name, by a pointer.
    fn addresses(&self) -> Option<Run> {
        let answers = self.marks.iter().filter(|mark| mark.section == 0).count();
        let start_of = |index: usize| index.checked_sub(1).map_or(self.records_at, |before| self.marks[before].end);
        // A pointer, the type, the class: what all have in common.
        let head = |index: usize| {
            let start = usize::from(start_of(index));
            self.bytes.get(start..start + 6).filter(|head| head[0] >= 0xc0 && matches!(head[2..4], [0, 1] | [0, 28]))
        };
        let last = head(answers.checked_sub(1)?)?;
        let first = (0..answers).rev().take_while(|&index| head(index) == Some(last)).last()?;
        let (start, end) = (start_of(first), start_of(answers));
        let count = (answers - first) as u16;
        let target = usize::from(u16::from_be_bytes([last[0] & 0x3f, last[1]]));
        (count > 1 && target < usize::from(start)).then_some(Run { start, end, size: (end - start) / count })
    }

    fn decoded(&self) -> Option<Message> {
        Message::from_vec(&self.bytes).ok()
    }
}

/// The records that answer the question, in their order, and the name at which the chain of aliases ends.
fn along_the_chain(records: Vec<Record>, asked: &Name, question: &Question) -> (Vec<Record>, Name) {
    let mut chain = vec![asked.clone()];
    while chain.len() <= MAX_ALIASES && question.rtype() != rtype::CNAME {
        let current = &chain[chain.len() - 1];
        let next = records.iter().find_map(|record| match &record.data {
            RData::CNAME(target) if record.name == *current => Some(target.0.clone()),
            _ => None,
        });
        match next {
            Some(next) if !chain.contains(&next) => chain.push(next),
            _ => break,
        }
    }
    let belongs = |record: &Record| {
        let rtype = record.record_type();
        if rtype == RecordType::Unknown(DNAME) {
            return chain.iter().any(|name| record.name.zone_of(name));
        }
        chain.contains(&record.name)
            && (question.wants(rtype.into()) || rtype == RecordType::CNAME || question.dnssec_ok() && is_proof(rtype))
            && record.dns_class == DNSClass::from(question.class())
    };
    let kept = records.into_iter().filter(belongs).map(|mut record| {
        // So that the client's casing shows in the owner, which is a pointer to the question.
        if record.name == *asked {
            record.name = asked.clone();
        }
        record
    });
    let kept = kept.collect();
    (kept, chain.pop().unwrap_or_else(|| asked.clone()))
}

const DNAME: u16 = 39;

fn is_proof(rtype: RecordType) -> bool {
    matches!(rtype, RecordType::RRSIG | RecordType::NSEC | RecordType::NSEC3)
}

fn ttl_of(ttl: u32) -> u32 {
    if ttl > MAX_TTL { 0 } else { ttl }
}

/// The places of the records of a message that was just encoded.
fn marks(bytes: &[u8], mut at: usize) -> Option<Box<[Mark]>> {
    let mut marks = Vec::new();
    let count = |at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
    for (section, count_at) in [(0, 6), (1, 8), (2, 10)] {
        for _ in 0..count(count_at)? {
            let fixed = skip_name(bytes, at)?;
            let length = usize::from(count(fixed + FIXED - 2)?);
            at = fixed + FIXED + length;
            let mark = Mark { ttl_at: u16::try_from(fixed + TTL_AT).ok()?, end: u16::try_from(at).ok()?, section };
            marks.push(mark);
        }
    }
    (at == bytes.len()).then(|| marks.into())
}

#[cfg(test)]
mod tests;
