//! `thalweg-lab`: labs on this machine. `cargo xtask up` and `cargo xtask lab` build it and call it.

mod up;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use thalweg_lab::{owner, probe};

#[derive(Parser, Debug)]
#[command(name = "thalweg-lab", about = "Thalweg clusters in network namespaces of this machine")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Starts a cluster, deploys the demo and shows it; Ctrl-C removes every trace.
    Up(UpArgs),
    /// Starts a cluster and a shell in its lan namespace with KUBECONFIG set; leaving the shell removes every trace.
    Shell(UpArgs),
    /// Removes what labs whose owner was killed have left behind.
    Clean,
    /// One bounded client, run inside a lab's namespaces; prints one JSON object.
    #[command(hide = true)]
    Probe {
        #[command(subcommand)]
        probe: probe::Probe,
    },
}

#[derive(Args, Debug, Clone)]
pub struct UpArgs {
    /// How many nodes.
    #[arg(long, default_value_t = 2)]
    nodes: usize,
    /// Check every claim, print a table, tear down, and exit 0 or 1.
    #[arg(long)]
    once: bool,
    /// Where store, certificates and logs go; kept afterwards (default: a temporary directory that is removed).
    #[arg(long)]
    data: Option<PathBuf>,
    /// Leave the cluster running at the end; the next `up` removes it.
    #[arg(long)]
    keep: bool,
    /// Only checks whose name contains this text (with --once; the demo is always applied).
    #[arg(long)]
    only: Option<String>,
    /// Name of the lab: part of every name on the machine.
    #[arg(long, default_value = "up")]
    name: String,
    /// Directory of the `thalweg` and `thalweg-cni` executables (default: where this program is).
    #[arg(long)]
    bin: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<bool> {
    match cli.verb {
        Verb::Up(args) if args.once => up::once(&args),
        Verb::Up(args) => up::stay(&args).map(|()| true),
        Verb::Shell(args) => up::shell(&args),
        Verb::Clean => {
            for id in owner::sweep()? {
                println!("removed lab {id}");
            }
            Ok(true)
        }
        Verb::Probe { probe } => probe::run(probe).map(|()| true),
    }
}
