//! A run as a page that stands for itself: every group of measurements as small multiples and as a table, readable in light
//! and in dark, with nothing loaded from anywhere. The plots are also files of their own.

mod escape;
mod plot;
mod scale;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use jiff::Timestamp;

use crate::run::{Measurement, Run};
use crate::table;
use escape::escape;

const STYLE: &str = include_str!("report/style.css");

/// One plot as a file.
#[derive(Debug)]
pub struct Plot {
    /// Without `.svg`.
    pub name: String,
    pub svg: String,
}

/// Writes the page, and beside it a folder of the same name with each plot as SVG and the run as JSON. Returns what was
/// written.
///
/// # Errors
/// When a file cannot be written.
pub fn write(run: &Run, ours: &dyn Fn(&str) -> Vec<&'static str>, html: &Path) -> Result<Vec<PathBuf>> {
    let plots = plots(run, ours);
    let put = |path: PathBuf, text: &str| -> Result<PathBuf> {
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    };
    let folder = html.with_extension("d");
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let mut written = vec![put(html.to_owned(), &page(run, &plots))?];
    for Plot { name, svg } in &plots {
        written.push(put(folder.join(format!("{name}.svg")), svg)?);
    }
    let json = folder.join("run.json");
    run.write(&json)?;
    written.push(json);
    Ok(written)
}

/// A plot for each group of measurements, in their order.
fn plots(run: &Run, ours: &dyn Fn(&str) -> Vec<&'static str>) -> Vec<Plot> {
    let groups = table::groups(run);
    let name = |number: usize, group: &[&Measurement]| {
        let scenario = group.first().map_or("", |measured| measured.scenario.as_str());
        format!("{:02}-{scenario}", number + 1)
    };
    let plot = |(number, group): (usize, &Vec<&Measurement>)| {
        let scenario = group.first().map_or("", |measured| measured.scenario.as_str());
        Plot { name: name(number, group), svg: plot::svg(group, &ours(scenario)) }
    };
    groups.iter().enumerate().map(plot).collect()
}

fn page(run: &Run, plots: &[Plot]) -> String {
    let mut body = String::new();
    let mut line = |text: String| {
        // Nothing can go wrong when a text is written into a text.
        writeln!(body, "{text}").unwrap_or(());
    };
    let when = i64::try_from(run.started).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    let when = when.map(|when| when.strftime("%Y-%m-%d %H:%M UTC").to_string()).unwrap_or_default();
    line("<header><h1>thalweg bench</h1>".to_owned());
    line(format!("<p class=\"verdict\">{}</p>", escape(&run.verdict())));
    if !run.complete {
        line("<p class=\"verdict\">This run is not complete: it was interrupted, or a scenario failed.</p>".to_owned());
    }
    line(format!("<dl><dt>machine</dt><dd>{}</dd>", escape(&run.machine.line())));
    line(format!("<dt>when</dt><dd>{}, version {}, commit {}</dd>", escape(&when), escape(&run.version), escape(&run.commit)));
    line(format!("<dt>installed beside</dt><dd>{}</dd>", escape(&run.beside())));
    line(format!("<dt>command</dt><dd><code>thalweg bench {}</code></dd>", escape(&run.command.join(" "))));
    line(format!("<dt>load before</dt><dd>{} runnable processes</dd></dl></header>", run.machine.load));
    for (group, Plot { svg, .. }) in table::groups(run).iter().zip(plots) {
        let Some(first) = group.first() else { continue };
        line(format!("<section><h2>{}</h2>\n{svg}", escape(&first.scenario)));
        line(format!("<details><summary>figures</summary>{}</details></section>", html_table(&table::table(group))));
    }
    if !run.missing.is_empty() {
        line("<section><h2>not measured</h2><ul>".to_owned());
        for missing in &run.missing {
            line(format!("<li>{}, {}: {}</li>", escape(&missing.scenario), escape(&missing.side), escape(&missing.why)));
        }
        line("</ul></section>".to_owned());
    }
    line(
        "<footer>A dot is a median, its line the 95 % confidence interval (bootstrap), or, in square brackets, all there is of \
         fewer than 6 values. A row `a / b` is the ratio of side a to side b in the same round; the grey band is how far the \
         second sample of a side was from its first. Links are veth: rates are not those of a network card.</footer>"
            .to_owned(),
    );
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>thalweg bench</title>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><meta name=\"color-scheme\" content=\"light dark\">\n\
         <style>{STYLE}</style></head>\n<body>\n{body}</body></html>\n"
    )
}

/// A table of Markdown, as [`table::table`] makes them, in HTML.
fn html_table(markdown: &str) -> String {
    let rows = markdown.lines().filter(|line| line.starts_with("| "));
    let cells = |row: &str, tag: &str| -> String {
        let cells = row.trim_matches('|').split(" | ");
        cells.map(|cell| format!("<{tag}>{}</{tag}>", escape(cell.trim()))).collect()
    };
    let rows: String = rows
        .enumerate()
        .map(|(number, row)| format!("<tr>{}</tr>", cells(row, if number == 0 { "th" } else { "td" })))
        .collect();
    format!("<div class=\"wide\"><table>{rows}</table></div>")
}

#[cfg(test)]
mod tests;
