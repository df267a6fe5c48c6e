//! What a virtual IP costs with few and with many services, by the socket load balancer, by tc alone and by iptables; how
//! long the first sync of so many takes, how fast one change follows, and how much memory the agent needs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use thalweg_lab::file::{FileLab, FileNode, FilePod, LabOptions};
use thalweg_lab::http::get;
use thalweg_lab::place::Place;
use thalweg_lab::probe::RateReport;

use crate::Common;
use crate::agent::{self, Figures as Agent};
use crate::plain::{PlainLab, PlainPod};
use crate::stats::Spread;

/// Most services that the address plan has room for.
const MOST: u32 = 200_000;

#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    common: Common,
    /// How many services there are; each size is a lab of its own.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 10_000, 100_000])]
    services: Vec<u32>,
    /// Proxy modes of the agents: ebpf (measured by socket LB and by tc), iptables.
    #[arg(long, value_delimiter = ',', default_values_t = ["ebpf".to_owned()])]
    modes: Vec<String>,
    /// Sizes above this are left out for iptables, whose first sync takes too long.
    #[arg(long, default_value_t = 10_000)]
    iptables_most: u32,
    /// Families: 4, 6.
    #[arg(long, value_delimiter = ',', default_values_t = [4, 6])]
    family: Vec<u8>,
    /// Repetitions of each rate, alternating.
    #[arg(long, default_value_t = 9)]
    runs: usize,
    /// Milliseconds of each repetition.
    #[arg(long, default_value_t = 500)]
    millis: u64,
    /// Endpoint changes to time.
    #[arg(long, default_value_t = 100)]
    changes: u32,
}

#[derive(Debug, Default, Serialize)]
struct Figures {
    labs: Vec<OneLab>,
}

/// One size in one mode.
#[derive(Debug, Serialize)]
struct OneLab {
    mode: String,
    services: u32,
    /// Milliseconds from the last object read to its effect in the kernel, as the agent measured them.
    first_sync_ms: f64,
    /// The same of one changed endpoint, in microseconds.
    change_p50_us: u64,
    change_p99_us: u64,
    changes: u64,
    /// Resident set and its private part, in MB.
    rss_mb: f64,
    private_mb: f64,
    /// Seconds of each stage of the syncs so far, as the metrics have it.
    stages: BTreeMap<String, f64>,
    rates: Vec<Rate>,
}

#[derive(Debug, Serialize)]
struct Rate {
    what: String,
    /// Between pods without any of our programs or rules.
    plain_per_second: Spread,
    direct_per_second: Spread,
    /// Direct / plain: what programs and rules cost those who dial no service.
    direct_to_plain: Spread,
    /// VIP / direct, pair by pair.
    ratio: Spread,
    /// Direct / direct in the same alternation: the noise that a ratio of 1 would show.
    noise: Spread,
}

/// Two servers and a client as in the lab, with nothing between them but routes.
struct Plain {
    lab: PlainLab,
    client: PlainPod,
    servers: [PlainPod; 2],
}

/// The same server's three addresses.
struct Targets {
    plain: SocketAddr,
    direct: SocketAddr,
    vip: SocketAddr,
}

pub fn run(args: &Args) -> Result<()> {
    ensure!(args.runs >= 3, "--runs {}: at least 3, or there is no spread", args.runs);
    ensure!(args.services.iter().all(|count| (1..=MOST).contains(count)), "--services: 1 to {MOST} each");
    ensure!(args.modes.iter().all(|mode| matches!(mode.as_str(), "ebpf" | "iptables")), "--modes: ebpf, iptables or both");
    ensure!(args.family.iter().all(|family| matches!(family, 4 | 6)), "--family: 4, 6 or both");
    let mut figures = Figures::default();
    for mode in &args.modes {
        for count in &args.services {
            if mode == "iptables" && *count > args.iptables_most {
                eprintln!("iptables with {count} services: left out (--iptables-most {})", args.iptables_most);
                continue;
            }
            figures.labs.push(one(args, mode, *count).with_context(|| format!("{mode} with {count} services"))?);
        }
    }
    print(&figures);
    if let Some(path) = &args.common.json {
        fs::write(path, serde_json::to_string_pretty(&figures)?).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

fn one(args: &Args, mode: &str, count: u32) -> Result<OneLab> {
    eprintln!("{mode}, {count} services: start");
    let (bin, id) = (args.common.bin()?, &args.common.lab);
    let plain = Plain::start(&format!("{id}plain"), &bin)?;
    let id = format!("{id}svc");
    let options = LabOptions { id: &id, proxy_mode: Some(mode), dual_stack: true, bin: Some(bin) };
    let mut lab = FileLab::start_with(&options)?;
    let near = lab.pod(0, "near", true)?;
    let far = lab.pod(1, "far", true)?;
    let client = lab.pod(0, "client", false)?;
    // All at once, as an agent meets them that comes to a running cluster.
    lab.nodes[0].agent.kill()?;
    lab.apply("many.yaml", &many(count.saturating_sub(4)))?;
    lab.apply("few.yaml", &few(&[&near, &far], &lab.nodes))?;
    lab.apply("moving.yaml", &moving(0))?;
    lab.restart_agent(0, Duration::ZERO)?;
    let expected = u64::from(count.max(5));
    for node in [0, 1] {
        until(&mut lab, node, "the agent has synced", |agent| agent.synced && agent.services >= expected)?;
    }
    let agent = agent::figures(&lab.nodes[0].dir.join("run"))?;
    ensure!(agent.mode == mode, "the agent runs in mode {} instead of {mode}", agent.mode);
    let first_sync_ms = agent.first_sync_us as f64 / 1000.0;

    eprintln!("{mode}, {count} services: {} changes", args.changes);
    let before = agent.changes;
    let mut after = agent;
    for number in 1..=args.changes {
        lab.apply("moving.yaml", &moving(number))?;
        after = until(&mut lab, 0, "the change is there", |agent| agent.changes >= before + u64::from(number))?;
    }
    let (rss_mb, private_mb) = agent::memory(lab.nodes[0].agent.id())?;
    let rates = rates(args, mode, [&client, &near, &far], &plain)?;
    let figures = OneLab {
        mode: mode.to_owned(),
        services: count,
        first_sync_ms,
        change_p50_us: after.change_to_map_p50_us,
        change_p99_us: after.change_to_map_p99_us,
        changes: after.changes,
        rss_mb,
        private_mb,
        stages: stages(&lab)?,
        rates,
    };
    drop((near, far, client));
    lab.remove()?;
    plain.lab.remove()?;
    Ok(figures)
}

impl Plain {
    fn start(id: &str, bin: &Path) -> Result<Self> {
        let lab = PlainLab::start(id, bin)?;
        let servers = [lab.pod(0, 2, "near", true)?, lab.pod(1, 2, "far", true)?];
        let client = lab.pod(0, 3, "client", false)?;
        Ok(Self { lab, client, servers })
    }
}

fn until(lab: &mut FileLab, node: usize, what: &str, ready: impl Fn(&Agent) -> bool) -> Result<Agent> {
    let FileNode { dir, agent, .. } = &mut lab.nodes[node];
    agent::until(agent, &dir.join("run"), what, ready)
}

/// Services that nobody asks, with two endpoints each, as one file.
fn many(count: u32) -> String {
    let mut text = String::new();
    for number in 0..count {
        let vip = Ipv4Addr::from(0x0a61_0000 + number);
        let pods = [0, 1].map(|pod| Ipv4Addr::from(0x0ac8_0000 + 2 * number + pod));
        service(
            &mut text,
            &format!("s{number}"),
            vip.into(),
            80,
            8080,
            &pods.map(|pod| format!("{{\"addresses\":[\"{pod}\"]}}")),
        );
    }
    text
}

/// One service in front of each of the two servers, in both families.
fn few(pods: &[&FilePod], nodes: &[FileNode]) -> String {
    let mut text = String::new();
    for (index, pod) in pods.iter().enumerate() {
        let [vip4, vip6] = vips(index);
        let node = &nodes[pod.node].name;
        let endpoint = |address: IpAddr| [format!("{{\"addresses\":[\"{address}\"],\"nodeName\":\"{node}\"}}")];
        service(&mut text, &format!("{}-4", pod.name), vip4, 9090, 9090, &endpoint(pod.addr.into()));
        if let Some(addr6) = pod.addr6 {
            service(&mut text, &format!("{}-6", pod.name), vip6, 9090, 9090, &endpoint(addr6.into()));
        }
    }
    text
}

fn vips(index: usize) -> [IpAddr; 2] {
    let host = 1 + u8::try_from(index).unwrap_or_default();
    [Ipv4Addr::new(10, 96, 1, host).into(), Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 1, host.into()).into()]
}

/// One service whose endpoint is another with each number.
fn moving(number: u32) -> String {
    let mut text = String::new();
    let pod = Ipv4Addr::from(0xc612_0000 + number);
    service(&mut text, "moving", Ipv4Addr::new(10, 96, 1, 200).into(), 80, 80, &[format!("{{\"addresses\":[\"{pod}\"]}}")]);
    text
}

fn service(text: &mut String, name: &str, vip: IpAddr, port: u16, target: u16, endpoints: &[String]) {
    let family = if vip.is_ipv4() { "IPv4" } else { "IPv6" };
    let endpoints = endpoints.join(",");
    // JSON is YAML, and faster to read.
    let written = write!(
        text,
        "---\n{{\"apiVersion\":\"v1\",\"kind\":\"Service\",\"metadata\":{{\"name\":\"{name}\",\"namespace\":\"bench\"}},\
         \"spec\":{{\"clusterIP\":\"{vip}\",\"clusterIPs\":[\"{vip}\"],\"ports\":[{{\"port\":{port},\"protocol\":\"TCP\",\"targetPort\":{target}}}]}}}}\n\
         ---\n{{\"apiVersion\":\"discovery.k8s.io/v1\",\"kind\":\"EndpointSlice\",\"metadata\":{{\"name\":\"{name}-1\",\"namespace\":\"bench\",\
         \"labels\":{{\"kubernetes.io/service-name\":\"{name}\"}}}},\"addressType\":\"{family}\",\
         \"ports\":[{{\"port\":{target},\"protocol\":\"TCP\"}}],\"endpoints\":[{endpoints}]}}\n"
    );
    written.unwrap_or(());
}

/// Sums of `thalweg_sync_stage_seconds` by stage.
fn stages(lab: &FileLab) -> Result<BTreeMap<String, f64>> {
    let metrics = SocketAddr::from((Ipv4Addr::LOCALHOST, 10_249));
    let text = get(&lab.topology.nodes[0].netns, metrics, "/metrics")?.body;
    let of_stage = |line: &str| -> Option<(String, f64)> {
        let (stage, rest) = line.strip_prefix("thalweg_sync_stage_seconds_sum{stage=\"")?.split_once('"')?;
        Some((stage.to_owned(), rest.rsplit(' ').next()?.parse().ok()?))
    };
    Ok(text.lines().filter_map(of_stage).collect())
}

fn rates(args: &Args, mode: &str, [client, near, far]: [&FilePod; 3], plain: &Plain) -> Result<Vec<Rate>> {
    let ways: Vec<(Place, &str)> = match mode {
        "iptables" => vec![(client.place(), "iptables")],
        _ => vec![(client.place(), "socket LB"), (client.by_tc(), "tc")],
    };
    let mut rates = Vec::new();
    for family in &args.family {
        for (index, (server, way)) in [(near, "same node"), (far, "across nodes")].into_iter().enumerate() {
            let address = if *family == 4 { server.addr.into() } else { server.addr6.context("no IPv6 address")?.into() };
            let targets = Targets {
                plain: SocketAddr::new(plain.servers[index].address(*family), 9090),
                direct: SocketAddr::new(address, 9090),
                vip: SocketAddr::new(vips(index)[usize::from(*family == 6)], 9090),
            };
            for (place, by) in &ways {
                for (kind, persistent) in [("connect-request-response", false), ("request-response", true)] {
                    let what = format!("{kind}, {way}, IPv{family}, {by}");
                    eprintln!("{mode}: {what}");
                    rates.push(rate(args, what, [place, &plain.client.place()], &targets, persistent)?);
                }
            }
        }
    }
    Ok(rates)
}

/// Plain, direct, VIP, direct again, round after round.
fn rate(args: &Args, what: String, [place, plain]: [&Place; 2], to: &Targets, persistent: bool) -> Result<Rate> {
    let millis = args.millis.to_string();
    let measure = |place: &Place, target: SocketAddr| -> Result<f64> {
        let target = target.to_string();
        let mut probe = vec!["crr", &target, "--millis", &millis];
        if persistent {
            probe.push("--persistent");
        }
        Ok(place.probe::<RateReport>(&probe)?.per_second)
    };
    let (mut bare, mut first, mut through, mut second) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..args.runs {
        bare.push(measure(plain, to.plain)?);
        first.push(measure(place, to.direct)?);
        through.push(measure(place, to.vip)?);
        second.push(measure(place, to.direct)?);
    }
    let direct: Vec<f64> = first.iter().zip(&second).map(|(a, b)| (a + b) / 2.0).collect();
    let ratios = |ours: &[f64], theirs: &[f64]| Spread::of_ratios(ours, theirs).context("no pair");
    Ok(Rate {
        what,
        plain_per_second: Spread::of(&bare).context("no run")?,
        direct_per_second: Spread::of(&direct).context("no run")?,
        direct_to_plain: ratios(&direct, &bare)?,
        ratio: ratios(&through, &direct)?,
        noise: ratios(&first, &second)?,
    })
}

fn print(figures: &Figures) {
    println!(
        "| mode | services | first sync, ms | change to maps p50 / p99, µs | resident / private, MB |\n|---|---|---|---|---|"
    );
    for lab in &figures.labs {
        let OneLab { mode, services, first_sync_ms, change_p50_us, change_p99_us, changes, rss_mb, private_mb, .. } = lab;
        println!(
            "| {mode} | {services} | {first_sync_ms:.1} | {change_p50_us} / {change_p99_us} ({changes} changes) | {rss_mb:.1} / {private_mb:.1} |"
        );
    }
    println!(
        "\n| services | what | VIP / direct | direct / direct | direct per second | direct / plain | plain per second |\n|---|---|---|---|---|---|---|"
    );
    for lab in &figures.labs {
        for Rate { what, ratio, noise, direct_per_second, direct_to_plain, plain_per_second } in &lab.rates {
            println!(
                "| {} | {what} | {ratio} | {noise} | {direct_per_second} | {direct_to_plain} | {plain_per_second} |",
                lab.services
            );
        }
    }
    for lab in &figures.labs {
        let stages: Vec<String> =
            lab.stages.iter().map(|(stage, seconds)| format!("{stage} {:.1}", seconds * 1000.0)).collect();
        println!("\nstages of all syncs, {} with {} services, ms: {}", lab.mode, lab.services, stages.join(", "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_service_has_an_address_of_its_own() {
        let text = many(70_000);
        let vips: std::collections::BTreeSet<&str> =
            text.split("\"clusterIP\":\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert_eq!(vips.len(), 70_000);
        assert!(
            text.lines()
                .filter(|line| line.starts_with('{'))
                .all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok())
        );
    }
}
