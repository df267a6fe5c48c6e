//! `cargo xtask bench`: builds everything, then becomes the benchmark.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{cargo, ebpf, packages, up};

#[derive(clap::Args)]
pub struct Args {
    /// Scenario and its options; `first-light` without one
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    bench: Vec<String>,
}

/// Never returns when all is well.
///
/// # Errors
/// When something cannot be installed or built.
pub fn run(root: &Path, args: &Args) -> Result<()> {
    packages::ensure_root("bench")?;
    packages::ensure_installed(packages::LAB)?;
    ebpf::run(root, &ebpf::Args::default())?;
    let lab = up::build(root)?;
    cargo::run(root, &["build", "--release", "-p", "thalweg-bench"])?;
    let program = lab.with_file_name("thalweg-bench");
    let arguments = if args.bench.is_empty() { &["first-light".to_owned()][..] } else { &args.bench };
    // Probes run as `thalweg-lab probe`, whoever starts them.
    let error = Command::new(&program).args(arguments).env("THALWEG_LAB", &lab).exec();
    Err(error).with_context(|| format!("start {}", program.display()))
}
