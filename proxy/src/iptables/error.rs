//! What can go wrong between us and the iptables programs, worded for the operator.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use thalweg_cluster::Family;

/// Errors of this backend.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "{program} is not installed: install the package `iptables` (Debian: apt-get install iptables), or choose the eBPF backend"
    )]
    Missing { program: PathBuf },
    #[error("{program} cannot be run: {source}")]
    Start {
        program: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{program} was stopped after {} s: does another program hold the lock /run/xtables.lock?", timeout.as_secs())]
    TimedOut { program: PathBuf, timeout: Duration },
    #[error("{program} was not run to its end: this process ends")]
    Stopped { program: PathBuf },
    #[error("{program} waited in vain for the lock /run/xtables.lock, which another program holds")]
    Locked { program: PathBuf },
    /// The kernel or the program did not like one rule.
    #[error("{program} refused line {line} `{rule}`: {message}")]
    Refused { program: PathBuf, line: usize, rule: String, message: String },
    #[error("{program} failed: {message}")]
    Failed { program: PathBuf, message: String },
    /// A family that this machine cannot do; services of it are not served.
    #[error("{} is left out: {message}", called(*family))]
    NoFamily { family: Family, message: String },
    #[error("the kernel's connection table cannot be followed (CONFIG_NF_CT_NETLINK, CAP_NET_ADMIN): {source}")]
    Flows {
        #[source]
        source: io::Error,
    },
    #[error("{} must be {wanted} for NodePorts on 127.0.0.1, and cannot be written: {source}", path.display())]
    Setting {
        path: PathBuf,
        wanted: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("session affinity needs the kernel's `recent` match (xt_recent, CONFIG_NETFILTER_XT_MATCH_RECENT): {message}")]
    NoRecent { message: String },
    #[error("options of the iptables backend: {fault}")]
    Options { fault: String },
}

// === impl Error ===

impl Error {
    /// True when leaving some rule out may help. Nothing has been changed then; after any other error that is not known.
    pub(super) fn is_about_rules(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }

    /// As the trait wants it: errors of every backend are the loader's there.
    pub(super) fn to_loader(&self) -> thalweg_loader::Error {
        let path = match self {
            Self::Missing { program }
            | Self::Start { program, .. }
            | Self::TimedOut { program, .. }
            | Self::Stopped { program }
            | Self::Refused { program, .. }
            | Self::Locked { program }
            | Self::Failed { program, .. } => program.clone(),
            Self::Setting { path, .. } => path.clone(),
            Self::NoFamily { .. } | Self::Flows { .. } | Self::NoRecent { .. } | Self::Options { .. } => {
                PathBuf::from("iptables")
            }
        };
        // The variant is named after its first user; its text says where, what and why.
        thalweg_loader::Error::Bpffs { path, action: "program the service proxy", source: io::Error::other(self.to_string()) }
    }
}

pub(super) fn called(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}
