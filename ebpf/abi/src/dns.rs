//! Cluster DNS in the kernel: DNS_SERVERS, DNS_ZONES, DNS_NAMES and DNS_COUNTS, and the parts of a reply as they stand on the
//! wire.
//!
//! A name is looked up as a whole; when it is not there, its parent is, and so on up to its zone. The first that is found
//! decides: the name itself, with what is known of it, or the closest name above, below which there is nothing more, or
//! something that only user space knows.

use crate::{Be16, Be32, Be128, checksum::Sum, map_type};

/// Octets of the longest name that the kernel answers for, in wire form with the root label.
pub const DNS_NAME_OCTETS: usize = 128;
/// Labels of such a name, without the root.
pub const DNS_NAME_LABELS: usize = 16;
/// Addresses of one family that a name may have, so that every reply fits into 512 octets.
pub const DNS_ADDRESSES: usize = 8;
/// Zones.
pub const MAX_DNS_ZONES: u32 = 8;
/// Addresses that queries are sent to.
pub const MAX_DNS_SERVERS: u32 = 16;
/// The port of all of them.
pub const DNS_PORT: Be16 = Be16::from_host(53);

pub const DNS_HEADER: usize = 12;
/// Octets of the question after its name.
pub const DNS_QUESTION_TAIL: usize = 4;

/// Key of DNS_SERVERS: where queries go, IPv4 mapped. The value is a `u32` and means nothing.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DnsServer {
    pub addr: Be128,
}
map_type!(DnsServer, 16);

/// Key of DNS_NAMES: a lower-cased name in wire form, padded with zeros.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DnsName(pub [u8; DNS_NAME_OCTETS]);
map_type!(DnsName, 128);

/// Value of DNS_NAMES: what there is at a name.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct DnsNode {
    pub flags: DnsNodeFlags,
    /// Index into DNS_ZONES.
    pub zone: u8,
    /// How many of `a` and `aaaa` there are. None: there are no records of that type.
    pub a_count: u8,
    pub aaaa_count: u8,
    pub a: [Be32; DNS_ADDRESSES],
    pub aaaa: [Be128; DNS_ADDRESSES],
}
map_type!(DnsNode, 164);

/// What the kernel leaves to user space.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct DnsNodeFlags(pub u8);

/// Value of DNS_ZONES. An element with an `origin` of 0 is not in use.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct DnsZone {
    /// In nanoseconds of CLOCK_MONOTONIC: from then on nobody knows whether this is still so, and the zone is left to user
    /// space.
    pub valid_until: u64,
    pub flags: DnsZoneFlags,
    /// Of the SOA record.
    pub serial: u32,
    /// Of all records, in seconds.
    pub ttl: u32,
    /// The largest message over UDP that the server offers to take.
    pub udp_size: u16,
    /// Octets of the zone's name.
    pub origin: u8,
    pub pad: u8,
}
map_type!(DnsZone, 24);

#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct DnsZoneFlags(pub u32);

impl DnsNodeFlags {
    /// Addresses of IPv4 are not listed here.
    pub const OTHER_A: u8 = 1;
    /// The same of IPv6.
    pub const OTHER_AAAA: u8 = 2;
    /// There may be names below that are not in the table.
    pub const OTHERS_BELOW: u8 = 4;

    #[inline(always)]
    pub const fn has(self, flag: u8) -> bool {
        self.0 & flag != 0
    }
}

impl DnsZoneFlags {
    /// All that there is in this zone is in DNS_NAMES, unless a node says otherwise: what is not there does not exist.
    pub const COMPLETE: u32 = 1;
    /// The server asks others for names that are not its own.
    pub const RECURSION: u32 = 2;

    #[inline(always)]
    pub const fn has(self, flag: u32) -> bool {
        self.0 & flag != 0
    }
}

impl DnsName {
    /// `None` for a name that the kernel does not take: too long, of too many labels, or the root.
    pub fn new(wire: &[u8]) -> Option<Self> {
        let labels = Labels(wire).count();
        let is_taken = (1..=DNS_NAME_LABELS).contains(&labels) && wire.last() == Some(&0);
        let mut name = Self([0; DNS_NAME_OCTETS]);
        name.0.get_mut(..wire.len()).filter(|_| is_taken)?.copy_from_slice(wire);
        Some(name)
    }
}

/// The labels of a name in wire form.
struct Labels<'a>(&'a [u8]);

impl<'a> Iterator for Labels<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (&length, rest) = self.0.split_first().filter(|(length, _)| **length != 0)?;
        let (label, rest) = rest.split_at_checked(length.into())?;
        self.0 = rest;
        Some(label)
    }
}

// === Octets, eight at a time ===

/// Lower-cases ASCII letters; all other octets stay.
#[inline(always)]
pub const fn lower_cased(octets: u64) -> u64 {
    const HIGH: u64 = each(0x80);
    let low = octets & !HIGH;
    // The high bit of each octet: at least `A`, and more than `Z`. Seven bits plus these do not carry into the next.
    let at_least = low + each(0x80 - b'A');
    let beyond = low + each(0x7f - b'Z');
    octets | ((at_least & !beyond & !octets & HIGH) >> 2)
}

const fn each(octet: u8) -> u64 {
    u64::from_ne_bytes([octet; 8])
}

/// The octets of the eight from `at` on that come before `end`; zeros instead of the others.
#[inline(always)]
pub const fn before(octets: u64, at: u32, end: u32) -> u64 {
    if at + 8 <= end {
        octets
    } else if at >= end {
        0
    } else {
        octets & (1_u64.unbounded_shl((end - at) * 8)).wrapping_sub(1)
    }
}

// === Parts of a message ===

/// Type A and AAAA, and class IN.
pub const DNS_A: Be16 = Be16::from_host(1);
pub const DNS_AAAA: Be16 = Be16::from_host(28);
pub const DNS_IN: Be16 = Be16::from_host(1);

/// The header of a message.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DnsHeader {
    pub id: u16,
    pub flags: [u8; 2],
    pub questions: Be16,
    pub answers: Be16,
    pub authorities: Be16,
    pub additionals: Be16,
}
const _: () = assert!(size_of::<DnsHeader>() == DNS_HEADER);

const QR: u8 = 0x80;
const OPCODE: u8 = 0x78;
const AA: u8 = 0x04;
const RD: u8 = 0x01;
const RA: u8 = 0x80;
const CD: u8 = 0x10;
const NXDOMAIN: u8 = 3;

impl DnsHeader {
    /// A standard query with one question, and at most one record besides.
    #[inline(always)]
    pub const fn is_query(&self) -> bool {
        let of_one_question = self.questions.0 == Be16::from_host(1).0 && self.answers.0 == 0 && self.authorities.0 == 0;
        self.flags[0] & (QR | OPCODE) == 0 && of_one_question && (self.additionals.0 == 0 || self.has_additional())
    }

    #[inline(always)]
    pub const fn has_additional(&self) -> bool {
        self.additionals.0 == Be16::from_host(1).0
    }

    /// The header of the reply to this query: whether the name exists, and how many records it has. Without any, there is the
    /// zone's SOA record instead. An OPT record is answered by one.
    #[inline(always)]
    pub const fn reply(self, zone: DnsZoneFlags, exists: bool, answers: u16) -> Self {
        let recursion = if zone.has(DnsZoneFlags::RECURSION) { RA } else { 0 };
        let rcode = if exists { 0 } else { NXDOMAIN };
        let authorities = if answers == 0 { 1 } else { 0 };
        Self {
            flags: [QR | AA | self.flags[0] & RD, recursion | self.flags[1] & CD | rcode],
            answers: Be16::from_host(answers),
            authorities: Be16::from_host(authorities),
            ..self
        }
    }

    #[inline(always)]
    pub const fn sum(&self) -> Sum {
        let Self { id, flags, questions, answers, authorities, additionals } = self;
        let words = [u16::from_ne_bytes(*flags), questions.0, answers.0, authorities.0, additionals.0];
        let mut sum = *id as u32;
        let mut at = 0;
        while at < words.len() {
            sum += words[at] as u32;
            at += 1;
        }
        Sum(sum)
    }
}

/// An OPT record without options (RFC 6891).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DnsOpt {
    pub name: u8,
    pub kind: [u8; 2],
    pub udp_size: [u8; 2],
    pub rcode: u8,
    pub version: u8,
    pub flags: [u8; 2],
    pub length: [u8; 2],
}
/// Octets of an OPT record without options.
pub const DNS_OPT: usize = 11;
const _: () = assert!(size_of::<DnsOpt>() == DNS_OPT);

const OPT: u16 = 41;
const DO: u8 = 0x80;

impl DnsOpt {
    /// Whether it is one, of the only version that there is.
    #[inline(always)]
    pub const fn is_known(&self) -> bool {
        self.name == 0 && u16::from_be_bytes(self.kind) == OPT && self.version == 0
    }

    /// What the server says in return.
    #[inline(always)]
    pub const fn reply(&self, udp_size: u16) -> Self {
        let flags = [self.flags[0] & DO, 0];
        Self { name: 0, kind: OPT.to_be_bytes(), udp_size: udp_size.to_be_bytes(), rcode: 0, version: 0, flags, length: [0; 2] }
    }

    #[inline(always)]
    pub const fn sum(&self) -> Sum {
        let [high, low] = self.udp_size;
        let [k, l] = self.kind;
        Sum(u32::from_ne_bytes([self.name, k, l, high]))
            .add(u32::from_ne_bytes([low, self.rcode, self.version, self.flags[0]]))
            .add(u32::from_ne_bytes([self.flags[1], self.length[0], self.length[1], 0]))
    }
}

/// An address record of the name that was asked, of `N` 16-bit words of address.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DnsRecord<const N: usize> {
    owner: Be16,
    kind: Be16,
    class: Be16,
    ttl: [Be16; 2],
    length: Be16,
    pub addr: [u16; N],
}
pub type DnsRecordA = DnsRecord<2>;
pub type DnsRecordAaaa = DnsRecord<8>;
const _: () = assert!(size_of::<DnsRecordA>() == 16 && size_of::<DnsRecordAaaa>() == 28);

/// A compression pointer to an offset of the message.
const fn pointer(offset: u16) -> Be16 {
    Be16::from_host(0xc000 | offset)
}

impl<const N: usize> DnsRecord<N> {
    #[inline(always)]
    pub const fn new(ttl: u32, addr: [u16; N]) -> Self {
        Self {
            owner: pointer(DNS_HEADER as u16),
            kind: if N == 2 { DNS_A } else { DNS_AAAA },
            class: DNS_IN,
            ttl: [Be16::from_host((ttl >> 16) as u16), Be16::from_host(ttl as u16)],
            length: Be16::from_host(2 * N as u16),
            addr,
        }
    }
}

/// The SOA record of a zone, and two octets that are not part of it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DnsSoa {
    owner: [u8; 2],
    kind_class: [u8; 4],
    ttl: [u8; 4],
    length: [u8; 2],
    nameserver: [u8; 7],
    nameserver_zone: [u8; 2],
    mailbox: [u8; 11],
    mailbox_zone: [u8; 2],
    serial: [u8; 4],
    refresh_retry_expire: [u8; 12],
    minimum: [u8; 4],
    pad: [u8; 2],
}
/// Octets of an SOA record.
pub const DNS_SOA: usize = 54;
const _: () = assert!(size_of::<DnsSoa>() == DNS_SOA + 2);

impl DnsSoa {
    /// Refresh, retry and expire: 7200, 1800 and 86400 seconds.
    const TIMES: [u8; 12] = [0, 0, 0x1c, 0x20, 0, 0, 7, 8, 0, 1, 0x51, 0x80];

    /// Of the zone whose name starts at `origin` of the message.
    #[inline(always)]
    pub const fn new(origin: u16, zone: &DnsZone) -> Self {
        let origin = pointer(origin).0.to_ne_bytes();
        let ttl = zone.ttl.to_be_bytes();
        Self {
            owner: origin,
            kind_class: [0, 6, 0, 1],
            ttl,
            length: [0, 42],
            nameserver: *b"\x02ns\x03dns",
            nameserver_zone: origin,
            mailbox: *b"\x0ahostmaster",
            mailbox_zone: origin,
            serial: zone.serial.to_be_bytes(),
            refresh_retry_expire: Self::TIMES,
            minimum: ttl,
            pad: [0; 2],
        }
    }
}

#[cfg(test)]
mod tests;
