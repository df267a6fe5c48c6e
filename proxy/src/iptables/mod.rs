//! The iptables backend: the fallback for kernels and machines without what eBPF needs. Same plans, own chains.
//!
//! # Chains
//! All names start with `TW-`. In the nat table `TW-PREROUTING` tells inside from outside ([`Inside`]); `TW-SERVICES` and
//! `TW-EXTERNAL` are the roots of two trees of chains (`TW-I-…`, `TW-E-…`, named by the hexadecimal digits of the
//! addresses below them: see `dispatch`), for the internal and the external traffic policy. Their leaves lead to one
//! `TW-SVC-<hash>` per endpoint set and protocol, which picks one `TW-SEP-<hash>`, which translates. NodePorts are ports of
//! the node's addresses in the same trees. Nothing may be refused in the nat table: `TW-REFUSE` and `TW-DROP` mark the
//! packet there, and `TW-FILTER`, a chain of three rules that only marked packets meet, acts on the mark. So the
//! filter table does not grow with the number of services, and packets of established flows meet three rules at most.
//!
//! # Writing
//! Incremental after the first sync: a changed chain is emptied and filled by one `iptables-restore --noflush`
//! transaction, every other chain keeps even its counters. A first sync is cut into scripts, because the nft kind of
//! iptables needs time that grows with the square of a script's length (10,000 services: 28 s at once, 3 s in
//! parts); parts are in an order that never shows half a service. See `ruleset`.
//!
//! # What it needs
//! Found on Linux 6.18 (Debian 12, iptables 1.8.9, which is the nft kind by default; legacy works too and both are tested): the
//! matches addrtype, comment, conntrack, mark, recent, statistic, tcp and udp, the targets DNAT, MARK, MASQUERADE and REJECT. Of these
//! comment, conntrack, mark, statistic, DNAT, MARK, MASQUERADE and REJECT are always used; recent only for session affinity,
//! and its lack is said in the failure of the services that want it. recent remembers 100 clients per endpoint unless its
//! module parameter `ip_list_tot` says more.
//!
//! # Where it differs from the eBPF backend
//! Flows from outside under the Cluster policy are masqueraded even to a local endpoint, as kube-proxy does. An
//! established TCP connection whose endpoint is gone gets no RST from us. A refused datagram of the node itself fails with
//! EPERM, at once. `FORWARD` with the policy DROP is not opened.
//! NodePorts on 127.0.0.1 need the sysctl `net.ipv4.conf.all.route_localnet`. Flows of UDP that a change has made
//! wrong are removed with the program `conntrack` when it is installed, but not in the first sync.

mod chain;
mod dispatch;
mod error;
mod exec;
mod rules;
mod ruleset;
mod save;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use thalweg_cluster::Name;

use crate::backend::{Applied, Backend, Failure};
use crate::plan::ServicePlan;
use chain::{JUMPS, Table};
use rules::{Compiled, compile};
use ruleset::{Ruleset, Written};
use save::{Saved, removal};

pub use error::Error;
pub use exec::{Executor, Programs, Variant};
pub use rules::{Inside, Options};

/// When to try again after a failure.
const RETRY: Duration = Duration::from_secs(5);
/// Attempts in one apply to find out which service a refused script is due to.
const ATTEMPTS: usize = 32;
/// Removals from the connection table in one apply: each walks the whole table.
const MOST_FLOWS: usize = 128;

/// Programs the kernel by way of `iptables-restore`. Every call may run programs and wait for them.
pub struct IptablesBackend {
    executor: Box<dyn Executor + Send>,
    ruleset: Ruleset,
    services: BTreeMap<Name, Record>,
    dirty: BTreeSet<Name>,
    /// Every service has been heard of. Chains are shared, so nothing is written before.
    complete: bool,
    /// What the kernel held at the start is known.
    adopted: bool,
    /// The first sync is over.
    synced: bool,
    /// Whether the kernel has the `recent` match, once that was asked.
    recent: Option<Result<(), String>>,
    conntrack_missing: bool,
    retry: Option<Instant>,
}

/// One service.
#[derive(Default)]
struct Record {
    /// `None`: it is to go.
    desired: Option<ServicePlan>,
    /// What is in the rule set.
    staged: Compiled,
}

/// What [`IptablesBackend::repair`] found and did.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Repaired {
    /// Chains that somebody had changed or removed.
    pub chains: usize,
    /// Jumps into our chains that were missing, twice there, or changed.
    pub jumps: usize,
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
            ruleset: Ruleset::new(options),
            services: BTreeMap::new(),
            dirty: BTreeSet::new(),
            complete: false,
            adopted: false,
            synced: false,
            recent: None,
            conntrack_missing: false,
            retry: None,
        })
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
        self.retry = None;
        let result = self.adopt().and_then(|()| {
            let due: Vec<Name> = std::mem::take(&mut self.dirty).into_iter().collect();
            applied.services = due.len();
            let (ready, stopped) = self.without_affinity_if_need_be(due, &mut applied);
            let mut attempts = ATTEMPTS;
            let attempted = self.attempt(&ready, &mut attempts, &mut applied);
            stopped.map_or(attempted, Err)
        });
        self.services
            .retain(|name, record| record.desired.is_some() || !record.staged.entries.is_empty() || self.dirty.contains(name));
        if result.is_err() || !applied.failed.is_empty() {
            self.retry = Some(now + RETRY);
        } else {
            self.synced = true;
        }
        applied.took = started.elapsed();
        result.map(|()| applied)
    }

    /// Looks whether our chains and the jumps into them are still there, and puts back what is missing. Cheap when all is
    /// well: to be called every half minute or so. Does nothing before the first apply.
    ///
    /// # Errors
    /// When the programs fail; the next call tries again.
    pub fn repair(&mut self) -> Result<Repaired, Error> {
        // What the kernel can do may have changed as well: a module may have been loaded.
        self.recent = None;
        if !self.synced || self.is_well()? {
            return Ok(Repaired::default());
        }
        self.ruleset.believe(&Saved::parse(&self.executor.save()?));
        let mut written = Written::default();
        self.write(&mut written)?;
        tracing::warn!(
            chains = written.chains + written.removed,
            jumps = written.jumps,
            "somebody changed the service proxy's rules; they are back"
        );
        Ok(Repaired { chains: written.chains + written.removed, jumps: written.jumps })
    }

    /// Rules in our chains as last written, by table: what kube-proxy counts as `sync_proxy_rules_iptables_total`.
    pub fn rule_counts(&self) -> [(&'static str, usize); 2] {
        [Table::Filter, Table::Nat].map(|table| (table.name(), self.ruleset.rules_in(table)))
    }

    /// The tell-tales: the jumps, and the few chains that every packet meets.
    fn is_well(&mut self) -> Result<bool, Error> {
        let sentinels: Vec<_> = self.ruleset.sentinels().collect();
        let system: BTreeSet<_> = JUMPS.iter().map(|jump| (jump.table, jump.from)).collect();
        let chains: Vec<(&str, String)> = sentinels
            .iter()
            .map(|(chain, _)| (chain.table().name(), chain.to_string()))
            .chain(system.into_iter().map(|(table, chain)| (table.name(), chain.to_owned())))
            .collect();
        let saved = Saved::parse(&self.executor.look(&chains)?);
        let whole = sentinels.iter().all(|(chain, rules)| saved.chains.get(&(chain.table(), chain.to_string())) == Some(rules));
        Ok(!self.ruleset.believe_jumps(&saved) && whole)
    }

    /// Learns what an earlier agent left; it all counts as nobody's until it is written again.
    fn adopt(&mut self) -> Result<(), Error> {
        if !self.adopted {
            self.ruleset.believe(&Saved::parse(&self.executor.save()?));
            self.adopted = true;
        }
        Ok(())
    }

    /// Sets services aside that need the `recent` match where the kernel does not have it.
    fn without_affinity_if_need_be(&mut self, due: Vec<Name>, applied: &mut Applied) -> (Vec<Name>, Option<Error>) {
        let mut ready = Vec::new();
        let mut stopped = None;
        for name in due {
            let plan = self.services.get(&name).and_then(|record| record.desired.as_ref());
            let wants = plan.is_some_and(|plan| plan.frontends.iter().any(|frontend| frontend.affinity_seconds > 0));
            let has = if wants && stopped.is_none() { self.has_recent() } else { Ok(Ok(())) };
            match has {
                Ok(Ok(())) => ready.push(name),
                Ok(Err(message)) => self.fail(name, &Error::NoRecent { message }, applied),
                Err(error) => {
                    self.dirty.insert(name);
                    stopped = Some(error);
                }
            }
        }
        (ready, stopped)
    }

    fn has_recent(&mut self) -> Result<Result<(), String>, Error> {
        if let Some(known) = &self.recent {
            return Ok(known.clone());
        }
        let probe =
            "*nat\n:TW-PROBE - [0:0]\n-A TW-PROBE -m recent --name TW-PROBE --rcheck --seconds 1 --reap -j RETURN\nCOMMIT\n";
        let answer = match self.executor.restore(probe) {
            Ok(()) => Ok(()),
            Err(error) if error.is_about_rules() => Err(error.to_string()),
            Err(error) => return Err(error),
        };
        if answer.is_ok() {
            self.executor.restore("*nat\n:TW-PROBE - [0:0]\n-X TW-PROBE\nCOMMIT\n")?;
        }
        self.recent = Some(answer.clone());
        Ok(answer)
    }

    /// Stages services and writes what changed. A script that is refused is due to one of them: each half is tried alone.
    fn attempt(&mut self, names: &[Name], attempts: &mut usize, applied: &mut Applied) -> Result<(), Error> {
        let mut before = Vec::with_capacity(names.len());
        let (mut frontends, mut gone) = (0, 0);
        for name in names {
            let Some(record) = self.services.get_mut(name) else { continue };
            let new = record.desired.as_ref().map(compile).unwrap_or_default();
            let old = std::mem::replace(&mut record.staged, new);
            let (written, removed, taken) = self.ruleset.stage(name, &old, &record.staged);
            if let Some(key) = taken {
                let vip = std::net::Ipv4Addr::from(key.vip);
                tracing::warn!(service = %name, "{vip}:{} is another service's; this one waits for it", key.port.port);
            }
            (frontends, gone) = (frontends + written, gone + removed);
            before.push((name, old));
        }
        *attempts = attempts.saturating_sub(1);
        let mut written = Written::default();
        let error = match self.write(&mut written) {
            Ok(()) => {
                applied.frontends_written += frontends;
                applied.removed += gone;
                applied.slots_written += written.set_members;
                applied.backends_written += written.endpoints;
                self.forget_flows(&before);
                return Ok(());
            }
            Err(error) => error,
        };
        for (name, old) in before {
            if let Some(record) = self.services.get_mut(name) {
                self.ruleset.stage(name, &record.staged, &old);
                record.staged = old;
            }
        }
        if !error.is_about_rules() || names.is_empty() {
            self.dirty.extend(names.iter().cloned());
            return Err(error);
        }
        if names.len() > 1 && *attempts > 0 {
            let (left, right) = names.split_at(names.len() / 2);
            let first = self.attempt(left, attempts, applied);
            return self.attempt(right, attempts, applied).and(first);
        }
        for name in names {
            self.fail(name.clone(), &error, applied);
        }
        // What had been written before the refusal goes again, or is left for the next apply.
        self.write(&mut written)
    }

    fn fail(&mut self, name: Name, error: &Error, applied: &mut Applied) {
        applied.failed.push(Failure { service: name.clone(), error: error.to_loader() });
        self.dirty.insert(name);
    }

    fn write(&mut self, written: &mut Written) -> Result<(), Error> {
        let lines = self.executor.script_lines();
        for script in self.ruleset.scripts(lines) {
            match self.executor.restore(&script.text) {
                Ok(()) => self.ruleset.done(script, written),
                Err(error) if error.is_about_rules() => return Err(error),
                Err(error) => {
                    self.ruleset.doubt(script);
                    self.adopted = false;
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// The next datagram of a flow whose endpoint is gone, or that was let through before there was one, is to be
    /// looked at anew.
    fn forget_flows(&mut self, before: &[(&Name, Compiled)]) {
        if self.conntrack_missing || !self.synced {
            return;
        }
        let mut flows = Vec::new();
        for (name, old) in before {
            let none = Compiled::default();
            let new = self.services.get(name).map_or(&none, |record| &record.staged);
            let lost = |old: &[SocketAddr], new: &[SocketAddr]| -> Vec<SocketAddr> {
                old.iter().filter(|address| new.binary_search(address).is_err()).copied().collect()
            };
            flows.extend(lost(&old.udp_endpoints, &new.udp_endpoints).iter().map(|gone| {
                ["--dst-nat", &gone.ip().to_string(), "--reply-port-src", &gone.port().to_string()].map(str::to_owned)
            }));
            flows.extend(lost(&new.udp_frontends, &old.udp_frontends).iter().map(|dialled| {
                ["--orig-dst", &dialled.ip().to_string(), "--orig-port-dst", &dialled.port().to_string()].map(str::to_owned)
            }));
        }
        if flows.len() > MOST_FLOWS {
            tracing::warn!(
                left = flows.len() - MOST_FLOWS,
                "too many UDP flows to forget at once; the rest end by their time-out"
            );
            flows.truncate(MOST_FLOWS);
        }
        for flow in flows {
            let arguments: Vec<String> = ["-p", "udp"].map(str::to_owned).into_iter().chain(flow).collect();
            if let Err(error) = self.executor.forget_flows(&arguments) {
                self.conntrack_missing = true;
                tracing::warn!("UDP flows of endpoints that are gone end by their time-out only: {error}");
                return;
            }
        }
    }
}

impl Backend for IptablesBackend {
    fn set(&mut self, plan: ServicePlan) {
        let record = self.services.entry(plan.name.clone()).or_default();
        if record.desired.as_ref() != Some(&plan) {
            self.dirty.insert(plan.name.clone());
            record.desired = Some(plan);
        }
    }

    fn remove(&mut self, name: &Name) {
        if let Some(record) = self.services.get_mut(name) {
            record.desired = None;
            self.dirty.insert(name.clone());
        }
    }

    fn retain_only_known(&mut self) {
        self.complete = true;
    }

    fn apply(&mut self, now: Instant) -> Result<Applied, thalweg_loader::Error> {
        self.sync(now).map_err(|error| error.to_loader())
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.retry
    }
}

/// Removes every chain of ours, of any version, and the jumps into them. True when there was something.
///
/// # Errors
/// When the programs fail; what could be removed has been.
pub fn cleanup(executor: &mut dyn Executor) -> Result<bool, Error> {
    let listing = executor.save()?;
    let scripts = removal(&listing, executor.script_lines());
    for script in &scripts {
        executor.restore(script)?;
    }
    Ok(!scripts.is_empty())
}

/// [`cleanup`] for whichever kinds of iptables are installed: an earlier agent may have used another one than today's
/// default. True when there was something; a machine without iptables has nothing.
///
/// # Errors
/// As [`cleanup`].
pub fn cleanup_installed() -> Result<bool, Error> {
    let mut found = false;
    for variant in [Variant::Nft, Variant::Legacy, Variant::Default] {
        let mut programs = Programs::new(variant);
        if programs.installed() {
            found |= cleanup(&mut programs)?;
        }
    }
    Ok(found)
}
