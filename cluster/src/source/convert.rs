//! From the Kubernetes API's objects to the slim model. Pure; every source goes through here, so a manifest on
//! disk and an object from an API server mean exactly the same.

#[cfg(test)]
mod tests;

use std::fmt::Display;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::model::{
    Condition, Endpoint, EndpointPort, EndpointSlice, Family, LoadBalancerAddress, Name, Node, Pod, Port, Protocol, Service,
    ServiceType, TrafficPolicy,
};
use crate::world::Change;

/// Label of a slice: the service it belongs to.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Label of a service that another proxy serves.
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// Label of a node: its zone.
const ZONE: &str = "topology.kubernetes.io/zone";
/// ClientIP affinity without a time-out of its own: three hours.
const DEFAULT_AFFINITY_SECONDS: u32 = 10_800;

/// An object that makes no sense, worded for whoever wrote it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{kind} {name}: {field}: {reason}")]
pub struct ConvertError {
    pub kind: &'static str,
    /// `namespace/name`, or what is known of it.
    pub name: String,
    /// Path of the field, as in `spec.ports[0].port`.
    pub field: String,
    pub reason: String,
}

/// What an object is called, over all kinds.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Key {
    Service(Name),
    EndpointSlice(Name),
    Node(Arc<str>),
    Pod(Name),
}

/// An object of the Kubernetes API that a node follows.
pub trait Follow {
    const KIND: &'static str;
    const API_VERSION: &'static str;

    /// # Errors
    /// An object without a name.
    fn key(&self) -> Result<Key, ConvertError>;

    /// `None` for a sound object that is nothing to us: a slice that belongs to no service, a pod that is over.
    ///
    /// # Errors
    /// Names the first field that makes no sense.
    fn convert(self) -> Result<Option<Change>, ConvertError>;
}

/// Errors of one object: knows its kind and name.
struct Context {
    kind: &'static str,
    name: String,
}

// === impl Key ===

impl Key {
    /// The change that says "this object went away".
    pub fn gone(self) -> Change {
        match self {
            Self::Service(name) => Change::Service(name, None),
            Self::EndpointSlice(name) => Change::EndpointSlice(name, None),
            Self::Node(name) => Change::Node(name, None),
            Self::Pod(name) => Change::Pod(name, None),
        }
    }
}

impl Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Service(name) => write!(f, "Service {name}"),
            Self::EndpointSlice(name) => write!(f, "EndpointSlice {name}"),
            Self::Node(name) => write!(f, "Node {name}"),
            Self::Pod(name) => write!(f, "Pod {name}"),
        }
    }
}

// === impl Context ===

impl Context {
    fn error(&self, field: impl Into<String>, reason: impl Into<String>) -> ConvertError {
        ConvertError { kind: self.kind, name: self.name.clone(), field: field.into(), reason: reason.into() }
    }

    fn parse<T: FromStr<Err: Display>>(&self, field: impl FnOnce() -> String, text: &str) -> Result<T, ConvertError> {
        text.trim().parse().map_err(|error| self.error(field(), format!("{text:?}: {error}")))
    }

    fn parse_all<T: FromStr<Err: Display>>(&self, field: &str, texts: &[String]) -> Result<Vec<T>, ConvertError> {
        texts.iter().enumerate().map(|(index, text)| self.parse(|| format!("{field}[{index}]"), text)).collect()
    }

    fn port(&self, field: impl FnOnce() -> String, number: i32) -> Result<u16, ConvertError> {
        match u16::try_from(number) {
            Ok(port) if port != 0 => Ok(port),
            _ => Err(self.error(field(), format!("{number} is not a port (1 to 65535)"))),
        }
    }

    fn protocol(&self, field: impl FnOnce() -> String, text: Option<&str>) -> Result<Protocol, ConvertError> {
        match text.unwrap_or("TCP") {
            "TCP" => Ok(Protocol::Tcp),
            "UDP" => Ok(Protocol::Udp),
            "SCTP" => Ok(Protocol::Sctp),
            other => Err(self.error(field(), format!("{other:?} is none of TCP, UDP, SCTP"))),
        }
    }

    fn policy(&self, field: &str, text: Option<&str>) -> Result<TrafficPolicy, ConvertError> {
        match text.unwrap_or_default() {
            "" | "Cluster" => Ok(TrafficPolicy::Cluster),
            "Local" => Ok(TrafficPolicy::Local),
            other => Err(self.error(field, format!("{other:?} is neither Cluster nor Local"))),
        }
    }
}

// === impl Follow ===

impl Follow for core::Service {
    const KIND: &'static str = "Service";
    const API_VERSION: &'static str = "v1";

    fn key(&self) -> Result<Key, ConvertError> {
        Ok(Key::Service(name(Self::KIND, &self.metadata)?))
    }

    fn convert(self) -> Result<Option<Change>, ConvertError> {
        let service = service(self)?;
        Ok(Some(Change::Service(service.name.clone(), Some(Arc::new(service)))))
    }
}

impl Follow for discovery::EndpointSlice {
    const KIND: &'static str = "EndpointSlice";
    const API_VERSION: &'static str = "discovery.k8s.io/v1";

    fn key(&self) -> Result<Key, ConvertError> {
        Ok(Key::EndpointSlice(name(Self::KIND, &self.metadata)?))
    }

    fn convert(self) -> Result<Option<Change>, ConvertError> {
        Ok(endpoint_slice(self)?.map(|slice| Change::EndpointSlice(slice.name.clone(), Some(Arc::new(slice)))))
    }
}

impl Follow for core::Node {
    const KIND: &'static str = "Node";
    const API_VERSION: &'static str = "v1";

    fn key(&self) -> Result<Key, ConvertError> {
        Ok(Key::Node(bare_name(Self::KIND, &self.metadata)?))
    }

    fn convert(self) -> Result<Option<Change>, ConvertError> {
        let node = node(self)?;
        Ok(Some(Change::Node(node.name.clone(), Some(Arc::new(node)))))
    }
}

impl Follow for core::Pod {
    const KIND: &'static str = "Pod";
    const API_VERSION: &'static str = "v1";

    fn key(&self) -> Result<Key, ConvertError> {
        Ok(Key::Pod(name(Self::KIND, &self.metadata)?))
    }

    fn convert(self) -> Result<Option<Change>, ConvertError> {
        Ok(pod(self)?.map(|pod| Change::Pod(pod.name.clone(), Some(Arc::new(pod)))))
    }
}

/// # Errors
/// Names the first field that makes no sense.
pub fn service(object: core::Service) -> Result<Service, ConvertError> {
    let name = name("Service", &object.metadata)?;
    let context = Context { kind: "Service", name: name.to_string() };
    let spec = object.spec.ok_or_else(|| context.error("spec", "is missing"))?;
    let service_type = match spec.type_.as_deref().unwrap_or("ClusterIP") {
        "ClusterIP" => ServiceType::ClusterIp,
        "NodePort" => ServiceType::NodePort,
        "LoadBalancer" => ServiceType::LoadBalancer,
        "ExternalName" => ServiceType::ExternalName,
        other => return Err(context.error("spec.type", format!("{other:?} is no type of service"))),
    };

    // Old objects carry only clusterIP; both fields say "None" for headless and nothing before allocation.
    let mut ips = spec.cluster_ips.unwrap_or_default();
    if ips.is_empty() {
        ips.extend(spec.cluster_ip);
    }
    ips.retain(|ip| !ip.is_empty());
    let headless = ips.iter().any(|ip| ip == "None");
    let cluster_ips = match service_type {
        ServiceType::ExternalName => Vec::new(),
        _ if headless => Vec::new(),
        _ => context.parse_all("spec.clusterIPs", &ips)?,
    };

    let mut ports = Vec::new();
    for (index, port) in spec.ports.unwrap_or_default().into_iter().enumerate() {
        let node_port = match port.node_port.unwrap_or_default() {
            0 => 0,
            number => context.port(|| format!("spec.ports[{index}].nodePort"), number)?,
        };
        ports.push(Port {
            name: port.name.unwrap_or_default().into(),
            protocol: context.protocol(|| format!("spec.ports[{index}].protocol"), port.protocol.as_deref())?,
            port: context.port(|| format!("spec.ports[{index}].port"), port.port)?,
            node_port,
            app_protocol: port.app_protocol.map(Into::into),
        });
    }

    let mut load_balancer = Vec::new();
    let ingress = object.status.and_then(|status| status.load_balancer).and_then(|status| status.ingress).unwrap_or_default();
    for (index, entry) in ingress.into_iter().enumerate() {
        let Some(ip) = entry.ip.filter(|ip| !ip.is_empty()) else { continue };
        let ip = context.parse(|| format!("status.loadBalancer.ingress[{index}].ip"), &ip)?;
        load_balancer.push(LoadBalancerAddress { ip, proxied: entry.ip_mode.as_deref() == Some("Proxy") });
    }

    let affinity_seconds = match spec.session_affinity.as_deref().unwrap_or_default() {
        "" | "None" => None,
        "ClientIP" => {
            let seconds =
                spec.session_affinity_config.and_then(|config| config.client_ip).and_then(|config| config.timeout_seconds);
            match seconds {
                None => Some(DEFAULT_AFFINITY_SECONDS),
                Some(seconds) => Some(u32::try_from(seconds).ok().filter(|seconds| *seconds > 0).ok_or_else(|| {
                    context.error("spec.sessionAffinityConfig.clientIP.timeoutSeconds", format!("{seconds} is not a time-out"))
                })?),
            }
        }
        other => return Err(context.error("spec.sessionAffinity", format!("{other:?} is neither ClientIP nor None"))),
    };

    Ok(Service {
        service_type,
        cluster_ips,
        headless,
        ports,
        external_ips: context.parse_all("spec.externalIPs", &spec.external_ips.unwrap_or_default())?,
        load_balancer,
        source_ranges: context
            .parse_all("spec.loadBalancerSourceRanges", &spec.load_balancer_source_ranges.unwrap_or_default())?,
        affinity_seconds,
        internal_policy: context.policy("spec.internalTrafficPolicy", spec.internal_traffic_policy.as_deref())?,
        external_policy: context.policy("spec.externalTrafficPolicy", spec.external_traffic_policy.as_deref())?,
        health_check_node_port: match spec.health_check_node_port.unwrap_or_default() {
            0 => 0,
            number => context.port(|| "spec.healthCheckNodePort".into(), number)?,
        },
        traffic_distribution: spec.traffic_distribution.map(Into::into),
        publish_not_ready: spec.publish_not_ready_addresses.unwrap_or_default(),
        external_name: spec.external_name.filter(|name| !name.is_empty()).map(Into::into),
        proxy_name: label(&object.metadata, PROXY_NAME),
        name,
    })
}

/// `None` when the slice belongs to no service, or holds names instead of addresses.
///
/// # Errors
/// Names the first field that makes no sense.
pub fn endpoint_slice(object: discovery::EndpointSlice) -> Result<Option<EndpointSlice>, ConvertError> {
    let name = name("EndpointSlice", &object.metadata)?;
    let context = Context { kind: "EndpointSlice", name: name.to_string() };
    let Some(service) = label(&object.metadata, SERVICE_NAME).filter(|service| !service.is_empty()) else { return Ok(None) };
    let family = match object.address_type.as_str() {
        "IPv4" => Family::V4,
        "IPv6" => Family::V6,
        "FQDN" => return Ok(None),
        other => return Err(context.error("addressType", format!("{other:?} is none of IPv4, IPv6, FQDN"))),
    };

    let mut ports = Vec::new();
    for (index, port) in object.ports.unwrap_or_default().into_iter().enumerate() {
        // A port without a number stands for "every port", which no service port can be matched with.
        let Some(number) = port.port else { continue };
        ports.push(EndpointPort {
            name: port.name.unwrap_or_default().into(),
            protocol: context.protocol(|| format!("ports[{index}].protocol"), port.protocol.as_deref())?,
            port: context.port(|| format!("ports[{index}].port"), number)?,
        });
    }

    let mut endpoints = Vec::new();
    for (index, endpoint) in object.endpoints.unwrap_or_default().into_iter().enumerate() {
        endpoints.push(self::endpoint(&context, &name.namespace, family, index, endpoint)?);
    }
    let service = Name { namespace: name.namespace.clone(), name: service };
    Ok(Some(EndpointSlice { name, service, family, ports, endpoints }))
}

fn endpoint(
    context: &Context,
    namespace: &Arc<str>,
    family: Family,
    index: usize,
    object: discovery::Endpoint,
) -> Result<Endpoint, ConvertError> {
    let field = format!("endpoints[{index}].addresses");
    let addresses: Vec<IpAddr> = context.parse_all(&field, &object.addresses)?;
    if addresses.is_empty() {
        return Err(context.error(field, "holds no address"));
    }
    if let Some(stranger) = addresses.iter().find(|address| address.is_ipv4() != (family == Family::V4)) {
        return Err(context.error(field, format!("{stranger} is not of the slice's addressType")));
    }
    let conditions = object.conditions.unwrap_or_default();
    let ready = conditions.ready.unwrap_or(true);
    let hints = object.hints.unwrap_or_default();
    Ok(Endpoint {
        addresses,
        condition: Condition {
            ready,
            serving: conditions.serving.unwrap_or(ready),
            terminating: conditions.terminating.unwrap_or(false),
        },
        node: object.node_name.map(Into::into),
        zone: object.zone.map(Into::into),
        hostname: object.hostname.filter(|hostname| !hostname.is_empty()).map(Into::into),
        hint_zones: hints.for_zones.unwrap_or_default().into_iter().map(|hint| hint.name.into()).collect(),
        hint_nodes: hints.for_nodes.unwrap_or_default().into_iter().map(|hint| hint.name.into()).collect(),
        pod: object.target_ref.filter(|target| target.kind.as_deref() == Some("Pod")).and_then(|target| {
            let namespace = target.namespace.map_or_else(|| namespace.clone(), Into::into);
            Some(Name { namespace, name: target.name?.into() })
        }),
    })
}

/// # Errors
/// Names the first field that makes no sense.
pub fn node(object: core::Node) -> Result<Node, ConvertError> {
    let name = bare_name("Node", &object.metadata)?;
    let context = Context { kind: "Node", name: name.to_string() };
    let spec = object.spec.unwrap_or_default();
    let mut addresses = Vec::new();
    for (index, address) in object.status.and_then(|status| status.addresses).unwrap_or_default().into_iter().enumerate() {
        if address.type_ == "InternalIP" {
            addresses.push(context.parse(|| format!("status.addresses[{index}].address"), &address.address)?);
        }
    }
    let mut cidrs = spec.pod_cidrs.unwrap_or_default();
    if cidrs.is_empty() {
        cidrs.extend(spec.pod_cidr);
    }
    cidrs.retain(|cidr| !cidr.is_empty());
    Ok(Node {
        name,
        addresses,
        pod_cidrs: context.parse_all("spec.podCIDRs", &cidrs)?,
        zone: label(&object.metadata, ZONE).filter(|zone| !zone.is_empty()),
        deleting: object.metadata.deletion_timestamp.is_some(),
        taints: spec.taints.unwrap_or_default().iter().map(|taint| format!("{}:{}", taint.key, taint.effect).into()).collect(),
    })
}

/// `None` when the pod is on no node, or over: its address may already be another's.
///
/// # Errors
/// Names the first field that makes no sense.
pub fn pod(object: core::Pod) -> Result<Option<Pod>, ConvertError> {
    let name = name("Pod", &object.metadata)?;
    let context = Context { kind: "Pod", name: name.to_string() };
    let spec = object.spec.unwrap_or_default();
    let status = object.status.unwrap_or_default();
    let Some(node) = spec.node_name.filter(|node| !node.is_empty()) else { return Ok(None) };
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return Ok(None);
    }
    let mut ips: Vec<String> = status.pod_ips.unwrap_or_default().into_iter().map(|entry| entry.ip).collect();
    if ips.is_empty() {
        ips.extend(status.pod_ip);
    }
    ips.retain(|ip| !ip.is_empty());
    Ok(Some(Pod {
        addresses: context.parse_all("status.podIPs", &ips)?,
        uid: object.metadata.uid.unwrap_or_default().into(),
        node: node.into(),
        host_network: spec.host_network.unwrap_or_default(),
        annotations: object
            .metadata
            .annotations
            .unwrap_or_default()
            .into_iter()
            .map(|(key, value)| (key.into(), value.into()))
            .collect(),
        name,
    }))
}

/// The name of a namespaced object; manifests on disk may leave the namespace to be `default`.
fn name(kind: &'static str, metadata: &ObjectMeta) -> Result<Name, ConvertError> {
    let namespace = metadata.namespace.as_deref().filter(|namespace| !namespace.is_empty()).unwrap_or("default");
    Ok(Name { namespace: namespace.into(), name: bare_name(kind, metadata)? })
}

fn bare_name(kind: &'static str, metadata: &ObjectMeta) -> Result<Arc<str>, ConvertError> {
    match metadata.name.as_deref() {
        Some(name) if !name.is_empty() => Ok(name.into()),
        _ => Err(Context { kind, name: "(unnamed)".into() }.error("metadata.name", "is missing")),
    }
}

fn label(metadata: &ObjectMeta, key: &str) -> Option<Arc<str>> {
    metadata.labels.as_ref()?.get(key).map(|value| value.as_str().into())
}
