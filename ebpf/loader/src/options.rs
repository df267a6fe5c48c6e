//! What the data path of one node is opened with.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    path::PathBuf,
};

use crate::Sizes;

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
