//! What a run leaves behind, as JSON: the machine, the options, and each measurement with all its sides. Reports, comparisons
//! and the tables of docs/NUMBERS.md are made from it, on any machine.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::stats::{Estimate, Latency};

/// Raised when a field changes its meaning.
pub const FORMAT: u32 = 2;
/// A machine on which the same side differs from itself by more than this is noisy.
pub const NOISY: f64 = 0.05;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    pub format: u32,
    /// Seconds since the epoch.
    pub started: u64,
    /// Of thalweg-bench.
    pub version: String,
    /// That this program was built from, or `unknown`.
    pub commit: String,
    /// What the programs beside us say of themselves.
    pub versions: BTreeMap<String, String>,
    /// What the options came to, with everything that was not said.
    pub settings: serde_json::Value,
    /// The command line.
    pub command: Vec<String>,
    pub machine: Machine,
    pub measurements: Vec<Measurement>,
    /// Sides and scenarios that could not be measured, and why.
    pub missing: Vec<Missing>,
    /// False until the end, and after it when the run was interrupted, or something failed.
    pub complete: bool,
}

/// One case of a scenario: all its sides, measured in one go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    pub scenario: String,
    /// What tells this case from the scenario's others, such as `services: 10000`.
    pub case: BTreeMap<String, String>,
    /// Such as `per second`.
    pub unit: String,
    pub better: Better,
    /// The first is the one that is measured twice in each round. What each is compared with, it says itself.
    pub sides: Vec<Side>,
    /// The second sample of the first side in each round to its first.
    pub noise: Option<Estimate>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Side {
    pub name: String,
    pub values: Vec<f64>,
    pub estimate: Estimate,
    /// Name of the side of this case that this one is compared with.
    pub base: Option<String>,
    /// To `base`, round by round.
    pub ratio: Option<Estimate>,
    pub latency: Option<Latency>,
    /// Where something is counted: of how many.
    pub of: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    Higher,
    Lower,
    /// Counted over a whole run, no median: 0 is what is to be reached.
    Zero,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    pub scenario: String,
    pub side: String,
    pub why: String,
    /// It was tried: the run is not complete without it.
    pub failed: bool,
}

// === impl Run ===

impl Run {
    /// # Errors
    /// When there is no such file, or it is not a run's JSON, or one of another format.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("read the run {}", path.display()))?;
        let run: Self = serde_json::from_str(&text)
            .with_context(|| format!("{} is not the JSON of `thalweg bench run`", path.display()))?;
        ensure!(run.format == FORMAT, "{} is of format {}: this program reads {FORMAT}", path.display(), run.format);
        Ok(run)
    }

    /// The first time: where nothing is yet, for what took long to measure is not to be lost to a new run that may never
    /// end.
    ///
    /// # Errors
    /// When there is such a file, or it cannot be written.
    pub fn begin(&self, path: &Path) -> Result<()> {
        ensure!(!path.exists(), "{} is there already: remove it, or say another --out", path.display());
        self.write(path)
    }

    /// In words: `unbound: Version 1.17.1, …`.
    pub fn beside(&self) -> String {
        let words: Vec<String> = self.versions.iter().map(|(name, version)| format!("{name}: {version}")).collect();
        words.join(", ")
    }

    /// Says whether all that was to be measured is.
    pub fn end(&mut self, stopped: bool) {
        self.complete = !stopped && !self.missing.iter().any(|missing| missing.failed);
    }

    /// Written beside, then renamed: a reader sees a whole run.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        }
        let beside = path.with_extension("json.new");
        fs::write(&beside, serde_json::to_string_pretty(self)?).with_context(|| format!("write {}", beside.display()))?;
        fs::rename(&beside, path).with_context(|| format!("write {}", path.display()))
    }

    /// How far the same was from the same: the median over the cases, for each unit. Empty when nothing was measured twice.
    pub fn noise(&self) -> BTreeMap<&str, f64> {
        let mut distances: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for measured in &self.measurements {
            if let Some(noise) = measured.noise {
                distances.entry(&measured.unit).or_default().push(noise.distance_from_one());
            }
        }
        let median = |(unit, distances): (_, Vec<f64>)| Some((unit, Estimate::of(&distances)?.median));
        distances.into_iter().filter_map(median).collect()
    }

    /// One sentence on how far this run is to be trusted.
    pub fn verdict(&self) -> String {
        let noise = self.noise();
        if noise.is_empty() {
            return "Nothing was measured twice: the noise of this machine is not known.".to_owned();
        }
        let words: Vec<String> = noise.iter().map(|(unit, noise)| format!("{:.1} % ({unit})", noise * 100.0)).collect();
        let words = words.join(", ");
        match noise.values().any(|noise| *noise > NOISY) {
            true => format!("Noisy: the same side differed from itself by {words}; differences below that mean nothing."),
            false => format!("Quiet: the same side differed from itself by {words}."),
        }
    }
}

// === impl Side ===

impl Side {
    /// Its own figure in words.
    pub fn figure(&self) -> String {
        match self.of {
            Some(of) => format!("{:.0} of {of:.0}", self.estimate.median),
            None => self.estimate.to_string(),
        }
    }
}

// === impl Measurement ===

impl Measurement {
    /// The case in words: `services 10000, family IPv4`.
    pub fn case_text(&self) -> String {
        let words: Vec<String> = self.case.iter().map(|(key, value)| format!("{key} {value}")).collect();
        words.join(", ")
    }

    /// What is the same in two runs that measured the same, the side that comes first among it.
    pub fn key(&self) -> String {
        let first = self.sides.first().map_or("nothing", |side| side.name.as_str());
        format!("{} [{}] {}, beside {first}", self.scenario, self.case_text(), self.unit)
    }
}

#[cfg(test)]
pub mod tests;
