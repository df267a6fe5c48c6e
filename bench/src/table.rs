//! A run as tables of Markdown: what is printed at its end, and what docs/NUMBERS.md shows.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::run::{Measurement, Run, Side};
use crate::stats::digits;

/// A run with what it was made on and how far it is to be trusted.
pub fn document(of: &Run) -> String {
    let Run { machine, command, version, commit, complete, .. } = of;
    let beside = if of.versions.is_empty() { String::new() } else { format!(" Installed beside: {}.", of.beside()) };
    let part = if *complete { "" } else { " The run is not complete." };
    format!(
        "`thalweg bench {}`, version {version}, commit {commit}, on {}. {}{part}{beside} Figures are `median (95 % confidence interval)`, or \
         `median [least to greatest, n values]` of fewer than 6; a column `a / b` is \
         the ratio of side a to side b.\n{}",
        command.join(" "),
        machine.line(),
        of.verdict(),
        run(of)
    )
}

/// All measurements, a table for each scenario and unit.
pub fn run(run: &Run) -> String {
    let mut text = String::new();
    for group in groups(run) {
        text += &table(&group);
    }
    for missing in &run.missing {
        line(&mut text, format_args!("\n{}: without {}: {}", missing.scenario, missing.side, missing.why));
    }
    text
}

/// Measurements that belong into one table: of one scenario, in one unit, with the same labels.
pub fn groups(run: &Run) -> Vec<Vec<&Measurement>> {
    let mut groups: Vec<Vec<&Measurement>> = Vec::new();
    for measured in &run.measurements {
        let same = |other: &&Measurement| {
            other.scenario == measured.scenario
                && other.unit == measured.unit
                && other.case.keys().eq(measured.case.keys())
                && other.sides.first().map(|side| &side.name) == measured.sides.first().map(|side| &side.name)
        };
        match groups.iter_mut().find(|group| group.first().is_some_and(same)) {
            Some(group) => group.push(measured),
            None => groups.push(vec![measured]),
        }
    }
    groups
}

/// A column of a table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Column<'a> {
    /// A side as it is.
    Figure(&'a str),
    /// A side as a ratio to its base.
    Ratio(&'a str, &'a str),
    /// The first side to itself.
    Noise(&'a str),
}

/// One group. Figures of the first side and of every other that is a ratio to nothing; then the ratios.
pub fn table(group: &[&Measurement]) -> String {
    let Some(first) = group.first() else { return String::new() };
    let columns = columns(group);
    let latency = group.iter().any(|measured| measured.sides.iter().any(|side| side.latency.is_some()));
    let mut head: Vec<String> = first.case.keys().cloned().collect();
    head.extend(columns.iter().map(|column| column.title(&first.unit)));
    if latency {
        head.push("p50 / p99, µs".to_owned());
    }
    let mut text = format!("\n### {}\n\n", first.scenario);
    line(&mut text, format_args!("| {} |", head.join(" | ")));
    line(&mut text, format_args!("|{}", "---|".repeat(head.len())));
    for measured in group {
        let mut row: Vec<String> = measured.case.values().cloned().collect();
        row.extend(columns.iter().map(|column| column.cell(measured).unwrap_or_else(|| "-".to_owned())));
        if latency {
            row.push(latencies(measured));
        }
        line(&mut text, format_args!("| {} |", row.join(" | ")));
    }
    text
}

/// Each once, in the order in which they are met.
fn columns<'a>(group: &[&'a Measurement]) -> Vec<Column<'a>> {
    let mut figures = Vec::new();
    let mut ratios = Vec::new();
    for measured in group {
        for (index, side) in measured.sides.iter().enumerate() {
            if index == 0 || side.ratio.is_none() {
                figures.push(Column::Figure(&side.name));
            }
            if let (Some(base), Some(_)) = (&side.base, side.ratio) {
                ratios.push(Column::Ratio(&side.name, base));
            }
        }
    }
    let measured_twice = group.iter().filter(|measured| measured.noise.is_some());
    ratios.extend(measured_twice.filter_map(|measured| Some(Column::Noise(&measured.sides.first()?.name))));
    let mut seen = BTreeSet::new();
    figures.into_iter().chain(ratios).filter(|column| seen.insert(column.clone())).collect()
}

fn latencies(measured: &Measurement) -> String {
    let one = |side: &Side| {
        let latency = side.latency?;
        let micros = |nanos: u64| {
            let micros = nanos as f64 / 1000.0;
            format!("{micros:.*}", digits(micros).min(1))
        };
        Some(format!("{} {} / {}", side.name, micros(latency.p50), micros(latency.p99)))
    };
    measured.sides.iter().filter_map(one).collect::<Vec<_>>().join("; ")
}

// === impl Column ===

impl Column<'_> {
    fn title(&self, unit: &str) -> String {
        match self {
            Self::Figure(side) => format!("{side}, {unit}"),
            Self::Ratio(side, base) => format!("{side} / {base}"),
            Self::Noise(side) => format!("{side} / {side}"),
        }
    }

    fn cell(&self, measured: &Measurement) -> Option<String> {
        let side = |name: &str| measured.sides.iter().find(|side| side.name == name);
        match self {
            Self::Figure(name) => side(name).map(Side::figure),
            Self::Ratio(name, base) => {
                let side = side(name).filter(|side| side.base.as_deref() == Some(*base))?;
                side.ratio.map(|ratio| ratio.to_string())
            }
            Self::Noise(_) => measured.noise.map(|noise| noise.to_string()),
        }
    }
}

/// Nothing can go wrong when a text is written into a text.
fn line(text: &mut String, words: std::fmt::Arguments<'_>) {
    writeln!(text, "{words}").unwrap_or(());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::tests::sample;
    use crate::stats::Latency;

    #[test]
    fn the_first_side_is_a_figure_and_the_others_are_ratios() {
        let text = run(&sample(0.97, 0.01));
        assert!(text.contains("### services-crr"), "{text}");
        assert!(text.contains("| family | services | direct, per second | tc / direct | direct / direct |"), "{text}");
        assert!(text.contains("| IPv4 | 10000 | 100 (99 to 101) | 0.970 (0.970 to 0.970) |"), "{text}");
        assert!(text.contains("cni: without ptp: not installed"), "{text}");
    }

    #[test]
    fn a_document_says_where_its_figures_are_from() {
        let mut run = sample(0.97, 0.01);
        let text = document(&run);
        assert!(
            text.starts_with("`thalweg bench run services-crr`, version 0.1.0, commit c0ffee, on 2 x A <fast> CPU"),
            "{text}"
        );
        assert!(text.contains("Installed beside: iptables: iptables v1.8."), "{text}");
        assert!(!text.contains("not complete"));
        run.complete = false;
        assert!(document(&run).contains("not complete"));
    }

    #[test]
    fn what_a_case_lacks_is_a_dash() {
        let mut sample = sample(0.97, 0.01);
        let mut second = sample.measurements[0].clone();
        second.case.insert("services".to_owned(), "100000".to_owned());
        second.sides.truncate(1);
        second.noise = None;
        sample.measurements.push(second);
        let text = run(&sample);
        assert_eq!(text.matches("### ").count(), 1, "{text}");
        assert!(text.contains("| IPv4 | 100000 | 100 (99 to 101) | - | - |"), "{text}");
    }

    #[test]
    fn a_side_is_shown_with_the_base_that_it_names() {
        let mut sample = sample(0.97, 0.01);
        let sides = &mut sample.measurements[0].sides;
        let mut plain = sides[0].clone();
        plain.name = "plain".to_owned();
        sides.push(plain);
        let ratio = sides[1].ratio;
        (sides[0].base, sides[0].ratio) = (Some("plain".to_owned()), ratio);
        let text = run(&sample);
        let head = "| direct, per second | plain, per second | direct / plain | tc / direct | direct / direct |";
        assert!(text.contains(head), "{text}");
    }

    #[test]
    fn latencies_of_sides_with_a_comma_in_their_name_are_told_apart() {
        let mut measured = sample(0.97, 0.01).measurements.remove(0);
        let latency = Latency { p50: 1_000, p90: 1_000, p99: 2_000, p999: 2_000, max: 2_000, count: 9 };
        measured.sides[0].name = "direct, iptables rules".to_owned();
        measured.sides.iter_mut().for_each(|side| side.latency = Some(latency));
        assert_eq!(latencies(&measured), "direct, iptables rules 1.0 / 2.0; tc 1.0 / 2.0");
    }

    #[test]
    fn every_row_has_as_many_cells_as_the_head() {
        let text = run(&sample(0.5, 0.3));
        let widths: BTreeSet<usize> =
            text.lines().filter(|line| line.starts_with('|')).map(|line| line.matches('|').count()).collect();
        assert_eq!(widths.len(), 1, "{text}");
    }
}
