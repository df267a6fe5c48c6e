//! Which address is whose: a bitmap per CIDR, first-in first-out reuse, a quarantine. Pure; time comes from the caller.

mod pool;

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use pool::Pool;

/// The addresses of one node.
///
/// Everything that is held stays held, also outside of the present CIDRs: a CIDR may change under running pods.
#[derive(Clone, Debug)]
pub struct Ipam {
    /// A released address rests at least so long.
    quarantine: Duration,
    pools: Vec<Pool>,
    held: BTreeSet<IpAddr>,
    /// Addresses that rest outside of the present CIDRs.
    parked: Vec<(IpAddr, Instant)>,
}

/// Why there is no address.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum IpamError {
    #[error("the node has no podCIDR yet")]
    NoCidr,
    #[error("no {family} address is free: {}", list(usage))]
    Exhausted { family: &'static str, usage: Vec<Usage> },
    #[error("requested address {0} is in none of the node's podCIDRs")]
    NotInCidr(IpAddr),
    #[error("requested address {0} is in use, or reserved")]
    Taken(IpAddr),
}

/// How full a CIDR is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Usage {
    pub cidr: IpNetwork,
    pub capacity: u32,
    pub in_use: u32,
    pub quarantined: u32,
    /// When the first quarantined address is free.
    pub next_free: Option<Duration>,
}

/// What an exhausted allocation has to say to its caller.
fn list(usage: &[Usage]) -> String {
    usage.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

// === impl Ipam ===

impl Ipam {
    pub fn new(quarantine: Duration) -> Self {
        Self { quarantine, pools: Vec::new(), held: BTreeSet::new(), parked: Vec::new() }
    }

    pub fn quarantine(&self) -> Duration {
        self.quarantine
    }

    /// The CIDRs to allocate from, tried in this order; one that lies in another is left out. What is held or rests keeps
    /// doing so.
    pub fn set_cidrs(&mut self, cidrs: &[IpNetwork]) {
        let mut old = std::mem::take(&mut self.pools);
        for cidr in cidrs {
            // An address in two pools would rest in one and be free in the other.
            let wider = cidrs.iter().filter(|other| other.prefix() < cidr.prefix());
            if wider.copied().chain(self.cidrs()).any(|other| other.contains(cidr.network())) {
                continue;
            }
            if let Some(index) = old.iter().position(|pool| pool.cidr() == *cidr) {
                self.pools.push(old.swap_remove(index));
                continue;
            }
            let mut pool = Pool::new(*cidr);
            for address in &self.held {
                pool.take(*address);
            }
            self.pools.push(pool);
        }
        self.parked.extend(old.into_iter().flat_map(Pool::into_resting));
        self.parked.sort_by_key(|(_, released)| *released);
        let pools = &mut self.pools;
        self.parked.retain(|(address, released)| !pools.iter_mut().any(|pool| pool.rest(*address, *released)));
    }

    pub fn cidrs(&self) -> impl Iterator<Item = IpNetwork> {
        self.pools.iter().map(Pool::cidr)
    }

    pub fn usage(&self, now: Instant) -> Vec<Usage> {
        self.pools.iter().map(|pool| pool.usage(now, self.quarantine)).collect()
    }

    /// One address of each family that the node has CIDRs of, IPv4 first: all of them, or none.
    ///
    /// A requested address (at most one of a family) is given if nobody holds it, also out of its quarantine.
    ///
    /// # Errors
    /// [`IpamError`]; nothing is taken then.
    pub fn allocate(&mut self, requested: &[IpAddr], now: Instant) -> Result<Vec<IpAddr>, IpamError> {
        if self.pools.is_empty() {
            return Err(IpamError::NoCidr);
        }
        if let Some(stranger) = requested.iter().find(|address| !self.pools.iter().any(|pool| pool.cidr().contains(**address)))
        {
            return Err(IpamError::NotInCidr(*stranger));
        }
        // Every family chooses before any takes: what one has to offer stays as it is, at rest too, if the other has nothing.
        let mut given = Vec::with_capacity(2);
        for v4 in [true, false] {
            if self.pools.iter().any(|pool| pool.cidr().is_ipv4() == v4) {
                let wanted = requested.iter().copied().find(|address| address.is_ipv4() == v4);
                given.push(self.choose(v4, wanted, now)?);
            }
        }
        for address in &given {
            self.hold(*address);
        }
        Ok(given)
    }

    /// What this family would give now.
    fn choose(&self, v4: bool, wanted: Option<IpAddr>, now: Instant) -> Result<IpAddr, IpamError> {
        let mut pools = self.pools.iter().filter(|pool| pool.cidr().is_ipv4() == v4);
        match wanted {
            // What nobody holds is free or rests, and a wish ends the rest.
            Some(address) if !self.held.contains(&address) && pools.any(|pool| pool.has(address)) => Ok(address),
            Some(address) => Err(IpamError::Taken(address)),
            None => pools.find_map(|pool| pool.next(now, self.quarantine)).ok_or_else(|| self.exhausted(v4, now)),
        }
    }

    fn exhausted(&self, v4: bool, now: Instant) -> IpamError {
        let family = if v4 { "IPv4" } else { "IPv6" };
        let usage = self.usage(now).into_iter().filter(|usage| usage.cidr.is_ipv4() == v4).collect();
        IpamError::Exhausted { family, usage }
    }

    /// Marks an address that somebody holds already, wherever it lies. False when it is held twice.
    pub fn hold(&mut self, address: IpAddr) -> bool {
        self.parked.retain(|(parked, _)| *parked != address);
        self.pools.iter_mut().for_each(|pool| {
            pool.take(address);
        });
        self.held.insert(address)
    }

    /// Frees an address; it rests from `released` on. False when nobody held it.
    pub fn release(&mut self, address: IpAddr, released: Instant) -> bool {
        if !self.held.remove(&address) {
            return false;
        }
        self.pools.iter_mut().for_each(|pool| pool.give_back(address));
        self.rest(address, released);
        true
    }

    /// An address that was released before (by an earlier agent) rests until its quarantine is over.
    pub fn rest(&mut self, address: IpAddr, released: Instant) {
        if !self.held.contains(&address) && !self.pools.iter_mut().any(|pool| pool.rest(address, released)) {
            self.parked.push((address, released));
        }
    }

    pub fn is_held(&self, address: IpAddr) -> bool {
        self.held.contains(&address)
    }
}

// === impl Usage ===

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cidr, capacity, in_use, quarantined, next_free } = self;
        write!(f, "{cidr}: {in_use} of {capacity} in use, {quarantined} in quarantine")?;
        match next_free {
            Some(wait) => write!(f, " (the next is free in {} s)", wait.as_secs() + 1),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
