//! The backend on real maps: what it writes is what the kernel holds, full maps are told apart, a restart adopts.

mod support;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use support::{dual, plan, restricted, sticky};
use thalweg_abi::{Affinity, AffinityKey, Be32, Be128, ServiceStats, SourceRange, SourceRangeKey};
use thalweg_loader::{Datapath, Error, Maps, Options, Sizes, Table, cleanup};
use thalweg_proxy::ebpf::EbpfBackend;
use thalweg_proxy::inspect::services;
use thalweg_proxy::{Applied, Backend as _, GRACE};

/// A folder of pins, removed with everything in it.
struct Pins(PathBuf);

// === impl Pins ===

impl Pins {
    fn new(name: &str) -> Self {
        let path = PathBuf::from(format!("/run/tw-proxy-{name}"));
        cleanup(&path).expect("remove what a killed run left");
        Self(path)
    }

    /// The maps, small; programs are loaded and attached to nothing.
    fn open(&self) -> Datapath {
        let options = Options {
            pin_root: self.0.clone(),
            cgroup: PathBuf::new(),
            node_addr: Some(Ipv4Addr::new(172, 30, 0, 11)),
            node_addr6: None,
            sizes: Sizes { slots: 12, backends: 32, services: 16, ..Sizes::uniform(64) },
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

/// One line per frontend, from the pinned maps as any other process would read them.
fn check(pins: &Path, expected: &[&str]) {
    let maps = Maps::open_pinned(pins).expect("pinned maps");
    let rows = services(
        &maps.frontends.entries().expect("frontends"),
        &maps.slots.entries().expect("slots"),
        &maps.backends.entries().expect("backends"),
        &maps.services.entries().expect("services"),
    );
    let seen: Vec<String> = rows
        .iter()
        .map(|row| {
            let endpoints: Vec<String> = row
                .endpoints
                .iter()
                .map(|endpoint| format!("{}({})", support::last_byte(&endpoint.address), endpoint.state))
                .collect();
            format!("{} {} -> {}", row.service, row.address, endpoints.join(" "))
        })
        .collect();
    assert_eq!(seen, expected);
}

fn numbers(applied: &Applied) -> (usize, usize, usize, usize) {
    (applied.frontends_written, applied.slots_written, applied.backends_written, applied.removed)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn plans_reach_the_pinned_maps_and_are_adopted() {
    let pins = Pins::new("maps");
    let datapath = pins.open();
    let mut backend = EbpfBackend::adopt(datapath.maps().expect("maps")).expect("adopt empty maps");
    backend.retain_only_known();
    let now = Instant::now();
    backend.set(plan("default/web", &[(1, 80, &[1, 2]), (1, 81, &[1, 2])], &[]));
    backend.set(plan("shop/api", &[(2, 443, &[3])], &[]));
    let applied = backend.apply(now).expect("apply");
    assert!(applied.failed.is_empty(), "{:?}", applied.failed);
    assert_eq!(numbers(&applied), (5, 3, 3, 0));
    check(
        &pins.0,
        &[
            "default/web 10.96.0.1:80 -> 1(ready) 2(ready)",
            "default/web 10.96.0.1:81 -> 1(ready) 2(ready)",
            "shop/api 10.96.0.2:443 -> 3(ready)",
        ],
    );

    // The agent dies; the next one knows everything from the maps and has nothing to write.
    drop((backend, datapath));
    let datapath = pins.open();
    assert!(datapath.adopted());
    let mut backend = EbpfBackend::adopt(datapath.maps().expect("maps")).expect("adopt");
    backend.set(plan("default/web", &[(1, 80, &[1, 2]), (1, 81, &[1, 2])], &[]));
    backend.set(plan("shop/api", &[(2, 443, &[3])], &[]));
    backend.retain_only_known();
    assert_eq!(numbers(&backend.apply(now).expect("apply")), (0, 0, 0, 0));

    // Twelve slots: three in use and ten wanted do not fit; the other service applies.
    backend.set(plan("default/web", &[(1, 80, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10])], &[]));
    backend.set(plan("shop/api", &[(2, 443, &[4])], &[3]));
    let applied = backend.apply(now).expect("apply");
    let [failure] = &applied.failed[..] else { panic!("{:?}", applied.failed) };
    assert!(matches!(failure.error, Error::TableFull { table: "SLOTS", capacity: 12 }), "{failure}");
    check(
        &pins.0,
        &[
            "default/web 10.96.0.1:80 -> 1(ready) 2(ready)",
            "default/web 10.96.0.1:81 -> 1(ready) 2(ready)",
            "shop/api 10.96.0.2:443 -> 4(ready)",
        ],
    );

    backend.remove(&support::name("default/web"));
    backend.remove(&support::name("shop/api"));
    assert_eq!(backend.apply(now).expect("apply").removed, 5);
    check(&pins.0, &[]);
    backend.apply(now + GRACE + Duration::from_secs(1)).expect("apply");
    assert_eq!(backend.next_deadline(), None, "nothing rests any more");
    let maps = Maps::open_pinned(&pins.0).expect("pinned maps");
    assert!(maps.frontends.entries().expect("frontends").is_empty() && maps.services.entries().expect("services").is_empty());
}

/// What the maps hold of each kind: frontends of both families, source ranges as texts, clients that keep a backend.
fn contents(pins: &Path) -> (usize, usize, Vec<String>, usize) {
    let maps = Maps::open_pinned(pins).expect("pinned maps");
    let mut ranges: Vec<String> = maps
        .source_ranges
        .entries()
        .expect("source ranges")
        .iter()
        .map(|(key, _)| format!("{} {:?}/{}", key.range.service, key.range.addr, key.prefix))
        .collect();
    ranges.sort();
    (
        maps.frontends.entries().expect("frontends").len(),
        maps.frontends6.entries().expect("frontends of IPv6").len(),
        ranges,
        maps.affinity.entries().expect("affinity").len(),
    )
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn both_families_source_ranges_and_affinity_reach_the_kernel_and_leave_it() {
    let pins = Pins::new("whole");
    let datapath = pins.open();
    let mut maps = datapath.maps().expect("maps");
    let mut backend = EbpfBackend::adopt(datapath.maps().expect("maps")).expect("adopt empty maps");
    backend.retain_only_known();
    let now = Instant::now();
    let web = || dual(restricted(plan("default/web", &[(1, 80, &[1, 2])], &[]), &["10.0.0.0/8", "10.1.2.0/24", "fd00:1::/32"]));
    backend.set(sticky(web(), 60));
    backend.set_service_ranges(&["10.96.0.0/12", "fd00:96::/112"].map(|text| text.parse().expect("a network")));
    let applied = backend.apply(now).expect("apply");
    assert!(applied.failed.is_empty(), "{:?}", applied.failed);
    assert_eq!(numbers(&applied), (4, 4, 4, 0));
    let ranges = ["1 10.0.0.0/136", "1 10.1.2.0/152", "1 fd00:1::/64"].map(str::to_owned).to_vec();
    assert_eq!(contents(&pins.0), (2, 2, ranges.clone(), 0));
    let service_ranges = maps.service_ranges.get(&0).expect("service ranges").expect("an array");
    assert_eq!((service_ranges.used, service_ranges.used6), (1, 1));

    // The data path has served a client; then affinity goes, and comes back.
    let client = AffinityKey { client: Be128::mapped(Be32::from_octets([10, 1, 2, 3])), service: 1, ..AffinityKey::default() };
    maps.affinity.update(&[(client, Affinity { backend: 1, generation: 1, ..Affinity::default() })]).expect("a client");
    maps.service_stats.update(&[(1, ServiceStats { sockets: 7, flows: 7 })]).expect("counts");
    backend.set(web());
    assert_eq!(numbers(&backend.apply(now).expect("apply")), (2, 0, 0, 0));
    assert_eq!(contents(&pins.0).3, 1, "nothing is searched while it is off");
    backend.set(sticky(web(), 60));
    assert_eq!(numbers(&backend.apply(now).expect("apply")), (2, 0, 0, 0));
    assert_eq!(contents(&pins.0).3, 0);

    // The next agent finds all of it, and has nothing to write.
    drop((backend, datapath));
    let datapath = pins.open();
    let mut backend = EbpfBackend::adopt(datapath.maps().expect("maps")).expect("adopt");
    backend.set(sticky(web(), 60));
    backend.retain_only_known();
    assert_eq!(numbers(&backend.apply(now).expect("apply")), (0, 0, 0, 0));
    assert_eq!(contents(&pins.0), (2, 2, ranges, 0));

    // One range less, then the whole service; the trie is asked for exactly what it holds.
    let mut less = sticky(web(), 60);
    less.source_ranges.retain(|range| range.prefix() != 24);
    backend.set(less);
    backend.apply(now).expect("apply");
    assert_eq!(contents(&pins.0).2, ["1 10.0.0.0/136", "1 fd00:1::/64"]);
    backend.remove(&support::name("default/web"));
    assert_eq!(backend.apply(now).expect("apply").removed, 4);
    assert_eq!(contents(&pins.0), (0, 0, Vec::new(), 0));
    let gone: Vec<u32> = backend.take_gone().iter().map(|gone| gone.backend).collect();
    assert_eq!(gone, [1, 2, 3, 4]);
    backend.set(plan("default/api", &[(2, 80, &[1])], &[]));
    backend.apply(now).expect("apply");
    let api = maps.services.entries().expect("names").iter().map(|(number, _)| *number).next().expect("a number");
    let stats = maps.service_stats.get(&api).expect("counts");
    assert_eq!(stats, Some(ServiceStats::default()));
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_full_trie_shuts_one_service() {
    let pins = Pins::new("trie");
    let datapath = pins.open();
    let mut backend = EbpfBackend::adopt(datapath.maps().expect("maps")).expect("adopt empty maps");
    backend.retain_only_known();
    let now = Instant::now();
    let texts: Vec<String> = (0..65).map(|n| format!("10.{n}.0.0/16")).collect();
    let many: Vec<&str> = texts.iter().map(String::as_str).collect();
    // Somebody else's entry: the kernel says that the map is full where the agent's own account does not.
    let foreign = SourceRangeKey { prefix: 64, range: SourceRange { service: 4_000_000, ..SourceRange::default() } };
    datapath.maps().expect("maps").source_ranges.update(&[(foreign, 1)]).expect("room for one");
    backend.set(restricted(plan("default/web", &[(1, 80, &[1])], &[]), &many[..64]));
    backend.set(restricted(plan("default/zoo", &[(2, 80, &[2])], &[]), &[]));
    let applied = backend.apply(now).expect("apply");
    let [failure] = &applied.failed[..] else { panic!("{:?}", applied.failed) };
    assert!(matches!(failure.error, Error::TableFull { table: "SOURCE_RANGES", capacity: 64 }), "{failure}");
    assert_eq!(contents(&pins.0).0, 4, "served, to those who are known");
    datapath.maps().expect("maps").source_ranges.delete(&[foreign]).expect("delete");
    let applied = backend.apply(now + Duration::from_secs(1)).expect("apply");
    assert!(applied.failed.is_empty(), "{:?}", applied.failed);
    assert_eq!(contents(&pins.0).2.len(), 64);
}
