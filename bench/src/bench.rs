//! What a scenario works with: the settings, the run that it fills, the bar that shows how far it is, and the labs.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use thalweg_lab::signals::Signals;

use crate::labs::{Labs, Wanted};
use crate::measure::{Contender, Measured, Watch, interleave};
use crate::run::{Better, Measurement, Missing, Run, Side};
use crate::scenario::on_path;
use crate::settings::Settings;
use crate::stats::Estimate;

/// The bar's steps of one case.
pub const CASE: u64 = 1_000;

/// Set by Ctrl-C.
#[derive(Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

pub struct Bench<'a> {
    pub settings: &'a Settings,
    scenario: &'static str,
    run: &'a mut Run,
    bar: &'a ProgressBar,
    stop: &'a Stop,
    /// Those of the last scenario: the next may want the same.
    labs: &'a mut Option<Labs>,
    /// Cases of this scenario that are over, and where the bar was before them.
    cases: Cell<u64>,
    start: u64,
}

/// What is measured, of which a scenario has several.
#[derive(Clone, Debug)]
pub struct Case {
    labels: BTreeMap<String, String>,
    unit: &'static str,
    better: Better,
}

/// So many of so many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Count {
    pub side: &'static str,
    pub count: u64,
    pub of: u64,
}

struct Follow<'a> {
    bar: &'a ProgressBar,
    stop: &'a Stop,
    from: u64,
}

// === impl Stop ===

impl Stop {
    /// From now on Ctrl-C and SIGTERM set this, and no longer end the process: what is done is written, and labs are removed.
    ///
    /// # Errors
    /// When signals cannot be handled.
    pub fn listen() -> Result<Self> {
        let stop = Self::default();
        let (signals, set) = (Signals::listen()?, stop.clone());
        std::thread::spawn(move || {
            while let Ok(came) = signals.wait(Duration::from_secs(3600)) {
                if came && !set.0.swap(true, Ordering::Relaxed) {
                    eprintln!("stopping: what is measured is written, and the labs are removed");
                }
            }
        });
        Ok(stop)
    }

    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A bar over this many cases.
pub fn bar(cases: usize) -> ProgressBar {
    let bar = ProgressBar::new(cases as u64 * CASE);
    if let Ok(style) = ProgressStyle::with_template("{bar:20} {percent:>3} %, {eta} left: {wide_msg}") {
        bar.set_style(style);
    }
    bar
}

// === impl Case ===

impl Case {
    pub fn new(unit: &'static str, better: Better) -> Self {
        Self { labels: BTreeMap::new(), unit, better }
    }

    /// What tells this case from the others.
    pub fn with(mut self, label: &str, value: impl ToString) -> Self {
        self.labels.insert(label.to_owned(), value.to_string());
        self
    }
}

// === impl Count ===

impl Count {
    /// One more round.
    pub fn add(&mut self, counted: u64, others: u64) {
        self.count += counted;
        self.of += counted + others;
    }
}

// === impl Bench ===

impl<'a> Bench<'a> {
    pub fn new(
        settings: &'a Settings,
        scenario: &'static str,
        run: &'a mut Run,
        bar: &'a ProgressBar,
        stop: &'a Stop,
        labs: &'a mut Option<Labs>,
    ) -> Self {
        Self { settings, scenario, run, bar, stop, labs, cases: Cell::new(0), start: bar.position() }
    }

    pub fn stopped(&self) -> bool {
        self.stop.is_set()
    }

    /// What is going on now; on a terminal beside the bar, otherwise a line.
    pub fn say(&self, text: impl Into<String>) {
        let text = format!("{}: {}", self.scenario, text.into());
        if self.bar.is_hidden() {
            eprintln!("{text}");
        }
        self.bar.set_message(text);
    }

    /// Something that cannot be compared with: said now, and written into the run.
    pub fn missing(&mut self, side: &str, why: impl Into<String>) {
        self.without(Missing { scenario: self.scenario.to_owned(), side: side.to_owned(), why: why.into(), failed: false });
    }

    /// Something that was to be measured and could not: said now, written into the run, and the run is not complete.
    pub fn failed(&mut self, side: &str, error: &anyhow::Error) {
        let why = format!("failed: {error:#}");
        self.without(Missing { scenario: self.scenario.to_owned(), side: side.to_owned(), why, failed: true });
    }

    fn without(&mut self, missing: Missing) {
        if !self.run.missing.contains(&missing) {
            let Missing { scenario, side, why, .. } = &missing;
            self.bar.suspend(|| eprintln!("{scenario}: without {side}: {why}"));
            self.run.missing.push(missing);
        }
    }

    /// For a scenario that knows IPv4 only: whether that is wanted; says that IPv6 is missing when it was.
    pub fn has_ipv4_only(&mut self) -> bool {
        if self.settings.families.contains(&6) {
            self.missing("IPv6", "this scenario measures IPv4 only");
        }
        self.settings.families.contains(&4)
    }

    /// Whether a lab in iptables mode shall be beside; says why not when it was wanted.
    pub fn compares_iptables(&mut self, services: u32) -> bool {
        let most = self.settings.iptables_most;
        if !self.settings.wants("iptables") {
            return false;
        }
        if !on_path("iptables-restore") {
            self.missing("iptables", "it is not installed: try `apt-get install iptables`");
            return false;
        }
        if services > most {
            self.missing("iptables", format!("{services} services are more than --iptables-most {most}"));
        }
        services <= most
    }

    /// Measures the contenders side by side, each compared with what it names.
    ///
    /// # Errors
    /// When none of them can be measured. One that cannot is written down, and the others go on.
    pub fn compare(&mut self, case: Case, mut contenders: Vec<Contender<'_>>) -> Result<()> {
        self.say(words(&case.labels));
        let from = self.start + self.cases.get() * CASE;
        let mut follow = Follow { bar: self.bar, stop: self.stop, from };
        let measured = interleave(self.settings.plan, &mut contenders, &mut follow);
        self.over();
        if let Some(Measured { rates, failed, medians }) = measured? {
            for (side, error) in failed {
                let what = words(&case.labels);
                self.failed(&side, &error.context(what));
            }
            let median = Case { unit: "µs, median", better: Better::Lower, ..case.clone() };
            // What is a time already needs no other.
            let medians = medians.filter(|_| case.better == Better::Higher);
            self.write(case, rates.sides, rates.noise);
            if let Some(medians) = medians {
                self.write(median, medians.sides, medians.noise);
            }
        }
        Ok(())
    }

    /// Takes in what was measured elsewhere, or what no ratio is made of: each side's values.
    pub fn figures(&mut self, case: Case, sides: Vec<(&str, Vec<f64>)>) {
        let sides = sides.into_iter().filter_map(|(name, values)| {
            let estimate = Estimate::of(&values)?;
            Some(Side { name: name.to_owned(), estimate, values, base: None, ratio: None, latency: None, of: None })
        });
        let sides = sides.collect();
        self.write(case, sides, None);
    }

    /// Takes in what was counted over all rounds: of each side how much of how many.
    pub fn counts(&mut self, case: Case, sides: &[Count]) {
        // Of nothing that was tried nothing is known.
        let sides = sides.iter().filter(|count| count.of > 0).filter_map(|Count { side, count, of }| {
            let values = vec![*count as f64];
            let estimate = Estimate::of(&values)?;
            let (name, of) = ((*side).to_owned(), Some(*of as f64));
            Some(Side { name, estimate, values, base: None, ratio: None, latency: None, of })
        });
        let sides = sides.collect();
        self.write(case, sides, None);
    }

    /// A case is over, measured or not.
    pub fn over(&self) {
        self.cases.set(self.cases.get() + 1);
        self.bar.set_position(self.start + self.cases.get() * CASE);
    }

    fn write(&mut self, case: Case, sides: Vec<Side>, noise: Option<Estimate>) {
        let Case { labels, unit, better } = case;
        if !sides.is_empty() {
            let scenario = self.scenario.to_owned();
            self.run.measurements.push(Measurement { scenario, case: labels, unit: unit.to_owned(), better, sides, noise });
        }
    }

    /// Labs as they are wanted: the last ones, or new ones in their place. They go back by [`Bench::give_back`].
    ///
    /// # Errors
    /// When ours does not start. Another that does not is written down, and is missing.
    pub fn labs(&mut self, wanted: Wanted) -> Result<Labs> {
        if let Some(labs) = self.labs.take() {
            if labs.are(&wanted) {
                return Ok(labs);
            }
            labs.remove()?;
        }
        self.say(format!("starting labs with {} services", wanted.services));
        let (labs, failed) = Labs::start(self.settings, wanted)?;
        failed.iter().for_each(|(side, error)| self.failed(side, error));
        Ok(labs)
    }

    pub fn give_back(&mut self, labs: Labs) {
        *self.labs = Some(labs);
    }

    /// Removes what labs there are: before something that is measured alone.
    ///
    /// # Errors
    /// Lists what stays behind.
    pub fn alone(&mut self) -> Result<()> {
        self.labs.take().map_or(Ok(()), Labs::remove)
    }
}

// === impl Follow ===

impl Watch for Follow<'_> {
    fn step(&mut self, done: usize, total: usize) {
        self.bar.set_position(self.from + CASE * done as u64 / total.max(1) as u64);
    }

    fn stopped(&self) -> bool {
        self.stop.is_set()
    }

    /// Ctrl-C reaches the probe as well, and may do so before it reaches us.
    fn stopped_meanwhile(&self) -> bool {
        std::thread::sleep(Duration::from_millis(100));
        self.stopped()
    }
}

fn words(labels: &BTreeMap<String, String>) -> String {
    labels.iter().map(|(key, value)| format!("{key} {value}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::tests::sample;

    fn settings() -> Settings {
        let args = crate::settings::RunArgs { lab: "bench".to_owned(), ..Default::default() };
        Settings::new(&args, 2).expect("settings")
    }

    #[test]
    fn a_scenario_of_ipv4_says_that_ipv6_is_missing_and_does_not_measure_in_its_place() {
        for (families, measured, missing) in [(vec![4], true, 0), (vec![4, 6], true, 1), (vec![6], false, 1)] {
            let mut settings = settings();
            settings.families = families;
            let (mut run, mut labs) = (sample(1.0, 0.0), None);
            run.missing.clear();
            let (bar, stop) = (ProgressBar::hidden(), Stop::default());
            let mut bench = Bench::new(&settings, "dns", &mut run, &bar, &stop, &mut labs);
            assert_eq!(bench.has_ipv4_only(), measured);
            assert_eq!(run.missing.iter().filter(|missing| missing.side == "IPv6").count(), missing);
        }
    }

    #[test]
    fn counts_are_sums_over_all_rounds_with_how_many_there_were() {
        let mut count = Count { side: "tc", count: 0, of: 0 };
        // A median of these would be 0.
        for failed in [0, 0, 1, 0, 0] {
            count.add(failed, 100);
        }
        let (settings, bar, stop) = (settings(), ProgressBar::hidden(), Stop::default());
        let (mut run, mut labs) = (sample(1.0, 0.0), None);
        run.measurements.clear();
        let mut bench = Bench::new(&settings, "restart", &mut run, &bar, &stop, &mut labs);
        let untried = Count { side: "nodeport", count: 0, of: 0 };
        bench.counts(Case::new("failed requests", Better::Zero).with("end", "kill -9"), &[count, untried]);
        let text = crate::table::run(&run);
        assert!(text.contains("| kill -9 | 1 of 501 |"), "{text}");
    }
}
