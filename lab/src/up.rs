//! The verbs that start a cluster: `up`, `up --once` and `shell`.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use thalweg_lab::checks;
use thalweg_lab::cluster::{Cluster, Options, manifest_dir};
use thalweg_lab::owner;
use thalweg_lab::residue::Residue;
use thalweg_lab::screen;
use thalweg_lab::signals::Signals;

use crate::UpArgs;

/// How often the live screen is drawn again.
const REFRESH: Duration = Duration::from_secs(3);

/// Prints steps with the time since the start.
struct Steps(Instant);

/// Starts a cluster, shows it until a signal comes, and removes it.
pub fn stay(args: &UpArgs) -> Result<()> {
    let signals = Signals::listen()?;
    let steps = Steps(Instant::now());
    let mut cluster = start(args, &steps)?;
    let result = show(&cluster, &signals, &steps);
    if args.keep {
        cluster.keep();
        println!("\nThe cluster stays. {}", screen::kubectl_hint(&cluster));
        return result;
    }
    println!("\nremoving every trace");
    cluster.remove()?;
    result
}

/// Starts a cluster, runs every check, removes it, looks for residue. True when everything held.
pub fn once(args: &UpArgs) -> Result<bool> {
    let signals = Signals::listen()?;
    let steps = Steps(Instant::now());
    owner::sweep()?;
    let before = Residue::look();
    let mut cluster = start(args, &steps)?;
    let started = steps.0.elapsed();
    let mut outcomes = Vec::new();
    for (index, check) in checks::all().into_iter().enumerate() {
        let wanted = index == 0 || args.only.as_ref().is_none_or(|text| check.name.contains(text.as_str()));
        if !wanted {
            continue;
        }
        ensure!(!signals.wait(Duration::ZERO)?, "interrupted");
        let outcome = check.run(&mut cluster);
        print_outcome(outcome.name, &outcome.result, outcome.took);
        outcomes.push(outcome.result.is_ok());
    }
    let failed = outcomes.iter().any(|held| !held);
    if failed {
        print_logs(&cluster);
    }
    if args.keep {
        cluster.keep();
        println!("The cluster stays. {}", screen::kubectl_hint(&cluster));
    } else {
        let at = Instant::now();
        let removed = cluster.remove().and_then(|()| {
            let left = Residue::look().since(&before);
            ensure!(left.is_empty(), "left behind: {}", left.join("; "));
            Ok("namespaces, links, qdiscs, control groups, mounts, pins, processes, rules as before".to_owned())
        });
        print_outcome("after teardown nothing is left behind", &removed, at.elapsed());
        outcomes.push(removed.is_ok());
    }
    let held = outcomes.iter().filter(|held| **held).count();
    println!(
        "\ncluster ready with the demo's pods in {:.1} s; {held} of {} checks held, {:.0} s in all",
        started.as_secs_f64(),
        outcomes.len(),
        steps.0.elapsed().as_secs_f64()
    );
    Ok(held == outcomes.len())
}

/// Starts a cluster and the user's shell beside the control plane.
pub fn shell(args: &UpArgs) -> Result<bool> {
    let steps = Steps(Instant::now());
    let cluster = start(args, &steps)?;
    println!(
        "a shell in the lan's namespace; `exit` removes every trace. Nodes: nsenter --net=/run/netns/thalweg-{}-node-a",
        args.name
    );
    let program = std::env::var("SHELL").unwrap_or_else(|_| "sh".to_owned());
    let status = cluster
        .topology
        .lan
        .command(program)
        .env("KUBECONFIG", &cluster.kubeconfig)
        .env("THALWEG_LAB_RUN", cluster.owner().run())
        .status()
        .context("start a shell")?;
    cluster.remove()?;
    Ok(status.success())
}

fn start(args: &UpArgs, steps: &Steps) -> Result<Cluster> {
    let bin = match &args.bin {
        Some(bin) => bin.clone(),
        None => std::env::current_exe()?.parent().context("directory of this program")?.to_owned(),
    };
    let bin = bin.canonicalize().with_context(|| format!("{} does not exist", bin.display()))?;
    let options = Options { id: args.name.clone(), nodes: args.nodes, data: args.data.clone(), bin };
    let cluster = Cluster::start(&options, &|step| steps.say(step))?;
    steps.say("deploying the demo");
    let manifest = manifest_dir().join("demo.yaml");
    let deployed = cluster
        .kubectl(&["apply", "-f", manifest.to_str().context("path of demo.yaml")?])
        .and_then(|_| cluster.kubectl(&["rollout", "status", checks::DEPLOYMENT, "--timeout=60s"]))
        .and_then(|_| cluster.kubectl(&["wait", "--for=condition=Ready", "pod/client", "--timeout=60s"]));
    if let Err(error) = deployed {
        print_logs(&cluster);
        return Err(error);
    }
    steps.say("ready");
    Ok(cluster)
}

fn show(cluster: &Cluster, signals: &Signals, steps: &Steps) -> Result<()> {
    let live = std::io::stdout().is_terminal();
    let took = steps.0.elapsed();
    loop {
        let text = screen::render(cluster);
        let mut out = std::io::stdout().lock();
        if live {
            // Home and clear to the end: no flicker, and the scroll-back stays.
            write!(out, "\x1b[H\x1b[2J")?;
        }
        writeln!(out, "thalweg: {} nodes, ready {:.1} s after the start{text}", cluster.nodes.len(), took.as_secs_f64())?;
        writeln!(out, "\n{}\nCtrl-C removes every trace.", screen::kubectl_hint(cluster))?;
        out.flush()?;
        drop(out);
        let wait = if live { REFRESH } else { Duration::from_secs(3600) };
        if signals.wait(wait)? {
            return Ok(());
        }
    }
}

fn print_outcome(name: &str, result: &Result<String>, took: Duration) {
    let (mark, text) = match result {
        Ok(seen) => ("ok  ", seen.clone()),
        Err(error) => ("FAIL", format!("{error:#}")),
    };
    println!("{mark} {:>6.2} s  {name}\n                 {text}", took.as_secs_f64());
}

/// The end of every log: what somebody who reads a failed run in CI needs.
fn print_logs(cluster: &Cluster) {
    let mut processes = vec![&cluster.server];
    for node in &cluster.nodes {
        processes.extend([&node.agent, &node.kubelet]);
    }
    for process in processes {
        println!("--- {} ({})\n{}", process.name, process.log.display(), process.log_tail(25));
    }
    for args in [&["get", "pods,nodes", "-A", "-o", "wide"][..], &["get", "events", "-A"][..]] {
        println!("--- kubectl {}\n{}", args.join(" "), cluster.kubectl(args).unwrap_or_else(|error| format!("{error:#}")));
    }
}

// === impl Steps ===

impl Steps {
    fn say(&self, step: &str) {
        println!("{:>6.2} s  {step}", self.0.elapsed().as_secs_f64());
    }
}
