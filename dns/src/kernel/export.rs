//! From a snapshot of the zone to entries of DNS_NAMES and DNS_ZONES.

use std::net::IpAddr;

use thalweg_abi::{Be32, Be128, DNS_ADDRESSES, DnsName, DnsNode, DnsNodeFlags, DnsZone, DnsZoneFlags, MAX_DNS_ZONES};
use thalweg_cluster::Family;

use crate::zone::{Entry, Kind, PodMode, Realm, SERVICES, Zone};

/// What a zone has at a name, or that there is nothing.
pub type NameChange = (DnsName, Option<DnsNode>);

/// Both kinds of addresses, to be listed by user space.
const OTHERS: u8 = DnsNodeFlags::OTHER_A | DnsNodeFlags::OTHER_AAAA;

/// Every name of a snapshot. None as long as the cluster has not been listed: absence would mean nothing.
pub fn names(zone: &Zone, see: &mut dyn FnMut(DnsName, DnsNode)) {
    if !is_exported(zone) {
        return;
    }
    for (at, origin) in zone.apex.origins.iter().enumerate() {
        let mut one = |before: &[u8], node: DnsNode| {
            if let Some(name) = name(zone, at, before, origin) {
                see(name, DnsNode { zone: at as u8, ..node });
            }
        };
        own(zone).for_each(|(before, node)| one(before, node));
        for entry in zone.entries() {
            if let Some(node) = node(entry) {
                one(&[entry.key(), SERVICES].concat(), node);
            }
        }
    }
}

/// What is not as in an older snapshot of the same zone, of which both are exported.
pub fn changes(zone: &Zone, old: &Zone, see: &mut dyn FnMut(NameChange)) {
    let mut each = |before: &[u8], node: Option<DnsNode>| {
        for (at, origin) in zone.apex.origins.iter().enumerate() {
            if let Some(name) = name(zone, at, before, origin) {
                see((name, node.map(|node| DnsNode { zone: at as u8, ..node })));
            }
        }
    };
    own(zone).zip(own(old)).filter(|(new, old)| new != old).for_each(|((before, node), _)| each(before, Some(node)));
    zone.changes(old, &mut |old, new| {
        let (was, is) = (old.and_then(node), new.and_then(node));
        if let Some(entry) = new.or(old)
            && was != is
        {
            each(&[entry.key(), SERVICES].concat(), is);
        }
    });
}

/// The zones of a snapshot, in order; nothing that is not in use.
pub fn zones(zone: &Zone, udp_size: u16, may_deny: bool, valid_until: u64) -> Vec<DnsZone> {
    if !is_exported(zone) {
        return Vec::new();
    }
    let flag = |set: bool, flag: u32| if set { flag } else { 0 };
    let of = |origin: &[u8]| {
        let complete = may_deny && !zone.apex.passes_on_in(origin);
        let recursion = flag(zone.apex.recursion, DnsZoneFlags::RECURSION);
        DnsZone {
            valid_until,
            flags: DnsZoneFlags(recursion | flag(complete, DnsZoneFlags::COMPLETE)),
            serial: zone.serial,
            ttl: zone.apex.ttl,
            udp_size,
            origin: origin.len() as u8,
            pad: 0,
        }
    };
    zone.apex.origins.iter().map(|origin| of(origin)).collect()
}

/// Whether anything is: the cluster has been listed, and there is room for all of its zones. One that is not there would be
/// taken for a part of another that it is in.
pub fn is_exported(zone: &Zone) -> bool {
    zone.synced && zone.apex.origins.len() <= MAX_DNS_ZONES as usize
}

/// A name of one zone. `None` when it is too long for the kernel, or in another zone that is inside of this one, or
/// somebody else's.
fn name(zone: &Zone, at: usize, before: &[u8], origin: &[u8]) -> Option<DnsName> {
    let wire = [before, origin].concat();
    let is_alone = zone.apex.origins.len() == 1 && !zone.apex.is_shared();
    let is_its_own = is_alone || matches!(zone.realm(&wire), Realm::Cluster { zone, .. } if zone == at);
    DnsName::new(&wire).filter(|_| is_its_own)
}

/// What every zone has, by the labels before its own name.
fn own(zone: &Zone) -> impl Iterator<Item = (&'static [u8], DnsNode)> {
    let pods = if zone.apex.pods == PodMode::Disabled { 0 } else { DnsNodeFlags::OTHERS_BELOW };
    let flags = |flags| DnsNode { flags: DnsNodeFlags(flags), ..DnsNode::default() };
    let mut nameserver = DnsNode::default();
    zone.nameservers().iter().for_each(|ip| add(&mut nameserver, *ip));
    [
        (&b""[..], flags(0)),
        (SERVICES, flags(0)),
        (b"\x03pod", flags(pods)),
        (b"\x03dns", flags(0)),
        (b"\x02ns\x03dns", nameserver),
        (b"\x0bdns-version", flags(0)),
    ]
    .into_iter()
}

/// What is at the name of a service or a namespace; `None` when there is no such name now.
fn node(entry: &Entry) -> Option<DnsNode> {
    let is_namespace = entry.key().len() == 1 + usize::from(*entry.key().first()?);
    let mut node = DnsNode::default();
    match entry.kind() {
        Kind::Bare if is_namespace => return Some(node),
        Kind::Bare => return None,
        Kind::Alias => node.flags.0 |= OTHERS,
        Kind::ClusterIp | Kind::Headless => {
            for segment in entry.subject().flat_map(|group| [Family::V4, Family::V6].map(|family| group.of(family))).flatten() {
                let addresses = (0..segment.len()).map(|at| segment.get(at));
                addresses.filter(|address| !address.repeats_address).for_each(|address| add(&mut node, address.ip()));
            }
        }
    }
    node.flags.0 |= DnsNodeFlags::OTHERS_BELOW;
    Some(node)
}

/// Adds an address. When there is no room, all of its family are somebody else's to list.
fn add(node: &mut DnsNode, ip: IpAddr) {
    let DnsNode { flags, a, aaaa, a_count, aaaa_count, .. } = node;
    let (count, other) = match ip {
        IpAddr::V4(_) => (a_count, DnsNodeFlags::OTHER_A),
        IpAddr::V6(_) => (aaaa_count, DnsNodeFlags::OTHER_AAAA),
    };
    if flags.has(other) {
        return;
    }
    if usize::from(*count) == DNS_ADDRESSES {
        flags.0 |= other;
        *count = 0;
        match ip {
            IpAddr::V4(_) => *a = Default::default(),
            IpAddr::V6(_) => *aaaa = Default::default(),
        }
        return;
    }
    match ip {
        IpAddr::V4(ip) => a[usize::from(*count)] = Be32::from(ip),
        IpAddr::V6(ip) => aaaa[usize::from(*count)] = Be128::from(ip),
    }
    *count += 1;
}
