//! What the alias of a host link says: enough to know an attachment again when the journal is lost.
//!
//! `ip link` shows it: `alias thalweg thalweg c0ffee… eth0 02:74:0a:f4:01:05 4026532900 10.244.1.5`.

use std::net::IpAddr;
use std::str::FromStr;

use thalweg_cni::protocol::{AttachmentId, Mac, PodName};

use crate::journal::Entry;
use crate::links::HostLink;

/// The kernel's limit, with its closing zero.
const LONGEST: usize = 255;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Alias {
    pub network: String,
    pub id: AttachmentId,
    pub pod_mac: Mac,
    pub netns: u64,
    pub addresses: Vec<IpAddr>,
}

// === impl Alias ===

impl Alias {
    pub fn of(entry: &Entry) -> Self {
        Self {
            network: entry.network.clone(),
            id: entry.id.clone(),
            pod_mac: entry.pod_mac,
            netns: entry.netns,
            addresses: entry.addresses.clone(),
        }
    }

    /// `None` when the kernel would not take it (a container id of 200 characters).
    pub fn text(&self) -> Option<String> {
        let Self { network, id, pod_mac, netns, addresses } = self;
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let text = format!("thalweg {network} {} {} {pod_mac} {netns} {}", id.container_id, id.ifname, addresses.join(","));
        (text.len() <= LONGEST).then_some(text)
    }

    /// The attachment as the journal would have it; the pod's name and its host ports are not known any more.
    pub fn entry(self, link: &HostLink) -> Option<Entry> {
        let host_mac = link.mac?;
        (self.id.host_ifname() == link.name).then(|| Entry {
            id: self.id,
            network: self.network,
            pod: PodName::default(),
            host_ifname: link.name.clone(),
            host_mac,
            pod_mac: self.pod_mac,
            mtu: link.mtu,
            addresses: self.addresses,
            netns: self.netns,
            netns_path: None,
            netns_cookie: None,
            host_ports: Vec::new(),
        })
    }
}

impl FromStr for Alias {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let parts: Vec<&str> = text.split(' ').collect();
        let ["thalweg", network, container_id, ifname, pod_mac, netns, addresses] = parts.as_slice() else { return Err(()) };
        let addresses = addresses.split(',').map(str::parse).collect::<Result<_, _>>().map_err(drop)?;
        Ok(Self {
            network: (*network).to_owned(),
            id: AttachmentId::new(*container_id, *ifname),
            pod_mac: pod_mac.parse().map_err(drop)?,
            netns: netns.parse().map_err(drop)?,
            addresses,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn back_and_forth() {
        let mut alias = Alias {
            network: "thalweg".into(),
            id: AttachmentId::new("c".repeat(64), "eth0"),
            pod_mac: Mac([2, 0x74, 10, 244, 1, 5]),
            netns: 4_026_532_900,
            addresses: vec!["10.244.1.5".parse().unwrap(), "fd00::5".parse().unwrap()],
        };
        let text = alias.text().unwrap();
        assert_eq!(text.parse(), Ok(alias.clone()), "{text}");
        alias.id.container_id = "c".repeat(220);
        assert_eq!(alias.text(), None, "longer than the kernel takes");
    }

    #[test]
    fn strangers() {
        for text in ["", "uplink", "thalweg a b", "thalweg n c eth0 02:00:00:00:00:01 7 ", "thalweg n c eth0 x 7 10.0.0.1"] {
            assert_eq!(text.parse::<Alias>(), Err(()), "{text:?}");
        }
    }

    #[test]
    fn an_alias_on_the_wrong_link_is_not_believed() {
        let alias = Alias {
            network: "thalweg".into(),
            id: AttachmentId::new("c", "eth0"),
            pod_mac: Mac([2, 0, 0, 0, 0, 1]),
            netns: 7,
            addresses: vec!["10.244.1.5".parse().unwrap()],
        };
        let mut link =
            HostLink { name: alias.id.host_ifname(), index: 9, mac: Some(Mac([6, 0, 0, 0, 0, 1])), mtu: 1500, alias: None };
        assert_eq!(alias.clone().entry(&link).map(|entry| entry.addresses), Some(alias.addresses.clone()));
        link.name = "tw0000000000000".into();
        assert_eq!(alias.entry(&link), None);
    }
}
