//! The only crate that calls bpf(2): object, attach, pin, tables, batch update, test-run.

mod error;
mod table;

pub use error::Error;
pub use table::{MemoryTable, Table};
