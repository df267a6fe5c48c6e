//! IPv6, and IPv4 by sockets of IPv6.

use std::{io::ErrorKind, net::TcpListener};

use thalweg_abi::{Be128, Counter, Frontend, FrontendFlags, FrontendKey, Proto};
use thalweg_loader::Table;

use crate::{
    kit,
    lab::{Lab, VIP6, address, address6, ask, dial, mapped, vip, vip6},
};

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn tcp_of_ipv6_reaches_every_backend_and_sees_the_vip_as_peer() {
    let mut lab = Lab::new(true);
    let backends = [(1, address6(1, 8080)), (2, address6(2, 8081))];
    lab.publish(vip6(80), Proto::TCP, Frontend { service: 3, base: 5, ..Frontend::default() }, &backends);
    let listeners = backends.map(|(_, at)| lab.inside(|| TcpListener::bind(at)).expect("listen"));
    let streams: Vec<_> = (0..32).map(|_| lab.inside(|| dial(vip6(80))).expect("through the VIP")).collect();
    for stream in &streams {
        assert_eq!(stream.peer_addr().expect("peer"), vip6(80), "getpeername shows what was dialled");
    }
    for listener in &listeners {
        listener.set_nonblocking(true).expect("non-blocking");
        // None of 32 on one of two backends happens once in four billion runs.
        listener.accept().expect("each backend got some");
    }
    assert_eq!((lab.counter(Counter::SockLookup), lab.counter(Counter::SockTranslated)), (32, 32));
    assert_eq!(lab.maps.service_stats.get(&3).expect("stats").expect("in the array").sockets, 32);
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn udp_of_ipv6_hears_the_vip_connected_or_not() {
    let mut lab = Lab::new(true);
    lab.publish(vip6(53), Proto::UDP, Frontend { service: 3, ..Frontend::default() }, &[(1, address6(1, 5353))]);
    lab.udp_server(address6(1, 5353));
    let socket = lab.udp_socket_at("[::]:0");
    for _ in 0..3 {
        assert_eq!(ask(&socket, vip6(53)).expect("an answer"), (address6(1, 5353).to_string(), vip6(53)));
    }
    let sockets = |lab: &Lab| lab.maps.service_stats.get(&3).expect("stats").expect("in the array").sockets;
    assert_eq!(sockets(&lab), 1, "three datagrams of one socket");

    socket.connect(vip6(53)).expect("connect");
    assert_eq!(socket.peer_addr().expect("peer"), vip6(53));
    socket.send(b"who are you?").expect("send");
    let mut buffer = [0; 64];
    let (length, heard) = socket.recv_from(&mut buffer).expect("an answer");
    assert_eq!((&buffer[..length], heard), (address6(1, 5353).to_string().as_bytes(), vip6(53)));
    assert_eq!(sockets(&lab), 2, "and its connection");
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn what_nobody_serves_by_ipv6_is_refused() {
    let mut lab = Lab::new(true);
    let wildcard = Frontend { flags: FrontendFlags(FrontendFlags::WILDCARD), ..Frontend::default() };
    lab.maps.frontends6.update(&[(FrontendKey::wildcard(Be128::from(VIP6)), wildcard)]).expect("own the VIP");
    lab.publish(vip6(80), Proto::TCP, Frontend::default(), &[]);
    let dropped = Frontend { flags: FrontendFlags(FrontendFlags::DROP_WHEN_EMPTY), ..Frontend::default() };
    lab.publish(vip6(81), Proto::TCP, dropped, &[]);
    let dialled = |to| lab.inside(|| dial(to)).map(drop).map_err(|error| error.kind());
    assert_eq!(dialled(vip6(80)), Err(ErrorKind::ConnectionRefused), "no endpoints");
    assert_eq!(dialled(vip6(9999)), Err(ErrorKind::ConnectionRefused), "a port that no service has");
    assert_eq!(dialled(vip6(81)), Err(ErrorKind::NetworkUnreachable), "left to tc, which drops; here there is no route");
    let socket = lab.udp_socket_at("[::]:0");
    assert_eq!(ask(&socket, vip6(9999)).expect_err("no such port").kind(), ErrorKind::ConnectionRefused);
    assert_eq!(lab.counter(Counter::SockRefused), 3);
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_socket_of_ipv6_that_dials_a_mapped_address_is_a_client_of_ipv4() {
    let mut lab = Lab::new(true);
    kit::serve(&mut lab.maps, vip(80), Proto::TCP, 0, &[(1, address(1, 8080))]);
    kit::serve(&mut lab.maps, vip(53), Proto::UDP, 1, &[(2, address(2, 5353))]);
    lab.tcp_server(address(1, 8080));
    lab.udp_server(address(2, 5353));

    let stream = lab.inside(|| dial(mapped(vip(80)))).expect("through the VIP");
    assert_eq!(stream.peer_addr().expect("peer"), mapped(vip(80)), "shown as it was dialled");

    let socket = lab.udp_socket_at("[::]:0");
    let (answered, heard) = ask(&socket, mapped(vip(53))).expect("an answer");
    assert_eq!((answered, heard), (address(2, 5353).to_string(), mapped(vip(53))));
    socket.connect(mapped(vip(53))).expect("connect");
    assert_eq!(socket.peer_addr().expect("peer"), mapped(vip(53)));
    socket.send(b"who are you?").expect("send");
    let mut buffer = [0; 64];
    let (_, heard) = socket.recv_from(&mut buffer).expect("an answer");
    assert_eq!(heard, mapped(vip(53)));
    assert_eq!(lab.counter(Counter::SockTranslated), 3);

    // Refusal is that of IPv4 too.
    kit::serve_nobody(&mut lab.maps, vip(53), Proto::UDP, 0);
    let error = lab.udp_socket_at("[::]:0").connect(mapped(vip(53))).expect_err("nobody serves");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_socket_of_ipv6_starts_over_when_it_dials_again() {
    let mut lab = Lab::new(true);
    kit::serve(&mut lab.maps, vip(53), Proto::UDP, 0, &[(1, address(1, 5353))]);
    lab.publish(vip6(53), Proto::UDP, Frontend { base: 1, ..Frontend::default() }, &[(2, address6(1, 5353))]);
    for (vip, plain) in [(vip6(53), address6(1, 5353)), (mapped(vip(53)), mapped(address(1, 5353)))] {
        let socket = lab.udp_socket_at("[::]:0");
        for to in [vip, plain, vip, plain] {
            socket.connect(to).expect("connect");
            assert_eq!(socket.peer_addr().expect("peer"), to, "getpeername shows what was dialled last");
            assert_eq!(lab.registered().len(), usize::from(to == vip), "{to}: only a socket of a service is remembered");
        }
    }
}
