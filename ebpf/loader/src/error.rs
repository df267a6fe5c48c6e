//! What can go wrong between user space and the kernel, worded for the operator.

use std::{io, path::PathBuf};

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("map {table}: {source}")]
    Table {
        table: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("map {table} is full ({capacity} entries): raise its size in the options")]
    TableFull { table: &'static str, capacity: u32 },
    #[error("built without kernel programs: run `cargo xtask ebpf` and build again")]
    NoObject,
    #[error("map {table} at {path} has another layout than this build expects ({found}): remove the pins with `--cleanup`")]
    Incompatible { table: &'static str, path: PathBuf, found: String },
    #[error("no maps at {path}: is the agent running, and with the same --bpffs?")]
    NoMaps { path: PathBuf },
    #[error("{path}: {action}: {source}")]
    Bpffs {
        path: PathBuf,
        /// What was attempted.
        action: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("{path} is in use by another agent: stop it, or give this one a --bpffs of its own")]
    Busy { path: PathBuf },
    #[error("the kernel programs cannot be loaded: {source}")]
    Load {
        #[source]
        source: Box<aya::EbpfError>,
    },
    #[error("kernel program {program}: {source}")]
    Program {
        program: String,
        #[source]
        source: Box<aya::programs::ProgramError>,
    },
    #[error("the embedded object has no program {program}: run `cargo xtask ebpf` and build again")]
    NoProgram { program: String },
    #[error("kernel program {program} cannot be attached to {target}: {source}")]
    Attach {
        program: String,
        target: String,
        #[source]
        source: io::Error,
    },
    #[error("interface {interface}: {source} (looked up in the network namespace of this process)")]
    Interface {
        interface: String,
        #[source]
        source: io::Error,
    },
    #[error("cgroup {path}: {source} (must be a directory of cgroup2, see `grep cgroup2 /proc/mounts`)")]
    Cgroup {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cookie of the network namespace: {source} (needs Linux 5.14)")]
    Netns {
        #[source]
        source: io::Error,
    },
    #[error("the kernel is too old for {what}: it needs Linux {needed}")]
    Kernel { what: &'static str, needed: &'static str },
}
