//! The records of each kind of name, written into a reply.

use std::net::IpAddr;

use thalweg_cluster::Family;

use super::{NAMESERVER, Outcome, Reply, Section};
use crate::query::rtype;
use crate::zone::{
    Address, Entry, FIXED, Found, Group, Host, Kind, Port, Realm, SERVICES, Segment, end_record, pointer, push_address,
    push_dashed, push_head, push_record,
};

/// What a compression pointer can reach.
const MAX_POINTER: usize = 0x3fff;
/// Octets of an SRV record's data before the target's name.
const SRV_TARGET: usize = 6;
/// The whole of the weights of an SRV answer.
const SRV_WEIGHT: usize = 100;
/// Version of the DNS-based service discovery specification that the zone follows, and how long it is believed, in seconds.
const SCHEMA: &[u8] = b"\x051.1.0";
const SCHEMA_TTL: u32 = 28_800;
/// RFC 8482: the first of these that there is, is enough of an answer to ANY.
const INSTEAD_OF_ANY: [u16; 8] =
    [rtype::A, rtype::AAAA, rtype::CNAME, rtype::SRV, rtype::PTR, rtype::TXT, rtype::SOA, rtype::NS];

/// What one SRV answer is about.
#[derive(Clone, Copy)]
struct Services<'e> {
    service: &'e Entry,
    /// `None`: all ports.
    port: Option<Port<'e>>,
    /// The zone of the targets, in wire form.
    origin: &'e [u8],
    owner: u16,
    ttl: u32,
    weight: u16,
}

// === impl Reply ===

impl<'a> Reply<'a, '_> {
    /// Writes the records of the asked type; `None` when there are none. The name that was found stands at `at`.
    pub(super) fn records(&mut self, found: Found<'a>, realm: Realm, at: usize) -> Option<Outcome> {
        match self.query.rtype {
            rtype::ANY => INSTEAD_OF_ANY.into_iter().find_map(|rtype| self.set(rtype, found, realm, at)),
            rtype => self.set(rtype, found, realm, at),
        }
    }

    fn set(&mut self, rtype: u16, found: Found<'a>, realm: Realm, at: usize) -> Option<Outcome> {
        let (owner, ttl) = (pointer(at), self.zone.apex.ttl);
        match (rtype, found) {
            (rtype::A | rtype::AAAA, found) => {
                let family = if rtype == rtype::A { Family::V4 } else { Family::V6 };
                match found {
                    Found::Service(service) => match service.front() {
                        Some(front) => self.addresses(owner, front.of(family), |_| true),
                        None => {
                            let segments = service.endpoints().flat_map(move |group| group.of(family));
                            self.addresses(owner, segments, |address| !address.repeats_address)
                        }
                    },
                    Found::Host(host) => {
                        self.addresses(owner, host.segments.into_iter().filter(move |at| at.family == family), |_| true)
                    }
                    Found::Pod(ip) if ip.is_ipv4() == (family == Family::V4) => {
                        self.address(owner, ip, Section::Answer);
                        Some(Outcome::Answer)
                    }
                    Found::Nameserver => self.nameserver(owner, family),
                    _ => None,
                }
            }
            (rtype::SRV, Found::Service(service)) => self.services(service, None, realm, owner),
            (rtype::SRV, Found::Port(service, port)) => self.services(service, Some(port), realm, owner),
            (rtype::SRV, Found::Host(host)) => self.host_services(host, realm, owner),
            (rtype::PTR, Found::Pointer(ip)) => Some(self.pointers(owner, ip)),
            (rtype::CNAME, found) => {
                found.target().map(|target| self.whole(|out| push_record(out, owner, rtype::CNAME, ttl, target)))
            }
            (rtype::TXT, Found::Version) => Some(self.whole(|out| push_record(out, owner, rtype::TXT, SCHEMA_TTL, SCHEMA))),
            (rtype::SOA, Found::Apex) => {
                self.soa(Section::Answer, realm, at);
                Some(Outcome::Answer)
            }
            (rtype::NS, Found::Apex) => Some(self.nameservers(owner)),
            _ => None,
        }
    }

    /// Appends one record to the answer section.
    fn whole(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Outcome {
        let start = self.out.len();
        write(self.out);
        if self.keep(start, Section::Answer) {
            return Outcome::Answer;
        }
        self.truncated = true;
        Outcome::Truncated
    }

    /// Addresses, starting with the one whose turn it is.
    fn addresses<'e>(
        &mut self,
        owner: u16,
        segments: impl Iterator<Item = Segment<'e>> + Clone,
        wanted: impl Fn(&Address<'e>) -> bool,
    ) -> Option<Outcome> {
        let first = self.first(count(segments.clone()))?;
        // Not `rotated`, which is slower: this is what nearly all queries ask for.
        for (low, high) in [(first, usize::MAX), (0, first)] {
            if low == high {
                break;
            }
            let mut end = 0;
            for segment in segments.clone() {
                let start = end;
                end += segment.len();
                for index in low.clamp(start, end) - start..high.clamp(start, end) - start {
                    let address = segment.get(index);
                    if wanted(&address) && !self.octets(owner, address.octets, Section::Answer) {
                        self.truncated = true;
                        return Some(Outcome::Truncated);
                    }
                }
            }
        }
        Some(Outcome::Answer)
    }

    /// False when it does not fit.
    fn address(&mut self, owner: u16, ip: IpAddr, section: Section) -> bool {
        match ip {
            IpAddr::V4(ip) => self.octets(owner, &ip.octets(), section),
            IpAddr::V6(ip) => self.octets(owner, &ip.octets(), section),
        }
    }

    fn octets(&mut self, owner: u16, octets: &[u8], section: Section) -> bool {
        let start = self.out.len();
        push_address(self.out, owner, self.zone.apex.ttl, octets);
        self.keep(start, section)
    }

    /// The addresses of the zone's own name server.
    fn nameserver(&mut self, owner: u16, family: Family) -> Option<Outcome> {
        let mut outcome = None;
        let all = self.zone.nameservers().iter().filter(|ip| ip.is_ipv4() == (family == Family::V4));
        for &ip in all {
            outcome = Some(Outcome::Answer);
            if !self.address(owner, ip, Section::Answer) {
                self.truncated = true;
                return Some(Outcome::Truncated);
            }
        }
        outcome
    }

    /// NS of a zone whose name `owner` points to.
    fn nameservers(&mut self, owner: u16) -> Outcome {
        let target = self.out.len() + FIXED;
        let ttl = self.zone.apex.ttl;
        let outcome = self.whole(|out| {
            push_head(out, owner, rtype::NS, ttl, (NAMESERVER.len() + 2) as u16);
            out.extend_from_slice(NAMESERVER);
            out.extend_from_slice(&owner.to_be_bytes());
        });
        if outcome == Outcome::Answer {
            let _all = self.zone.nameservers().iter().all(|&ip| self.address(pointer(target), ip, Section::Additional));
        }
        outcome
    }

    /// The names of an address: that of a cluster IP hides those of endpoints that have the same.
    fn pointers(&mut self, owner: u16, ip: IpAddr) -> Outcome {
        let (zone, origin) = (self.zone, &*self.zone.apex.origins[0]);
        let mut outcome = Outcome::Answer;
        let mut add = |service: &Entry, label: &dyn Fn(&mut Vec<u8>)| {
            if outcome == Outcome::Answer {
                outcome = self.whole(|out| {
                    let start = out.len();
                    push_head(out, owner, rtype::PTR, zone.apex.ttl, 0);
                    label(out);
                    push_service(out, service, origin);
                    end_record(out, start);
                });
            }
        };
        let mut hidden = false;
        for service in zone.candidates(ip) {
            if service.front().is_some_and(|front| front.plain(ip).is_some()) {
                hidden = true;
                add(service, &|_| {});
            }
        }
        if hidden {
            return outcome;
        }
        for service in zone.candidates(ip) {
            for group in service.endpoints() {
                if group.plain(ip).is_some() {
                    add(service, &|out| push_dashed(out, ip));
                }
                group.labels_of(ip).for_each(|label| add(service, &|out| push_label(out, label)));
            }
        }
        outcome
    }

    /// SRV of a service, or of one of its ports.
    fn services(&mut self, service: &'a Entry, port: Option<Port<'a>>, realm: Realm, owner: u16) -> Option<Outcome> {
        let services = Services { service, port, origin: self.origin(realm), owner, ttl: self.zone.apex.ttl, weight: 0 };
        match service.kind() {
            Kind::ClusterIp => self.front_services(services, service.front()?),
            _ => self.endpoint_services(services, service.endpoints().flat_map(Group::segments)),
        }
    }

    fn host_services(&mut self, host: Host<'a>, realm: Realm, owner: u16) -> Option<Outcome> {
        let (service, origin, ttl) = (host.service, self.origin(realm), self.zone.apex.ttl);
        let services = Services { service, port: None, origin, owner, ttl, weight: 0 };
        self.endpoint_services(services, host.segments.into_iter())
    }

    /// The zone that targets are in: the one that was asked.
    fn origin(&self, realm: Realm) -> &'a [u8] {
        match realm {
            Realm::Cluster { zone, .. } => &self.zone.apex.origins[zone],
            _ => &self.zone.apex.origins[0],
        }
    }

    /// All ports at the service itself.
    fn front_services(&mut self, services: Services<'_>, front: Group<'_>) -> Option<Outcome> {
        let addresses = count(front.segments());
        let services = services.weighed(services.ports(front).count() * addresses)?;
        let target = self.out.len() + FIXED + SRV_TARGET;
        for port in services.numbers(front) {
            if self.whole(|out| services.push(out, port, |_| {})) == Outcome::Truncated {
                return Some(Outcome::Truncated);
            }
        }
        self.glue(front.segments(), target);
        Some(Outcome::Answer)
    }

    /// Each port of each endpoint, starting with the endpoint whose turn it is, and then the addresses of all of them.
    fn endpoint_services<'e>(
        &mut self,
        services: Services<'_>,
        segments: impl Iterator<Item = Segment<'e>> + Clone,
    ) -> Option<Outcome> {
        let records = segments.clone().map(|segment| segment.len() * services.ports(segment.group).count());
        let services = services.weighed(records.sum())?;
        let first = self.first(count(segments.clone()))?;
        let endpoints = rotated(segments, first).map(|(segment, index)| (segment, segment.get(index)));
        let endpoints = endpoints.filter(|(_, address)| !address.repeats_label);
        let mut at = self.out.len();
        for (segment, address) in endpoints.clone() {
            for port in services.numbers(segment.group) {
                let outcome = self.whole(|out| services.push(out, port, |out| push_endpoint(out, &address)));
                if outcome == Outcome::Truncated {
                    return Some(outcome);
                }
            }
        }
        for (segment, address) in endpoints {
            let ports = services.numbers(segment.group).count();
            if ports == 0 {
                continue;
            }
            let target = at + FIXED + SRV_TARGET;
            let more = match address.label {
                Some(label) => segment.group.named(label).into_iter().all(|named| self.glue([named].into_iter(), target)),
                None => target <= MAX_POINTER && self.octets(pointer(target), address.octets, Section::Additional),
            };
            if !more {
                break;
            }
            let length = usize::from(u16::from_be_bytes([self.out[at + FIXED - 2], self.out[at + FIXED - 1]]));
            at += ports * (FIXED + length);
        }
        Some(Outcome::Answer)
    }

    /// Adds the addresses of the name that stands at `target`. What does not fit is left out: the client can ask. False then.
    fn glue<'e>(&mut self, mut segments: impl Iterator<Item = Segment<'e>>, target: usize) -> bool {
        target <= MAX_POINTER
            && segments.all(|segment| {
                (0..segment.len()).all(|index| self.octets(pointer(target), segment.get(index).octets, Section::Additional))
            })
    }

    /// Whose turn it is; `None` when there is none.
    fn first(&self, count: usize) -> Option<usize> {
        (count > 0).then(|| ((u64::from(self.query.rotation) * count as u64) >> 32) as usize)
    }
}

// === impl Services ===

impl<'e> Services<'e> {
    fn ports(self, group: Group<'_>) -> impl Iterator<Item = Port<'_>> + Clone {
        group
            .ports()
            .filter(move |port| self.port.is_none_or(|wanted| (port.protocol, port.name) == (wanted.protocol, wanted.name)))
    }

    /// The numbers of those ports, each once: they come in order.
    fn numbers(self, group: Group<'_>) -> impl Iterator<Item = u16> + Clone {
        let mut last = None;
        self.ports(group).filter(move |port| last.replace(port.number) != Some(port.number)).map(|port| port.number)
    }

    /// Shares the weight among the addresses of all ports; `None` when there are none.
    fn weighed(self, records: usize) -> Option<Self> {
        (records > 0).then(|| Self { weight: (SRV_WEIGHT / records).max(1) as u16, ..self })
    }

    fn push(self, out: &mut Vec<u8>, port: u16, label: impl FnOnce(&mut Vec<u8>)) {
        let start = out.len();
        push_head(out, self.owner, rtype::SRV, self.ttl, 0);
        for number in [0, self.weight, port] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        label(out);
        push_service(out, self.service, self.origin);
        end_record(out, start);
    }
}

/// The name of a service, uncompressed: not every client expects a pointer there.
fn push_service(out: &mut Vec<u8>, service: &Entry, origin: &[u8]) {
    for part in [service.key(), SERVICES, origin] {
        out.extend_from_slice(part);
    }
}

/// The label of an endpoint.
fn push_endpoint(out: &mut Vec<u8>, address: &Address<'_>) {
    match address.label {
        Some(label) => push_label(out, label),
        None => push_dashed(out, address.ip()),
    }
}

fn push_label(out: &mut Vec<u8>, label: &[u8]) {
    out.push(label.len() as u8);
    out.extend_from_slice(label);
}

fn count<'e>(segments: impl Iterator<Item = Segment<'e>>) -> usize {
    segments.map(|segment| segment.len()).sum()
}

/// All addresses with their places, from `first` on and around.
fn rotated<'e>(
    segments: impl Iterator<Item = Segment<'e>> + Clone,
    first: usize,
) -> impl Iterator<Item = (Segment<'e>, usize)> + Clone {
    between(segments.clone(), first, usize::MAX).chain(between(segments, 0, first))
}

fn between<'e>(
    segments: impl Iterator<Item = Segment<'e>> + Clone,
    low: usize,
    high: usize,
) -> impl Iterator<Item = (Segment<'e>, usize)> + Clone {
    let mut end = 0;
    segments.flat_map(move |segment| {
        let start = end;
        end += segment.len();
        (low.clamp(start, end) - start..high.clamp(start, end) - start).map(move |index| (segment, index))
    })
}
