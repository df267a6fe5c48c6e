//! From a name to what is there: whose name it is, and what of the cluster it means.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use thalweg_cluster::{Family, Protocol};

use super::config::PodMode;
use super::entry::{Entry, Kind, Port, Segment};
use super::{Zone, is_dashed, parse_dashed};
use crate::name;

/// Whose name it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Realm {
    /// In a zone of the cluster: the one with this index, which starts at this offset of the name.
    Cluster {
        zone: usize,
        offset: usize,
    },
    /// In a reverse zone of ours.
    Reverse {
        offset: usize,
        spells: Spelled,
    },
    Outside,
}

/// What the labels of a reverse name spell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Spelled {
    Address(IpAddr),
    /// The start of addresses.
    Range,
    Nothing,
}

/// What is at a name of ours.
#[derive(Clone, Copy, Debug)]
pub enum Found<'z> {
    /// The zone itself.
    Apex,
    /// `ns.dns.<zone>`.
    Nameserver,
    /// `dns-version.<zone>`.
    Version,
    /// Only names below it have records.
    Between,
    /// Part of an address: that there is nothing below is not known.
    Range,
    /// A service that has addresses, or is an alias.
    Service(&'z Entry),
    /// An endpoint, or several of one name.
    Host(Host<'z>),
    /// A named port of a service.
    Port(&'z Entry, Port<'z>),
    Pod(IpAddr),
    /// An address that services have.
    Pointer(IpAddr),
    Nothing,
}

/// The addresses of one name below a service.
#[derive(Clone, Copy, Debug)]
pub struct Host<'z> {
    pub service: &'z Entry,
    pub segments: [Segment<'z>; 2],
}

/// Labels of a name below its zone: those that mean something are no more.
const MAX_LABELS: usize = 5;
/// Labels of an address of IPv6.
const MAX_NIBBLES: usize = 32;

// === impl Found ===

impl<'z> Found<'z> {
    /// Where an alias points.
    pub fn target(self) -> Option<&'z [u8]> {
        match self {
            Self::Service(entry) => entry.target(),
            _ => None,
        }
    }
}

// === impl Zone ===

impl Zone {
    /// Whose name a lower-cased wire name is.
    pub fn realm(&self, name: &[u8]) -> Realm {
        if self.apex.is_elsewhere(name) {
            return Realm::Outside;
        }
        // A zone may be inside of another: the longer one is meant.
        let origins = self.apex.origins.iter().enumerate();
        let ours = origins.filter_map(|(zone, origin)| name::offset_of(name, origin).map(|offset| (offset, zone)));
        if let Some((offset, zone)) = ours.min() {
            return Realm::Cluster { zone, offset };
        }
        for (family, suffix) in [(Family::V4, name::REVERSE_V4), (Family::V6, name::REVERSE_V6)] {
            if let Some(end) = name::offset_of(name, suffix) {
                return self.reverse_realm(name, end, family);
            }
        }
        Realm::Outside
    }

    /// What is at a lower-cased wire name.
    pub fn find(&self, name: &[u8]) -> Found<'_> {
        self.find_in(self.realm(name), name)
    }

    /// The same for a name whose realm is known.
    pub fn find_in(&self, realm: Realm, name: &[u8]) -> Found<'_> {
        match realm {
            Realm::Cluster { offset, .. } => self.find_in_cluster(&name[..offset]),
            Realm::Reverse { offset, spells } => self.find_reverse(&name[..offset], spells),
            Realm::Outside => Found::Nothing,
        }
    }

    /// `relative`: labels before the zone.
    fn find_in_cluster(&self, relative: &[u8]) -> Found<'_> {
        let mut starts = [0; MAX_LABELS];
        let Some(count) = label_starts(relative, &mut starts) else { return Found::Nothing };
        let label = |index: usize| name::first_label(&relative[starts[index]..]);
        // The branch that the name is in, and the labels before it.
        let Some(above) = count.checked_sub(1) else { return Found::Apex };
        let services = match label(above) {
            b"svc" => true,
            b"pod" => false,
            _ => return special(relative),
        };
        let key = |from: usize| &relative[starts[from]..starts[above]];
        match (above, services) {
            (0, _) => Found::Between,
            (1, true) => self.entry(key(0)).map_or(Found::Nothing, |_| Found::Between),
            (1, false) if self.apex.pods == PodMode::Disabled => Found::Nothing,
            (1, false) => self.entry(key(0)).map_or(Found::Nothing, |_| Found::Between),
            (2, true) => self.service(key(0)).map_or(Found::Nothing, Found::Service),
            (2, false) => self.find_pod(label(0), key(1)),
            (3, true) => self.service(key(1)).map_or(Found::Nothing, |service| find_host(service, label(0))),
            (4, true) => self.service(key(2)).map_or(Found::Nothing, |service| find_port(service, label(0), label(1))),
            _ => Found::Nothing,
        }
    }

    fn service(&self, key: &[u8]) -> Option<&Entry> {
        self.entry(key).filter(|entry| entry.kind() != Kind::Bare)
    }

    fn find_pod(&self, label: &[u8], namespace: &[u8]) -> Found<'_> {
        let Some(ip) = parse_dashed(label) else { return Found::Nothing };
        let there = match self.apex.pods {
            PodMode::Disabled => false,
            PodMode::Insecure => self.entry(namespace).is_some(),
            PodMode::Verified => {
                self.pods_of(ip).any(|pod| pod.namespace.as_bytes().eq_ignore_ascii_case(name::first_label(namespace)))
            }
        };
        if there { Found::Pod(ip) } else { Found::Nothing }
    }

    fn find_reverse(&self, relative: &[u8], spells: Spelled) -> Found<'_> {
        match spells {
            Spelled::Address(ip) if self.services_of(ip).next().is_some() => Found::Pointer(ip),
            _ if relative.is_empty() => Found::Apex,
            Spelled::Range => Found::Range,
            _ => special(relative),
        }
    }

    /// `end`: where in-addr.arpa or ip6.arpa starts.
    fn reverse_realm(&self, name: &[u8], end: usize, family: Family) -> Realm {
        let mut starts = [0; MAX_NIBBLES];
        let width = if family == Family::V4 { 8 } else { 4 };
        let whole = if family == Family::V4 { 4 } else { MAX_NIBBLES };
        // More labels than an address has: the last ones tell the range, and the whole is no address.
        let mut rest = &name[..end];
        let mut skipped = 0;
        let count = loop {
            match label_starts(rest, &mut starts[..whole]) {
                Some(count) => break count,
                None => {
                    skipped += 1 + usize::from(rest[0]);
                    rest = &name[skipped..end];
                }
            }
        };
        let numbers = |labels: usize| -> Option<u128> {
            let parts = starts[count - labels..count].iter().rev();
            let parts = parts.map(|&start| number(name::first_label(&rest[start..]), family));
            parts.enumerate().try_fold(0, |bits, (at, part)| Some(bits | u128::from(part?) << (128 - width * (at + 1))))
        };
        let ours = self.apex.reverse.iter().filter_map(|range| {
            let labels = usize::from(range.prefix()).div_ceil(width);
            (labels <= count && range.is_ipv4() == (family == Family::V4)).then_some(())?;
            contains(range, numbers(labels)?).then_some(labels)
        });
        let Some(labels) = ours.max() else { return Realm::Outside };
        let offset = if labels == 0 { end } else { skipped + starts[count - labels] };
        let spells = match numbers(count).filter(|_| skipped == 0) {
            Some(bits) if count == whole => Spelled::Address(from_bits(family, bits)),
            Some(_) => Spelled::Range,
            None => Spelled::Nothing,
        };
        Realm::Reverse { offset, spells }
    }
}

/// Names that every zone has.
fn special<'z>(relative: &[u8]) -> Found<'z> {
    match relative {
        b"\x0bdns-version" => Found::Version,
        b"\x03dns" => Found::Between,
        b"\x02ns\x03dns" => Found::Nameserver,
        _ => Found::Nothing,
    }
}

fn find_host<'z>(service: &'z Entry, label: &[u8]) -> Found<'z> {
    if let Some(ip) = parse_dashed(label)
        && let Some(segment) = service.endpoints().find_map(|group| group.plain(ip))
        && is_dashed(label, ip)
    {
        return Found::Host(Host { service, segments: [segment, segment.part(0, 0)] });
    }
    for group in service.endpoints() {
        let segments = group.named(label);
        if segments.iter().any(|segment| !segment.is_empty()) {
            return Found::Host(Host { service, segments });
        }
    }
    match protocol(label) {
        Some(protocol) if has_named_port(service, protocol) => Found::Between,
        _ => Found::Nothing,
    }
}

/// Below a missing name there is nothing, hence `_tcp` is there when a port is below it.
fn has_named_port(service: &Entry, protocol: Protocol) -> bool {
    service.subject().flat_map(|group| group.ports()).any(|port| port.protocol == protocol && !port.name.is_empty())
}

fn find_port<'z>(service: &'z Entry, port: &[u8], transport: &[u8]) -> Found<'z> {
    let (Some(name), Some(protocol)) = (port.strip_prefix(b"_"), protocol(transport)) else { return Found::Nothing };
    let mut ports = service.subject().flat_map(|group| group.ports());
    let found = ports.find(|port| !name.is_empty() && port.name == name && port.protocol == protocol);
    found.map_or(Found::Nothing, |port| Found::Port(service, port))
}

fn protocol(label: &[u8]) -> Option<Protocol> {
    match label {
        b"_tcp" => Some(Protocol::Tcp),
        b"_udp" => Some(Protocol::Udp),
        b"_sctp" => Some(Protocol::Sctp),
        _ => None,
    }
}

/// Where labels start; `None` when there are more than fit.
fn label_starts(labels: &[u8], starts: &mut [usize]) -> Option<usize> {
    let (mut at, mut count) = (0, 0);
    while let Some(&length) = labels.get(at) {
        *starts.get_mut(count)? = at;
        count += 1;
        at += usize::from(length) + 1;
    }
    Some(count)
}

/// One label of a reverse name, in its only spelling.
fn number(label: &[u8], family: Family) -> Option<u8> {
    match (family, label) {
        (Family::V4, [b'0']) => Some(0),
        (Family::V4, [b'1'..=b'9', ..]) => std::str::from_utf8(label).ok()?.parse().ok(),
        (Family::V6, [digit @ b'0'..=b'9']) => Some(digit - b'0'),
        (Family::V6, [digit @ b'a'..=b'f']) => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// `bits`: an address, or the start of one, from the highest bit on.
fn contains(range: &IpNetwork, bits: u128) -> bool {
    match range {
        IpNetwork::V4(range) => range.contains(((bits >> 96) as u32).into()),
        IpNetwork::V6(range) => range.contains(bits.into()),
    }
}

fn from_bits(family: Family, bits: u128) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(((bits >> 96) as u32).into()),
        Family::V6 => IpAddr::V6(bits.into()),
    }
}
