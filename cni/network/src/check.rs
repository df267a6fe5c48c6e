//! CHECK: what is, compared with what ADD made.

use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};

use thalweg_cni::CniError;
use thalweg_cni::error::code;
use thalweg_cni::protocol::Check;

use crate::attachments::{Attachments, check_namespace, enter_error, link_error};
use crate::keys::lock;
use crate::links;
use crate::netlink::Netlink;

// === impl Attachments ===

impl Attachments {
    /// For every address of either family: there, with its default route inside and its route on the host.
    ///
    /// # Errors
    /// 3 for an attachment that nobody knows, 102 names what differs, 100 when the kernel cannot be asked.
    pub fn check(&self, host: &mut Netlink, check: &Check, netns: &OwnedFd) -> Result<(), CniError> {
        let id = &check.id;
        check_namespace(netns.as_fd())?;
        let Some(pod) = lock(&self.pods).get(id).cloned() else {
            return Err(CniError::new(code::UNKNOWN_CONTAINER, format!("{id} is not attached")));
        };
        let entry = &pod.entry;
        if !check.ips.iter().all(|address| entry.addresses.contains(address)) {
            return Err(differs(format!("prevResult gives {id} {:?}, the agent gave {:?}", check.ips, entry.addresses)));
        }
        if !self.host_link_is(host, &pod)? {
            return Err(differs(format!("{} is gone or was made anew", entry.host_ifname)));
        }
        for address in &entry.addresses {
            if links::route_to(host, *address).map_err(link_error)? != Some(pod.host_ifindex) {
                return Err(differs(format!("the node's route to {address} does not go to {}", entry.host_ifname)));
            }
        }
        let mut inside = Netlink::open_in(netns.as_fd()).map_err(|error| enter_error(&error))?;
        let Some(link) = links::get(&mut inside, &id.ifname).map_err(link_error)? else {
            return Err(differs(format!("{id} has no interface {}", id.ifname)));
        };
        if !links::is_up(&link) {
            return Err(differs(format!("{id} is down")));
        }
        let index = link.header.index;
        let present: Vec<IpAddr> =
            links::addresses(&mut inside, index).map_err(link_error)?.iter().map(|network| network.ip()).collect();
        for address in &entry.addresses {
            if !present.contains(address) {
                return Err(differs(format!("{id} has lost its address {address}")));
            }
            if !links::has_default_route(&mut inside, *address, index).map_err(link_error)? {
                return Err(differs(format!("{id} has lost the default route of its address {address}")));
            }
        }
        Ok(())
    }
}

fn differs(what: String) -> CniError {
    CniError::new(code::CHANGED, what)
}
