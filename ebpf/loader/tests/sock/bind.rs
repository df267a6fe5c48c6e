//! Local ports of the node that are NodePorts.

use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpListener, UdpSocket},
};

use thalweg_abi::{Counter, Frontend, FrontendFlags, Proto};

use crate::lab::{Lab, address, address6, dial};

/// NodePort 30080 for TCP on both families, and 30053 for UDP on IPv4; a service has its frontend 8000 elsewhere.
fn publish(lab: &mut Lab) {
    let flags = FrontendFlags(FrontendFlags::NODE_PORT);
    let backend: [(u32, SocketAddr); 1] = [(1, address(2, 8080).into())];
    lab.publish(address(1, 30_080).into(), Proto::TCP, Frontend { flags, ..Frontend::default() }, &backend);
    lab.publish(address(1, 30_053).into(), Proto::UDP, Frontend { flags, ..Frontend::default() }, &backend);
    lab.publish(address(1, 8_000).into(), Proto::TCP, Frontend::default(), &backend);
    lab.publish(address6(1, 30_080), Proto::TCP, Frontend { flags, base: 1, ..Frontend::default() }, &[(2, address6(2, 80))]);
}

// cilium#23604, and the part of cilium#44348 that sockets have: a port of the node is a NodePort's or a socket's.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_process_of_the_node_cannot_take_a_node_port() {
    let mut lab = Lab::of_node();
    publish(&mut lab);
    let tcp = |at: &str| lab.inside(|| TcpListener::bind(at)).map(drop).map_err(|error| error.kind());
    let udp = |at: &str| lab.inside(|| UdpSocket::bind(at)).map(drop).map_err(|error| error.kind());
    let taken = Err(ErrorKind::AddrInUse);

    for at in ["0.0.0.0:30080", "10.99.0.1:30080", "[::]:30080", "[fd99::1]:30080", "[::ffff:10.99.0.1]:30080"] {
        assert_eq!(tcp(at), taken, "{at}");
    }
    for at in ["0.0.0.0:30053", "10.99.0.1:30053", "[::]:30053"] {
        assert_eq!(udp(at), taken, "{at}");
    }
    assert_eq!(lab.counter(Counter::SockBindRefused), 8);

    for at in ["0.0.0.0:30081", "10.99.0.2:30080", "127.0.0.1:30080", "10.99.0.1:8000", "[fd99::2]:30080", "[::]:0"] {
        assert_eq!(tcp(at), Ok(()), "{at}: not a NodePort of that address");
    }
    for at in ["0.0.0.0:30080", "[fd99::1]:30053"] {
        assert_eq!(udp(at), Ok(()), "{at}: not a NodePort of that protocol and family");
    }
    assert_eq!(lab.counter(Counter::SockBindRefused), 8);

    // A client that names its own port does not get one either, and may take another.
    lab.tcp_server(address(2, 8_080));
    lab.inside(|| dial(address(2, 8_080))).expect("a port of the kernel's choice");
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_pod_has_all_its_ports() {
    let mut lab = Lab::new(true);
    publish(&mut lab);
    for at in ["0.0.0.0:30080", "[::]:30053"] {
        lab.inside(|| TcpListener::bind(at)).expect(at);
        lab.inside(|| UdpSocket::bind(at)).expect(at);
    }
    assert_eq!(lab.counter(Counter::SockBindRefused), 0);
}
