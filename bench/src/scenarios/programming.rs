//! How fast the kernel follows the services: the first sync, the sync of a restarted agent, one changed endpoint, and the
//! memory that knowing them takes. In both modes, one after the other change by change.

use anyhow::{Result, ensure};

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

/// What is told of each side: empty as long as it is not measured.
#[derive(Default)]
struct Told {
    first_ms: Vec<f64>,
    adopted_ms: Vec<f64>,
    change_p50_us: Vec<f64>,
    change_p99_us: Vec<f64>,
    resident_mb: Vec<f64>,
    private_mb: Vec<f64>,
}

struct Side<'a> {
    name: &'static str,
    lab: &'a mut Ours,
    told: Told,
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
    let side = |name, lab| Side { name, lab, told: Told::default() };
    let mut sides = vec![side("ebpf", ebpf)];
    sides.extend(iptables.as_mut().map(|lab| side("iptables", lab)));
    in_turns(bench, &mut sides, changes);
    write(bench, services, &sides);
    ensure!(!sides.is_empty(), "no side could be measured");
    Ok(())
}

/// Until it is stopped. Who fails is no longer among the sides, and what it told until then neither.
fn in_turns(bench: &mut Bench<'_>, sides: &mut Vec<Side<'_>>, changes: u32) {
    each(bench, sides, |Side { lab, told, .. }| {
        told.first_ms.push(lab.first.first_sync_us as f64 / 1000.0);
        // An earlier scenario may have changed it.
        lab.lab.apply("moving.yaml", &moving(0))
    });
    for number in 1..=changes {
        each(bench, sides, |Side { lab, .. }| {
            let before = lab.until("the agent answers", |_| true)?.changes;
            lab.lab.apply("moving.yaml", &moving(number))?;
            lab.until("the change is there", |agent| agent.changes > before).map(|_| ())
        });
        if bench.stopped() {
            return;
        }
    }
    each(bench, sides, |Side { lab, told, .. }| {
        let figures = lab.until("the agent answers", |_| true)?;
        told.change_p50_us.push(figures.change_to_map_p50_us as f64);
        told.change_p99_us.push(figures.change_to_map_p99_us as f64);
        let (resident, private) = memory(lab.lab.nodes[0].agent.id())?;
        told.resident_mb.push(resident);
        told.private_mb.push(private);
        Ok(())
    });
    for number in 1..=RESTARTS {
        if bench.stopped() {
            return;
        }
        bench.say(format!("restart {number} of {RESTARTS}"));
        each(bench, sides, |Side { lab, told, .. }| {
            told.adopted_ms.push(lab.restart()?.first_sync_us as f64 / 1000.0);
            Ok(())
        });
    }
}

/// One step of each side.
fn each(bench: &mut Bench<'_>, sides: &mut Vec<Side<'_>>, mut step: impl FnMut(&mut Side<'_>) -> Result<()>) {
    sides.retain_mut(|side| step(side).map_err(|error| bench.failed(side.name, &error)).is_ok());
}

fn write(bench: &mut Bench<'_>, services: u32, sides: &[Side<'_>]) {
    type Take = fn(&Told) -> &Vec<f64>;
    let told: [(&str, &'static str, Take); 6] = [
        ("first sync", "ms", |told| &told.first_ms),
        ("first sync after a restart", "ms", |told| &told.adopted_ms),
        ("one change, p50", "µs", |told| &told.change_p50_us),
        ("one change, p99", "µs", |told| &told.change_p99_us),
        ("resident", "MB", |told| &told.resident_mb),
        ("resident, its own", "MB", |told| &told.private_mb),
    ];
    for (what, unit, take) in told {
        let case = Case::new(unit, Better::Lower).with("services", services).with("what", what);
        bench.figures(case, sides.iter().map(|side| (side.name, take(&side.told).clone())).collect());
    }
}
