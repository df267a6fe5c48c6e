//! The documents on the agent's socket: one request, one reply, both JSON and ended by closing that direction.
//!
//! ADD and CHECK carry the container's network namespace as a file descriptor beside the first bytes (`SCM_RIGHTS`):
//! the agent may live in another mount or pid namespace, where the runtime's path means nothing.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::CniError;
use crate::host_ports::HostPort;

/// Version of these documents; agent and plugin of one release agree.
pub const PROTOCOL: u32 = 1;
/// Larger documents are refused (a GC of ten thousand attachments has about 1 MiB).
pub const MAX_DOCUMENT: u64 = 16 << 20;
pub const DEFAULT_SOCKET: &str = "/run/thalweg/cni.sock";
pub const DEFAULT_STATE_DIR: &str = "/var/lib/thalweg";
/// The next hop of every pod; nobody owns it, a permanent neighbour entry gives it the host end's hardware address.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// What the specification calls an attachment, within one network.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct AttachmentId {
    #[serde(rename = "containerID")]
    pub container_id: String,
    pub ifname: String,
}

/// The pod behind a container, from `CNI_ARGS`; empty outside Kubernetes.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct PodName {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

/// A hardware address; as text `02:74:0a:f4:01:05`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Request {
    pub protocol: u32,
    /// `name` of the network configuration.
    pub network: String,
    pub command: Command,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Command {
    Add(Add),
    Del(AttachmentId),
    Check(Check),
    /// The attachments that are still valid; everything else of the network goes.
    Gc(Vec<AttachmentId>),
    Status,
}

/// The namespace's descriptor comes beside.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Add {
    pub id: AttachmentId,
    pub pod: PodName,
    /// Requested addresses, at most one of a family.
    pub ips: Vec<IpAddr>,
    pub mac: Option<Mac>,
    /// Where the runtime sees the namespace. For the agent, which may see other paths, no more than a hint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<PathBuf>,
    /// Ports of the node that are to lead to the pod.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_ports: Vec<HostPort>,
}

/// The namespace's descriptor comes beside.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Check {
    pub id: AttachmentId,
    /// The addresses that the previous result names.
    pub ips: Vec<IpAddr>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Reply {
    Added(Attached),
    Done,
    Failed(CniError),
}

/// What ADD made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Attached {
    pub host_ifname: String,
    pub host_mac: Mac,
    pub pod_mac: Mac,
    pub mtu: u32,
    pub addresses: Vec<IpAddr>,
}

/// A DEL that was answered without the agent; a file in [`tombstone_dir`] that the agent honours and removes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Tombstone {
    pub network: String,
    pub id: AttachmentId,
}

// === impl AttachmentId ===

impl AttachmentId {
    pub fn new(container_id: impl Into<String>, ifname: impl Into<String>) -> Self {
        Self { container_id: container_id.into(), ifname: ifname.into() }
    }

    /// Name of the host's end of the link: `tw` and 13 characters of a hash, 15 in all, so that it is found without
    /// any state.
    pub fn host_ifname(&self) -> String {
        const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
        let mut bits = hash(&[self.container_id.as_bytes(), self.ifname.as_bytes()]);
        let mut name = String::with_capacity(15);
        name.push_str("tw");
        for _ in 0..13 {
            name.push(char::from(DIGITS[(bits >> 59) as usize]));
            bits <<= 5;
        }
        name
    }
}

impl fmt::Display for AttachmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.container_id, self.ifname)
    }
}

// === impl Mac ===

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a hardware address of six octets");
        let mut octets = [0u8; 6];
        let mut parts = text.split([':', '-']);
        for octet in &mut octets {
            let part = parts.next().filter(|part| part.len() == 2).ok_or_else(wrong)?;
            *octet = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        if parts.next().is_some() {
            return Err(wrong());
        }
        if octets[0] & 1 != 0 || octets == [0; 6] {
            return Err(format!("{text} is not the address of one host"));
        }
        Ok(Self(octets))
    }
}

impl TryFrom<String> for Mac {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

// === functions ===

/// Where tombstones lie below the agent's state directory.
pub fn tombstone_dir(state_dir: &Path) -> PathBuf {
    state_dir.join("cni/tombstones")
}

/// FNV-1a over the parts with a separator, finished so that every input bit reaches every output bit. Stable for ever:
/// names of links depend on it.
pub fn hash(parts: &[&[u8]]) -> u64 {
    let mut state = 0xcbf2_9ce4_8422_2325_u64;
    let mut take = |byte: u8| state = (state ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    for part in parts {
        part.iter().copied().for_each(&mut take);
        take(0xff);
    }
    state = (state ^ (state >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    state = (state ^ (state >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    state ^ (state >> 33)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::host_ports::Transport;

    #[test]
    fn host_ifname_fits_and_is_stable() {
        let id = AttachmentId::new("c0ffee", "eth0");
        assert_eq!(id.host_ifname(), id.host_ifname());
        let mut seen = BTreeSet::new();
        for container in 0..20_000 {
            for ifname in ["eth0", "eth1"] {
                let name = AttachmentId::new(format!("{container:064x}"), ifname).host_ifname();
                assert!(name.len() == 15 && name.starts_with("tw"), "{name}");
                assert!(seen.insert(name));
            }
        }
        // The separator keeps the border between container and interface.
        assert_ne!(AttachmentId::new("ab", "c").host_ifname(), AttachmentId::new("a", "bc").host_ifname());
    }

    #[test]
    fn mac_texts() {
        assert_eq!("02:74:0a:F4:01:05".parse(), Ok(Mac([2, 0x74, 10, 0xf4, 1, 5])));
        assert_eq!("02-74-0a-f4-01-05".parse::<Mac>().map(|mac| mac.to_string()), Ok("02:74:0a:f4:01:05".to_owned()));
        for wrong in ["", "02:74:0a:f4:01", "02:74:0a:f4:01:05:06", "2:74:0a:f4:01:05", "zz:74:0a:f4:01:05"] {
            assert!(wrong.parse::<Mac>().is_err(), "{wrong}");
        }
        assert!("01:00:5e:00:00:01".parse::<Mac>().is_err(), "multicast");
        assert!("00:00:00:00:00:00".parse::<Mac>().is_err(), "zero");
    }

    #[test]
    fn documents_round_trip() {
        let id = AttachmentId::new("c0ffee", "eth0");
        let pod = PodName { namespace: "default".into(), name: "web-0".into(), uid: "u".into() };
        let add = Add {
            id: id.clone(),
            pod,
            ips: vec![],
            mac: Some(Mac([2, 0, 0, 0, 0, 1])),
            netns: Some("/run/netns/p".into()),
            host_ports: vec![HostPort { ip: Some([10, 0, 0, 1].into()), port: 8080, target: 80, protocol: Transport::Udp }],
        };
        for command in [Command::Add(add), Command::Del(id.clone()), Command::Gc(vec![id]), Command::Status] {
            let request = Request { protocol: PROTOCOL, network: "thalweg".into(), command };
            let text = serde_json::to_string(&request).unwrap();
            assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), request, "{text}");
        }
        // As a plugin without ports writes it, which is as older ones did.
        let text =
            r#"{"id":{"containerID":"c","ifname":"eth0"},"pod":{"namespace":"","name":"","uid":""},"ips":[],"mac":null}"#;
        let add: Add = serde_json::from_str(text).unwrap();
        assert_eq!((add.host_ports.as_slice(), serde_json::to_string(&add).unwrap().as_str()), (&[][..], text));
    }
}
