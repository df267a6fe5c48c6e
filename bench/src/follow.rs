//! An agent that follows an API server with many services: how long the first sync takes, how fast one changed endpoint
//! reaches the maps, how much memory it needs. What a cluster's node does all day, without any traffic.

use std::fmt::Write as _;
use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use serde_json::Value;
use thalweg_lab::cluster::{Cluster, Options};

use crate::Common;
use crate::agent::memory;

/// How many objects one kubectl creates, several at a time.
const CHUNK: u32 = 2_500;
const DEADLINE: Duration = Duration::from_secs(600);

#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    common: Common,
    /// How many services, each with a slice of two endpoints; at most 50,000, which the lab's service range has room for.
    #[arg(long, default_value_t = 10_000)]
    services: u32,
    /// Endpoint changes to time, one after another.
    #[arg(long, default_value_t = 200)]
    changes: u32,
    /// Restarts of the agent, each with a first sync.
    #[arg(long, default_value_t = 3)]
    restarts: u32,
}

#[derive(Debug, Default, Serialize)]
struct Figures {
    services: u32,
    /// Milliseconds from the last page of the lists to live maps, at each start of the agent: on empty maps, then adopted.
    first_sync_ms: Vec<f64>,
    /// Microseconds from a watch event to live maps, as the agent measured them.
    change_p50_us: u64,
    change_p99_us: u64,
    changes: u64,
    /// Resident set and its private part, in MB.
    agent_rss_mb: f64,
    agent_private_mb: f64,
    server_rss_mb: f64,
}

pub fn run(args: &Args) -> Result<()> {
    ensure!((1..=50_000).contains(&args.services), "--services {}: 1 to 50000", args.services);
    let bin = args.common.bin()?;
    let options = Options { id: "benchapi".to_owned(), nodes: 1, data: None, bin };
    let mut cluster = Cluster::start(&options, &|_| {})?;
    let result = measure(args, &mut cluster);
    let removed = cluster.remove();
    let figures = result?;
    removed?;
    println!("{} services by the API server, each with two endpoints", figures.services);
    let starts: Vec<String> = figures.first_sync_ms.iter().map(|ms| format!("{ms:.0}")).collect();
    println!("first sync, ms: {}", starts.join(", "));
    let Figures { change_p50_us, change_p99_us, changes, agent_rss_mb, agent_private_mb, server_rss_mb, .. } = figures;
    println!(
        "one changed endpoint, watch event to live maps: p50 {change_p50_us} µs, p99 {change_p99_us} µs over {changes} changes"
    );
    println!("agent resident {agent_rss_mb:.1} MB ({agent_private_mb:.1} MB its own), server {server_rss_mb:.1} MB");
    if let Some(path) = &args.common.json {
        fs::write(path, serde_json::to_string_pretty(&figures)?).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

fn measure(args: &Args, cluster: &mut Cluster) -> Result<Figures> {
    let mut figures = Figures { services: args.services, ..Figures::default() };
    cluster.kubectl(&["create", "namespace", "bench"])?;
    fill(cluster, args.services)?;
    let node = cluster.nodes.first().context("no node")?.name.clone();
    // The maps of the agent that saw them come are complete; those of its successors are adopted.
    synced(cluster, &node, args.services)?;
    for number in 0..args.restarts {
        eprintln!("restart {} of {}", number + 1, args.restarts);
        if let Some(node) = cluster.nodes.first_mut() {
            node.agent.stop(Duration::from_secs(10))?;
        }
        cluster.restart_agent(&node)?;
        synced(cluster, &node, args.services)?;
        let micros = figure(&status(cluster, &node)?, "first_sync_us").context("no first sync in the status")?;
        figures.first_sync_ms.push(micros as f64 / 1000.0);
    }
    eprintln!("{} changes", args.changes);
    for number in 0..args.changes {
        let address = format!("10.201.{}.{}", number / 250, 1 + number % 250);
        let patch = serde_json::json!({"endpoints": [{"addresses": [address], "conditions": {"ready": true}}]}).to_string();
        cluster.kubectl(&["patch", "endpointslice", "s0-1", "-n", "bench", "--type=merge", "-p", &patch])?;
    }
    until("the changes are counted", || {
        Ok(figure(&status(cluster, &node)?, "changes").is_some_and(|changes| changes >= u64::from(args.changes)))
    })?;
    let status = status(cluster, &node)?;
    figures.change_p50_us = figure(&status, "change_to_map_p50_us").unwrap_or_default();
    figures.change_p99_us = figure(&status, "change_to_map_p99_us").unwrap_or_default();
    figures.changes = figure(&status, "changes").unwrap_or_default();
    (figures.agent_rss_mb, figures.agent_private_mb) = memory(cluster.node(&node)?.agent.id())?;
    (figures.server_rss_mb, _) = memory(cluster.server.id())?;
    Ok(figures)
}

/// Creates the services and their slices, by several clients at once.
fn fill(cluster: &Cluster, count: u32) -> Result<()> {
    let mut clients = Vec::new();
    for start in (0..count).step_by(CHUNK as usize) {
        eprintln!("services {start} to {}", (start + CHUNK).min(count));
        let mut text = String::new();
        for number in start..(start + CHUNK).min(count) {
            write!(
                text,
                "---\n{{\"apiVersion\":\"v1\",\"kind\":\"Service\",\"metadata\":{{\"name\":\"s{number}\",\"namespace\":\"bench\"}},\
                 \"spec\":{{\"ports\":[{{\"port\":80,\"protocol\":\"TCP\",\"targetPort\":8080}}]}}}}\n\
                 ---\n{{\"apiVersion\":\"discovery.k8s.io/v1\",\"kind\":\"EndpointSlice\",\"metadata\":{{\"name\":\"s{number}-1\",\"namespace\":\"bench\",\
                 \"labels\":{{\"kubernetes.io/service-name\":\"s{number}\"}}}},\"addressType\":\"IPv4\",\"ports\":[{{\"port\":8080,\"protocol\":\"TCP\"}}],\
                 \"endpoints\":[{{\"addresses\":[\"10.200.{}.{}\"]}},{{\"addresses\":[\"10.202.{}.{}\"]}}]}}\n",
                number / 250,
                1 + number % 250,
                number / 250,
                1 + number % 250,
            )?;
        }
        let file = cluster.data.join(format!("bench-{start}.yaml"));
        fs::write(&file, text)?;
        let mut command = cluster.kubectl_command(&["create", "--validate=false", "-f"]);
        clients.push(command.arg(&file).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().context("start kubectl")?);
        if clients.len() == 2 {
            finish(std::mem::take(&mut clients))?;
        }
    }
    finish(clients)
}

fn finish(clients: Vec<std::process::Child>) -> Result<()> {
    for client in clients {
        let output = client.wait_with_output()?;
        ensure!(output.status.success(), "kubectl create: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

fn status(cluster: &Cluster, node: &str) -> Result<Value> {
    let run = cluster.node(node)?.dir.join("run");
    let output = cluster.thalweg(node, &["status", "-o", "json", "--run", run.to_str().context("path")?])?;
    serde_json::from_str(&output).context("thalweg status printed no JSON")
}

fn figure(status: &Value, key: &str) -> Option<u64> {
    status.pointer(&format!("/agent/{key}")).and_then(Value::as_u64)
}

fn synced(cluster: &Cluster, node: &str, count: u32) -> Result<()> {
    until("the agent has synced", || {
        let Ok(status) = status(cluster, node) else { return Ok(false) };
        let done = status.pointer("/agent/synced") == Some(&Value::Bool(true));
        Ok(done && figure(&status, "services").is_some_and(|services| services >= u64::from(count)))
    })
}

fn until(what: &str, mut ready: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + DEADLINE;
    while Instant::now() < end {
        if ready()? {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    bail!("{what}: not within {DEADLINE:?}")
}
