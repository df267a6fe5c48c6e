//! The iptables backend with 10,000 services of two endpoints, in each family: what a first sync and one change take is
//! printed (`--nocapture`), and that a change stays small is checked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use thalweg_abi::{FrontendFlags, Proto, Scope};
use thalweg_cluster::{Family, Name};
use thalweg_lab::netns::Netns;
use thalweg_proxy::Backend as _;
use thalweg_proxy::iptables::{Inside, IptablesBackend, Options, Programs, Repaired, Variant, cleanup};
use thalweg_proxy::plan::{EndpointSet, PlannedFrontend, ServicePlan};

const SERVICES: u32 = 10_000;

fn address(family: Family, v4: u32) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from(v4).into(),
        Family::V6 => Ipv6Addr::from(0xfd00_u128 << 112 | u128::from(v4)).into(),
    }
}

fn plan(family: Family, index: u32, endpoints: usize) -> ServicePlan {
    let vip = address(family, 0x0a60_0000 + index);
    let all = [0x0af4_0000, 0x0af6_0000].map(|base| SocketAddr::new(address(family, base + index), 8080));
    let frontend = |port, protocol, flags, set| PlannedFrontend {
        vip,
        port,
        protocol,
        scope: Scope::INTERNAL,
        flags: FrontendFlags(flags),
        affinity_seconds: 0,
        service_port: port,
        set,
    };
    ServicePlan {
        name: Name::new("scale", format!("service-{index}")),
        frontends: vec![frontend(0, Proto::ANY, FrontendFlags::WILDCARD, 1), frontend(80, Proto::TCP, 0, 0)],
        sets: vec![EndpointSet { endpoints: all[..endpoints].to_vec() }, EndpointSet::default()],
        draining: Vec::new(),
        source_ranges: Vec::new(),
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn ten_thousand_services() {
    let cases = [Family::V4, Family::V6].map(|family| [(Variant::Nft, family), (Variant::Legacy, family)]);
    for (variant, family) in cases.into_iter().flatten() {
        let netns =
            Netns::create(&format!("tw-ipt-scale-{variant:?}-{family:?}").to_lowercase()).expect("a namespace; is this root?");
        let inside =
            Inside::Sources(["10.244.0.0/14", "fd00::af4:0/110"].map(|range| range.parse().expect("a network")).into());
        let options = Options { inside, ..Options::default() };
        let mut backend = IptablesBackend::new(Programs::new(variant), options).expect("valid");
        backend.retain_only_known();
        let apply = |backend: &mut IptablesBackend| {
            let applied = netns.enter(|| backend.sync(Instant::now())).expect("the namespace").expect("applies");
            assert!(applied.failed.is_empty(), "{:?}", applied.failed);
            applied
        };
        for index in 1..=SERVICES {
            backend.set(plan(family, index, 2));
        }
        let first = apply(&mut backend);
        assert_eq!((first.slots_written, first.backends_written), (20_000, 20_000));

        let mut changes: Vec<Duration> = Vec::new();
        for index in (1..=10).map(|step| step * 700) {
            backend.set(plan(family, index, 1));
            let changed = apply(&mut backend);
            assert_eq!((changed.frontends_written, changed.slots_written, changed.backends_written), (0, 1, 0));
            changes.push(changed.took);
        }
        changes.sort();

        let started = Instant::now();
        let repaired = netns.enter(|| backend.repair()).expect("the namespace").expect("looks");
        let looked = started.elapsed();
        assert_eq!(repaired, Repaired::default());
        let started = Instant::now();
        assert!(netns.enter(|| cleanup(&mut Programs::new(variant))).expect("the namespace").expect("cleans up"));
        println!(
            "{variant:?} {family:?}: first sync {:?}, one change {:?} (median of 10; worst {:?}), a look {looked:?}, cleanup {:?}",
            first.took,
            changes[5],
            changes[9],
            started.elapsed()
        );
    }
}
