//! What the data path of one node is opened with.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    path::PathBuf,
};

use thalweg_abi::{
    MAX_AFFINITY, MAX_BACKENDS, MAX_CONNTRACK, MAX_FRONTENDS, MAX_LOCAL_PODS, MAX_NETNS, MAX_SERVICES, MAX_SLOTS,
    MAX_SOCK_BACKENDS, MAX_SOURCE_RANGES,
};

/// How one node's data path is loaded.
#[derive(Clone, Debug)]
pub struct Options {
    /// Folder of the pins. When it is not on a bpffs, one is mounted.
    pub pin_root: PathBuf,
    /// The node's cgroup (cgroup2): processes in and below it have their sockets balanced.
    pub cgroup: PathBuf,
    /// The node's own addresses: translated packets that must come back through it have them as their source.
    pub node_addr: Option<Ipv4Addr>,
    pub node_addr6: Option<Ipv6Addr>,
    pub sizes: Sizes,
    /// Whether the socket load balancer translates; tc alone is complete.
    pub socket_lb: bool,
}

/// Entries that each map can hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sizes {
    pub frontends: u32,
    pub frontends6: u32,
    pub slots: u32,
    pub backends: u32,
    pub conntrack: u32,
    pub conntrack6: u32,
    pub affinity: u32,
    pub source_ranges: u32,
    pub local_pods: u32,
    pub netns: u32,
    pub services: u32,
    pub sock_backends: u32,
}

// === impl Sizes ===

impl Sizes {
    /// The same room everywhere, for laboratories and tests.
    pub const fn uniform(entries: u32) -> Self {
        Self {
            frontends: entries,
            frontends6: entries,
            slots: entries,
            backends: entries,
            conntrack: entries,
            conntrack6: entries,
            affinity: entries,
            source_ranges: entries,
            local_pods: entries,
            netns: entries,
            services: entries,
            sock_backends: entries,
        }
    }

    /// Each size with the map's name in the kernel.
    pub fn by_map(&self) -> [(&'static str, u32); 14] {
        [
            ("FRONTENDS", self.frontends),
            ("FRONTENDS6", self.frontends6),
            ("SLOTS", self.slots),
            ("BACKENDS", self.backends),
            ("CONNTRACK", self.conntrack),
            ("CONNTRACK6", self.conntrack6),
            ("AFFINITY", self.affinity),
            ("SOURCE_RANGES", self.source_ranges),
            ("LOCAL_PODS", self.local_pods),
            ("LOCAL_PODS6", self.local_pods),
            ("NETNS", self.netns),
            ("SERVICES", self.services),
            ("SERVICE_STATS", self.services),
            ("SOCK_BACKENDS", self.sock_backends),
        ]
    }
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            frontends: MAX_FRONTENDS,
            frontends6: MAX_FRONTENDS,
            slots: MAX_SLOTS,
            backends: MAX_BACKENDS,
            conntrack: MAX_CONNTRACK,
            conntrack6: MAX_CONNTRACK,
            affinity: MAX_AFFINITY,
            source_ranges: MAX_SOURCE_RANGES,
            local_pods: MAX_LOCAL_PODS,
            netns: MAX_NETNS,
            services: MAX_SERVICES,
            sock_backends: MAX_SOCK_BACKENDS,
        }
    }
}
