//! What the operator chooses about the zones, and what follows from it once.

use std::net::IpAddr;

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

use crate::name::{self, WireName};
use crate::query::MAX_UDP;

/// The longest TTL that may be configured, in seconds.
pub const MAX_TTL: u32 = 3600;
/// What stands between the names of services and their zone.
pub const SERVICES: &[u8] = b"\x03svc";

/// Whether `a-b-c-d.namespace.pod.<zone>` exists.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PodMode {
    /// Never.
    Disabled,
    /// For any address that parses, in a namespace that exists.
    #[default]
    Insecure,
    /// For the addresses of pods that the source of the cluster's state tells of.
    Verified,
}

/// Which names of our zones are passed on, rather than denied, when they do not exist.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fallthrough {
    Never,
    Always,
    /// Those in these domains.
    Below(Vec<String>),
}

/// What the operator chose. Take [`ZoneConfig::default`] for what is not said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ZoneConfig {
    /// Zones with the names of the cluster, all with the same content. PTR records point into the first one.
    pub origins: Vec<String>,
    /// Addresses whose reverse names are ours; [`reverse_range`] turns the name of a reverse zone into one of these.
    pub reverse: Vec<IpNetwork>,
    /// Seconds, at most [`MAX_TTL`].
    pub ttl: u32,
    pub pods: PodMode,
    /// Addresses of `ns.dns.<zone>` as long as there is no service kube-system/kube-dns.
    pub nameservers: Vec<IpAddr>,
    /// Somebody else is asked for names that are not ours; otherwise they are refused.
    pub recursion: bool,
    pub fallthrough: Fallthrough,
    /// Domains in or around our zones, and whether their names are ours after all: the longest that a name is in decides.
    /// Names in none of them are ours if they are in one of our zones.
    pub shares: Vec<(WireName, bool)>,
    /// Only services and pods of these namespaces have names; `None`: those of all.
    pub namespaces: Option<Vec<String>>,
    /// An endpoint without a hostname is called by the name of its pod, not by its address.
    pub endpoint_pod_names: bool,
    /// A service with a cluster IP does not exist as long as no endpoint is ready.
    pub ignore_empty_service: bool,
    /// The largest reply over UDP, in octets.
    pub max_udp: usize,
}

/// Why a zone cannot be served as configured.
#[derive(thiserror::Error, Clone, PartialEq, Eq, Debug)]
pub enum ZoneError {
    #[error("no zone to serve: name one such as cluster.local")]
    NoOrigin,
    #[error("`{0}` cannot be a zone: use a domain name such as cluster.local, short enough for names below it")]
    Origin(String),
    #[error("`{0}` is no domain name: names of such a domain cannot be passed on")]
    Fallthrough(String),
    #[error("a TTL of {0} seconds is out of range: use 0 to {MAX_TTL}")]
    Ttl(u32),
}

/// The configuration in the form that answers need.
#[derive(Debug)]
pub struct Apex {
    /// In wire form; at least one.
    pub origins: Box<[WireName]>,
    pub reverse: Box<[IpNetwork]>,
    pub ttl: u32,
    pub pods: PodMode,
    pub recursion: bool,
    /// Names in these domains are passed on when they do not exist.
    fallthrough: Box<[WireName]>,
    /// As configured, longest first.
    shares: Box<[(WireName, bool)]>,
    pub namespaces: Option<Box<[Box<str>]>>,
    pub endpoint_pod_names: bool,
    pub ignore_empty_service: bool,
    /// The largest reply over UDP, in octets.
    pub max_udp: usize,
}

// === impl ZoneConfig ===

impl Default for ZoneConfig {
    /// As a cluster made by kubeadm has it, apart from the TTL, which it sets to 30.
    fn default() -> Self {
        Self {
            origins: vec!["cluster.local".into()],
            reverse: ["0.0.0.0/0", "::/0"].into_iter().filter_map(|range| range.parse().ok()).collect(),
            ttl: 5,
            pods: PodMode::default(),
            nameservers: Vec::new(),
            recursion: false,
            fallthrough: Fallthrough::Below(vec!["in-addr.arpa".into(), "ip6.arpa".into()]),
            shares: Vec::new(),
            namespaces: None,
            endpoint_pod_names: false,
            ignore_empty_service: false,
            max_udp: MAX_UDP,
        }
    }
}

// === impl Apex ===

impl Apex {
    pub fn new(config: &ZoneConfig) -> Result<Self, ZoneError> {
        if config.ttl > MAX_TTL {
            return Err(ZoneError::Ttl(config.ttl));
        }
        let origins: Result<Box<[_]>, _> = config.origins.iter().map(|origin| encode_origin(origin)).collect();
        let origins = origins?;
        if origins.is_empty() {
            return Err(ZoneError::NoOrigin);
        }
        let domains: &[String] = match &config.fallthrough {
            Fallthrough::Never => &[],
            Fallthrough::Always => &[".".into()],
            Fallthrough::Below(domains) => domains,
        };
        let mut shares = config.shares.clone();
        shares.sort_by_key(|(domain, _)| std::cmp::Reverse(domain.len()));
        let encode = |domain: &String| name::encode(domain).ok_or_else(|| ZoneError::Fallthrough(domain.clone()));
        Ok(Self {
            origins,
            reverse: config.reverse.as_slice().into(),
            ttl: config.ttl,
            pods: config.pods,
            recursion: config.recursion,
            fallthrough: domains.iter().map(encode).collect::<Result<_, _>>()?,
            shares: shares.into(),
            namespaces: config.namespaces.as_ref().map(|names| names.iter().map(|name| name.as_str().into()).collect()),
            endpoint_pod_names: config.endpoint_pod_names,
            ignore_empty_service: config.ignore_empty_service,
            max_udp: config.max_udp,
        })
    }

    /// Whether every zone has room for names with so many octets before its `svc`.
    pub fn has_room(&self, octets: usize) -> bool {
        let longest = self.origins.iter().map(|origin| origin.len()).max().unwrap_or_default();
        octets + SERVICES.len() + longest <= name::MAX_NAME
    }

    /// Whether somebody else is asked for this name when it does not exist here.
    pub fn passes_on(&self, name: &[u8]) -> bool {
        self.recursion && self.fallthrough.iter().any(|domain| name::is_within(name, domain))
    }

    /// Whether somebody else answers for this name although it is in one of our zones.
    pub fn is_elsewhere(&self, name: &[u8]) -> bool {
        self.shares.iter().find(|(domain, _)| name::is_within(name, domain)).is_some_and(|(_, ours)| !ours)
    }

    /// Whether somebody else answers for some names in our zones.
    pub fn is_shared(&self) -> bool {
        !self.shares.is_empty()
    }

    /// Whether somebody else may be asked for any name in this domain that does not exist here.
    pub fn passes_on_in(&self, domain: &[u8]) -> bool {
        let meets = |other: &WireName| name::is_within(other, domain) || name::is_within(domain, other);
        let others = self.shares.iter().filter(|(_, ours)| !ours);
        self.recursion && self.fallthrough.iter().any(meets) || others.map(|(other, _)| other).any(meets)
    }

    /// Whether objects of a namespace have names.
    pub fn exposes(&self, namespace: &str) -> bool {
        self.namespaces.as_ref().is_none_or(|names| names.iter().any(|name| **name == *namespace))
    }
}

/// The longest name that every zone has: its mailbox.
fn encode_origin(origin: &str) -> Result<WireName, ZoneError> {
    let wire = name::encode(origin).filter(|wire| name::child("hostmaster", wire).is_some());
    wire.ok_or_else(|| ZoneError::Origin(origin.into()))
}

/// The addresses of a reverse zone: `10.in-addr.arpa` is 10.0.0.0/8. `None` when the name is none of a reverse zone.
pub fn reverse_range(zone: &str) -> Option<IpNetwork> {
    let wire = name::encode(zone)?;
    let mut labels: Vec<&[u8]> = Vec::new();
    let mut rest = &*wire;
    let (v4, suffix) = match name::is_within(rest, name::REVERSE_V4) {
        true => (true, name::REVERSE_V4),
        false => (false, name::REVERSE_V6),
    };
    while rest.len() > suffix.len() {
        labels.push(name::first_label(rest));
        rest = name::parent(rest)?;
    }
    if rest != suffix {
        return None;
    }
    let (width, radix) = if v4 { (8, 10) } else { (4, 16) };
    let total = if v4 { 32 } else { 128 };
    let prefix = labels.len() * width;
    if prefix > total {
        return None;
    }
    let mut bits = 0u128;
    for label in labels.iter().rev() {
        let text = std::str::from_utf8(label).ok()?;
        let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let number = u128::from_str_radix(text, radix).ok().filter(|number| plain && *number < 1 << width)?;
        bits = bits << width | number;
    }
    bits = bits.checked_shl((total - prefix) as u32).unwrap_or(0);
    if v4 {
        Ipv4Network::new((bits as u32).into(), prefix as u8).ok().map(IpNetwork::V4)
    } else {
        Ipv6Network::new(bits.into(), prefix as u8).ok().map(IpNetwork::V6)
    }
}
