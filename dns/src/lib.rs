//! Cluster DNS: every node answers for the whole zone from one table.
//!
//! - [`name`]: names in wire form.
//! - [`query`]: a packet becomes a [`query::Query`], or a reason why it does not.
//! - [`zone`]: the table: what a name means; built from the cluster's state.
//! - [`answer`]: a query and a zone become the reply's bytes. Pure: no I/O, no clock. [`explain`]: why these.
//! - [`corefile`]: CoreDNS's configuration, read as it is.
//! - [`stub_domains`]: kube-dns's, likewise.
//! - [`config`]: what follows from them. `plan`: the same, ready to be asked.
//! - `gate`: who may ask. `names`: what is rewritten or has a fixed address. `cache`: what upstreams said. All pure. [`traffic`], `log`: what was asked.
//! - `forward`: asks the upstreams. `listen`, `sockets`, `tcp`, `whole`: the shell around it all.
//! - [`kernel`]: the zone as the kernel's tables have it, which answer most queries before they come here.
//! - [`server`]: wires them together; this is what an agent starts.

pub mod answer;
mod cache;
pub mod config;
pub mod corefile;
mod counters;
pub mod explain;
mod forward;
mod gate;
pub mod histogram;
pub mod kernel;
mod listen;
mod log;
pub mod name;
mod names;
mod plan;
pub mod query;
pub mod server;
mod sockets;
pub mod stub_domains;
mod tcp;
#[cfg(test)]
mod testkit;
pub mod traffic;
mod whole;
pub mod zone;

pub use cache::Stats as CacheStats;
pub use config::Config;
pub use counters::Stats;
pub use forward::{GroupReport, UpstreamReport};
pub use listen::Listen;
pub use server::{Error, Options, Result, Server};
