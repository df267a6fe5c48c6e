//! The kubelet: runs the pods of one node. It registers the node, follows the pods bound to it, gives each a sandbox with a
//! network, runs their containers through a [`runtime::Runtime`], probes them, and tells the API server what it sees.
//!
//! [`run`] is the kubelet itself. [`pause_main`] and [`container_main`] are the hidden subcommands `kubelet-pause` and
//! `kubelet-container` by which the `process` runtime starts its helpers from the same executable.

pub mod api;
mod app;
pub mod cni;
mod config;
pub mod events;
mod helper;
pub mod logs;
pub mod manager;
mod node;
pub mod pod;
mod probe;
pub mod process;
pub mod runtime;
mod server;
pub mod services;
pub mod session;
mod volumes;
pub mod worker;

pub use app::run;
pub use config::Config;
pub use helper::{container_main, pause_main};
pub use pod::backoff::BackoffConfig;
