//! LOCAL_PODS: hash from a pod's address to its link on this node. NETNS: what is known of a network namespace.

use crate::{Be32, Be128, map_type};

/// Value of LOCAL_PODS (key [`Be32`]) and LOCAL_PODS6 (key [`Be128`]).
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct LocalPod {
    /// Interface index of the host's end of the pod's veth.
    pub ifindex: u32,
    /// Hardware address of the pod's end.
    pub pod_mac: [u8; 6],
    /// Hardware address of the host's end.
    pub host_mac: [u8; 6],
}
map_type!(LocalPod, 16);

#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct NetnsFlags(pub u32);

impl NetnsFlags {
    /// The pod opted out of socket load balancing: tc does all the work.
    pub const NO_SOCKET_LB: u32 = 1;

    #[inline(always)]
    pub const fn has(self, flag: u32) -> bool {
        self.0 & flag != 0
    }
}

/// Value of NETNS, a hash from a network namespace's cookie: by which address its sockets are known to affinity and
/// source ranges, and whether they are balanced. A namespace that is not listed is balanced, and its clients have no
/// address.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Netns {
    /// Zero when there is none.
    pub addr: Be32,
    pub flags: NetnsFlags,
    /// Zero when there is none.
    pub addr6: Be128,
}
map_type!(Netns, 24);
