//! The backend on real maps: what it writes is what the kernel holds, full maps are told apart, a restart adopts.

mod support;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use support::plan;
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
