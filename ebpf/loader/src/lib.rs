//! The only crate that calls bpf(2): object, attach, pin, tables, batch update, test-run.
//!
//! - [`Datapath`]: the loaded programs and their pinned links; adopts what an earlier agent left.
//! - [`Maps`]: typed tables over the pinned maps, for writers and for views that run without an agent.
//! - [`conntrack::sweep`]: expiry of what packets leave behind. [`Maps::pressure`]: how full the maps are.
//! - [`sockets::destroy_gone`]: the end of sockets whose backend is gone.
//! - [`probe::attached`]: what is attached now, and one packet through it.
//! - [`heap::keep_small`]: memory of the process that was needed for a moment only goes back.
//! - [`Sizes`]: how large they are, by the machine's memory. [`cleanup`]: removes every trace.
//!
//! Nothing here outlives a process by accident: what stays in the kernel is pinned below one folder.

mod bpffs;
mod btf;
mod cleanup;
pub mod conntrack;
mod convert;
mod datapath;
mod driver;
mod error;
mod handover;
pub mod heap;
mod kernel_table;
mod links;
mod load;
mod maps;
pub mod netns;
mod object;
mod options;
mod pressure;
pub mod probe;
mod programs;
mod raw_map;
mod sizes;
mod sock_diag;
pub mod sockets;
mod start;
mod support;
mod sys;
mod table;
mod testrun;

pub use cleanup::cleanup;
pub use datapath::Datapath;
pub use driver::{Driver, Frame};
pub use error::Error;
pub use kernel_table::{ArrayTable, HashTable};
pub use maps::Maps;
pub use options::Options;
pub use pressure::Pressure;
pub use programs::ProgramStats;
pub use sizes::Sizes;
pub use start::Start;
pub use table::{MemoryTable, Table};
pub use testrun::{Injected, Outcome};
