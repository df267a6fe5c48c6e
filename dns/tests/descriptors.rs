//! A server without descriptors: its upstreams are none the worse for it, and it goes on when there are some again.
//!
//! One test, since the limit is that of the whole process.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};
use thalweg_dns::{Options, Server, UpstreamReport};

const PATIENCE: Duration = Duration::from_secs(20);
const NXDOMAIN: u8 = 3;
const SERVFAIL: u8 = 2;

/// A query of a name that the upstream knows not to exist, another one for each letter.
fn query(letter: u8) -> Vec<u8> {
    [b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x01", &[letter][..], b"\x08upstream\x04test\0\0\x01\0\x01"].concat()
}

fn server(zone: &str, upstreams: Vec<SocketAddr>) -> Server {
    let listen = vec!["127.0.0.1:0".parse().expect("an address")];
    let server = Server::start(Options { listen, zone: zone.into(), ttl: 5, upstreams, workers: 1 }).expect("a server");
    server.mark_synced();
    server
}

/// Whether the limit of open files is the highest that may be.
fn is_raised() -> bool {
    getrlimit(Resource::RLIMIT_NOFILE).is_ok_and(|(soft, hard)| soft == hard)
}

fn limit(soft: u64) {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).expect("another limit");
}

#[test]
fn a_server_without_descriptors_blames_nobody_and_goes_on_later() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    limit(hard - 1);
    let upstream = server("upstream.test", Vec::new());
    assert!(is_raised());
    let server = server("cluster.local", vec![upstream.addresses()[0]]);
    let address = server.addresses()[0];
    let client = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    client.connect(address).expect("connected");
    client.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let stream = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let ask = |letter| {
        client.send(&query(letter)).expect("sent");
        let mut reply = [0; 512];
        client.recv(&mut reply).expect("a reply");
        reply[3] & 15
    };

    assert_eq!(ask(b'a'), NXDOMAIN);
    // Whatever is opened gets the lowest number that is free. What has just started may still give some up.
    limit(File::open("/dev/null").expect("a descriptor").as_raw_fd() as u64);
    let mut held = Vec::new();
    let last = (b'b'..b'z').find(|&letter| {
        held.extend(std::iter::from_fn(|| File::open("/dev/null").ok()));
        ask(letter) == SERVFAIL
    });
    let last = last.expect("no descriptor is left in the end");
    let report = &server.upstreams()[0];
    assert!(report.unsent > 0 && report.broken == 0, "{report:?}");
    let UpstreamReport { up, network_errors, timeouts, failed_checks, .. } = report.upstreams[0];
    assert_eq!((up, network_errors, timeouts, failed_checks), (true, 0, 0, 0));
    stream.connect(&address.into()).expect("the kernel holds the connection");
    let mut stream = TcpStream::from(stream);
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let asked = query(b'z');
    let message = [&(asked.len() as u16).to_be_bytes()[..], &asked].concat();
    stream.write_all(&message).expect("sent");

    drop(held);
    limit(hard);
    let mut reply = [0; 6];
    stream.read_exact(&mut reply).expect("a reply");
    assert_eq!(reply[5] & 15, NXDOMAIN);
    assert_eq!(ask(last), NXDOMAIN);
}
