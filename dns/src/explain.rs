//! Why a name gets the answer that it gets: which names a resolver tries, what of the zone each of them means, which objects
//! of the cluster that comes from, and what is answered. Pure, like the answer itself.

use std::fmt;
use std::net::IpAddr;

use thalweg_cluster::Name;

use crate::answer::{MAX_ALIASES, Outcome, respond};
use crate::name;
use crate::query::Transport;
use crate::zone::{Entry, Found, Kind, Realm, Segment, Zone};

/// How a resolver completes a name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Search {
    /// In the order in which they are tried.
    pub domains: Vec<String>,
    /// A name with fewer dots is tried with the domains first.
    pub ndots: usize,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Explanation {
    /// What a resolver asks, one after the other, up to the first with an answer.
    pub steps: Vec<Step>,
}

/// One question of a resolver.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// The whole name, with its dot at the end.
    pub name: String,
    /// The domain that was added, if any.
    pub domain: Option<String>,
    pub table: Table,
    /// What it comes from; of several, those of aliases first.
    pub sources: Vec<Source>,
    pub outcome: Outcome,
    /// The reply over TCP in wire form; empty when there is none, as for a name that is forwarded.
    pub reply: Vec<u8>,
}

/// The part of the zone that knows the name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Table {
    /// What the zone itself consists of, and names between those that have records.
    Zone,
    Services,
    Endpoints,
    Pods,
    Reverse,
    /// The name is in a zone of ours, but is not there.
    Missing,
    /// The name is in no zone of ours.
    Foreign,
}

/// What a name comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    Service {
        service: Name,
        kind: Kind,
    },
    Endpoint {
        service: Name,
        hostname: Option<String>,
        ip: IpAddr,
    },
    Port {
        service: Name,
        port: String,
        number: u16,
    },
    /// An object of the cluster.
    Pod(Name),
    /// No object: the name spells it.
    Spelled(IpAddr),
}

/// What happens to a question, seen by a resolver with this search list. `None` when the name is not representable.
pub fn explain(zone: &Zone, name: &str, rtype: u16, search: &Search) -> Option<Explanation> {
    let whole = name.trim_end_matches('.');
    let absolute = name.ends_with('.') || search.domains.is_empty();
    let completed = search.domains.iter().map(|domain| (format!("{whole}.{domain}"), Some(domain.clone())));
    let mut names: Vec<_> = if absolute { Vec::new() } else { completed.collect() };
    let as_it_is = if whole.matches('.').count() >= search.ndots { 0 } else { names.len() };
    names.insert(as_it_is, (whole.into(), None));
    name::encode(whole)?;
    let mut steps = Vec::new();
    for (name, domain) in names {
        // A resolver does not ask for what is too long.
        let Some(step) = step(zone, &name, domain, rtype) else { continue };
        let answered = !matches!(step.outcome, Outcome::NxDomain | Outcome::NoData);
        steps.push(step);
        if answered {
            break;
        }
    }
    Some(Explanation { steps })
}

fn step(zone: &Zone, name: &str, domain: Option<String>, rtype: u16) -> Option<Step> {
    let wire = name::encode(name)?;
    let mut packet = b"\0\0\x01\0\0\x01\0\0\0\0\0\0".to_vec();
    packet.extend_from_slice(&wire);
    packet.extend_from_slice(&rtype.to_be_bytes());
    packet.extend_from_slice(&1u16.to_be_bytes());
    let mut reply = Vec::new();
    let outcome = respond(&packet, Transport::Tcp, 0, zone, &mut reply);
    let (mut table, mut sources) = locate(zone, &wire);
    let mut target = zone.find(&wire).target();
    for _ in 0..MAX_ALIASES {
        let Some(next) = target else { break };
        let (found_in, more) = locate(zone, next);
        if found_in == Table::Foreign || more.iter().all(|source| sources.contains(source)) {
            break;
        }
        table = found_in;
        sources.extend(more);
        target = zone.find(next).target();
    }
    Some(Step { name: name::display(&wire), domain, table, sources, outcome, reply })
}

/// Where a name is, and what it comes from.
fn locate(zone: &Zone, wire: &[u8]) -> (Table, Vec<Source>) {
    let realm = zone.realm(wire);
    match zone.find_in(realm, wire) {
        _ if realm == Realm::Outside => (Table::Foreign, Vec::new()),
        Found::Nothing | Found::Range => (Table::Missing, Vec::new()),
        Found::Apex | Found::Nameserver | Found::Version | Found::Between => (Table::Zone, Vec::new()),
        Found::Service(entry) => (Table::Services, vec![service(entry)]),
        Found::Port(entry, port) => {
            let (port, number) = (String::from_utf8_lossy(port.name).into_owned(), port.number);
            (Table::Services, vec![Source::Port { service: service_name(entry), port, number }])
        }
        Found::Host(host) => {
            let of = |segment: Segment<'_>| endpoints(host.service, segment).collect::<Vec<_>>();
            (Table::Endpoints, host.segments.into_iter().flat_map(of).collect())
        }
        Found::Pod(ip) => {
            let namespace = name::parent(wire).map(name::first_label).unwrap_or_default();
            let pods = zone.pods_of(ip).filter(|pod| pod.namespace.as_bytes() == namespace);
            let mut sources: Vec<_> = pods.cloned().map(Source::Pod).collect();
            if sources.is_empty() {
                sources.push(Source::Spelled(ip));
            }
            (Table::Pods, sources)
        }
        Found::Pointer(ip) => (Table::Reverse, pointers(zone, ip)),
    }
}

/// The cluster IP, or what has the address otherwise.
fn pointers(zone: &Zone, ip: IpAddr) -> Vec<Source> {
    let fronts = zone.services_of(ip).filter(|entry| entry.front().is_some_and(|front| front.has(ip)));
    let fronts: Vec<_> = fronts.map(service).collect();
    if !fronts.is_empty() {
        return fronts;
    }
    let segments = zone.services_of(ip).flat_map(|entry| {
        entry.endpoints().flat_map(|group| group.segments()).flat_map(move |segment| endpoints(entry, segment))
    });
    segments.filter(|source| matches!(source, Source::Endpoint { ip: held, .. } if *held == ip)).collect()
}

fn endpoints<'e>(entry: &'e Entry, segment: Segment<'e>) -> impl Iterator<Item = Source> + use<'e> {
    (0..segment.len()).map(move |at| {
        let address = segment.get(at);
        let hostname = address.label.map(|label| String::from_utf8_lossy(label).into_owned());
        Source::Endpoint { service: service_name(entry), hostname, ip: address.ip() }
    })
}

fn service(entry: &Entry) -> Source {
    Source::Service { service: service_name(entry), kind: entry.kind() }
}

fn service_name(entry: &Entry) -> Name {
    let text = |label: &[u8]| String::from_utf8_lossy(label).into_owned();
    let namespace = name::parent(entry.key()).map(name::first_label).unwrap_or_default();
    Name::new(text(namespace), text(name::first_label(entry.key())))
}

// === impl Search ===

impl Search {
    /// What the kubelet writes for a pod with `dnsPolicy: ClusterFirst`, apart from the node's own domains.
    pub fn of_pod(namespace: &str, zone: &str) -> Self {
        Self { domains: vec![format!("{namespace}.svc.{zone}"), format!("svc.{zone}"), zone.into()], ndots: 5 }
    }
}

// === impl Explanation ===

impl Explanation {
    /// The step with the answer; `None` when the name is denied.
    pub fn answered(&self) -> Option<&Step> {
        self.steps.last().filter(|step| !matches!(step.outcome, Outcome::NxDomain | Outcome::NoData))
    }
}

// === impl Display ===

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)?;
        if let Some(domain) = &self.domain {
            write!(f, " (search {domain})")?;
        }
        write!(f, ": {}, {}", outcome(self.outcome), self.table)?;
        for (index, source) in self.sources.iter().enumerate() {
            write!(f, "{} {source}", if index == 0 { ":" } else { "," })?;
        }
        Ok(())
    }
}

fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Answer | Outcome::Transfer => "answered",
        Outcome::Truncated => "answered in part",
        Outcome::NoData => "exists without such records",
        Outcome::NxDomain => "does not exist",
        Outcome::ServFail => "not known yet",
        Outcome::Refused => "refused",
        Outcome::FormErr | Outcome::BadVers => "malformed",
        Outcome::NotImp => "not implemented",
        Outcome::Forward => "forwarded",
        Outcome::ForwardTarget => "an alias whose target is forwarded",
        Outcome::Drop => "dropped",
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Zone => "the zone itself",
            Self::Services => "services",
            Self::Endpoints => "endpoints",
            Self::Pods => "pods",
            Self::Reverse => "reverse names",
            Self::Missing => "in no table",
            Self::Foreign => "no zone of ours",
        })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service { service, kind: Kind::Alias } => write!(f, "service {service} (ExternalName)"),
            Self::Service { service, kind: Kind::Headless } => write!(f, "service {service} (headless)"),
            Self::Service { service, .. } => write!(f, "service {service} (cluster IP)"),
            Self::Endpoint { service, hostname: Some(hostname), ip } => {
                write!(f, "endpoint {hostname} ({ip}) of service {service}")
            }
            Self::Endpoint { service, hostname: None, ip } => write!(f, "endpoint {ip} of service {service}"),
            Self::Port { service, port, number } => write!(f, "port {port} ({number}) of service {service}"),
            Self::Pod(pod) => write!(f, "pod {pod}"),
            Self::Spelled(ip) => write!(f, "{ip}, as the name spells it"),
        }
    }
}

#[cfg(test)]
mod tests;
