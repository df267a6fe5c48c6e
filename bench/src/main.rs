//! `thalweg-bench`, which `thalweg bench` becomes: a laboratory that measures us beside others on this machine, and keeps
//! what it found as JSON.

mod agent;
mod bench;
mod children;
mod compare;
mod labs;
mod machine;
mod manifests;
mod measure;
mod origin;
mod plain;
mod report;
mod run;
mod scenario;
mod scenarios;
mod settings;
mod stats;
mod table;
mod verbs;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use thalweg_lab::probe;

use crate::run::Run;
use crate::settings::RunArgs;

#[derive(Parser, Debug)]
#[command(
    name = "thalweg bench",
    bin_name = "thalweg bench",
    version,
    about = "Benchmarks on this machine: ratios of things measured side by side, with the noise of the machine beside them"
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// The scenarios: what each measures, and against what
    List,
    /// Measure, and keep the result as JSON
    Run {
        /// Names of scenarios, or `all`
        #[arg(required = true, value_name = "SCENARIO")]
        scenarios: Vec<String>,
        #[command(flatten)]
        args: Box<RunArgs>,
    },
    /// Which differences between two runs are larger than their noise
    Compare { old: PathBuf, new: PathBuf },
    /// A run as a page with plots and tables, which stands for itself; the plots as SVG beside it
    Report {
        run: PathBuf,
        #[arg(long, default_value = "report.html", value_name = "FILE")]
        html: PathBuf,
    },
    /// A run as tables of Markdown, for docs/NUMBERS.md
    Numbers { run: PathBuf },
    /// One bounded client or server, run inside a lab's namespaces
    #[command(hide = true)]
    Probe {
        #[command(subcommand)]
        probe: probe::Probe,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse().verb) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<ExitCode> {
    match verb {
        Verb::List => verbs::list(),
        Verb::Run { scenarios, args } => return verbs::run(&scenarios, &args),
        Verb::Compare { old, new } => print!("{}", compare::table(&Run::read(&old)?, &Run::read(&new)?)),
        Verb::Report { run, html } => verbs::report(&run, &html)?,
        Verb::Numbers { run } => print!("{}", table::document(&Run::read(&run)?)),
        Verb::Probe { probe } => probe::run(probe)?,
    }
    Ok(ExitCode::SUCCESS)
}
