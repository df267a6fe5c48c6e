//! What is known of one service, packed into one allocation, so that many services need little memory.
//!
//! Nothing in it depends on the zone: owner names, TTLs and the rest of a record are written when a query asks for them.
//! That costs no more than copying ready records, and the zone may have any number of names.
//!
//! Octets, numbers big-endian:
//!
//! - kind, length of the key, number of groups (2), the key;
//! - an alias: its target, a name in wire form;
//! - for each group: octets of its ports, number of plain IPv4, plain IPv6, named IPv4 and named IPv6 addresses (4 each);
//!   the ports: number (2), protocol, length of the name, name; in order of number;
//!   then the addresses: plain ones in order, named ones with 4 octets of label before them, in order of label and address;
//! - the labels of named addresses, each with its length before it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use thalweg_cluster::{Family, Protocol};

/// A service, or a namespace. Its key is in wire form, lower-cased and without the root: the label of the service and that of
/// its namespace, or the latter alone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry(Arc<[u8]>);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// A namespace, or a service that has no name now: headless without a ready endpoint.
    Bare,
    /// The first group is the service itself: its addresses and ports.
    ClusterIp,
    Headless,
    Alias,
}

/// Addresses that have the same ports.
#[derive(Clone, Copy, Debug)]
pub struct Group<'e> {
    entry: &'e [u8],
    /// Where it starts.
    head: usize,
}

/// Some addresses of a group, all of one family; with labels or without.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'e> {
    pub group: Group<'e>,
    pub family: Family,
    named: bool,
    bytes: &'e [u8],
}

/// One address of a segment.
#[derive(Clone, Copy, Debug)]
pub struct Address<'e> {
    /// 4 or 16.
    pub octets: &'e [u8],
    /// The hostname, without its length. An address without one is called by itself.
    pub label: Option<&'e [u8]>,
    /// Another entry of the same service has this address too, and comes before this one.
    pub repeats_address: bool,
    /// Another entry of the same group has this label too, and comes before this one.
    pub repeats_label: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Port<'e> {
    pub number: u16,
    pub protocol: Protocol,
    /// Lower-cased; may be empty.
    pub name: &'e [u8],
}

/// A group as it is put together.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Draft<'a> {
    /// In order.
    pub ports: Vec<(u16, Protocol, &'a str)>,
    /// In order, without repetition.
    pub plain: Vec<IpAddr>,
    /// In order of label and address, without repetition.
    pub named: Vec<Named<'a>>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Named<'a> {
    pub label: Cow<'a, str>,
    pub ip: IpAddr,
    pub repeats_address: bool,
}

const HEAD: usize = 4;
const GROUP_HEAD: usize = 20;
const LABEL: usize = 4;
/// In what stands before a named address; the rest is where its label starts. An entry is smaller than 2^30 octets.
const REPEATS_ADDRESS: u32 = 1 << 31;
const REPEATS_LABEL: u32 = 1 << 30;
/// The parts of a group, as their numbers stand in its head.
const PARTS: [(Family, bool); 4] = [(Family::V4, false), (Family::V6, false), (Family::V4, true), (Family::V6, true)];
/// Octets of one address in each part.
const STRIDES: [usize; 4] = [4, 16, LABEL + 4, LABEL + 16];

// === impl Entry ===

impl Entry {
    /// Nothing but the key.
    pub fn bare(key: &[u8]) -> Self {
        Self::service(Kind::Bare, key, &[])
    }

    pub fn alias(key: &[u8], target: &[u8]) -> Self {
        let mut bytes = head(Kind::Alias, key, 0);
        bytes.extend_from_slice(target);
        Self(bytes.into())
    }

    pub fn service(kind: Kind, key: &[u8], groups: &[Draft<'_>]) -> Self {
        let mut bytes = head(kind, key, groups.len());
        let mut labels = Vec::new();
        let size = bytes.len() + groups.iter().map(Draft::size).sum::<usize>();
        groups.iter().for_each(|group| group.write(&mut bytes, &mut labels, size));
        bytes.extend_from_slice(&labels);
        Self(bytes.into())
    }

    pub fn kind(&self) -> Kind {
        [Kind::Bare, Kind::ClusterIp, Kind::Headless, Kind::Alias][usize::from(self.0[0])]
    }

    pub fn key(&self) -> &[u8] {
        &self.0[HEAD..HEAD + usize::from(self.0[1])]
    }

    /// Of an alias.
    pub fn target(&self) -> Option<&[u8]> {
        (self.kind() == Kind::Alias).then(|| &self.0[HEAD + usize::from(self.0[1])..])
    }

    /// The service itself, when it has cluster IPs.
    pub fn front(&self) -> Option<Group<'_>> {
        (self.kind() == Kind::ClusterIp).then(|| Group { entry: &self.0, head: HEAD + usize::from(self.0[1]) })
    }

    /// The groups of its endpoints.
    pub fn endpoints(&self) -> impl Iterator<Item = Group<'_>> + Clone {
        self.groups().skip(usize::from(self.kind() == Kind::ClusterIp))
    }

    /// What the name of the service itself stands for: the cluster IPs, or all endpoints.
    pub fn subject(&self) -> impl Iterator<Item = Group<'_>> + Clone {
        self.groups().take(if self.kind() == Kind::ClusterIp { 1 } else { usize::MAX })
    }

    /// Cluster IPs and endpoints.
    pub fn groups(&self) -> impl Iterator<Item = Group<'_>> + Clone {
        let count = usize::from(u16::from_be_bytes([self.0[2], self.0[3]]));
        let mut last: Option<Group<'_>> = None;
        (0..count).map(move |_| {
            let head = last.map_or_else(|| HEAD + usize::from(self.0[1]), |group| group.head + group.size());
            *last.insert(Group { entry: &self.0, head })
        })
    }

    /// Whether it has an address, as a cluster IP or at an endpoint.
    pub fn has(&self, ip: IpAddr) -> bool {
        self.front().is_some_and(|front| front.plain(ip).is_some()) || self.endpoints().any(|group| group.has(ip))
    }

    /// All addresses, those of cluster IPs included, in order and without repetition.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let segments = self.groups().flat_map(Group::segments);
        let mut all: Vec<_> = segments.flat_map(|segment| (0..segment.len()).map(move |at| segment.get(at).ip())).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// How many names it has: its own, and those of endpoints and named ports.
    pub fn names(&self) -> usize {
        let ports = self.subject().flat_map(Group::ports).filter(|port| !port.name.is_empty()).count();
        let segments = self.endpoints().flat_map(Group::segments);
        let hosts = segments.map(|segment| (0..segment.len()).filter(|&at| !segment.get(at).repeats_label).count());
        1 + ports + hosts.sum::<usize>()
    }

    #[cfg(test)]
    pub fn octets(&self) -> &[u8] {
        &self.0
    }
}

fn head(kind: Kind, key: &[u8], groups: usize) -> Vec<u8> {
    let mut bytes = vec![kind as u8, key.len() as u8];
    bytes.extend_from_slice(&(groups as u16).to_be_bytes());
    bytes.extend_from_slice(key);
    bytes
}

// === impl Group ===

impl<'e> Group<'e> {
    /// In order of their numbers.
    pub fn ports(self) -> impl Iterator<Item = Port<'e>> + Clone {
        let start = self.head + GROUP_HEAD;
        let mut rest = &self.entry[start..start + self.numbers().ports_size];
        std::iter::from_fn(move || {
            let (&[high, low, protocol, length], more) = rest.split_first_chunk()?;
            let (name, more) = more.split_at_checked(usize::from(length))?;
            rest = more;
            let protocol = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp][usize::from(protocol)];
            Some(Port { number: u16::from_be_bytes([high, low]), protocol, name })
        })
    }

    /// All of its addresses: those of IPv4 first.
    pub fn segments(self) -> impl Iterator<Item = Segment<'e>> + Clone {
        self.of(Family::V4).chain(self.of(Family::V6))
    }

    /// The addresses of one family.
    pub fn of(self, family: Family) -> impl Iterator<Item = Segment<'e>> + Clone {
        let plain = usize::from(family == Family::V6);
        [plain, plain + 2].into_iter().map(move |part| self.segment(part))
    }

    /// The address that has no hostname, if it is here.
    pub fn plain(self, ip: IpAddr) -> Option<Segment<'e>> {
        let part = usize::from(ip.is_ipv6());
        let segment = self.segment(part);
        let at = match ip {
            IpAddr::V4(ip) => segment.search(|address| address.octets.cmp(&ip.octets())),
            IpAddr::V6(ip) => segment.search(|address| address.octets.cmp(&ip.octets())),
        };
        at.ok().map(|at| segment.part(at, at + 1))
    }

    /// Whether it is one of its addresses.
    pub fn has(self, ip: IpAddr) -> bool {
        self.plain(ip).is_some() || self.labels_of(ip).next().is_some()
    }

    /// The hostnames that an address has.
    pub fn labels_of(self, ip: IpAddr) -> impl Iterator<Item = &'e [u8]> {
        let segment = self.segment(if ip.is_ipv4() { 2 } else { 3 });
        (0..segment.len()).map(move |at| segment.get(at)).filter(move |address| address.ip() == ip).filter_map(|at| at.label)
    }

    /// The addresses of a hostname, of either family.
    pub fn named(self, label: &[u8]) -> [Segment<'e>; 2] {
        [2, 3].map(|part| {
            let segment = self.segment(part);
            let start = segment.first(|address| address.label < Some(label));
            let end = segment.first(|address| address.label <= Some(label));
            segment.part(start, end)
        })
    }

    fn segment(self, part: usize) -> Segment<'e> {
        let numbers = self.numbers();
        let before: usize = (0..part).map(|part| numbers.counts[part] * STRIDES[part]).sum();
        let start = self.head + GROUP_HEAD + numbers.ports_size + before;
        let bytes = &self.entry[start..start + numbers.counts[part] * STRIDES[part]];
        let (family, named) = PARTS[part];
        Segment { group: self, family, named, bytes }
    }

    fn numbers(self) -> Numbers {
        let head = self.entry[self.head..].first_chunk::<GROUP_HEAD>().unwrap_or(&[0; GROUP_HEAD]);
        let at = |index: usize| be32(&head[4 * index..]) as usize;
        Numbers { ports_size: at(0), counts: [at(1), at(2), at(3), at(4)] }
    }

    fn size(self) -> usize {
        let numbers = self.numbers();
        GROUP_HEAD
            + numbers.ports_size
            + numbers.counts.iter().zip(STRIDES).map(|(count, stride)| count * stride).sum::<usize>()
    }
}

/// The head of a group.
struct Numbers {
    ports_size: usize,
    counts: [usize; 4],
}

fn width(family: Family) -> usize {
    if family == Family::V4 { 4 } else { 16 }
}

fn be32(bytes: &[u8]) -> u32 {
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

// === impl Segment ===

impl<'e> Segment<'e> {
    pub fn len(&self) -> usize {
        self.bytes.len() / self.stride()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub fn get(&self, at: usize) -> Address<'e> {
        let bytes = &self.bytes[at * self.stride()..][..self.stride()];
        if !self.named {
            return Address { octets: bytes, label: None, repeats_address: false, repeats_label: false };
        }
        let (label, octets) = bytes.split_at(LABEL);
        let label = be32(label);
        let start = (label & !(REPEATS_ADDRESS | REPEATS_LABEL)) as usize;
        let length = usize::from(self.group.entry[start]);
        Address {
            octets,
            label: Some(&self.group.entry[start + 1..start + 1 + length]),
            repeats_address: label & REPEATS_ADDRESS != 0,
            repeats_label: label & REPEATS_LABEL != 0,
        }
    }

    pub fn part(self, start: usize, end: usize) -> Self {
        Self { bytes: &self.bytes[start * self.stride()..end * self.stride()], ..self }
    }

    fn stride(&self) -> usize {
        width(self.family) + if self.named { LABEL } else { 0 }
    }

    /// How many come before the first for which this is false.
    fn first(&self, before: impl Fn(Address<'e>) -> bool) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            if before(self.get(middle)) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    fn search(&self, compare: impl Fn(Address<'e>) -> std::cmp::Ordering) -> Result<usize, usize> {
        let at = self.first(|address| compare(address).is_lt());
        if at < self.len() && compare(self.get(at)).is_eq() { Ok(at) } else { Err(at) }
    }
}

// === impl Address ===

impl Address<'_> {
    pub fn ip(&self) -> IpAddr {
        match <[u8; 16]>::try_from(self.octets) {
            Ok(octets) => octets.into(),
            Err(_) => [self.octets[0], self.octets[1], self.octets[2], self.octets[3]].into(),
        }
    }
}

// === impl Port ===

impl Port<'_> {
    /// The label of its protocol, with the underscore that it has in names.
    pub fn protocol_label(&self) -> &'static [u8] {
        match self.protocol {
            Protocol::Tcp => b"_tcp",
            Protocol::Udp => b"_udp",
            Protocol::Sctp => b"_sctp",
        }
    }
}

// === impl Draft ===

impl Draft<'_> {
    fn size(&self) -> usize {
        let address = |ip: &IpAddr| if ip.is_ipv4() { 4 } else { 16 };
        let ports: usize = self.ports.iter().map(|(_, _, name)| 4 + name.len()).sum();
        let plain: usize = self.plain.iter().map(address).sum();
        let named: usize = self.named.iter().map(|named| LABEL + address(&named.ip)).sum();
        GROUP_HEAD + ports + plain + named
    }

    /// Labels go to where they will stand, from `labels_at` on.
    fn write(&self, bytes: &mut Vec<u8>, labels: &mut Vec<u8>, labels_at: usize) {
        let ports: usize = self.ports.iter().map(|(_, _, name)| 4 + name.len()).sum();
        bytes.extend_from_slice(&(ports as u32).to_be_bytes());
        let plain = |family| self.plain.iter().filter(move |ip| ip.is_ipv4() == (family == Family::V4));
        let named = |family| self.named.iter().filter(move |named| named.ip.is_ipv4() == (family == Family::V4));
        for (family, with_label) in PARTS {
            let count = if with_label { named(family).count() } else { plain(family).count() };
            bytes.extend_from_slice(&(count as u32).to_be_bytes());
        }
        for (number, protocol, name) in &self.ports {
            bytes.extend_from_slice(&number.to_be_bytes());
            bytes.extend_from_slice(&[*protocol as u8, name.len() as u8]);
            bytes.extend(name.bytes().map(|byte| byte.to_ascii_lowercase()));
        }
        for family in [Family::V4, Family::V6] {
            plain(family).for_each(|ip| push_octets(bytes, *ip));
        }
        let mut starts = BTreeMap::new();
        for family in [Family::V4, Family::V6] {
            for address in named(family) {
                let next = labels_at + labels.len();
                let start = *starts.entry(&*address.label).or_insert(next);
                let mut place = start as u32;
                if start == next {
                    labels.push(address.label.len() as u8);
                    labels.extend_from_slice(address.label.as_bytes());
                } else {
                    place |= REPEATS_LABEL;
                }
                if address.repeats_address {
                    place |= REPEATS_ADDRESS;
                }
                bytes.extend_from_slice(&place.to_be_bytes());
                push_octets(bytes, address.ip);
            }
        }
    }
}

fn push_octets(bytes: &mut Vec<u8>, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => bytes.extend_from_slice(&ip.octets()),
        IpAddr::V6(ip) => bytes.extend_from_slice(&ip.octets()),
    }
}
