//! One group of measurements as small multiples: a panel for each case, all with the same axis, a row for each side.

use std::fmt::Write as _;

use crate::run::{Better, Measurement, Side};
use crate::stats::{Estimate, digits};

use super::escape::escape;
use super::scale::Scale;

const STYLE: &str = include_str!("plot.css");
/// Sizes, in the units of the plot: about pixels.
const PANEL: f64 = 560.0;
const COLUMNS: usize = 2;
const GAP: f64 = 20.0;
const EDGE: f64 = 16.0;
const HEAD: f64 = 44.0;
/// Of a panel: its case, and under it what the others are compared with, if anything.
const TITLE: f64 = 27.0;
const BASE: f64 = 17.0;
const ROW: f64 = 21.0;
const AXIS: f64 = 20.0;
/// Of a panel: for the names of the sides at least, for one letter of them, and for their values.
const NAMES: f64 = 112.0;
const LETTER: f64 = 6.2;
const VALUES: f64 = 178.0;

/// What a row shows.
struct Row {
    name: String,
    shown: Estimate,
    /// The same in words.
    words: String,
    ours: bool,
}

/// What all panels have in common.
struct Frame<'a> {
    scale: Scale,
    top: f64,
    bottom: f64,
    /// Rows are ratios.
    compared: bool,
    /// Labels that are the same in all of them: said once, above.
    common: Vec<&'a str>,
}

/// `ours`: the sides that are set off from the others. Empty for an empty group.
pub fn svg(group: &[&Measurement], ours: &[&str]) -> String {
    let Some(first) = group.first() else { return String::new() };
    let compared = group.iter().any(|measured| measured.sides.iter().any(|side| side.ratio.is_some()));
    let panels: Vec<(&Measurement, Vec<Row>)> =
        group.iter().map(|measured| (*measured, rows(measured, compared, ours))).collect();
    let ends = panels.iter().flat_map(|(_, rows)| rows).flat_map(|row| [row.shown.low, row.shown.high]);
    let longest = panels.iter().flat_map(|(_, rows)| rows).map(|row| row.name.chars().count()).max().unwrap_or(0);
    let scale = Scale::over(ends, compared.then_some(1.0), [NAMES.max(LETTER * longest as f64), PANEL - VALUES]);
    let most = panels.iter().map(|(_, rows)| rows.len()).max().unwrap_or(1);
    let top = TITLE + if compared { BASE } else { 0.0 };
    let frame = Frame { scale, top, bottom: top + ROW * most as f64, compared, common: common(group) };
    let (width, height) = (PANEL, frame.bottom + AXIS);
    let columns = COLUMNS.min(panels.len());
    let lines = panels.len().div_ceil(COLUMNS);
    let whole =
        [2.0 * EDGE + columns.max(COLUMNS) as f64 * (width + GAP) - GAP, HEAD + lines as f64 * (height + GAP) - GAP + EDGE];
    let [all_wide, all_high] = whole;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {all_wide:.0} {all_high:.0}\" role=\"img\" aria-label=\"{}\">\n<style>{STYLE}</style>\n",
        escape(&first.scenario)
    );
    svg += &text(EDGE, 27.0, "soft", "start", &caption(first, &frame));
    for (number, (measured, rows)) in panels.iter().enumerate() {
        let x = EDGE + (number % COLUMNS) as f64 * (width + GAP);
        let y = HEAD + (number / COLUMNS) as f64 * (height + GAP);
        svg += &format!("<g transform=\"translate({x:.0} {y:.0})\">\n{}</g>\n", panel(measured, rows, &frame));
    }
    svg + "</svg>"
}

fn caption(measured: &Measurement, frame: &Frame<'_>) -> String {
    let better = match measured.better {
        Better::Higher => "more is better",
        Better::Lower => "less is better",
        Better::Zero => "none is what is to be reached",
    };
    let everywhere = words(measured, |key| frame.common.contains(&key));
    let everywhere = if everywhere.is_empty() { everywhere } else { format!("; {everywhere}") };
    match frame.compared {
        true => format!("{}, as ratios; {better}{everywhere}", measured.unit),
        false => format!("{}; {better}{everywhere}", measured.unit),
    }
}

/// With a single panel, none.
fn common<'a>(group: &[&'a Measurement]) -> Vec<&'a str> {
    let Some((first, others)) = group.split_first().filter(|(_, others)| !others.is_empty()) else { return Vec::new() };
    let same = |(key, value): &(&String, &String)| others.iter().all(|other| other.case.get(*key) == Some(*value));
    first.case.iter().filter(same).map(|(key, _)| key.as_str()).collect()
}

fn words(measured: &Measurement, wanted: impl Fn(&str) -> bool) -> String {
    let labels = measured.case.iter().filter(|(key, _)| wanted(key));
    labels.map(|(key, value)| format!("{key} {value}")).collect::<Vec<_>>().join(", ")
}

/// Ratios, each with what it is one to, where there are any; otherwise the sides as they are.
fn rows(measured: &Measurement, compared: bool, ours: &[&str]) -> Vec<Row> {
    let row = |side: &Side| {
        let (shown, words) = match compared {
            true => (side.ratio?, side.ratio?.to_string()),
            false => (side.estimate, side.figure()),
        };
        let name = match &side.base {
            Some(base) if compared => format!("{} / {base}", side.name),
            _ => side.name.clone(),
        };
        Some(Row { name, shown, words, ours: ours.contains(&side.name.as_str()) })
    };
    measured.sides.iter().filter_map(row).collect()
}

fn panel(measured: &Measurement, rows: &[Row], frame: &Frame<'_>) -> String {
    let Frame { scale, top, bottom, compared, common } = frame;
    let edge = top - 4.0;
    let mut svg = text(0.0, 13.0, "title", "start", &words(measured, |key| !common.contains(&key)));
    for mark in scale.marks() {
        let x = scale.place(mark);
        svg += &line("grid", [x, edge], [x, *bottom]);
        svg += &text(x, bottom + 14.0, "mark", "middle", &short(mark));
    }
    if let (true, Some(noise)) = (*compared, measured.noise) {
        let (from, to) = (scale.place(1.0 - noise.distance_from_one()), scale.place(1.0 + noise.distance_from_one()));
        svg += &format!(
            "<rect class=\"band\" x=\"{from:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\"/>\n",
            edge,
            to - from,
            bottom - edge
        );
    }
    if *compared {
        let x = scale.place(1.0);
        svg += &line("one", [x, edge], [x, *bottom]);
        if let Some(base) = measured.sides.first() {
            let base = format!("{} = {:.*} {}", base.name, digits(base.estimate.median), base.estimate.median, measured.unit);
            svg += &text(0.0, 30.0, "soft", "start", &base);
        }
    }
    for (number, row) in rows.iter().enumerate() {
        let y = top + ROW * (number as f64 + 0.5);
        let class = if row.ours { "ours" } else { "other" };
        let Estimate { median, low, high, runs, .. } = row.shown;
        svg += &text(0.0, y + 4.0, "", "start", &row.name);
        svg += &format!("<g class=\"{class}\"><title>{}: {}, {runs} rounds</title>", escape(&row.name), row.words);
        svg += &line("span", [scale.place(low), y], [scale.place(high), y]);
        svg += &format!("<circle cx=\"{:.1}\" cy=\"{y:.1}\" r=\"4\"/></g>\n", scale.place(median));
        svg += &text(PANEL, y + 4.0, "soft", "end", &row.words);
    }
    svg
}

fn text(x: f64, y: f64, class: &str, anchor: &str, words: &str) -> String {
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"{class}\" text-anchor=\"{anchor}\">{}</text>\n", escape(words))
}

fn line(class: &str, [x1, y1]: [f64; 2], [x2, y2]: [f64; 2]) -> String {
    format!("<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>\n")
}

/// A mark of an axis, without what it does not need.
fn short(mark: f64) -> String {
    let mut words = String::new();
    // Nothing can go wrong when a text is written into a text.
    match mark.abs() {
        value if value >= 1e6 => write!(words, "{}M", mark / 1e6),
        value if value >= 1e4 => write!(words, "{}k", mark / 1e3),
        _ => write!(words, "{}", (mark * 1e6).round() / 1e6),
    }
    .unwrap_or(());
    words
}
