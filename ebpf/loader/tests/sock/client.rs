//! Who dials: affinity, source ranges, opt-out and loopback by network namespace.

use std::{
    collections::BTreeSet,
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener},
};

use thalweg_abi::{
    AffinityKey, Backend, BackendState, Be32, Be128, Counter, Frontend, FrontendFlags, Netns, NetnsFlags, Proto, SourceRange,
    SourceRangeKey,
};
use thalweg_loader::Table;

use crate::{
    kit,
    lab::{Lab, NODE, NODE6, VIP, address, address6, ask, dial, mapped, vip, vip6},
};

const POD: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 7);

fn pod() -> Netns {
    let addr6 = Be128::from("fd44::7".parse::<std::net::Ipv6Addr>().expect("an address"));
    Netns { addr: POD.into(), addr6, ..Netns::default() }
}

fn sticky(service: u32, base: u32) -> Frontend {
    let flags = FrontendFlags(FrontendFlags::AFFINITY);
    Frontend { service, base, flags, affinity_seconds: 10_800, ..Frontend::default() }
}

/// Dials so often that a choice at random would not be the same each time, and returns where connections went.
fn peers(lab: &Lab, to: SocketAddr, listeners: &[TcpListener]) -> BTreeSet<usize> {
    let streams: Vec<_> = (0..20).map(|_| lab.inside(|| dial(to)).expect("through the VIP")).collect();
    let accepted = |listener: &TcpListener| {
        listener.set_nonblocking(true).expect("non-blocking");
        std::iter::from_fn(|| listener.accept().ok()).count()
    };
    let counts: Vec<_> = listeners.iter().map(accepted).collect();
    assert_eq!(counts.iter().sum::<usize>(), streams.len(), "every connection was accepted");
    counts.iter().enumerate().filter(|(_, count)| **count > 0).map(|(at, _)| at).collect()
}

// cilium#26709, cilium#35254: affinity holds at the socket, by the table that tc uses.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_pod_keeps_its_backend_until_that_goes() {
    let mut lab = Lab::new(true);
    lab.introduce(pod());
    let backends: Vec<_> = [(1, address(1, 8080)), (2, address(2, 8080))].map(|(id, at)| (id, SocketAddr::V4(at))).into();
    lab.publish(vip(80).into(), Proto::TCP, sticky(3, 0), &backends);
    let listeners: Vec<_> = backends.iter().map(|(_, at)| lab.inside(|| TcpListener::bind(at)).expect("listen")).collect();
    let kept = peers(&lab, vip(80).into(), &listeners);
    assert_eq!(kept.len(), 1, "one backend for all connections");
    assert_eq!(peers(&lab, mapped(vip(80)), &listeners), kept, "and for those of sockets of IPv6");
    assert_eq!(lab.counter(Counter::AffinityHit), 39, "all but the first");
    let client = Be128::mapped(POD.into());
    let port = vip(80).port();
    let key = AffinityKey { client, service: 3, port: thalweg_abi::Be16::from_host(port), proto: Proto::TCP, local: 0 };
    let known = lab.maps.affinity.get(&key).expect("AFFINITY").expect("by the address of the pod, as tc knows it");

    // It goes: the client keeps the other from now on.
    let other = backends.iter().position(|(id, _)| *id != known.backend).expect("the other");
    let gone = Backend { state: BackendState::FREE, generation: 2, ..Backend::default() };
    lab.maps.backends.update(&[(known.backend, gone)]).expect("free the backend");
    lab.publish(vip(80).into(), Proto::TCP, sticky(3, 10), &backends[other..=other]);
    assert_eq!(peers(&lab, vip(80).into(), &listeners), BTreeSet::from([other]));

    // Switched off, it is at random at once.
    lab.publish(vip(80).into(), Proto::TCP, Frontend { service: 3, base: 20, ..Frontend::default() }, &backends);
    assert_eq!(peers(&lab, vip(80).into(), &listeners).len(), 2);
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_namespace_that_nobody_has_listed_is_one_client_too() {
    let mut lab = Lab::new(true);
    let backends = [(1, address6(1, 8080)), (2, address6(2, 8080))];
    lab.publish(vip6(80), Proto::TCP, sticky(3, 0), &backends);
    let listeners = backends.map(|(_, at)| lab.inside(|| TcpListener::bind(at)).expect("listen"));
    assert_eq!(peers(&lab, vip6(80), &listeners).len(), 1);
    let [(key, _)] = lab.maps.affinity.entries().expect("AFFINITY")[..] else { panic!("one entry") };
    let client = std::net::Ipv6Addr::from(key.client);
    assert!(client.is_multicast(), "{client} can be nobody's address");
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_process_of_the_node_is_known_by_the_nodes_address() {
    let mut lab = Lab::of_node();
    lab.publish(vip(80).into(), Proto::TCP, sticky(3, 0), &[(1, address(1, 8080).into())]);
    lab.publish(vip6(80), Proto::TCP, sticky(3, 1), &[(2, address6(1, 8080))]);
    lab.tcp_server(address(1, 8080));
    lab.tcp_server(address6(1, 8080));
    lab.inside(|| dial(vip(80))).expect("by IPv4");
    lab.inside(|| dial(vip6(80))).expect("by IPv6");
    let clients: BTreeSet<_> = lab.maps.affinity.entries().expect("AFFINITY").into_iter().map(|(key, _)| key.client).collect();
    assert_eq!(clients, BTreeSet::from([Be128::mapped(NODE.into()), Be128::from(NODE6)]));
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn only_admitted_clients_are_translated() {
    let mut lab = Lab::new(true);
    let flags = FrontendFlags(FrontendFlags::CHECK_SOURCE);
    let frontend = Frontend { service: 9, flags, ..Frontend::default() };
    lab.publish(vip(80).into(), Proto::TCP, frontend, &[(1, address(1, 8080).into())]);
    lab.tcp_server(address(1, 8080));
    let dialled = |lab: &Lab| lab.inside(|| dial(vip(80))).map(drop).map_err(|error| error.kind());
    // There is no route to the VIP here: what is left to tc is unreachable.
    let left_to_tc = Err(ErrorKind::NetworkUnreachable);
    let admit = |lab: &mut Lab, service: u32, range: [u8; 4], bits: u32| {
        let addr = Be128::mapped(Be32::from_octets(range));
        let key = SourceRangeKey { prefix: 32 + 96 + bits, range: SourceRange { service, addr } };
        lab.maps.source_ranges.update(&[(key, 0)]).expect("write a range");
    };
    admit(&mut lab, 9, [10, 244, 0, 0], 16);
    assert_eq!(dialled(&lab), left_to_tc, "nobody knows this namespace's address: tc sees the packet's");
    lab.introduce(pod());
    assert_eq!(dialled(&lab), Ok(()), "within the range");
    lab.introduce(Netns { addr: Be32::from_octets([10, 245, 0, 7]), ..Netns::default() });
    assert_eq!(dialled(&lab), left_to_tc, "outside of it");
    admit(&mut lab, 8, [10, 245, 0, 0], 16);
    assert_eq!(dialled(&lab), left_to_tc, "within another service's");
    admit(&mut lab, 9, [0, 0, 0, 0], 0);
    assert_eq!(dialled(&lab), Ok(()), "everybody is admitted");
}

// cilium#25322: sidecars and sandboxes see what was dialled.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_pod_that_opted_out_is_left_to_tc() {
    let mut lab = Lab::new(true);
    kit::own(&mut lab.maps, VIP);
    kit::serve(&mut lab.maps, vip(80), Proto::TCP, 0, &[(1, address(1, 8080))]);
    kit::serve(&mut lab.maps, vip(53), Proto::UDP, 1, &[(2, address(1, 5353))]);
    kit::serve_nobody(&mut lab.maps, vip(81), Proto::TCP, 0);
    lab.tcp_server(address(1, 8080));
    lab.introduce(Netns { flags: NetnsFlags(NetnsFlags::NO_SOCKET_LB), ..pod() });
    for port in [80, 81, 9_999] {
        let error = lab.inside(|| dial(vip(port))).expect_err("the VIP has no route");
        assert_eq!(error.kind(), ErrorKind::NetworkUnreachable, "port {port}: neither translated nor refused");
    }
    let error = ask(&lab.udp_socket(), vip(53)).expect_err("the VIP has no route");
    assert_eq!(error.kind(), ErrorKind::NetworkUnreachable);
    lab.inside(|| dial(address(1, 8080))).expect("what is no service's is not looked at");
    assert_eq!(lab.counter(Counter::SockOptOut), 4);
    assert_eq!((lab.counter(Counter::SockTranslated), lab.counter(Counter::SockRefused)), (0, 0));
    assert_eq!(lab.registered(), []);

    lab.introduce(pod());
    lab.inside(|| dial(vip(80))).expect("opted in again, at once");
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn loopback_is_the_nodes_in_the_node_and_a_pods_own_in_a_pod() {
    let local = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 30_080);
    let publish = |lab: &mut Lab| {
        let flags = FrontendFlags(FrontendFlags::NODE_PORT);
        lab.publish(local.into(), Proto::TCP, Frontend { flags, ..Frontend::default() }, &[(1, address(1, 8080).into())]);
        lab.tcp_server(address(1, 8080));
    };
    let mut lab = Lab::of_node();
    publish(&mut lab);
    let stream = lab.inside(|| dial(local)).expect("a NodePort by localhost");
    assert_eq!(stream.peer_addr().expect("peer"), local.into());
    drop((stream, lab));

    let mut lab = Lab::new(true);
    publish(&mut lab);
    let error = lab.inside(|| dial(local)).expect_err("nobody listens in the pod");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    lab.tcp_server(local);
    lab.inside(|| dial(local)).expect("the pod's own server");
    assert_eq!((lab.counter(Counter::SockLookup), lab.counter(Counter::SockTranslated)), (0, 0));
}
