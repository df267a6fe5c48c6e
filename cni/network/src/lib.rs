//! The pod network, the agent's side: links, addresses, routes, IPAM and its journal.
//!
//! - [`agent`]: [`PodNetwork`], what the node agent starts, feeds and stops. [`hook`]: the border to the data path.
//! - `server`: the plugin's socket. `attachments`: ADD, DEL, GC, STATUS. `check`: CHECK. `restore`: after a restart.
//!   [`cleanup`]: when the node leaves us.
//! - [`ipam`]: addresses, pure. `host_ports`: who has which ports of the node. [`journal`]: who has them, on disk.
//! - `links`, `routes`, `sysctl`: what is set in the kernel, through `netlink` and `namespace`. `alias`: what a link says
//!   of itself.
//! - [`install`]: the plugin and its configuration, for the runtime.

pub mod agent;
mod alias;
mod attachments;
mod check;
pub mod cleanup;
mod error;
pub mod hook;
mod host_ports;
pub mod install;
pub mod ipam;
pub mod journal;
mod keys;
mod links;
mod namespace;
mod netlink;
mod restore;
mod routes;
mod server;
mod sysctl;

pub use agent::{Options, PodNetwork};
pub use cleanup::cleanup;
pub use error::Error;
pub use hook::{BoxError, PodDatapath, PodLink};
pub use install::install;
pub use netlink::OpError;
pub use thalweg_cni::host_ports::{HostPort, Transport};
