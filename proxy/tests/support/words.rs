//! Services in words, for tests at every level; and the same words for IPv6.
//!
//! A test that holds for both families is written in addresses of IPv4 and told to both: see [`of`].

use std::net::{Ipv4Addr, SocketAddr};

use thalweg_abi::{FrontendFlags, Proto, Scope};
use thalweg_cluster::{Family, Name};

use super::plan::{EndpointSet, PlannedFrontend, ServicePlan};

/// Addresses of IPv4 in a text as that family's: `10.96.0.7:80` is `[fd00::10:96:0:7]:80`, `10.244.0.0/16` is
/// `fd00::10:244:0:0/96`. An address of IPv6 can so be read as what it stands for.
pub fn of(family: Family, text: &str) -> String {
    if family == Family::V4 {
        return text.to_owned();
    }
    let mut told = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        told += &rest[..start];
        rest = &rest[start..];
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        rest = after;
        let Ok(address) = word.parse::<Ipv4Addr>() else {
            told += word;
            continue;
        };
        let [a, b, c, d] = address.octets();
        let groups = [0xfd00, 0, 0, 0].into_iter().chain([a, b, c, d].map(hexadecimal));
        let groups: Vec<u16> = groups.collect();
        let address = std::net::Ipv6Addr::from(<[u16; 8]>::try_from(groups).expect("eight groups"));
        if rest.starts_with(':') {
            told += &format!("[{address}]");
        } else if let Some(bits) = rest.strip_prefix('/').filter(|after| after.starts_with(|c: char| c.is_ascii_digit())) {
            let end = bits.find(|c: char| !c.is_ascii_digit()).unwrap_or(bits.len());
            let (number, after) = bits.split_at(end);
            let number: u32 = number.parse().expect("a length");
            told += &format!("{address}/{}", if number == 0 { 0 } else { 64 + 2 * number });
            rest = after;
        } else {
            told += &address.to_string();
        }
    }
    told + rest
}

/// The group that looks like the number.
fn hexadecimal(octet: u8) -> u16 {
    u16::from_str_radix(&octet.to_string(), 16).expect("digits")
}

/// One frontend per line: `VIP:PORT/PROTO [ext] [local] [drop] [affinity] [check] [of:SERVICE-PORT] -> ENDPOINT …`; or
/// `ours VIP`, `draining -> ENDPOINT …`, `from -> RANGE …`.
pub fn service(name: &str, lines: &[&str]) -> ServicePlan {
    let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
    let mut plan = ServicePlan {
        name: Name::new(namespace, name),
        frontends: Vec::new(),
        sets: Vec::new(),
        draining: Vec::new(),
        source_ranges: Vec::new(),
    };
    for line in lines {
        let (left, right) = line.split_once("->").unwrap_or((line, ""));
        let words: Vec<&str> = left.split_whitespace().collect();
        if words[0] == "from" {
            plan.source_ranges = right.split_whitespace().map(|word| word.parse().expect("a range")).collect();
            continue;
        }
        let endpoints: Vec<SocketAddr> = right.split_whitespace().map(|word| word.parse().expect("an endpoint")).collect();
        if words[0] == "draining" {
            plan.draining = endpoints;
            continue;
        }
        let set = plan.sets.iter().position(|set| set.endpoints == endpoints).unwrap_or(plan.sets.len());
        if set == plan.sets.len() {
            plan.sets.push(EndpointSet { endpoints });
        }
        plan.frontends.push(frontend(&words, set));
    }
    plan.frontends.sort_by_key(PlannedFrontend::key);
    plan.source_ranges.sort();
    plan
}

fn frontend(words: &[&str], set: usize) -> PlannedFrontend {
    let has = |word| words.contains(&word);
    let flag = |word, flag| if has(word) { flag } else { 0 };
    let (vip, port, protocol) = match words[0].split_once('/') {
        None => (words[1].parse().expect("an address"), 0, Proto::ANY),
        Some((dialled, protocol)) => {
            let dialled: SocketAddr = dialled.parse().expect("an address and a port");
            let protocol = match protocol {
                "udp" => Proto::UDP,
                "sctp" => Proto::SCTP,
                _ => Proto::TCP,
            };
            (dialled.ip(), dialled.port(), protocol)
        }
    };
    let of = words.iter().find_map(|word| word.strip_prefix("of:")).map(|port| port.parse().expect("a port"));
    PlannedFrontend {
        vip,
        port,
        protocol,
        scope: if has("ext") { Scope::EXTERNAL } else { Scope::INTERNAL },
        flags: FrontendFlags(
            flag("ours", FrontendFlags::WILDCARD)
                | flag("drop", FrontendFlags::DROP_WHEN_EMPTY)
                | flag("local", FrontendFlags::LOCAL_ONLY)
                | flag("check", FrontendFlags::CHECK_SOURCE)
                | flag("affinity", FrontendFlags::AFFINITY),
        ),
        affinity_seconds: if has("affinity") { 30 } else { 0 },
        service_port: of.unwrap_or(port),
        set,
    }
}
