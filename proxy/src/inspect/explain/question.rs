//! The packet that is asked about, and how a person writes it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;
use thalweg_abi::Proto;

use crate::inspect::protocol;

/// Where a packet comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// A pod of this node.
    Pod,
    /// A process in the node's own network namespace.
    Node,
    /// Another node, or outside of the cluster.
    Outside,
}

/// One packet: the first of a new connection, unless its source port says that it belongs to an old one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Question {
    pub source: IpAddr,
    /// Decides which flow it is; unknown for a new connection.
    pub source_port: Option<u16>,
    pub destination: IpAddr,
    /// `None` for protocols without ports.
    pub port: Option<u16>,
    pub protocol: Proto,
    /// `None`: found out from the source address.
    pub from: Option<Origin>,
}

/// Why a question cannot be answered, with what to write instead.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unclear {
    #[error("{0:?} is no source: write ADDRESS or ADDRESS:PORT ([ADDRESS]:PORT for IPv6)")]
    Source(String),
    #[error("{0:?} is no destination: write ADDRESS:PORT/PROTOCOL, such as 10.96.0.1:443/tcp or [fd00::1]:53/udp")]
    Destination(String),
    #[error("{0:?} is no protocol here: write tcp, udp, sctp or icmp")]
    Protocol(String),
    #[error("{0} has ports: write {1}:PORT/{0}")]
    Port(String, String),
    #[error("{0} is IPv4 and {1} is IPv6: a packet has one family")]
    Families(IpAddr, IpAddr),
}

// === impl Question ===

impl Question {
    /// `source`: `ADDRESS[:PORT]`; `destination`: `ADDRESS[:PORT][/PROTOCOL]`, where the protocol is TCP unless said.
    ///
    /// # Errors
    /// [`Unclear`].
    pub fn parse(source: &str, destination: &str, from: Option<Origin>) -> Result<Self, Unclear> {
        let (source_addr, source_port) = endpoint(source).ok_or_else(|| Unclear::Source(source.to_owned()))?;
        let (address, proto) = destination.rsplit_once('/').unwrap_or((destination, "tcp"));
        let (to, port) = endpoint(address).ok_or_else(|| Unclear::Destination(destination.to_owned()))?;
        let named = match proto.to_ascii_lowercase().as_str() {
            "tcp" => Proto::TCP,
            "udp" => Proto::UDP,
            "sctp" => Proto::SCTP,
            "icmp" if to.is_ipv4() => Proto::ICMP,
            "icmp" | "icmpv6" => Proto::ICMPV6,
            _ => return Err(Unclear::Protocol(proto.to_owned())),
        };
        let has_ports = !matches!(named, Proto::ICMP | Proto::ICMPV6);
        match (has_ports, port) {
            (true, None | Some(0)) => {
                let shown = if to.is_ipv6() { format!("[{to}]") } else { to.to_string() };
                return Err(Unclear::Port(proto.to_owned(), shown));
            }
            (false, Some(_)) => return Err(Unclear::Destination(destination.to_owned())),
            _ => {}
        }
        match (source_addr, to) {
            (v4 @ IpAddr::V4(_), v6 @ IpAddr::V6(_)) | (v6 @ IpAddr::V6(_), v4 @ IpAddr::V4(_)) => {
                Err(Unclear::Families(v4, v6))
            }
            _ => Ok(Self { source: source_addr, source_port, destination: to, port, protocol: named, from }),
        }
    }
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |addr: IpAddr, port: Option<u16>| match port {
            Some(port) => SocketAddr::new(addr, port).to_string(),
            None => addr.to_string(),
        };
        let (from, to) = (at(self.source, self.source_port), at(self.destination, self.port));
        write!(f, "{from} -> {to}/{}", protocol(self.protocol))
    }
}

/// `ADDRESS`, `ADDRESS:PORT` or `[ADDRESS]:PORT`. A mapped address is one of IPv4.
fn endpoint(text: &str) -> Option<(IpAddr, Option<u16>)> {
    let text = text.trim();
    if let Ok(at) = text.parse::<SocketAddr>() {
        return Some((at.ip().to_canonical(), Some(at.port())));
    }
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse::<IpAddr>().ok().map(|addr| (addr.to_canonical(), None))
}
