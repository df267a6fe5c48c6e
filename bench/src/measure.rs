//! Several things measured side by side: round after round, in another order each time, the first of them twice in each
//! round. What drifts or what favours a place in the order then falls on all of them alike, and the first against itself
//! shows the noise.

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;

use crate::run::Side;
use crate::stats::{Estimate, Latency};

/// Fewer rounds than this have no spread.
pub const FEWEST: usize = 3;

/// What one measurement of one side found.
pub struct Sample {
    pub value: f64,
    /// Of its single transactions, in nanoseconds.
    pub latency: Option<Histogram<u64>>,
}

/// One of the things compared.
pub struct Contender<'a> {
    pub name: String,
    pub measure: Box<dyn FnMut() -> Result<Sample> + 'a>,
}

/// How often.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Rounds that count.
    pub runs: usize,
    /// Rounds before them that do not.
    pub warm_up: usize,
}

/// Who is told of each measurement, and may end it all.
pub trait Watch {
    /// `done` of `total` measurements of this case.
    fn step(&mut self, done: usize, total: usize);
    /// Whether no further measurement shall be made.
    fn stopped(&self) -> bool;
    /// The same, asked after a measurement failed: perhaps by what stops us.
    fn stopped_meanwhile(&self) -> bool {
        self.stopped()
    }
}

pub struct Measured {
    pub rates: Compared,
    /// The median of single transactions in microseconds, where all sides have such: less moved by what else the machine
    /// does than how many there were.
    pub medians: Option<Compared>,
}

pub struct Compared {
    pub sides: Vec<Side>,
    /// The first side against itself.
    pub noise: Option<Estimate>,
}

/// What one contender found, round by round.
#[derive(Default)]
struct Column {
    values: Vec<f64>,
    medians: Vec<f64>,
    latency: Option<Histogram<u64>>,
}

// === impl Contender ===

impl<'a> Contender<'a> {
    pub fn new(name: impl Into<String>, measure: impl FnMut() -> Result<Sample> + 'a) -> Self {
        Self { name: name.into(), measure: Box::new(measure) }
    }
}

// === impl Sample ===

impl From<f64> for Sample {
    fn from(value: f64) -> Self {
        Self { value, latency: None }
    }
}

/// Measures all of them. None when it was stopped before [`FEWEST`] rounds were complete; the rounds that were complete
/// count otherwise.
///
/// # Errors
/// When one of them cannot be measured, with its name.
pub fn interleave(plan: Plan, contenders: &mut [Contender<'_>], watch: &mut dyn Watch) -> Result<Option<Measured>> {
    ensure!(!contenders.is_empty(), "nothing to measure");
    let slots = slots(contenders.len());
    let mut columns: Vec<Column> = slots.iter().map(|_| Column::default()).collect();
    let total = (plan.warm_up + plan.runs) * slots.len();
    let mut done = 0;
    'rounds: for round in 0..plan.warm_up + plan.runs {
        let mut found: Vec<Option<Sample>> = slots.iter().map(|_| None).collect();
        for position in 0..slots.len() {
            if watch.stopped() {
                break 'rounds;
            }
            let slot = (position + round) % slots.len();
            let contender = &mut contenders[slots[slot]];
            match (contender.measure)() {
                Ok(sample) => found[slot] = Some(sample),
                Err(_) if watch.stopped_meanwhile() => break 'rounds,
                Err(error) => return Err(error).with_context(|| contender.name.clone()),
            }
            done += 1;
            watch.step(done, total);
        }
        if round >= plan.warm_up {
            for (column, sample) in columns.iter_mut().zip(found.into_iter().flatten()) {
                column.add(sample)?;
            }
        }
    }
    if columns.iter().any(|column| column.values.len() < FEWEST.min(plan.runs)) {
        return Ok(None);
    }
    measured(contenders, &slots, columns).map(Some)
}

/// Who is measured when in the first round: the first contender again in the middle of the others.
fn slots(contenders: usize) -> Vec<usize> {
    let mut slots: Vec<usize> = (0..contenders).collect();
    slots.insert(contenders.div_ceil(2), 0);
    slots
}

fn measured(contenders: &[Contender<'_>], slots: &[usize], columns: Vec<Column>) -> Result<Measured> {
    let mut own: Vec<Vec<Column>> = contenders.iter().map(|_| Vec::new()).collect();
    for (slot, column) in slots.iter().zip(columns) {
        own[*slot].push(column);
    }
    let mut rates = compared(contenders, &own, |column| &column.values);
    for (side, columns) in rates.sides.iter_mut().zip(&own) {
        side.latency = all(columns)?.as_ref().and_then(Latency::of);
    }
    let medians = compared(contenders, &own, |column| &column.medians);
    Ok(Measured { rates, medians: (medians.sides.len() == contenders.len()).then_some(medians) })
}

/// One figure of each round. Sides that have none are left out.
fn compared(contenders: &[Contender<'_>], own: &[Vec<Column>], pick: fn(&Column) -> &Vec<f64>) -> Compared {
    let noise = match own.first().map(Vec::as_slice) {
        Some([first, again]) => Estimate::of_ratios(pick(again), pick(first)),
        _ => None,
    };
    let means: Vec<Vec<f64>> =
        own.iter().map(|columns| mean(&columns.iter().map(|column| pick(column).as_slice()).collect::<Vec<_>>())).collect();
    let base = means.first().cloned().unwrap_or_default();
    let sides = contenders.iter().zip(means).enumerate().filter_map(|(index, (contender, values))| {
        Some(Side {
            name: contender.name.clone(),
            estimate: Estimate::of(&values)?,
            ratio: if index == 0 { None } else { Estimate::of_ratios(&values, &base) },
            latency: None,
            values,
        })
    });
    Compared { sides: sides.collect(), noise }
}

/// Of each round, over all columns.
fn mean(columns: &[&[f64]]) -> Vec<f64> {
    let rounds = columns.iter().map(|column| column.len()).min().unwrap_or(0);
    (0..rounds).map(|round| columns.iter().map(|column| column[round]).sum::<f64>() / columns.len() as f64).collect()
}

/// All latencies of one contender together.
fn all(columns: &[Column]) -> Result<Option<Histogram<u64>>> {
    let mut all: Option<Histogram<u64>> = None;
    for latency in columns.iter().filter_map(|column| column.latency.as_ref()) {
        match &mut all {
            Some(all) => add(all, latency)?,
            None => all = Some(latency.clone()),
        }
    }
    Ok(all)
}

fn add(all: &mut Histogram<u64>, one: &Histogram<u64>) -> Result<()> {
    all.add(one).context("latencies of other bounds than before")
}

// === impl Column ===

impl Column {
    fn add(&mut self, sample: Sample) -> Result<()> {
        self.values.push(sample.value);
        let Some(latency) = sample.latency else { return Ok(()) };
        self.medians.push(latency.value_at_quantile(0.5) as f64 / 1000.0);
        match &mut self.latency {
            Some(all) => add(all, &latency),
            None => {
                self.latency = Some(latency);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests;
