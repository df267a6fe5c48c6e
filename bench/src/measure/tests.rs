//! Contenders that only write down when they are asked.

use std::cell::RefCell;

use anyhow::{bail, ensure};

use super::*;

#[derive(Default)]
struct Fake {
    steps: Vec<(usize, usize)>,
    stop_after: Option<usize>,
}

impl Watch for Fake {
    fn step(&mut self, done: usize, total: usize) {
        self.steps.push((done, total));
    }

    fn stopped(&self) -> bool {
        self.stop_after.is_some_and(|after| self.steps.len() >= after)
    }
}

/// Asks `a` (whose value is the number of its call) and `b` (always twice as much as `a` said last, or 0 before that).
fn run(plan: Plan, watch: &mut Fake) -> (String, Result<Option<Measured>>) {
    let order = RefCell::new(String::new());
    let last = RefCell::new(0.0);
    let mut contenders = [
        Contender::new("a", || {
            order.borrow_mut().push('a');
            *last.borrow_mut() += 1.0;
            Ok(Sample::from(*last.borrow()))
        }),
        Contender::new("b", || {
            order.borrow_mut().push('b');
            Ok(Sample::from(2.0 * *last.borrow()))
        }),
    ];
    let result = interleave(plan, &mut contenders, watch);
    drop(contenders);
    (order.into_inner(), result)
}

#[test]
fn every_round_measures_each_once_and_the_first_twice() {
    let mut watch = Fake::default();
    let (order, result) = run(Plan { runs: 3, warm_up: 0 }, &mut watch);
    let rounds = order.as_bytes().chunks(3);
    assert!(rounds.into_iter().all(|round| round.iter().filter(|side| **side == b'a').count() == 2), "{order}");
    let measured = result.expect("measure").expect("three rounds");
    assert_eq!(measured.rates.sides.iter().map(|side| side.values.len()).collect::<Vec<_>>(), [3, 3]);
    assert_eq!(watch.steps.last(), Some(&(9, 9)));
    assert!(measured.rates.sides[0].ratio.is_none() && measured.rates.sides[1].ratio.is_some());
    assert_eq!(measured.rates.noise.map(|noise| noise.runs), Some(3));
    assert!(measured.medians.is_none());
}

#[test]
fn over_many_rounds_every_side_comes_after_every_other() {
    let mut random = Random::seeded();
    let mut pairs = std::collections::BTreeSet::new();
    for _ in 0..100 {
        let order = order(4, &mut random);
        pairs.extend(order.windows(2).map(|pair| (pair[0], pair[1])));
    }
    assert_eq!(pairs.len(), 4 * 3, "{pairs:?}");
}

#[test]
fn a_ratio_is_one_sample_to_one_and_the_second_of_the_first_is_only_in_the_noise() {
    let column = |values: &[f64]| Column { values: values.to_vec(), ..Column::default() };
    let contenders = ["a", "b"].map(|name| Contender::new(name, || Ok(Sample::from(0.0))));
    let columns = [column(&[1.0; 3]), column(&[2.0; 3]), column(&[3.0; 3])];
    let Compared { sides, noise } = measured(&contenders, &columns).rates;
    assert_eq!(sides[0].values, [1.0; 3]);
    assert_eq!(sides[1].ratio.map(|ratio| ratio.median), Some(2.0));
    assert_eq!(noise.map(|noise| noise.median), Some(3.0));
}

#[test]
fn the_warm_up_does_not_count() {
    let (order, result) = run(Plan { runs: 3, warm_up: 2 }, &mut Fake::default());
    assert_eq!(order.len(), 15);
    let measured = result.expect("measure").expect("three rounds");
    // Calls 1 to 4 of `a` were the warm-up.
    assert!(measured.rates.sides[0].estimate.min > 4.0, "{:?}", measured.rates.sides[0]);
}

#[test]
fn what_is_complete_counts_when_it_is_stopped() {
    let mut watch = Fake { stop_after: Some(10), ..Fake::default() };
    let (_, result) = run(Plan { runs: 9, warm_up: 0 }, &mut watch);
    assert_eq!(result.expect("measure").expect("three rounds").rates.sides[0].values.len(), 3);
    let mut watch = Fake { stop_after: Some(8), ..Fake::default() };
    assert!(run(Plan { runs: 9, warm_up: 0 }, &mut watch).1.expect("measure").is_none());
}

#[test]
fn a_contender_that_fails_is_named_and_the_others_go_on() {
    let one = |name: &'static str| Contender::new(name, || Ok(Sample::from(1.0)));
    let no = |name: &'static str| Contender::new(name, || bail!("refused"));
    let plan = Plan { runs: 3, warm_up: 0 };
    let told = |mut contenders: [Contender<'_>; 3]| {
        let measured = interleave(plan, &mut contenders, &mut Fake::default()).expect("measure").expect("rounds");
        let sides: Vec<_> = measured.rates.sides.into_iter().map(|side| (side.name, side.values.len(), side.base)).collect();
        let failed: Vec<_> = measured.failed.into_iter().map(|(name, error)| format!("{name}: {error}")).collect();
        (sides, failed)
    };
    let (sides, failed) = told([one("one"), no("two"), one("three")]);
    assert_eq!(sides, [("one".to_owned(), 3, None), ("three".to_owned(), 3, Some("one".to_owned()))]);
    assert_eq!(failed, ["two: refused"]);
    // Whom the others are compared with: they are figures.
    let (sides, _) = told([no("one"), one("two"), one("three")]);
    assert_eq!(sides, [("two".to_owned(), 3, None), ("three".to_owned(), 3, None)]);
}

#[test]
fn who_fails_late_leaves_no_figure() {
    let mut calls = 0;
    let mut contenders = [
        Contender::new("one", || Ok(Sample::from(1.0))),
        Contender::new("two", || {
            calls += 1;
            ensure!(calls < 3, "gone");
            Ok(Sample::from(1.0))
        }),
    ];
    let measured = interleave(Plan { runs: 5, warm_up: 0 }, &mut contenders, &mut Fake::default());
    let Measured { rates, failed, .. } = measured.expect("measure").expect("rounds");
    assert_eq!((rates.sides.len(), rates.sides[0].values.len(), failed.len()), (1, 5, 1));
}

#[test]
fn nothing_that_can_be_measured_is_an_error() {
    let mut contenders = [Contender::new("one", || bail!("refused"))];
    let error = interleave(Plan { runs: 3, warm_up: 0 }, &mut contenders, &mut Fake::default()).err().expect("refused");
    assert_eq!(format!("{error:#}"), "one: refused");
    assert!(interleave(Plan { runs: 3, warm_up: 0 }, &mut [], &mut Fake::default()).is_err());
}

#[test]
fn latencies_of_all_rounds_are_one_distribution() {
    let mut next = 0;
    let mut contenders = [Contender::new("one", || {
        let mut histogram = Histogram::new(3)?;
        next += 1;
        histogram.record(next)?;
        Ok(Sample { value: 1.0, latency: Some(histogram) })
    })];
    let measured = interleave(Plan { runs: 4, warm_up: 1 }, &mut contenders, &mut Fake::default());
    let measured = measured.expect("measure").expect("rounds");
    let latency = measured.rates.sides[0].latency.expect("latency");
    assert_eq!(latency.count, 4);
    // Each round asks twice: 3 and 4, 5 and 6, …; one of the two counts.
    let medians = measured.medians.expect("medians");
    let expected = [[3, 4], [5, 6], [7, 8], [9, 10]];
    for (micros, either) in medians.sides[0].values.iter().zip(expected) {
        assert!(either.contains(&((micros * 1000.0).round() as u64)), "{:?}", medians.sides[0].values);
    }
}

#[test]
fn everybody_is_a_ratio_to_what_it_names() {
    let one = |name: &'static str, base: Base, value: f64| Contender::new(name, move || Ok(Sample::from(value))).over(base);
    let mut contenders = [
        one("direct", Base::Of("plain"), 50.0),
        one("tc", Base::First, 40.0),
        one("iptables", Base::Of("not measured"), 30.0),
        one("plain", Base::Nothing, 100.0),
    ];
    let measured = interleave(Plan { runs: 3, warm_up: 0 }, &mut contenders, &mut Fake::default());
    let sides = measured.expect("measure").expect("rounds").rates.sides;
    let told: Vec<_> = sides.iter().map(|side| (side.base.as_deref(), side.ratio.map(|ratio| ratio.median))).collect();
    assert_eq!(told, [(Some("plain"), Some(0.5)), (Some("direct"), Some(0.8)), (None, None), (None, None)]);
}
