//! What the subcommands do.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;

use crate::bench::{Bench, Stop, bar};
use crate::labs::Labs;
use crate::machine::Machine;
use crate::origin;
use crate::report;
use crate::run::{FORMAT, Run};
use crate::scenario::{self, Scenario};
use crate::settings::{RunArgs, Settings};
use crate::table;

/// Every scenario with its sides.
pub fn list() {
    for scenario in scenario::all() {
        println!("{:<16} {}", scenario.name(), scenario.about());
        println!("{:<16}   ours: {}", "", scenario.ours().join(", "));
        if !scenario.against().is_empty() {
            println!("{:<16}   against: {}", "", scenario.against().join(", "));
        }
    }
}

/// Writes the page of a run, and says where.
///
/// # Errors
/// When the run cannot be read, or a file not be written.
pub fn report(run: &Path, html: &Path) -> Result<()> {
    let run = Run::read(run)?;
    let all = scenario::all();
    let ours = |name: &str| -> Vec<&'static str> {
        all.iter().find(|scenario| scenario.name() == name).map_or_else(Vec::new, |scenario| scenario.ours().to_vec())
    };
    for path in report::write(&run, &ours, html)? {
        println!("{}", path.display());
    }
    Ok(())
}

/// Measures. Everything that can be checked is checked before anything starts; what was measured is written whatever
/// happens afterwards.
///
/// # Errors
/// When nothing could begin, or the result could not be written.
pub fn run(names: &[String], args: &RunArgs) -> Result<ExitCode> {
    let chosen = scenario::choose(names)?;
    let machine = Machine::here();
    let settings = Settings::new(args, machine.cpus)?;
    check(&chosen, &settings)?;
    let now = Timestamp::now();
    let out = match &args.out {
        Some(out) => out.clone(),
        None => PathBuf::from(format!("runs/{}.json", now.strftime("%Y%m%d-%H%M%S"))),
    };
    let mut run = Run {
        format: FORMAT,
        started: u64::try_from(now.as_second()).unwrap_or_default(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        commit: origin::commit(),
        versions: origin::versions(),
        settings: serde_json::to_value(&settings)?,
        command: std::env::args().skip(1).collect(),
        machine,
        measurements: Vec::new(),
        missing: Vec::new(),
        // Whoever finds the file of a run that was killed is not to take it for a whole one.
        complete: false,
    };
    // Before the measuring, which takes long: whether the result can be written.
    run.begin(&out)?;
    let stop = Stop::listen()?;
    let bar = bar(chosen.iter().map(|scenario| scenario.cases(&settings)).sum());
    let mut labs = None;
    let mut before = 0;
    for scenario in &chosen {
        if stop.is_set() {
            break;
        }
        before += bench_cases(scenario.as_ref(), &settings);
        let mut bench = Bench::new(&settings, scenario.name(), &mut run, &bar, &stop, &mut labs);
        if let Err(error) = scenario.run(&mut bench) {
            bench.failed("all", &error);
        }
        bar.set_position(before);
        run.write(&out)?;
    }
    bar.finish_and_clear();
    run.end(stop.is_set());
    run.write(&out)?;
    let removed = labs.map_or(Ok(()), Labs::remove);
    print!("{}", table::run(&run));
    println!("\n{}\n{}", run.verdict(), out.display());
    removed?;
    Ok(if run.complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn bench_cases(scenario: &dyn Scenario, settings: &Settings) -> u64 {
    crate::bench::CASE * scenario.cases(settings) as u64
}

/// # Errors
/// For the first thing that is missing, and for a side that no chosen scenario knows.
fn check(chosen: &[Box<dyn Scenario>], settings: &Settings) -> Result<()> {
    let known: Vec<&str> = chosen.iter().flat_map(|scenario| scenario.against()).copied().collect();
    if let Some(side) = settings.unknown_side(&known) {
        ensure!(!known.is_empty(), "--against {side}: this compares with nothing else");
        let mut known = known;
        known.sort_unstable();
        known.dedup();
        anyhow::bail!("--against {side}: choose from {}", known.join(", "));
    }
    for scenario in chosen {
        for need in scenario.needs() {
            need.check(settings).with_context(|| scenario.name().to_owned())?;
        }
    }
    Ok(())
}
