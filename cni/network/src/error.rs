//! What can go wrong outside of a plugin's request.

use std::io;
use std::path::PathBuf;

use ipnetwork::IpNetwork;

use crate::netlink::OpError;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
    #[error(transparent)]
    Netlink(#[from] OpError),
    #[error("another agent of this node holds {0}: is it still running?")]
    Locked(PathBuf),
    #[error("podCIDRs {}: pods of IPv6 alone are not supported, the node needs an IPv4 range too", list(.0))]
    NeedsV4(Vec<IpNetwork>),
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

fn list(cidrs: &[IpNetwork]) -> String {
    cidrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

// === impl Error ===

impl Error {
    /// For `map_err`: what was being done.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}
