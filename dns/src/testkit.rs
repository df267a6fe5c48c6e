//! For tests: a small cluster in words, queries in words, and replies read by an independent decoder (hickory-proto).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::op::Message;
use hickory_proto::rr::{Record, RecordType};
use thalweg_cluster::{
    Change, Condition, Dirty, Endpoint, EndpointPort, EndpointSlice, Family, Name, Pod, Port, Protocol, Service, ServiceType,
    World,
};

use crate::name;
use crate::zone::{Zone, ZoneBuilder, ZoneConfig};

pub const TTL: u32 = 5;

/// `namespace/name`.
pub fn service_name(text: &str) -> Name {
    let (namespace, name) = text.split_once('/').expect("namespace/name");
    Name::new(namespace, name)
}

/// A ClusterIP service; no address at all makes it headless. Ports as `name/protocol/number`.
pub fn service(name: &str, ips: &[&str], ports: &[&str]) -> Service {
    Service {
        cluster_ips: ips.iter().map(|ip| ip.parse().expect("an address")).collect(),
        headless: ips.is_empty(),
        ports: ports.iter().map(|text| port(text)).collect(),
        ..Service::new(service_name(name))
    }
}

pub fn external(name: &str, target: &str) -> Service {
    let (service_type, external_name) = (ServiceType::ExternalName, Some(target.into()));
    Service { service_type, external_name, headless: false, ..service(name, &[], &[]) }
}

fn port(text: &str) -> Port {
    let mut parts = text.split('/');
    let mut next = || parts.next().expect("name/protocol/number");
    let name = next().into();
    let protocol = match next() {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        other => panic!("{other}"),
    };
    Port { name, protocol, port: next().parse().expect("a port"), node_port: 0 }
}

/// Endpoints as `address`, `hostname=address`, or either with a leading `!` for one that is not ready.
pub fn slice(service: &str, index: usize, endpoints: &[&str], ports: &[&str]) -> EndpointSlice {
    let service = service_name(service);
    let endpoints: Vec<Endpoint> = endpoints.iter().map(|text| endpoint(text)).collect();
    let v6 = endpoints.iter().any(|endpoint| endpoint.address.is_ipv6());
    let ports = ports.iter().map(|text| port(text));
    EndpointSlice {
        name: Name::new(service.namespace.clone(), format!("{}-{index}", service.name)),
        service,
        family: if v6 { Family::V6 } else { Family::V4 },
        ports: ports.map(|port| EndpointPort { name: port.name, protocol: port.protocol, port: port.port }).collect(),
        endpoints,
        last_change: None,
    }
}

pub fn pod(name: &str, addresses: &[&str]) -> Pod {
    Pod {
        name: service_name(name),
        uid: "".into(),
        node: "a".into(),
        addresses: addresses.iter().map(|ip| ip.parse().expect("an address")).collect(),
        host_network: false,
        runtime_class: None,
        annotations: BTreeMap::new(),
    }
}

fn endpoint(text: &str) -> Endpoint {
    let (ready, text) = text.strip_prefix('!').map_or((true, text), |text| (false, text));
    let (hostname, address) = text.split_once('=').map_or((None, text), |(hostname, address)| (Some(hostname), address));
    Endpoint {
        address: address.parse().expect("an address"),
        condition: Condition { ready, serving: ready, terminating: false },
        node: None,
        hostname: hostname.map(Into::into),
        pod: None,
        hints: None,
    }
}

/// A world and the zone that follows it.
pub struct Cluster {
    pub config: ZoneConfig,
    pub world: World,
    pub dirty: Dirty,
    pub builder: ZoneBuilder,
}

impl Cluster {
    pub fn new(recursion: bool) -> Self {
        Self::with(&ZoneConfig { recursion, ..config() })
    }

    pub fn with(config: &ZoneConfig) -> Self {
        let builder = ZoneBuilder::new(config).expect("a zone");
        Self { config: config.clone(), world: World::default(), dirty: Dirty::default(), builder }
    }

    pub fn apply(&mut self, change: Change) -> &mut Self {
        self.world.apply(change, &mut self.dirty);
        self
    }

    pub fn service(&mut self, service: Service) -> &mut Self {
        self.apply(Change::Service(service.name.clone(), Some(Arc::new(service))))
    }

    pub fn slice(&mut self, service: &str, endpoints: &[&str], ports: &[&str]) -> &mut Self {
        let index = self.world.slices(&service_name(service)).count();
        let slice = slice(service, index, endpoints, ports);
        self.apply(Change::EndpointSlice(slice.name.clone(), Some(Arc::new(slice))))
    }

    pub fn pod(&mut self, name: &str, addresses: &[&str]) -> &mut Self {
        let pod = pod(name, addresses);
        self.apply(Change::Pod(pod.name.clone(), Some(Arc::new(pod))))
    }

    /// Publishes what is dirty.
    pub fn publish(&mut self) -> Zone {
        let dirty = std::mem::take(&mut self.dirty);
        self.builder.apply(&self.world, &dirty, 42);
        self.builder.snapshot()
    }

    /// Says that this is all.
    pub fn complete(mut self) -> Self {
        self.builder.set_synced();
        self
    }

    /// Publishes what is dirty, and that it is all.
    pub fn synced(&mut self) -> Zone {
        self.builder.set_synced();
        self.publish()
    }
}

pub fn config() -> ZoneConfig {
    let nameservers = vec!["172.30.0.11".parse::<IpAddr>().expect("an address")];
    ZoneConfig { ttl: TTL, nameservers, ..ZoneConfig::default() }
}

/// The cluster that most tests ask.
pub fn sample(recursion: bool) -> Cluster {
    sample_with(&ZoneConfig { recursion, ..config() })
}

pub fn sample_with(config: &ZoneConfig) -> Cluster {
    let mut cluster = Cluster::with(config);
    let http: &[&str] = &["http/tcp/80"];
    cluster
        .service(service("default/kubernetes", &["10.96.0.1"], &["https/tcp/443"]))
        .slice("default/kubernetes", &["172.30.0.1"], &["https/tcp/6443"])
        .service(service("kube-system/kube-dns", &["10.96.0.10"], &["dns/udp/53", "dns-tcp/tcp/53", "metrics/tcp/9153"]))
        .service(service("default/web", &["10.96.0.20"], http))
        .slice("default/web", &["10.244.0.2", "10.244.1.2", "!10.244.1.3", "canary=10.244.1.4"], &["http/tcp/8080"])
        .service(service("default/unnamed", &["10.96.0.21"], &["/tcp/8080"]))
        .service(service("default/dual", &["10.96.0.30", "fd00::30"], http))
        .service(service("default/six", &["fd00::31"], http))
        .service(service("default/pending", &[], http).tap(|service| service.headless = false))
        .service(service("data/db", &[], &["mysql/tcp/3306"]))
        .slice("data/db", &["db-0=10.244.0.5", "DB-1=10.244.1.5", "!db-2=10.244.1.6"], &["mysql/tcp/3306", "x/udp/9"])
        .service(service("data/peers", &[], http))
        .slice("data/peers", &["10.244.0.6"], http)
        .slice("data/peers", &["fd00::6"], http)
        .service(service("data/duo", &[], http))
        .slice("data/duo", &["d-0=10.244.0.11"], http)
        .slice("data/duo", &["d-0=fd00::11"], http)
        .service(service("data/dup", &[], http))
        .slice("data/dup", &["same=10.244.0.12", "same=10.244.0.13", "10.244.0.14"], http)
        .service(service("data/split", &[], &["a/tcp/1"]))
        .slice("data/split", &["10.244.0.15"], &["a/tcp/1001"])
        .slice("data/split", &["10.244.0.16"], &["a/tcp/1002", "b/sctp/7"])
        .service(service("data/twice", &[], http))
        .slice("data/twice", &["10.244.0.17", "10.244.0.17", "t=10.244.0.17"], http)
        .service(service("data/spelled", &[], http))
        .slice("data/spelled", &["10-244-0-19=10.244.0.18", "10.244.0.19"], http)
        .service(service("data/none", &[], http))
        .slice("data/none", &["!10.244.0.7"], http)
        .service(Service { publish_not_ready: true, ..service("data/early", &[], http) })
        .slice("data/early", &["!e-0=10.244.0.8"], http)
        .service(service("data/portless", &[], &[]))
        .slice("data/portless", &["10.244.0.9"], &[])
        .service(external("ext/docs", "docs.example.com"))
        .service(external("ext/inside", "WEB.default.svc.cluster.local."))
        .service(external("ext/chain", "inside.ext.svc.cluster.local"))
        .service(external("ext/round", "round.ext.svc.cluster.local"))
        .service(external("ext/ping", "pong.ext.svc.cluster.local"))
        .service(external("ext/pong", "ping.ext.svc.cluster.local"))
        .service(external("ext/dangling", "nothing.default.svc.cluster.local"))
        .service(external("ext/number", "192.0.2.1"))
        .service(external("ext/set", "db.data.svc.cluster.local"))
        .service(external("ext/pod", "10-0-0-9.default.pod.cluster.local"))
        .service(external("ext/member", "db-0.db.data.svc.cluster.local"))
        .service(external("ext/bad", "a..b"))
        .pod("default/client", &["10.244.0.77", "fd00::77"])
        .pod("jobs/only", &["10.244.0.78"])
        .service(service("lots/many", &[], http));
    let many: Vec<String> = (0..200).map(|index| format!("m-{index}=10.245.0.{index}")).collect();
    cluster.slice("lots/many", &many.iter().map(String::as_str).collect::<Vec<_>>(), http);
    cluster.builder.set_synced();
    cluster
}

/// Changes a value in the middle of an expression.
trait Tap: Sized {
    fn tap(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}

impl Tap for Service {}

/// A query packet. `~` stands for the zone.
pub fn packet(name: &str, rtype: &str, edns: Option<u16>) -> Vec<u8> {
    let name = name.replace('~', "cluster.local");
    // Types of requests rather than of records: the decoder does not know their names.
    let rtype = match rtype {
        "OPT" => 41,
        "TSIG" => 250,
        "IXFR" => 251,
        other => match other.strip_prefix("TYPE") {
            Some(number) => number.parse().expect("a number"),
            None => other.parse::<RecordType>().expect("a record type").into(),
        },
    };
    let mut packet = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00".to_vec();
    // The wire form without lower-casing.
    let wire = name::encode(&name).expect("a name");
    let cased: Vec<u8> = name.trim_end_matches('.').split('.').flat_map(|label| [b"?", label.as_bytes()].concat()).collect();
    let cased = if wire.len() == 1 { Vec::new() } else { cased };
    packet.extend(wire.iter().zip(cased.iter().chain([&0])).map(|(&low, &as_written)| match low.is_ascii_lowercase() {
        true => as_written,
        false => low,
    }));
    packet.extend_from_slice(&rtype.to_be_bytes());
    packet.extend_from_slice(&1u16.to_be_bytes());
    if let Some(size) = edns {
        packet[11] = 1;
        packet.extend_from_slice(&[0, 0, 41]);
        packet.extend_from_slice(&size.to_be_bytes());
        packet.extend_from_slice(&[0; 6]);
    }
    packet
}

/// A reply in words: `Rcode [flags] an[…] ns[…] ar[…]`, records sorted, `@` for the question's own name as it was written,
/// `~` for the zone. An SOA is only named.
pub fn words(reply: &[u8]) -> String {
    read(reply).to_string()
}

/// A reply, taken apart by hickory-proto.
pub fn read(reply: &[u8]) -> Words {
    let message = Message::from_vec(reply).unwrap_or_else(|error| panic!("not a DNS message: {error}"));
    let question = message.queries.first().map(|query| query.name().to_string()).unwrap_or_default();
    let section = |records: &[Record]| {
        let of =
            |record: &Record| (record.name.to_string(), record.ttl, record.record_type().to_string(), record.data.to_string());
        records.iter().map(of).map(|(owner, ttl, rtype, data)| record_words(&question, &owner, ttl, &rtype, &data)).collect()
    };
    let flags = &message.metadata;
    Words {
        rcode: format!("{:?}", flags.response_code),
        flags: [flags.authoritative, flags.truncation, flags.recursion_available],
        sections: [&message.answers, &message.authorities, &message.additionals].map(|records| section(records)),
    }
}

/// One record: owner, TTL, type and data. Of an SOA only that it is one.
pub fn record_words(question: &str, owner: &str, ttl: u32, rtype: &str, data: &str) -> String {
    let short = |name: &str| name.replace("cluster.local.", "~");
    let owner = if owner == question { "@".into() } else { short(owner) };
    match rtype {
        "SOA" => format!("{owner} SOA"),
        _ => format!("{owner} {ttl} {rtype} {}", short(data)),
    }
}

/// What [`words`] puts together, whoever read the reply.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Words {
    pub rcode: String,
    /// aa, tc, ra.
    pub flags: [bool; 3],
    /// Answer, authority, additional.
    pub sections: [Vec<String>; 3],
}

impl Words {
    /// What most replies have is left out: `NoError aa` before answers; `NODATA` and `NXDOMAIN` stand for authoritative
    /// replies with nothing but an SOA, whose owner follows.
    pub fn brief(&self) -> String {
        let text = self.to_string();
        for (long, short) in [("NoError aa ns[", "NODATA"), ("NXDomain aa ns[", "NXDOMAIN")] {
            if let Some(owner) = text.strip_prefix(long).and_then(|rest| rest.strip_suffix(" SOA]")) {
                return format!("{short} {owner}");
            }
        }
        text.strip_prefix("NoError aa ").filter(|rest| rest.starts_with("an[")).map(Into::into).unwrap_or(text)
    }
}

impl std::fmt::Display for Words {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = ["aa", "tc", "ra"].into_iter().zip(self.flags).filter_map(|(name, set)| set.then_some(name.into()));
        let mut parts: Vec<String> = std::iter::once(self.rcode.clone()).chain(names).collect();
        for (name, records) in ["an", "ns", "ar"].into_iter().zip(&self.sections) {
            let mut records = records.clone();
            records.sort();
            if !records.is_empty() {
                parts.push(format!("{name}[{}]", records.join("; ")));
            }
        }
        write!(f, "{}", parts.join(" "))
    }
}
