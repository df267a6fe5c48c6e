//! A kernel in memory: takes the scripts of iptables-restore as strictly as the real one, and walks packets through.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::super::error::Error;
use super::super::exec::Executor;

type Chains = BTreeMap<String, Vec<String>>;

#[derive(Clone, Default)]
pub(super) struct Kernel(Arc<Mutex<State>>);

struct State {
    tables: BTreeMap<String, Chains>,
    scripts: Vec<String>,
    forgotten: Vec<String>,
    /// Rules that hold this are refused.
    refused: String,
    lines: usize,
    /// After so many scripts one is done, but said to have timed out.
    late: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Packet {
    /// `None`: the node itself.
    pub source: Option<Ipv4Addr>,
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
        let tables = [
            ("filter".to_owned(), table(&["INPUT", "FORWARD", "OUTPUT"])),
            ("nat".to_owned(), table(&["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"])),
        ];
        Self {
            tables: tables.into(),
            scripts: Vec::new(),
            forgotten: Vec::new(),
            refused: String::new(),
            lines: 10_000,
            late: None,
        }
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

    pub fn forgotten(&self) -> Vec<String> {
        self.lock().forgotten.clone()
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

    pub fn rules(&self, table: &str) -> Vec<String> {
        self.lock().tables[table]
            .iter()
            .flat_map(|(chain, rules)| {
                [format!(":{chain}")].into_iter().chain(rules.iter().map(move |rule| format!("-A {chain} {rule}")))
            })
            .collect()
    }
}

impl Executor for Kernel {
    fn restore(&mut self, script: &str) -> Result<(), Error> {
        let mut state = self.lock();
        state.scripts.push(script.to_owned());
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
                state.tables.insert(table, chains);
                continue;
            }
            if line == "*flush" {
                let Some((_, chains)) = &mut open else { return refuse("no table") };
                chains.retain(|chain, _| !chain.starts_with("TW-"));
                chains.values_mut().for_each(Vec::clear);
                continue;
            }
            if let Some(table) = line.strip_prefix('*') {
                open = Some((table.to_owned(), state.tables[table].clone()));
                continue;
            }
            let Some((_, chains)) = &mut open else { return refuse("no table") };
            if let Some(chain) = verb.strip_prefix(':') {
                chains.insert(chain.to_owned(), Vec::new());
                continue;
            }
            if !state.refused.is_empty() && line.contains(&state.refused) {
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

    fn save(&mut self) -> Result<String, Error> {
        let mut text = String::new();
        for (table, chains) in &self.lock().tables {
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

    fn look(&mut self, chains: &[(&str, String)]) -> Result<String, Error> {
        let state = self.lock();
        let mut text = String::new();
        for (table, chain) in chains {
            if let Some(rules) = state.tables[*table].get(chain) {
                let rules: Vec<String> = rules.iter().map(|rule| format!("-A {chain} {rule}\n")).collect();
                text += &format!("*{table}\n:{chain} - [0:0]\n{}", rules.concat());
            }
        }
        Ok(text)
    }

    fn forget_flows(&mut self, arguments: &[String]) -> Result<(), Error> {
        self.lock().forgotten.push(arguments.join(" "));
        Ok(())
    }

    fn script_lines(&mut self) -> usize {
        self.lock().lines
    }
}

/// `-j` or `-g`, and where to.
fn target(rule: &str) -> Option<(&str, &str)> {
    let words: Vec<&str> = rule.split(' ').collect();
    words.windows(2).rev().find(|pair| matches!(pair[0], "-j" | "-g")).map(|pair| (pair[0], pair[1]))
}

/// Everything that may happen to the first packet of a flow: chance takes every turn.
pub(super) fn outcomes(kernel: &Kernel, packet: &Packet) -> BTreeSet<String> {
    let state = kernel.lock();
    let (nat, filter) = (&state.tables["nat"], &state.tables["filter"]);
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
    let mut index = 0;
    let mut negated = false;
    while index < words.len() {
        let value = words.get(index + 1).copied().unwrap_or_default();
        let holds = match words[index] {
            "-s" => packet.source.is_some_and(|source| within(source, value)),
            "-d" => matches!(packet.to.ip(), IpAddr::V4(to) if within(to, value)),
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
            _ => true,
        };
        if holds == negated {
            return Match::No;
        }
        // An exclamation mark is about the next option.
        negated = words[index] == "!";
        index += 1;
        if negated && words[index] != "--mark" {
            panic!("the test kernel knows no such negation: {rule}");
        }
    }
    found
}

fn within(address: Ipv4Addr, network: &str) -> bool {
    let (base, bits) = network.split_once('/').expect("a network");
    let (base, bits): (Ipv4Addr, u32) = (base.parse().expect("an address"), bits.parse().expect("a length"));
    let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
    u32::from(address) & mask == u32::from(base) & mask
}

fn number_pair(text: &str) -> (u32, u32) {
    let number = |text: &str| u32::from_str_radix(text.trim_start_matches("0x"), 16).expect("a number");
    let (value, mask) = text.split_once('/').expect("a mask");
    (number(value), number(mask))
}
