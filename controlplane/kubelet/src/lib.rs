//! The kubelet: runs the pods of one node. It registers the node, follows the pods bound to it, gives each a sandbox with a
//! network, runs their containers through a [`runtime::Runtime`], probes them, and tells the API server what it sees.

pub mod api;
pub mod cni;
pub mod events;
mod helper;
pub mod logs;
pub mod pod;
pub mod probe;
pub mod process;
pub mod runtime;
pub mod services;
pub mod volumes;

pub use helper::{container_main, pause_main};
