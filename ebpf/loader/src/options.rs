//! What the data path of one node is opened with.

use std::{net::Ipv4Addr, path::PathBuf};

use thalweg_abi::{MAX_BACKENDS, MAX_CONNTRACK, MAX_FRONTENDS, MAX_LOCAL_PODS, MAX_SERVICES, MAX_SLOTS};

/// How one node's data path is loaded.
#[derive(Clone, Debug)]
pub struct Options {
    /// Folder of the pins. When it is not on a bpffs, one is mounted.
    pub pin_root: PathBuf,
    /// The node's cgroup (cgroup2): processes in and below it have their sockets balanced.
    pub cgroup: PathBuf,
    /// The node's own address.
    pub node_addr: Ipv4Addr,
    pub sizes: Sizes,
    /// Whether the socket load balancer translates; tc alone is complete.
    pub socket_lb: bool,
}

/// Entries that each map can hold. Maps that are adopted keep the size they have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sizes {
    pub frontends: u32,
    pub slots: u32,
    pub backends: u32,
    pub conntrack: u32,
    pub local_pods: u32,
    pub services: u32,
}

// === impl Sizes ===

impl Default for Sizes {
    fn default() -> Self {
        Self {
            frontends: MAX_FRONTENDS,
            slots: MAX_SLOTS,
            backends: MAX_BACKENDS,
            conntrack: MAX_CONNTRACK,
            local_pods: MAX_LOCAL_PODS,
            services: MAX_SERVICES,
        }
    }
}
