//! The agent may die; the data path may not.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{scale, vip};
use crate::cluster::Cluster;
use crate::process::wait_until;

pub fn killed_and_restarted(cluster: &mut Cluster) -> Result<String> {
    let names: Vec<String> = cluster.nodes.iter().map(|node| node.name.clone()).collect();
    let before: Result<Vec<Value>> = names.iter().map(|name| status(cluster, name)).collect();
    let loads = scale::start_loads(cluster)?;
    std::thread::sleep(Duration::from_millis(500));
    for name in &names {
        let node = cluster.nodes.iter_mut().find(|node| node.name == *name).context("node")?;
        node.agent.kill()?;
        // Long enough that a data path which needed its agent would be noticed.
        std::thread::sleep(Duration::from_millis(1000));
        cluster.restart_agent(name)?;
        let adoptions = number(&status(cluster, name)?, "adoptions")?;
        wait_until("the agent has adopted the maps", Duration::from_secs(20), &mut [], || {
            let now = status(cluster, name)?;
            Ok(number(&now, "adoptions")? > adoptions || number(&now, "adoptions")? > 0)
        })?;
    }
    // The restarted agents must follow changes again.
    super::scale(cluster, 4)?;
    super::scale(cluster, 3)?;
    let requests = scale::finish(loads)?;
    for (name, before) in names.iter().zip(before?) {
        let after = status(cluster, name)?;
        ensure!(
            number(&after, "created_at")? == number(&before, "created_at")?,
            "{name}: the maps were made anew instead of adopted: {before} then {after}"
        );
        ensure!(number(&after, "adoptions")? > number(&before, "adoptions")?, "{name}: no adoption counted: {after}");
    }
    Ok(format!("{requests} requests, {} agents killed, none failed, maps adopted", names.len()))
}

pub fn views(cluster: &mut Cluster) -> Result<String> {
    let vip = vip(cluster)?;
    let mut tracked = 0;
    for node in &cluster.nodes {
        let services = cluster.thalweg(&node.name, &["services"])?;
        ensure!(services.contains("default/web") && services.contains(&vip), "{}: `thalweg services`:\n{services}", node.name);
        let flows: Value = serde_json::from_str(&cluster.thalweg(&node.name, &["conntrack", "-o", "json"])?)?;
        tracked += flows.as_array().map_or(0, Vec::len);
        let status = status(cluster, &node.name)?;
        ensure!(status.get("synced").and_then(Value::as_bool) == Some(true), "{}: not synced: {status}", node.name);
    }
    ensure!(tracked > 0, "no flow is tracked although tc has translated some");
    Ok(format!("{tracked} entries in CONNTRACK"))
}

fn status(cluster: &Cluster, node: &str) -> Result<Value> {
    serde_json::from_str(&cluster.thalweg(node, &["status", "-o", "json"])?).context("thalweg status printed no JSON")
}

fn number(status: &Value, key: &str) -> Result<u64> {
    status.get(key).and_then(Value::as_u64).with_context(|| format!("`thalweg status` has no {key}: {status}"))
}
