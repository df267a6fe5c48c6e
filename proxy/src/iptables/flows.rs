//! Which flows of the kernel's connection table a change has made wrong. Pure.
//!
//! Rules are asked about the first packet of a flow only; what they said then holds for all others. So a flow to an
//! endpoint that is gone has to leave the table:
//! - of UDP and SCTP, so that its next packet reaches a live endpoint, or is refused; also one that was let through
//!   untranslated before there was an endpoint;
//! - of TCP, so that its next packet is given to a live endpoint, which knows nothing of it and resets it, or is reset by
//!   our own rules: the client learns at once what else a time-out of many minutes would tell it.
//!
//! Endpoints that drain keep their flows. The table is only walked when something was lost, after the rules are written,
//! and then the kernel picks what is looked at ([`Narrow`]), where it can.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;

use thalweg_abi::Proto;
use thalweg_cluster::Family;

use super::compile::Compiled;

/// One flow of the kernel's connection table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Flow {
    pub protocol: Proto,
    /// As its first packet came: source and destination.
    pub original: (SocketAddr, SocketAddr),
    /// As its answers come: the endpoint, and the source that the endpoint sees.
    pub reply: (SocketAddr, SocketAddr),
}

/// What part of the connection table to look at.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Filter {
    pub family: Family,
    pub protocol: Proto,
    pub narrow: Narrow,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Narrow {
    All,
    /// Flows that were sent to this address.
    Dialled(SocketAddr),
    /// Flows that this endpoint answers.
    Endpoint(SocketAddr),
    /// Flows that are not translated, and of which the kernel has not seen both directions for certain.
    HalfSeen,
}

/// What is wrong after a change.
#[derive(Debug)]
pub(super) struct Stale {
    pub filters: BTreeSet<Filter>,
    /// Where flows to each of these addresses may go.
    allowed: HashMap<(Proto, SocketAddr), Vec<SocketAddr>>,
}

/// Every filter is one walk of the kernel's; from so many on one walk of a whole protocol costs less. Of 100,000 flows a
/// filtered walk takes some 80 ms and hands out what matches, an unfiltered one 400 ms and 19 MB, which nobody keeps.
const MOST_FILTERS: usize = 4;

type Destinations = HashMap<(Proto, SocketAddr), Vec<SocketAddr>>;

/// What changes of services, each from what it was to what it is, have made wrong; `None` when nothing.
pub(super) fn stale<'a>(family: Family, changes: impl Iterator<Item = (&'a Compiled, &'a Compiled)>) -> Option<Stale> {
    let mut stale = Stale { filters: BTreeSet::new(), allowed: HashMap::new() };
    for (old, new) in changes {
        let (mut before, after) = (destinations(old), destinations(new));
        for (key, is) in after {
            stale.compare(family, key, &before.remove(&key).unwrap_or_default(), is, (&old.draining, &new.draining));
        }
        for (key, was) in before {
            stale.compare(family, key, &was, Vec::new(), (&old.draining, &new.draining));
        }
    }
    stale.narrowed()
}

/// What an earlier agent may have missed: everything is looked at once.
pub(super) fn all_stale<'a>(family: Family, services: impl Iterator<Item = &'a Compiled>) -> Option<Stale> {
    let mut stale = Stale { filters: BTreeSet::new(), allowed: HashMap::new() };
    for service in services {
        for (key, is) in destinations(service) {
            stale.filters.insert(Filter { family, protocol: key.0, narrow: Narrow::All });
            stale.allow(key, is, &service.draining);
        }
    }
    stale.narrowed()
}

/// What is dialled, and where it goes to, from inside or outside. Entries of services that wait for another's address
/// count too: whoever has it looks after its flows.
fn destinations(service: &Compiled) -> Destinations {
    let mut all = Destinations::new();
    for (key, action) in &service.entries {
        let Some(dialled) = key.dialled() else { continue };
        all.entry(dialled).or_default().extend(service.served(*action));
    }
    for served in all.values_mut() {
        served.sort_unstable();
        served.dedup();
    }
    all
}

// === impl Stale ===

impl Stale {
    pub fn is_stale(&self, flow: &Flow) -> bool {
        let Some(allowed) = self.allowed.get(&(flow.protocol, flow.original.1)) else { return false };
        let endpoint = flow.reply.0;
        // A connection that is not translated is somebody else's: a process of the node had the port before.
        if flow.protocol == Proto::TCP && endpoint == flow.original.1 {
            return false;
        }
        allowed.binary_search(&endpoint).is_err()
    }

    fn compare(
        &mut self,
        family: Family,
        key: (Proto, SocketAddr),
        was: &[SocketAddr],
        is: Vec<SocketAddr>,
        (drained, draining): (&[SocketAddr], &[SocketAddr]),
    ) {
        let (protocol, dialled) = key;
        let kept = |gone: &SocketAddr| is.binary_search(gone).is_ok() || draining.binary_search(gone).is_ok();
        let gone = was.iter().chain(drained).filter(|endpoint| !kept(endpoint));
        let mut narrows: Vec<Narrow> = gone.map(|gone| Narrow::Endpoint(*gone)).collect();
        if was.is_empty() && !is.is_empty() && protocol != Proto::TCP {
            narrows.push(Narrow::Dialled(dialled));
        }
        if narrows.is_empty() {
            return;
        }
        self.filters.extend(narrows.into_iter().map(|narrow| Filter { family, protocol, narrow }));
        self.allow(key, is, draining);
    }

    /// Two services may claim one address; then a flow to either's endpoint is right.
    fn allow(&mut self, key: (Proto, SocketAddr), is: Vec<SocketAddr>, draining: &[SocketAddr]) {
        let allowed = self.allowed.entry(key).or_default();
        allowed.extend(is);
        allowed.extend(draining);
        allowed.sort_unstable();
        allowed.dedup();
    }

    fn narrowed(mut self) -> Option<Self> {
        for protocol in [Proto::TCP, Proto::UDP, Proto::SCTP] {
            let of = |filter: &&Filter| filter.protocol == protocol;
            if self.filters.iter().filter(of).count() > MOST_FILTERS {
                let family = self.filters.first()?.family;
                self.filters.retain(|filter| filter.protocol != protocol);
                self.filters.insert(Filter { family, protocol, narrow: Narrow::All });
            }
        }
        (!self.filters.is_empty()).then_some(self)
    }
}

// === impl Flow ===

impl Flow {
    /// True when the kernel sends it elsewhere than it was sent.
    pub fn is_translated(&self) -> bool {
        self.original.1 != self.reply.0
    }
}
