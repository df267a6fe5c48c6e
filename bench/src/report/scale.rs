//! From values to places on a plot: linear, or logarithmic where values differ too much for that; and the marks of an axis.

/// Values whose largest is more than this many times the smallest are shown by their logarithms.
const WIDE: f64 = 8.0;
/// Share of the range that is left free on both sides.
const MARGIN: f64 = 0.06;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    low: f64,
    high: f64,
    logarithmic: bool,
    /// Of the plot.
    from: f64,
    to: f64,
}

// === impl Scale ===

impl Scale {
    /// That shows all of these values between two places. With `anchor` that value is on it too.
    pub fn over(values: impl IntoIterator<Item = f64>, anchor: Option<f64>, [from, to]: [f64; 2]) -> Self {
        let all: Vec<f64> = values.into_iter().chain(anchor).filter(|value| value.is_finite()).collect();
        let (low, high) =
            all.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(*value), high.max(*value)));
        let (low, high) = if low > high { (0.0, 1.0) } else { (low, high) };
        let logarithmic = low > 0.0 && high / low > WIDE;
        let margin = |low: f64, high: f64| if high > low { (high - low) * MARGIN } else { low.abs().max(1.0) * MARGIN };
        let (low, high) = if logarithmic {
            let (low, high) = (low.ln(), high.ln());
            ((low - margin(low, high)).exp(), (high + margin(low, high)).exp())
        } else {
            (low - margin(low, high), high + margin(low, high))
        };
        Self { low, high, logarithmic, from, to }
    }

    /// Where a value is; what lies outside is at the edge.
    pub fn place(&self, value: f64) -> f64 {
        let share = if self.logarithmic {
            (value.max(f64::MIN_POSITIVE).ln() - self.low.ln()) / (self.high.ln() - self.low.ln())
        } else {
            (value - self.low) / (self.high - self.low)
        };
        self.from + share.clamp(0.0, 1.0) * (self.to - self.from)
    }

    /// About four round values.
    pub fn marks(&self) -> Vec<f64> {
        if self.logarithmic {
            let decades = (-12..=15).flat_map(|power| [1.0, 3.0].map(|first| first * 10_f64.powi(power)));
            let marks: Vec<f64> = decades.filter(|mark| (self.low..=self.high).contains(mark)).collect();
            let step = marks.len().div_ceil(5).max(1);
            return marks.into_iter().step_by(step).collect();
        }
        let rough = (self.high - self.low) / 4.0;
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|first| first * power).into_iter().find(|step| *step >= rough).unwrap_or(rough);
        let first = (self.low / step).ceil() as i64;
        let last = (self.high / step).floor() as i64;
        (first..=last).map(|number| number as f64 * step).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_keep_their_order_and_stay_on_the_plot() {
        for values in [vec![0.9, 1.0, 1.1], vec![1.0, 50.0, 4000.0], vec![5.0], vec![0.0, 0.0], vec![]] {
            let scale = Scale::over(values.clone(), None, [100.0, 300.0]);
            let places: Vec<f64> = values.iter().map(|value| scale.place(*value)).collect();
            assert!(places.is_sorted() && places.iter().all(|place| (100.0..=300.0).contains(place)), "{values:?} {places:?}");
            let marks = scale.marks();
            assert!((1..=7).contains(&marks.len()), "{values:?} {marks:?}");
        }
    }

    #[test]
    fn an_anchor_is_always_shown() {
        let scale = Scale::over([0.8, 0.9], Some(1.0), [0.0, 100.0]);
        assert!(scale.place(0.9) < scale.place(1.0) && scale.place(1.0) < 100.0);
        assert_eq!(scale.place(7.0), 100.0);
    }

    #[test]
    fn marks_are_round() {
        let marks = Scale::over([0.83, 1.12], Some(1.0), [0.0, 1.0]).marks();
        assert!(marks.iter().any(|mark| (mark - 1.0).abs() < 1e-9), "{marks:?}");
        assert_eq!(Scale::over([1.0, 1000.0], None, [0.0, 1.0]).marks().first(), Some(&1.0));
    }
}
