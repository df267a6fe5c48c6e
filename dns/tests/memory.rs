//! What the zone costs in memory, counted by the allocator: what it holds, what a change allocates, and that an answer
//! allocates nothing. `--nocapture` shows the figures.
//!
//! One test, since the counters are those of the whole process.

use std::alloc::System;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use thalweg_cluster::{
    Change, Condition, Dirty, Endpoint, EndpointPort, EndpointSlice, Family, Name, Port, Protocol, Service, World,
};
use thalweg_dns::answer::{Outcome, respond};
use thalweg_dns::query::Transport;
use thalweg_dns::zone::{Zone, ZoneBuilder, ZoneConfig};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const MEGABYTE: usize = 1_000_000;
/// Endpoints of one slice, as the EndpointSlice controller fills them.
const SLICE: usize = 100;

#[test]
fn memory() {
    let small = held("10,000 services of 2 endpoints", 10_000, 2, false);
    assert!(small < 5 * MEGABYTE, "{small} octets");
    let large = held("10,000 services of 10 endpoints", 10_000, 10, false);
    assert!(large < 5 * MEGABYTE, "{large} octets");
    let headless = held("10,000 headless services of 10 endpoints with hostnames", 10_000, 10, true);
    assert!(headless < 6 * MEGABYTE, "{headless} octets");
    let one = held("one headless service of 5,000 endpoints with hostnames", 1, 5_000, true);
    assert!(one < MEGABYTE / 2, "{one} octets");
    changes_are_in_proportion();
    a_change_of_a_large_service();
    answers_allocate_nothing();
}

/// What the zone of such a cluster holds, in octets.
fn held(what: &str, services: usize, endpoints: usize, headless: bool) -> usize {
    let (world, dirty) = cluster(services, endpoints, headless);
    let region = Region::new(ALLOCATOR);
    let zone = zone(&world, &dirty);
    let change = region.change();
    let held = change.bytes_allocated - change.bytes_deallocated;
    println!("{what}: {held} octets in {} allocations", change.allocations - change.deallocations);
    drop(zone);
    held
}

/// A service is packed anew as a whole: a change of one endpoint costs as much as the service has endpoints, and no more.
fn a_change_of_a_large_service() {
    let (mut world, dirty) = cluster(1, 5_000, true);
    let mut builder = builder();
    builder.apply(&world, &dirty, 1);
    let (snapshot, mut dirty) = (builder.snapshot(), Dirty::default());
    let changed = slice(0, 7, 700..799, true);
    world.apply(Change::EndpointSlice(changed.name.clone(), Some(Arc::new(changed))), &mut dirty);
    let region = Region::new(ALLOCATOR);
    builder.apply(&world, &dirty, 2);
    let change = region.change();
    println!("one endpoint less among 5,000: {} octets allocated", change.bytes_allocated);
    assert!(change.bytes_allocated < 5_000 * 500, "{} octets", change.bytes_allocated);
    drop(snapshot);
}

/// A change of one service allocates the same in a small cluster and in a large one, apart from what shares its leaf.
fn changes_are_in_proportion() {
    let changed = |services: usize| {
        let (mut world, dirty) = cluster(services, 2, false);
        let mut builder = builder();
        builder.apply(&world, &dirty, 1);
        let snapshot = builder.snapshot();
        let mut dirty = Dirty::default();
        let changed = slice(0, 0, 1000..1001, false);
        world.apply(Change::EndpointSlice(changed.name.clone(), Some(Arc::new(changed))), &mut dirty);
        let region = Region::new(ALLOCATOR);
        builder.apply(&world, &dirty, 2);
        let allocated = region.change().bytes_allocated;
        println!("one change among {services} services: {allocated} octets allocated");
        drop(snapshot);
        allocated
    };
    let (small, large) = (changed(100), changed(20_000));
    assert!(large < 2 * small && large < 50_000, "{small} octets among 100 services, {large} among 20,000");
}

fn answers_allocate_nothing() {
    let (world, dirty) = cluster(200, 10, false);
    let zone = zone(&world, &dirty);
    let (world, dirty) = cluster(1, 5_000, true);
    let headless = self::zone(&world, &dirty);
    let mut out = Vec::with_capacity(2048);
    let mut ask = |zone: &Zone, name: &str, rtype: u16, expected: Outcome| {
        let packet = packet(name, rtype);
        let region = Region::new(ALLOCATOR);
        let outcomes = [0, 1 << 31, u32::MAX].map(|rotation| respond(&packet, Transport::Udp, rotation, zone, &mut out));
        let change = region.change();
        assert_eq!(outcomes, [expected; 3], "{name} {rtype}");
        assert_eq!((change.allocations, change.reallocations), (0, 0), "{name} {rtype}");
    };
    let service = "service-0.namespace-0.svc.cluster.local";
    for (name, rtype, expected) in [
        (service, 1, Outcome::Answer),
        (service, 28, Outcome::NoData),
        (service, 33, Outcome::Answer),
        (&format!("_http._tcp.{service}"), 33, Outcome::Answer),
        (&format!("10-0-0-0.{service}"), 1, Outcome::Answer),
        ("0.0.0.10.in-addr.arpa", 12, Outcome::Answer),
        ("1-2-3-4.namespace-0.pod.cluster.local", 1, Outcome::Answer),
        ("nothing.namespace-0.svc.cluster.local", 1, Outcome::NxDomain),
        ("www.example.com", 1, Outcome::Refused),
        ("cluster.local", 6, Outcome::Answer),
    ] {
        ask(&zone, name, rtype, expected);
    }
    for (name, rtype, expected) in [
        (service, 1, Outcome::Truncated),
        (service, 33, Outcome::Truncated),
        (&format!("host-4999.{service}"), 1, Outcome::Answer),
        (&format!("host-4999.{service}"), 33, Outcome::Answer),
        ("7.19.0.10.in-addr.arpa", 12, Outcome::Answer),
    ] {
        ask(&headless, name, rtype, expected);
    }
}

fn builder() -> ZoneBuilder {
    let mut builder = ZoneBuilder::new(&ZoneConfig::default()).expect("a zone");
    builder.set_synced();
    builder
}

fn zone(world: &World, dirty: &Dirty) -> Zone {
    let mut builder = builder();
    builder.apply(world, dirty, 1);
    builder.snapshot()
}

/// Services in a namespace of a hundred each, with their endpoints.
fn cluster(services: usize, endpoints: usize, headless: bool) -> (World, Dirty) {
    let (mut world, mut dirty) = (World::default(), Dirty::default());
    for index in 0..services {
        let mut service = Service::new(name(index));
        service.headless = headless;
        if !headless {
            service.cluster_ips = vec![IpAddr::V4(Ipv4Addr::from(0x0a60_0000 + index as u32))];
        }
        service.ports = vec![Port { name: "http".into(), protocol: Protocol::Tcp, port: 80, node_port: 0 }];
        world.apply(Change::Service(service.name.clone(), Some(Arc::new(service))), &mut dirty);
        for (number, first) in (0..endpoints).step_by(SLICE).enumerate() {
            let slice = slice(index, number, first..endpoints.min(first + SLICE), headless);
            world.apply(Change::EndpointSlice(slice.name.clone(), Some(Arc::new(slice))), &mut dirty);
        }
    }
    (world, dirty)
}

fn name(service: usize) -> Name {
    Name::new(format!("namespace-{}", service / 100), format!("service-{service}"))
}

fn slice(service: usize, number: usize, endpoints: std::ops::Range<usize>, hostnames: bool) -> EndpointSlice {
    let service_name = name(service);
    let endpoint = |index: usize| Endpoint {
        address: IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + (service * 10 + index) as u32)),
        condition: Condition { ready: true, serving: true, terminating: false },
        node: None,
        hostname: hostnames.then(|| format!("host-{index}").into()),
        pod: None,
        hints: None,
    };
    EndpointSlice {
        name: Name::new(service_name.namespace.clone(), format!("{}-{number}", service_name.name)),
        service: service_name,
        family: Family::V4,
        ports: vec![EndpointPort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 }],
        endpoints: endpoints.map(endpoint).collect(),
        last_change: None,
    }
}

fn packet(name: &str, rtype: u16) -> Vec<u8> {
    let mut packet = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x01".to_vec();
    for label in name.split('.') {
        packet.push(label.len() as u8);
        packet.extend_from_slice(label.as_bytes());
    }
    packet.push(0);
    packet.extend_from_slice(&rtype.to_be_bytes());
    // Class IN, then EDNS with 1232 octets.
    packet.extend_from_slice(b"\x00\x01\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00");
    packet
}
