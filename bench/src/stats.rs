//! Statistics of repetitions: medians with bootstrap confidence intervals, ratios of what was measured side by side, and
//! percentiles of latencies.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Resamples of one interval: its ends move by less than a twentieth of its width from one seed to another.
const RESAMPLES: usize = 2_000;
/// Share of the resampled medians outside of the interval, on each side: 95 % are inside.
const TAIL: f64 = 0.025;

/// Of fewer values than this no interval holds the median with 95 % confidence: even from the least to the greatest of five
/// it is inside with 94 % only.
const FEW: usize = 6;

/// A median of repetitions, the interval that holds it with 95 % confidence, and the extremes. Of a few values the interval
/// is from one extreme to the other and says nothing about confidence: [`Estimate::is_few`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    pub median: f64,
    pub low: f64,
    pub high: f64,
    pub min: f64,
    pub max: f64,
    pub runs: usize,
}

/// Percentiles of one latency, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p999: u64,
    pub max: u64,
    pub count: u64,
}

/// A small generator of random numbers (SplitMix64), always seeded alike: the same values give the same interval, and the
/// same plan the same orders.
pub struct Random(u64);

// === impl Estimate ===

impl Estimate {
    /// None without values.
    pub fn of(values: &[f64]) -> Option<Self> {
        let sorted = sorted(values);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        if sorted.len() < FEW {
            return Some(Self { median: median(&sorted), low: min, high: max, min, max, runs: sorted.len() });
        }
        let mut random = Random::seeded();
        let mut medians: Vec<f64> = (0..RESAMPLES)
            .map(|_| median(&self::sorted(&(0..sorted.len()).map(|_| sorted[random.below(sorted.len())]).collect::<Vec<_>>())))
            .collect();
        medians.sort_by(f64::total_cmp);
        let at = |share: f64| medians[((RESAMPLES - 1) as f64 * share).round() as usize];
        Some(Self { median: median(&sorted), low: at(TAIL), high: at(1.0 - TAIL), min, max, runs: sorted.len() })
    }

    /// Of the ratios `ours[i] / theirs[i]`, each of one sample to one other of the same round: what drifts more slowly than
    /// a round takes is in both of them.
    pub fn of_ratios(ours: &[f64], theirs: &[f64]) -> Option<Self> {
        let ratios: Vec<f64> =
            ours.iter().zip(theirs).filter(|(_, base)| **base > 0.0).map(|(value, base)| value / base).collect();
        Self::of(&ratios)
    }

    /// How far a ratio of the same with the same lies from 1 at most, by its interval.
    pub fn distance_from_one(&self) -> f64 {
        (self.high - 1.0).abs().max((1.0 - self.low).abs())
    }

    /// Whether there are too few values for an interval with any confidence.
    pub fn is_few(&self) -> bool {
        self.runs < FEW
    }

    /// Whether two intervals have a value in common: then nothing is said about a difference.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.low <= other.high && other.low <= self.high
    }
}

impl std::fmt::Display for Estimate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits = digits(self.median);
        if self.runs == 1 {
            return write!(f, "{:.digits$}", self.median);
        }
        if self.is_few() {
            return write!(f, "{:.digits$} [{:.digits$} to {:.digits$}, n {}]", self.median, self.min, self.max, self.runs);
        }
        write!(f, "{:.digits$} ({:.digits$} to {:.digits$})", self.median, self.low, self.high)
    }
}

/// Decimal places that show three digits of small values, and none of large ones or of nothing.
pub fn digits(value: f64) -> usize {
    match value.abs() {
        value if value >= 100.0 || value == 0.0 => 0,
        value if value >= 10.0 => 1,
        _ => 3,
    }
}

// === impl Latency ===

impl Latency {
    /// None without values.
    pub fn of(histogram: &Histogram<u64>) -> Option<Self> {
        let at = |quantile| histogram.value_at_quantile(quantile);
        (!histogram.is_empty()).then(|| Self {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: histogram.max(),
            count: histogram.len(),
        })
    }
}

// === impl Random ===

impl Random {
    pub fn seeded() -> Self {
        Self(0x7468_616c_7765_6721)
    }

    /// Every order is as likely as every other (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// Of sorted values, at least one.
fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_and_even_counts() {
        assert_eq!(Estimate::of(&[3.0, 1.0, 2.0]).map(|estimate| estimate.median), Some(2.0));
        assert_eq!(Estimate::of(&[4.0, 1.0, 2.0, 3.0]).map(|estimate| estimate.median), Some(2.5));
        assert_eq!(Estimate::of(&[]), None);
    }

    #[test]
    fn an_interval_holds_its_median_and_is_the_same_each_time() {
        let values: Vec<f64> = (0..25).map(|value| f64::from(value * 7 % 25)).collect();
        let estimate = Estimate::of(&values).expect("values");
        assert_eq!(estimate, Estimate::of(&values).expect("values"));
        assert!(estimate.min <= estimate.low && estimate.low < estimate.median, "{estimate:?}");
        assert!(estimate.median < estimate.high && estimate.high <= estimate.max, "{estimate:?}");
    }

    #[test]
    fn a_few_values_have_extremes_and_no_interval() {
        let five = Estimate::of(&[10.0, 50.0, 30.0, 20.0, 40.0]).expect("values");
        assert_eq!((five.low, five.high, five.is_few()), (10.0, 50.0, true));
        assert_eq!(five.to_string(), "30.0 [10.0 to 50.0, n 5]");
        let six = Estimate::of(&[10.0, 50.0, 30.0, 20.0, 40.0, 60.0]).expect("values");
        assert!(!six.is_few() && six.to_string().starts_with("35.0 ("), "{six}");
        assert_eq!(Estimate::of(&[7.0]).expect("value").to_string(), "7.000");
    }

    #[test]
    fn one_odd_value_moves_the_extremes_but_not_the_interval() {
        let mut values = vec![100.0; 24];
        values.push(5.0);
        let estimate = Estimate::of(&values).expect("values");
        assert_eq!((estimate.min, estimate.low, estimate.high), (5.0, 100.0, 100.0));
    }

    #[test]
    fn ratios_are_taken_pair_by_pair_and_nothing_is_divided_by_nothing() {
        let estimate = Estimate::of_ratios(&[10.0, 30.0, 5.0], &[10.0, 10.0, 0.0]).expect("pairs");
        assert_eq!((estimate.min, estimate.max, estimate.runs), (1.0, 3.0, 2));
        assert_eq!(Estimate::of_ratios(&[1.0], &[0.0]), None);
    }

    #[test]
    fn intervals_that_touch_overlap() {
        let of = |low, high| Estimate { median: low, low, high, min: low, max: high, runs: 3 };
        assert!(of(1.0, 2.0).overlaps(&of(2.0, 3.0)));
        assert!(!of(1.0, 2.0).overlaps(&of(2.1, 3.0)));
        assert!((of(0.9, 1.02).distance_from_one() - 0.1).abs() < 1e-9);
    }

    #[test]
    fn percentiles_of_a_known_distribution() {
        let mut histogram = Histogram::<u64>::new(3).expect("histogram");
        assert_eq!(Latency::of(&histogram), None);
        (1..=1_000).for_each(|value| histogram.saturating_record(value));
        let latency = Latency::of(&histogram).expect("values");
        assert_eq!((latency.p50, latency.p90, latency.p99, latency.p999, latency.max), (500, 900, 990, 999, 1_000));
    }
}
