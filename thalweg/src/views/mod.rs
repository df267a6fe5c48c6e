//! What is in the kernel, for people: tables of the maps, [`explain`], [`top`], [`status`]; and [`cleanup`], which
//! removes it. None of them needs a running agent.

mod cleanup;
mod explain;
mod output;
mod source;
mod status;
mod tables;
mod top;

pub use cleanup::{CleanupArgs, cleanup, remove_everything};
pub use explain::{ExplainArgs, explain};
pub use status::{StatusArgs, status};
pub use tables::{DropsArgs, MapsArgs, ServiceTableArgs, TableArgs, affinity, backends, conntrack, drops, maps, services};
pub use top::{TopArgs, top};
