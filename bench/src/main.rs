//! `thalweg-bench`: the scenarios behind docs/NUMBERS.md, run in a lab of their own. `cargo xtask bench` builds and calls it.

mod agent;
mod first_light;
mod follow;
mod packets;
mod plain;
mod services;
mod stats;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

#[derive(Parser, Debug)]
#[command(name = "thalweg-bench", about = "Benchmarks of Thalweg on this machine: ratios of two things run side by side")]
struct Cli {
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Subcommand, Debug)]
enum Scenario {
    /// Start of a cluster, endpoint change to map, and TCP transactions through the VIP against direct.
    FirstLight(first_light::Args),
    /// Few and many services: what a VIP costs, how long a sync takes, how fast a change follows, memory.
    Services(services::Args),
    /// An agent that follows an API server with many services: first sync, one change, memory.
    Follow(follow::Args),
    /// Nanoseconds of each tc program for each packet.
    Packets(packets::Args),
}

/// Where the executables under test are.
#[derive(clap::Args, Debug, Clone)]
pub struct Common {
    /// Directory of `thalweg`, `thalweg-cni` and `thalweg-lab` (default: where this program is).
    #[arg(long)]
    bin: Option<PathBuf>,
    /// Also write the figures as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// What the names of the lab begin with; two benches at once spoil each other's figures whatever they are called.
    #[arg(long, default_value = "bench")]
    lab: String,
}

impl Common {
    /// Where the executables under test are.
    fn bin(&self) -> Result<PathBuf> {
        match &self.bin {
            Some(bin) => Ok(bin.clone()),
            None => Ok(std::env::current_exe()?.parent().context("directory of this program")?.to_owned()),
        }
    }
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    match cli.scenario {
        Scenario::FirstLight(args) => first_light::run(&args),
        Scenario::Services(args) => services::run(&args),
        Scenario::Follow(args) => follow::run(&args),
        Scenario::Packets(args) => packets::run(&args),
    }
}
