//! The node's own addresses: at most one of each family, by which other nodes know it and to which sources are translated.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Result, bail};

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct NodeAddresses {
    pub v4: Option<Ipv4Addr>,
    pub v6: Option<Ipv6Addr>,
}

// === impl NodeAddresses ===

impl NodeAddresses {
    /// # Errors
    /// When two are of one family, or one cannot be a node's.
    pub fn new(addresses: &[IpAddr]) -> Result<Self> {
        let mut own = Self::default();
        for address in addresses {
            if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
                bail!("--node-address {address}: not an address that other nodes could reach this one by");
            }
            let first = match address {
                IpAddr::V4(address) => own.v4.replace(*address).map(IpAddr::V4),
                IpAddr::V6(address) => own.v6.replace(*address).map(IpAddr::V6),
            };
            if let Some(first) = first.filter(|first| first != address) {
                bail!("--node-address {first} and {address} are of one family: give one of each at most");
            }
        }
        Ok(own)
    }

    /// IPv4 first.
    pub fn all(self) -> Vec<IpAddr> {
        self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6)).collect()
    }

    pub fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// What is missing here, from there.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self { v4: self.v4.or(other.v4), v6: self.v6.or(other.v6) }
    }
}

impl std::fmt::Display for NodeAddresses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all: Vec<String> = self.all().iter().map(ToString::to_string).collect();
        f.write_str(&all.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(given: &[&str], wanted: Result<&str, &str>) {
        let addresses: Vec<IpAddr> = given.iter().map(|text| text.parse().expect("address")).collect();
        match (NodeAddresses::new(&addresses), wanted) {
            (Ok(own), Ok(wanted)) => assert_eq!(own.to_string(), wanted),
            (Err(error), Err(wanted)) => assert!(error.to_string().contains(wanted), "{error}"),
            (found, _) => panic!("{given:?}: {found:?}"),
        }
    }

    #[test]
    fn one_address_of_each_family() {
        check(&["172.30.0.11"], Ok("172.30.0.11"));
        check(&["fd00::11"], Ok("fd00::11"));
        check(&["fd00::11", "172.30.0.11"], Ok("172.30.0.11,fd00::11"));
        check(&["172.30.0.11", "172.30.0.11"], Ok("172.30.0.11"));
        check(&[], Ok(""));
        check(&["172.30.0.11", "172.30.0.12"], Err("are of one family"));
        check(&["fd00::1", "fd00::2"], Err("are of one family"));
        check(&["0.0.0.0"], Err("not an address"));
        check(&["127.0.0.1"], Err("not an address"));
    }
}
