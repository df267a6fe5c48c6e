//! Desired chains, the chains the kernel has, and the scripts that lead from one to the other. Pure.
//!
//! Only chains that may differ are looked at, and only those that do differ are written: `:CHAIN - [0:0]` empties one
//! chain and leaves every other alone. A script is one transaction. Long ones are cut: what is jumped to is written
//! before what jumps, and removed after it, so that every cut leaves complete services.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use thalweg_cluster::{Family, Name};

use super::chain::{COMMENT, ChainId, Fixed, Jump, Table, Tree, hash, jumps};
use super::compile::{Action, Compiled, Endpoint, EntryKey, Set};
use super::dispatch::Dispatch;
use super::rules::{self, Options, Rules, Surroundings};
use super::save::Saved;
use super::script::{Change, JumpChange, Script, cut};

/// See the module.
#[derive(Debug)]
pub(super) struct Ruleset {
    family: Family,
    options: Options,
    service_ranges: Vec<IpNetwork>,
    /// Packets that fit no flow are let through.
    lenient: bool,
    /// How many entries are dialled at 127.0.0.1 and may lead elsewhere.
    localnet: usize,
    inside: Dispatch,
    outside: Dispatch,
    sets: HashMap<u64, Set>,
    sources: HashMap<u64, Vec<IpNetwork>>,
    /// With the number of services that use each.
    endpoints: HashMap<u64, (Endpoint, usize)>,
    kernel: BTreeMap<ChainId, Held>,
    /// Chains that may not be in the kernel as they should.
    touched: BTreeSet<ChainId>,
    /// Addresses whose way through a tree may not be.
    touched_vips: BTreeSet<(Tree, IpAddr)>,
    /// Chains in the kernel that are ours and nobody's.
    stale: BTreeSet<(Table, String)>,
    jumps: BTreeSet<JumpChange>,
}

/// What the kernel has in one chain.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Held {
    hash: u64,
    rules: usize,
    next: Vec<ChainId>,
}

/// What an apply wrote.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Written {
    pub chains: usize,
    /// Chains of endpoint sets, in endpoints.
    pub set_members: usize,
    pub endpoints: usize,
    pub removed: usize,
    pub jumps: usize,
}

// === impl Ruleset ===

impl Ruleset {
    pub fn new(family: Family, options: Options) -> Self {
        let mut this = Self {
            family,
            options,
            service_ranges: Vec::new(),
            lenient: false,
            localnet: 0,
            inside: Dispatch::new(Tree::Inside, family),
            outside: Dispatch::new(Tree::Outside, family),
            sets: HashMap::new(),
            sources: HashMap::new(),
            endpoints: HashMap::new(),
            kernel: BTreeMap::new(),
            touched: BTreeSet::new(),
            touched_vips: BTreeSet::new(),
            stale: BTreeSet::new(),
            jumps: BTreeSet::new(),
        };
        this.touched.extend(always());
        this
    }

    /// Of either family; those of the other are passed over.
    pub fn set_service_ranges(&mut self, ranges: &[IpNetwork]) {
        if self.service_ranges != ranges {
            self.service_ranges = ranges.to_vec();
            self.touched.extend(always());
        }
    }

    /// Whether packets that fit no flow are let through.
    pub fn set_lenient(&mut self, lenient: bool) {
        if self.lenient != lenient {
            self.lenient = lenient;
            self.touched.insert(ChainId::Fixed(Fixed::Invalid));
        }
    }

    pub fn is_lenient(&self) -> bool {
        self.lenient
    }

    /// True while NodePorts are served on 127.0.0.1.
    pub fn wants_localnet(&self) -> bool {
        self.localnet > 0
    }

    /// Replaces what a service wants. Returns how many frontends are new or different and how many are gone, and the
    /// first that another service has.
    pub fn stage(&mut self, name: &Name, old: &Compiled, new: &Compiled) -> (usize, usize, Option<EntryKey>) {
        let before: BTreeMap<EntryKey, Action> = old.entries.iter().copied().collect();
        let after: BTreeMap<EntryKey, Action> = new.entries.iter().copied().collect();
        let (mut written, mut removed, mut taken) = (0, 0, None);
        for (key, action) in &after {
            if before.get(key) != Some(action) {
                written += 1;
                if !self.tree(key.tree).claim(key.vip, key.port, name, *action) {
                    taken = taken.or(Some(*key));
                }
                self.touch(key);
            }
        }
        for key in before.keys().filter(|key| !after.contains_key(key)) {
            removed += 1;
            self.tree(key.tree).release(key.vip, key.port, name);
            self.touch(key);
        }
        for (id, endpoint) in &new.endpoints {
            self.endpoints.entry(*id).or_insert((*endpoint, 0)).1 += 1;
            self.touched.insert(ChainId::Sep(*id));
        }
        for id in old.endpoints.keys() {
            if let Some(held) = self.endpoints.get_mut(id) {
                held.1 -= 1;
                if held.1 == 0 {
                    self.endpoints.remove(id);
                }
            }
            self.touched.insert(ChainId::Sep(*id));
        }
        for id in old.sets.keys().filter(|id| !new.sets.contains_key(id)) {
            self.sets.remove(id);
            self.touched.insert(ChainId::Svc(*id));
        }
        for (id, set) in &new.sets {
            self.sets.insert(*id, set.clone());
            self.touched.insert(ChainId::Svc(*id));
        }
        for id in old.sources.keys().filter(|id| !new.sources.contains_key(id)) {
            self.sources.remove(id);
            self.touched.insert(ChainId::Sources(*id));
        }
        for (id, ranges) in &new.sources {
            self.sources.insert(*id, ranges.clone());
            self.touched.insert(ChainId::Sources(*id));
        }
        self.follow_localnet(old.localnet, new.localnet);
        (written, removed, taken)
    }

    /// Believes a listing of the kernel: chains that are not as they were left are written again, chains of ours that
    /// nobody wants go, jumps are as they should be. True when something is not as it should be.
    pub fn believe(&mut self, saved: &Saved) -> bool {
        let mut wrong = false;
        let known: Vec<ChainId> = self.kernel.keys().copied().collect();
        for chain in known {
            let found = saved.chains.get(&(chain.table(), chain.to_string())).copied();
            if self.kernel.get(&chain).map(|held| held.rules) != found {
                // `next` stays with the record: what the chain led to is to be looked at as well.
                wrong = true;
                self.touched.insert(chain);
                match (found, self.kernel.get_mut(&chain)) {
                    (Some(_), Some(held)) => (held.hash, held.rules) = (0, usize::MAX),
                    _ => drop(self.kernel.remove(&chain)),
                }
            }
        }
        let ours: BTreeSet<(Table, String)> = self.kernel.keys().map(|chain| (chain.table(), chain.to_string())).collect();
        self.stale = saved.chains.keys().filter(|key| !ours.contains(key)).cloned().collect();
        wrong |= !self.stale.is_empty();
        self.believe_jumps(saved) || wrong
    }

    /// As [`Self::believe`], of the jumps alone.
    pub fn believe_jumps(&mut self, saved: &Saved) -> bool {
        let mark = self.options.refuse_mark();
        self.jumps.clear();
        let mut missing: BTreeSet<Jump> = jumps(self.family).collect();
        // Without our comment it is somebody else's rule, wherever it leads.
        for (table, from, rule) in saved.jumps.iter().filter(|(_, _, rule)| rule.contains(COMMENT)) {
            let is = |jump: &&Jump| jump.table == *table && jump.from == from && same_words(&jump.rule(mark), rule);
            if let Some(jump) = missing.iter().find(is).copied() {
                missing.remove(&jump);
            } else {
                self.jumps.insert(JumpChange::Remove(*table, format!("{from} {rule}")));
            }
        }
        self.jumps.extend(missing.into_iter().map(JumpChange::Insert));
        !self.jumps.is_empty()
    }

    /// Chains whose loss shows that somebody flushed the tables, with their number of rules.
    pub fn sentinels(&self) -> impl Iterator<Item = (ChainId, usize)> {
        always().filter_map(|chain| Some((chain, self.kernel.get(&chain)?.rules)))
    }

    /// Rules that the kernel has of ours; those of a chain in doubt are not counted.
    pub fn rules_in(&self, table: Table) -> usize {
        let held = self.kernel.iter().filter(|(chain, _)| chain.table() == table);
        held.map(|(_, held)| held.rules).filter(|rules| *rules != usize::MAX).sum()
    }

    /// Transactions of at most about `lines` lines each.
    pub fn scripts(&mut self, lines: usize) -> Vec<Script> {
        let mut writes = Vec::new();
        let mut deletes = Vec::new();
        let mut seen = BTreeSet::new();
        let mut queue: Vec<ChainId> = std::mem::take(&mut self.touched).into_iter().collect();
        for (tree, vip) in std::mem::take(&mut self.touched_vips) {
            queue.extend(self.tree(tree).path(vip));
        }
        while let Some(chain) = queue.pop() {
            if !seen.insert(chain) {
                continue;
            }
            let held = self.kernel.get(&chain);
            let Some(rules) = self.rules(chain) else {
                if let Some(held) = held {
                    queue.extend(&held.next);
                    self.touched.insert(chain);
                    deletes.push(chain);
                }
                continue;
            };
            if held.is_some_and(|held| *held == Held::of(&rules)) {
                continue;
            }
            // What it leads to now may have to be made, what it led to before may have to go.
            queue.extend(rules.next.iter().chain(held.iter().flat_map(|held| &held.next)));
            self.touched.insert(chain);
            writes.push((chain, rules));
        }
        writes.sort_by_key(|(chain, _)| (chain.table(), chain.order(), *chain));
        deletes.sort_by_key(|chain| (chain.table(), std::cmp::Reverse(chain.order()), *chain));

        // A chain that comes back is no stale one.
        for (chain, _) in &writes {
            self.stale.remove(&(chain.table(), chain.to_string()));
        }
        let mut scripts = Vec::new();
        for table in [Table::Filter, Table::Nat] {
            let mut changes: Vec<Change> = Vec::new();
            let mut mine = Vec::new();
            writes.retain_mut(|(chain, rules)| {
                let here = chain.table() == table;
                if here {
                    mine.push(Change::Write(*chain, std::mem::take(rules)));
                }
                !here
            });
            changes.append(&mut mine);
            changes.extend(self.jumps.iter().filter(|jump| jump.table() == table).cloned().map(Change::Jump));
            let gone = || deletes.iter().filter(|chain| chain.table() == table);
            let stale = || self.stale.iter().filter(|(of, _)| *of == table);
            changes.extend(gone().map(|chain| Change::Empty(chain.to_string())));
            changes.extend(stale().map(|(_, name)| Change::Empty(name.clone())));
            changes.extend(gone().map(|chain| Change::Delete(*chain)));
            changes.extend(stale().map(|(_, name)| Change::DeleteStale(table, name.clone())));
            cut(&mut scripts, table, changes, lines, self.options.refuse_mark());
        }
        scripts
    }

    /// A script has been run: this is what the kernel holds now.
    pub fn done(&mut self, script: Script, written: &mut Written) {
        for change in script.changes {
            match change {
                Change::Write(chain, rules) => {
                    written.chains += 1;
                    match chain {
                        ChainId::Sep(_) => written.endpoints += 1,
                        ChainId::Svc(id) => written.set_members += self.sets.get(&id).map_or(0, |set| set.endpoints.len()),
                        _ => {}
                    }
                    self.touched.remove(&chain);
                    self.kernel.insert(chain, Held::of(&rules));
                }
                Change::Empty(_) => {}
                Change::Delete(chain) => {
                    written.removed += 1;
                    self.touched.remove(&chain);
                    self.kernel.remove(&chain);
                }
                Change::DeleteStale(table, name) => {
                    written.removed += 1;
                    self.stale.remove(&(table, name));
                }
                Change::Jump(jump) => {
                    written.jumps += 1;
                    self.jumps.remove(&jump);
                }
            }
        }
    }

    /// A script was cut short: whether the kernel took it is not known.
    pub fn doubt(&mut self, script: Script) {
        for change in script.changes {
            if let Change::Write(chain, rules) = change {
                self.touched.insert(chain);
                let held = self.kernel.entry(chain).or_insert_with(|| Held::of(&rules));
                (held.hash, held.rules) = (0, usize::MAX);
            }
        }
    }

    /// What a chain should hold; `None` when it should not be.
    pub fn rules(&self, chain: ChainId) -> Option<Rules> {
        match chain {
            ChainId::Fixed(fixed) => Some(rules::fixed(fixed, &self.surroundings())),
            ChainId::Sep(id) => self.endpoints.get(&id).map(|(endpoint, _)| rules::endpoint(id, endpoint, &self.options)),
            ChainId::Svc(id) => self.sets.get(&id).map(rules::set),
            ChainId::Sources(id) => self.sources.get(&id).map(|ranges| rules::sources(ranges)),
            ChainId::Ports { tree, .. } | ChainId::Node { tree, .. } | ChainId::Root(tree) => match tree {
                Tree::Inside => self.inside.rules(chain),
                Tree::Outside => self.outside.rules(chain),
            },
        }
    }

    fn surroundings(&self) -> Surroundings<'_> {
        Surroundings {
            family: self.family,
            options: &self.options,
            service_ranges: &self.service_ranges,
            localnet: self.wants_localnet(),
            lenient: self.lenient,
        }
    }

    fn follow_localnet(&mut self, before: usize, after: usize) {
        let was = self.wants_localnet();
        self.localnet = self.localnet + after - before;
        if was != self.wants_localnet() {
            self.touched.insert(ChainId::Fixed(Fixed::Prerouting));
        }
    }

    fn tree(&mut self, tree: Tree) -> &mut Dispatch {
        match tree {
            Tree::Inside => &mut self.inside,
            Tree::Outside => &mut self.outside,
        }
    }

    /// Chains that change with this entry; what they lead to or no longer lead to is found from them. The way through the
    /// tree is looked for when all changes of an apply are known.
    fn touch(&mut self, key: &EntryKey) {
        let ports = self.tree(key.tree).port_chains(key.vip, key.port);
        self.touched.extend(ports);
        self.touched_vips.insert((key.tree, key.vip));
    }
}

/// Chains that are there even without any service.
fn always() -> impl Iterator<Item = ChainId> {
    [
        Fixed::Masquerade,
        Fixed::Refuse,
        Fixed::Drop,
        Fixed::Postrouting,
        Fixed::Prerouting,
        Fixed::Inside,
        Fixed::Output,
        Fixed::Filter,
        Fixed::Forward,
        Fixed::Invalid,
        Fixed::Localnet,
    ]
    .into_iter()
    .map(ChainId::Fixed)
    .chain([Tree::Inside, Tree::Outside].map(ChainId::Root))
}

/// The same rule, whatever order and quotation marks a version of iptables lists it with.
fn same_words(left: &str, right: &str) -> bool {
    let words = |rule: &str| {
        let mut words: Vec<String> = rule.split_whitespace().map(|word| word.replace('"', "")).collect();
        words.sort_unstable();
        words
    };
    words(left) == words(right)
}

// === impl Held ===

impl Held {
    fn of(rules: &Rules) -> Self {
        let lines: Vec<&str> = rules.lines.iter().map(String::as_str).collect();
        Self { hash: hash(&lines), rules: lines.len(), next: rules.next.clone() }
    }
}
