//! The language of the tables: a cluster in a few words.
//!
//! The node is n1 (`node` and `node6`, zone z1); n2 is another. A service is words: an address is its ClusterIP (`vip`
//! and `vip6` are the usual ones), `80/tcp`, `http=80/tcp:30080` a port, the rest see [`service`]; words that start
//! with `view:` are about the node and go to [`view`]. A slice is a line of text: its ports, a bar, its endpoints; `1.5`
//! is an IPv4 address on node n1, `6.1.5` an IPv6 address there, `-.5` one on no node. Suffixes: `!` not ready, `~`
//! serving while terminating, `x` terminating and not serving, `+` ready while terminating, `#z1` a hint for a zone,
//! `@n1` a hint for a node, `#z1,z2` for several; node hints come first.

use thalweg_cluster::{
    Condition, Endpoint, EndpointPort, EndpointSlice, External, Family, Hints, LoadBalancerAddress, Node, ServiceType,
    TrafficPolicy,
};

use super::super::*;

/// Addresses that are so common that they have names.
const NAMES: [(&str, &str); 7] = [
    ("vip", "10.96.0.7"),
    ("vip6", "fd00:96::7"),
    ("node", "172.30.0.11"),
    ("node6", "2001:db8::11"),
    ("lb", "192.0.2.1"),
    ("lb6", "2001:db8:1::1"),
    ("localhost", "127.0.0.1"),
];

pub(crate) fn name(text: &str) -> Name {
    let (namespace, name) = text.split_once('/').expect("namespace/name");
    Name::new(namespace, name)
}

pub(crate) fn address(word: &str) -> IpAddr {
    let text = NAMES.iter().find(|(name, _)| *name == word).map_or(word, |(_, address)| address);
    text.parse().unwrap_or_else(|_| panic!("{word} is no address"))
}

/// As [`address`] and [`endpoint`] read it.
pub(crate) fn short(address: IpAddr) -> String {
    let text = address.to_string();
    if let Some((name, _)) = NAMES.iter().find(|(_, named)| *named == text) {
        return (*name).to_owned();
    }
    match (text.strip_prefix("10.244."), text.strip_prefix("fd00:244:")) {
        (Some(v4), _) => v4.to_owned(),
        (_, Some(v6)) => format!("6.{}", v6.replace("::", ".")),
        _ => text,
    }
}

/// What this node is, by the words that are about it.
pub(crate) fn view<'a>(words: impl Iterator<Item = &'a str>) -> NodeView {
    let dns = |address: &str| format!("{address}:5353").parse().expect("address");
    let mut redirect = Redirect { service: name("kube-system/kube-dns"), to: vec![dns("172.30.0.11")] };
    let mut view = NodeView {
        node: "n1".into(),
        addresses: vec![address("node"), address("node6")],
        zone: Some("z1".into()),
        redirect: None,
        localhost_node_ports: false,
    };
    for word in words {
        match word.split_once('~').unwrap_or((word, "")) {
            ("no-zone", _) => view.zone = None,
            ("no-addresses", _) => view.addresses.clear(),
            ("address", value) => view.addresses.push(address(value)),
            ("localhost", _) => view.localhost_node_ports = true,
            ("dns6", _) => redirect.to.push(dns("[2001:db8::11]")),
            other => panic!("{other:?} says nothing of a node"),
        }
    }
    view.redirect = Some(redirect);
    view
}

fn protocol_of(text: &str) -> Protocol {
    match text {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        other => panic!("protocol {other}"),
    }
}

/// `[name=]number/protocol[:nodePort]`
fn port(text: &str) -> Port {
    let (name, rest) = text.split_once('=').unwrap_or(("", text));
    let (rest, node_port) = rest.split_once(':').unwrap_or((rest, "0"));
    let (number, protocol) = rest.split_once('/').expect("number/protocol");
    Port {
        name: name.into(),
        protocol: protocol_of(protocol),
        port: number.parse().expect("port"),
        node_port: node_port.parse().expect("node port"),
    }
}

pub(crate) fn service<'a>(full_name: &str, words: impl Iterator<Item = &'a str>) -> Service {
    let mut service = Service::new(name(full_name));
    for word in words {
        let (key, value) = word.split_once('~').unwrap_or((word, ""));
        match key {
            "headless" => service.headless = true,
            "external-name" => service.service_type = ServiceType::ExternalName,
            "other-proxy" => service.proxy_name = Some("other".into()),
            "internal-local" => service.internal_policy = TrafficPolicy::Local,
            "external-local" => service.external_policy = TrafficPolicy::Local,
            "affinity" => service.affinity_seconds = Some(value.parse().expect("seconds")),
            "external" => external(&mut service).ips.push(address(value)),
            "health" => service.health_check_node_port = value.parse().expect("port"),
            // Whoever writes the slices turns it into hints.
            "distribution" => {}
            "from" => external(&mut service).source_ranges.push(value.parse().expect("range")),
            "lb" if !value.is_empty() => balance(&mut service, value, false),
            "lb-proxied" => balance(&mut service, value, true),
            word if word.contains('/') => service.ports.push(port(word)),
            word => service.cluster_ips.push(address(word)),
        }
    }
    service
}

fn external(service: &mut Service) -> &mut External {
    service.external.get_or_insert_default()
}

fn balance(service: &mut Service, ip: &str, proxied: bool) {
    external(service).load_balancer.push(LoadBalancerAddress { ip: address(ip), proxied });
}

fn endpoint(text: &str) -> Endpoint {
    let body = text.trim_end_matches(|c: char| "!~x+".contains(c));
    let suffix = &text[body.len()..];
    let (body, hint) = match body.find(['#', '@']) {
        Some(at) => (&body[..at], Some(&body[at..])),
        None => (body, None),
    };
    let (v6, body) = body.strip_prefix("6.").map_or((false, body), |body| (true, body));
    let (node, host) = body.split_once('.').expect("node.host");
    let net = if node == "-" { "9" } else { node };
    let hint_of = |sign: char| {
        let names = hint.and_then(|hint| hint.split_once(sign)).map_or("", |(_, names)| names);
        names.split(['#', '@']).next().unwrap_or_default().split(',').filter(|name| !name.is_empty()).map(Into::into).collect()
    };
    let address = if v6 { format!("fd00:244:{net}::{host}") } else { format!("10.244.{net}.{host}") };
    Endpoint {
        address: address.parse().expect("address"),
        condition: Condition {
            ready: suffix.is_empty() || suffix == "+",
            serving: suffix.is_empty() || suffix == "~" || suffix == "+",
            terminating: suffix == "~" || suffix == "x" || suffix == "+",
        },
        node: (node != "-").then(|| format!("n{node}").into()),
        hostname: None,
        pod: None,
        hints: Some(Box::new(Hints { zones: hint_of('#'), nodes: hint_of('@') })),
    }
}

pub(crate) fn slice(index: usize, service: &Name, line: &str) -> EndpointSlice {
    let (ports, endpoints) = line.split_once('|').expect("ports | endpoints");
    EndpointSlice {
        name: Name { namespace: service.namespace.clone(), name: format!("slice-{index}").into() },
        service: service.clone(),
        family: if endpoints.trim_start().starts_with("6.") { Family::V6 } else { Family::V4 },
        ports: ports
            .split_whitespace()
            .map(port)
            .map(|port| EndpointPort { name: port.name, protocol: port.protocol, port: port.port })
            .collect(),
        endpoints: endpoints.split_whitespace().map(endpoint).collect(),
        last_change: None,
    }
}

pub(crate) fn node(name: &str, addresses: [&str; 2]) -> Node {
    let addresses = addresses.map(address).to_vec();
    Node { name: name.into(), addresses, pod_cidrs: Vec::new(), zone: None, deleting: false, taints: Vec::new() }
}
