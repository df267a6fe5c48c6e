//! What is on the machine, before and after: nothing of a lab may stay.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::{cgroup, netns};

/// Names of everything that a lab could leave behind, one per thing, such as `link veth0`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Residue(BTreeSet<String>);

// === impl Residue ===

impl Residue {
    /// Looks at namespaces, links, qdiscs, control groups, mounts, pins, our processes and iptables rules.
    pub fn look() -> Self {
        let mut found = BTreeSet::new();
        let mut add = |kind: &str, name: &str| {
            found.insert(format!("{kind} {name}"));
        };
        for name in netns::Netns::list("") {
            add("namespace", &name);
        }
        for line in output("ip", &["-br", "link"]).lines() {
            add("link", line.split_whitespace().next().unwrap_or(line));
        }
        for line in output("tc", &["qdisc"]).lines() {
            add("qdisc", line);
        }
        if let Ok(root) = cgroup::root() {
            for name in directories(&root).into_iter().filter(|name| name.starts_with("thalweg") || name.starts_with("tw-")) {
                add("control group", &name);
            }
        }
        for line in fs::read_to_string("/proc/self/mounts").unwrap_or_default().lines() {
            add("mount", line);
        }
        for directory in ["/sys/fs/bpf", "/run/thalweg-lab", "/run/thalweg-netns", "/run/thalweg", "/var/lib/thalweg"] {
            for name in directories(Path::new(directory)) {
                add("directory", &format!("{directory}/{name}"));
            }
        }
        for (id, command) in processes() {
            if Path::new(&command).file_name().is_some_and(|name| name == "thalweg") {
                add("process", &format!("{id} {command}"));
            }
        }
        for table in ["iptables-save", "ip6tables-save"] {
            // Counters and time stamps change by themselves; rules do not.
            for line in output(table, &[]).lines().filter(|line| line.starts_with('-')) {
                add(table, line);
            }
        }
        Self(found)
    }

    /// What is there now and was not in `before`.
    pub fn since(&self, before: &Self) -> Vec<String> {
        self.0.difference(&before.0).cloned().collect()
    }
}

/// A tool that is not installed has left nothing behind.
fn output(program: &str, args: &[&str]) -> String {
    Command::new(program)
        .args(args)
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default()
}

fn directories(path: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Id and program of every process.
fn processes() -> Vec<(u32, String)> {
    directories(Path::new("/proc"))
        .iter()
        .filter_map(|name| name.parse::<u32>().ok())
        .filter_map(|id| {
            let line = fs::read_to_string(format!("/proc/{id}/cmdline")).ok()?;
            Some((id, line.split('\0').next()?.to_owned()))
        })
        .collect()
}
