//! The iptables backend: the fallback for kernels and machines without what eBPF needs. Same plans, own chains.
//!
//! # Chains
//! All names start with `TW-`; iptables and ip6tables have the same. In the nat table `TW-PREROUTING` tells inside from
//! outside ([`Inside`]); `TW-SERVICES` and `TW-EXTERNAL` are the roots of two trees of chains (`TW-I-…`, `TW-E-…`, named by
//! the hexadecimal digits of the addresses below them, or by a hash of these: see `dispatch`), for the internal and the
//! external traffic policy. Their leaves lead to one `TW-SVC-<hash>` per endpoint set and protocol, which picks one
//! `TW-SEP-<hash>`, which translates; by way of `TW-SRC-<hash>` where a service admits some sources only. NodePorts are
//! ports of the node's addresses in the same trees. What is dialled in a service range and is nobody's is dropped behind
//! the trees. Nothing may be refused in the nat table: `TW-REFUSE` and `TW-DROP` mark the packet there, and `TW-FILTER`, a
//! chain of three rules that only marked packets meet, acts on the mark. So the filter table does not grow with the
//! number of services.
//!
//! `TW-FORWARD` accepts what services translated, where the machine's own policy is to drop (Docker's). `TW-INVALID` drops
//! packets of pods that fit no flow, as those out of the window are: they would reach the client, or this node,
//! untranslated, and be answered by a reset that ends the connection (kubernetes#74839). Where the kernel is told to be
//! liberal (`net.netfilter.nf_conntrack_tcp_be_liberal`) there are none. Endpoints outside of [`Inside`] are not covered.
//! `TW-LOCALNET` keeps the wire from 127.0.0.1 (kubernetes#90259), as kubelet does.
//!
//! # Writing
//! Incremental after the first sync: a changed chain is emptied and filled by one `iptables-restore --noflush`
//! transaction, every other chain keeps even its counters. A first sync is cut into scripts, because the nft kind of
//! iptables needs time that grows with the square of a script's length (10,000 services: 28 s at once, 3 s in
//! parts); parts are in an order that never shows half a service. See `ruleset`. Each family is written by itself
//! (`side`); what one cannot do the other does not suffer from.
//!
//! Others' rules are left alone, wherever they are. Our jumps go to the top of the system's chains and are not moved
//! again when somebody (Calico) puts his own before them. What an earlier kube-proxy left is not reached by what we serve,
//! as our rules decide first; `kube-proxy --cleanup` removes it.
//!
//! # What it needs
//! Found on Linux 6.18 (Debian 12, iptables 1.8.9, which is the nft kind by default; legacy works too and both are tested): the
//! matches comment, conntrack, mark, recent, sctp, statistic, tcp and udp, the targets DNAT, MARK, MASQUERADE and REJECT.
//! recent is used for session affinity only, sctp for services of that protocol; their lack is said in the failure of the
//! services that want them. recent remembers 100 clients per endpoint unless its module parameter `ip_list_tot` says more.
//! (SCTP itself needs no support for its sockets on the node, which this kernel is built without: a packet is translated
//! by CONFIG_NF_CT_PROTO_SCTP and matched by CONFIG_NETFILTER_XT_MATCH_SCTP.) A family whose program or tables are missing
//! is left out: that is logged once, and its services fail by name.
//!
//! # Flows
//! A change that takes an endpoint away removes the flows to it from the kernel's connection table, by netlink and
//! filtered, and nothing is walked when nothing was lost: see `flows`. What an earlier agent missed is looked for once, in
//! the first sync. So an established TCP connection whose endpoint is gone is reset when its client says the next word
//! (kubernetes#46753); a client that only listens learns it from its own keep-alive.
//!
//! # Where it differs from the eBPF backend
//! Flows from outside under the Cluster policy, and flows of the node itself, are masqueraded even to a local endpoint, as
//! kube-proxy does. A refused datagram of the node itself fails with EPERM, at once.

mod address;
mod chain;
mod compile;
mod conntrack;
mod dispatch;
mod drain;
mod error;
mod exec;
mod flows;
mod rules;
mod ruleset;
mod save;
mod script;
mod side;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use thalweg_cluster::{Family, Name};

use crate::backend::{Applied, Backend};
use crate::plan::ServicePlan;
use address::FAMILIES;
use save::removal;
use side::{Side, Work};

pub use drain::{Draining, drain, drain_installed, forget_half_seen, translated_flows};
pub use error::Error;
pub use exec::{Executor, Programs, Stop, Variant};
pub use flows::{Filter, Flow, Narrow};
pub use rules::{Inside, Options};

/// When to try again after a failure.
const RETRY: Duration = Duration::from_secs(5);

/// Programs the kernel by way of `iptables-restore` and `ip6tables-restore`. Every call may run programs and wait for them.
pub struct IptablesBackend {
    executor: Box<dyn Executor + Send>,
    options: Options,
    /// Desired.
    services: BTreeMap<Name, ServicePlan>,
    sides: [Side; 2],
    /// Every service has been heard of. Chains are shared, so nothing is written before.
    complete: bool,
    /// Services that could not be brought to their plan. They are tried again together, after a while: one that cannot be
    /// written must not make every other change look for the culprit again.
    failing: BTreeSet<Name>,
    retry: Option<Instant>,
}

/// What [`IptablesBackend::repair`] found and did.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Repaired {
    /// Chains that somebody had changed or removed.
    pub chains: usize,
    /// Jumps into our chains that were missing, twice there, or changed.
    pub jumps: usize,
}

/// Numbers for metrics.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Figures {
    pub tables: Vec<TableFigures>,
    /// Scripts that failed, of whatever family.
    pub restore_failures: u64,
    /// Those of them that were to write a change, not everything.
    pub partial_restore_failures: u64,
    /// Families that this machine has no rules for.
    pub missing: Vec<Family>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TableFigures {
    pub family: Family,
    pub table: &'static str,
    /// Rules in our chains, as last written.
    pub rules: usize,
    /// Rules that the last sync wrote which wrote anything.
    pub last_written: usize,
}

// === impl IptablesBackend ===

impl IptablesBackend {
    /// Touches nothing yet.
    ///
    /// # Errors
    /// [`Error::Options`].
    pub fn new(executor: impl Executor + Send + 'static, options: Options) -> Result<Self, Error> {
        if let Some(fault) = options.fault() {
            return Err(Error::Options { fault });
        }
        Ok(Self {
            executor: Box::new(executor),
            sides: FAMILIES.map(|family| Side::new(family, options.clone())),
            options,
            services: BTreeMap::new(),
            complete: false,
            failing: BTreeSet::new(),
            retry: None,
        })
    }

    /// Whether packets of pods that fit no flow are let through, from the next sync on; they are not unless somebody says
    /// so. For when the kernel has not seen both directions of all connections (see `drain`), or is told to be liberal. True
    /// when that is news, and a sync is due.
    pub fn set_lenient(&mut self, lenient: bool) -> bool {
        let is_news = self.is_lenient() != lenient;
        self.sides.iter_mut().for_each(|side| side.set_lenient(lenient));
        is_news
    }

    /// As [`Self::set_lenient`] has been told.
    pub fn is_lenient(&self) -> bool {
        self.sides.iter().any(Side::is_lenient)
    }

    /// [`Backend::apply`] with this backend's own errors.
    ///
    /// # Errors
    /// When the programs cannot do anything at all; the next call tries again.
    pub fn sync(&mut self, now: Instant) -> Result<Applied, Error> {
        let started = Instant::now();
        let mut applied = Applied::default();
        if !self.complete {
            return Ok(applied);
        }
        if self.retry.is_some_and(|at| at <= now) {
            self.retry = None;
            self.sides.iter_mut().for_each(Side::retry);
        }
        applied.services = self.sides.iter().flat_map(Side::dirty).collect::<BTreeSet<_>>().len();
        let mut result = Ok(());
        for side in &mut self.sides {
            let synced = side.sync(&mut Work::new(&mut *self.executor, &self.services, &mut applied));
            result = result.and(synced);
        }
        if self.sides.iter().all(|side| side.missing().is_some()) {
            result = result.and(self.sides[0].missing().map_or(Ok(()), Err));
        }
        let failing: BTreeSet<Name> = self.sides.iter().flat_map(Side::waiting).cloned().collect();
        if result.is_err() || !failing.is_empty() {
            self.retry.get_or_insert(now + RETRY);
        } else {
            self.retry = None;
        }
        applied.recovered = self.failing.difference(&failing).cloned().collect();
        self.failing = failing;
        applied.took = started.elapsed();
        result.map(|()| applied)
    }

    /// Looks whether our chains and the jumps into them are still there, and puts back what is missing; and whether what
    /// this machine could not do is possible now. Cheap when all is well: to be called every half minute or so. Does
    /// nothing before the first apply.
    ///
    /// # Errors
    /// When the programs fail; the next call tries again.
    pub fn repair(&mut self) -> Result<Repaired, Error> {
        let mut repaired = Repaired::default();
        let mut result = Ok(());
        for side in &mut self.sides {
            side.retry();
            match side.repair(&mut *self.executor) {
                Ok(one) => repaired += one,
                Err(error) => result = result.and(Err(error)),
            }
        }
        if repaired != Repaired::default() {
            tracing::warn!(?repaired, "somebody changed the service proxy's rules; they are back");
        }
        result.map(|()| repaired)
    }

    pub fn figures(&self) -> Figures {
        Figures {
            tables: self.sides.iter().flat_map(Side::figures).collect(),
            restore_failures: self.sides.iter().map(|side| side.failures.all).sum(),
            partial_restore_failures: self.sides.iter().map(|side| side.failures.partial).sum(),
            missing: self.sides.iter().filter(|side| side.missing().is_some()).map(Side::family).collect(),
        }
    }

    fn mark(&mut self, name: &Name) {
        for side in &mut self.sides {
            side.mark(name);
        }
    }
}

impl Backend for IptablesBackend {
    fn set(&mut self, plan: ServicePlan) {
        if self.services.get(&plan.name) != Some(&plan) {
            self.mark(&plan.name);
            self.services.insert(plan.name.clone(), plan);
        }
    }

    fn remove(&mut self, name: &Name) {
        if self.services.remove(name).is_some() {
            self.mark(name);
        }
    }

    fn set_service_ranges(&mut self, ranges: &[IpNetwork]) {
        for side in &mut self.sides {
            side.set_service_ranges(ranges);
        }
    }

    fn retain_only_known(&mut self) {
        self.complete = true;
    }

    fn apply(&mut self, now: Instant) -> Result<Applied, thalweg_loader::Error> {
        self.sync(now).map_err(|error| error.to_loader())
    }

    fn rules(&self) -> Option<Figures> {
        Some(self.figures())
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.retry
    }
}

// === impl Repaired ===

impl std::ops::AddAssign for Repaired {
    fn add_assign(&mut self, other: Self) {
        self.chains += other.chains;
        self.jumps += other.jumps;
    }
}

/// Removes every chain of ours, of any version and both families, and the jumps into them. True when there was something.
/// Flows that the kernel translates for services may end by it: see [`drain()`] for who does not want that.
///
/// # Errors
/// When the programs fail; what could be removed has been.
pub fn cleanup(executor: &mut dyn Executor) -> Result<bool, Error> {
    each_family(|family| {
        let listing = executor.save(family)?;
        // Only we had it switched on then: nobody may be left who would keep the wire out.
        if save::serves_localnet(&listing) {
            executor.route_localnet(false)?;
        }
        let scripts = removal(&listing, None, executor.script_lines());
        for script in &scripts {
            executor.restore(family, script)?;
        }
        Ok(!scripts.is_empty())
    })
}

/// [`cleanup`] for whichever kinds of iptables are installed: an earlier agent may have used another one than today's
/// default. True when there was something; a machine without iptables has nothing.
///
/// # Errors
/// As [`cleanup`].
pub fn cleanup_installed() -> Result<bool, Error> {
    each_variant(cleanup)
}

fn each_variant(mut work: impl FnMut(&mut dyn Executor) -> Result<bool, Error>) -> Result<bool, Error> {
    any([Variant::Nft, Variant::Legacy, Variant::Default], |variant| work(&mut Programs::new(variant)))
}

/// A family without programs has nothing.
fn each_family(mut work: impl FnMut(Family) -> Result<bool, Error>) -> Result<bool, Error> {
    any(FAMILIES, |family| match work(family) {
        Err(Error::Missing { .. }) => Ok(false),
        done => done,
    })
}

/// Does all, whatever fails, and returns the first failure.
fn any<T>(all: impl IntoIterator<Item = T>, mut work: impl FnMut(T) -> Result<bool, Error>) -> Result<bool, Error> {
    let mut found = false;
    let mut result = Ok(());
    for one in all {
        match work(one) {
            Ok(had) => found |= had,
            Err(error) => result = result.and(Err(error)),
        }
    }
    result.map(|()| found)
}
