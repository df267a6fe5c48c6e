//! Malformed and hostile packets through every tc program (BPF_PROG_TEST_RUN): nothing crashes, leaks or loops, and what
//! the oracles promise holds after every packet.
//!
//! Seeds are mutated by fields and bytes, tables change between packets, and each case starts on a fresh node. The same
//! seed number gives the same cases. The ordinary run plays so many as take about ten seconds; `cargo xtask fuzz` goes on
//! for as long as it is told. There is no coverage to guide it: the programs run in the kernel, and what they reach is
//! seen by their own counters, which a run must have moved.
//!
//! [`model`] says what there is on the node, and [`world`] makes it. [`cases`] chooses steps, by [`seeds`], [`mutate`] and
//! [`compose`]; [`script`] writes them down; [`run`] plays and shrinks them. [`wire`] reads frames independently of the
//! programs, and [`oracle`] judges.

#[path = "../kit/mod.rs"]
mod kit;

mod cases;
mod compose;
mod model;
mod mutate;
mod oracle;
mod rng;
mod run;
mod script;
mod seeds;
mod wire;
mod world;

use std::{
    collections::BTreeSet,
    env, fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use crate::{
    rng::Rng,
    run::{Fuzzer, Reach},
    seeds::Seed,
    world::{Place, World},
};

/// Of an ordinary run, which is the same every time.
const CASES: u64 = 1_500;
const SEED: u64 = 20_251;
/// So many different failures end a run.
const FAILURES: usize = 8;

/// Events that any run of some seconds must have caused, or it has tested nothing.
const EVENTS: [&str; 10] = [
    "tc_packets",
    "tc_flows",
    "tc_tracked",
    "tc_refused",
    "tc_answered",
    "tc_to_pod",
    "tc_to_wire",
    "tc_port_reallocated",
    "tc_reselected",
    "affinity_hits",
];
const DROPS: [&str; 9] = [
    "malformed",
    "spoofed",
    "no_local_endpoint",
    "conntrack_full",
    "backend_gone",
    "fragment",
    "no_flow",
    "source_range",
    "no_service",
];

/// A number from the environment.
fn number(name: &str) -> Result<Option<u64>> {
    match env::var(name) {
        Ok(text) => Ok(Some(text.parse().with_context(|| format!("{name}={text}: not a number"))?)),
        Err(_) => Ok(None),
    }
}

/// Runs `play` on a node of its own.
fn on_a_node<T: Send>(play: impl FnOnce(&mut Fuzzer<'_>) -> Result<T> + Send) -> Result<T> {
    let seeds = seeds::load()?;
    let place = Place::new()?;
    place.netns.enter(|| {
        let mut fuzzer = Fuzzer { world: World::open(&place)?, seeds: &seeds, reach: Reach::default() };
        play(&mut fuzzer)
    })?
}

/// The case `seed:number`.
fn numbered(seed: u64, number: u64, seeds: &[Seed]) -> Vec<script::Step> {
    cases::case(&mut Rng::new(seed.wrapping_mul(1 << 32).wrapping_add(number)), seeds)
}

/// Plays cases, and keeps one report of each kind of failure.
#[derive(Default)]
struct Failures {
    kinds: BTreeSet<String>,
    reports: Vec<String>,
}

// === impl Failures ===

impl Failures {
    fn play(&mut self, fuzzer: &mut Fuzzer<'_>, name: &str, steps: &[script::Step]) -> Result<()> {
        let Some(failure) = fuzzer.play(steps)? else { return Ok(()) };
        if !self.kinds.insert(failure.kind()) {
            return Ok(());
        }
        println!("{name} failed, and is being shrunk");
        let (steps, failure) = fuzzer.shrink(steps, failure)?;
        self.kinds.insert(failure.kind());
        self.reports.push(fuzzer.report(name, &steps, &failure));
        Ok(())
    }

    fn into_result(self) -> Result<()> {
        ensure!(self.reports.is_empty(), "{}", self.reports.join("\n\n"));
        Ok(())
    }
}

/// What was found once stays right.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn cases_that_were_found_hold() -> Result<()> {
    let mut files = fs::read_dir(seeds::folder("found"))?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "case"));
    files.sort();
    on_a_node(|fuzzer| {
        let mut failures = Failures::default();
        for file in &files {
            let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
            let steps = script::parse(&text).with_context(|| format!("in {}", file.display()))?;
            failures.play(fuzzer, &file.display().to_string(), &steps)?;
        }
        failures.into_result()
    })
}

/// Every seed as it is, at every hook.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn seeds_hold() -> Result<()> {
    on_a_node(|fuzzer| {
        let mut failures = Failures::default();
        for seed in fuzzer.seeds {
            let frame = script::Frame {
                seed: seed.frame.clone(),
                mutations: Vec::new(),
                ways: script::Way::ALL.to_vec(),
                answered: true,
            };
            failures.play(fuzzer, &seed.what, &[script::Step::Frame(frame)])?;
        }
        failures.into_result()
    })
}

/// Mutated packets, on tables that change.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn mutated_packets_hold() -> Result<()> {
    let (seed, seconds) = (number("THALWEG_FUZZ_SEED")?.unwrap_or(SEED), number("THALWEG_FUZZ_SECONDS")?);
    let again = env::var("THALWEG_FUZZ_CASE").ok();
    on_a_node(|fuzzer| {
        let mut failures = Failures::default();
        if let Some(name) = &again {
            let steps = match name.split_once(':') {
                Some((seed, case)) if !name.contains('/') => numbered(seed.parse()?, case.parse()?, fuzzer.seeds),
                _ => script::parse(&fs::read_to_string(name).with_context(|| format!("read {name}"))?)?,
            };
            println!("{}", script::print(&steps, fuzzer.seeds));
            failures.play(fuzzer, name, &steps)?;
            println!("{}", fuzzer.reach);
            return failures.into_result();
        }
        let started = Instant::now();
        for case in 0.. {
            let is_over = seconds.map_or(case >= CASES, |seconds| started.elapsed() > Duration::from_secs(seconds));
            if is_over || failures.reports.len() >= FAILURES {
                break;
            }
            failures.play(fuzzer, &format!("{seed}:{case}"), &numbered(seed, case, fuzzer.seeds))?;
        }
        println!("{}", fuzzer.reach);
        failures.into_result()?;
        let reach = &fuzzer.reach;
        if reach.cases < CASES {
            println!("too few cases to ask what was reached");
            return Ok(());
        }
        let missed: Vec<_> = EVENTS.iter().filter(|name| reach.counters.get(*name).is_none_or(|count| *count == 0)).collect();
        let never: Vec<_> = DROPS.iter().filter(|name| reach.drops.get(*name).is_none_or(|count| *count == 0)).collect();
        ensure!(missed.is_empty() && never.is_empty(), "never reached: events {missed:?}, drops {never:?}");
        ensure!(reach.answered > 100, "only {} translated packets were answered", reach.answered);
        Ok(())
    })
}
