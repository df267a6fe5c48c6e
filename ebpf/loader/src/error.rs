//! What can go wrong between user space and the kernel, worded for the operator.

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("map {table}: {source}")]
    Table {
        table: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error("map {table} is full ({capacity} entries): raise its size in the options")]
    TableFull { table: &'static str, capacity: u32 },
}
