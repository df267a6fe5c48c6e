//! Which services want a health check on this node, and with what answer. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::Serialize;
use thalweg_cluster::{Family, Name, ServiceType, TrafficPolicy, World};

/// The health check of one service: load balancers ask it where to send traffic.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Check {
    /// healthCheckNodePort.
    pub port: u16,
    /// Ready endpoints on this node. A dual-stack pod is one.
    pub endpoints: usize,
}

/// The body of an answer.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Body<'a> {
    pub service: BodyName<'a>,
    pub local_endpoints: usize,
    pub service_proxy_healthy: bool,
}

#[derive(Serialize)]
pub(super) struct BodyName<'a> {
    pub namespace: &'a str,
    pub name: &'a str,
}

/// How to come from the listeners that are open to those that are wanted: first close, then open.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Changes {
    pub close: Vec<Name>,
    pub open: Vec<(Name, u16)>,
}

/// The check that `service` wants on `node`; `None` for one that wants none.
pub fn check(world: &World, service: &Name, node: &str) -> Option<Check> {
    let object = world.service(service)?;
    let wanted = object.service_type == ServiceType::LoadBalancer
        && object.external_policy == TrafficPolicy::Local
        && object.health_check_node_port != 0
        && object.proxy_name.is_none()
        && !object.headless;
    wanted.then(|| Check { port: object.health_check_node_port, endpoints: local_endpoints(world, service, node) })
}

/// Addresses of ready endpoints on the node. An endpoint that only serves while it terminates still gets traffic when
/// it is the last one, but load balancers are told to go elsewhere.
fn local_endpoints(world: &World, service: &Name, node: &str) -> usize {
    let mut addresses: [BTreeSet<IpAddr>; 2] = Default::default();
    for slice in world.slices(service).filter(|slice| !slice.ports.is_empty()) {
        for endpoint in &slice.endpoints {
            if endpoint.condition.ready && endpoint.node.as_deref() == Some(node) {
                addresses[usize::from(slice.family == Family::V6)].insert(endpoint.address);
            }
        }
    }
    addresses.iter().map(BTreeSet::len).max().unwrap_or_default()
}

/// `open` and `wanted`: ports by service.
pub fn diff(open: &BTreeMap<Name, u16>, wanted: &BTreeMap<Name, u16>) -> Changes {
    let missing = |(name, port): &(&Name, &u16), there: &BTreeMap<Name, u16>| there.get(*name) != Some(*port);
    Changes {
        close: open.iter().filter(|entry| missing(entry, wanted)).map(|(name, _)| name.clone()).collect(),
        open: wanted.iter().filter(|entry| missing(entry, open)).map(|(name, port)| (name.clone(), *port)).collect(),
    }
}
