//! What one service contributes to the zone. Pure: from the service and its slices to an [`Entry`].

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use thalweg_cluster::{EndpointSlice, Name, Port, Protocol, Service, ServiceType};

use super::config::Apex;
use super::entry::{Draft, Entry, Kind, Named};
use super::{dashed, parse_dashed};
use crate::name;

/// Ports of an endpoint or a service, in order of their numbers.
type Ports<'a> = Vec<(u16, Protocol, &'a str)>;

/// Octets of a label that spells an address, at most.
const LONGEST_DASHED: usize = 39;

/// A ready endpoint: its hostname, if it has one, its address, and which of several sets of ports it has.
struct Host<'a> {
    label: Option<Cow<'a, str>>,
    ip: IpAddr,
    ports: usize,
}

/// The key of a service, or of a namespace without a service: labels in wire form, without the root. `None` when DNS
/// cannot carry it.
pub fn key(namespace: &str, service: Option<&str>) -> Option<Vec<u8>> {
    let mut key = Vec::with_capacity(2 + namespace.len() + service.map_or(0, str::len));
    for label in service.into_iter().chain([namespace]) {
        name::push_label(&mut key, label)?;
    }
    Some(key)
}

/// The entry of a service; `None` when its name is too long for the zones. An endpoint whose name is too long is left out.
pub fn entry<'a>(apex: &Apex, service: &'a Service, slices: impl Iterator<Item = &'a Arc<EndpointSlice>>) -> Option<Entry> {
    let Name { namespace, name } = &service.name;
    let Some(key) = key(namespace, Some(name)).filter(|key| apex.has_room(key.len())) else {
        tracing::warn!(service = %service.name, "the name of the service is too long for the zone: it has no DNS name");
        return None;
    };
    if service.service_type == ServiceType::ExternalName {
        return Some(alias(&key, service));
    }
    let (hosts, sets) = hosts(apex, key.len(), service, slices);
    let (ready, mut groups) = (!hosts.is_empty(), groups(hosts, sets));
    Some(match service.headless {
        true if ready => Entry::service(Kind::Headless, &key, &groups),
        false if ready || !apex.ignore_empty_service => {
            groups.insert(0, front(service));
            Entry::service(Kind::ClusterIp, &key, &groups)
        }
        _ => Entry::bare(&key),
    })
}

fn alias(key: &[u8], service: &Service) -> Entry {
    let target = service.external_name.as_deref().map(|target| target.strip_suffix('.').unwrap_or(target));
    // An alias cannot point to an address; such a service exists, but has nothing to say.
    let target = target.filter(|target| !target.is_empty() && target.parse::<IpAddr>().is_err()).and_then(name::encode);
    match target {
        Some(target) => Entry::alias(key, &target),
        None => Entry::service(Kind::ClusterIp, key, &[Draft::default()]),
    }
}

/// The service itself.
fn front(service: &Service) -> Draft<'_> {
    let mut plain = service.cluster_ips.clone();
    plain.sort_unstable();
    plain.dedup();
    let ports = service.ports.iter().map(|Port { name, protocol, port, .. }| (*port, *protocol, &**name));
    Draft { ports: sorted(ports), plain, named: Vec::new() }
}

/// A port's name is a label, with an underscore before it.
fn sorted<'a>(ports: impl Iterator<Item = (u16, Protocol, &'a str)>) -> Ports<'a> {
    let mut ports: Ports<'a> = ports.filter(|(number, _, name)| *number != 0 && name.len() < name::MAX_LABEL).collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// Ready endpoints, and the sets of ports that they have.
fn hosts<'a>(
    apex: &Apex,
    key: usize,
    service: &Service,
    slices: impl Iterator<Item = &'a Arc<EndpointSlice>>,
) -> (Vec<Host<'a>>, Vec<Ports<'a>>) {
    let (mut hosts, mut sets): (Vec<Host<'a>>, Vec<Ports<'a>>) = Default::default();
    let has_room = |label: usize| apex.has_room(key + 1 + label);
    for slice in slices {
        let ports = sorted(slice.ports.iter().map(|port| (port.port, port.protocol, &*port.name)));
        let ports = index_of(&mut sets, ports);
        let ready = slice.endpoints.iter().filter(|endpoint| endpoint.condition.ready || service.publish_not_ready);
        for endpoint in ready {
            let ip = endpoint.address;
            let pod = endpoint.pod.as_deref().filter(|_| apex.endpoint_pod_names);
            let label = endpoint.hostname.as_deref().filter(|hostname| !hostname.is_empty()).or(pod);
            // One that DNS cannot carry is none: the endpoint is called by its address.
            let label = label.filter(|label| name::is_label(label) && has_room(label.len()));
            let label = label.map(|label| match label.bytes().any(|byte| byte.is_ascii_uppercase()) {
                true => Cow::Owned(label.to_ascii_lowercase()),
                false => Cow::Borrowed(label),
            });
            if label.is_some() || has_room(LONGEST_DASHED) || has_room(dashed(ip).len()) {
                hosts.push(Host { label, ip, ports });
            }
        }
    }
    call_by_hostname(&mut hosts);
    (hosts, sets)
}

/// A hostname may spell the address of an endpoint that has none: then both are one host.
fn call_by_hostname(hosts: &mut [Host<'_>]) {
    let spelled = hosts.iter().filter_map(|host| host.label.as_deref().and_then(|label| parse_dashed(label.as_bytes())));
    let spelled: BTreeSet<IpAddr> = spelled.collect();
    let without = hosts.iter_mut().filter(|host| host.label.is_none() && spelled.contains(&host.ip));
    without.for_each(|host| host.label = Some(dashed(host.ip).into()));
}

fn index_of<'a>(sets: &mut Vec<Ports<'a>>, ports: Ports<'a>) -> usize {
    sets.iter().position(|set| *set == ports).unwrap_or_else(|| {
        sets.push(ports);
        sets.len() - 1
    })
}

/// Hosts by their ports. All addresses of one label stand in one group, with the ports of all of them. An endpoint may stand
/// in two slices for a moment: it counts once.
fn groups<'a>(mut hosts: Vec<Host<'a>>, mut sets: Vec<Ports<'a>>) -> Vec<Draft<'a>> {
    // Those without a label come first.
    hosts.sort_unstable_by(|a, b| (&a.label, a.ip).cmp(&(&b.label, b.ip)));
    for host in hosts.chunk_by_mut(|a, b| a.label == b.label && (a.label.is_some() || a.ip == b.ip)) {
        if host.iter().any(|other| other.ports != host[0].ports) {
            let all = host.iter().flat_map(|host| &sets[host.ports]).copied();
            let all = sorted(all);
            let ports = index_of(&mut sets, all);
            host.iter_mut().for_each(|host| host.ports = ports);
        }
    }
    hosts.dedup_by(|a, b| a.label == b.label && a.ip == b.ip);
    let mut seen = BTreeSet::new();
    let mut groups: BTreeMap<usize, Draft<'a>> = BTreeMap::new();
    for host in hosts {
        let draft = groups.entry(host.ports).or_insert_with(|| Draft { ports: sets[host.ports].clone(), ..Draft::default() });
        let repeats_address = !seen.insert(host.ip);
        match host.label {
            None => draft.plain.push(host.ip),
            Some(label) => draft.named.push(Named { label, ip: host.ip, repeats_address }),
        }
    }
    // By content, so that it does not matter in which order slices came.
    let mut groups: Vec<_> = groups.into_values().collect();
    groups.sort_unstable_by(|a, b| a.ports.cmp(&b.ports));
    groups
}
