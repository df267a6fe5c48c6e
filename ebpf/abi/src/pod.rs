//! LOCAL_PODS: hash from a pod's address to its link on this node.

use crate::{Be32, map_type};

#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct PodFlags(pub u32);

impl PodFlags {
    /// The pod opted out of socket load balancing.
    pub const NO_SOCKET_LB: u32 = 1;
}

/// Value of LOCAL_PODS; the key is the pod's [`Be32`] address.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct LocalPod {
    /// Interface index of the host's end of the pod's veth.
    pub ifindex: u32,
    /// Hardware address of the pod's end.
    pub pod_mac: [u8; 6],
    /// Hardware address of the host's end.
    pub host_mac: [u8; 6],
    pub flags: PodFlags,
    pub addr: Be32,
}
map_type!(LocalPod, 24);
