//! A packet becomes a [`Query`], or a reason why it does not.
//!
//! This is the hot path, so it reads the little that an answer needs and copies only the name. Everything else that a
//! packet may hold (other records, EDNS options) is stepped over, with its bounds checked.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::name::MAX_NAME;

/// The largest UDP reply, whatever the client offers: it passes every link without fragments.
pub const MAX_UDP: usize = 1232;
/// Without EDNS (RFC 1035 section 4.2.1).
pub const PLAIN_UDP: usize = 512;
const MAX_TCP: usize = u16::MAX as usize;

pub const HEADER: usize = 12;

/// Record types that the zone serves or treats specially.
pub mod rtype {
    pub const A: u16 = 1;
    pub const NS: u16 = 2;
    pub const CNAME: u16 = 5;
    pub const SOA: u16 = 6;
    pub const PTR: u16 = 12;
    pub const TXT: u16 = 16;
    pub const AAAA: u16 = 28;
    pub const SRV: u16 = 33;
    pub const OPT: u16 = 41;
    pub const IXFR: u16 = 251;
    pub const AXFR: u16 = 252;
    pub const ANY: u16 = 255;
}

pub mod class {
    pub const IN: u16 = 1;
    pub const CHAOS: u16 = 3;
}

/// Response codes; those above 15 need EDNS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Rcode {
    NoError = 0,
    FormErr = 1,
    ServFail = 2,
    NxDomain = 3,
    NotImp = 4,
    Refused = 5,
    BadVers = 16,
}

/// How the query came, which bounds the size of the reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    Udp,
    Tcp,
}

/// What the client's OPT record says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Edns {
    /// Octets of UDP payload that the client can take, as it wrote it.
    pub udp_size: u16,
    pub version: u8,
    pub dnssec_ok: bool,
}

/// A name of the question, lower-cased.
#[derive(Clone)]
pub struct QueryName {
    bytes: [u8; MAX_NAME + 1],
    length: u8,
}

/// One question, ready to be answered.
#[derive(Clone)]
pub struct Query<'p> {
    packet: &'p [u8],
    question_end: usize,
    pub name: QueryName,
    pub rtype: u16,
    pub class: u16,
    pub edns: Option<Edns>,
    pub transport: Transport,
    /// Which record comes first, as a fraction of the set: 0 is the first, `u32::MAX` the last. See [`Rotation`].
    pub rotation: u32,
    /// The largest reply over UDP, in octets: [`MAX_UDP`], unless the operator chose another.
    pub max_udp: usize,
    /// This client may have whole zones.
    pub may_transfer: bool,
}

/// A sequence of rotations that spreads evenly over the sets that are asked, also over those that are asked only every
/// second or third time: clients ask for A and AAAA in turn, and a plain counter would give each of them one record only.
#[derive(Debug, Default)]
pub struct Rotation(AtomicU32);

/// Why a packet is no query.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Malformed {
    /// Not answered at all: too short for a header, or itself a reply (answering those would make loops).
    Drop,
    /// Answered with a bare header.
    Reply(Rcode),
}

// === impl Rotation ===

impl Rotation {
    /// 2^32 divided by the golden ratio: the multiples of an irrational number, and of any multiple of it, are spread evenly.
    const STEP: u32 = 0x9e37_79b9;

    pub fn next(&self) -> u32 {
        self.0.fetch_add(Self::STEP, Ordering::Relaxed)
    }
}

// === impl QueryName ===

impl QueryName {
    /// The whole name, lower-cased, with its root label.
    pub fn wire(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// Reads an uncompressed name at the start of `bytes`. A question has nothing before it to point to.
    fn read(bytes: &[u8]) -> Option<Self> {
        let mut name = Self { bytes: [0; MAX_NAME + 1], length: 0 };
        let mut at = 0;
        loop {
            let length = usize::from(*bytes.get(at)?);
            if length == 0 {
                break;
            }
            if length > 63 {
                return None;
            }
            at += length + 1;
            if at >= MAX_NAME {
                return None;
            }
        }
        let wire = bytes.get(..=at)?;
        name.bytes[..=at].copy_from_slice(wire);
        name.bytes[..=at].make_ascii_lowercase();
        name.length = (at + 1) as u8;
        Some(name)
    }
}

// === impl Query ===

impl<'p> Query<'p> {
    /// Reads a packet (without the length prefix that TCP adds).
    pub fn parse(packet: &'p [u8], transport: Transport) -> Result<Self, Malformed> {
        const FORMERR: Malformed = Malformed::Reply(Rcode::FormErr);
        let Some(header) = packet.get(..HEADER) else { return Err(Malformed::Drop) };
        if header[2] & 0x80 != 0 {
            return Err(Malformed::Drop);
        }
        if (header[2] >> 3) & 15 != 0 {
            return Err(Malformed::Reply(Rcode::NotImp));
        }
        if be16(packet, 4) != Some(1) {
            return Err(FORMERR);
        }
        let name = QueryName::read(&packet[HEADER..]).ok_or(FORMERR)?;
        let end = HEADER + usize::from(name.length);
        let (Some(rtype), Some(class)) = (be16(packet, end), be16(packet, end + 2)) else { return Err(FORMERR) };
        let question_end = end + 4;
        let before = [6, 8].into_iter().map(|at| usize::from(be16(packet, at).unwrap_or(0))).sum();
        let additional = usize::from(be16(packet, 10).unwrap_or(0));
        let edns = read_edns(packet, question_end, before, additional).ok_or(FORMERR)?;
        Ok(Self {
            packet,
            question_end,
            name,
            rtype,
            class,
            edns,
            transport,
            rotation: 0,
            max_udp: MAX_UDP,
            may_transfer: false,
        })
    }

    /// The packet as it came.
    pub fn packet(&self) -> &'p [u8] {
        self.packet
    }

    /// Name, type and class with the client's own casing.
    pub fn question(&self) -> &'p [u8] {
        &self.packet[HEADER..self.question_end]
    }

    /// The same with replies over UDP of at most so many octets; between 512 and [`MAX_UDP`], whatever is asked for.
    pub fn bounded(self, max_udp: usize) -> Self {
        Self { max_udp: max_udp.clamp(PLAIN_UDP, MAX_UDP), ..self }
    }

    /// The largest reply that this client takes, in octets.
    pub fn limit(&self) -> usize {
        match (self.transport, self.edns) {
            (Transport::Tcp, _) => MAX_TCP,
            (Transport::Udp, None) => PLAIN_UDP.min(self.max_udp),
            (Transport::Udp, Some(edns)) => usize::from(edns.udp_size).max(PLAIN_UDP).min(self.max_udp),
        }
    }
}

/// Steps over the records after the question and reads the OPT record, if there is one. The outer `None`: malformed.
fn read_edns(packet: &[u8], mut at: usize, before: usize, additional: usize) -> Option<Option<Edns>> {
    let mut edns = None;
    for index in 0..before + additional {
        let start = at;
        at = skip_name(packet, at)?;
        let (rtype, class, length) = (be16(packet, at)?, be16(packet, at + 2)?, usize::from(be16(packet, at + 8)?));
        let ttl = packet.get(at + 4..at + 8)?;
        if rtype == rtype::OPT && index >= before {
            if edns.is_some() || packet[start] != 0 {
                return None;
            }
            edns = Some(Edns { udp_size: class, version: ttl[1], dnssec_ok: ttl[2] & 0x80 != 0 });
        }
        at += 10 + length;
        if at > packet.len() {
            return None;
        }
    }
    Some(edns)
}

/// The place after a name that may end in a compression pointer.
pub(crate) fn skip_name(packet: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *packet.get(at)? {
            0 => return Some(at + 1),
            length @ 1..=63 => at += usize::from(length) + 1,
            192.. => return Some(at + 2),
            64..192 => return None,
        }
    }
}

pub(crate) fn be16(packet: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(packet.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests;
