//! The node leaves us: what the pod network made in the kernel goes, and what it changed is as it was before.

use std::fs;
use std::path::Path;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::RouteMessage;
use nix::errno::Errno;

use crate::agent::{boot_id, hold};
use crate::error::{Error, Result};
use crate::links::{self, ROUTE_PROTOCOL};
use crate::netlink::{Netlink, Op};
use crate::sysctl;

/// What [`cleanup`] found and removed.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Removed {
    /// Host ends of pods' links: their pods have no network any more.
    pub links: Vec<String>,
    pub routes: usize,
    /// Switches that are as they were before us, by their path below `/proc/sys/net`.
    pub sysctls: Vec<String>,
}

/// In the network namespace of the calling thread. What is gone already is no error, so it may be repeated.
///
/// # Errors
/// While an agent runs; and what the kernel refused to remove.
pub fn cleanup(state_dir: &Path) -> Result<Removed> {
    let directory = state_dir.join("cni");
    let lock = directory.exists().then(|| hold(&directory.join("lock"))).transpose()?;
    let mut host = Netlink::open().map_err(Error::io("no netlink socket"))?;
    let mut removed = Removed::default();
    for link in links::list(&mut host)?.into_iter().filter(|link| link.alias.is_some()) {
        if links::delete(&mut host, &link.name)? {
            removed.links.push(link.name);
        }
    }
    let routes = host.dump("list the routes", &RouteNetlinkMessage::GetRoute(RouteMessage::default()))?;
    let ours = routes.into_iter().filter_map(|message| match message {
        RouteNetlinkMessage::NewRoute(route) if route.header.protocol == ROUTE_PROTOCOL => Some(route),
        _ => None,
    });
    let ops: Vec<Op> = ours.map(|route| Op::new("remove a route", RouteNetlinkMessage::DelRoute(route), 0)).collect();
    if !ops.is_empty() {
        for outcome in host.try_batch(ops)? {
            match outcome {
                Ok(_) => removed.routes += 1,
                // Its link took it along.
                Err(error) if error.is(Errno::ESRCH) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    removed.sysctls = sysctl::restore(&directory, &boot_id()?);
    if lock.is_some() {
        fs::remove_dir_all(&directory).map_err(Error::io(format!("{} cannot be removed", directory.display())))?;
    }
    Ok(removed)
}
