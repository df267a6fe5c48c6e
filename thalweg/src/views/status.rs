//! `thalweg status`: the state of the node's data path, and the agent's own figures when it runs.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use thalweg_proxy::inspect::{self, CountRow, Status, live};

use super::output::{Output, OutputArgs};
use super::source::SourceArgs;
use crate::agent::admin::{self, Figures};

#[derive(Args, Debug)]
pub struct StatusArgs {
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    output: OutputArgs,
    /// The agent's folder of sockets: its own figures are shown when it runs
    #[arg(long, default_value = "/run/thalweg", value_name = "FOLDER")]
    run: PathBuf,
}

/// `thalweg status -o json`: the maps, and the agent when it runs.
#[derive(Serialize)]
struct FullStatus {
    #[serde(flatten)]
    datapath: Status,
    agent: Option<Figures>,
}

/// # Errors
/// When the maps cannot be read.
pub fn status(args: &StatusArgs) -> Result<()> {
    let maps = args.source.open()?;
    args.output.repeat(|| {
        let status = FullStatus { datapath: live::read_status(&maps)?, agent: admin::read(&args.run.join("agent.sock")) };
        match args.output.output {
            Output::Json => args.output.json(&status),
            Output::Table | Output::Wide => Ok(text(args, status)),
        }
    })
}

fn text(args: &StatusArgs, FullStatus { datapath, agent }: FullStatus) -> String {
    let mut text = format!(
        "maps of ABI {}, adopted {} times, {} applies, {}\n",
        datapath.abi,
        datapath.adoptions,
        datapath.applies,
        if datapath.synced { "synced" } else { "not synced yet" }
    );
    let _ = match &agent {
        Some(agent) => writeln!(
            text,
            "agent {}: {} services, {} pods; change to map p50 {} µs, p99 {} µs over {} changes; DNS {} answered, {} NXDOMAIN",
            agent.process,
            agent.services,
            agent.pods,
            agent.change_to_map_p50_us,
            agent.change_to_map_p99_us,
            agent.changes,
            agent.dns.answered,
            agent.dns.nxdomain
        ),
        None => writeln!(text, "no agent listens in {}: the data path works on without it", args.run.display()),
    };
    for failure in agent.iter().flat_map(|agent| &agent.failures) {
        let _ = writeln!(text, "failing: {failure}");
    }
    // Counters and reasons that never occurred say nothing; they are there in JSON and in the wide table.
    let wanted = |rows: Vec<CountRow>| -> Vec<CountRow> {
        rows.into_iter().filter(|row| row.count > 0 || args.output.output == Output::Wide).collect()
    };
    let _ = write!(text, "\n{}", inspect::render(&datapath.maps));
    let _ = write!(text, "\ncounters\n{}", inspect::render(&wanted(datapath.counters)));
    let _ = write!(text, "\ndrops\n{}", inspect::render(&wanted(datapath.drops)));
    text
}
