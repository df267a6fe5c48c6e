//! `thalweg top`: services by what they do now. On a terminal it is live; elsewhere it prints tables.

mod model;
mod screen;

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use serde::Serialize;
use thalweg_loader::Maps;
use thalweg_proxy::inspect::top::{DropRate, Sort, Top, TopRow};
use thalweg_proxy::inspect::{Filter, live, render};

use super::output::{Output, write};
use super::source::SourceArgs;
use super::tables::ServiceFilterArgs;
use model::Model;

#[derive(Args, Debug)]
#[command(after_help = "Keys: c, f, b, n sort by new connections, flows, bytes, name; r reverses; / filters; p pauses;
arrows, PgUp, PgDn, Home and End scroll; + and - change the interval; q, Esc and Ctrl-C quit.

Bytes are those that tc translates. Connections that were translated at their socket pass without being counted:
of them, only how many begin is known.")]
pub struct TopArgs {
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    filter: ServiceFilterArgs,
    /// Seconds between two looks
    #[arg(short, long, default_value_t = 2.0, value_name = "SECONDS", value_parser = interval)]
    interval: f64,
    /// By what services are sorted
    #[arg(short, long, value_enum, default_value = "new")]
    sort: SortBy,
    /// The first letter or the smallest number first
    #[arg(short, long)]
    reverse: bool,
    /// One table of one interval, and no terminal; also what a pipe gets
    #[arg(long, conflicts_with = "batch")]
    once: bool,
    /// N tables, one after the other, and no terminal
    #[arg(long, value_name = "N")]
    batch: Option<u32>,
    /// Of tables that are printed
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
    /// Services in a table that is printed
    #[arg(long, default_value_t = 20, value_name = "N")]
    rows: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SortBy {
    /// New connections per second
    New,
    /// Flows through tc that there are
    Flows,
    /// Bytes through tc per second
    Bytes,
    Name,
}

/// One printed table, in JSON.
#[derive(Serialize)]
struct Printed<'a> {
    seconds: f64,
    all: TopRow,
    services: Vec<&'a TopRow>,
    drops: Vec<&'a DropRate>,
}

/// # Errors
/// When the maps cannot be read, or the terminal cannot be used.
pub fn top(args: &TopArgs) -> Result<()> {
    let maps = args.source.open()?;
    let filter = args.filter.filter();
    let rounds = match (args.once, args.batch) {
        (true, _) => Some(1),
        (false, Some(rounds)) => Some(rounds),
        // A pipe, or a terminal that only one of the two ends is.
        (false, None) if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() => Some(1),
        (false, None) => None,
    };
    match rounds {
        Some(rounds) => print(args, &maps, &filter, rounds),
        None => live(args, &maps, filter),
    }
}

fn print(args: &TopArgs, maps: &Maps, filter: &Filter, rounds: u32) -> Result<()> {
    let started = Instant::now();
    let mut top = Top::default();
    top.feed(live::sample(maps, started.elapsed())?);
    for round in 0..rounds {
        std::thread::sleep(Duration::from_secs_f64(args.interval));
        top.feed(live::sample(maps, started.elapsed())?);
        let mut services = top.rows(args.sort.into(), args.reverse, filter);
        services.truncate(args.rows);
        let (all, drops) = (top.sum(), top.drops());
        let text = if args.output == Output::Json {
            serde_json::to_string(&Printed { seconds: args.interval, all, services, drops }).context("write JSON")? + "\n"
        } else {
            let services: Vec<TopRow> = services.into_iter().cloned().chain([all]).collect();
            let drops: Vec<DropRate> = drops.into_iter().cloned().collect();
            let dropped = if drops.is_empty() { String::new() } else { format!("\n{}", render(&drops)) };
            format!("{}{}{dropped}", if round > 0 { "\n" } else { "" }, render(&services))
        };
        if !write(&text)? {
            break;
        }
    }
    Ok(())
}

fn live(args: &TopArgs, maps: &Maps, filter: Filter) -> Result<()> {
    let started = Instant::now();
    let mut model = Model::new(args.sort.into(), args.reverse, filter, Duration::from_secs_f64(args.interval));
    model.feed(live::sample(maps, started.elapsed())?);
    // Restores the terminal when it ends, by a panic too.
    ratatui::run(|terminal| -> Result<()> {
        let mut next = Instant::now() + model.interval;
        while !model.quits {
            terminal.draw(|frame| screen::draw(frame, &mut model)).context("draw")?;
            // A resize is an event too: it only has to be drawn.
            if event::poll(next.saturating_duration_since(Instant::now())).context("wait for a key")? {
                if let Event::Key(key) = event::read().context("read a key")?
                    && key.kind == KeyEventKind::Press
                {
                    model.key(key.code, key.modifiers);
                }
                // A shorter interval counts at once.
                next = next.min(Instant::now() + model.interval);
            }
            if Instant::now() >= next {
                next = Instant::now() + model.interval;
                if !model.is_paused {
                    model.feed(live::sample(maps, started.elapsed())?);
                }
            }
        }
        Ok(())
    })
}

fn interval(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=3_600.0).contains(&seconds) => Ok(seconds),
        _ => Err(format!("{text:?}: must be seconds, from 0.1 to 3600")),
    }
}

// === impl SortBy ===

impl From<SortBy> for Sort {
    fn from(by: SortBy) -> Self {
        match by {
            SortBy::New => Self::New,
            SortBy::Flows => Self::Flows,
            SortBy::Bytes => Self::Bytes,
            SortBy::Name => Self::Name,
        }
    }
}
