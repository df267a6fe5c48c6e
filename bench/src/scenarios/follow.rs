//! An agent that follows an API server with many services: how long the first sync takes, how fast one changed endpoint
//! reaches the maps, how much memory it needs. What a cluster's node does all day, without any traffic.

use std::fmt::Write as _;
use std::fs;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use thalweg_lab::cluster::{Cluster, Node, Options};

use crate::agent::{self, Figures, memory};
use crate::bench::{Bench, Case};
use crate::run::Better;
use crate::scenario::{CLUSTER, Need, Scenario};
use crate::settings::Settings;

/// How many objects one kubectl creates, several at a time.
const CHUNK: u32 = 2_500;
/// Most services that the lab's service range has room for.
const MOST: u32 = 50_000;
const RESTARTS: u32 = 3;

pub struct Follow;

// === impl Follow ===

impl Scenario for Follow {
    fn name(&self) -> &'static str {
        "follow"
    }

    fn about(&self) -> &'static str {
        "an agent that follows an API server: syncs after restarts, one changed endpoint, memory of both"
    }

    fn ours(&self) -> &'static [&'static str] {
        &["agent"]
    }

    fn against(&self) -> &'static [&'static str] {
        &[]
    }

    fn needs(&self) -> &'static [Need] {
        CLUSTER
    }

    fn cases(&self, settings: &Settings) -> usize {
        settings.services.len()
    }

    fn run(&self, bench: &mut Bench<'_>) -> Result<()> {
        bench.alone()?;
        for services in bench.settings.services.clone() {
            if bench.stopped() {
                return Ok(());
            }
            if services > MOST {
                bench.missing(
                    "agent",
                    format!("{services} services are more than the lab's service range has room for: {MOST}"),
                );
                continue;
            }
            bench.say(format!("a cluster for {services} services"));
            let (id, bin) = (format!("{}api", bench.settings.lab), bench.settings.bin.clone());
            let mut cluster = Cluster::start(&Options { id, nodes: 1, data: None, bin }, &|_| {})?;
            let result = measure(bench, &mut cluster, services);
            let removed = cluster.remove();
            bench.over();
            result?;
            removed?;
        }
        Ok(())
    }
}

fn measure(bench: &mut Bench<'_>, cluster: &mut Cluster, services: u32) -> Result<()> {
    cluster.kubectl(&["create", "namespace", "bench"])?;
    fill(bench, cluster, services)?;
    // The maps of the agent that saw them come are complete; those of its successors are adopted.
    until(cluster, "the agent has synced", |agent| agent.services >= u64::from(services))?;
    let mut syncs = Vec::new();
    for number in 1..=RESTARTS {
        if bench.stopped() {
            break;
        }
        bench.say(format!("restart {number} of {RESTARTS} at {services} services"));
        let node = cluster.nodes.first_mut().context("no node")?;
        node.agent.stop(Duration::from_secs(10))?;
        let name = node.name.clone();
        cluster.restart_agent(&name)?;
        let figures = until(cluster, "the agent has synced", |agent| agent.synced && agent.services >= u64::from(services))?;
        syncs.push(figures.first_sync_us as f64 / 1000.0);
    }
    tell(bench, services, "first sync on adopted maps", "ms", syncs);
    if bench.stopped() {
        return Ok(());
    }
    let changes = bench.settings.changes;
    bench.say(format!("{changes} changes at {services} services"));
    for number in 0..changes {
        let address = format!("10.201.{}.{}", number / 250 % 250, 1 + number % 250);
        let patch = serde_json::json!({"endpoints": [{"addresses": [address], "conditions": {"ready": true}}]}).to_string();
        cluster.kubectl(&["patch", "endpointslice", "s0-1", "-n", "bench", "--type=merge", "-p", &patch])?;
    }
    let figures = until(cluster, "the changes are counted", |agent| agent.changes >= u64::from(changes))?;
    let agent = cluster.nodes.first().context("no node")?.agent.id();
    let (resident, private) = memory(agent)?;
    let (server, _) = memory(cluster.server.id())?;
    tell(bench, services, "one change, p50", "µs", vec![figures.change_to_map_p50_us as f64]);
    tell(bench, services, "one change, p99", "µs", vec![figures.change_to_map_p99_us as f64]);
    tell(bench, services, "agent, resident", "MB", vec![resident]);
    tell(bench, services, "agent, its own", "MB", vec![private]);
    tell(bench, services, "server, resident", "MB", vec![server]);
    Ok(())
}

fn tell(bench: &mut Bench<'_>, services: u32, what: &str, unit: &'static str, values: Vec<f64>) {
    let case = Case::new(unit, Better::Lower).with("services", services).with("what", what);
    bench.figures(case, vec![("agent", values)]);
}

/// Waits for what the first node's agent says.
fn until(cluster: &mut Cluster, what: &str, ready: impl Fn(&Figures) -> bool) -> Result<Figures> {
    let Node { dir, agent, .. } = cluster.nodes.first_mut().context("no node")?;
    agent::until(agent, &dir.join("run"), what, ready)
}

/// Creates the services and their slices, by several clients at once.
fn fill(bench: &Bench<'_>, cluster: &Cluster, count: u32) -> Result<()> {
    let mut clients = Vec::new();
    for start in (0..count).step_by(CHUNK as usize) {
        bench.say(format!("services {start} to {}", (start + CHUNK).min(count)));
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
