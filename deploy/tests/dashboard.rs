//! The Grafana dashboard: valid, and about metrics and labels that the proxy really has.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use thalweg_abi::{Counter, DropReason};
use thalweg_deploy::folder;
use thalweg_proxy::health::Probe;
use thalweg_proxy::metrics::{KernelFigures, MapFigure, Metrics, NoLocal};

/// Labels that Prometheus adds to what it scrapes.
const TARGET: &[&str] = &["instance", "job"];
/// Words of the query language that may stand where a metric may.
const WORDS: &[&str] =
    &["by", "without", "on", "ignoring", "group_left", "group_right", "offset", "bool", "and", "or", "unless"];

fn dashboard() -> Value {
    let text = std::fs::read_to_string(folder().join("grafana/thalweg.json")).expect("the dashboard");
    serde_json::from_str(&text).expect("JSON")
}

/// Labels by metric: the page that a proxy serves, with a sample of everything that comes and goes.
fn exported() -> BTreeMap<String, BTreeSet<String>> {
    let metrics = Metrics::default();
    metrics.no_local_endpoints(NoLocal::default());
    for probe in [Probe::Healthz, Probe::Livez] {
        metrics.probed(probe, 200);
    }
    metrics.maps([MapFigure { map: "FRONTENDS", entries: Some(1), capacity: 2 }]);
    let kernel = KernelFigures {
        drops: vec![(DropReason::Malformed.name(), 1)],
        events: vec![(Counter::SockLookup.name(), 1)],
        adoptions: 1,
    };
    let page = metrics.render(Some(&kernel));
    let mut exported: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let (name, rest) = line.split_at(line.find(['{', ' ']).expect("a sample"));
        let labels = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')).map_or("", |(labels, _)| labels);
        let labels = labels.split(',').filter_map(|label| label.split_once('=')).map(|(label, _)| label.to_owned());
        exported.entry(name.to_owned()).or_default().extend(labels);
    }
    exported
}

/// Panels, those in collapsed rows too.
fn panels(dashboard: &Value) -> Vec<&Value> {
    let top = dashboard["panels"].as_array().expect("panels");
    let inner = top.iter().filter_map(|panel| panel["panels"].as_array()).flatten();
    top.iter().chain(inner).collect()
}

fn expressions(dashboard: &Value) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    for panel in panels(dashboard) {
        for target in panel["targets"].as_array().into_iter().flatten() {
            found.push((panel["title"].as_str().expect("a title"), target["expr"].as_str().expect("an expression")));
        }
    }
    found
}

/// Metrics of an expression, each with the labels that it selects by, and the labels that the whole groups by.
fn parse(expression: &str) -> (Vec<(String, BTreeSet<String>)>, BTreeSet<String>) {
    let (mut metrics, mut groups) = (Vec::new(), BTreeSet::new());
    let mut rest = expression;
    let mut last = String::new();
    while let Some(first) = rest.chars().next() {
        let word_len = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':').unwrap_or(rest.len());
        if first.is_ascii_alphabetic() && word_len > 0 {
            let word = &rest[..word_len];
            rest = &rest[word_len..];
            let after = rest.trim_start();
            let called = ["(", "by ", "by(", "without ", "without("].iter().any(|next| after.starts_with(next));
            if !called && !WORDS.contains(&word) {
                metrics.push((word.to_owned(), BTreeSet::new()));
            }
            word.clone_into(&mut last);
        } else if first == '{' {
            let (inside, after) = rest[1..].split_once('}').expect("a selector ends");
            let labels = inside.split(',').map(|label| label.split(['=', '!', '~']).next().unwrap_or_default().to_owned());
            metrics.last_mut().expect("a metric before its selector").1.extend(labels);
            rest = after;
        } else if first == '(' && ["by", "without", "on", "ignoring"].contains(&last.as_str()) {
            let (inside, after) = rest[1..].split_once(')').expect("a grouping ends");
            groups.extend(inside.split(',').map(|label| label.trim().to_owned()));
            last.clear();
            rest = after;
        } else if first == '[' {
            rest = rest.split_once(']').expect("a range ends").1;
        } else {
            if !first.is_whitespace() {
                last.clear();
            }
            // A number, with its digits, or one sign.
            let skip = if first.is_ascii_digit() { word_len } else { first.len_utf8() };
            rest = &rest[skip..];
        }
    }
    (metrics, groups)
}

#[test]
fn every_metric_and_label_of_the_dashboard_exists() {
    let dashboard = dashboard();
    let exported = exported();
    let expressions = expressions(&dashboard);
    assert!(expressions.len() > 20, "{}", expressions.len());
    for (title, expression) in expressions {
        let (metrics, groups) = parse(expression);
        assert!(!metrics.is_empty(), "{title}: {expression}");
        let mut all: BTreeSet<&str> = TARGET.iter().copied().collect();
        for (metric, labels) in &metrics {
            let known = exported.get(metric).unwrap_or_else(|| panic!("{title}: there is no metric {metric}"));
            let fits = |label: &String| known.contains(label) || TARGET.contains(&label.as_str());
            assert!(labels.iter().all(fits), "{title}: {metric} has {known:?}, not {labels:?}");
            all.extend(known.iter().map(String::as_str));
        }
        assert!(groups.iter().all(|label| all.contains(label.as_str())), "{title}: grouped by {groups:?}, there is {all:?}");
    }
}

/// What is worth exporting is worth showing.
#[test]
fn every_metric_of_the_proxy_is_in_the_dashboard() {
    let dashboard = dashboard();
    let mut shown = BTreeSet::new();
    for (_, expression) in expressions(&dashboard) {
        shown.extend(parse(expression).0.into_iter().map(|(metric, _)| metric));
    }
    let family = |name: &str| {
        let stem = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
        stem.unwrap_or(name).to_owned()
    };
    let shown: BTreeSet<String> = shown.iter().map(|name| family(name)).collect();
    let ours = exported().into_keys().filter(|name| !name.starts_with("process_"));
    let missing: BTreeSet<String> = ours.map(|name| family(&name)).filter(|name| !shown.contains(name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn panels_are_whole_and_do_not_overlap() {
    let dashboard = dashboard();
    let mut ids = BTreeSet::new();
    let mut cells = BTreeSet::new();
    let variables: BTreeSet<&str> =
        dashboard["templating"]["list"].as_array().expect("variables").iter().filter_map(|v| v["name"].as_str()).collect();
    assert_eq!(variables, BTreeSet::from(["datasource", "instance", "job"]));
    for panel in panels(&dashboard) {
        let title = panel["title"].as_str().filter(|title| !title.is_empty()).expect("a title");
        assert!(ids.insert(panel["id"].as_u64().expect("an id")), "{title}: its id is there twice");
        let at = |field: &str| panel["gridPos"][field].as_u64().unwrap_or_else(|| panic!("{title}: {field}"));
        assert!(at("x") + at("w") <= 24, "{title}: beyond the edge");
        for cell in (at("x")..at("x") + at("w")).flat_map(|x| (at("y")..at("y") + at("h")).map(move |y| (x, y))) {
            assert!(cells.insert(cell), "{title}: on top of another panel");
        }
        if panel["type"] == "row" {
            continue;
        }
        assert!(panel["description"].as_str().is_some_and(|text| text.ends_with('.')), "{title}: no description");
        let targets = panel["targets"].as_array().expect("targets");
        let refs: BTreeSet<&str> = targets.iter().filter_map(|target| target["refId"].as_str()).collect();
        assert_eq!(refs.len(), targets.len(), "{title}: two queries of one name");
        for target in targets {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
            let expression = target["expr"].as_str().expect("an expression");
            assert!(expression.contains("job=~\"$job\",instance=~\"$instance\""), "{title}: not for the chosen nodes");
            let count = |c: char| expression.chars().filter(|found| *found == c).count();
            for (open, close) in [('(', ')'), ('{', '}'), ('[', ']')] {
                assert_eq!(count(open), count(close), "{title}: {expression}");
            }
        }
    }
}

#[test]
fn expressions_are_read_as_prometheus_reads_them() {
    let (metrics, groups) =
        parse("sum by (le, a) (rate(x_total{job=~\"$job\",k!=\"v\"}[5m])) / clamp_min(y - on (b) z, 0.5) > 1e3");
    let names: Vec<&str> = metrics.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["x_total", "y", "z"]);
    assert_eq!(metrics[0].1, BTreeSet::from(["job".to_owned(), "k".to_owned()]));
    assert_eq!(groups, BTreeSet::from(["a", "b", "le"].map(str::to_owned)));
}
