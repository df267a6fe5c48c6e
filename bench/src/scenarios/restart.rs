//! Requests while an agent dies and comes back: how many fail, over all rounds, of how many. Nothing is
//! compared, and no median would do: one failure in one round of many is a failure. The number to reach is 0.

use std::time::Duration;

use anyhow::{Context, Result};
use thalweg_lab::file::{End, FileLab, LabOptions, Launch, web};
use thalweg_lab::place::{Place, Running};
use thalweg_lab::probe::HttpReport;

use crate::agent;
use crate::bench::{Bench, Case, Count};
use crate::run::Better;
use crate::scenario::Scenario;
use crate::settings::Settings;

const VIP: &str = "10.96.2.1";
/// Of the node, for the same service.
const NODE_PORT: u16 = 30_080;
/// How long the load runs before the agent ends and after its successor has synced.
const AROUND: Duration = Duration::from_millis(300);

pub struct Restart;

// === impl Restart ===

impl Scenario for Restart {
    fn name(&self) -> &'static str {
        "restart"
    }

    fn about(&self) -> &'static str {
        "requests that fail while the agent is killed or ended and started again"
    }

    fn ours(&self) -> &'static [&'static str] {
        &["socket-lb", "tc", "nodeport"]
    }

    fn against(&self) -> &'static [&'static str] {
        &[]
    }

    fn cases(&self, _settings: &Settings) -> usize {
        2
    }

    fn run(&self, bench: &mut Bench<'_>) -> Result<()> {
        if !bench.has_ipv4_only() {
            return Ok(());
        }
        let id = format!("{}restart", bench.settings.lab);
        let options =
            LabOptions { id: &id, proxy_mode: Some("ebpf"), dual_stack: false, bin: Some(bench.settings.bin.clone()) };
        bench.say("starting a lab");
        let mut lab = FileLab::start_with(&options)?;
        let result = in_lab(bench, &mut lab);
        lab.remove()?;
        result
    }
}

fn in_lab(bench: &mut Bench<'_>, lab: &mut FileLab) -> Result<()> {
    let servers = [lab.pod(0, "near", true)?, lab.pod(1, "far", true)?];
    let client = lab.pod(0, "client", false)?;
    lab.apply("web.yaml", &web(VIP, &servers.each_ref(), &lab.nodes))?;
    lab.wait_services("the service is there", |rows| rows.to_string().contains(VIP))?;
    let vip = format!("{VIP}:80");
    let node = format!("{}:{NODE_PORT}", lab.topology.nodes[0].addr);
    let loads = [
        ("socket-lb", client.place(), vip.as_str()),
        ("tc", client.by_tc(), vip.as_str()),
        ("nodeport", lab.outside(), node.as_str()),
    ];
    for (end, word) in [(End::Kill, "kill -9"), (End::Term, "SIGTERM")] {
        let mut counts = loads.each_ref().map(|(side, ..)| Count { side, count: 0, of: 0 });
        let mut result = Ok(());
        for number in 1..=bench.settings.plan.runs {
            if bench.stopped() {
                break;
            }
            bench.say(format!("{word}, {number} of {}", bench.settings.plan.runs));
            match one(lab, end, &loads) {
                Ok(reports) => {
                    counts.iter_mut().zip(&reports).for_each(|(count, report)| count.add(report.failed, report.ok));
                }
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        bench.counts(Case::new("failed requests", Better::Zero).with("family", "IPv4").with("end", word), &counts);
        bench.over();
        result?;
    }
    Ok(())
}

/// Ends the first node's agent under load, and waits until its successor has synced.
fn one(lab: &mut FileLab, end: End, loads: &[(&str, Place, &str)]) -> Result<Vec<HttpReport>> {
    let running: Result<Vec<Running>> =
        loads.iter().map(|(_, place, target)| place.load(&["http", target, "--concurrency", "2", "--pause", "1"])).collect();
    let running = running?;
    std::thread::sleep(AROUND);
    lab.restart_agent_with(0, end, Launch::default())?;
    let node = &mut lab.nodes[0];
    agent::until(&mut node.agent, &node.dir.join("run"), "the new agent has synced", |agent| agent.synced)?;
    std::thread::sleep(AROUND);
    running.into_iter().map(|load| load.finish().context("the load")).collect()
}
