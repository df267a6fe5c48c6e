//! The name servers that a resolv.conf lists. Pure.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use crate::corefile::DNS_PORT;

/// Servers in the file's order, each once, on port 53. Lines that say anything else, or nothing that can be asked, are
/// passed over, as libc does. `scope` turns the name of an interface into its number, for link-local addresses.
pub fn nameservers(text: &str, scope: &dyn Fn(&str) -> Option<u32>) -> Vec<SocketAddr> {
    let mut servers = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some(("nameserver", address)) = words.next().zip(words.next()) else { continue };
        if let Some(server) = server(address, scope)
            && !servers.contains(&server)
        {
            servers.push(server);
        }
    }
    servers
}

fn server(text: &str, scope: &dyn Fn(&str) -> Option<u32>) -> Option<SocketAddr> {
    let (address, zone) = text.split_once('%').map_or((text, None), |(address, zone)| (address, Some(zone)));
    let address: IpAddr = address.parse().ok().filter(|ip: &IpAddr| !ip.is_unspecified())?;
    match (address, zone) {
        (IpAddr::V6(ip), Some(zone)) => {
            let scope = zone.parse().ok().or_else(|| scope(zone))?;
            Some(SocketAddrV6::new(ip, DNS_PORT, 0, scope).into())
        }
        (_, Some(_)) => None,
        (ip, None) => Some(SocketAddr::new(ip, DNS_PORT)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_listed_and_can_be_asked() {
        let text = "# nameserver 9.9.9.9\nsearch a.org b.org\n nameserver  192.0.2.1 # first\nnameserver 192.0.2.1\n\
                    nameserver 2001:db8::1\nnameserver fe80::1%eth0\nnameserver fe80::2%7\nnameserver fe80::3%none\n\
                    nameserver\nnameserver name.org\nnameserver 0.0.0.0\nnameserver 1.2.3.4%eth0\noptions ndots:5\nnameservers 1.1.1.1\n";
        let servers = nameservers(text, &|name| (name == "eth0").then_some(3));
        let text: Vec<String> = servers.iter().map(ToString::to_string).collect();
        assert_eq!(text, ["192.0.2.1:53", "[2001:db8::1]:53", "[fe80::1%3]:53", "[fe80::2%7]:53"]);
        assert!(nameservers("", &|_| None).is_empty());
    }
}
