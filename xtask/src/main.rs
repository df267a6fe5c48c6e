//! Build, test and run Thalweg: one module per verb.

mod bench;
mod cargo;
mod ebpf;
mod elf;
mod fuzz;
mod packages;
mod step;
mod test;
mod tidy;
mod toolchain;
mod up;

use std::path::PathBuf;
use std::process::ExitCode;

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
    /// Build everything, start a two-node cluster on this machine, deploy the demo, show it; Ctrl-C removes every trace
    Up(up::Args),
    /// Build everything, start a cluster and a shell beside its control plane
    Lab(up::Args),
    /// Run every test, or those of the subjects named
    Test(test::Args),
    /// Build everything and measure: the figures of docs/NUMBERS.md
    Bench(bench::Args),
    /// Run mutated packets through the tc programs for a while, and shrink what breaks a promise
    Fuzz(fuzz::Args),
    /// Check what ARCHITECTURE.md promises about the sources
    Tidy,
}

fn main() -> ExitCode {
    match run(Cli::parse().verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<()> {
    let root = root()?;
    match verb {
        Verb::Ebpf(args) => ebpf::run(&root, &args),
        Verb::Up(args) => up::run(&root, "up", &args),
        Verb::Lab(args) => up::run(&root, "lab", &args),
        Verb::Test(args) => test::run(&root, &args),
        Verb::Bench(args) => bench::run(&root, &args),
        Verb::Fuzz(args) => fuzz::run(&root, &args),
        Verb::Tidy => tidy::run(&root),
    }
}

/// The repository: the folder above this crate.
fn root() -> Result<PathBuf> {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let root = here.parent().context("the xtask crate has no folder above it")?;
    Ok(root.to_owned())
}
