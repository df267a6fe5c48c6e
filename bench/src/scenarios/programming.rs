//! How fast the kernel follows the services: the first sync, the sync of a restarted agent, one changed endpoint, and the
//! memory that knowing them takes. In both modes, one after the other change by change.

use anyhow::Result;

use crate::agent::memory;
use crate::bench::{Bench, Case};
use crate::labs::{Labs, Ours, Wanted};
use crate::manifests::moving;
use crate::run::Better;
use crate::scenario::Scenario;
use crate::settings::Settings;

/// How often an agent is started again.
const RESTARTS: usize = 3;

pub struct Programming;

/// What is told of each side.
#[derive(Default)]
struct Side {
    name: &'static str,
    first_ms: f64,
    adopted_ms: Vec<f64>,
    change_p50_us: f64,
    change_p99_us: f64,
    resident_mb: f64,
    private_mb: f64,
}

// === impl Programming ===

impl Scenario for Programming {
    fn name(&self) -> &'static str {
        "programming"
    }

    fn about(&self) -> &'static str {
        "first sync, sync after a restart, one changed endpoint, memory; services from files"
    }

    fn ours(&self) -> &'static [&'static str] {
        &["ebpf"]
    }

    fn against(&self) -> &'static [&'static str] {
        &["iptables"]
    }

    fn cases(&self, settings: &Settings) -> usize {
        settings.services.len()
    }

    fn run(&self, bench: &mut Bench<'_>) -> Result<()> {
        for services in bench.settings.services.clone() {
            if bench.stopped() {
                return Ok(());
            }
            let iptables = bench.compares_iptables(services);
            let mut labs = bench.labs(Wanted { services, iptables, plain: false })?;
            let result = measure(bench, &mut labs, services);
            bench.over();
            bench.give_back(labs);
            result?;
        }
        Ok(())
    }
}

fn measure(bench: &mut Bench<'_>, labs: &mut Labs, services: u32) -> Result<()> {
    let changes = bench.settings.changes;
    bench.say(format!("{changes} changes at {services} services"));
    let Labs { ebpf, iptables, .. } = labs;
    let mut ours: Vec<(&'static str, &mut Ours)> = vec![("ebpf", ebpf)];
    ours.extend(iptables.as_mut().map(|lab| ("iptables", lab)));
    let mut sides = Vec::new();
    for (name, lab) in &mut ours {
        // An earlier scenario may have changed it.
        lab.lab.apply("moving.yaml", &moving(0))?;
        sides.push(Side { name, first_ms: lab.first.first_sync_us as f64 / 1000.0, ..Side::default() });
    }
    for number in 1..=changes {
        for (_, lab) in &mut ours {
            let before = lab.until("the agent answers", |_| true)?.changes;
            lab.lab.apply("moving.yaml", &moving(number))?;
            lab.until("the change is there", |agent| agent.changes > before)?;
        }
        if bench.stopped() {
            return Ok(());
        }
    }
    for (side, (_, lab)) in sides.iter_mut().zip(&mut ours) {
        let figures = lab.until("the agent answers", |_| true)?;
        side.change_p50_us = figures.change_to_map_p50_us as f64;
        side.change_p99_us = figures.change_to_map_p99_us as f64;
        (side.resident_mb, side.private_mb) = memory(lab.lab.nodes[0].agent.id())?;
    }
    for number in 1..=RESTARTS {
        bench.say(format!("restart {number} of {RESTARTS} at {services} services"));
        for (side, (_, lab)) in sides.iter_mut().zip(&mut ours) {
            side.adopted_ms.push(lab.restart()?.first_sync_us as f64 / 1000.0);
        }
    }
    write(bench, services, &sides);
    Ok(())
}

fn write(bench: &mut Bench<'_>, services: u32, sides: &[Side]) {
    type Take = fn(&Side) -> Vec<f64>;
    let told: [(&str, &'static str, Take); 6] = [
        ("first sync", "ms", |side| vec![side.first_ms]),
        ("first sync after a restart", "ms", |side| side.adopted_ms.clone()),
        ("one change, p50", "µs", |side| vec![side.change_p50_us]),
        ("one change, p99", "µs", |side| vec![side.change_p99_us]),
        ("resident", "MB", |side| vec![side.resident_mb]),
        ("resident, its own", "MB", |side| vec![side.private_mb]),
    ];
    for (what, unit, take) in told {
        let case = Case::new(unit, Better::Lower).with("services", services).with("what", what);
        bench.figures(case, sides.iter().map(|side| (side.name, take(side))).collect());
    }
}
