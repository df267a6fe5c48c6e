//! The CNI plugin, as a library: what a container runtime says to it, what it says to the node agent, and the answer.
//!
//! The executable `thalweg-cni` is one call of [`run`]. It holds no state and loads no BPF: one round trip to the
//! agent over a unix socket, and for a DEL without an agent enough rtnetlink to remove one link.
//!
//! - [`protocol`]: the documents on the socket, shared with the agent (`thalweg-network`).
//! - [`environment`], [`config`]: what the runtime passed, validated. [`host_ports`]: ports of the node.
//! - [`version`]: the versions spoken.
//! - [`client`]: the round trip, bounded by a deadline. [`fallback`]: DEL while the agent is down.
//! - [`outcome`]: the result in the shape of the configured version. [`error`]: the specification's codes.

pub mod client;
pub mod config;
pub mod environment;
pub mod error;
pub mod fallback;
pub mod host_ports;
pub mod outcome;
pub mod protocol;
mod run;
pub mod version;

pub use error::CniError;
pub use run::run;
