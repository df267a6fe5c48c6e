//! A pod as an endpoint of a service: its address, its conditions, its ports.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointHints, EndpointPort, ForNode, ForZone};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::tolerant;
use crate::{meta, pod};

/// Kind of addresses in a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

/// A port as pods have it behind a service: the number may differ from pod to pod when the service names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    pub name: String,
    pub protocol: String,
    pub number: i32,
    pub app_protocol: Option<String>,
}

// === impl Family ===

impl Family {
    pub fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    fn of(address: &str) -> Option<Self> {
        match address.parse().ok()? {
            IpAddr::V4(_) => Some(Self::V4),
            IpAddr::V6(_) => Some(Self::V6),
        }
    }
}

// === impl Port ===

impl From<&Port> for EndpointPort {
    fn from(port: &Port) -> Self {
        Self {
            name: Some(port.name.clone()),
            protocol: Some(port.protocol.clone()),
            port: Some(port.number),
            app_protocol: port.app_protocol.clone(),
        }
    }
}

impl From<&EndpointPort> for Port {
    fn from(port: &EndpointPort) -> Self {
        Self {
            name: port.name.clone().unwrap_or_default(),
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            number: port.port.unwrap_or(0),
            app_protocol: port.app_protocol.clone(),
        }
    }
}

/// The families of a service, the first one first. A service that does not say it has those of its addresses, or of its pods.
pub fn families(service: &Service, pods: &[Arc<Pod>]) -> Vec<Family> {
    let spec = service.spec.as_ref();
    let named = spec.and_then(|spec| spec.ip_families.as_ref()).into_iter().flatten();
    let mut families: Vec<Family> = named
        .filter_map(|name| match name.as_str() {
            "IPv4" => Some(Family::V4),
            "IPv6" => Some(Family::V6),
            _ => None,
        })
        .collect();
    if families.is_empty() {
        families.extend(spec.and_then(|spec| Family::of(spec.cluster_ip.as_deref()?)));
    }
    if families.is_empty() {
        families.extend(pods.iter().find_map(|pod| Family::of(pod.status.as_ref()?.pod_ip.as_deref()?)));
    }
    if families.is_empty() {
        families.push(Family::V4);
    }
    families
}

/// A pod's address in this family.
pub fn address(pod: &Pod, family: Family) -> Option<&str> {
    let status = pod.status.as_ref()?;
    let all = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    all.chain(status.pod_ip.as_deref()).find(|ip| Family::of(ip) == Some(family))
}

/// The pod as an endpoint; `None` while it has no address, or at its end.
pub fn endpoint(service: &Service, one: &Pod, family: Family, zones: &HashMap<String, String>) -> Option<Endpoint> {
    let address = address(one, family).filter(|_| !pod::finished(one))?;
    let serving = pod::ready(one);
    let terminating = meta::deleting(&one.metadata);
    let ready = tolerant(service) || (serving && !terminating);
    let node = Some(pod::node(one).to_owned()).filter(|node| !node.is_empty());
    let zone = node.as_ref().and_then(|node| zones.get(node)).cloned();
    Some(Endpoint {
        addresses: vec![address.to_owned()],
        conditions: Some(EndpointConditions { ready: Some(ready), serving: Some(serving), terminating: Some(terminating) }),
        hints: hints(service, ready, node.as_deref(), zone.as_deref()),
        hostname: hostname(service, one),
        node_name: node,
        target_ref: Some(meta::reference(one)).map(|mut target| {
            target.api_version = None;
            target
        }),
        zone,
        ..Endpoint::default()
    })
}

/// Who is near, where the service wants traffic to stay near.
fn hints(service: &Service, ready: bool, node: Option<&str>, zone: Option<&str>) -> Option<EndpointHints> {
    let preference = service.spec.as_ref()?.traffic_distribution.as_deref().filter(|_| ready)?;
    let for_zones = Some(vec![ForZone { name: zone?.to_owned() }]);
    match preference {
        "PreferClose" | "PreferSameZone" => Some(EndpointHints { for_zones, for_nodes: None }),
        "PreferSameNode" => Some(EndpointHints { for_zones, for_nodes: Some(vec![ForNode { name: node?.to_owned() }]) }),
        _ => None,
    }
}

/// The name that the pod has under the service's own, if it asks for one.
pub fn hostname(service: &Service, one: &Pod) -> Option<String> {
    let spec = one.spec.as_ref()?;
    let of_service = spec.subdomain.as_deref() == Some(meta::name(&service.metadata));
    spec.hostname.clone().filter(|name| of_service && !name.is_empty())
}

/// The ports that the pod has of the service's, sorted. A port that the service names and the pod lacks is left out.
pub fn ports(service: &Service, one: &Pod) -> Vec<Port> {
    let wanted = service.spec.as_ref().and_then(|spec| spec.ports.as_ref()).into_iter().flatten();
    let mut ports: Vec<Port> = wanted
        .filter_map(|port| {
            Some(Port {
                name: port.name.clone().unwrap_or_default(),
                protocol: protocol(port.protocol.as_deref()).to_owned(),
                number: number(port, one)?,
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect();
    ports.sort();
    ports
}

fn number(port: &ServicePort, one: &Pod) -> Option<i32> {
    match &port.target_port {
        None | Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let spec = one.spec.as_ref()?;
            let sidecars = spec.init_containers.iter().flatten().filter(|container| sidecar(container));
            let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
            let wanted = protocol(port.protocol.as_deref());
            let mut named =
                ports.filter(|port| port.name.as_deref() == Some(name) && protocol(port.protocol.as_deref()) == wanted);
            named.next().map(|port| port.container_port)
        }
    }
}

/// An init container that runs as long as the pod does.
fn sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

fn protocol(name: Option<&str>) -> &str {
    name.unwrap_or("TCP")
}
