//! What `up` shows: nodes, pods, services, a DNS answer, a spread of requests, and the data path's counters.

use std::fmt::Write as _;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::cluster::{Cluster, Pod};
use crate::place::Place;
use crate::probe::{DnsReport, HttpReport};
use crate::topology::CLUSTER_DNS;

/// The whole screen as text. Parts that fail say so instead of hiding the rest.
pub fn render(cluster: &Cluster) -> String {
    let mut screen = String::new();
    let mut section = |title: &str, body: Result<String>| {
        let body = body.unwrap_or_else(|error| format!("{error:#}"));
        let _ = write!(screen, "\n{title}\n{}", indent(body.trim_end()));
    };
    section("NODES", cluster.kubectl(&["get", "nodes", "-o", "wide"]).map(|text| columns(&text, 6)));
    section("PODS", cluster.kubectl(&["get", "pods", "-A", "-o", "wide"]).map(|text| columns(&text, 8)));
    section("SERVICES", cluster.kubectl(&["get", "services", "-A"]));
    section("DNS", name(cluster));
    section("100 REQUESTS THROUGH THE VIP", spread(cluster));
    section("DATA PATH", counters(cluster));
    screen
}

/// The line that makes the user's own kubectl talk to this cluster.
pub fn kubectl_hint(cluster: &Cluster) -> String {
    format!("export KUBECONFIG={}", cluster.kubeconfig.display())
}

fn client(cluster: &Cluster) -> Result<Pod> {
    cluster.pods("app=client")?.into_iter().next().context("no pod `client` yet")
}

fn name(cluster: &Cluster) -> Result<String> {
    let server = format!("{CLUSTER_DNS}:53");
    let place = Place::pod(cluster, &client(cluster)?)?;
    let report: DnsReport = place.probe(&["dns", "web.default.svc.cluster.local.", "A", "--server", &server])?;
    Ok(format!("{} ({}, {} µs, asked in pod client)", report.answers.join("\n"), report.rcode, report.micros))
}

fn spread(cluster: &Cluster) -> Result<String> {
    let place = Place::pod(cluster, &client(cluster)?)?;
    let report: HttpReport = place.probe(&["http", "web:80", "--count", "100"])?;
    let mut text = String::new();
    for (pod, count) in &report.pods {
        let bar = "█".repeat(usize::try_from(count / 2).unwrap_or(0));
        let _ = writeln!(text, "{pod:<24} {count:>4} {bar}");
    }
    let nodes: Vec<String> = report.nodes.iter().map(|(node, count)| format!("{node} {count}")).collect();
    let _ = write!(
        text,
        "{} ok, {} failed; by node: {}; p99 {} µs",
        report.ok,
        report.failed,
        nodes.join(", "),
        report.latency.p99
    );
    Ok(text)
}

fn counters(cluster: &Cluster) -> Result<String> {
    let mut text = String::new();
    for node in &cluster.nodes {
        let status: Value = serde_json::from_str(&cluster.thalweg(&node.name, &["status", "-o", "json"])?)?;
        let list = |key: &str| -> String {
            let rows = status.get(key).and_then(Value::as_array);
            let shown: Vec<String> = rows
                .into_iter()
                .flatten()
                .filter_map(|row| Some((row.get("name")?.as_str()?, row.get("count")?.as_u64()?)))
                .filter(|(_, count)| *count > 0)
                .map(|(name, count)| format!("{name} {count}"))
                .collect();
            if shown.is_empty() { "none".to_owned() } else { shown.join(", ") }
        };
        let _ = writeln!(text, "{}: {}\n  drops: {}", node.name, list("counters"), list("drops"));
    }
    Ok(text)
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

/// The first `count` columns of kubectl's wide output, which else does not fit a terminal. The header tells where
/// columns begin: after three blanks or more.
fn columns(text: &str, count: usize) -> String {
    let Some(header) = text.lines().next() else { return String::new() };
    let mut blanks = 3;
    let begins = header.char_indices().filter(|(_, letter)| {
        let begins = *letter != ' ' && blanks >= 3;
        blanks = if *letter == ' ' { blanks + 1 } else { 0 };
        begins
    });
    let end = begins.map(|(at, _)| at).nth(count).unwrap_or(usize::MAX);
    text.lines().map(|line| format!("{}\n", line.chars().take(end).collect::<String>().trim_end())).collect()
}

#[cfg(test)]
mod tests {
    use super::columns;

    #[test]
    fn wide_output_is_cut_between_columns() {
        let text = "NAME      STATUS   AGE\nnode-a    Ready    5s\n";
        assert_eq!(columns(text, 2), "NAME      STATUS\nnode-a    Ready\n");
        assert_eq!(columns(text, 9), text);
        let text = "NAME     STATUS     NOMINATED NODE   AGE\nnode-a   Ready      <none>           5s\n";
        assert_eq!(columns(text, 3), "NAME     STATUS     NOMINATED NODE\nnode-a   Ready      <none>\n");
        assert_eq!(columns("", 2), "");
    }
}
