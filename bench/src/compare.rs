//! Two runs of the same scenarios: which differences are larger than what the same differs from itself.

use std::fmt::Write as _;

use crate::run::{Better, Measurement, Run, Side};
use crate::stats::Estimate;

/// One side of one case in both runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    pub case: String,
    pub side: String,
    /// In words: ratios, or figures themselves.
    pub old: String,
    pub new: String,
    pub verdict: Verdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Better,
    Worse,
    /// Nothing can be said: too few values, or figures of two machines that are no ratios.
    Unknown,
    /// Not larger than the noise.
    Same,
}

/// What both runs have, in the order of the newer one.
pub fn differences(old: &Run, new: &Run) -> Vec<Difference> {
    let mut differences = Vec::new();
    let comparable = old.machine.line() == new.machine.line();
    for measured in &new.measurements {
        let Some(before) = old.measurements.iter().find(|before| before.key() == measured.key()) else { continue };
        for side in &measured.sides {
            let Some(side_before) = before.sides.iter().find(|before| before.name == side.name) else { continue };
            let (old, new, verdict) = difference(measured, side_before, side, comparable, noise(before).max(noise(measured)));
            differences.push(Difference { case: measured.key(), side: side.name.clone(), old, new, verdict });
        }
    }
    differences
}

/// What only one of them has, in words.
pub fn unmatched(old: &Run, new: &Run) -> Vec<String> {
    let only = |one: &Run, other: &Run, name: &str| -> Vec<String> {
        let mut lines = Vec::new();
        for measured in &one.measurements {
            let key = measured.key();
            let Some(beside) = other.measurements.iter().find(|measured| measured.key() == key) else {
                lines.push(format!("only in the {name} run: {key}"));
                continue;
            };
            let sides = measured.sides.iter().filter(|side| !beside.sides.iter().any(|beside| beside.name == side.name));
            lines.extend(sides.map(|side| format!("only in the {name} run: {} of {key}", side.name)));
        }
        lines
    };
    [only(old, new, "old"), only(new, old, "new")].concat()
}

/// As Markdown, with what differs before what does not.
pub fn table(old: &Run, new: &Run) -> String {
    let differences = differences(old, new);
    let mut text = String::new();
    if old.machine.line() != new.machine.line() {
        text +=
            &format!("Different machines: {} and {}. Only ratios can be compared.\n\n", old.machine.line(), new.machine.line());
    }
    text += "| case | side | old | new | |\n|---|---|---|---|---|\n";
    for verdict in [Verdict::Worse, Verdict::Better, Verdict::Unknown, Verdict::Same] {
        for Difference { case, side, old, new, .. } in differences.iter().filter(|difference| difference.verdict == verdict) {
            let word = match verdict {
                Verdict::Worse => "**worse**",
                Verdict::Better => "better",
                Verdict::Unknown => "unknown",
                Verdict::Same => "",
            };
            // Nothing can go wrong when a text is written into a text.
            writeln!(text, "| {case} | {side} | {old} | {new} | {word} |").unwrap_or(());
        }
    }
    let count = |verdict| differences.iter().filter(|difference| difference.verdict == verdict).count();
    text += &format!(
        "\n{} worse, {} better, {} unknown, {} not different beyond the noise\n",
        count(Verdict::Worse),
        count(Verdict::Better),
        count(Verdict::Unknown),
        count(Verdict::Same)
    );
    unmatched(old, new).iter().for_each(|line| text += &format!("{line}\n"));
    text
}

/// One side in both: as ratios where both are ratios to the same, so that what the machine does that day is not in them. Of
/// figures that are no ratios something can be said on one machine only, but a count that is no longer 0 is so anywhere.
fn difference(of: &Measurement, old: &Side, new: &Side, one_machine: bool, noise: f64) -> (String, String, Verdict) {
    if let (Some(old_ratio), Some(new_ratio), true) = (old.ratio, new.ratio, old.base == new.base) {
        let verdict = verdict(of.better, &old_ratio, &new_ratio, noise);
        return (old_ratio.to_string(), new_ratio.to_string(), verdict);
    }
    let verdict = match (of.better, one_machine) {
        (Better::Zero, _) => counted(old.estimate.median, new.estimate.median),
        (better, true) => verdict(better, &old.estimate, &new.estimate, noise),
        (_, false) => Verdict::Unknown,
    };
    (old.figure(), new.figure(), verdict)
}

/// Any is worse than none; whether many are worse than some, two sums do not tell.
fn counted(old: f64, new: f64) -> Verdict {
    match (old > 0.0, new > 0.0) {
        (false, false) => Verdict::Same,
        (false, true) => Verdict::Worse,
        (true, false) => Verdict::Better,
        (true, true) => Verdict::Unknown,
    }
}

fn noise(measured: &Measurement) -> f64 {
    measured.noise.map_or(0.0, |noise| noise.distance_from_one())
}

/// A difference counts when both have intervals with confidence, these have nothing in common, and the medians differ by more than the noise.
fn verdict(better: Better, old: &Estimate, new: &Estimate, noise: f64) -> Verdict {
    if old.is_few() || new.is_few() {
        return Verdict::Unknown;
    }
    if old.overlaps(new) || (new.median / old.median - 1.0).abs() <= noise {
        return Verdict::Same;
    }
    match (better, new.median > old.median) {
        (Better::Higher, true) | (Better::Lower, false) => Verdict::Better,
        _ => Verdict::Worse,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::tests::sample;

    fn verdicts(old: &Run, new: &Run) -> Vec<(String, Verdict)> {
        differences(old, new).into_iter().map(|difference| (difference.side, difference.verdict)).collect()
    }

    fn check(old: &Run, new: &Run, tc: Verdict) {
        assert_eq!(verdicts(old, new), [("direct".to_owned(), Verdict::Same), ("tc".to_owned(), tc)]);
    }

    #[test]
    fn a_ratio_that_fell_is_worse_and_one_that_rose_better() {
        check(&sample(1.0, 0.01), &sample(0.9, 0.01), Verdict::Worse);
        check(&sample(0.9, 0.01), &sample(1.0, 0.01), Verdict::Better);
        check(&sample(0.9, 0.01), &sample(0.9, 0.01), Verdict::Same);
    }

    #[test]
    fn where_less_is_better_it_is_the_other_way_round() {
        let lower = |ratio| {
            let mut run = sample(ratio, 0.01);
            run.measurements[0].better = Better::Lower;
            run
        };
        check(&lower(1.0), &lower(0.9), Verdict::Better);
    }

    #[test]
    fn what_the_noise_may_have_done_is_no_difference() {
        check(&sample(1.0, 0.2), &sample(0.9, 0.01), Verdict::Same);
        check(&sample(1.0, 0.01), &sample(0.9, 0.2), Verdict::Same);
    }

    #[test]
    fn a_few_values_tell_nothing() {
        let few = |count: usize, value: f64| {
            let mut run = sample(1.0, 0.0);
            let side = &mut run.measurements[0].sides[1];
            (side.values, side.ratio, side.base) = (vec![value; count], None, None);
            side.estimate = Estimate::of(&side.values).expect("value");
            run
        };
        check(&few(1, 100.0), &few(1, 200.0), Verdict::Unknown);
        check(&few(5, 100.0), &few(6, 200.0), Verdict::Unknown);
        check(&few(6, 100.0), &few(6, 200.0), Verdict::Better);
        let table = table(&few(1, 100.0), &few(1, 200.0));
        assert!(table.contains("0 worse, 0 better, 1 unknown, 1 not different"), "{table}");
    }

    #[test]
    fn figures_of_two_machines_tell_nothing_and_ratios_do() {
        let mut elsewhere = sample(0.9, 0.01);
        elsewhere.machine.cpu = "Another CPU".to_owned();
        let told = verdicts(&sample(1.0, 0.01), &elsewhere);
        assert_eq!(told, [("direct".to_owned(), Verdict::Unknown), ("tc".to_owned(), Verdict::Worse)]);
    }

    #[test]
    fn any_failure_is_worse_than_none_on_any_machine() {
        let failed = |count: f64, cpu: &str| {
            let mut run = sample(1.0, 0.0);
            run.machine.cpu = cpu.to_owned();
            run.measurements[0].better = Better::Zero;
            let side = &mut run.measurements[0].sides[1];
            (side.values, side.ratio, side.base, side.of) = (vec![count], None, None, Some(900.0));
            side.estimate = Estimate::of(&side.values).expect("value");
            run
        };
        let told = |old, new| differences(&failed(old, "A"), &failed(new, "B")).remove(1);
        assert_eq!(told(0.0, 1.0).verdict, Verdict::Worse);
        assert_eq!(told(1.0, 0.0).verdict, Verdict::Better);
        assert_eq!(told(0.0, 0.0).verdict, Verdict::Same);
        assert_eq!(told(2.0, 3.0).verdict, Verdict::Unknown);
        assert_eq!(told(0.0, 1.0).new, "1 of 900");
    }

    #[test]
    fn runs_that_begin_with_another_side_are_not_compared_and_lone_sides_are_said() {
        let (old, mut new) = (sample(1.0, 0.0), sample(1.0, 0.0));
        new.measurements[0].sides.truncate(1);
        let lines = unmatched(&old, &new);
        assert!(lines.len() == 1 && lines[0].starts_with("only in the old run: tc of services-crr"), "{lines:?}");
        new.measurements[0].sides[0].name = "plain".to_owned();
        assert!(differences(&old, &new).is_empty());
        assert_eq!(unmatched(&old, &new).len(), 2);
    }

    #[test]
    fn what_only_one_has_is_said() {
        let (old, mut new) = (sample(1.0, 0.0), sample(1.0, 0.0));
        new.measurements[0].case.insert("services".to_owned(), "1".to_owned());
        assert!(differences(&old, &new).is_empty());
        let lines = unmatched(&old, &new);
        assert!(lines[0].starts_with("only in the old run: services-crr [family IPv4, services 10000]"), "{lines:?}");
        assert!(lines[1].starts_with("only in the new run"), "{lines:?}");
        assert!(table(&old, &new).contains("0 worse, 0 better"), "{}", table(&old, &new));
    }
}
