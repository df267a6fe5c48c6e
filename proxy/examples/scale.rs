//! How long it takes to program real maps, how much memory that needs, and what one change costs.
//!
//! `cargo run --release -p thalweg-proxy --example scale -- SERVICES ENDPOINTS [FILE]`, as root: each service has that many
//! endpoints. With the path of a manifest, its services are taken, through the source that reads files. Programs are loaded
//! and attached to nothing; every trace is removed at the end.

#![expect(clippy::print_stdout, reason = "numbers for people")]

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use thalweg_cluster::{
    Change, Condition, Dirty, Endpoint, EndpointPort, EndpointSlice, Family, Name, Port, Protocol, Service, Source, World,
};
use thalweg_loader::{Datapath, Options, Sizes, cleanup, heap};
use thalweg_proxy::ebpf::EbpfBackend;
use thalweg_proxy::{Applied, NodeView, Proxy};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

/// Endpoints of one slice, as the controller makes them.
const SLICE: usize = 100;
/// Single changes that are timed.
const CHANGES: usize = 500;

/// A folder of pins, removed with everything in it.
struct Pins(PathBuf);

fn main() {
    // As an agent has it.
    heap::keep_small();
    let mut arguments = std::env::args().skip(1);
    let mut number = |default| arguments.next().map_or(default, |text| text.parse().expect("SERVICES ENDPOINTS: two numbers"));
    let (services, endpoints) = (number(10_000), number(2));
    let manifest = arguments.next().map(PathBuf::from);
    let pins = Pins(PathBuf::from(format!("/run/tw-scale-{}", std::process::id())));
    println!("{services} services of {endpoints} endpoints");

    let datapath = pins.open(services, endpoints);
    let before = private();
    let mut world = World::default();
    let source = manifest.map(|path| read(path, &mut world));
    if source.is_none() {
        for service in 0..services {
            world.apply(object(service), &mut Dirty::default());
            for first in (0..endpoints).step_by(SLICE) {
                world.apply(slice(service, first, endpoints.min(first + SLICE)), &mut Dirty::default());
            }
        }
    }
    let with_world = private();

    let mut proxy = adopt(&datapath);
    let started = Instant::now();
    let applied = proxy.first_sync(&world).expect("first sync");
    say("first sync", started.elapsed(), &applied);
    println!(
        "private: {} KiB before, +{} KiB world and its source, +{} KiB proxy and backend; {} KiB resident at most",
        before,
        with_world - before,
        private() - with_world,
        status("VmHWM:")
    );
    if source.is_some() {
        return;
    }

    // One endpoint goes, and comes back, of one service after the other.
    let mut times: Vec<(Duration, Duration)> = Vec::new();
    let mut last = Applied::default();
    for change in 0..CHANGES {
        let (service, gone) = ((change / 2 * 7_919) % services, change % 2 == 0);
        let first = (endpoints - 1) / SLICE * SLICE;
        let mut dirty = Dirty::default();
        world.apply(slice(service, first, if gone { endpoints - 1 } else { endpoints }), &mut dirty);
        let started = Instant::now();
        last = proxy.update(&world, &dirty).expect("update");
        assert!(last.failed.is_empty(), "{:?}", last.failed);
        times.push((started.elapsed(), last.took));
        // Ranges rest for seconds before they are used again; nobody waits for that here.
        if last.slots_written > 1_000 && change > 8 {
            break;
        }
    }
    let percentiles = |pick: fn(&(Duration, Duration)) -> Duration| {
        let mut sorted: Vec<Duration> = times.iter().map(pick).collect();
        sorted.sort_unstable();
        (sorted[sorted.len() / 2], sorted[sorted.len() * 99 / 100])
    };
    println!(
        "one change, plan and apply: p50 {:?} p99 {:?}; apply alone: {:?} {:?}",
        percentiles(|t| t.0).0,
        percentiles(|t| t.0).1,
        percentiles(|t| t.1).0,
        percentiles(|t| t.1).1
    );
    say("last change", times.last().expect("a change").0, &last);
    println!("private: {} KiB", private());

    // The agent is gone; the next one takes over.
    drop((proxy, datapath));
    let datapath = pins.open(services, endpoints);
    let started = Instant::now();
    let mut proxy = adopt(&datapath);
    println!("adopted in {:?}", started.elapsed());
    let started = Instant::now();
    let applied = proxy.first_sync(&world).expect("first sync after adoption");
    say("sync after adoption", started.elapsed(), &applied);
}

fn adopt(datapath: &Datapath) -> Proxy<EbpfBackend> {
    let view =
        NodeView { node: Arc::from("node-1"), addresses: Vec::new(), zone: None, redirect: None, localhost_node_ports: false };
    Proxy::new(EbpfBackend::adopt(datapath.maps().expect("maps")).expect("adopt"), view)
}

fn say(what: &str, took: Duration, applied: &Applied) {
    let stages: Vec<String> = applied.stages.iter().map(|(stage, took)| format!("{stage} {took:.1?}")).collect();
    println!(
        "{what}: {took:.1?} (frontends {}, slots {}, backends {}, removed {}, failed {}): {}",
        applied.frontends_written,
        applied.slots_written,
        applied.backends_written,
        applied.removed,
        applied.failed.len(),
        stages.join(", ")
    );
}

fn name(service: usize) -> Name {
    Name::new(format!("namespace-{}", service / 50), format!("service-{service}"))
}

fn object(service: usize) -> Change {
    let name = name(service);
    let object = Service {
        cluster_ips: vec![IpAddr::V4(Ipv4Addr::from(0x0A60_0000 + service as u32))],
        ports: vec![Port { name: Arc::from("http"), protocol: Protocol::Tcp, port: 80, node_port: 0 }],
        ..Service::new(name.clone())
    };
    Change::Service(name, Some(Arc::new(object)))
}

/// The slice of a service that holds its endpoints from `first` to `end`.
fn slice(service: usize, first: usize, end: usize) -> Change {
    let name = name(service);
    let slice = Name::new(name.namespace.clone(), format!("{}-{first}", name.name));
    let endpoint = |index: usize| Endpoint {
        address: IpAddr::V4(Ipv4Addr::from(0x0B00_0000 + (service * 2 + index) as u32)),
        condition: Condition { ready: true, serving: true, terminating: false },
        node: Some(Arc::from(format!("node-{}", index % 100))),
        hostname: None,
        pod: Some(format!("{}-{index}", name.name).into()),
        hints: None,
    };
    let object = EndpointSlice {
        name: slice.clone(),
        service: name.clone(),
        family: Family::V4,
        ports: vec![EndpointPort { name: Arc::from("http"), protocol: Protocol::Tcp, port: 8080 }],
        endpoints: (first..end).map(endpoint).collect(),
        last_change: None,
    };
    Change::EndpointSlice(slice, Some(Arc::new(object)))
}

/// Applies what a file says; the source follows it until the runtime is dropped.
fn read(path: PathBuf, world: &mut World) -> Runtime {
    let runtime = Runtime::new().expect("a runtime");
    let (sink, mut batches) = mpsc::channel(8);
    runtime.spawn(Source::File(path).run(sink));
    loop {
        let batch = batches.blocking_recv().expect("a source that goes on");
        for change in batch.changes {
            world.apply(change, &mut Dirty::default());
        }
        if batch.synced {
            return runtime;
        }
    }
}

/// KiB of memory of its own.
fn private() -> i64 {
    status("RssAnon:")
}

fn status(field: &str) -> i64 {
    let text = std::fs::read_to_string("/proc/self/status").expect("/proc is mounted");
    let line = text.lines().find_map(|line| line.strip_prefix(field)).expect("a line of that name");
    line.trim().trim_end_matches(" kB").parse().expect("a number of KiB")
}

// === impl Pins ===

impl Pins {
    fn open(&self, services: usize, endpoints: usize) -> Datapath {
        let room = |least: u32, wanted: usize| least.max(u32::try_from(wanted).expect("less than 2^32"));
        let default = Sizes::default();
        let options = Options {
            pin_root: self.0.clone(),
            cgroup: PathBuf::new(),
            node_addr: Some(Ipv4Addr::new(172, 30, 0, 11)),
            node_addr6: None,
            sizes: Sizes {
                backends: room(default.backends, services * endpoints + 1_024),
                slots: room(default.slots, services * endpoints * 2),
                ..default
            },
            socket_lb: true,
        };
        Datapath::open(&options).expect("the data path")
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        if let Err(error) = cleanup(&self.0) {
            eprintln!("pins at {} stay behind: {error}", self.0.display());
        }
    }
}
