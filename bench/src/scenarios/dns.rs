//! Names of the cluster, asked for by a pod with 200 queries outstanding: the agent beside unbound and knot, each on one CPU
//! with the same names, the client on another.

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use thalweg_lab::place::Place;
use thalweg_lab::probe::DnsLoadReport;
use thalweg_lab::process::{Process, wait_until};

use crate::bench::{Bench, Case};
use crate::labs::{DEADLINE, Ours, Plain};
use crate::manifests::{expected, many_vip};
use crate::measure::{Contender, Sample};
use crate::run::Better;
use crate::scenario::{LAB, Need, Scenario, find};
use crate::settings::Settings;

/// More than this share of the queries without an answer, and it is no rate.
const LOSS: f64 = 0.01;
/// What is asked for, by number.
const EXISTING: &str = "s{}.bench.svc.cluster.local";
/// What the search path of a pod makes of it first.
const WALKED: &str = "s{}.bench.svc.cluster.local.default.svc.cluster.local";

pub struct Dns;

/// Somebody else's server, in the lab without our programs.
#[derive(Clone, Copy)]
struct Other {
    name: &'static str,
    program: &'static str,
    package: &'static str,
    port: u16,
    /// Writes its configuration; returns its arguments.
    configure: fn(&Path, u32, SocketAddr) -> Result<Vec<String>>,
}

const OTHERS: [Other; 2] = [
    Other { name: "unbound", program: "unbound", package: "unbound", port: 53, configure: unbound },
    Other { name: "knot", program: "knotd", package: "knot", port: 54, configure: knot },
];

// === impl Dns ===

impl Scenario for Dns {
    fn name(&self) -> &'static str {
        "dns"
    }

    fn about(&self) -> &'static str {
        "names of services, there and not there, asked for over UDP with 200 queries outstanding"
    }

    fn ours(&self) -> &'static [&'static str] {
        &["thalweg"]
    }

    fn against(&self) -> &'static [&'static str] {
        &["unbound", "knot"]
    }

    fn needs(&self) -> &'static [Need] {
        LAB
    }

    fn cases(&self, settings: &Settings) -> usize {
        2 * settings.services.len()
    }

    fn run(&self, bench: &mut Bench<'_>) -> Result<()> {
        if !bench.has_ipv4_only() {
            return Ok(());
        }
        bench.alone()?;
        for services in bench.settings.services.clone() {
            if bench.stopped() {
                return Ok(());
            }
            // Those that are asked for are the many.
            let names = u32::try_from(expected(services))?.max(100);
            bench.say(format!("starting labs with {names} names"));
            let mut ours = Ours::start(bench.settings, "ebpf", names + 5)?;
            let plain = Plain::start(bench.settings)?;
            let result = in_labs(bench, &mut ours, &plain, names);
            let removed = ours.remove();
            plain.remove()?;
            removed?;
            result?;
        }
        Ok(())
    }
}

fn in_labs(bench: &mut Bench<'_>, ours: &mut Ours, plain: &Plain, names: u32) -> Result<()> {
    if let Some([_, server]) = bench.settings.cpus {
        ours.pin_agent(server)?;
    }
    // What is compared with comes first.
    let mut servers: Vec<(&str, Place, SocketAddr)> = Vec::new();
    // Ended with the lab.
    let mut running = Vec::new();
    for other in OTHERS.iter().filter(|other| bench.settings.wants(other.name)).collect::<Vec<_>>() {
        let Some(program) = find(other.program) else {
            bench.missing(other.name, format!("it is not installed: try `apt-get install {}`", other.package));
            continue;
        };
        let address = SocketAddr::new(plain.lab.topology().nodes[0].addr.into(), other.port);
        match start(bench.settings, plain, other, &program, names, address) {
            Ok(process) => {
                running.push(process);
                servers.push((other.name, plain.client.place(), address));
            }
            Err(error) => bench.failed(other.name, &error),
        }
    }
    let own = IpAddr::from(ours.lab.topology.nodes[0].addr);
    servers.push(("thalweg", ours.client.place(), SocketAddr::new(own, 53)));
    for (what, name, missing) in [("service", EXISTING, false), ("name of the search path that is not there", WALKED, true)] {
        if bench.stopped() {
            return Ok(());
        }
        let case =
            Case::new("queries per second", Better::Higher).with("family", "IPv4").with("names", names).with("asked for", what);
        let side = |(label, place, server): &(&str, Place, SocketAddr)| {
            contender(bench.settings, label, place.clone(), *server, (name, names), missing)
        };
        let contenders = servers.iter().map(side).collect();
        bench.compare(case, contenders)?;
    }
    Ok(())
}

fn contender<'a>(
    settings: &Settings,
    label: &str,
    place: Place,
    server: SocketAddr,
    (name, names): (&str, u32),
    missing: bool,
) -> Contender<'a> {
    let mut args = vec!["dns-load".to_owned(), server.to_string(), "--name".to_owned(), name.to_owned()];
    args.extend(["--names".to_owned(), names.to_string(), "--millis".to_owned(), settings.millis.to_string()]);
    if let Some([client, _]) = settings.cpus {
        args.extend(["--cpu".to_owned(), client.to_string()]);
    }
    if missing {
        args.push("--missing".to_owned());
    }
    Contender::new(label, move || {
        let words: Vec<&str> = args.iter().map(String::as_str).collect();
        let DnsLoadReport { rate, lost, wrong } = place.probe(&words)?;
        ensure!(wrong == 0, "{wrong} of {} answers were not what was expected", rate.transactions);
        let share = lost as f64 / (rate.transactions + lost).max(1) as f64;
        ensure!(share <= LOSS, "{lost} queries were lost, {} answered", rate.transactions);
        Ok(Sample { value: rate.per_second, latency: Some(rate.histogram()?) })
    })
}

fn start(
    settings: &Settings,
    plain: &Plain,
    other: &Other,
    program: &Path,
    names: u32,
    address: SocketAddr,
) -> Result<Process> {
    let folder = plain.lab.folder().join(other.name);
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let args = (other.configure)(&folder, names, address)?;
    let mut command = match settings.cpus {
        Some([_, server]) => vec!["taskset".to_owned(), "--cpu-list".to_owned(), server.to_string()],
        None => Vec::new(),
    };
    command.push(program.to_string_lossy().into_owned());
    command.extend(args);
    let first = PathBuf::from(command.remove(0));
    let mut process = plain.lab.run(0, other.name, &first, command)?;
    let client = plain.client.place();
    let server = address.to_string();
    wait_until("the name server answers", DEADLINE, &mut [&mut process], || {
        let probe = ["dns-load", &server, "--name", "s0.bench.svc.cluster.local", "--outstanding", "1", "--millis", "1"];
        Ok(client.probe::<DnsLoadReport>(&probe).is_ok_and(|report| report.rate.transactions > 0 && report.wrong == 0))
    })?;
    Ok(process)
}

/// Names with their addresses.
fn names(count: u32) -> impl Iterator<Item = (String, Ipv4Addr)> {
    (0..count).map(|number| (EXISTING.replace("{}", &number.to_string()), many_vip(number)))
}

fn unbound(folder: &Path, count: u32, address: SocketAddr) -> Result<Vec<String>> {
    let mut text = format!(
        "server:\n  interface: {}@{}\n  access-control: 0.0.0.0/0 allow\n  num-threads: 1\n  username: \"\"\n  chroot: \"\"\n  \
         directory: \"{}\"\n  pidfile: \"\"\n  use-syslog: no\n  do-daemonize: no\n  module-config: \"iterator\"\n  \
         local-zone: \"cluster.local.\" static\n",
        address.ip(),
        address.port(),
        folder.display()
    );
    for (name, address) in names(count) {
        writeln!(text, "  local-data: \"{name}. 30 A {address}\"")?;
    }
    text += "remote-control:\n  control-enable: no\n";
    let file = folder.join("unbound.conf");
    fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
    Ok(vec!["-d".to_owned(), "-c".to_owned(), file.to_string_lossy().into_owned()])
}

fn knot(folder: &Path, count: u32, address: SocketAddr) -> Result<Vec<String>> {
    let mut zone = "$ORIGIN cluster.local.\n@ 30 SOA ns.dns hostmaster 1 7200 1800 86400 30\n@ 30 NS ns.dns\n".to_owned();
    writeln!(zone, "ns.dns 30 A {}", address.ip())?;
    for (name, address) in names(count) {
        writeln!(zone, "{name}. 30 A {address}")?;
    }
    fs::write(folder.join("cluster.local.zone"), zone)?;
    let here = folder.display();
    let text = format!(
        "server:\n  rundir: \"{here}\"\n  listen: {}@{}\n  udp-workers: 1\n  tcp-workers: 1\n  background-workers: 1\n\
         log:\n  - target: stderr\n    any: error\n\
         database:\n  storage: \"{here}/db\"\n\
         zone:\n  - domain: cluster.local\n    storage: \"{here}\"\n    file: cluster.local.zone\n",
        address.ip(),
        address.port()
    );
    let file = folder.join("knot.conf");
    fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
    Ok(vec!["-c".to_owned(), file.to_string_lossy().into_owned()])
}
