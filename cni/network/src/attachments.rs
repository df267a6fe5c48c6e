//! ADD, DEL, GC and STATUS on the agent's side; CHECK is in `check`. Slow steps hold no lock but that of their own attachment.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use nix::errno::Errno;
use thalweg_cni::CniError;
use thalweg_cni::error::code;
use thalweg_cni::protocol::{Add, Attached, AttachmentId, Mac, hash};
use tracing::{info, warn};

use crate::hook::{PodDatapath, PodLink};
use crate::host_ports::HostPorts;
use crate::ipam::{Ipam, IpamError};
use crate::journal::{self, Entry, Journal, Record};
use crate::keys::{Keys, lock};
use crate::netlink::{Netlink, OpError};
use crate::{links, namespace, sysctl};

/// All attachments of the node and what they are made with.
pub struct Attachments {
    pub(crate) datapath: Arc<dyn PodDatapath>,
    pub(crate) journal: Journal,
    pub(crate) ipam: Mutex<Ipam>,
    pub(crate) pods: Mutex<BTreeMap<AttachmentId, Pod>>,
    pub(crate) keys: Keys,
    pub(crate) host_ports: HostPorts,
    pub(crate) tombstones: PathBuf,
    /// For new links.
    pub(crate) mtu: AtomicU32,
}

/// The least that IPv6 works with.
const MIN_MTU_V6: u32 = 1280;

/// A committed attachment.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    pub entry: Arc<Entry>,
    pub host_ifindex: u32,
    /// False when the data path refused it at our start; tried again from time to time.
    pub attached: bool,
}

/// An ADD under way. Dropped before [`Attempt::commit`], also by a panic, it undoes every step that was made.
struct Attempt<'a> {
    all: &'a Attachments,
    host: &'a mut Netlink,
    entry: Entry,
    ends: Option<links::Ends>,
    attached: Option<PodLink>,
    committed: bool,
}

// === impl Attachments ===

impl Attachments {
    pub fn links(&self) -> Vec<PodLink> {
        lock(&self.pods).values().map(Pod::link).collect()
    }

    /// Makes the attachment. One that is there already, in the same namespace, is the answer.
    ///
    /// # Errors
    /// 3 or 4 for the namespace, 105 for the host ports, 7, 11 or 103 for the addresses, 5 for the journal, 100, 101 or 104 for the rest; nothing
    /// is left behind then.
    pub fn add(&self, host: &mut Netlink, network: &str, add: &Add, netns: &OwnedFd) -> Result<Attached, CniError> {
        self.keys.with(&add.id, || {
            // A DEL that found no agent came before this ADD.
            if fs::remove_file(self.tombstones.join(add.id.host_ifname())).is_ok() {
                self.remove(host, &add.id)?;
            }
            let inode = check_namespace(netns.as_fd())?;
            let known = lock(&self.pods).get(&add.id).cloned();
            if let Some(pod) = known {
                if pod.entry.netns == inode && self.host_link_is(host, &pod)? {
                    return Ok(attached(&pod.entry));
                }
                self.remove(host, &add.id)?;
            }
            self.host_ports.claim(&add.id, &add.pod, &add.host_ports)?;
            let addresses = lock(&self.ipam).allocate(&add.ips, Instant::now()).map_err(|error| {
                self.host_ports.release(&add.id);
                no_address(error)
            })?;
            let mut attempt = Attempt {
                entry: self.entry(network, add, addresses, inode),
                all: self,
                host,
                ends: None,
                attached: None,
                committed: false,
            };
            attempt.make(netns.as_fd())?;
            attempt.commit()
        })
    }

    /// Removes the attachment, or what is left of it. One that nobody knows is removed already.
    ///
    /// # Errors
    /// 100 when the kernel refuses to remove the link; the address stays held then.
    pub fn del(&self, host: &mut Netlink, id: &AttachmentId) -> Result<(), CniError> {
        self.keys.with(id, || {
            let removed = self.remove(host, id);
            if removed.is_ok() {
                let _ = fs::remove_file(self.tombstones.join(id.host_ifname()));
            }
            removed
        })
    }

    /// Everything of the network that is not valid goes.
    ///
    /// # Errors
    /// The first removal that failed; the others are made.
    pub fn gc(&self, host: &mut Netlink, network: &str, valid: &[AttachmentId]) -> Result<(), CniError> {
        let valid: BTreeSet<&AttachmentId> = valid.iter().collect();
        let stale: Vec<AttachmentId> = lock(&self.pods)
            .values()
            .filter(|pod| pod.entry.network == network && !valid.contains(&pod.entry.id))
            .map(|pod| pod.entry.id.clone())
            .collect();
        let mut outcome = Ok(());
        for id in stale {
            info!(%id, "garbage collected");
            outcome = outcome.and(self.del(host, &id));
        }
        outcome
    }

    /// # Errors
    /// 50 while the node has no podCIDR.
    pub fn status(&self) -> Result<(), CniError> {
        match lock(&self.ipam).cidrs().next() {
            Some(_) => Ok(()),
            None => Err(CniError::new(code::UNAVAILABLE, IpamError::NoCidr.to_string()).details(NO_CIDR_ADVICE)),
        }
    }

    /// With the key held. Also for what was never committed, or is not known at all.
    pub(crate) fn remove(&self, host: &mut Netlink, id: &AttachmentId) -> Result<(), CniError> {
        let pod = lock(&self.pods).get(id).cloned();
        if let Some(pod) = &pod {
            self.detach(&pod.link());
        }
        links::delete(host, &id.host_ifname()).map_err(link_error)?;
        if let Some(pod) = pod {
            self.forget(&pod.entry);
            lock(&self.pods).remove(id);
        }
        Ok(())
    }

    /// The addresses rest; ports of the node do not.
    pub(crate) fn forget(&self, entry: &Entry) {
        self.journal_drop(entry);
        self.host_ports.release(&entry.id);
        let mut ipam = lock(&self.ipam);
        for address in &entry.addresses {
            ipam.release(*address, Instant::now());
        }
    }

    /// Not fsynced: a machine that crashes forgets its links as well, and an agent that is killed finds that the link is
    /// gone. For the same reason an error is no reason to keep the address.
    pub(crate) fn journal_drop(&self, entry: &Entry) {
        if let Err(error) = self.journal.append(&Record::Drop { id: entry.id.clone(), at: journal::now() }) {
            warn!(id = %entry.id, %error, "the journal of the pod network cannot be written");
        }
    }

    pub(crate) fn detach(&self, link: &PodLink) {
        if let Err(error) = self.datapath.detach(link) {
            warn!(id = %link.id(), %error, "the data path did not let go of a pod");
        }
    }

    pub(crate) fn host_link_is(&self, host: &mut Netlink, pod: &Pod) -> Result<bool, CniError> {
        let link = links::get(host, &pod.entry.host_ifname).map_err(link_error)?;
        Ok(link.is_some_and(|link| link.header.index == pod.host_ifindex))
    }

    fn entry(&self, network: &str, add: &Add, addresses: Vec<IpAddr>, netns: u64) -> Entry {
        let (host_mac, pod_mac) = macs(&add.id, &addresses);
        Entry {
            host_ifname: add.id.host_ifname(),
            id: add.id.clone(),
            network: network.to_owned(),
            pod: add.pod.clone(),
            host_mac,
            pod_mac: add.mac.unwrap_or(pod_mac),
            mtu: self.mtu.load(Ordering::Relaxed),
            addresses,
            netns,
            netns_path: add.netns.clone(),
            netns_cookie: None,
            host_ports: add.host_ports.clone(),
        }
    }
}

// === impl Pod ===

impl Pod {
    pub(crate) fn link(&self) -> PodLink {
        PodLink::new(&self.entry, self.host_ifindex)
    }
}

// === impl Attempt ===

impl Attempt<'_> {
    /// From nothing to a pod that the data path serves.
    fn make(&mut self, netns: BorrowedFd<'_>) -> Result<(), CniError> {
        let mut inside = Netlink::open_in(netns).map_err(|error| enter_error(&error))?;
        // Kernels before 5.14 have none.
        self.entry.netns_cookie = inside.netns_cookie().ok();
        self.all.journal.append(&Record::Begin(self.entry.clone().into())).map_err(|error| journal_error(&error))?;
        self.check_mtu()?;
        let ends = self.create(netns)?;
        if self.entry.has_v6() {
            let ifname = &self.entry.id.ifname;
            let inside = || sysctl::pod_end_v6(ifname).map_err(io::Error::other);
            namespace::within(netns, inside).map_err(|error| switch_error(&error))?;
            sysctl::host_end_v6(&self.entry.host_ifname).map_err(|error| switch_error(&error))?;
        }
        links::configure_pod(&mut inside, &self.entry, ends.pod).map_err(link_error)?;
        links::configure_host(self.host, &self.entry, ends.host).map_err(link_error)?;
        let link = PodLink::new(&self.entry, ends.host);
        // Known before it is tried, so that half an attachment is undone as well.
        self.attached = Some(link.clone());
        self.all
            .datapath
            .attach(&link)
            .map_err(|error| CniError::new(code::DATAPATH, format!("the data path refused {}", self.entry.id)).details(error))
    }

    /// On a link with less, the kernel has no IPv6, and says so only by failing.
    fn check_mtu(&self) -> Result<(), CniError> {
        if !self.entry.has_v6() || self.entry.mtu >= MIN_MTU_V6 {
            return Ok(());
        }
        let text = format!("an MTU of {} is too small for IPv6, which needs {MIN_MTU_V6}", self.entry.mtu);
        Err(CniError::new(code::LINK, text).details("see the uplink's MTU, or the agent's option for it"))
    }

    /// A link of that name in the host is what an ADD that was killed left; one in the container is somebody else's.
    fn create(&mut self, netns: BorrowedFd<'_>) -> Result<links::Ends, CniError> {
        let mut made = links::create(self.host, &self.entry, netns);
        if made.as_ref().is_err_and(|error| error.is(Errno::EEXIST))
            && links::delete(self.host, &self.entry.host_ifname).map_err(link_error)?
        {
            made = links::create(self.host, &self.entry, netns);
        }
        let ends = made.map_err(|error| {
            if error.is(Errno::EEXIST) {
                let ifname = &self.entry.id.ifname;
                CniError::new(code::INTERFACE_EXISTS, format!("the container already has an interface {ifname}")).details(error)
            } else {
                link_error(error)
            }
        })?;
        self.ends = Some(ends);
        Ok(ends)
    }

    /// On disk, then known, then answered.
    fn commit(mut self) -> Result<Attached, CniError> {
        let journal = &self.all.journal;
        let written = journal.append(&Record::Commit(self.entry.id.clone())).and_then(|position| journal.wait(position));
        written.map_err(|error| journal_error(&error))?;
        let host_ifindex = self.ends.map_or(0, |ends| ends.host);
        let pod = Pod { entry: Arc::new(self.entry.clone()), host_ifindex, attached: true };
        info!(id = %pod.entry.id, pod = %pod.entry.pod.name, addresses = ?pod.entry.addresses, "attached");
        lock(&self.all.pods).insert(pod.entry.id.clone(), pod);
        self.committed = true;
        Ok(attached(&self.entry))
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if self.committed {
            return;
        }
        if let Some(link) = &self.attached {
            self.all.detach(link);
        }
        if self.ends.is_some()
            && let Err(error) = links::delete(self.host, &self.entry.host_ifname)
        {
            // The address stays held and the journal has it as begun: the next start undoes it.
            warn!(id = %self.entry.id, %error, "an ADD that failed is not undone completely");
            return;
        }
        self.all.forget(&self.entry);
    }
}

// === functions ===

const NO_CIDR_ADVICE: &str = "the agent has not seen Node.spec.podCIDRs of this node: does the node exist, are CIDRs allocated to nodes, does the agent reach the API server?";

fn attached(entry: &Entry) -> Attached {
    Attached {
        host_ifname: entry.host_ifname.clone(),
        host_mac: entry.host_mac,
        pod_mac: entry.pod_mac,
        mtu: entry.mtu,
        addresses: entry.addresses.clone(),
    }
}

/// Locally administered, one pair for one IPv4 address: who has the address again has the hardware address again, and
/// no cache anywhere is wrong.
fn macs(id: &AttachmentId, addresses: &[IpAddr]) -> (Mac, Mac) {
    let v4 = addresses.iter().find_map(|address| match address {
        IpAddr::V4(address) => Some(address.octets()),
        IpAddr::V6(_) => None,
    });
    let [a, b, c, d] = v4.unwrap_or_else(|| {
        let [a, b, c, d, ..] = hash(&[id.container_id.as_bytes(), id.ifname.as_bytes()]).to_be_bytes();
        [a, b, c, d]
    });
    (Mac([0x06, 0x74, a, b, c, d]), Mac([0x02, 0x74, a, b, c, d]))
}

/// The namespace's inode. Our own would mean that a runtime asks us to rewire the host.
pub(crate) fn check_namespace(netns: BorrowedFd<'_>) -> Result<u64, CniError> {
    match namespace::is_own(netns).and_then(|own| Ok((own, namespace::inode(netns)?))) {
        Ok((false, inode)) => Ok(inode),
        Ok((true, _)) => Err(CniError::new(code::INVALID_ENVIRONMENT, "CNI_NETNS is the host's own network namespace")),
        Err(error) => Err(CniError::new(code::IO, "the container's network namespace cannot be read").details(error)),
    }
}

pub(crate) fn enter_error(error: &std::io::Error) -> CniError {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EINVAL) => CniError::new(code::INVALID_ENVIRONMENT, "CNI_NETNS is not a network namespace"),
        _ => CniError::new(code::IO, "the container's network namespace cannot be entered").details(error),
    }
}

fn switch_error(error: &dyn std::error::Error) -> CniError {
    CniError::new(code::LINK, "IPv6 cannot be turned on for the pod's link").details(error)
}

pub(crate) fn link_error(error: OpError) -> CniError {
    CniError::new(code::LINK, error.to_string())
}

fn journal_error(error: &std::io::Error) -> CniError {
    CniError::new(code::IO, "the journal of the pod network cannot be written")
        .details(format_args!("{error}; is the disk full?"))
}

fn no_address(error: IpamError) -> CniError {
    let (code, details) = match error {
        IpamError::NoCidr => (code::TRY_AGAIN, NO_CIDR_ADVICE),
        IpamError::Exhausted { .. } => {
            (code::TRY_AGAIN, "the node's podCIDR is full: fewer pods (--max-pods), or a larger node CIDR")
        }
        IpamError::NotInCidr(_) => (code::INVALID_CONFIG, "request an address of this node's podCIDRs"),
        IpamError::Taken(_) => (code::ADDRESS_IN_USE, "another pod of this node has it, or it is the CIDR's first or last"),
    };
    CniError::new(code, error.to_string()).details(details)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_addresses() {
        let id = AttachmentId::new("c", "eth0");
        let (host, pod) = macs(&id, &["10.244.1.5".parse().unwrap(), "fd00::5".parse().unwrap()]);
        assert_eq!((host.to_string(), pod.to_string()), ("06:74:0a:f4:01:05".into(), "02:74:0a:f4:01:05".into()));
        for mac in [host, pod] {
            assert_eq!(mac.to_string().parse(), Ok(mac), "unicast");
            assert_eq!(mac.0[0] & 2, 2, "locally administered");
        }
    }

    #[test]
    fn codes_of_missing_addresses() {
        let ip: IpAddr = "10.0.0.1".parse().unwrap();
        let table = [
            (IpamError::NoCidr, code::TRY_AGAIN),
            (IpamError::Exhausted { family: "IPv4", usage: Vec::new() }, code::TRY_AGAIN),
            (IpamError::NotInCidr(ip), code::INVALID_CONFIG),
            (IpamError::Taken(ip), code::ADDRESS_IN_USE),
        ];
        for (error, want) in table {
            let answer = no_address(error);
            assert_eq!(answer.code, want, "{answer}");
            assert!(!answer.details.is_empty());
        }
    }
}
