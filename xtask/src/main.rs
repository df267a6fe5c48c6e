//! Build, test and run Thalweg: one module per verb.

mod ebpf;
mod elf;
mod step;
mod toolchain;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Build, test and run Thalweg", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Build the kernel programs into target/ebpf/thalweg.o, installing a BPF toolchain below target/ when there is none
    Ebpf(ebpf::Args),
}

fn main() -> Result<()> {
    let root = root()?;
    match Cli::parse().verb {
        Verb::Ebpf(args) => ebpf::run(&root, &args),
    }
}

/// The repository: the folder above this crate.
fn root() -> Result<PathBuf> {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let root = here.parent().context("the xtask crate has no folder above it")?;
    Ok(root.to_owned())
}
