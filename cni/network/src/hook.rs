//! The border to the data path: what it learns of a pod's link, and when.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use thalweg_cni::host_ports::HostPort;
use thalweg_cni::protocol::AttachmentId;

use crate::journal::Entry;
use crate::namespace;

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What the data path does for a pod. Called from several threads at once, for different pods.
pub trait PodDatapath: Send + Sync {
    /// Links and routes are in place; ADD replies only after this succeeded. Called again for the same pod when the
    /// agent starts: traffic flows then, so what is there already must be kept or replaced without a gap.
    ///
    /// # Errors
    /// Any: the ADD fails with code 104 and this text; [`PodDatapath::detach`] is called and everything undone.
    fn attach(&self, pod: &PodLink) -> Result<(), BoxError>;

    /// Before the link goes, or after it went by itself. Must succeed for a pod that is not attached (any more).
    ///
    /// # Errors
    /// Any: logged; a DEL goes on.
    fn detach(&self, pod: &PodLink) -> Result<(), BoxError>;
}

/// A pod's link as the host sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PodLink {
    pub container_id: String,
    /// Name of the interface in the container.
    pub ifname: String,
    pub host_ifname: String,
    /// 0 when the link is gone already.
    pub host_ifindex: u32,
    pub host_mac: [u8; 6],
    pub pod_mac: [u8; 6],
    pub addr: Ipv4Addr,
    /// When the node has IPv6 podCIDRs.
    pub addr6: Option<Ipv6Addr>,
    /// The pod's network namespace, where this process sees it; checked to be that one a moment ago.
    pub netns: Option<PathBuf>,
    /// `bpf_get_netns_cookie` of the pod's namespace. `None` before Linux 5.14, or when an older agent attached the pod
    /// and the namespace is not to be seen from here.
    pub netns_cookie: Option<u64>,
    /// Kubernetes namespace, from CNI_ARGS `K8S_POD_*`; empty outside Kubernetes, or when the journal was lost.
    pub namespace: String,
    pub pod_name: String,
    pub pod_uid: String,
    /// Ports of the node that lead to the pod: no other pod of the node has them.
    pub host_ports: Vec<HostPort>,
}

// === impl PodLink ===

impl PodLink {
    pub(crate) fn new(entry: &Entry, host_ifindex: u32) -> Self {
        let mut addr = Ipv4Addr::UNSPECIFIED;
        let mut addr6 = None;
        for address in &entry.addresses {
            match address {
                std::net::IpAddr::V4(v4) => addr = *v4,
                std::net::IpAddr::V6(v6) => addr6 = Some(*v6),
            }
        }
        Self {
            container_id: entry.id.container_id.clone(),
            ifname: entry.id.ifname.clone(),
            host_ifname: entry.host_ifname.clone(),
            host_ifindex,
            host_mac: entry.host_mac.0,
            pod_mac: entry.pod_mac.0,
            addr,
            addr6,
            netns: entry.netns_path.clone().filter(|path| namespace::is_at(path, entry.netns)),
            netns_cookie: entry.netns_cookie,
            namespace: entry.pod.namespace.clone(),
            pod_name: entry.pod.name.clone(),
            pod_uid: entry.pod.uid.clone(),
            host_ports: entry.host_ports.clone(),
        }
    }

    pub fn id(&self) -> AttachmentId {
        AttachmentId::new(self.container_id.clone(), self.ifname.clone())
    }
}
