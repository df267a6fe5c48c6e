//! The language of the table: a cluster in a few words.
//!
//! The node is n1 (172.30.0.11, zone z1). A service is words: an address is its ClusterIP, `80/tcp`, `http=80/tcp:30080`
//! a port, the rest see [`service`]. A slice is a line of text: its ports, a bar, its endpoints; `1.5` is
//! 10.244.1.5 on node n1, `[fd00::5]` an IPv6 address. Suffixes: `!` not ready, `~` serving while terminating, `x`
//! terminating and not serving, `#z1` a hint for a zone, `@n1` a hint for a node.

use thalweg_cluster::{Condition, Endpoint, EndpointPort, EndpointSlice, Family, LoadBalancerAddress, Node};

use super::super::*;

pub(super) fn name(text: &str) -> Name {
    let (namespace, name) = text.split_once('/').expect("namespace/name");
    Name::new(namespace, name)
}

pub(super) fn view() -> NodeView {
    let redirect =
        Some(Redirect { service: name("kube-system/kube-dns"), to: vec!["172.30.0.11:5353".parse().expect("address")] });
    NodeView {
        node: "n1".into(),
        addresses: vec![IpAddr::from([172, 30, 0, 11])],
        zone: Some("z1".into()),
        redirect,
        localhost_node_ports: false,
    }
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
        app_protocol: None,
    }
}

pub(super) fn service(full_name: &str, words: &str) -> Service {
    let mut service = Service {
        name: name(full_name),
        service_type: ServiceType::ClusterIp,
        cluster_ips: Vec::new(),
        headless: false,
        ports: Vec::new(),
        external_ips: Vec::new(),
        load_balancer: Vec::new(),
        source_ranges: Vec::new(),
        affinity_seconds: None,
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        health_check_node_port: 0,
        traffic_distribution: None,
        publish_not_ready: false,
        external_name: None,
        proxy_name: None,
    };
    for word in words.split_whitespace() {
        let (key, value) = word.split_once('~').unwrap_or((word, ""));
        match key {
            "headless" => service.headless = true,
            "external-name" => service.service_type = ServiceType::ExternalName,
            "other-proxy" => service.proxy_name = Some("other".into()),
            "internal-local" => service.internal_policy = TrafficPolicy::Local,
            "external-local" => service.external_policy = TrafficPolicy::Local,
            "affinity" => service.affinity_seconds = Some(value.parse().expect("seconds")),
            "external" => service.external_ips.push(value.parse().expect("address")),
            "from" => service.source_ranges.push(value.parse().expect("range")),
            "lb" => service.load_balancer.push(LoadBalancerAddress { ip: value.parse().expect("address"), proxied: false }),
            "lb-proxied" => {
                service.load_balancer.push(LoadBalancerAddress { ip: value.parse().expect("address"), proxied: true })
            }
            word if word.contains('/') => service.ports.push(port(word)),
            word => service.cluster_ips.push(word.parse().expect("address")),
        }
    }
    service
}

fn endpoint(text: &str) -> Endpoint {
    let body = text.trim_end_matches(|c: char| "!~x".contains(c));
    let suffix = &text[body.len()..];
    let (body, hint) = match body.find(['#', '@']) {
        Some(at) => (&body[..at], Some(&body[at..])),
        None => (body, None),
    };
    let (node, host) = body.split_once('.').unwrap_or(("6", ""));
    let hint_of = |sign: char| hint.and_then(|hint| hint.strip_prefix(sign)).map(Into::into).into_iter().collect();
    Endpoint {
        addresses: vec![
            match body.strip_prefix('[') {
                Some(v6) => v6.trim_end_matches(']').parse(),
                None => format!("10.244.{node}.{host}").parse(),
            }
            .expect("address"),
        ],
        condition: Condition {
            ready: suffix.is_empty(),
            serving: suffix.is_empty() || suffix == "~",
            terminating: suffix == "~" || suffix == "x",
        },
        node: Some(format!("n{node}").into()),
        zone: None,
        hostname: None,
        hint_zones: hint_of('#'),
        hint_nodes: hint_of('@'),
        pod: None,
    }
}

pub(super) fn slice(index: usize, service: &Name, line: &str) -> EndpointSlice {
    let (ports, endpoints) = line.split_once('|').expect("ports | endpoints");
    EndpointSlice {
        name: Name { namespace: service.namespace.clone(), name: format!("slice-{index}").into() },
        service: service.clone(),
        family: if endpoints.contains('[') { Family::V6 } else { Family::V4 },
        ports: ports
            .split_whitespace()
            .map(port)
            .map(|port| EndpointPort { name: port.name, protocol: port.protocol, port: port.port })
            .collect(),
        endpoints: endpoints.split_whitespace().map(endpoint).collect(),
    }
}

pub(super) fn node(name: &str, address: [u8; 4]) -> Node {
    let addresses = vec![IpAddr::from(address)];
    Node { name: name.into(), addresses, pod_cidrs: Vec::new(), zone: None, deleting: false, taints: Vec::new() }
}
