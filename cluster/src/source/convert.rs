//! From the Kubernetes API's objects to the slim model. Pure; every source goes through here, so a manifest on
//! disk and an object from an API server mean exactly the same.

#[cfg(test)]
mod tests;

mod node;
mod service;

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

pub use self::node::{node, pod, service_cidr};
pub use self::service::{endpoint_slice, service};
use crate::intern::intern;
use crate::model::{Name, Protocol, TrafficPolicy};
use crate::world::Change;

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
    ServiceCidr(Arc<str>),
}

/// An object of the Kubernetes API that a node follows.
pub trait Follow {
    const KIND: &'static str;
    const API_VERSION: &'static str;

    /// # Errors
    /// An object without a name.
    fn key(metadata: &ObjectMeta) -> Result<Key, ConvertError>;

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
    /// What a change is about.
    pub fn of(change: &Change) -> Self {
        match change {
            Change::Service(name, _) => Self::Service(name.clone()),
            Change::EndpointSlice(name, _) => Self::EndpointSlice(name.clone()),
            Change::Node(name, _) => Self::Node(name.clone()),
            Change::Pod(name, _) => Self::Pod(name.clone()),
            Change::ServiceCidr(name, _) => Self::ServiceCidr(name.clone()),
        }
    }

    /// The change that says "this object went away".
    pub fn gone(self) -> Change {
        match self {
            Self::Service(name) => Change::Service(name, None),
            Self::EndpointSlice(name) => Change::EndpointSlice(name, None),
            Self::Node(name) => Change::Node(name, None),
            Self::Pod(name) => Change::Pod(name, None),
            Self::ServiceCidr(name) => Change::ServiceCidr(name, None),
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Service(_) => core::Service::KIND,
            Self::EndpointSlice(_) => discovery::EndpointSlice::KIND,
            Self::Node(_) => core::Node::KIND,
            Self::Pod(_) => core::Pod::KIND,
            Self::ServiceCidr(_) => networking::ServiceCIDR::KIND,
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Service(name) | Self::EndpointSlice(name) | Self::Pod(name) => name.to_string(),
            Self::Node(name) | Self::ServiceCidr(name) => name.to_string(),
        }
    }
}

impl Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind(), self.name())
    }
}

// === impl ConvertError ===

impl ConvertError {
    /// An object of which a field is not even of the right type.
    pub(crate) fn unreadable<K: Follow>(metadata: &ObjectMeta, path: String, reason: String) -> Self {
        let name = K::key(metadata).map_or_else(|_| "(unnamed)".into(), |key| key.name());
        let field = if path.is_empty() || path == "." { "object".into() } else { path };
        Self { kind: K::KIND, name, field, reason }
    }
}

// === impl Context ===

impl Context {
    fn error(&self, field: impl Into<String>, reason: impl Into<String>) -> ConvertError {
        ConvertError { kind: self.kind, name: self.name.clone(), field: field.into(), reason: reason.into() }
    }

    fn address(&self, field: impl FnOnce() -> String, text: &str) -> Result<IpAddr, ConvertError> {
        match address(text.trim()) {
            Some(address) => Ok(address.to_canonical()),
            None => Err(self.error(field(), format!("{text:?} is not an IP address"))),
        }
    }

    /// With no room for more: an endpoint has one, and there are many endpoints.
    fn addresses(&self, field: &str, texts: &[String]) -> Result<Vec<IpAddr>, ConvertError> {
        let mut addresses = Vec::with_capacity(texts.len());
        for (index, text) in texts.iter().enumerate() {
            addresses.push(self.address(|| format!("{field}[{index}]"), text)?);
        }
        Ok(addresses)
    }

    fn cidrs(&self, field: &str, texts: &[String]) -> Result<Vec<IpNetwork>, ConvertError> {
        let parse = |(index, text): (usize, &String)| {
            cidr(text.trim())
                .ok_or_else(|| self.error(format!("{field}[{index}]"), format!("{text:?} is not a CIDR, as in 10.96.0.0/12")))
        };
        texts.iter().enumerate().map(parse).collect()
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

    fn key(metadata: &ObjectMeta) -> Result<Key, ConvertError> {
        Ok(Key::Service(name(Self::KIND, metadata)?))
    }

    fn convert(self) -> Result<Option<Change>, ConvertError> {
        let service = service(self)?;
        Ok(Some(Change::Service(service.name.clone(), Some(Arc::new(service)))))
    }
}

impl Follow for discovery::EndpointSlice {
    const KIND: &'static str = "EndpointSlice";
    const API_VERSION: &'static str = "discovery.k8s.io/v1";

    fn key(metadata: &ObjectMeta) -> Result<Key, ConvertError> {
        Ok(Key::EndpointSlice(name(Self::KIND, metadata)?))
    }

    fn convert(self) -> Result<Option<Change>, ConvertError> {
        Ok(endpoint_slice(self)?.map(|slice| Change::EndpointSlice(slice.name.clone(), Some(Arc::new(slice)))))
    }
}

impl Follow for core::Node {
    const KIND: &'static str = "Node";
    const API_VERSION: &'static str = "v1";

    fn key(metadata: &ObjectMeta) -> Result<Key, ConvertError> {
        Ok(Key::Node(bare_name(Self::KIND, metadata)?))
    }

    fn convert(self) -> Result<Option<Change>, ConvertError> {
        let node = node(self)?;
        Ok(Some(Change::Node(node.name.clone(), Some(Arc::new(node)))))
    }
}

impl Follow for core::Pod {
    const KIND: &'static str = "Pod";
    const API_VERSION: &'static str = "v1";

    fn key(metadata: &ObjectMeta) -> Result<Key, ConvertError> {
        Ok(Key::Pod(name(Self::KIND, metadata)?))
    }

    fn convert(self) -> Result<Option<Change>, ConvertError> {
        Ok(pod(self)?.map(|pod| Change::Pod(pod.name.clone(), Some(Arc::new(pod)))))
    }
}

impl Follow for networking::ServiceCIDR {
    const KIND: &'static str = "ServiceCIDR";
    const API_VERSION: &'static str = "networking.k8s.io/v1";

    fn key(metadata: &ObjectMeta) -> Result<Key, ConvertError> {
        Ok(Key::ServiceCidr(bare_name(Self::KIND, metadata)?))
    }

    fn convert(self) -> Result<Option<Change>, ConvertError> {
        let range = service_cidr(self)?;
        Ok(Some(Change::ServiceCidr(range.name.clone(), Some(Arc::new(range)))))
    }
}

/// The name of a namespaced object; manifests on disk may leave the namespace to be `default`.
fn name(kind: &'static str, metadata: &ObjectMeta) -> Result<Name, ConvertError> {
    let namespace = metadata.namespace.as_deref().filter(|namespace| !namespace.is_empty()).unwrap_or("default");
    Ok(Name { namespace: intern(namespace), name: bare_name(kind, metadata)? })
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

/// The API has let leading zeros in IPv4 addresses pass, decimal, and old objects still carry them.
fn address(text: &str) -> Option<IpAddr> {
    let sloppy = || {
        let octets: Option<Vec<u8>> = text.split('.').map(|octet| octet.parse().ok()).collect();
        Some(IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(octets?).ok()?)))
    };
    text.parse().ok().or_else(sloppy)
}

fn cidr(text: &str) -> Option<IpNetwork> {
    let (start, prefix) = text.split_once('/')?;
    IpNetwork::new(address(start)?, prefix.parse().ok()?).ok()
}
