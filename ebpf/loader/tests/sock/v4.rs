//! IPv4: connect, sendmsg, recvmsg, getpeername.

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener},
};

use thalweg_abi::{Backend, BackendState, Counter, FrontendFlags, Proto};
use thalweg_loader::Table;

use crate::{
    kit,
    lab::{Lab, VIP, address, ask, dial, vip},
};

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn tcp_reaches_every_backend_and_sees_the_vip_as_peer() {
    let mut lab = Lab::new(true);
    let backends = [(1, address(1, 8080)), (2, address(2, 8081))];
    kit::serve(&mut lab.maps, vip(80), Proto::TCP, 5, &backends);
    let listeners: Vec<_> = backends.iter().map(|(_, at)| lab.inside(|| TcpListener::bind(at)).expect("listen")).collect();
    for listener in &listeners {
        listener.set_nonblocking(true).expect("non-blocking");
    }
    let streams: Vec<_> = (0..64).map(|_| lab.inside(|| dial(vip(80))).expect("through the VIP")).collect();
    for stream in &streams {
        assert_eq!(stream.peer_addr().expect("peer"), SocketAddr::V4(vip(80)), "getpeername shows what was dialled");
    }
    let accepted: Vec<usize> = listeners.iter().map(|listener| std::iter::from_fn(|| listener.accept().ok()).count()).collect();
    assert_eq!(accepted.iter().sum::<usize>(), 64);
    // Each is chosen with probability 1/2: fewer than 8 of 64 happens once in a billion runs.
    assert!(accepted.iter().all(|count| *count >= 8), "spread over backends: {accepted:?}");
    assert_eq!((lab.counter(Counter::SockLookup), lab.counter(Counter::SockTranslated)), (64, 64));
    assert_eq!(lab.counter(Counter::SockRefused), 0);
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn what_nobody_serves_is_refused_and_what_is_not_ours_is_left_alone() {
    let mut lab = Lab::new(true);
    kit::own(&mut lab.maps, VIP);
    kit::serve_nobody(&mut lab.maps, vip(80), Proto::TCP, 0);
    kit::serve_nobody(&mut lab.maps, vip(81), Proto::TCP, FrontendFlags::DROP_WHEN_EMPTY);
    kit::serve(&mut lab.maps, vip(53), Proto::UDP, 0, &[(1, address(1, 53))]);
    lab.tcp_server(address(1, 8080));
    let dialled = |to| lab.inside(|| dial(to)).map(drop).map_err(|error| error.kind());

    assert_eq!(dialled(vip(80)), Err(ErrorKind::ConnectionRefused), "no endpoints");
    assert_eq!(dialled(vip(9999)), Err(ErrorKind::ConnectionRefused), "a port that no service has");
    assert_eq!(dialled(vip(53)), Err(ErrorKind::ConnectionRefused), "served, but only for UDP");
    assert_eq!(lab.counter(Counter::SockRefused), 3);
    assert_eq!(dialled(vip(81)), Err(ErrorKind::NetworkUnreachable), "left to tc, which drops; here there is no route");
    assert_eq!(dialled(SocketAddrV4::new(Ipv4Addr::new(10, 96, 0, 2), 80)), Err(ErrorKind::NetworkUnreachable), "not ours");
    assert_eq!(dialled(address(1, 8080)), Ok(()), "a plain address");
    assert_eq!((lab.counter(Counter::SockRefused), lab.counter(Counter::SockTranslated)), (3, 0));

    let socket = lab.udp_socket();
    let error = ask(&socket, vip(9999)).expect_err("a UDP port that no service has");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    let error = socket.connect(vip(9999)).expect_err("connected UDP");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn udp_hears_the_vip_and_stays_with_its_backend_while_that_lives() {
    let mut lab = Lab::new(true);
    let backends = [(1, address(1, 5353)), (2, address(2, 5353))];
    kit::serve(&mut lab.maps, vip(53), Proto::UDP, 0, &backends);
    for (_, at) in backends {
        lab.udp_server(at);
    }
    let socket = lab.udp_socket();
    let (chosen, heard) = ask(&socket, vip(53)).expect("an answer");
    assert_eq!(heard, SocketAddr::V4(vip(53)), "recvmsg shows what was dialled");
    for _ in 0..20 {
        assert_eq!(ask(&socket, vip(53)).expect("an answer").0, chosen, "one socket, one backend");
    }
    // cilium#31012-like: the backend goes, the socket stays; the next datagram must reach a live one.
    let (id, _) = backends.into_iter().find(|(_, at)| at.to_string() == chosen).expect("one of the two");
    let (other_id, other) = backends.into_iter().find(|(_, at)| at.to_string() != chosen).expect("the other");
    let gone = Backend { state: BackendState::FREE, generation: 2, ..Backend::default() };
    lab.maps.backends.update(&[(id, gone)]).expect("free the backend");
    kit::serve(&mut lab.maps, vip(53), Proto::UDP, 10, &[(other_id, other)]);
    let (answered, heard) = ask(&socket, vip(53)).expect("an answer from the other");
    assert_eq!((answered, heard), (other.to_string(), SocketAddr::V4(vip(53))));

    // A draining backend keeps its sockets, and gets no new ones.
    let mut draining = lab.maps.backends.get(&other_id).expect("backend").expect("in the array");
    draining.state = BackendState::DRAINING;
    lab.maps.backends.update(&[(other_id, draining)]).expect("drain");
    assert_eq!(ask(&socket, vip(53)).expect("an answer").0, other.to_string());

    // Scaled to nothing: refused at once, not a black hole (kubernetes#139628).
    kit::serve_nobody(&mut lab.maps, vip(53), Proto::UDP, 0);
    let error = ask(&socket, vip(53)).expect_err("nobody serves");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn one_udp_socket_talks_to_many_vips() {
    let mut lab = Lab::new(true);
    lab.udp_server(address(1, 5353));
    lab.udp_server(address(2, 5353));
    // Twelve ports of the VIP on two backends: more than a socket remembers at once.
    for port in 1..=12_u16 {
        let last = u8::try_from(port % 2 + 1).expect("1 or 2");
        kit::serve(&mut lab.maps, vip(port), Proto::UDP, u32::from(port), &[(u32::from(port), address(last, 5353))]);
    }
    let socket = lab.udp_socket();
    for round in 0..2 {
        for port in 1..=12 {
            let (_, heard) = ask(&socket, vip(port)).expect("an answer");
            assert_eq!(heard, SocketAddr::V4(vip(port)), "round {round}: the VIP dialled last wins for a shared backend");
        }
    }
    let (answered, heard) = ask(&socket, address(1, 5353)).expect("a plain address");
    assert_eq!(answered, address(1, 5353).to_string());
    // The kernel cannot tell why that backend answers; the socket had dialled it through a VIP too.
    assert!(matches!(heard, SocketAddr::V4(heard) if *heard.ip() == VIP || heard == address(1, 5353)), "{heard}");
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_connected_udp_socket_is_translated_once_and_starts_over_when_it_dials_again() {
    let mut lab = Lab::new(true);
    kit::serve(&mut lab.maps, vip(53), Proto::UDP, 0, &[(1, address(1, 5353))]);
    kit::serve(&mut lab.maps, vip(54), Proto::UDP, 1, &[(2, address(2, 5353))]);
    lab.udp_server(address(1, 5353));
    lab.udp_server(address(2, 5353));
    let socket = lab.udp_socket();
    let exchange = |expected: SocketAddrV4| {
        socket.send(b"who are you?").expect("send");
        let mut buffer = [0; 64];
        let (length, heard) = socket.recv_from(&mut buffer).expect("an answer");
        assert_eq!(heard, SocketAddr::V4(expected));
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    for (to, expected) in [(vip(53), address(1, 5353)), (vip(54), address(2, 5353)), (address(1, 5353), address(1, 5353))] {
        socket.connect(to).expect("connect");
        assert_eq!(socket.peer_addr().expect("peer"), SocketAddr::V4(to), "getpeername shows what was dialled last");
        assert_eq!(exchange(to), expected.to_string());
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn switched_off_it_lets_everything_pass() {
    let mut lab = Lab::new(false);
    kit::serve(&mut lab.maps, vip(80), Proto::TCP, 0, &[(1, address(1, 8080))]);
    kit::own(&mut lab.maps, VIP);
    lab.tcp_server(address(1, 8080));
    for port in [80, 81] {
        let error = lab.inside(|| dial(vip(port))).expect_err("the VIP has no route");
        assert_eq!(error.kind(), ErrorKind::NetworkUnreachable);
    }
    let counters: BTreeMap<_, _> = lab.maps.counters().expect("counters").into_iter().collect();
    assert!(counters.values().all(|count| *count == 0), "{counters:?}");
    assert!(!lab.datapath.adopted());
}
