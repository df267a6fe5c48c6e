//! What arguments can be: durations as Go writes them, numbers within bounds, zones, addresses, sockets.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnetwork::IpNetwork;

use super::Result;
use super::tree::Directive;
use crate::name::{self, WireName};

pub const DNS_PORT: u16 = 53;

/// `1h30m`, `500ms`, `1.5s`; a bare 0 is no time at all.
pub fn duration(directive: &Directive, text: &str) -> Result<Duration> {
    parse_duration(text).ok_or_else(|| {
        directive.error(format_args!("`{text}` is no duration"), "write a number with its unit, such as 5s, 500ms or 1h30m")
    })
}

fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut total = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        total += number * unit;
        rest = &rest[end..];
    }
    // Longer than any clock runs, and short enough to be added to one.
    (!text.is_empty() && total <= 1e9).then(|| Duration::from_secs_f64(total))
}

/// A whole number from `least` to `most`.
pub fn number(directive: &Directive, text: &str, least: u32, most: u32) -> Result<u32> {
    let number = text.parse().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| {
        directive.error(format_args!("`{text}` cannot stand here"), format!("write a whole number from {least} to {most}"))
    })
}

/// Zones as names, or as the networks whose reverse zones they are.
pub fn zones<'a>(directive: &Directive, texts: impl IntoIterator<Item = &'a String>) -> Result<Vec<WireName>> {
    let mut zones = Vec::new();
    for text in texts {
        let found = zone(text).ok_or_else(|| not_a_zone(directive, text))?;
        zones.extend(found);
    }
    Ok(zones)
}

/// One name.
pub fn domain(directive: &Directive, text: &str) -> Result<WireName> {
    name::encode(text).ok_or_else(|| not_a_zone(directive, text))
}

fn not_a_zone(directive: &Directive, text: &str) -> super::Error {
    directive.error(
        format_args!("`{text}` is no domain name"),
        "write a name such as cluster.local, or a network such as 10.0.0.0/8",
    )
}

/// A name, or a network's reverse zones; `None`: neither.
pub fn zone(text: &str) -> Option<Vec<WireName>> {
    match text.parse::<IpNetwork>() {
        Ok(network) if text.contains('/') => Some(reverse_zones(network)),
        _ => Some(vec![name::encode(text)?]),
    }
}

/// The zones below in-addr.arpa or ip6.arpa that make up a network: one when its length ends with a label, else several.
fn reverse_zones(network: IpNetwork) -> Vec<WireName> {
    let (bits_of_label, bits) = if network.is_ipv4() { (8, 32) } else { (4, 128) };
    let labels = usize::from(network.prefix().div_ceil(bits_of_label));
    let count = 1u128 << (labels * usize::from(bits_of_label) - usize::from(network.prefix()));
    let base = match network.network() {
        IpAddr::V4(ip) => u128::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits(),
    };
    let step = |index: u128| match (bits - labels * usize::from(bits_of_label)) as u32 {
        // A zone of everything is one.
        128.. => 0,
        shift => index << shift,
    };
    (0..count)
        .map(|index| {
            let address = base + step(index);
            let address = if network.is_ipv4() { IpAddr::V4((address as u32).into()) } else { IpAddr::V6(address.into()) };
            let whole = name::reverse(address);
            let mut zone = &whole[..];
            for _ in labels..bits / usize::from(bits_of_label) {
                zone = name::parent(zone).unwrap_or(zone);
            }
            zone.into()
        })
        .collect()
}

/// A network, or one address.
pub fn network(directive: &Directive, text: &str) -> Result<IpNetwork> {
    text.parse().map_err(|_| {
        directive.error(format_args!("`{text}` is no network"), "write an address or a network such as 10.0.0.0/8")
    })
}

/// Somebody who can be asked: `IP`, `IP:PORT` or `[IP]:PORT`.
pub fn upstream(text: &str) -> Option<SocketAddr> {
    address(text, DNS_PORT).filter(|address| address.port() != 0 && !address.ip().is_unspecified())
}

fn address(text: &str, port: u16) -> Option<SocketAddr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok().map(|ip: IpAddr| SocketAddr::new(ip, port))
}

/// Where a server of its own listens: `IP:PORT`, or `:PORT` for every address of this machine.
pub fn listener(directive: &Directive, text: &str) -> Result<SocketAddr> {
    let every = text.strip_prefix(':').map(|port| format!("[::]:{port}"));
    let local = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    let text = every.or(local).unwrap_or_else(|| text.to_owned());
    text.parse().map_err(|_| directive.error(format_args!("`{text}` is no address to listen on"), "write IP:PORT or :PORT"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_go_writes_them() {
        for (text, millis) in
            [("5s", 5000), ("1h30m", 5_400_000), ("500ms", 500), ("1.5s", 1500), ("0", 0), ("0s", 0), ("1m0.5s", 60_500)]
        {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "5", "s", "5x", "-5s", "5 s", "1..5s", "99999999999h", "5sec", "."] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn zones_and_networks() {
        let text =
            |zone: &str| -> Option<Vec<String>> { Some(super::zone(zone)?.iter().map(|zone| name::display(zone)).collect()) };
        for (written, expected) in [
            ("Cluster.Local", vec!["cluster.local."]),
            (".", vec!["."]),
            ("10.0.0.0/8", vec!["10.in-addr.arpa."]),
            ("10.96.0.0/15", vec!["96.10.in-addr.arpa.", "97.10.in-addr.arpa."]),
            ("10.1.2.3/32", vec!["3.2.1.10.in-addr.arpa."]),
            ("0.0.0.0/0", vec!["in-addr.arpa."]),
            ("::/0", vec!["ip6.arpa."]),
            ("fd00::/8", vec!["d.f.ip6.arpa."]),
            ("fd00::/7", vec!["c.f.ip6.arpa.", "d.f.ip6.arpa."]),
        ] {
            assert_eq!(
                text(written).as_deref(),
                Some(&expected.iter().map(ToString::to_string).collect::<Vec<_>>()[..]),
                "{written}"
            );
        }
        for written in ["a..b", ".a", &"x".repeat(64)] {
            assert_eq!(text(written), None, "{written}");
        }
    }

    #[test]
    fn addresses_with_and_without_ports() {
        for (text, expected) in [
            ("1.2.3.4", Some("1.2.3.4:53")),
            ("1.2.3.4:54", Some("1.2.3.4:54")),
            ("::1", Some("[::1]:53")),
            ("[::1]", Some("[::1]:53")),
            ("[::1]:54", Some("[::1]:54")),
            ("name", None),
            ("1.2.3.4:x", None),
            ("", None),
        ] {
            assert_eq!(address(text, DNS_PORT).map(|address| address.to_string()).as_deref(), expected, "{text}");
        }
    }
}
