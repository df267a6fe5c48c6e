//! The kubelet: runs the pods of one node. It registers the node, follows the pods bound to it, gives each a sandbox with a
//! network, runs their containers through a [`runtime::Runtime`], probes them, and tells the API server what it sees.

pub mod cni;
mod helper;
pub mod logs;
pub mod process;
pub mod runtime;

pub use helper::{container_main, pause_main};
