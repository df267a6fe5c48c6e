//! A small cluster, from nothing: how fast it starts, and what a virtual IP costs its pods against dialling the pod itself.

use std::time::Instant;

use anyhow::{Context, Result};
use thalweg_lab::cluster::{Cluster, Options, Pod};
use thalweg_lab::place::Place;

use super::traffic::{Load, contender};
use crate::bench::{Bench, Case};
use crate::manifests::PORT;
use crate::run::Better;
use crate::scenario::{CLUSTER, Need, Scenario};
use crate::settings::Settings;

/// One server behind one service on each node, and a client on the first.
const MANIFEST: &str = include_str!("first_light.yaml");
const STARTS: usize = 5;

pub struct FirstLight;

// === impl FirstLight ===

impl Scenario for FirstLight {
    fn name(&self) -> &'static str {
        "first-light"
    }

    fn about(&self) -> &'static str {
        "start of a cluster with its own API server; a pod of it dials a service"
    }

    fn ours(&self) -> &'static [&'static str] {
        &["socket-lb", "tc"]
    }

    fn against(&self) -> &'static [&'static str] {
        &["direct"]
    }

    fn needs(&self) -> &'static [Need] {
        CLUSTER
    }

    fn cases(&self, _settings: &Settings) -> usize {
        STARTS + 4
    }

    fn run(&self, bench: &mut Bench<'_>) -> Result<()> {
        if !bench.has_ipv4_only() {
            return Ok(());
        }
        bench.alone()?;
        let mut seconds = Vec::new();
        let cluster = starts(bench, &mut seconds);
        let case = Case::new("s", Better::Lower)
            .with("family", "IPv4")
            .with("what", "from nothing to an API server and two nodes Ready");
        bench.figures(case, vec![("thalweg", seconds)]);
        let Some(cluster) = cluster? else { return Ok(()) };
        let result = rates(bench, &cluster);
        let removed = cluster.remove();
        result.and(removed)
    }
}

/// How long each start took, and the cluster of the last; none when it was stopped.
fn starts(bench: &mut Bench<'_>, seconds: &mut Vec<f64>) -> Result<Option<Cluster>> {
    let mut cluster: Option<Cluster> = None;
    for number in 1..=STARTS {
        cluster.take().map_or(Ok(()), Cluster::remove)?;
        if bench.stopped() {
            break;
        }
        bench.say(format!("start {number} of {STARTS}"));
        let options =
            Options { id: format!("{}start", bench.settings.lab), nodes: 2, data: None, bin: bench.settings.bin.clone() };
        let started = Instant::now();
        cluster = Some(Cluster::start(&options, &|_| {})?);
        seconds.push(started.elapsed().as_secs_f64());
        bench.over();
    }
    Ok(cluster)
}

fn rates(bench: &mut Bench<'_>, cluster: &Cluster) -> Result<()> {
    let file = cluster.data.join("bench.yaml");
    std::fs::write(&file, MANIFEST)?;
    cluster.kubectl(&["apply", "-f", file.to_str().context("path")?])?;
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s"])?;
    let pods = cluster.pods("app=bench")?;
    let pod =
        |name: &str| -> Result<&Pod> { pods.iter().find(|pod| pod.name == name).with_context(|| format!("no pod {name}")) };
    let client = pod("bench-client")?;
    for (server, where_) in [("bench-near", "same node"), ("bench-far", "other node")] {
        let direct = format!("{}:{PORT}", pod(server)?.ip).parse()?;
        let vip = cluster.kubectl(&["get", "service", server, "-o", "jsonpath={.spec.clusterIP}"])?;
        let vip = format!("{vip}:{PORT}").parse()?;
        for load in [Load::ConnectRequestResponse, Load::RequestResponse] {
            if bench.stopped() {
                return Ok(());
            }
            let case =
                Case::new(load.unit(), Better::Higher).with("family", "IPv4").with("server", where_).with("load", load.name());
            let side = |name, place, target| contender(bench.settings, name, place, target, load);
            let sides = vec![
                side("direct", Place::pod(cluster, client)?, direct),
                side("socket-lb", Place::pod(cluster, client)?, vip),
                side("tc", Place::pod_by_tc(cluster, client)?, vip),
            ];
            bench.compare(case, sides)?;
        }
    }
    Ok(())
}
