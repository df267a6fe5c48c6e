//! One family's half of the backend: its rule set, what of it the kernel has, and what this machine can do of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use ipnetwork::IpNetwork;
use thalweg_cluster::{Family, Name};

use super::chain::{Table, jumps};
use super::compile::{Compiled, compile, wants_affinity};
use super::error::{Error, called};
use super::exec::Executor;
use super::flows::{Stale, all_stale, stale};
use super::rules::Options;
use super::ruleset::{Ruleset, Written};
use super::save::Saved;
use super::{Repaired, TableFigures};
use crate::backend::{Applied, Failure};
use crate::plan::ServicePlan;

/// Attempts in one apply to find out which service a refused script is due to.
const ATTEMPTS: usize = 32;

pub(super) struct Side {
    pub family: Family,
    ruleset: Ruleset,
    /// What is in the rule set.
    staged: BTreeMap<Name, Compiled>,
    dirty: BTreeSet<Name>,
    /// Services that failed, until it is time to try them again.
    waiting: BTreeSet<Name>,
    ability: Ability,
    /// What the kernel held at the start is known.
    adopted: bool,
    /// The first sync is over.
    synced: bool,
    /// Whether the kernel has the `recent` match, once that was asked.
    recent: Option<Result<(), String>>,
    /// The kernel lets packets to 127.0.0.1 be sent elsewhere, by our doing.
    localnet: bool,
    /// What was last logged, so that it is logged once.
    said: Option<String>,
    pub failures: Failures,
    last_written: [usize; 2],
}

/// Whether this machine has the programs and the kernel for it.
#[derive(Debug)]
enum Ability {
    Unknown,
    Able,
    Missing(String),
}

/// Scripts that failed.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Failures {
    pub all: u64,
    /// Those after the first sync, which wrote some chains only.
    pub partial: u64,
}

/// What an apply works with, besides the side itself.
pub(super) struct Work<'a> {
    pub executor: &'a mut dyn Executor,
    pub desired: &'a BTreeMap<Name, ServicePlan>,
    pub applied: &'a mut Applied,
    attempts: usize,
}

// === impl Work ===

impl<'a> Work<'a> {
    pub fn new(executor: &'a mut dyn Executor, desired: &'a BTreeMap<Name, ServicePlan>, applied: &'a mut Applied) -> Self {
        Self { executor, desired, applied, attempts: ATTEMPTS }
    }
}

// === impl Side ===

impl Side {
    pub fn new(family: Family, options: Options) -> Self {
        Self {
            family,
            ruleset: Ruleset::new(family, options),
            staged: BTreeMap::new(),
            dirty: BTreeSet::new(),
            waiting: BTreeSet::new(),
            ability: Ability::Unknown,
            adopted: false,
            synced: false,
            recent: None,
            localnet: false,
            said: None,
            failures: Failures::default(),
            last_written: [0; 2],
        }
    }

    /// This service is not what it was.
    pub fn mark(&mut self, name: &Name) {
        self.waiting.remove(name);
        self.dirty.insert(name.clone());
    }

    pub fn dirty(&self) -> &BTreeSet<Name> {
        &self.dirty
    }

    pub fn waiting(&self) -> &BTreeSet<Name> {
        &self.waiting
    }

    /// It is time to try again what failed.
    pub fn retry(&mut self) {
        self.dirty.append(&mut self.waiting);
    }

    pub fn set_service_ranges(&mut self, ranges: &[IpNetwork]) {
        self.ruleset.set_service_ranges(ranges);
    }

    /// See [`super::IptablesBackend::set_lenient`].
    pub fn set_lenient(&mut self, lenient: bool) {
        self.ruleset.set_lenient(lenient);
    }

    pub fn is_lenient(&self) -> bool {
        self.ruleset.is_lenient()
    }

    pub fn family(&self) -> Family {
        self.family
    }

    /// Why this family is left out, if it is.
    pub fn missing(&self) -> Option<Error> {
        match &self.ability {
            Ability::Missing(message) => Some(Error::NoFamily { family: self.family, message: message.clone() }),
            Ability::Unknown | Ability::Able => None,
        }
    }

    /// What a packet may dial, as last written.
    pub fn dialled(&self) -> impl Iterator<Item = (thalweg_abi::Proto, SocketAddr)> {
        self.staged.values().flat_map(|service| &service.entries).filter_map(|(key, _)| key.dialled())
    }

    pub fn figures(&self) -> impl Iterator<Item = TableFigures> {
        [Table::Filter, Table::Nat].into_iter().map(|table| TableFigures {
            family: self.family,
            table: table.name(),
            rules: self.ruleset.rules_in(table),
            last_written: self.last_written[table as usize],
        })
    }

    /// Brings the kernel to what is desired. Services that fail are named and wait.
    ///
    /// # Errors
    /// When the programs cannot do anything at all.
    pub fn sync(&mut self, work: &mut Work<'_>) -> Result<(), Error> {
        if !self.is_able(work.executor)? {
            self.leave_out(work.desired, work.applied);
            return Ok(());
        }
        self.adopt(work.executor)?;
        let due: Vec<Name> = std::mem::take(&mut self.dirty).into_iter().collect();
        let (ready, stopped) = self.without_affinity_if_need_be(due, work);
        let attempted = self.attempt(&ready, work);
        stopped.map_or(attempted, Err)?;
        self.follow_localnet(work.executor);
        if !self.synced {
            self.synced = true;
            self.forget(all_stale(self.family, self.staged.values()), work.executor);
        }
        Ok(())
    }

    /// See [`super::IptablesBackend::repair`].
    pub fn repair(&mut self, executor: &mut dyn Executor) -> Result<Repaired, Error> {
        // What the kernel can do may have changed as well: a module may have been loaded, a program installed.
        self.recent = None;
        if matches!(self.ability, Ability::Missing(_)) {
            self.ability = Ability::Unknown;
        }
        if !self.synced || self.is_well(executor)? {
            return Ok(Repaired::default());
        }
        self.ruleset.believe(&Saved::parse(&executor.save(self.family)?));
        let mut written = Written::default();
        self.write(executor, &mut written)?;
        Ok(Repaired { chains: written.chains + written.removed, jumps: written.jumps })
    }

    /// Nothing of ours is in the kernel any more, and nothing is known of it.
    pub fn forget_all(&mut self, options: Options) {
        let lenient = self.is_lenient();
        *self = Self { failures: self.failures, ..Self::new(self.family, options) };
        self.set_lenient(lenient);
    }

    /// The tell-tales: the jumps, and the few chains that every packet meets.
    fn is_well(&mut self, executor: &mut dyn Executor) -> Result<bool, Error> {
        let sentinels: Vec<_> = self.ruleset.sentinels().collect();
        let system: BTreeSet<_> = jumps(self.family).map(|jump| (jump.table, jump.from)).collect();
        let chains: Vec<(&str, String)> = sentinels
            .iter()
            .map(|(chain, _)| (chain.table().name(), chain.to_string()))
            .chain(system.into_iter().map(|(table, chain)| (table.name(), chain.to_owned())))
            .collect();
        let saved = Saved::parse(&executor.look(self.family, &chains)?);
        let whole = sentinels.iter().all(|(chain, rules)| saved.chains.get(&(chain.table(), chain.to_string())) == Some(rules));
        Ok(!self.ruleset.believe_jumps(&saved) && whole)
    }

    fn is_able(&mut self, executor: &mut dyn Executor) -> Result<bool, Error> {
        if matches!(self.ability, Ability::Unknown) {
            let probe = "*nat\n:TW-PROBE - [0:0]\n-X TW-PROBE\nCOMMIT\n*filter\n:TW-PROBE - [0:0]\n-X TW-PROBE\nCOMMIT\n";
            self.ability = match executor.restore(self.family, probe) {
                Ok(()) => Ability::Able,
                Err(error @ (Error::Missing { .. } | Error::Refused { .. } | Error::Failed { .. })) => {
                    Ability::Missing(error.to_string())
                }
                Err(error) => return Err(error),
            };
            if let Some(error) = self.missing() {
                self.say(&error);
            }
        }
        Ok(matches!(self.ability, Ability::Able))
    }

    /// Services of a family that this machine cannot do fail by name; the others have nothing to do with it.
    fn leave_out(&mut self, desired: &BTreeMap<Name, ServicePlan>, applied: &mut Applied) {
        let Some(error) = self.missing() else { return };
        for name in std::mem::take(&mut self.dirty) {
            let wants = desired.get(&name).is_some_and(|plan| !compile(plan, self.family).entries.is_empty());
            if wants {
                self.fail(name, &error, applied);
            }
        }
    }

    /// Learns what an earlier agent left; it all counts as nobody's until it is written again.
    fn adopt(&mut self, executor: &mut dyn Executor) -> Result<(), Error> {
        if !self.adopted {
            self.ruleset.believe(&Saved::parse(&executor.save(self.family)?));
            self.adopted = true;
        }
        Ok(())
    }

    /// Sets services aside that need the `recent` match where the kernel does not have it.
    fn without_affinity_if_need_be(&mut self, due: Vec<Name>, work: &mut Work<'_>) -> (Vec<Name>, Option<Error>) {
        let mut ready = Vec::new();
        let mut stopped = None;
        for name in due {
            let wants = work.desired.get(&name).is_some_and(|plan| wants_affinity(plan, self.family));
            let has = if wants && stopped.is_none() { self.has_recent(work.executor) } else { Ok(Ok(())) };
            match has {
                Ok(Ok(())) => ready.push(name),
                Ok(Err(message)) => self.fail(name, &Error::NoRecent { message }, work.applied),
                Err(error) => {
                    self.dirty.insert(name);
                    stopped = Some(error);
                }
            }
        }
        (ready, stopped)
    }

    fn has_recent(&mut self, executor: &mut dyn Executor) -> Result<Result<(), String>, Error> {
        if let Some(known) = &self.recent {
            return Ok(known.clone());
        }
        let probe =
            "*nat\n:TW-PROBE - [0:0]\n-A TW-PROBE -m recent --name TW-PROBE --rcheck --seconds 1 --reap -j RETURN\nCOMMIT\n";
        let answer = match executor.restore(self.family, probe) {
            Ok(()) => Ok(()),
            Err(error) if error.is_about_rules() => Err(error.to_string()),
            Err(error) => return Err(error),
        };
        if answer.is_ok() {
            executor.restore(self.family, "*nat\n:TW-PROBE - [0:0]\n-X TW-PROBE\nCOMMIT\n")?;
        }
        self.recent = Some(answer.clone());
        Ok(answer)
    }

    /// Stages services and writes what changed. A script that is refused is due to one of them: each half is tried alone.
    fn attempt(&mut self, names: &[Name], work: &mut Work<'_>) -> Result<(), Error> {
        let mut before: Vec<(&Name, Compiled)> = Vec::with_capacity(names.len());
        let (mut frontends, mut gone) = (0, 0);
        for name in names {
            let new = work.desired.get(name).map(|plan| compile(plan, self.family)).unwrap_or_default();
            let (old, counts) = self.stage(name, new);
            (frontends, gone) = (frontends + counts.0, gone + counts.1);
            before.push((name, old));
        }
        work.attempts = work.attempts.saturating_sub(1);
        let mut written = Written::default();
        let error = match self.write(work.executor, &mut written) {
            Ok(()) => {
                work.applied.frontends_written += frontends;
                work.applied.removed += gone;
                work.applied.slots_written += written.set_members;
                work.applied.backends_written += written.endpoints;
                if self.synced {
                    let none = Compiled::default();
                    let changes = before.iter().map(|(name, old)| (old, self.staged.get(*name).unwrap_or(&none)));
                    self.forget(stale(self.family, changes), work.executor);
                }
                return Ok(());
            }
            Err(error) => error,
        };
        for (name, old) in before {
            self.stage(name, old);
        }
        if !error.is_about_rules() || names.is_empty() {
            self.dirty.extend(names.iter().cloned());
            return Err(error);
        }
        if names.len() > 1 && work.attempts > 0 {
            let (left, right) = names.split_at(names.len() / 2);
            let first = self.attempt(left, work);
            return self.attempt(right, work).and(first);
        }
        for name in names {
            self.fail(name.clone(), &error, work.applied);
        }
        // What had been written before the refusal goes again, or is left for the next apply.
        self.write(work.executor, &mut written)
    }

    /// Returns what was staged before, and how many frontends are new or different and how many are gone.
    fn stage(&mut self, name: &Name, new: Compiled) -> (Compiled, (usize, usize)) {
        let old = self.staged.remove(name).unwrap_or_default();
        let (written, removed, taken) = self.ruleset.stage(name, &old, &new);
        if let Some(key) = taken {
            let dialled = SocketAddr::new(key.vip, key.port.port);
            tracing::warn!(service = %name, "{dialled} is another service's; this one waits for it");
        }
        if new != Compiled::default() {
            self.staged.insert(name.clone(), new);
        }
        (old, (written, removed))
    }

    fn fail(&mut self, name: Name, error: &Error, applied: &mut Applied) {
        // Both families may fail, of one service.
        if !applied.failed.iter().any(|failure| failure.service == name) {
            applied.failed.push(Failure { service: name.clone(), error: error.to_loader() });
        }
        self.waiting.insert(name);
    }

    fn write(&mut self, executor: &mut dyn Executor, written: &mut Written) -> Result<(), Error> {
        let lines = executor.script_lines();
        let scripts = self.ruleset.scripts(lines);
        if !scripts.is_empty() {
            self.last_written = [0; 2];
        }
        for script in scripts {
            match executor.restore(self.family, &script.text) {
                Ok(()) => {
                    for (sum, rules) in self.last_written.iter_mut().zip(script.rules()) {
                        *sum += rules;
                    }
                    self.ruleset.done(script, written);
                }
                Err(error) => {
                    self.failures.all += 1;
                    self.failures.partial += u64::from(self.synced);
                    if !error.is_about_rules() {
                        self.ruleset.doubt(script);
                        self.adopted = false;
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// The next packet of a flow that a change made wrong is to be looked at anew.
    fn forget(&mut self, stale: Option<Stale>, executor: &mut dyn Executor) {
        let Some(stale) = stale else { return };
        let mut forgotten = 0;
        for filter in &stale.filters {
            match executor.forget_flows(filter, &|flow| stale.is_stale(flow)) {
                Ok(count) => forgotten += count,
                Err(error) => return self.say(&error),
            }
        }
        tracing::debug!(forgotten, walks = stale.filters.len(), "flows to endpoints that are gone");
    }

    /// After the rules that keep the wire out are in place.
    fn follow_localnet(&mut self, executor: &mut dyn Executor) {
        if self.localnet == self.ruleset.wants_localnet() {
            return;
        }
        match executor.route_localnet(!self.localnet) {
            Ok(()) => self.localnet = !self.localnet,
            Err(error) => self.say(&error),
        }
    }

    fn say(&mut self, error: &Error) {
        let text = error.to_string();
        if self.said.as_ref() != Some(&text) {
            tracing::warn!(family = called(self.family), "{text}");
            self.said = Some(text);
        }
    }
}
