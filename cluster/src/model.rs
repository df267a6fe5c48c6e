//! The objects, slim: only the fields that Thalweg uses, shared by `Arc`.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use ipnetwork::IpNetwork;

/// A namespaced name. Cheap to clone; ordered by namespace, then name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl Name {
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Family {
    V4,
    V6,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ServiceType {
    #[default]
    ClusterIp,
    NodePort,
    LoadBalancer,
    ExternalName,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TrafficPolicy {
    #[default]
    Cluster,
    Local,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Port {
    /// Empty when the service has one unnamed port.
    pub name: Arc<str>,
    pub protocol: Protocol,
    pub port: u16,
    /// 0 when none is allocated.
    pub node_port: u16,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LoadBalancerAddress {
    pub ip: IpAddr,
    /// ipMode Proxy: not intercepted on the node.
    pub proxied: bool,
}

/// Addresses of a service outside of the cluster's own range, and whom those of the load balancer admit.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct External {
    pub ips: Vec<IpAddr>,
    pub load_balancer: Vec<LoadBalancerAddress>,
    pub source_ranges: Vec<IpNetwork>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Service {
    pub name: Name,
    pub service_type: ServiceType,
    /// Empty for headless and ExternalName services.
    pub cluster_ips: Vec<IpAddr>,
    /// `clusterIP: None`.
    pub headless: bool,
    pub ports: Vec<Port>,
    /// `None` for the many that nothing outside of the cluster reaches but by a NodePort.
    pub external: Option<Box<External>>,
    /// ClientIP affinity: time-out in seconds.
    pub affinity_seconds: Option<u32>,
    pub internal_policy: TrafficPolicy,
    pub external_policy: TrafficPolicy,
    /// 0 when none is allocated.
    pub health_check_node_port: u16,
    pub publish_not_ready: bool,
    pub external_name: Option<Arc<str>>,
    /// Not for us to proxy, though names still resolve: label `service.kubernetes.io/service-proxy-name` says who
    /// does; a service labelled `service.kubernetes.io/headless` has that label here, and nobody does.
    pub proxy_name: Option<Arc<str>>,
}

impl Service {
    /// A ClusterIP service as the API server defaults it, without addresses and ports yet.
    pub fn new(name: Name) -> Self {
        Self {
            name,
            service_type: ServiceType::ClusterIp,
            cluster_ips: Vec::new(),
            headless: false,
            ports: Vec::new(),
            external: None,
            affinity_seconds: None,
            internal_policy: TrafficPolicy::Cluster,
            external_policy: TrafficPolicy::Cluster,
            health_check_node_port: 0,
            publish_not_ready: false,
            external_name: None,
            proxy_name: None,
        }
    }

    pub fn external_ips(&self) -> &[IpAddr] {
        self.external.as_ref().map_or(&[], |external| &external.ips)
    }

    pub fn load_balancer(&self) -> &[LoadBalancerAddress] {
        self.external.as_ref().map_or(&[], |external| &external.load_balancer)
    }

    pub fn source_ranges(&self) -> &[IpNetwork] {
        self.external.as_ref().map_or(&[], |external| &external.source_ranges)
    }
}

/// Readiness of one endpoint, absent values already defaulted as the API says: ready, serving, not terminating.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Condition {
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// Kubernetes: of several addresses, the first is the one to use.
    pub address: IpAddr,
    pub condition: Condition,
    pub node: Option<Arc<str>>,
    pub hostname: Option<Box<str>>,
    /// The name of the pod behind it, when it is one; its namespace is the slice's.
    pub pod: Option<Box<str>>,
    pub hints: Option<Box<Hints>>,
}

/// For whom an endpoint is meant, where its cluster keeps traffic close.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Hints {
    pub zones: Vec<Arc<str>>,
    pub nodes: Vec<Arc<str>>,
}

// === impl Endpoint ===

impl Endpoint {
    pub fn hint_zones(&self) -> &[Arc<str>] {
        self.hints.as_ref().map_or(&[], |hints| &hints.zones)
    }

    pub fn hint_nodes(&self) -> &[Arc<str>] {
        self.hints.as_ref().map_or(&[], |hints| &hints.nodes)
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EndpointPort {
    pub name: Arc<str>,
    pub protocol: Protocol,
    pub port: u16,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EndpointSlice {
    pub name: Name,
    /// The service it belongs to: label `kubernetes.io/service-name`, same namespace.
    pub service: Name,
    pub family: Family,
    pub ports: Vec<EndpointPort>,
    pub endpoints: Vec<Endpoint>,
    /// Annotation `endpoints.kubernetes.io/last-change-trigger-time`: when the controller learned of what made it write the
    /// slice as it is.
    pub last_change: Option<SystemTime>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    pub name: Arc<str>,
    /// status.addresses of type InternalIP.
    pub addresses: Vec<IpAddr>,
    pub pod_cidrs: Vec<IpNetwork>,
    /// Label `topology.kubernetes.io/zone`.
    pub zone: Option<Arc<str>>,
    pub deleting: bool,
    /// Taint keys with their effects, as `key:effect`.
    pub taints: Vec<Arc<str>>,
}

/// A pod that is on a node and not over. An API server is asked only for those of this node, and only when a consumer
/// wants them; manifests on disk may name pods of any node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pod {
    pub name: Name,
    pub uid: Arc<str>,
    pub node: Arc<str>,
    pub addresses: Vec<IpAddr>,
    pub host_network: bool,
    /// spec.runtimeClassName: a sandboxed runtime may have a network stack of its own.
    pub runtime_class: Option<Arc<str>>,
    /// All but `kubectl.kubernetes.io/last-applied-configuration`.
    pub annotations: BTreeMap<Arc<str>, Arc<str>>,
}

/// Addresses that cluster IPs are allocated from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServiceCidr {
    pub name: Arc<str>,
    /// One, or one of each family.
    pub cidrs: Vec<IpNetwork>,
    /// False while it is being added or removed: nothing new is allocated from it, old addresses may still be in use.
    pub ready: bool,
}
