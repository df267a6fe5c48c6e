//! A query over UDP for a name of the cluster, or for what the cache has, allocates nothing, counted by the allocator
//! while a server runs.
//!
//! One test, since the counters are those of the whole process.

use std::alloc::System;
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use thalweg_cluster::{Change, Dirty, Name, Service, World};
use thalweg_dns::stub_domains::StubDomains;
use thalweg_dns::{Config, Server, corefile};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const QUERIES: usize = 1000;
/// Of web.default.svc.cluster.local, A, with EDNS.
const OURS: &[u8] = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\x01\x03web\x07default\x03svc\x07cluster\x05local\0\0\x01\0\x01\0\0\x29\x04\xd0\0\0\0\0\0\0";
const MISSING: &[u8] = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x02no\x07default\x03svc\x07cluster\x05local\0\0\x01\0\x01";
const OTHERS: &[u8] = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03www\x07example\x03org\0\0\x01\0\x01";

/// A name server that says that there is nothing, for every question but those that look for loops.
fn upstream() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let server = socket.try_clone().expect("the same socket");
    std::thread::spawn(move || {
        let mut packet = [0; 2048];
        while let Ok((length, from)) = server.recv_from(&mut packet) {
            packet[2] |= 0x80;
            packet[3] = 3;
            if server.send_to(&packet[..length], from).is_err() {
                return;
            }
        }
    });
    socket
}

fn server(upstream: &UdpSocket) -> Server {
    let upstream = upstream.local_addr().expect("an address");
    let text =
        format!(".:53 {{\nkubernetes cluster.local\nforward . {upstream}\ncache\nacl {{\nallow net 127.0.0.0/8\nblock\n}}\n}}");
    let parsed = corefile::parse(&text, &|_| None).expect("a Corefile");
    let config = Config::from_corefile(&parsed, &StubDomains::default()).expect("a configuration");
    let server = Server::serve(&["127.0.0.1:0".parse().expect("an address")], 1, &config).expect("a server");
    let (mut world, mut dirty) = (World::default(), Dirty::default());
    let service = Service { cluster_ips: [[10, 96, 0, 20].into()].into(), ..Service::new(Name::new("default", "web")) };
    world.apply(Change::Service(service.name.clone(), Some(Arc::new(service))), &mut dirty);
    server.publish(&world, &dirty);
    server.mark_synced();
    server
}

/// Asks one after another; the length and code of the last answer.
fn ask(client: &UdpSocket, query: &[u8], times: usize) -> (usize, u8) {
    let mut reply = [0; 2048];
    let mut last = (0, 0);
    for _ in 0..times {
        client.send(query).expect("sent");
        let length = client.recv(&mut reply).expect("a reply");
        last = (length, reply[3] & 15);
    }
    last
}

#[test]
fn a_query_that_is_known_allocates_nothing() {
    let upstream = upstream();
    let server = server(&upstream);
    let client = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    client.set_read_timeout(Some(Duration::from_secs(20))).expect("a time-out");
    client.connect(server.addresses()[0]).expect("connected");
    // Long enough that no answer of the cache ends, as the least TTL is five seconds, unless the machine sleeps.
    for (what, query, code) in [("a service", OURS, 0), ("a missing service", MISSING, 3), ("a cached answer", OTHERS, 3)] {
        // Buffers get their size.
        assert_eq!(ask(&client, query, 50).1, code, "{what}");
        let region = Region::new(ALLOCATOR);
        ask(&client, query, QUERIES);
        let allocations = region.change().allocations;
        println!("{what}: {allocations} allocations for {QUERIES} queries");
        // What other threads do, such as those of the test's own harness, is far from one for each query.
        assert!(allocations < QUERIES / 20, "{what}: {allocations} allocations for {QUERIES} queries");
    }
}
