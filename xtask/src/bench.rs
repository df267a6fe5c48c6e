//! `cargo xtask bench`: builds everything, then becomes the benchmark.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{cargo, ebpf, packages, up};

#[derive(clap::Args)]
pub struct Args {
    /// Arguments of `thalweg bench`; `run all` without any
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
    let all = ["run", "all"].map(str::to_owned);
    let arguments = if args.bench.is_empty() { all.as_slice() } else { &args.bench };
    let error = Command::new(&program).args(arguments).exec();
    Err(error).with_context(|| format!("start {}", program.display()))
}
