//! SOCK_BACKENDS: the connected sockets of services, and only those.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use thalweg_abi::{Be16, Counter, Frontend, Proto, SockBackend};
use thalweg_loader::Table as _;

use crate::lab::{Lab, address, address6, dial, vip, vip6};

/// A socket is released after its descriptor is closed, which may be a moment later.
fn wait_for(lab: &Lab, expected: &[SockBackend]) {
    let deadline = Instant::now() + Duration::from_secs(2);
    loop {
        let found = lab.registered();
        if found == expected {
            return;
        }
        assert!(Instant::now() < deadline, "{found:?} instead of {expected:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

// cilium#28820: an entry lives as long as its socket, so the table does not fill with what is over.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_connected_socket_is_known_until_it_is_closed_or_dials_elsewhere() {
    let mut lab = Lab::new(true);
    lab.publish(vip(80).into(), Proto::TCP, Frontend::default(), &[(1, address(1, 8080).into())]);
    lab.publish(vip6(53), Proto::UDP, Frontend { base: 1, ..Frontend::default() }, &[(2, address6(1, 5353))]);
    lab.publish(vip(54).into(), Proto::UDP, Frontend { base: 2, ..Frontend::default() }, &[(3, address(1, 5353).into())]);
    lab.tcp_server(address(1, 8080));
    let entry = |dialled: SocketAddr, peer: SocketAddr, backend, proto| SockBackend {
        vip: dialled.ip().into(),
        peer: peer.ip().into(),
        vip_port: Be16::from_host(dialled.port()),
        peer_port: Be16::from_host(peer.port()),
        proto,
        pad: [0; 3],
        backend,
        generation: 1,
        service: 0,
    };

    let stream = lab.inside(|| dial(vip(80))).expect("through the VIP");
    assert_eq!(lab.registered(), [entry(vip(80).into(), address(1, 8080).into(), 1, Proto::TCP)]);
    let copy = stream.try_clone().expect("a second descriptor");
    drop(stream);
    assert_eq!(
        lab.registered(),
        [entry(vip(80).into(), address(1, 8080).into(), 1, Proto::TCP)],
        "the socket still has a descriptor"
    );
    drop(copy);
    wait_for(&lab, &[]);

    let socket = lab.udp_socket_at("[::]:0");
    socket.connect(vip6(53)).expect("connect");
    assert_eq!(lab.registered(), [entry(vip6(53), address6(1, 5353), 2, Proto::UDP)]);
    let second = lab.udp_socket();
    second.connect(vip(54)).expect("connect");
    second.connect(address(1, 5353)).expect("connect past the service");
    assert_eq!(lab.registered(), [entry(vip6(53), address6(1, 5353), 2, Proto::UDP)]);
    drop(socket);
    wait_for(&lab, &[]);

    lab.inside(|| dial(address(1, 8080))).expect("a plain address");
    lab.udp_socket().send_to(b"who are you?", vip(54)).expect("unconnected: the ring finds another backend by itself");
    assert_eq!(lab.registered(), []);
}

/// A socket may dial again while the load balancer is off, and nobody removes what it dialled before.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn what_was_dialled_is_shown_to_who_is_still_connected_there() {
    let mut lab = Lab::new(true);
    lab.publish(vip(80).into(), Proto::TCP, Frontend::default(), &[(1, address(1, 8080).into())]);
    lab.tcp_server(address(1, 8080));
    let stream = lab.inside(|| dial(vip(80))).expect("through the VIP");
    assert_eq!(stream.peer_addr().expect("peer"), vip(80).into());
    let entries = lab.maps.sock_backends.entries().expect("SOCK_BACKENDS");
    let elsewhere = entries.iter().map(|(cookie, entry)| (*cookie, SockBackend { peer_port: Be16::from_host(9), ..*entry }));
    lab.maps.sock_backends.update(&elsewhere.collect::<Vec<_>>()).expect("update");
    assert_eq!(stream.peer_addr().expect("peer"), address(1, 8080).into());
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_full_table_is_counted_and_fails_no_connection() {
    let mut lab = Lab::new(true);
    lab.publish(vip(54).into(), Proto::UDP, Frontend::default(), &[(3, address(1, 5353).into())]);
    // The table of the tests has 256 entries.
    let sockets: Vec<_> = (0..300).map(|_| lab.udp_socket()).collect();
    for socket in &sockets {
        socket.connect(vip(54)).expect("connect");
        assert_eq!(socket.peer_addr().expect("peer"), vip(54).into());
    }
    assert_eq!(lab.registered().len(), 256);
    assert_eq!(lab.counter(Counter::SockBackendsFull), 44);

    // A TCP socket is told its peer from the table; one that is not in it remembers by itself.
    lab.publish(vip(80).into(), Proto::TCP, Frontend { base: 1, ..Frontend::default() }, &[(1, address(1, 8080).into())]);
    lab.tcp_server(address(1, 8080));
    let stream = lab.inside(|| dial(vip(80))).expect("through the VIP");
    assert_eq!(stream.peer_addr().expect("peer"), vip(80).into());
    assert_eq!(lab.counter(Counter::SockBackendsFull), 45);
}
