//! What the documents about deploying name is there: files, headings, values of the chart, metrics, patches.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use regex::Regex;
use serde_json::{Value, json};
use thalweg_deploy::{Chart, folder, kinds};
use thalweg_proxy::metrics::Metrics;

fn root() -> PathBuf {
    folder().parent().expect("the repository").to_owned()
}

/// Path and text.
fn documents() -> [(PathBuf, String); 2] {
    ["docs/replacing-kube-proxy.md", "deploy/README.md"].map(|name| {
        let path = root().join(name);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
        (path, text)
    })
}

fn found<'a>(pattern: &str, text: &'a str) -> Vec<&'a str> {
    let pattern = Regex::new(pattern).expect("a pattern");
    pattern.captures_iter(text).map(|captures| captures.get(1).expect("a group").as_str()).collect()
}

/// Headings as links name them.
fn anchors(path: &Path) -> BTreeSet<String> {
    let text = std::fs::read_to_string(path).expect("a document");
    let headings = found("(?m)^#+ (.+)$", &text).into_iter();
    headings.map(|heading| heading.to_lowercase().replace(' ', "-").replace(['`', ',', '.', ':'], "")).collect()
}

#[test]
fn links_lead_somewhere() {
    for (path, text) in documents() {
        let links = found(r"\]\(([^)]+)\)", &text);
        assert!(links.len() > 3, "{}", path.display());
        for link in links {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { path.clone() } else { path.parent().expect("a folder").join(file) };
            assert!(target.exists(), "{}: {link}", path.display());
            assert!(
                anchor.is_empty() || anchors(&target).contains(anchor),
                "{}: {link}: {:?}",
                path.display(),
                anchors(&target)
            );
        }
    }
}

#[test]
fn files_in_commands_exist() {
    for (path, text) in documents() {
        for name in found(r"[ (`](deploy/[a-zA-Z0-9_./-]*[a-zA-Z0-9/])", &text) {
            assert!(root().join(name).exists(), "{}: {name}", path.display());
        }
    }
}

#[test]
fn values_of_the_chart_exist() {
    let chart = Chart::open(&folder().join("chart/thalweg")).expect("the chart");
    let mut seen = 0;
    for (path, text) in documents() {
        for name in found(r"--set(?:-string)? '?([a-zA-Z.]+)", &text) {
            let pointer = format!("/{}", name.replace('.', "/"));
            // Below a free object every name is one.
            let parent = pointer.rsplit_once('/').map_or("", |(parent, _)| parent);
            let free = |pointer: &str| chart.defaults.pointer(pointer).is_some_and(|value| *value == json!({}));
            let there = chart.defaults.pointer(&pointer).is_some() || free(parent);
            assert!(there, "{}: {name}", path.display());
            seen += 1;
        }
    }
    assert!(seen >= 4, "{seen}");
}

#[test]
fn metrics_exist() {
    let page = Metrics::default().render(None);
    for (path, text) in documents() {
        for name in found(r"`((?:thalweg|kubeproxy)_[a-z_]+_[a-z]+)[`{]", &text) {
            let kept = page.contains(&format!("# TYPE {name} ")) || name.starts_with("thalweg_map_");
            assert!(kept, "{}: {name}", path.display());
        }
    }
}

#[test]
fn patches_are_patches_of_a_daemon_set() {
    let mut seen = 0;
    for (path, text) in documents() {
        for patch in found(r"-p '(\{.+?\})'", &text) {
            let mut object: Value =
                serde_json::from_str(patch).unwrap_or_else(|error| panic!("{}: {error}: {patch}", path.display()));
            object["apiVersion"] = json!("apps/v1");
            object["kind"] = json!("DaemonSet");
            // What a patch may leave out, an object may not.
            object["metadata"] = json!({"name": "x"});
            object["spec"]["selector"] = json!({});
            object["spec"]["template"]["spec"]["containers"] = json!([]);
            kinds::check(&object).unwrap_or_else(|error| panic!("{}: {error:#}", path.display()));
            seen += 1;
        }
    }
    assert_eq!(seen, 2);
}
