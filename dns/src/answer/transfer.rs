//! A whole zone (AXFR, RFC 5936): every record that the zone would answer, in as many messages as that takes.

use std::collections::BTreeSet;

use super::{Reply, Section};
use crate::query::{HEADER, Query, Transport, rtype};
use crate::zone::{Entry, FIXED, Realm, SERVICES, Zone, pointer, push_dashed};

/// A message is not made longer by another record beyond this, in octets.
const ENOUGH: usize = 16_000;
/// What one name may have.
const TYPES: [u16; 7] = [rtype::NS, rtype::A, rtype::AAAA, rtype::CNAME, rtype::SRV, rtype::PTR, rtype::TXT];

/// The messages of a transfer.
struct Messages<R: Iterator> {
    /// Header and question, as a reply.
    head: Vec<u8>,
    records: std::iter::Peekable<R>,
}

/// The messages that answer a query for a whole zone, after [`super::Outcome::Transfer`]: the SOA, every other record, and the
/// SOA again. Each is a whole message for TCP, without the length before it.
pub fn transfer<'z>(query: &Query<'z>, zone: &'z Zone) -> impl Iterator<Item = Vec<u8>> + use<'z> {
    let name = query.name.wire().to_vec();
    let mut head = query.packet()[..HEADER].to_vec();
    (head[2], head[3]) = (0x84 | head[2] & 1, 0);
    head[6..HEADER].fill(0);
    head.extend_from_slice(query.question());
    let own = [&b""[..], b"\x02ns\x03dns", b"\x0bdns-version"].map(<[u8]>::to_vec).into_iter();
    let names = own.chain(zone.entries().flat_map(names));
    let apex = name.clone();
    let records = names.flat_map(move |relative| records(zone, &relative, &apex, &TYPES));
    let soa = records_of_soa(zone, &name);
    let records = soa.clone().into_iter().chain(records).chain(soa);
    Messages { head, records: records.peekable() }
}

fn records_of_soa(zone: &Zone, apex: &[u8]) -> Vec<Vec<u8>> {
    records(zone, b"", apex, &[rtype::SOA])
}

/// The names of a service, relative to the zone.
fn names(entry: &Entry) -> BTreeSet<Vec<u8>> {
    let base = [entry.key(), SERVICES].concat();
    let mut names = BTreeSet::new();
    for segment in entry.endpoints().flat_map(|group| group.segments()) {
        for address in (0..segment.len()).map(|at| segment.get(at)).filter(|address| !address.repeats_label) {
            let mut name = Vec::new();
            match address.label {
                Some(label) => push_label(&mut name, b"", label),
                None => push_dashed(&mut name, address.ip()),
            }
            names.insert([&name, &*base].concat());
        }
    }
    for port in entry.subject().flat_map(|group| group.ports()).filter(|port| !port.name.is_empty()) {
        let mut name = Vec::new();
        push_label(&mut name, b"_", port.name);
        push_label(&mut name, b"", port.protocol_label());
        names.insert([&name, &*base].concat());
    }
    names.insert(base);
    names
}

fn push_label(name: &mut Vec<u8>, before: &[u8], label: &[u8]) {
    name.push((before.len() + label.len()) as u8);
    name.extend_from_slice(before);
    name.extend_from_slice(label);
}

/// The records of a name, as the zone answers them; their owners end in a pointer to the question, which is the zone.
fn records(zone: &Zone, relative: &[u8], apex: &[u8], types: &[u16]) -> Vec<Vec<u8>> {
    let mut packet = vec![0; HEADER];
    packet[5] = 1;
    packet.extend_from_slice(relative);
    packet.extend_from_slice(apex);
    packet.extend_from_slice(&[0, 0, 0, 1]);
    let rtype_at = packet.len() - 4;
    let mut all = Vec::new();
    for &rtype in types {
        packet[rtype_at..rtype_at + 2].copy_from_slice(&rtype.to_be_bytes());
        // The names of the zone all fit into a question.
        let Ok(query) = Query::parse(&packet, Transport::Tcp) else { continue };
        let name = query.name.wire();
        let realm = zone.realm(name);
        // Where the name is of a zone inside of this one, it is that zone's.
        if !matches!(realm, Realm::Cluster { offset, .. } if offset == relative.len()) {
            continue;
        }
        let mut out = Vec::new();
        let mut reply = Reply::begin(&query, zone, &mut out);
        // It is split afterwards.
        reply.limit = usize::MAX;
        reply.records(zone.find_in(realm, name), realm, HEADER);
        let (mut at, count) = (HEADER + query.question().len(), reply.counts[Section::Answer as usize]);
        for _ in 0..count {
            let end = at + FIXED + usize::from(u16::from_be_bytes([out[at + FIXED - 2], out[at + FIXED - 1]]));
            let owner = [relative, &pointer(HEADER).to_be_bytes()].concat();
            all.push([&owner, &out[at + 2..end]].concat());
            at = end;
        }
    }
    all
}

// === impl Messages ===

impl<R: Iterator<Item = Vec<u8>>> Iterator for Messages<R> {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        self.records.peek()?;
        let (mut message, mut count) = (self.head.clone(), 0u16);
        while let Some(record) = self.records.next_if(|record| count == 0 || message.len() + record.len() <= ENOUGH) {
            message.extend_from_slice(&record);
            count += 1;
        }
        message[6..8].copy_from_slice(&count.to_be_bytes());
        Some(message)
    }
}
