//! The service proxy: plan (pure), delta, apply.
//!
//! - [`plan`]: what one service should look like on this node. Pure.
//! - [`Backend`]: desired state in, one `apply`; [`EbpfBackend`] writes the maps of the data path,
//!   [`IptablesBackend`] is the fallback.
//! - [`Proxy`]: ties them: a world and what became dirty in, an applied difference out.
//! - [`config`]: kube-proxy's file and flags. [`health`], [`metrics`]: what probes and Prometheus read.
//! - [`inspect`]: what is in the kernel, for people.

mod backend;
pub mod config;
pub mod ebpf;
pub mod health;
pub mod http;
pub mod inspect;
pub mod iptables;
pub mod metrics;
pub mod plan;
mod proxy;

pub use backend::{Applied, Backend, Failure, STAGES};
pub use ebpf::{EbpfBackend, GRACE, Gone, Pressure, Tables};
pub use iptables::IptablesBackend;
pub use plan::{NodeView, Redirect};
pub use proxy::Proxy;
