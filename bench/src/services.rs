//! What a virtual IP costs with few and with many services, by the socket load balancer, by tc alone and by iptables; how
//! long the first sync of so many takes, how fast one change follows, and how much memory the agent needs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::Value;
use thalweg_lab::file::{FileLab, FilePod, LabOptions};
use thalweg_lab::http::get;
use thalweg_lab::place::Place;
use thalweg_lab::probe::RateReport;

use crate::Common;
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
    /// Milliseconds from the last object read to live maps, as the agent measured them.
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
    direct_per_second: Spread,
    /// VIP / direct, pair by pair.
    ratio: Spread,
    /// Direct / direct in the same alternation: the noise that a ratio of 1 would show.
    noise: Spread,
}

pub fn run(args: &Args) -> Result<()> {
    ensure!(args.runs >= 3, "--runs {}: at least 3, or there is no spread", args.runs);
    ensure!(args.services.iter().all(|count| (1..=MOST).contains(count)), "--services: 1 to {MOST} each");
    // An agent tells of its first sync beside its maps, of which iptables mode has none.
    ensure!(args.modes.iter().all(|mode| mode == "ebpf"), "--modes: only ebpf can be measured yet");
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
    let bin = args.common.bin()?;
    let options = LabOptions { id: "benchsvc", proxy_mode: Some(mode), dual_stack: true, bin: Some(bin) };
    let mut lab = FileLab::start_with(&options)?;
    let near = lab.pod(0, "near", true)?;
    let far = lab.pod(1, "far", true)?;
    let client = lab.pod(0, "client", false)?;
    // All at once, as a restarted agent meets them.
    lab.apply("many.yaml", &many(count.saturating_sub(4)))?;
    lab.apply("few.yaml", &few(&near, &far, &lab.nodes[0].name))?;
    lab.apply("moving.yaml", &moving(0))?;
    lab.restart_agent(0, Duration::ZERO)?;
    synced(&lab, count)?;
    let agent = status(&lab)?;
    let micros = |status: &Value, key: &str| status.pointer(&format!("/agent/{key}")).and_then(Value::as_u64);
    let first_sync_ms = micros(&agent, "first_sync_us").context("no first sync in the status")? as f64 / 1000.0;

    eprintln!("{mode}, {count} services: {} changes", args.changes);
    let before = micros(&agent, "changes").unwrap_or(0);
    for number in 1..=args.changes {
        lab.apply("moving.yaml", &moving(number))?;
        lab.until_status(0, "the change is there", |status| {
            micros(status, "changes").unwrap_or(0) >= before + u64::from(number)
        })?;
    }
    let after = status(&lab)?;
    let (rss_mb, private_mb) = memory(lab.nodes[0].agent.id())?;
    let rates = rates(args, mode, &lab, &client, &near, &far)?;
    let figures = OneLab {
        mode: mode.to_owned(),
        services: count,
        first_sync_ms,
        change_p50_us: micros(&after, "change_to_map_p50_us").unwrap_or_default(),
        change_p99_us: micros(&after, "change_to_map_p99_us").unwrap_or_default(),
        changes: micros(&after, "changes").unwrap_or_default(),
        rss_mb,
        private_mb,
        stages: stages(&lab)?,
        rates,
    };
    drop((near, far, client));
    lab.remove()?;
    Ok(figures)
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
fn few(near: &FilePod, far: &FilePod, node: &str) -> String {
    let mut text = String::new();
    for (index, pod) in [near, far].into_iter().enumerate() {
        let [vip4, vip6] = vips(index);
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

fn synced(lab: &FileLab, count: u32) -> Result<()> {
    lab.until_status(0, "the agent has synced", |status| {
        let figure = |key: &str| status.pointer(&format!("/agent/{key}"));
        figure("synced") == Some(&Value::Bool(true))
            && figure("services").and_then(Value::as_u64).is_some_and(|services| services >= u64::from(count.max(5)))
    })
}

fn status(lab: &FileLab) -> Result<Value> {
    lab.status(0)
}

/// VmRSS and RssAnon of a process, in MB.
pub fn memory(process: u32) -> Result<(f64, f64)> {
    let text = fs::read_to_string(format!("/proc/{process}/status"))?;
    let field = |name: &str| -> Option<f64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<f64>().ok().map(|kb| kb / 1024.0)
    };
    Ok((field("VmRSS:").context("VmRSS")?, field("RssAnon:").context("RssAnon")?))
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

fn rates(args: &Args, mode: &str, lab: &FileLab, client: &FilePod, near: &FilePod, far: &FilePod) -> Result<Vec<Rate>> {
    let places: Vec<(Place, &str)> = match mode {
        "iptables" => vec![(client.place(), "iptables")],
        _ => vec![(client.place(), "socket LB"), (client.by_tc(), "tc")],
    };
    let mut rates = Vec::new();
    for family in &args.family {
        for (index, (server, way)) in [(near, "same node"), (far, "across nodes")].into_iter().enumerate() {
            let address = if *family == 4 { server.addr.into() } else { server.addr6.context("no IPv6 address")?.into() };
            let direct = SocketAddr::new(address, 9090);
            let vip = SocketAddr::new(vips(index)[usize::from(*family == 6)], 9090);
            for (place, by) in &places {
                for (kind, persistent) in [("connect-request-response", false), ("request-response", true)] {
                    let what = format!("{kind}, {way}, IPv{family}, {by}");
                    eprintln!("{mode}: {what}");
                    rates.push(rate(args, place, what, direct, vip, persistent)?);
                }
            }
        }
    }
    ensure!(lab.nodes.len() == 2, "two nodes");
    Ok(rates)
}

/// Direct, VIP, direct again, round after round.
fn rate(args: &Args, place: &Place, what: String, direct: SocketAddr, vip: SocketAddr, persistent: bool) -> Result<Rate> {
    let millis = args.millis.to_string();
    let measure = |target: SocketAddr| -> Result<f64> {
        let target = target.to_string();
        let mut probe = vec!["crr", &target, "--millis", &millis];
        if persistent {
            probe.push("--persistent");
        }
        Ok(place.probe::<RateReport>(&probe)?.per_second)
    };
    let (mut first, mut through, mut second) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..args.runs {
        first.push(measure(direct)?);
        through.push(measure(vip)?);
        second.push(measure(direct)?);
    }
    let base: Vec<f64> = first.iter().zip(&second).map(|(a, b)| (a + b) / 2.0).collect();
    Ok(Rate {
        what,
        direct_per_second: Spread::of(&base).context("no run")?,
        ratio: Spread::of_ratios(&through, &base).context("no pair")?,
        noise: Spread::of_ratios(&first, &second).context("no pair")?,
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
    println!("\n| services | what | VIP / direct | direct / direct | direct per second |\n|---|---|---|---|---|");
    for lab in &figures.labs {
        for rate in &lab.rates {
            println!("| {} | {} | {} | {} | {} |", lab.services, rate.what, rate.ratio, rate.noise, rate.direct_per_second);
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
        assert!(text.lines().filter(|line| line.starts_with('{')).all(|line| serde_json::from_str::<Value>(line).is_ok()));
    }
}
