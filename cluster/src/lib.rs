//! What a node knows of its cluster: Services, EndpointSlices, Nodes and Pods as slim plain data, and the
//! sources they come from.
//!
//! - [`model`]: the objects, only the fields that Thalweg uses.
//! - [`world`]: the current state; `apply` a [`Change`], get what became [`Dirty`].
//! - [`source`]: where changes come from: a Kubernetes API server, or YAML files.
//! - [`sysctl`]: where this node's switches are; here because all who set one know this crate.
//!
//! One task owns one [`World`] and hands it by reference to the proxy, DNS and the pod network: one watch, one copy.

mod intern;
pub mod model;
pub mod source;
pub mod sysctl;
pub mod world;

pub use model::{
    Condition, Endpoint, EndpointPort, EndpointSlice, External, Family, Hints, LoadBalancerAddress, Name, Node, Pod, Port,
    Protocol, Service, ServiceCidr, ServiceType, TrafficPolicy,
};
pub use source::{KubeOptions, ServiceScope, Source, SourceError};
pub use world::{Batch, Change, Dirty, World};
