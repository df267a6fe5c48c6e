//! Statistics of a few repetitions: median with its spread, and ratios of pairs measured side by side.

use serde::Serialize;

/// Median, minimum and maximum of repetitions of one measurement.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
    pub runs: usize,
}

// === impl Spread ===

impl Spread {
    /// None without values.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 };
        Some(Self { median, min, max, runs: sorted.len() })
    }

    /// Of the ratios `ours[i] / theirs[i]`: each pair was measured one right after the other, so that drift of the
    /// machine cancels out.
    pub fn of_ratios(ours: &[f64], theirs: &[f64]) -> Option<Self> {
        let ratios: Vec<f64> =
            ours.iter().zip(theirs).filter(|(_, base)| **base > 0.0).map(|(value, base)| value / base).collect();
        Self::of(&ratios)
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits = if self.median.abs() < 10.0 { 3 } else { 0 };
        write!(f, "{:.digits$} ({:.digits$} to {:.digits$}, {} runs)", self.median, self.min, self.max, self.runs)
    }
}

#[cfg(test)]
mod tests {
    use super::Spread;

    #[test]
    fn medians_of_odd_and_even_counts() {
        assert_eq!(Spread::of(&[3.0, 1.0, 2.0]).map(|spread| spread.median), Some(2.0));
        assert_eq!(Spread::of(&[4.0, 1.0, 2.0, 3.0]).map(|spread| spread.median), Some(2.5));
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn ratios_are_taken_pair_by_pair() {
        let spread = Spread::of_ratios(&[10.0, 30.0, 5.0], &[10.0, 10.0, 0.0]).expect("pairs");
        assert_eq!((spread.min, spread.max, spread.runs), (1.0, 3.0, 2));
    }
}
