//! The numbers of a small cluster: how fast it starts, how fast the data path follows the endpoints, and what a
//! virtual IP costs against dialling the pod itself.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::Value;
use thalweg_lab::cluster::{Cluster, Options, Pod};
use thalweg_lab::place::Place;
use thalweg_lab::probe::RateReport;

use crate::Common;
use crate::stats::Spread;

/// One server behind one service on each node, and a client on the first.
const MANIFEST: &str = include_str!("first_light.yaml");

#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    common: Common,
    /// Repetitions of each rate, alternating.
    #[arg(long, default_value_t = 9)]
    runs: usize,
    /// Milliseconds of each repetition.
    #[arg(long, default_value_t = 1000)]
    millis: u64,
    /// Cluster starts to time.
    #[arg(long, default_value_t = 3)]
    starts: usize,
    /// Endpoint changes to time.
    #[arg(long, default_value_t = 40)]
    changes: usize,
}

#[derive(Debug, Default, Serialize)]
struct Figures {
    /// Seconds from nothing to all nodes Ready.
    start_seconds: Option<Spread>,
    /// Microseconds from the watch event to live maps, as the agent measured them.
    change_to_map_p50: Option<u64>,
    change_to_map_p99: Option<u64>,
    changes: Option<u64>,
    rates: Vec<Rate>,
}

#[derive(Debug, Serialize)]
struct Rate {
    what: String,
    direct_per_second: Spread,
    vip_per_second: Spread,
    /// VIP / direct, pair by pair.
    ratio: Spread,
    /// Direct / direct in the same alternation: the noise that a ratio of 1 would show.
    noise: Spread,
}

pub fn run(args: &Args) -> Result<()> {
    ensure!(args.runs >= 3, "--runs {}: at least 3, or there is no spread", args.runs);
    let bin = args.common.bin()?;
    let mut figures = Figures::default();
    let mut starts = Vec::new();
    let mut cluster = None;
    for number in 0..args.starts.max(1) {
        if let Some(old) = cluster.take() {
            Cluster::remove(old)?;
        }
        eprintln!("start {} of {}", number + 1, args.starts.max(1));
        let options = Options { id: "bench".to_owned(), nodes: 2, data: None, bin: bin.clone() };
        let started = Instant::now();
        cluster = Some(Cluster::start(&options, &|_| {})?);
        starts.push(started.elapsed().as_secs_f64());
    }
    figures.start_seconds = Spread::of(&starts);
    let cluster = cluster.context("no cluster")?;
    deploy(&cluster)?;
    changes(&cluster, args.changes, &mut figures)?;
    rates(&cluster, args, &mut figures)?;
    cluster.remove()?;
    print(&figures);
    if let Some(path) = &args.common.json {
        std::fs::write(path, serde_json::to_string_pretty(&figures)?).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

fn deploy(cluster: &Cluster) -> Result<()> {
    let file = cluster.data.join("bench.yaml");
    std::fs::write(&file, MANIFEST)?;
    cluster.kubectl(&["apply", "-f", file.to_str().context("path")?])?;
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s"])?;
    Ok(())
}

/// Scales a deployment up and down, then reads what the agents measured.
fn changes(cluster: &Cluster, count: usize, figures: &mut Figures) -> Result<()> {
    eprintln!("{count} endpoint changes");
    for number in 0..count {
        let address = format!("192.0.2.{}", 1 + number % 200);
        let patch = serde_json::json!({"endpoints": [{"addresses": [address], "conditions": {"ready": true}}]}).to_string();
        cluster.kubectl(&["patch", "endpointslice", "bench-manual", "--type=merge", "-p", &patch])?;
    }
    std::thread::sleep(Duration::from_millis(500));
    let node = &cluster.nodes.first().context("no node")?;
    let output =
        cluster.thalweg(&node.name, &["status", "-o", "json", "--run", node.dir.join("run").to_str().context("path")?])?;
    let status: Value = serde_json::from_str(&output)?;
    let number = |key: &str| status.pointer(&format!("/agent/{key}")).and_then(Value::as_u64);
    figures.change_to_map_p50 = number("change_to_map_p50_us");
    figures.change_to_map_p99 = number("change_to_map_p99_us");
    figures.changes = number("changes");
    Ok(())
}

/// Direct, VIP, direct again, round after round.
fn rates(cluster: &Cluster, args: &Args, figures: &mut Figures) -> Result<()> {
    let pods = cluster.pods("app=bench")?;
    let pod =
        |name: &str| -> Result<&Pod> { pods.iter().find(|pod| pod.name == name).with_context(|| format!("no pod {name}")) };
    let client = pod("bench-client")?;
    let millis = args.millis.to_string();
    for (server, way) in [("bench-near", "same node"), ("bench-far", "across nodes")] {
        let direct = format!("{}:9090", pod(server)?.ip);
        let vip = cluster.kubectl(&["get", "service", server, "-o", "jsonpath={.spec.clusterIP}"])?;
        let vip = format!("{vip}:9090");
        for (place, by) in [(Place::pod(cluster, client)?, "socket LB"), (Place::pod_by_tc(cluster, client)?, "tc")] {
            for (persistent, kind) in [(false, "connect-request-response"), (true, "request-response")] {
                let what = format!("{kind}, {way}, {by}");
                eprintln!("{what}");
                let measure = |target: &str| -> Result<f64> {
                    let mut probe = vec!["crr", target, "--millis", &millis];
                    if persistent {
                        probe.push("--persistent");
                    }
                    Ok(place.probe::<RateReport>(&probe)?.per_second)
                };
                let (mut first, mut through, mut second) = (Vec::new(), Vec::new(), Vec::new());
                for _ in 0..args.runs {
                    first.push(measure(&direct)?);
                    through.push(measure(&vip)?);
                    second.push(measure(&direct)?);
                }
                let spread = |values: &[f64]| Spread::of(values).context("no run");
                let base: Vec<f64> = first.iter().zip(&second).map(|(a, b)| (a + b) / 2.0).collect();
                figures.rates.push(Rate {
                    what,
                    direct_per_second: spread(&base)?,
                    vip_per_second: spread(&through)?,
                    ratio: Spread::of_ratios(&through, &base).context("no pair")?,
                    noise: Spread::of_ratios(&first, &second).context("no pair")?,
                });
            }
        }
    }
    Ok(())
}

fn print(figures: &Figures) {
    if let Some(start) = figures.start_seconds {
        println!("cluster start to all nodes Ready, seconds: {start}");
    }
    if let (Some(p50), Some(p99), Some(changes)) = (figures.change_to_map_p50, figures.change_to_map_p99, figures.changes) {
        println!("endpoint change, watch event to live maps: p50 {p50} µs, p99 {p99} µs over {changes} changes");
    }
    println!("\n| what | VIP / direct | direct / direct | direct per second |\n|---|---|---|---|");
    for rate in &figures.rates {
        println!("| {} | {} | {} | {} |", rate.what, rate.ratio, rate.noise, rate.direct_per_second);
    }
}
