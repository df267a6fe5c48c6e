//! A kernel in memory: takes the scripts of iptables-restore as strictly as the real one, for both families, and walks
//! packets through.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use ipnetwork::IpNetwork;
use thalweg_cluster::Family;

use super::super::address::family_of;
use super::super::error::Error;
use super::super::exec::Executor;
use super::super::flows::{Filter, Flow};

type Chains = BTreeMap<String, Vec<String>>;
type Tables = BTreeMap<String, Chains>;

#[derive(Clone, Default)]
pub(super) struct Kernel(Arc<Mutex<State>>);

struct State {
    v4: Tables,
    v6: Tables,
    scripts: Vec<String>,
    flows: Vec<Flow>,
    walks: Vec<Filter>,
    localnet: bool,
    /// There is no program for it.
    missing: Option<Family>,
    /// Rules that hold this are refused.
    refused: String,
    lines: usize,
    /// After so many scripts one is done, but said to have timed out.
    late: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Packet {
    /// `None`: the node itself.
    pub source: Option<IpAddr>,
    pub to: SocketAddr,
    pub protocol: &'static str,
}

#[derive(Clone, PartialEq, Debug)]
enum End {
    /// The chain came to its end, or returned.
    Fell,
    Accepted,
    Dropped,
    Rejected,
    Masqueraded,
    Translated(SocketAddr),
}

#[derive(Clone, Copy, PartialEq)]
enum Match {
    Yes,
    No,
    Maybe,
}

// === impl State ===

impl Default for State {
    fn default() -> Self {
        let table = |chains: &[&str]| chains.iter().map(|chain| ((*chain).to_owned(), Vec::new())).collect::<Chains>();
        let tables = Tables::from([
            ("filter".to_owned(), table(&["INPUT", "FORWARD", "OUTPUT"])),
            ("nat".to_owned(), table(&["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"])),
        ]);
        Self {
            v4: tables.clone(),
            v6: tables,
            scripts: Vec::new(),
            flows: Vec::new(),
            walks: Vec::new(),
            localnet: false,
            missing: None,
            refused: String::new(),
            lines: 10_000,
            late: None,
        }
    }
}

impl State {
    fn tables(&self, family: Family) -> &Tables {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    fn is_there(&self, family: Family) -> Result<(), Error> {
        let program = PathBuf::from("ip6tables-restore");
        if self.missing == Some(family) { Err(Error::Missing { program }) } else { Ok(()) }
    }

    /// All of a script, or nothing.
    fn run(&self, family: Family, script: &str) -> Result<Tables, Error> {
        let mut tables = self.tables(family).clone();
        let mut open: Option<(String, Chains)> = None;
        for (index, line) in script.lines().enumerate() {
            let refuse = |message: &str| {
                let (program, rule) = (PathBuf::from("fake"), line.to_owned());
                Err(Error::Refused { program, line: index + 1, rule, message: message.to_owned() })
            };
            let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
            let (chain, rule) = rest.split_once(' ').unwrap_or((rest, ""));
            if line == "COMMIT" {
                let Some((table, chains)) = open.take() else { return refuse("no table") };
                tables.insert(table, chains);
                continue;
            }
            if line == "*flush" {
                let Some((_, chains)) = &mut open else { return refuse("no table") };
                chains.retain(|chain, _| !chain.starts_with("TW-"));
                chains.values_mut().for_each(Vec::clear);
                continue;
            }
            if let Some(table) = line.strip_prefix('*') {
                open = Some((table.to_owned(), tables[table].clone()));
                continue;
            }
            let Some((_, chains)) = &mut open else { return refuse("no table") };
            if let Some(chain) = verb.strip_prefix(':') {
                if chain.len() > 28 {
                    return refuse("too long a name");
                }
                chains.insert(chain.to_owned(), Vec::new());
                continue;
            }
            if !self.refused.is_empty() && line.contains(&self.refused) {
                return refuse("told to");
            }
            let target = target(line).map(|(_, target)| target);
            let known = |target: &str| {
                chains.contains_key(target)
                    || ["ACCEPT", "DROP", "REJECT", "RETURN", "MARK", "DNAT", "MASQUERADE"].contains(&target)
            };
            if matches!(verb, "-A" | "-I") && !target.is_some_and(known) {
                return refuse("no such target");
            }
            if matches!(verb, "-A" | "-I") && !is_of(family, rule) {
                return refuse("of the other family");
            }
            if !chains.contains_key(chain) {
                return refuse("no such chain");
            }
            match verb {
                "-A" => chains.entry(chain.to_owned()).or_default().push(rule.to_owned()),
                "-I" => {
                    let Some(rule) = rule.strip_prefix("1 ") else { return refuse("no position") };
                    chains.entry(chain.to_owned()).or_default().insert(0, rule.to_owned());
                }
                "-D" => {
                    let rules = chains.entry(chain.to_owned()).or_default();
                    let Some(at) = rules.iter().position(|held| held == rule) else { return refuse("no such rule") };
                    rules.remove(at);
                }
                "-X" => {
                    let named = |rule: &String| self::target(rule).is_some_and(|(_, target)| target == chain);
                    if !chains[chain].is_empty() || chains.values().flatten().any(named) {
                        return refuse("in use");
                    }
                    chains.remove(chain);
                }
                _ => return refuse("no such verb"),
            }
        }
        assert!(open.is_none(), "a script ends with COMMIT");
        Ok(tables)
    }
}

// === impl Kernel ===

impl Kernel {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no test thread panicked")
    }

    pub fn scripts(&self) -> Vec<String> {
        self.lock().scripts.clone()
    }

    pub fn forget_scripts(&self) {
        self.lock().scripts.clear();
    }

    /// Somebody talks to somebody, translated by whatever rules there were.
    pub fn add_flow(&self, flow: Flow) {
        self.lock().flows.push(flow);
    }

    pub fn flows(&self) -> Vec<Flow> {
        self.lock().flows.clone()
    }

    /// Walks of the connection table since the last call.
    pub fn take_walks(&self) -> Vec<Filter> {
        std::mem::take(&mut self.lock().walks)
    }

    pub fn routes_localnet(&self) -> bool {
        self.lock().localnet
    }

    /// There is no program for this family; `None`: for each there is one.
    pub fn lack(&self, family: Option<Family>) {
        self.lock().missing = family;
    }

    /// Rules with this in them are refused; nothing is when it is empty.
    pub fn refuse(&self, part: &str) {
        self.lock().refused = part.to_owned();
    }

    /// After so many scripts one is done, but said to have timed out.
    pub fn time_out_after(&self, scripts: u64) {
        self.lock().late = Some(scripts);
    }

    pub fn in_time(&self) {
        self.lock().late = None;
    }

    pub fn cut_after(&self, lines: usize) {
        self.lock().lines = lines;
    }

    pub fn rules(&self, family: Family, table: &str) -> Vec<String> {
        self.lock().tables(family)[table]
            .iter()
            .flat_map(|(chain, rules)| {
                [format!(":{chain}")].into_iter().chain(rules.iter().map(move |rule| format!("-A {chain} {rule}")))
            })
            .collect()
    }
}

impl Executor for Kernel {
    fn restore(&mut self, family: Family, script: &str) -> Result<(), Error> {
        let mut state = self.lock();
        state.is_there(family)?;
        state.scripts.push(script.to_owned());
        let tables = state.run(family, script)?;
        match family {
            Family::V4 => state.v4 = tables,
            Family::V6 => state.v6 = tables,
        }
        match state.late {
            Some(0) => {
                state.late = None;
                Err(Error::TimedOut { program: PathBuf::from("fake"), timeout: Duration::ZERO })
            }
            Some(left) => {
                state.late = Some(left - 1);
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn save(&mut self, family: Family) -> Result<String, Error> {
        self.lock().is_there(family)?;
        let mut text = String::new();
        for (table, chains) in self.lock().tables(family) {
            text += &format!("*{table}\n");
            for chain in chains.keys() {
                text += &format!(":{chain} - [0:0]\n");
            }
            for (chain, rules) in chains {
                for rule in rules {
                    text += &format!("-A {chain} {rule}\n");
                }
            }
            text += "COMMIT\n";
        }
        Ok(text)
    }

    fn look(&mut self, family: Family, chains: &[(&str, String)]) -> Result<String, Error> {
        let state = self.lock();
        let mut text = String::new();
        for (table, chain) in chains {
            if let Some(rules) = state.tables(family)[*table].get(chain) {
                let rules: Vec<String> = rules.iter().map(|rule| format!("-A {chain} {rule}\n")).collect();
                text += &format!("*{table}\n:{chain} - [0:0]\n{}", rules.concat());
            }
        }
        Ok(text)
    }

    fn forget_flows(&mut self, filter: &Filter, is_stale: &dyn Fn(&Flow) -> bool) -> Result<usize, Error> {
        let mut state = self.lock();
        state.walks.push(*filter);
        let before = state.flows.len();
        let of = |flow: &Flow| family_of(flow.original.1.ip()) == filter.family && filter.matches(flow);
        state.flows.retain(|flow| !(of(flow) && is_stale(flow)));
        Ok(before - state.flows.len())
    }

    fn route_localnet(&mut self, on: bool) -> Result<(), Error> {
        self.lock().localnet = on;
        Ok(())
    }

    fn script_lines(&mut self) -> usize {
        self.lock().lines
    }
}

/// What the program of one family would not take from the other.
fn is_of(family: Family, rule: &str) -> bool {
    let words: Vec<&str> = rule.split(' ').collect();
    words.windows(2).all(|pair| match pair[0] {
        "-s" | "-d" => pair[1].parse::<IpNetwork>().is_ok_and(|network| family_of(network.ip()) == family),
        "--to-destination" => pair[1].parse::<SocketAddr>().is_ok_and(|to| family_of(to.ip()) == family),
        "--reject-with" => pair[1] == "tcp-reset" || pair[1].starts_with("icmp6-") == (family == Family::V6),
        _ => true,
    })
}

/// `-j` or `-g`, and where to.
fn target(rule: &str) -> Option<(&str, &str)> {
    let words: Vec<&str> = rule.split(' ').collect();
    words.windows(2).rev().find(|pair| matches!(pair[0], "-j" | "-g")).map(|pair| (pair[0], pair[1]))
}

/// Everything that may happen to the first packet of a flow: chance takes every turn.
pub(super) fn outcomes(kernel: &Kernel, packet: &Packet) -> BTreeSet<String> {
    let state = kernel.lock();
    let tables = state.tables(family_of(packet.to.ip()));
    let (nat, filter) = (&tables["nat"], &tables["filter"]);
    let hook = if packet.source.is_some() { ("PREROUTING", "FORWARD") } else { ("OUTPUT", "OUTPUT") };
    let mut found = BTreeSet::new();
    for (end, mark) in walk(nat, hook.0, 0, packet, 0) {
        for (verdict, mark) in walk(filter, hook.1, 0, packet, mark) {
            let left = walk(nat, "POSTROUTING", 0, packet, mark);
            let masqueraded = left.iter().any(|(end, _)| *end == End::Masqueraded);
            found.insert(match (&end, verdict) {
                (_, End::Dropped) => "dropped".to_owned(),
                (_, End::Rejected) => "refused".to_owned(),
                (End::Translated(to), _) => format!("{to}{}", if masqueraded { "/masquerade" } else { "" }),
                _ if masqueraded => "masqueraded".to_owned(),
                _ => "passed".to_owned(),
            });
        }
    }
    found
}

fn walk(chains: &Chains, chain: &str, from: usize, packet: &Packet, mark: u32) -> Vec<(End, u32)> {
    let Some(rule) = chains[chain].get(from) else { return vec![(End::Fell, mark)] };
    let on = |mark| walk(chains, chain, from + 1, packet, mark);
    let matched = matches(rule, packet, mark);
    if matched == Match::No {
        return on(mark);
    }
    let mut ends = if matched == Match::Maybe { on(mark) } else { Vec::new() };
    let words: Vec<&str> = rule.split(' ').collect();
    let after = |word: &str| words.iter().position(|held| *held == word).map(|at| words[at + 1]);
    let (how, target) = target(rule).expect("a target");
    match target {
        "ACCEPT" => ends.push((End::Accepted, mark)),
        "DROP" => ends.push((End::Dropped, mark)),
        "REJECT" => ends.push((End::Rejected, mark)),
        "RETURN" => ends.push((End::Fell, mark)),
        "MASQUERADE" => ends.push((End::Masqueraded, mark)),
        "DNAT" => ends.push((End::Translated(after("--to-destination").expect("where to").parse().expect("an address")), mark)),
        "MARK" => {
            let (value, mask) = number_pair(after("--set-xmark").expect("a mark"));
            ends.extend(on((mark & !mask) ^ value));
        }
        next => {
            for (end, mark) in walk(chains, next, 0, packet, mark) {
                match end {
                    End::Fell if how == "-j" => ends.extend(on(mark)),
                    end => ends.push((end, mark)),
                }
            }
        }
    }
    ends
}

fn matches(rule: &str, packet: &Packet, mark: u32) -> Match {
    let words: Vec<&str> = rule.split(' ').collect();
    let mut found = Match::Yes;
    let mut negated = false;
    for (index, word) in words.iter().enumerate() {
        let value = words.get(index + 1).copied().unwrap_or_default();
        let holds = match *word {
            // An exclamation mark is about the next option.
            "!" => {
                negated = true;
                continue;
            }
            "-s" => packet.source.is_some_and(|source| within(source, value)),
            "-d" => within(packet.to.ip(), value),
            "-p" => packet.protocol == value,
            "--dport" => {
                let (first, last) = value.split_once(':').unwrap_or((value, value));
                (first.parse().expect("a port")..=last.parse().expect("a port")).contains(&packet.to.port())
            }
            "--mark" => {
                let (value, mask) = number_pair(value);
                mark & mask == value
            }
            // A new flow whose client nobody remembers.
            "--ctstate" | "--rcheck" => false,
            "statistic" => {
                found = Match::Maybe;
                true
            }
            _ => continue,
        };
        if holds == std::mem::take(&mut negated) {
            return Match::No;
        }
    }
    found
}

fn within(address: IpAddr, network: &str) -> bool {
    network.parse::<IpNetwork>().expect("a network").contains(address)
}

fn number_pair(text: &str) -> (u32, u32) {
    let number = |text: &str| u32::from_str_radix(text.trim_start_matches("0x"), 16).expect("a number");
    let (value, mask) = text.split_once('/').expect("a mask");
    (number(value), number(mask))
}
