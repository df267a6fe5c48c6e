//! hostPorts: what the runtime asks for in `runtimeConfig.portMappings`, and when two pods ask for the same.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{CniError, code};

/// A port of the node that leads to a pod.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct HostPort {
    /// The node's address that is meant; `None` for all of them, an unspecified one for all of its family.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<IpAddr>,
    pub port: u16,
    /// The port of the pod.
    pub target: u16,
    pub protocol: Transport,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    Tcp,
    Udp,
    Sctp,
}

/// An element of the list, as runtimes write it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mapping {
    #[serde(default)]
    host_port: i64,
    #[serde(default)]
    container_port: i64,
    #[serde(default)]
    protocol: Option<String>,
    #[serde(rename = "hostIP", default)]
    host_ip: Option<String>,
}

/// Reads the list. A mapping to port 0 of the node is none: runtimes pass on every port that a container names.
///
/// # Errors
/// Code 7 names the element that cannot be.
pub fn parse(list: &Value) -> Result<Vec<HostPort>, CniError> {
    let wrong =
        |index: usize, why: String| CniError::new(code::INVALID_CONFIG, format!("runtimeConfig.portMappings[{index}]: {why}"));
    let mappings: Vec<Value> = serde_json::from_value(list.clone())
        .map_err(|_| CniError::new(code::INVALID_CONFIG, format!("runtimeConfig.portMappings is not a list: {list}")))?;
    let mut ports: Vec<HostPort> = Vec::with_capacity(mappings.len());
    for (index, mapping) in mappings.into_iter().enumerate() {
        let mapping: Mapping = serde_json::from_value(mapping).map_err(|error| wrong(index, error.to_string()))?;
        let Some(port) = mapping.read().map_err(|why| wrong(index, why))? else { continue };
        match ports.iter().find(|other| other.is_same(&port)) {
            Some(other) if other.target != port.target => {
                let (one, two) = (other.target, port.target);
                return Err(wrong(index, format!("{port} leads to port {one} of the pod already, not to {two}")));
            }
            Some(_) => {}
            None => ports.push(port),
        }
    }
    Ok(ports)
}

// === impl HostPort ===

impl HostPort {
    /// Two pods cannot both have them: they have an address in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        let of_one_family = |a: IpAddr, b: IpAddr| a.is_ipv4() == b.is_ipv4();
        (self.port, self.protocol) == (other.port, other.protocol)
            && match (self.ip, other.ip) {
                (None, _) | (_, None) => true,
                (Some(a), Some(b)) => of_one_family(a, b) && (a == b || a.is_unspecified() || b.is_unspecified()),
            }
    }

    fn is_same(&self, other: &Self) -> bool {
        (self.ip, self.port, self.protocol) == (other.ip, other.port, other.protocol)
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ip, port, protocol, .. } = self;
        match ip {
            Some(IpAddr::V6(ip)) => write!(f, "[{ip}]:{port}/{protocol}"),
            Some(IpAddr::V4(ip)) => write!(f, "{ip}:{port}/{protocol}"),
            None => write!(f, "*:{port}/{protocol}"),
        }
    }
}

// === impl Transport ===

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

// === impl Mapping ===

impl Mapping {
    fn read(&self) -> Result<Option<HostPort>, String> {
        if self.host_port == 0 {
            return Ok(None);
        }
        let number = |name: &str, number: i64| {
            u16::try_from(number).ok().filter(|port| *port != 0).ok_or_else(|| format!("{name} {number} is not a port"))
        };
        let protocol = match self.protocol.as_deref().unwrap_or_default().to_ascii_lowercase().as_str() {
            "" | "tcp" => Transport::Tcp,
            "udp" => Transport::Udp,
            "sctp" => Transport::Sctp,
            other => return Err(format!("protocol {other:?} is none of tcp, udp and sctp")),
        };
        let ip = match self.host_ip.as_deref().unwrap_or_default() {
            "" => None,
            text => {
                let ip: IpAddr = text.parse().map_err(|_| format!("hostIP {text:?} is not an address"))?;
                Some(ip.to_canonical())
            }
        };
        let (port, target) = (number("hostPort", self.host_port)?, number("containerPort", self.container_port)?);
        Ok(Some(HostPort { ip, port, target, protocol }))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn port(ip: &str, port: u16, protocol: Transport) -> HostPort {
        HostPort { ip: ip.parse().ok(), port, target: 80, protocol }
    }

    #[test]
    fn what_runtimes_write() {
        let list = json!([
            {"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": ""},
            {"hostPort": 53, "containerPort": 5353, "protocol": "UDP", "hostIP": "127.0.0.1"},
            {"hostPort": 9, "containerPort": 80, "protocol": "SCTP", "hostIP": "::ffff:172.30.0.11"},
            {"hostPort": 0, "containerPort": 81, "protocol": "tcp"},
            {"containerPort": 82},
            {"hostPort": 8081, "containerPort": 80, "hostIP": null},
            {"hostPort": 8080, "containerPort": 80, "protocol": "TCP"},
        ]);
        let wanted = [
            port("", 8080, Transport::Tcp),
            HostPort { target: 5353, ..port("127.0.0.1", 53, Transport::Udp) },
            port("172.30.0.11", 9, Transport::Sctp),
            port("", 8081, Transport::Tcp),
        ];
        assert_eq!(parse(&list).unwrap(), wanted);
    }

    #[test]
    fn refused() {
        let one = |hosts: Value| json!([{"hostPort": 1, "containerPort": 1}, hosts]);
        let table = [
            (json!({"hostPort": 80}), "not a list"),
            (one(json!(80)), "portMappings[1]"),
            (one(json!({"hostPort": 70_000, "containerPort": 80})), "portMappings[1]: hostPort 70000 is not a port"),
            (one(json!({"hostPort": -1, "containerPort": 80})), "hostPort -1 is not a port"),
            (one(json!({"hostPort": 80})), "containerPort 0 is not a port"),
            (one(json!({"hostPort": 80, "containerPort": 80, "protocol": "icmp"})), "protocol \"icmp\""),
            (one(json!({"hostPort": 80, "containerPort": 80, "hostIP": "node"})), "hostIP \"node\""),
            (one(json!({"hostPort": 1, "containerPort": 2})), "*:1/tcp leads to port 1 of the pod already, not to 2"),
        ];
        for (list, words) in table {
            let error = parse(&list).unwrap_err();
            assert_eq!(error.code, code::INVALID_CONFIG);
            assert!(error.msg.contains(words), "{words:?} in {error}");
        }
    }

    #[test]
    fn overlaps() {
        let (tcp, udp) = (Transport::Tcp, Transport::Udp);
        let table = [
            (port("", 80, tcp), port("", 80, tcp), true),
            (port("", 80, tcp), port("", 80, udp), false),
            (port("", 80, tcp), port("", 81, tcp), false),
            (port("", 80, tcp), port("10.0.0.1", 80, tcp), true),
            (port("", 80, tcp), port("fd00::1", 80, tcp), true),
            (port("10.0.0.1", 80, tcp), port("10.0.0.2", 80, tcp), false),
            (port("10.0.0.1", 80, tcp), port("10.0.0.1", 80, tcp), true),
            (port("0.0.0.0", 80, tcp), port("10.0.0.1", 80, tcp), true),
            (port("0.0.0.0", 80, tcp), port("::", 80, tcp), false),
            (port("0.0.0.0", 80, tcp), port("fd00::1", 80, tcp), false),
            (port("::", 80, tcp), port("fd00::1", 80, tcp), true),
        ];
        for (a, b, wanted) in table {
            assert_eq!((a.overlaps(&b), b.overlaps(&a)), (wanted, wanted), "{a} and {b}");
        }
    }

    #[test]
    fn texts() {
        let texts = ["", "10.0.0.1", "fd00::1"].map(|ip| port(ip, 80, Transport::Tcp).to_string());
        assert_eq!(texts, ["*:80/tcp", "10.0.0.1:80/tcp", "[fd00::1]:80/tcp"]);
    }
}
