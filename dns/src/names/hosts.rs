//! Names with fixed addresses: those of the Corefile, and those of a hosts file.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;

use hickory_proto::op::{Message, OpCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{RData, Record};

use crate::corefile::{Fallthrough, Hosts};
use crate::forward::{Question, Reply, decode_name};
use crate::name::{self, WireName};
use crate::query::{Query, Rcode, Transport, class, rtype};

const AUTHORITATIVE: u8 = 4;

pub struct HostTable {
    zones: Vec<WireName>,
    fallthrough: Fallthrough,
    ttl: u32,
    addresses: HashMap<WireName, Vec<IpAddr>>,
    /// By the reverse name of the address.
    pointers: HashMap<WireName, Vec<WireName>>,
}

// === impl HostTable ===

impl HostTable {
    /// `zones` are those of the block.
    pub fn new(hosts: &Hosts, zones: &[WireName], read: &dyn Fn(&Path) -> Option<String>) -> Self {
        let zones = if hosts.zones.is_empty() { zones } else { &hosts.zones }.to_vec();
        let (fallthrough, ttl) = (hosts.fallthrough.clone(), hosts.ttl);
        let mut table = Self { zones, fallthrough, ttl, addresses: HashMap::new(), pointers: HashMap::new() };
        let text = hosts.file.as_deref().and_then(read).unwrap_or_default();
        let of_file = text.lines().filter_map(line);
        for (address, names) in of_file.chain(hosts.inline.iter().cloned()) {
            for name in names {
                if !within(&name, &table.zones) {
                    continue;
                }
                if hosts.reverse {
                    push(table.pointers.entry(name::reverse(address)).or_default(), name.clone());
                }
                push(table.addresses.entry(name).or_default(), address);
            }
        }
        table
    }

    /// Writes the answer; false: others are to be asked. A name that is not here and is not passed on is SERVFAIL, as in
    /// CoreDNS: without an SOA there is no way to say that it does not exist.
    pub fn answer(&self, query: &Query<'_>, out: &mut Vec<u8>) -> bool {
        let name = query.name.wire();
        // Whose zone is whose does not matter for the names of addresses.
        if query.class != class::IN || !within(name, &self.zones) && query.rtype != rtype::PTR {
            return false;
        }
        let known = self.addresses.contains_key(name) || self.pointers.contains_key(name);
        if !known && (self.passes_on(name) || !within(name, &self.zones)) {
            return false;
        }
        let question = Question::of(query);
        let reply = match known {
            true => self.reply(&question),
            false => Some(Reply::bare(Rcode::ServFail as u8, &question)),
        };
        let Some(reply) = reply else { return false };
        reply.write(query, None, query.limit(), out);
        if known {
            out[2] |= AUTHORITATIVE;
        }
        debug_assert!(query.transport == Transport::Tcp || out.len() <= query.limit());
        true
    }

    fn reply(&self, question: &Question) -> Option<Reply> {
        let owner = decode_name(question.name())?;
        let addresses = self.addresses.get(question.name()).into_iter().flatten().filter_map(|address| match address {
            IpAddr::V4(ip) if question.wants(rtype::A) => Some(RData::A(A(*ip))),
            IpAddr::V6(ip) if question.wants(rtype::AAAA) => Some(RData::AAAA(AAAA(*ip))),
            _ => None,
        });
        let pointers = self.pointers.get(question.name()).into_iter().flatten();
        let pointers =
            pointers.filter(|_| question.wants(rtype::PTR)).filter_map(|name| Some(RData::PTR(PTR(decode_name(name)?))));
        let mut message = Message::response(0, OpCode::Query);
        message.add_answers(addresses.chain(pointers).map(|data| Record::from_rdata(owner.clone(), self.ttl, data)));
        Reply::take(message, question)
    }

    fn passes_on(&self, name: &[u8]) -> bool {
        match &self.fallthrough {
            Fallthrough::Never => false,
            Fallthrough::Always => true,
            Fallthrough::Zones(zones) => within(name, zones),
        }
    }
}

/// A line of a hosts file; what is none is passed over, as libc does.
fn line(text: &str) -> Option<(IpAddr, Vec<WireName>)> {
    let mut words = text.split('#').next()?.split_whitespace();
    let address = words.next()?.parse().ok()?;
    Some((address, words.filter_map(name::encode).collect()))
}

fn within(name: &[u8], zones: &[WireName]) -> bool {
    zones.iter().any(|zone| name::is_within(name, zone))
}

fn push<T: PartialEq>(all: &mut Vec<T>, one: T) {
    if !all.contains(&one) {
        all.push(one);
    }
}
