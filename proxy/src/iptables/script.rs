//! Changes of chains as transactions of iptables-restore. Pure.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::chain::{ChainId, Jump, Table};
use super::rules::Rules;

/// One transaction, and what the kernel has after it.
#[derive(Debug)]
pub(super) struct Script {
    pub text: String,
    pub changes: Vec<Change>,
}

#[derive(Clone, Debug)]
pub(super) enum Change {
    Write(ChainId, Rules),
    /// Empties a chain that goes later; it may still be jumped to.
    Empty(String),
    Delete(ChainId),
    DeleteStale(Table, String),
    Jump(JumpChange),
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum JumpChange {
    /// A jump of ours that is there twice, or looks otherwise: the table, and the rule as it was listed.
    Remove(Table, String),
    Insert(Jump),
}

/// Appends transactions of at most about `lines` lines each. `mark`: the mark of refusal.
pub(super) fn cut(scripts: &mut Vec<Script>, table: Table, changes: Vec<Change>, lines: usize, mark: u32) {
    let mut pending = Vec::new();
    let mut size = 0;
    for change in changes {
        size += match &change {
            Change::Write(_, rules) => rules.lines.len() + 1,
            _ => 1,
        };
        pending.push(change);
        if size >= lines {
            scripts.push(Script::new(table, std::mem::take(&mut pending), mark));
            size = 0;
        }
    }
    if !pending.is_empty() {
        scripts.push(Script::new(table, pending, mark));
    }
}

// === impl Script ===

impl Script {
    fn new(table: Table, changes: Vec<Change>, mark: u32) -> Self {
        // Every chain first, once: a line that names it empties it, or makes it.
        let mut chains = BTreeSet::new();
        let mut rules = String::new();
        for change in &changes {
            // Writing to a String cannot fail.
            let _ = match change {
                Change::Write(chain, wanted) => {
                    let chain = chain.to_string();
                    for rule in &wanted.lines {
                        let _ = writeln!(rules, "-A {chain} {rule}");
                    }
                    chains.insert(chain);
                    Ok(())
                }
                Change::Empty(name) => {
                    chains.insert(name.clone());
                    Ok(())
                }
                Change::Delete(chain) => {
                    chains.insert(chain.to_string());
                    writeln!(rules, "-X {chain}")
                }
                Change::DeleteStale(_, name) => {
                    chains.insert(name.clone());
                    writeln!(rules, "-X {name}")
                }
                Change::Jump(JumpChange::Remove(_, rule)) => writeln!(rules, "-D {rule}"),
                Change::Jump(JumpChange::Insert(jump)) => writeln!(rules, "-I {} 1 {}", jump.from, jump.rule(mark)),
            };
        }
        let mut text = format!("*{}\n", table.name());
        for chain in chains {
            let _ = writeln!(text, ":{chain} - [0:0]");
        }
        text += &rules;
        text += "COMMIT\n";
        Self { text, changes }
    }

    /// How many rules it writes, by table.
    pub fn rules(&self) -> [usize; 2] {
        let mut rules = [0; 2];
        for change in &self.changes {
            if let Change::Write(chain, written) = change {
                rules[chain.table() as usize] += written.lines.len();
            }
        }
        rules
    }
}

// === impl JumpChange ===

impl JumpChange {
    pub fn table(&self) -> Table {
        match self {
            Self::Remove(table, _) => *table,
            Self::Insert(jump) => jump.table,
        }
    }
}
