//! TCP connections that ask for more than is good for the others.

use super::*;

/// No reply comes: the connection is closed, or reset for what was not read.
#[track_caller]
fn assert_closed(stream: &mut TcpStream) {
    let read = stream.read(&mut [0; 64]);
    let closed = read.as_ref().map_or_else(|error| error.kind() == std::io::ErrorKind::ConnectionReset, |&length| length == 0);
    assert!(closed, "{read:?}");
}

#[test]
fn a_query_that_is_too_long_is_not_waited_for() {
    let server = server(Vec::new());
    let mut stream = tcp_connect(server.addresses()[0]);
    tcp_send(&mut stream, &packet("web.default.svc.~", "A", None));
    assert_eq!(words(&tcp_receive(&mut stream)), "NoError aa an[@ 5 A 10.96.0.20]");
    tcp_send(&mut stream, &[0; 4097]);
    assert_closed(&mut stream);
}

#[test]
fn an_address_that_nobody_asks_keeps_no_place_from_the_others() {
    let listen = vec!["127.0.0.1:0".parse().expect("an address"); 3];
    let server = Server::start(Options { listen, ..options(Vec::new()) }).expect("a server");
    let _held = server.connections.try_acquire_many(CONNECTIONS as u32 - 1).expect("nobody has connected");
    for &address in server.addresses() {
        for _ in 0..2 {
            assert_eq!(words(&tcp(address, &packet("web.default.svc.~", "A", None))), "ServFail", "{address}");
        }
    }
}

#[test]
fn a_client_with_very_many_connections_gets_no_more() {
    let server = server(Vec::new());
    let (address, asked) = (server.addresses()[0], packet("web.default.svc.~", "A", None));
    let held: Vec<TcpStream> = (0..64)
        .map(|_| {
            let mut stream = tcp_connect(address);
            tcp_send(&mut stream, &asked);
            assert_eq!(words(&tcp_receive(&mut stream)), "NoError aa an[@ 5 A 10.96.0.20]");
            stream
        })
        .collect();
    let mut beyond = tcp_connect(address);
    // An error: it is closed already.
    let _sent = beyond.write_all(&[&(asked.len() as u16).to_be_bytes()[..], &asked].concat());
    assert_closed(&mut beyond);
    drop(held);
}
