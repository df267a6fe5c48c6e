//! Plans in few words.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnetwork::IpNetwork;
use thalweg_abi::{FrontendFlags, Proto, Scope};
use thalweg_cluster::Name;
use thalweg_proxy::plan::{EndpointSet, PlannedFrontend, ServicePlan};

/// As a key of SOURCE_RANGES has it.
pub fn source_range(range: &IpNetwork) -> (u32, IpAddr) {
    (32 + u32::from(range.prefix()) + if range.is_ipv4() { 96 } else { 0 }, range.network())
}

pub fn name(text: &str) -> Name {
    let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
    Name::new(namespace, name)
}

/// 10.244.0.n:8080
pub fn endpoint(n: u8) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(10, 244, 0, n), 8080))
}

/// [fd00:244::n]:8080
pub fn endpoint6(n: u8) -> SocketAddr {
    SocketAddr::from((Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, n.into()), 8080))
}

pub fn last_byte(at: &SocketAddr) -> u8 {
    match at.ip() {
        IpAddr::V4(ip) => ip.octets()[3],
        IpAddr::V6(ip) => ip.octets()[15],
    }
}

/// A plan from (VIP's last byte, port, endpoints) and draining endpoints; every VIP has its wildcard.
pub fn plan(service: &str, frontends: &[(u8, u16, &[u8])], draining: &[u8]) -> ServicePlan {
    let mut sets: Vec<EndpointSet> = Vec::new();
    let mut planned = BTreeMap::new();
    let mut add = |vip: u8, port: u16, endpoints: &[u8]| {
        let mut set = EndpointSet { endpoints: endpoints.iter().copied().map(endpoint).collect() };
        set.endpoints.sort();
        let index = sets.iter().position(|held| *held == set).unwrap_or_else(|| {
            sets.push(set);
            sets.len() - 1
        });
        let wildcard = port == 0;
        let frontend = PlannedFrontend {
            vip: Ipv4Addr::new(10, 96, 0, vip).into(),
            port,
            protocol: if wildcard { Proto::ANY } else { Proto::TCP },
            scope: Scope::INTERNAL,
            flags: FrontendFlags(if wildcard { FrontendFlags::WILDCARD } else { 0 }),
            affinity_seconds: 0,
            service_port: port,
            set: index,
        };
        planned.insert(frontend.key(), frontend);
    };
    for (vip, port, endpoints) in frontends {
        add(*vip, *port, endpoints);
        add(*vip, 0, &[]);
    }
    let mut draining: Vec<SocketAddr> = draining.iter().copied().map(endpoint).collect();
    draining.sort();
    ServicePlan { name: name(service), frontends: planned.into_values().collect(), sets, draining, source_ranges: Vec::new() }
}

/// The plan, with a twin of IPv6 for everything.
pub fn dual(mut plan: ServicePlan) -> ServicePlan {
    let twins = |endpoints: &[SocketAddr]| endpoints.iter().map(|at| endpoint6(last_byte(at))).collect::<Vec<_>>();
    let own = plan.sets.len();
    plan.sets.extend(plan.sets.clone().iter().map(|set| EndpointSet { endpoints: twins(&set.endpoints) }));
    let twin = |frontend: &PlannedFrontend| {
        let last = last_byte(&SocketAddr::new(frontend.vip, 0));
        let vip = Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, last.into()).into();
        PlannedFrontend { vip, set: frontend.set + own, ..frontend.clone() }
    };
    plan.frontends.extend(plan.frontends.clone().iter().map(twin));
    plan.frontends.sort_by_key(PlannedFrontend::key);
    plan.draining.extend(twins(&plan.draining));
    plan
}

/// The plan, whose clients keep their backends.
pub fn sticky(mut plan: ServicePlan, seconds: u32) -> ServicePlan {
    for frontend in plan.frontends.iter_mut().filter(|frontend| frontend.port != 0) {
        frontend.flags.0 |= FrontendFlags::AFFINITY;
        frontend.affinity_seconds = seconds;
    }
    plan
}

/// The plan, open to some clients only.
pub fn restricted(mut plan: ServicePlan, ranges: &[&str]) -> ServicePlan {
    for frontend in plan.frontends.iter_mut().filter(|frontend| frontend.port != 0) {
        frontend.flags.0 |= FrontendFlags::CHECK_SOURCE;
    }
    plan.source_ranges = ranges.iter().map(|range| range.parse().expect("a network")).collect();
    plan.source_ranges.sort();
    plan
}
