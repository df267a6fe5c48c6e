//! What can go wrong between user space and the kernel, worded for the operator.

use std::{io, path::PathBuf};

use aya::{EbpfError, maps::MapError, programs::ProgramError, sys::SyscallError};

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("map {table}: {source}")]
    Table {
        table: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("map {table} is full ({capacity} entries): raise its size with `--map-size {table}=N`")]
    TableFull { table: &'static str, capacity: u32 },
    #[error(
        "map {table} holds {used} entries, and {wanted} are wanted: raise its size with `--map-size {table}={used}` or more"
    )]
    TooSmall { table: &'static str, wanted: u32, used: u32 },
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
    #[error("sockets of backends that are gone cannot be ended: {source} (needs a kernel with CONFIG_INET_DIAG_DESTROY)")]
    Sockets {
        #[source]
        source: io::Error,
    },
    #[error("bpf(2) is not permitted: {source} (needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, or root)")]
    NotPermitted {
        #[source]
        source: io::Error,
    },
    #[error("the kernel does not say whether it has TCX: {source}")]
    Probe {
        #[source]
        source: io::Error,
    },
    #[error("the kernel is too old for {what}: it needs Linux {needed}")]
    Kernel { what: &'static str, needed: &'static str },
}

// === impl Error ===

impl Error {
    /// Whether this machine cannot run the data path, whatever is done about its pins: the kernel lacks something, or this
    /// process may not use it. An agent then falls back to iptables; any other error is worth looking at.
    pub fn is_unsupported(&self) -> bool {
        match self {
            Self::Kernel { .. } | Self::NotPermitted { .. } | Self::Netns { .. } => true,
            Self::Bpffs { source, .. } | Self::Attach { source, .. } | Self::Table { source, .. } => is_refused(source),
            Self::Load { source } => match source.as_ref() {
                EbpfError::MapError(MapError::CreateError { io_error, .. }) => lacks_type(io_error),
                EbpfError::ProgramError(source) => cannot_load(source),
                _ => false,
            },
            Self::Program { source, .. } => cannot_load(source),
            _ => false,
        }
    }
}

fn is_refused(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EPERM)
}

/// A type of map that is not known is an invalid argument.
fn lacks_type(error: &io::Error) -> bool {
    is_refused(error) || matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS))
}

fn cannot_load(error: &ProgramError) -> bool {
    match error {
        // A verifier that speaks is a verifier that knows the program type. It may still not know a helper.
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            is_refused(io_error) || (log.is_empty() && lacks_type(io_error)) || log.contains("unknown func")
        }
        ProgramError::SyscallError(SyscallError { io_error, .. }) => is_refused(io_error),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn check(error: Error, expected: bool) {
        assert_eq!(error.is_unsupported(), expected, "{error}");
    }

    fn load(errno: i32, log: &str) -> Error {
        let io_error = io::Error::from_raw_os_error(errno);
        let source = ProgramError::LoadError { io_error, verifier_log: aya_obj::VerifierLog::new(log.to_owned()) };
        Error::Program { program: "connect4".to_owned(), source: Box::new(source) }
    }

    #[test]
    fn what_a_machine_cannot_do_is_told_from_what_is_wrong() {
        let os = io::Error::from_raw_os_error;
        check(Error::Kernel { what: "TCX", needed: "6.6" }, true);
        check(Error::NotPermitted { source: os(libc::EPERM) }, true);
        check(load(libc::EPERM, ""), true);
        check(load(libc::EINVAL, ""), true);
        check(load(libc::EINVAL, "0: (85) call bpf_get_netns_cookie#122\nunknown func bpf_get_netns_cookie#122\n"), true);
        check(load(libc::EACCES, "R4 !read_ok\n"), false);
        check(load(libc::ENOMEM, ""), false);
        check(Error::Bpffs { path: PathBuf::new(), action: "mount", source: os(libc::EPERM) }, true);
        check(Error::Bpffs { path: PathBuf::new(), action: "mount", source: os(libc::ENOSPC) }, false);
        check(Error::Busy { path: PathBuf::new() }, false);
        check(Error::TooSmall { table: "SLOTS", wanted: 1, used: 2 }, false);
        check(Error::NoObject, false);
        let create = |errno| {
            let create = MapError::CreateError { name: "SOCK_NAT".to_owned(), io_error: os(errno) };
            Error::Load { source: Box::new(EbpfError::MapError(create)) }
        };
        check(create(libc::EINVAL), true);
        check(create(libc::ENOMEM), false);
    }
}
