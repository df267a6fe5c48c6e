//! Endpoints come and go under load.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{SELECTOR, client, ready_pods, scale, vip};
use crate::cluster::Cluster;
use crate::place::{Place, Running};
use crate::probe::{ConnectReport, HttpReport};

/// How long the data path may take to follow the endpoints.
const FOLLOWS: Duration = Duration::from_secs(1);

/// Loads from a pod by socket load balancing, from a pod by tc, and from outside.
fn loads(cluster: &Cluster) -> Result<Vec<(String, Running)>> {
    let from = client(cluster)?;
    let vip = format!("{}:80", vip(cluster)?);
    let node_port = format!("{}:{}", cluster.topology.nodes[0].addr, super::NODE_PORT);
    let places =
        [(Place::pod(cluster, &from)?, &vip), (Place::pod_by_tc(cluster, &from)?, &vip), (Place::outside(cluster), &node_port)];
    let mut running = Vec::new();
    for (place, target) in places {
        running.push((place.label.clone(), place.load(&["http", target, "--concurrency", "2", "--pause", "2"])?));
    }
    Ok(running)
}

/// Ends the loads; returns how many requests they made.
///
/// # Errors
/// When one of them met a single failure.
pub fn finish(loads: Vec<(String, Running)>) -> Result<u64> {
    let mut requests = 0;
    for (label, load) in loads {
        let report: HttpReport = load.finish()?;
        ensure!(
            report.failed == 0,
            "{label}: {} of {} requests failed: {:?}",
            report.failed,
            report.ok + report.failed,
            report.errors
        );
        ensure!(report.ok > 0, "{label}: the load made no request");
        requests += report.ok;
    }
    Ok(requests)
}

pub fn start_loads(cluster: &Cluster) -> Result<Vec<(String, Running)>> {
    loads(cluster)
}

pub fn follows(cluster: &mut Cluster) -> Result<String> {
    let loads = loads(cluster)?;
    let mut slowest = Duration::ZERO;
    for replicas in [1, 5, 3] {
        let pods = scale(cluster, replicas)?;
        slowest = slowest.max(backends_reach(cluster, pods.len())?);
    }
    let requests = finish(loads)?;
    ensure!(slowest <= FOLLOWS, "the data path followed the endpoints after {slowest:?}");
    Ok(format!("{requests} requests, none failed; followed within {} ms", slowest.as_millis()))
}

/// How long it takes from now until the service has `count` backends in the maps of every node. The views are
/// processes of their own, so this is an upper bound.
fn backends_reach(cluster: &Cluster, count: usize) -> Result<Duration> {
    let vip = vip(cluster)?;
    let started = Instant::now();
    for node in &cluster.nodes {
        loop {
            let held = backends(cluster, &node.name, &vip)?;
            if held == count {
                break;
            }
            ensure!(started.elapsed() < Duration::from_secs(10), "{}: {held} backends in the maps, {count} wanted", node.name);
        }
    }
    Ok(started.elapsed())
}

/// Backends of `web` port http, from the pinned maps.
fn backends(cluster: &Cluster, node: &str, vip: &str) -> Result<usize> {
    let address = format!("{vip}:80");
    let rows: serde_json::Value = serde_json::from_str(&cluster.thalweg(node, &["services", "-o", "json", "--vip", vip])?)?;
    Ok(rows
        .as_array()
        .into_iter()
        .flatten()
        .filter(|row| row.get("address").and_then(|value| value.as_str()) == Some(&address))
        .filter_map(|row| row.get("endpoints")?.as_array().map(Vec::len))
        .max()
        .unwrap_or(0))
}

pub fn delete_under_load(cluster: &mut Cluster) -> Result<String> {
    let pods = ready_pods(cluster, 3)?;
    let loads = loads(cluster)?;
    for pod in pods.iter().take(2) {
        cluster.kubectl(&["delete", "pod", &pod.name, "--wait=true", "--timeout=60s"])?;
        ready_pods(cluster, 3)?;
    }
    let requests = finish(loads)?;
    let now = cluster.pods(SELECTOR)?;
    ensure!(now.iter().all(|pod| pods[..2].iter().all(|gone| gone.uid != pod.uid)), "a deleted pod is still there");
    Ok(format!("{requests} requests, 2 pods replaced, none failed"))
}

pub fn zero_refuses(cluster: &mut Cluster) -> Result<String> {
    let from = client(cluster)?;
    let vip = format!("{}:80", vip(cluster)?);
    let node_port = format!("{}:{}", cluster.topology.nodes[0].addr, super::NODE_PORT);
    scale(cluster, 0)?;
    backends_reach(cluster, 0)?;
    let mut slowest = 0;
    for (place, target) in [
        (Place::pod(cluster, &from)?, &vip),
        (Place::pod_by_tc(cluster, &from)?, &vip),
        (Place::host(cluster, &from.node)?, &vip),
        (Place::outside(cluster), &node_port),
    ] {
        let report: ConnectReport = place.probe(&["connect", target])?;
        ensure!(report.outcome == "refused", "{} to {target} with no endpoints: {}", place.label, report.outcome);
        ensure!(report.micros < 500_000, "{} to {target}: refused only after {} ms", place.label, report.micros / 1000);
        slowest = slowest.max(report.micros);
    }
    // A port that the service does not have is refused too, instead of leaving the machine.
    let unknown = vip.replace(":80", ":81");
    let report: ConnectReport = Place::pod(cluster, &from)?.probe(&["connect", &unknown])?;
    ensure!(report.outcome == "refused", "a port without service: {}", report.outcome);
    scale(cluster, 3)?;
    Ok(format!("refused from 4 places, slowest {} µs", slowest))
}
