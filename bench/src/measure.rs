//! Several things measured side by side: round after round, each round in an order of its own that is drawn at random, so
//! that no side always comes after the same other one. Each is measured once in a round, and once more the first: that
//! second sample is in no ratio but its own to the first sample, which shows the noise of exactly such ratios.

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::run::Side;
use crate::stats::{Estimate, Latency, Random};

/// Fewer rounds than this have no spread.
pub const FEWEST: usize = 3;

/// What one measurement of one side found.
pub struct Sample {
    pub value: f64,
    /// Of its single transactions, in nanoseconds.
    pub latency: Option<Histogram<u64>>,
}

/// What a contender is a ratio to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// The first contender; the first itself is then a ratio to nothing.
    First,
    /// The contender of this name; to nothing when there is none.
    Of(&'static str),
    /// To nothing.
    Nothing,
}

/// One of the things compared.
pub struct Contender<'a> {
    pub name: String,
    base: Base,
    pub measure: Box<dyn FnMut() -> Result<Sample> + 'a>,
}

/// How often.
#[derive(Clone, Copy, Debug, Serialize)]
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
    /// Whom no figure is of, because it failed.
    pub failed: Vec<(String, anyhow::Error)>,
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
        Self { name: name.into(), base: Base::First, measure: Box::new(measure) }
    }

    pub fn over(self, base: Base) -> Self {
        Self { base, ..self }
    }
}

// === impl Sample ===

impl From<f64> for Sample {
    fn from(value: f64) -> Self {
        Self { value, latency: None }
    }
}

/// Measures all of them. None when it was stopped before [`FEWEST`] rounds were complete; the rounds that were complete
/// count otherwise. Who fails once is out; the others go on.
///
/// # Errors
/// When none of them can be measured: what the first said, with its name.
pub fn interleave(plan: Plan, contenders: &mut [Contender<'_>], watch: &mut dyn Watch) -> Result<Option<Measured>> {
    ensure!(!contenders.is_empty(), "nothing to measure");
    // The last slot is the first contender once more.
    let slots = contenders.len() + 1;
    let mut columns: Vec<Column> = (0..slots).map(|_| Column::default()).collect();
    let mut failed: Vec<(usize, anyhow::Error)> = Vec::new();
    let mut random = Random::seeded();
    let total = (plan.warm_up + plan.runs) * slots;
    let mut done = 0;
    'rounds: for round in 0..plan.warm_up + plan.runs {
        let mut found: Vec<Option<Sample>> = (0..slots).map(|_| None).collect();
        for slot in order(slots, &mut random) {
            if watch.stopped() {
                break 'rounds;
            }
            let number = slot % contenders.len();
            if failed.iter().all(|(failed, _)| *failed != number) {
                match (contenders[number].measure)() {
                    Ok(sample) => found[slot] = Some(sample),
                    Err(_) if watch.stopped_meanwhile() => break 'rounds,
                    Err(error) => failed.push((number, error)),
                }
            }
            done += 1;
            watch.step(done, total);
        }
        if round >= plan.warm_up {
            for (column, sample) in columns.iter_mut().zip(found) {
                sample.map_or(Ok(()), |sample| column.add(sample))?;
            }
        }
        if failed.len() == contenders.len() {
            break;
        }
    }
    for (number, _) in &failed {
        let its = columns.iter_mut().enumerate().filter(|(slot, _)| slot % contenders.len() == *number);
        its.for_each(|(_, column)| *column = Column::default());
    }
    let mut failed: Vec<(String, anyhow::Error)> =
        failed.into_iter().map(|(number, error)| (contenders[number].name.clone(), error)).collect();
    if failed.len() == contenders.len() {
        let (name, error) = failed.remove(0);
        return Err(error.context(name));
    }
    let counted = columns.iter().map(|column| column.values.len()).max().unwrap_or(0);
    if counted < FEWEST.min(plan.runs) {
        if failed.is_empty() {
            return Ok(None);
        }
        columns.fill_with(Column::default);
    }
    Ok(Some(Measured { failed, ..measured(contenders, &columns) }))
}

/// Who is measured when in one round.
fn order(slots: usize, random: &mut Random) -> Vec<usize> {
    let mut order: Vec<usize> = (0..slots).collect();
    random.shuffle(&mut order);
    order
}

/// `columns`: one for each contender, and the second of the first contender.
fn measured(contenders: &[Contender<'_>], columns: &[Column]) -> Measured {
    let mut rates = compared(contenders, columns, |column| &column.values);
    for side in &mut rates.sides {
        let its = contenders.iter().zip(columns).find(|(contender, _)| contender.name == side.name);
        side.latency = its.and_then(|(_, column)| column.latency.as_ref()).and_then(Latency::of);
    }
    let medians = compared(contenders, columns, |column| &column.medians);
    let medians = (medians.sides.len() == rates.sides.len()).then_some(medians);
    Measured { rates, failed: Vec::new(), medians }
}

/// One figure of each round. Sides that have none are left out.
fn compared(contenders: &[Contender<'_>], columns: &[Column], pick: fn(&Column) -> &Vec<f64>) -> Compared {
    let noise = match (columns.first(), columns.get(contenders.len())) {
        (Some(first), Some(again)) => Estimate::of_ratios(pick(again), pick(first)),
        _ => None,
    };
    let sides = contenders.iter().zip(columns).enumerate().filter_map(|(index, (contender, column))| {
        let values = pick(column).clone();
        let compared = base(contenders, index).and_then(|base| {
            let ratio = Estimate::of_ratios(&values, pick(columns.get(base)?))?;
            Some((contenders[base].name.clone(), ratio))
        });
        let (base, ratio) = compared.unzip();
        Some(Side {
            name: contender.name.clone(),
            estimate: Estimate::of(&values)?,
            base,
            ratio,
            latency: None,
            of: None,
            values,
        })
    });
    Compared { sides: sides.collect(), noise }
}

/// Number of the contender that this one is a ratio to.
fn base(contenders: &[Contender<'_>], index: usize) -> Option<usize> {
    let base = match contenders[index].base {
        Base::First => Some(0),
        Base::Of(name) => contenders.iter().position(|contender| contender.name == name),
        Base::Nothing => None,
    };
    base.filter(|base| *base != index)
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
