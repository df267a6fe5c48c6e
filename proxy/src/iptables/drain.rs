//! Changing modes on a live node, and what becomes of flows meanwhile.
//!
//! # From iptables to eBPF
//! A flow that the kernel translates needs no rule any more: its entry in the connection table says all. But the kernel
//! only looks at that table while some rule wants it, and in a network namespace where those rules were ours alone the flows
//! break with the last of them (found on Linux 6.18 with the nft kind). So one rule of ours stays that no packet ever
//! meets, in the chain `TW-KEEP`: that is the difference between [`drain`] and [`cleanup`](super::cleanup). The order:
//! 1. The eBPF backend writes its maps; nothing is attached yet, and iptables go on serving.
//! 2. [`translated_flows`] lists what the kernel translates. A tc program would take the next packet of such a flow for
//!    the first of a new one, and give it to another endpoint. So these flows are written into its own table, or marked
//!    there to be left to the kernel, before the programs are attached.
//! 3. The programs are attached. New flows are theirs from here on.
//! 4. [`drain_installed`], or [`IptablesBackend::drain`] in the process that wrote the rules. Flows that began between
//!    2. and 3. are in the kernel's table too: a second list finds them.
//! 5. When [`translated_flows`] lists none of ours any more, or a drain time-out is over:
//!    [`cleanup_installed`](super::cleanup_installed).
//!
//! With the rules gone before 3., new flows would find nobody.
//!
//! # From eBPF to iptables
//! Flows of tc are in a table that no rule knows: they break at the moment the programs are detached. So:
//! 1. The iptables backend syncs first ([`Applied`](crate::Applied) without failures). A packet that a tc program
//!    takes never meets the rules, so nothing is translated twice.
//!    But what they send past the host's stack its connection table sees in one direction only, and from the first rule on
//!    it takes what follows such a beginning for invalid. So nothing is dropped for that yet
//!    ([`IptablesBackend::set_lenient`]).
//! 2. The frontends of the eBPF maps are emptied. What is not in its connection table passes the tc programs now, and
//!    meets the rules: new flows are iptables'.
//! 3. The socket programs are detached. Sockets that they translated are connected to their endpoints and go on by
//!    themselves; an unconnected UDP socket sends to the service's address next time, and the rules translate that.
//! 4. From here on both directions pass the stack. What it has seen half of it forgets ([`forget_half_seen`]), takes up
//!    in its middle, and from then on knows: what is invalid now may be dropped.
//! 5. The tc programs stay attached, and their table swept, until it is empty or a drain time-out is over; long-lived
//!    connections break then. Only then everything is detached and unpinned.
//!
//! A process that is killed in between finds all of this as it was and goes on: each step may be done twice.

use std::collections::HashSet;
use std::net::SocketAddr;

use thalweg_abi::Proto;

use super::address::FAMILIES;
use super::chain::KEEPER;
use super::conntrack;
use super::error::Error;
use super::exec::Executor;
use super::flows::{Filter, Flow, Narrow};
use super::save::{removal, serves_localnet};
use super::side::Side;
use super::{IptablesBackend, each_family, each_variant};

/// What is left of a backend whose rules are gone: the flows that they began.
#[derive(Debug)]
pub struct Draining {
    dialled: HashSet<(Proto, SocketAddr)>,
}

// === impl IptablesBackend ===

impl IptablesBackend {
    /// Takes all rules out, of both families; flows that they began go on. From here on this backend writes nothing,
    /// until every service has been set again and [`retain_only_known`](crate::Backend::retain_only_known) is called.
    ///
    /// # Errors
    /// As [`drain`]; the next call tries again.
    pub fn drain(&mut self) -> Result<Draining, Error> {
        let dialled = self.sides.iter().flat_map(Side::dialled).collect();
        drain(&mut *self.executor)?;
        for side in &mut self.sides {
            side.forget_all(self.options.clone());
        }
        self.services.clear();
        self.complete = false;
        self.retry = None;
        Ok(Draining { dialled })
    }
}

// === impl Draining ===

impl Draining {
    /// The flows that the kernel still translates.
    ///
    /// # Errors
    /// As [`translated_flows`].
    pub fn flows(&self) -> Result<Vec<Flow>, Error> {
        translated_flows(&|protocol, dialled| self.dialled.contains(&(protocol, dialled)))
    }
}

/// Removes our rules as [`cleanup`](super::cleanup) does, but for the one that keeps the kernel translating what it began
/// to translate. True when there was something to remove.
///
/// # Errors
/// When the programs fail; what could be removed has been.
pub fn drain(executor: &mut dyn Executor) -> Result<bool, Error> {
    each_family(|family| {
        let listing = executor.save(family)?;
        // What kept the wire out goes with the rules (kubernetes#90259).
        if serves_localnet(&listing) {
            executor.route_localnet(false)?;
        }
        let scripts = removal(&listing, Some(KEEPER), executor.script_lines());
        if !scripts.is_empty() {
            executor.restore(family, &format!("*nat\n:{KEEPER} - [0:0]\n-A {KEEPER} -j MASQUERADE\nCOMMIT\n"))?;
        }
        for script in &scripts {
            executor.restore(family, script)?;
        }
        Ok(!scripts.is_empty())
    })
}

/// [`drain`] for whichever kinds of iptables are installed.
///
/// # Errors
/// As [`drain`].
pub fn drain_installed() -> Result<bool, Error> {
    each_variant(drain)
}

/// Has the kernel forget the connections of which it may have seen one direction only, of those that `is_meant`, and returns
/// how many. It takes up each again in its middle, with its next packet.
///
/// # Errors
/// [`Error::Flows`].
pub fn forget_half_seen(is_meant: &dyn Fn(&Flow) -> bool) -> Result<usize, Error> {
    let mut forgotten = 0;
    for family in FAMILIES {
        let filter = Filter { family, protocol: Proto::TCP, narrow: Narrow::HalfSeen };
        forgotten += conntrack::delete(&filter, is_meant).map_err(|source| Error::Flows { source })?;
    }
    Ok(forgotten)
}

/// The flows that the kernel of the calling thread's network namespace translates, of those that were sent to an address
/// of ours.
///
/// # Errors
/// [`Error::Flows`].
pub fn translated_flows(is_ours: &dyn Fn(Proto, SocketAddr) -> bool) -> Result<Vec<Flow>, Error> {
    let mut flows = Vec::new();
    for family in FAMILIES {
        for protocol in [Proto::TCP, Proto::UDP, Proto::SCTP] {
            let filter = Filter { family, protocol, narrow: Narrow::All };
            let mut see = |flow: &Flow| {
                if flow.is_translated() && is_ours(flow.protocol, flow.original.1) {
                    flows.push(flow.clone());
                }
            };
            conntrack::each(&filter, &mut see).map_err(|source| Error::Flows { source })?;
        }
    }
    Ok(flows)
}
