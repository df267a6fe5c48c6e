//! Where the kernel's switches of the network are, for everybody who sets one.
//!
//! A container that is not privileged sees `/proc/sys` read-only, and its runtime refuses mounts inside `/proc`. So the
//! node's `/proc/sys/net` is mounted elsewhere and named by [`VARIABLE`]. Through either the kernel shows the network
//! namespace of the thread that looks: after setns(2) a pod's.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// The environment variable that names a writable `/proc/sys/net`.
pub const VARIABLE: &str = "THALWEG_PROC_SYS_NET";

const DEFAULT: &str = "/proc/sys/net";

static ROOT: LazyLock<PathBuf> = LazyLock::new(|| env::var_os(VARIABLE).map_or_else(|| DEFAULT.into(), PathBuf::from));

/// The folder of all switches.
pub fn root() -> &'static Path {
    &ROOT
}

/// The file of a switch, by its path below the folder: `ipv4/ip_forward`.
pub fn path(name: &str) -> PathBuf {
    ROOT.join(name)
}
