//! The services of a lab: a few that are asked, one whose endpoint moves, and as many as one likes that nobody asks.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use thalweg_lab::file::{FileNode, FilePod};

/// Ports of the servers: what comes back (TCP and UDP), and what is counted.
pub const PORT: u16 = 9090;
pub const SINK: u16 = 9091;
/// Services besides those that nobody asks: two servers in two families, and the one that moves.
const ASKED: u32 = 5;

/// A service's port as manifests say it, by a name that its slice has too.
struct Port {
    name: &'static str,
    protocol: &'static str,
    port: u16,
    target: u16,
    node: Option<u16>,
}

/// As many services, with two endpoints each, that there are `count` with those that are asked; as one file.
pub fn many(count: u32) -> String {
    let mut text = String::new();
    let port = Port { name: "web", protocol: "TCP", port: 80, target: 8080, node: None };
    for number in 0..count.saturating_sub(ASKED) {
        let vip = many_vip(number);
        let pods = [0, 1].map(|pod| Ipv4Addr::from(0x0ac8_0000 + 2 * number + pod));
        let endpoints = pods.map(|pod| format!("{{\"addresses\":[\"{pod}\"]}}"));
        service(&mut text, &format!("s{number}"), vip.into(), &[&port], &endpoints);
    }
    text
}

/// The virtual IP of number so and so of the many.
pub fn many_vip(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a61_0000 + number)
}

/// How many services there are at least when `count` were asked for.
pub fn expected(count: u32) -> u64 {
    count.max(ASKED).into()
}

/// One NodePort service in front of each of the servers, in both families.
pub fn few(pods: &[&FilePod], nodes: &[FileNode]) -> String {
    let mut text = String::new();
    for (index, pod) in pods.iter().enumerate() {
        let node = &nodes[pod.node].name;
        for family in [4, 6] {
            let address: IpAddr = match (family, pod.addr6) {
                (4, _) => pod.addr.into(),
                (_, Some(addr6)) => addr6.into(),
                (_, None) => continue,
            };
            let open = node_port(index, family);
            let ports = [
                Port { name: "lines", protocol: "TCP", port: PORT, target: PORT, node: Some(open) },
                Port { name: "datagrams", protocol: "UDP", port: PORT, target: PORT, node: Some(open) },
                Port { name: "sink", protocol: "TCP", port: SINK, target: SINK, node: Some(open + 1) },
            ];
            let endpoint = format!("{{\"addresses\":[\"{address}\"],\"nodeName\":\"{node}\"}}");
            service(
                &mut text,
                &format!("{}-{family}", pod.name),
                vip(index, family),
                &ports.each_ref(),
                std::slice::from_ref(&endpoint),
            );
        }
    }
    text
}

/// Of the service in front of server `index`.
pub fn vip(index: usize, family: u8) -> IpAddr {
    let host = 1 + u8::try_from(index).unwrap_or_default();
    match family {
        4 => Ipv4Addr::new(10, 96, 1, host).into(),
        _ => Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 1, host.into()).into(),
    }
}

/// The node's port for what comes back; the next one is for what is counted.
pub fn node_port(index: usize, family: u8) -> u16 {
    30_100 + 10 * u16::try_from(index).unwrap_or_default() + if family == 4 { 0 } else { 5 }
}

/// One service whose endpoint is another with each number.
pub fn moving(number: u32) -> String {
    let mut text = String::new();
    let pod = Ipv4Addr::from(0xc612_0000 + number);
    let port = Port { name: "web", protocol: "TCP", port: 80, target: 80, node: None };
    service(&mut text, "moving", Ipv4Addr::new(10, 96, 1, 200).into(), &[&port], &[format!("{{\"addresses\":[\"{pod}\"]}}")]);
    text
}

fn service(text: &mut String, name: &str, vip: IpAddr, ports: &[&Port], endpoints: &[String]) {
    let family = if vip.is_ipv4() { "IPv4" } else { "IPv6" };
    let kind = if ports.iter().any(|port| port.node.is_some()) { "NodePort" } else { "ClusterIP" };
    let of_service = |port: &&Port| {
        let Port { name, protocol, port, target, node } = port;
        let node = node.map(|node| format!(",\"nodePort\":{node}")).unwrap_or_default();
        format!("{{\"name\":\"{name}\",\"protocol\":\"{protocol}\",\"port\":{port},\"targetPort\":{target}{node}}}")
    };
    let of_slice =
        |port: &&Port| format!("{{\"name\":\"{}\",\"protocol\":\"{}\",\"port\":{}}}", port.name, port.protocol, port.target);
    let list = |of: &dyn Fn(&&Port) -> String| ports.iter().map(of).collect::<Vec<_>>().join(",");
    // JSON is YAML, and faster to read.
    let written = write!(
        text,
        "---\n{{\"apiVersion\":\"v1\",\"kind\":\"Service\",\"metadata\":{{\"name\":\"{name}\",\"namespace\":\"bench\"}},\
         \"spec\":{{\"type\":\"{kind}\",\"clusterIP\":\"{vip}\",\"clusterIPs\":[\"{vip}\"],\"ports\":[{}]}}}}\n\
         ---\n{{\"apiVersion\":\"discovery.k8s.io/v1\",\"kind\":\"EndpointSlice\",\"metadata\":{{\"name\":\"{name}-1\",\"namespace\":\"bench\",\
         \"labels\":{{\"kubernetes.io/service-name\":\"{name}\"}}}},\"addressType\":\"{family}\",\
         \"ports\":[{}],\"endpoints\":[{}]}}\n",
        list(&of_service),
        list(&of_slice),
        endpoints.join(","),
    );
    // Nothing can go wrong when a text is written into a text.
    written.unwrap_or(());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_service_has_an_address_of_its_own() {
        let text = many(70_000) + &moving(3);
        let vips: std::collections::BTreeSet<&str> =
            text.split("\"clusterIP\":\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert_eq!(vips.len(), 70_000 - ASKED as usize + 1);
        let lines = text.lines().filter(|line| line.starts_with('{'));
        assert!(lines.into_iter().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()));
    }

    #[test]
    fn ports_of_nodes_do_not_meet() {
        let mut ports: Vec<u16> = [0, 1]
            .into_iter()
            .flat_map(|index| [4, 6].map(|family| node_port(index, family)))
            .flat_map(|port| [port, port + 1])
            .collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 8);
    }
}
