//! `cargo xtask up` and `cargo xtask lab`: builds everything, then becomes the lab.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{cargo, ebpf, packages};

#[derive(clap::Args)]
pub struct Args {
    /// Options of the lab: --nodes N, --once, --data DIR, --keep, --only TEXT (see --help after --)
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    lab: Vec<String>,
}

/// Never returns when all is well: this process becomes the lab, so that Ctrl-C reaches it and nothing else.
///
/// # Errors
/// When something cannot be installed or built.
pub fn run(root: &Path, verb: &str, args: &Args) -> Result<()> {
    packages::ensure_root(verb)?;
    packages::ensure_installed(packages::LAB)?;
    ebpf::run(root, &ebpf::Args::default())?;
    let lab = build(root)?;
    let verb = if verb == "lab" { "shell" } else { verb };
    let error = Command::new(&lab).arg(verb).args(&args.lab).exec();
    Err(error).with_context(|| format!("start {}", lab.display()))
}

/// Builds what a user gets, and returns the lab's path; the others are beside it.
///
/// # Errors
/// When cargo fails.
pub fn build(root: &Path) -> Result<PathBuf> {
    eprintln!("building thalweg, thalweg-cni and thalweg-lab (release; some minutes the first time)");
    cargo::run(root, &["build", "--release", "-p", "thalweg", "-p", "thalweg-cni", "-p", "thalweg-lab"])?;
    Ok(root.join("target/release/thalweg-lab"))
}
