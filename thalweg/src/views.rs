//! What is in the kernel, read from the pinned maps: `services`, `conntrack`, `status`; and `cleanup`, which removes it.
//! None of them needs a running agent.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde::Serialize;
use thalweg_abi::{Backend, Frontend, FrontendKey, Slot, StateKey};
use thalweg_loader::{Maps, Table};
use thalweg_proxy::inspect::{self, CountRow, Row, Status};

use crate::agent::admin::{self, Figures};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

#[derive(Args, Debug)]
pub struct ViewArgs {
    /// Folder of pinned programs, links and maps.
    #[arg(long, default_value = "/sys/fs/bpf/thalweg")]
    bpffs: PathBuf,
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
    /// Only rows of services whose `namespace/name` contains this text
    #[arg(long)]
    service: Option<String>,
}

#[derive(Args, Debug)]
pub struct ServicesArgs {
    #[command(flatten)]
    view: ViewArgs,
    /// Only frontends on this virtual IP.
    #[arg(long)]
    vip: Option<std::net::Ipv4Addr>,
}

#[derive(Args, Debug)]
pub struct StatusArgs {
    /// Folder of pinned programs, links and maps.
    #[arg(long, default_value = "/sys/fs/bpf/thalweg")]
    bpffs: PathBuf,
    /// The agent's folder of sockets: its own figures are shown when it runs.
    #[arg(long, default_value = "/run/thalweg")]
    run: PathBuf,
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Args, Debug)]
pub struct CleanupArgs {
    /// Folder of pinned programs, links and maps.
    #[arg(long, default_value = "/sys/fs/bpf/thalweg")]
    bpffs: PathBuf,
}

/// `thalweg status -o json`: the maps, and the agent when it runs.
#[derive(Serialize)]
struct FullStatus {
    #[serde(flatten)]
    datapath: Status,
    agent: Option<Figures>,
}

pub fn services(args: &ServicesArgs) -> Result<()> {
    let maps = open(&args.view.bpffs)?;
    let mut frontends = maps.frontends.entries()?;
    frontends.retain(|(key, _)| args.vip.is_none_or(|vip| key.vip == vip.into()));
    let (slots, backends) = behind(&maps, &frontends)?;
    let mut rows = inspect::services(&frontends, &slots, &backends, &maps.services.entries()?);
    rows.retain(|row| args.view.wants(&row.service));
    print(args.view.output, &rows)
}

pub fn conntrack(args: &ViewArgs) -> Result<()> {
    let maps = open(&args.bpffs)?;
    let mut rows = inspect::conntrack(&maps.conntrack.entries()?, &maps.services.entries()?, thalweg_loader::conntrack::now());
    rows.retain(|row| args.wants(&row.service));
    print(args.output, &rows)
}

pub fn status(args: &StatusArgs) -> Result<()> {
    let maps = open(&args.bpffs)?;
    let keys = [StateKey::Abi, StateKey::CreatedAt, StateKey::Adoptions, StateKey::Applies, StateKey::Synced];
    let state = keys.into_iter().map(|key| Ok((key, maps.state(key)?))).collect::<Result<Vec<_>>>()?;
    let used = [
        usage("FRONTENDS", &maps.frontends)?,
        usage("SLOTS", &maps.slots)?,
        usage("BACKENDS", &maps.backends)?,
        usage("CONNTRACK", &maps.conntrack)?,
        usage("LOCAL_PODS", &maps.local_pods)?,
        usage("SERVICES", &maps.services)?,
    ];
    let datapath = inspect::status(&state, &used, &maps.counters()?, &maps.drops()?);
    let status = FullStatus { datapath, agent: admin::read(&args.run.join("agent.sock")) };
    if args.output == Output::Json {
        println!("{}", serde_json::to_string_pretty(&status)?);
        return Ok(());
    }
    let FullStatus { datapath, agent } = status;
    println!(
        "maps of ABI {}, adopted {} times, {} applies, {}",
        datapath.abi,
        datapath.adoptions,
        datapath.applies,
        if datapath.synced { "synced" } else { "not synced yet" }
    );
    match &agent {
        Some(agent) => println!(
            "agent {}: {} services, {} pods; change to map p50 {} µs, p99 {} µs over {} changes; DNS {} answered, {} NXDOMAIN",
            agent.process,
            agent.services,
            agent.pods,
            agent.change_to_map_p50_us,
            agent.change_to_map_p99_us,
            agent.changes,
            agent.dns.answered,
            agent.dns.nxdomain
        ),
        None => println!("no agent listens in {}: the data path works on without it", args.run.display()),
    }
    print!("\n{}", inspect::render(&datapath.maps));
    let busy = |rows: Vec<CountRow>| rows.into_iter().filter(|row| row.count > 0).collect::<Vec<_>>();
    print!("\ncounters\n{}", inspect::render(&busy(datapath.counters)));
    print!("\ndrops\n{}", inspect::render(&busy(datapath.drops)));
    Ok(())
}

pub fn cleanup(args: &CleanupArgs) -> Result<()> {
    let removed = thalweg_loader::cleanup(&args.bpffs)?;
    if removed.is_empty() {
        println!("nothing was there");
    }
    for what in removed {
        println!("removed {what}");
    }
    Ok(())
}

type Entries<V> = Vec<(u32, V)>;

/// The slots of these frontends and the backends of those slots: few, where the arrays themselves are long.
fn behind(maps: &Maps, frontends: &[(FrontendKey, Frontend)]) -> Result<(Entries<Slot>, Entries<Backend>)> {
    let mut slots = BTreeMap::new();
    let mut backends = BTreeMap::new();
    for (_, frontend) in frontends {
        for index in frontend.base..frontend.base.saturating_add(frontend.count) {
            if slots.contains_key(&index) {
                continue;
            }
            let Some(slot) = maps.slots.get(&index)? else { continue };
            if !backends.contains_key(&slot.backend)
                && let Some(backend) = maps.backends.get(&slot.backend)?
            {
                backends.insert(slot.backend, backend);
            }
            slots.insert(index, slot);
        }
    }
    Ok((slots.into_iter().collect(), backends.into_iter().collect()))
}

// === impl ViewArgs ===

impl ViewArgs {
    fn wants(&self, service: &str) -> bool {
        self.service.as_ref().is_none_or(|text| service.contains(text.as_str()))
    }
}

fn open(bpffs: &Path) -> Result<Maps> {
    if !bpffs.exists() {
        bail!("{} does not exist: no agent has run on this node with these pins (see --bpffs)", bpffs.display());
    }
    Maps::open_pinned(bpffs).with_context(|| format!("open the maps below {}", bpffs.display()))
}

fn usage<K, V>(name: &'static str, table: &impl Table<K, V>) -> Result<(&'static str, u64, u64)> {
    Ok((name, table.entries()?.len() as u64, u64::from(table.capacity())))
}

fn print<R: Row>(output: Output, rows: &[R]) -> Result<()> {
    match output {
        Output::Json => println!("{}", serde_json::to_string_pretty(rows)?),
        Output::Table => print!("{}", inspect::render(rows)),
    }
    Ok(())
}
