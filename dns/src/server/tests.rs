//! The server on the wire, on 127.0.0.1.

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};

use super::*;
use crate::testkit::{external, packet, sample, service, words};

mod streams;

const PATIENCE: Duration = Duration::from_secs(10);

fn options(upstreams: Vec<SocketAddr>) -> Options {
    let listen = vec!["127.0.0.1:0".parse().expect("an address")];
    Options { listen, zone: "cluster.local".into(), ttl: 5, upstreams, workers: 2 }
}

/// A server of the sample cluster.
fn server(upstreams: Vec<SocketAddr>) -> Server {
    let server = Server::start(options(upstreams)).expect("a server");
    let cluster = sample(false);
    server.publish(&cluster.world, &cluster.dirty);
    server.mark_synced();
    server
}

fn client() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    socket
}

fn udp(server: SocketAddr, packet: &[u8]) -> Vec<u8> {
    let socket = client();
    socket.send_to(packet, server).expect("sent");
    let mut reply = [0; 4096];
    let (length, from) = socket.recv_from(&mut reply).expect("a reply");
    assert_eq!(from, server, "the reply comes from where it was asked");
    reply[..length].to_vec()
}

fn tcp_connect(server: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&server, PATIENCE).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    stream
}

fn tcp_send(stream: &mut TcpStream, packet: &[u8]) {
    let message = [&(packet.len() as u16).to_be_bytes()[..], packet].concat();
    stream.write_all(&message).expect("sent");
}

fn tcp_receive(stream: &mut TcpStream) -> Vec<u8> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).expect("a length");
    let mut reply = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut reply).expect("a reply");
    reply
}

fn tcp(server: SocketAddr, packet: &[u8]) -> Vec<u8> {
    let mut stream = tcp_connect(server);
    tcp_send(&mut stream, packet);
    tcp_receive(&mut stream)
}

#[test]
fn udp_and_tcp_say_the_same() {
    let server = server(Vec::new());
    let address = server.addresses()[0];
    for (name, rtype, expected) in [
        ("wEb.default.svc.~", "A", "NoError aa an[@ 5 A 10.96.0.20]"),
        ("web.default.svc.~", "AAAA", "NoError aa ns[~ SOA]"),
        ("nothing.default.svc.~", "A", "NXDomain aa ns[~ SOA]"),
        ("db.data.svc.~", "A", "NoError aa an[@ 5 A 10.244.0.5; @ 5 A 10.244.1.5]"),
        (
            "_mysql._tcp.db.data.svc.~",
            "SRV",
            "NoError aa an[@ 5 SRV 0 50 3306 db-0.db.data.svc.~; @ 5 SRV 0 50 3306 db-1.db.data.svc.~] \
             ar[db-0.db.data.svc.~ 5 A 10.244.0.5; db-1.db.data.svc.~ 5 A 10.244.1.5]",
        ),
        ("1.0.96.10.in-addr.arpa", "PTR", "NoError aa an[@ 5 PTR kubernetes.default.svc.~]"),
        ("inside.ext.svc.~", "A", "NoError aa an[@ 5 CNAME web.default.svc.~; web.default.svc.~ 5 A 10.96.0.20]"),
        ("~", "SOA", "NoError aa an[@ SOA]"),
        ("www.example.com", "A", "Refused"),
        ("~", "AXFR", "Refused"),
    ] {
        for edns in [None, Some(1400)] {
            let asked = packet(name, rtype, edns);
            let (by_udp, by_tcp) = (udp(address, &asked), tcp(address, &asked));
            assert_eq!(words(&by_udp), expected, "{name} {rtype} over UDP");
            assert_eq!(words(&by_tcp), expected, "{name} {rtype} over TCP");
            for reply in [by_udp, by_tcp] {
                assert_eq!(reply[..2], asked[..2]);
                assert_eq!(Message::from_vec(&reply).expect("a reply").edns.is_some(), edns.is_some());
            }
        }
    }
    let stats = server.stats();
    assert_eq!((stats.udp, stats.tcp), (20, 20));
    assert_eq!((stats.answered, stats.nodata, stats.nxdomain, stats.refused), (24, 4, 4, 8));
    assert!(stats.names > 250 && stats.serial > 1_700_000_000);
}

#[test]
fn a_truncated_answer_is_whole_over_tcp() {
    let server = server(Vec::new());
    let address = server.addresses()[0];
    let asked = packet("many.lots.svc.~", "A", Some(4096));
    let cut = Message::from_vec(&udp(address, &asked)).expect("a reply");
    assert!(cut.metadata.truncation && cut.answers.len() < 200);
    let whole = Message::from_vec(&tcp(address, &asked)).expect("a reply");
    assert!(!whole.metadata.truncation);
    assert_eq!(whole.answers.len(), 200);
    let whole = Message::from_vec(&tcp(address, &packet("many.lots.svc.~", "SRV", None))).expect("a reply");
    assert_eq!((whole.answers.len(), whole.additionals.len()), (200, 200));
    assert_eq!(server.stats().truncated, 1);
}

#[test]
fn tcp_queries_are_pipelined() {
    let server = server(Vec::new());
    let mut stream = tcp_connect(server.addresses()[0]);
    for id in 0..50u16 {
        let mut asked = packet("web.default.svc.~", "A", None);
        asked[..2].copy_from_slice(&id.to_be_bytes());
        tcp_send(&mut stream, &asked);
    }
    for id in 0..50u16 {
        let reply = tcp_receive(&mut stream);
        assert_eq!(reply[..2], id.to_be_bytes());
        assert_eq!(words(&reply), "NoError aa an[@ 5 A 10.96.0.20]");
    }
}

#[test]
fn a_burst_is_answered_in_full() {
    let server = server(Vec::new());
    let clients: Vec<UdpSocket> = (0..8).map(|_| client()).collect();
    for id in 0..100u16 {
        let mut asked = packet("web.default.svc.~", "A", None);
        asked[..2].copy_from_slice(&id.to_be_bytes());
        clients.iter().for_each(|client| assert!(client.send_to(&asked, server.addresses()[0]).is_ok()));
    }
    for client in &clients {
        let mut ids: Vec<u16> = (0..100)
            .map(|_| {
                let mut reply = [0; 512];
                client.recv(&mut reply).expect("a reply");
                u16::from_be_bytes([reply[0], reply[1]])
            })
            .collect();
        ids.sort_unstable();
        assert_eq!(ids, (0..100).collect::<Vec<_>>());
    }
}

#[test]
fn a_client_that_asks_for_both_families_sees_every_address_first() {
    let server = server(Vec::new());
    let socket = client();
    let mut firsts = std::collections::BTreeMap::new();
    for _ in 0..40 {
        for rtype in ["A", "AAAA"] {
            socket.send_to(&packet("db.data.svc.~", rtype, None), server.addresses()[0]).expect("sent");
            let mut reply = [0; 512];
            let length = socket.recv(&mut reply).expect("a reply");
            if let Some(first) = Message::from_vec(&reply[..length]).expect("a reply").answers.first() {
                *firsts.entry(first.data.to_string()).or_insert(0) += 1;
            }
        }
    }
    assert!(firsts.len() == 2 && firsts.values().all(|&times| times >= 15), "{firsts:?}");
}

#[test]
fn garbage_is_dropped_or_refused_and_the_server_goes_on() {
    let server = server(Vec::new());
    let address = server.addresses()[0];
    let socket = client();
    for garbage in [&b""[..], b"x", &[0xff; 11], &[0xff; 3000]] {
        socket.send_to(garbage, address).expect("sent");
    }
    assert_eq!(words(&udp(address, &[0; 12])), "FormErr");
    assert_eq!(words(&udp(address, &[0; 3000])), "FormErr");
    assert_eq!(words(&tcp(address, &[0; 12])), "FormErr");
    assert_eq!(words(&udp(address, &packet("web.default.svc.~", "A", None))), "NoError aa an[@ 5 A 10.96.0.20]");
}

#[test]
fn the_zone_changes_under_the_clients() {
    let server = Server::start(options(Vec::new())).expect("a server");
    let (address, asked) = (server.addresses()[0], packet("web.default.svc.~", "A", None));
    assert_eq!(words(&udp(address, &asked)), "ServFail", "before the first sync");
    let mut cluster = sample(false);
    server.publish(&cluster.world, &std::mem::take(&mut cluster.dirty));
    assert_eq!(words(&udp(address, &asked)), "ServFail", "published, but not complete");
    server.mark_synced();
    assert_eq!(words(&udp(address, &asked)), "NoError aa an[@ 5 A 10.96.0.20]");
    let first = server.stats().serial;
    cluster.service(service("default/web", &["10.96.0.99"], &[]));
    server.publish(&cluster.world, &cluster.dirty);
    assert_eq!(words(&udp(address, &asked)), "NoError aa an[@ 5 A 10.96.0.99]");
    assert_eq!(words(&tcp(address, &asked)), "NoError aa an[@ 5 A 10.96.0.99]");
    assert!(server.stats().serial > first, "every change has a serial of its own");
}

#[test]
fn an_address_that_is_taken_is_named() {
    let taken_over_udp = || {
        let holder = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let address = holder.local_addr().expect("an address");
        match Server::start(Options { listen: vec![address], ..options(Vec::new()) }) {
            Err(error @ Error::Bind { transport, .. }) => {
                assert!(error.to_string().contains(&address.to_string()), "{error}");
                transport == "UDP"
            }
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("bound twice"),
        }
    };
    // Somebody else may hold the same port over TCP.
    assert!((0..50).any(|_| taken_over_udp()));
    assert!(matches!(Server::start(Options { listen: Vec::new(), ..options(Vec::new()) }), Err(Error::NoAddress)));
    assert!(matches!(Server::start(Options { zone: "a..b".into(), ..options(Vec::new()) }), Err(Error::Zone(_))));
}

#[test]
fn a_successor_takes_over_while_the_old_one_ends() {
    let old = server(Vec::new());
    let address = old.addresses()[0];
    let new = Server::start(Options { listen: vec![address], ..options(Vec::new()) }).expect("the same address again");
    let cluster = sample(false);
    new.publish(&cluster.world, &cluster.dirty);
    new.mark_synced();
    let asked = packet("web.default.svc.~", "A", None);
    for _ in 0..20 {
        assert_eq!(words(&udp(address, &asked)), "NoError aa an[@ 5 A 10.96.0.20]", "whoever answers");
    }
    old.shutdown();
    old.shutdown();
    for _ in 0..20 {
        assert_eq!(words(&udp(address, &asked)), "NoError aa an[@ 5 A 10.96.0.20]");
    }
    assert_eq!(words(&tcp(address, &asked)), "NoError aa an[@ 5 A 10.96.0.20]");
    assert_eq!(old.stats().udp + new.stats().udp, 40);
}

#[test]
fn starts_and_ends_inside_an_asynchronous_runtime() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let server = server(Vec::new());
        assert_eq!(server.stats().udp, 0);
        drop(server);
        assert!(Server::start(Options { zone: String::new() + "..", ..options(Vec::new()) }).is_err());
    });
}

/// A name server that knows docs.example.com: another instance, of another zone, whose service is called so.
fn upstream() -> Server {
    let server = Server::start(Options { zone: "upstream.test".into(), ..options(Vec::new()) }).expect("a server");
    let mut cluster = sample(false);
    cluster.service(service("example/docs", &["192.0.2.80"], &[]));
    server.publish(&cluster.world, &cluster.dirty);
    server.mark_synced();
    server
}

#[test]
fn other_names_are_forwarded() {
    let upstream = upstream();
    let server = Server::start(options(vec![upstream.addresses()[0]])).expect("a server");
    let mut cluster = sample(true);
    cluster.service(external("ext/abroad", "docs.example.svc.upstream.test"));
    cluster.service(external("ext/missing", "no.example.svc.upstream.test"));
    server.publish(&cluster.world, &cluster.dirty);
    server.mark_synced();
    let address = server.addresses()[0];
    for (name, expected) in [
        ("dOcs.example.svc.upstream.test", "NoError ra an[@ 5 A 192.0.2.80]"),
        ("nothing.example.svc.upstream.test", "NXDomain ra ns[upstream.test. SOA]"),
        ("example.svc.upstream.test", "NoError ra ns[upstream.test. SOA]"),
        (
            "abroad.ext.svc.~",
            "NoError ra an[@ 5 CNAME docs.example.svc.upstream.test.; docs.example.svc.upstream.test. 5 A 192.0.2.80]",
        ),
        ("web.default.svc.~", "NoError aa ra an[@ 5 A 10.96.0.20]"),
    ] {
        assert_eq!(words(&udp(address, &packet(name, "A", Some(1232)))), expected, "{name} over UDP");
        assert_eq!(words(&tcp(address, &packet(name, "A", None))), expected, "{name} over TCP");
    }
    let missing = Message::from_vec(&udp(address, &packet("missing.ext.svc.~", "A", None))).expect("a reply");
    assert_eq!((missing.metadata.response_code, missing.answers.len()), (ResponseCode::NXDomain, 1));
    assert_eq!(server.stats().forwarded, 9);
}

#[test]
fn an_upstream_that_is_silent_does_not_hold_up_our_own_names() {
    let silent = client();
    let server = server(vec![silent.local_addr().expect("an address")]);
    let address = server.addresses()[0];
    let waiting = client();
    waiting.send_to(&packet("www.example.com", "A", None), address).expect("sent");
    for _ in 0..20 {
        let reply = udp(address, &packet("web.default.svc.~", "A", None));
        assert_eq!(words(&reply), "NoError aa ra an[@ 5 A 10.96.0.20]");
    }
    let mut reply = [0; 512];
    waiting.set_nonblocking(true).expect("set");
    let early = waiting.recv(&mut reply).expect_err("whoever asked first is told last");
    assert_eq!(early.kind(), std::io::ErrorKind::WouldBlock);
    waiting.set_nonblocking(false).expect("set");
    let length = waiting.recv(&mut reply).expect("SERVFAIL in the end");
    assert_eq!(words(&reply[..length]), "ServFail ra");
}

/// A server of the sample cluster by a Corefile.
fn by_corefile(text: &str, client_rate: u32) -> Server {
    let parsed = crate::corefile::parse(text, &|_| None).unwrap_or_else(|error| panic!("{error}"));
    let mut config = Config::from_corefile(&parsed, &Default::default()).expect("a configuration");
    config.client_rate = client_rate;
    let server = Server::serve(&options(Vec::new()).listen, 1, &config).expect("a server");
    let cluster = sample(false);
    server.publish(&cluster.world, &cluster.dirty);
    server.mark_synced();
    server
}

#[test]
fn access_lists_hold_over_both_transports() {
    let text = ". {\nkubernetes cluster.local {\nttl 7\n}\nacl {\nblock type AAAA net 127.0.0.0/8\nfilter type SRV\ndrop type TXT\n}\n}";
    let server = by_corefile(text, 0);
    let address = server.addresses()[0];
    for (rtype, expected) in [("A", "NoError aa an[@ 7 A 10.96.0.20]"), ("AAAA", "Refused ra"), ("SRV", "NoError ra")] {
        let asked = packet("web.default.svc.~", rtype, None);
        assert_eq!((words(&udp(address, &asked)), words(&tcp(address, &asked))), (expected.into(), expected.into()), "{rtype}");
    }
    let socket = client();
    socket.send_to(&packet("web.default.svc.~", "TXT", None), address).expect("sent");
    socket.send_to(&packet("web.default.svc.~", "A", None), address).expect("sent");
    let mut reply = [0; 512];
    let length = socket.recv(&mut reply).expect("a reply");
    assert_eq!(words(&reply[..length]), "NoError aa an[@ 7 A 10.96.0.20]", "what is dropped is not answered");
    let traffic = server.traffic();
    assert_eq!((traffic.blocked, traffic.requests[0][0][0], traffic.requests[1][0][1]), (5, 2, 1));
    assert_eq!((traffic.responses[0], traffic.responses[5], traffic.duration.total()), (5, 2, 7));
}

#[test]
fn a_client_beyond_its_rate_is_sent_to_tcp() {
    let server = by_corefile(". {\nkubernetes cluster.local\n}", 1);
    let (address, asked) = (server.addresses()[0], packet("web.default.svc.~", "A", None));
    let answer = "NoError aa an[@ 5 A 10.96.0.20]";
    let socket = client();
    (0..10).for_each(|_| assert!(socket.send_to(&asked, address).is_ok()));
    let receive = || {
        let mut reply = [0; 512];
        let length = socket.recv(&mut reply).expect("a reply");
        words(&reply[..length])
    };
    assert_eq!([receive(), receive()], [answer, answer]);
    // More pass should this take seconds.
    while receive() == answer {}
    assert!(server.traffic().limited > 0);
    assert_eq!(words(&tcp(address, &asked)), answer);
}

#[test]
fn name_servers_of_the_zone_are_those_that_others_can_ask() {
    let config = Config::simple(ZoneConfig::default(), &[]);
    let servers = |listen: &[&str]| -> Vec<String> {
        let listen: Vec<SocketAddr> = listen.iter().map(|text| text.parse().expect("an address")).collect();
        let zone = zone_builder(&config, &listen).expect("a zone").snapshot();
        zone.nameservers().iter().map(ToString::to_string).collect()
    };
    assert_eq!(servers(&["127.0.0.1:53", "192.0.2.7:53", "[::1]:53", "0.0.0.0:53"]), ["192.0.2.7"]);
    assert_eq!(servers(&["127.0.0.1:53"]), ["127.0.0.1"]);
}

#[test]
fn a_reload_changes_the_zone_at_once() {
    let server = by_corefile(". {\nkubernetes cluster.local {\nttl 7\n}\n}", 0);
    let address = server.addresses()[0];
    let cluster = sample(false);
    let parsed = crate::corefile::parse(". {\nkubernetes k8s.test {\nttl 9\n}\n}", &|_| None).expect("a Corefile");
    let config = Config::from_corefile(&parsed, &Default::default()).expect("a configuration");
    server.reload(&config, &cluster.world).expect("reloaded");
    assert_eq!(words(&udp(address, &packet("web.default.svc.k8s.test", "A", None))), "NoError aa an[@ 9 A 10.96.0.20]");
    assert_eq!(words(&udp(address, &packet("web.default.svc.~", "A", None))), "Refused");
    let bad = Config { zone: Some(ZoneConfig { origins: vec!["a..b".into()], ..ZoneConfig::default() }), ..config };
    assert!(server.reload(&bad, &cluster.world).is_err());
    assert_eq!(words(&udp(address, &packet("web.default.svc.k8s.test", "A", None))), "NoError aa an[@ 9 A 10.96.0.20]");
}

#[test]
fn who_finds_no_place_to_wait_is_told_so_at_once() {
    let upstream = upstream();
    let lines = format!("rewrite name docs.test docs.example.svc.upstream.test\nforward . {}", upstream.addresses()[0]);
    let server = by_corefile(&format!(". {{\nkubernetes cluster.local\n{lines}\n}}"), 0);
    let address = server.addresses()[0];
    let [plain, rewritten] = ["docs.example.svc.upstream.test", "docs.test"].map(|name| packet(name, "A", None));
    let places: Vec<_> = std::iter::from_fn(|| server.shared.waiting.enter()).collect();
    assert_eq!(words(&tcp(address, &plain)), "ServFail ra");
    // The runtime is held up: the worker itself has to tell them.
    let (held, release) = (Arc::new(std::sync::Barrier::new(2)), Arc::new(std::sync::Barrier::new(2)));
    let (holds, released) = (held.clone(), release.clone());
    let runtime = server.runtime.lock().expect("lock").as_ref().expect("a runtime").handle().clone();
    runtime.spawn(async move {
        holds.wait();
        released.wait();
    });
    held.wait();
    let shed = server.stats().shed;
    assert_eq!(words(&udp(address, &plain)), "ServFail ra");
    assert_eq!(words(&udp(address, &rewritten)), "ServFail ra");
    assert_eq!(words(&udp(address, &packet("web.default.svc.~", "A", None))), "NoError aa ra an[@ 5 A 10.96.0.20]");
    assert_eq!(server.stats().shed, shed + 2);
    release.wait();
    drop(places);
    for asked in [&plain, &rewritten] {
        assert_eq!(words(&udp(address, asked)), "NoError ra an[@ 5 A 192.0.2.80]");
        assert_eq!(words(&tcp(address, asked)), "NoError ra an[@ 5 A 192.0.2.80]");
    }
}

#[test]
fn what_is_known_needs_no_place_to_wait() {
    let upstream = upstream();
    let lines = format!("rewrite name docs.test docs.example.svc.upstream.test\nforward . {}\ncache", upstream.addresses()[0]);
    let server = by_corefile(&format!(". {{\nkubernetes cluster.local\n{lines}\n}}"), 0);
    let address = server.addresses()[0];
    let [plain, rewritten] = ["docs.example.svc.upstream.test", "docs.test"].map(|name| packet(name, "A", None));
    assert!(words(&udp(address, &plain)).ends_with("A 192.0.2.80]"));
    let _places: Vec<_> = std::iter::from_fn(|| server.shared.waiting.enter()).collect();
    let shed = server.stats().shed;
    for asked in [&plain, &rewritten] {
        for reply in [udp(address, asked), tcp(address, asked)] {
            assert!(words(&reply).ends_with("A 192.0.2.80]"), "{}", words(&reply));
        }
    }
    assert_eq!(server.stats().shed, shed);
    assert_eq!(upstream.stats().udp, 1);
}

#[test]
fn what_is_known_is_whole_over_tcp() {
    let upstream = server(Vec::new());
    let server = by_corefile(&format!(". {{\nforward . {}\ncache\n}}", upstream.addresses()[0]), 0);
    let (address, asked) = (server.addresses()[0], packet("many.lots.svc.~", "A", None));
    for _ in 0..2 {
        let reply = Message::from_vec(&tcp(address, &asked)).expect("a reply");
        assert_eq!((reply.metadata.truncation, reply.answers.len()), (false, 200));
        assert!(Message::from_vec(&udp(address, &asked)).expect("a reply").metadata.truncation);
    }
    assert_eq!(server.caches()[0].1.success_hits, 3);
}

#[test]
fn a_slow_name_over_tcp_holds_up_no_name_of_the_cluster() {
    let silent = client();
    let server = server(vec![silent.local_addr().expect("an address")]);
    let mut stream = tcp_connect(server.addresses()[0]);
    tcp_send(&mut stream, &packet("www.example.com", "A", None));
    let mut packet = packet("web.default.svc.~", "A", None);
    packet[0] ^= 0xff;
    tcp_send(&mut stream, &packet);
    stream.shutdown(std::net::Shutdown::Write).expect("no more questions");
    let first = tcp_receive(&mut stream);
    assert_eq!((&first[..2], words(&first).as_str()), (&packet[..2], "NoError aa ra an[@ 5 A 10.96.0.20]"));
    assert_eq!(words(&tcp_receive(&mut stream)), "ServFail ra");
    assert_eq!(stream.read(&mut [0]).expect("the end"), 0, "closed after the last reply");
}

#[test]
fn connections_are_bounded_and_those_beyond_wait() {
    let server = server(Vec::new());
    let (address, asked) = (server.addresses()[0], packet("web.default.svc.~", "A", None));
    let _held = server.connections.try_acquire_many(CONNECTIONS as u32 - 1).expect("nobody has connected");
    let mut first = tcp_connect(address);
    tcp_send(&mut first, &asked);
    assert_eq!(words(&tcp_receive(&mut first)), "NoError aa an[@ 5 A 10.96.0.20]");
    let mut second = tcp_connect(address);
    tcp_send(&mut second, &asked);
    second.set_read_timeout(Some(Duration::from_millis(100))).expect("a time-out");
    assert!(second.read(&mut [0]).is_err(), "not as long as the first is there");
    second.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    drop(first);
    assert_eq!(words(&tcp_receive(&mut second)), "NoError aa an[@ 5 A 10.96.0.20]");
}
