//! Runs cases: each on a fresh node, every packet judged, a failure shrunk to what it needs.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use thalweg_abi::{Counter, CtState, DropReason};

use crate::{
    compose,
    model::{NODE, POD_A, POD_B},
    oracle::{Case, Complaints},
    script::{self, Frame, Step, Way},
    seeds::{Seed, hex},
    wire::{self, ACK, Piece, Reading, SYN},
    world::{DROP, Run, Snapshot, World},
};

/// What no program may need for one packet, with room for a machine that is busy.
const LONGEST: Duration = Duration::from_secs(5);
/// How often a step that is left out is tried: ports and endpoints are chosen at random by the kernel.
const TRIES: usize = 3;

/// What was reached.
#[derive(Default)]
pub struct Reach {
    pub cases: u64,
    pub packets: u64,
    pub runs: u64,
    pub refused_by_kernel: u64,
    pub answered: u64,
    pub verdicts: BTreeMap<i32, u64>,
    pub counters: BTreeMap<&'static str, u64>,
    pub drops: BTreeMap<&'static str, u64>,
}

/// A promise that was broken, at which hook, by which frame.
pub struct Failure {
    pub way: Way,
    pub input: Vec<u8>,
    pub output: Vec<u8>,
    pub verdict: i32,
    pub complaints: Complaints,
}

pub struct Fuzzer<'a> {
    pub world: World,
    pub seeds: &'a [Seed],
    pub reach: Reach,
}

// === impl Reach ===

impl Reach {
    fn add(&mut self, before: &Snapshot, after: &Snapshot, verdict: i32) {
        self.runs += 1;
        *self.verdicts.entry(verdict).or_default() += 1;
        for counter in Counter::ALL {
            let index = *counter as usize;
            *self.counters.entry(counter.name()).or_default() += after.counters[index] - before.counters[index];
        }
        for reason in DropReason::ALL {
            let index = *reason as usize;
            *self.drops.entry(reason.name()).or_default() += after.drops[index] - before.drops[index];
        }
    }
}

impl std::fmt::Display for Reach {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{} cases, {} packets, {} runs of programs", self.cases, self.packets, self.runs)?;
        writeln!(f, "verdicts {:?}, answered by their receivers {}", self.verdicts, self.answered)?;
        let seen = |counts: &BTreeMap<&str, u64>| {
            counts.iter().filter(|(_, count)| **count != 0).map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>()
        };
        writeln!(f, "events: {}", seen(&self.counters).join(", "))?;
        write!(f, "drops: {}", seen(&self.drops).join(", "))
    }
}

// === impl Failure ===

impl Failure {
    /// The same for failures that are likely to have one cause: the hook and the words of the first complaint.
    pub fn kind(&self) -> String {
        let words = self.complaints[0].split(|c: char| c.is_ascii_digit() || c == '{').next().unwrap_or_default();
        format!("{} {words}", self.way)
    }
}

// === impl Fuzzer ===

impl Fuzzer<'_> {
    /// The first broken promise of a case.
    pub fn play(&mut self, steps: &[Step]) -> Result<Option<Failure>> {
        self.world.reset()?;
        self.reach.cases += 1;
        let mut before = self.world.snapshot(None)?;
        for step in steps {
            match step {
                Step::State(state) => {
                    self.world.change(*state)?;
                    before = self.world.snapshot(None)?;
                }
                Step::Frame(frame) => {
                    let bytes = frame.bytes(self.seeds);
                    self.reach.packets += 1;
                    for way in &frame.ways {
                        if let Some(failure) = self.send(*way, &bytes, &mut before, frame.answered)? {
                            return Ok(Some(failure));
                        }
                    }
                }
            }
        }
        let after = self.world.snapshot(None)?;
        let same = (after.fragments, after.held) == (before.fragments, before.held);
        ensure!(same, "whole packets have changed the tables of fragments: {}", script::print(steps, self.seeds));
        Ok(None)
    }

    fn send(&mut self, way: Way, input: &[u8], before: &mut Snapshot, answered: bool) -> Result<Option<Failure>> {
        if wire::be16(input, 12) == 0x86dd && !self.world.has_v6() {
            return Ok(None);
        }
        let Some((run, mut complaints)) = self.judged(way, input, before)? else { return Ok(None) };
        if complaints.is_empty() && answered && run.verdict != DROP {
            complaints = self.answer(input, &run, before)?;
        }
        if complaints.is_empty() {
            return Ok(None);
        }
        Ok(Some(Failure { way, input: input.to_vec(), output: run.frame, verdict: run.verdict, complaints }))
    }

    /// Runs one packet; `before` becomes what the tables say afterwards.
    fn judged(&mut self, way: Way, input: &[u8], before: &mut Snapshot) -> Result<Option<(Run, Complaints)>> {
        let started = Instant::now();
        let Some(run) = self.world.run(way, input)? else {
            self.reach.refused_by_kernel += 1;
            return Ok(None);
        };
        let took = started.elapsed();
        // The tables of fragments are large, and only fragments may change them.
        let is_whole = matches!(wire::read_frame(input), Reading::Packet(packet) if packet.piece == Piece::Whole);
        let after = self.world.snapshot(is_whole.then_some(&*before))?;
        let World { services, admits, .. } = &self.world;
        let mut complaints = Case { way, input, run: &run, before, after: &after, services, admits: *admits }.judge();
        if took > LONGEST {
            complaints.push(format!("took {took:?}"));
        }
        self.reach.add(before, &after, run.verdict);
        *before = after;
        Ok(Some((run, complaints)))
    }

    /// Lets the one that a translated packet went to answer: the answer must reach the sender as if from whom it dialled.
    fn answer(&mut self, input: &[u8], run: &Run, before: &mut Snapshot) -> Result<Complaints> {
        let (Reading::Packet(sent), Reading::Packet(got)) = (wire::read_frame(input), wire::read_frame(&run.frame)) else {
            return Ok(Complaints::new());
        };
        let Some(entry) = before.flows.get(&sent.flow).copied() else { return Ok(Complaints::new()) };
        if sent.piece != Piece::Whole || entry.is_reply || entry.to != got.flow {
            return Ok(Complaints::new());
        }
        let flags = if entry.state == CtState::CLOSED { ACK } else { SYN | ACK };
        let frame = compose::minimal(got.flow.reversed(), flags);
        let way = match got.flow.dst {
            pod if POD_A.is(pod) => Way::FromPodA,
            pod if POD_B.is(pod) => Way::FromPodB,
            node if NODE.is(node) => Way::ToPodA,
            _ => Way::FromWire,
        };
        let Some((run, mut complaints)) = self.judged(way, &frame, before)? else { return Ok(Complaints::new()) };
        self.reach.answered += 1;
        // A sender that has no route, or a pod that is gone and so a forger.
        if run.verdict == DROP {
            return Ok(complaints);
        }
        match wire::read_frame(&run.frame) {
            Reading::Packet(back) if back.flow == sent.flow.reversed() => {}
            Reading::Packet(back) => complaints.push(format!(
                "answered by {}, {:?} comes back as {:?} (state {:?})",
                hex(&frame),
                sent.flow,
                back.flow,
                entry.state
            )),
            _ => complaints.push("the translated answer is malformed".to_owned()),
        }
        Ok(complaints)
    }

    /// The shortest case that fails, and how it does: steps, hooks and mutations are left out one by one.
    pub fn shrink(&mut self, steps: &[Step], failure: Failure) -> Result<(Vec<Step>, Failure)> {
        let (mut steps, mut failure) = (steps.to_vec(), failure);
        loop {
            let mut shorter = None;
            for candidate in smaller(&steps) {
                if let Some(found) = self.fails(&candidate)? {
                    shorter = Some((candidate, found));
                    break;
                }
            }
            match shorter {
                Some((candidate, found)) => (steps, failure) = (candidate, found),
                None => return Ok((steps, failure)),
            }
        }
    }

    fn fails(&mut self, steps: &[Step]) -> Result<Option<Failure>> {
        for _ in 0..TRIES {
            if let Some(failure) = self.play(steps)? {
                return Ok(Some(failure));
            }
        }
        Ok(None)
    }

    /// What a person needs to see the failure again.
    pub fn report(&self, name: &str, steps: &[Step], failure: &Failure) -> String {
        let mut text = format!("{name}, at {}, verdict {}:\n", failure.way, failure.verdict);
        for complaint in &failure.complaints {
            let _ = writeln!(text, "  - {complaint}");
        }
        let _ = writeln!(text, "  in  {}\n  out {}", hex(&failure.input), hex(&failure.output));
        let script = script::print(steps, self.seeds);
        let _ = write!(text, "the case, shrunk (keep it as tests/fuzz/found/NAME.case):\n{script}");
        let _ = write!(text, "again: THALWEG_FUZZ_CASE={name}, or cargo xtask fuzz --case {name} (or the path of a script)");
        text
    }
}

/// Cases that are a little smaller, the smallest first.
fn smaller(steps: &[Step]) -> Vec<Vec<Step>> {
    let mut candidates = Vec::new();
    for half in [0..steps.len() / 2, steps.len() / 2..steps.len()] {
        if steps.len() > 3 {
            let mut fewer = steps.to_vec();
            fewer.drain(half);
            candidates.push(fewer);
        }
    }
    for at in 0..steps.len() {
        let mut fewer = steps.to_vec();
        fewer.remove(at);
        candidates.push(fewer);
    }
    for (at, step) in steps.iter().enumerate() {
        let Step::Frame(frame) = step else { continue };
        let mut with = |frame: Frame| {
            let mut other = steps.to_vec();
            other[at] = Step::Frame(frame);
            candidates.push(other);
        };
        for way in 0..frame.ways.len() {
            let mut fewer = frame.clone();
            fewer.ways.remove(way);
            with(fewer);
        }
        for mutation in 0..frame.mutations.len() {
            let mut fewer = frame.clone();
            fewer.mutations.remove(mutation);
            with(fewer);
        }
        if frame.answered {
            with(Frame { answered: false, ..frame.clone() });
        }
    }
    candidates
}
