//! `cargo xtask tidy`: what ARCHITECTURE.md promises about the sources and a machine can check.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Longest file: what a reader can hold in the head.
const MAX_LINES: usize = 500;

/// Dependencies that only these folders may name: one speaker for each interface.
const OWNED: &[(&str, &[&str])] = &[
    ("aya", &["ebpf/abi", "ebpf/loader"]),
    ("aya-obj", &["ebpf/loader"]),
    ("aya-ebpf", &["ebpf/programs"]),
    ("netlink-packet-route", &["cni/network"]),
    (
        "kube",
        &[
            "cluster",
            "controlplane/apiserver",
            "controlplane/scheduler",
            "controlplane/controllers",
            "controlplane/kubelet",
            "thalweg",
        ],
    ),
    ("redb", &["controlplane/store"]),
];

/// Folders in which `unsafe` may stand, each use with its SAFETY line (clippy checks that).
const UNSAFE: &[&str] = &[
    "ebpf/",
    "cni/",
    "controlplane/apiserver/src/inherit.rs",
    "controlplane/kubelet/src/helper/",
    "controlplane/kubelet/src/process/",
];

/// Crates that may depend on nothing else of the workspace.
const LEAVES: &[&str] = &["ebpf/abi", "cni/plugin", "xtask"];

/// # Errors
/// Lists every place that breaks a rule.
pub fn run(root: &Path) -> Result<()> {
    let mut complaints = Vec::new();
    let mut files = Vec::new();
    walk(root, root, &mut files)?;
    for file in &files {
        let text = fs::read_to_string(root.join(file)).with_context(|| format!("read {}", file.display()))?;
        let path = file.to_string_lossy();
        if path.ends_with(".rs") {
            complaints.extend(source(&path, &text));
        } else if path.ends_with("Cargo.toml") {
            complaints.extend(manifest(path.trim_end_matches("Cargo.toml").trim_end_matches('/'), &text));
        }
    }
    for name in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "docs/NUMBERS.md", "LICENSE-MIT", "LICENSE-APACHE"] {
        if !root.join(name).exists() {
            complaints.push(format!("{name} is missing"));
        }
    }
    if !complaints.is_empty() {
        bail!("not tidy:\n  {}", complaints.join("\n  "));
    }
    println!("{} files are tidy", files.len());
    Ok(())
}

/// Rules for one source file.
fn source(path: &str, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    if !text.starts_with("//!") {
        complaints.push(format!("{path}: does not open with `//!` saying why it exists"));
    }
    let lines = text.lines().count();
    if lines > MAX_LINES {
        complaints.push(format!("{path}: {lines} lines, at most {MAX_LINES}: two things live in one file"));
    }
    let uses_unsafe = text.lines().map(str::trim_start).any(|line| {
        !line.starts_with("//") && (line.contains("unsafe {") || line.contains("unsafe impl") || line.contains("unsafe fn"))
    });
    if uses_unsafe && !UNSAFE.iter().any(|prefix| path.starts_with(prefix)) && path != "xtask/src/tidy.rs" {
        complaints.push(format!("{path}: unsafe belongs into {}", UNSAFE.join(", ")));
    }
    complaints
}

/// Rules for one crate's manifest.
fn manifest(folder: &str, text: &str) -> Vec<String> {
    if folder.is_empty() {
        return Vec::new();
    }
    let mut complaints = Vec::new();
    let dependencies = dependencies(text);
    for (name, owners) in OWNED {
        if dependencies.get(*name) == Some(&Section::Normal) && !owners.contains(&folder) {
            complaints.push(format!("{folder}: depends on {name}, which is for {}", owners.join(", ")));
        }
    }
    if LEAVES.contains(&folder) {
        for (name, section) in &dependencies {
            if *section == Section::Normal && name.starts_with("thalweg") {
                complaints.push(format!("{folder}: depends on {name}, but depends on nothing of the workspace"));
            }
        }
    }
    if !text.contains("[lints]") {
        complaints.push(format!("{folder}: has no `[lints] workspace = true`"));
    }
    complaints
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Section {
    Normal,
    Dev,
}

/// Names of dependencies with the section that they stand in; a name in both counts as normal.
fn dependencies(text: &str) -> BTreeMap<String, Section> {
    let mut found = BTreeMap::new();
    let mut section = None;
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[') {
            section = match name.trim_end_matches(']') {
                "dependencies" | "build-dependencies" => Some(Section::Normal),
                "dev-dependencies" => Some(Section::Dev),
                _ => None,
            };
        } else if let (Some(section), Some((name, _))) = (section, line.split_once(['.', '=', ' '])) {
            found.entry(name.to_owned()).and_modify(|held| *held = Section::Normal).or_insert(section);
        }
    }
    found
}

/// Sources and manifests below `folder`, relative to `root`.
fn walk(root: &Path, folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let mut entries: Vec<_> = fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?.flatten().collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                walk(root, &path, files)?;
            }
        } else if name.ends_with(".rs") || name == "Cargo.toml" {
            files.push(path.strip_prefix(root).unwrap_or(&path).to_owned());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(folder: &str, text: &str, wanted: &[&str]) {
        let found = manifest(folder, text);
        assert_eq!(found.len(), wanted.len(), "{found:?}");
        for (complaint, wanted) in found.iter().zip(wanted) {
            assert!(complaint.contains(wanted), "{complaint}");
        }
    }

    #[test]
    fn one_crate_speaks_each_interface() {
        check("dns", "[dependencies]\naya.workspace = true\n[lints]\nworkspace = true\n", &["aya"]);
        check("ebpf/loader", "[dependencies]\naya.workspace = true\n[lints]\nworkspace = true\n", &[]);
        check("dns", "[dev-dependencies]\naya.workspace = true\n[lints]\nworkspace = true\n", &[]);
        check("xtask", "[dependencies]\nthalweg-lab = { workspace = true }\n", &["thalweg-lab", "lints"]);
    }

    #[test]
    fn sources_say_why_they_exist_and_stay_short() {
        assert!(source("dns/src/a.rs", "//! Why.\nfn a() {}\n").is_empty());
        assert_eq!(source("dns/src/a.rs", "fn a() {}\n").len(), 1);
        assert_eq!(source("dns/src/a.rs", &format!("//! Why.\n{}", "\n".repeat(MAX_LINES))).len(), 1);
        assert_eq!(source("dns/src/a.rs", "//! Why.\nfn a() { unsafe { b() } }\n").len(), 1);
        assert!(source("ebpf/loader/src/a.rs", "//! Why.\nfn a() { unsafe { b() } }\n").is_empty());
    }
}
