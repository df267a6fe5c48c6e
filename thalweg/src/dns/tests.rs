//! The subcommand from its files: configuration, reload, pages.

use std::fs;

use http::StatusCode;

use super::*;
use crate::interfaces::LocalAddress;
use operation::Servers;
use std::sync::Arc;
use thalweg_dns::{Config, Server};

fn files(corefile: &str) -> (tempfile::TempDir, Files) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("Corefile");
    fs::write(&path, corefile).expect("written");
    let files = Files { corefile: path, stub_domains: Some(folder.path().to_owned()) };
    (folder, files)
}

fn config(corefile: &str) -> Config {
    files(corefile).1.read(0).expect("a configuration").0
}

#[test]
fn what_is_wrong_with_a_file_is_said_with_its_path_and_line() {
    let (_folder, files) = files(". {\n  errors\n  frobnicate\n}\n");
    let error = format!("{:#}", files.read(0).expect_err("unknown"));
    assert!(error.contains("Corefile: Corefile line 3: frobnicate"), "{error}");
    let gone = Files { corefile: "/nonexistent/Corefile".into(), stub_domains: None };
    assert!(format!("{:#}", gone.read(0).expect_err("no file")).contains("read /nonexistent/Corefile"));
}

#[test]
fn a_change_of_any_file_shows_in_the_fingerprint() {
    let folder = tempfile::tempdir().expect("a folder");
    let resolv = folder.path().join("resolv.conf");
    fs::write(&resolv, "nameserver 192.0.2.1\n").expect("written");
    let (stubs, files) = files(&format!(". {{\nforward . {}\n}}", resolv.display()));
    let mut seen = vec![files.fingerprint()];
    assert_eq!(files.fingerprint(), seen[0]);
    fs::write(&resolv, "nameserver 192.0.2.2\n").expect("written");
    seen.push(files.fingerprint());
    fs::write(stubs.path().join("stubDomains"), r#"{"acme.local": ["192.0.2.3"]}"#).expect("written");
    seen.push(files.fingerprint());
    assert_eq!(files.read(7).expect("valid").0.servers[0].forwards.len(), 2);
    assert_eq!(files.read(7).expect("valid").0.client_rate, 7);
    fs::write(&files.corefile, "rubbish {").expect("written");
    seen.push(files.fingerprint());
    assert!(files.read(0).is_err());
    let mut different = seen.clone();
    different.sort_unstable();
    different.dedup();
    assert_eq!(different.len(), seen.len());
}

/// What a client is told of a.test; `None`: that there is no address.
fn address_of_a_test(server: SocketAddr) -> Option<[u8; 4]> {
    const QUERY: &[u8] = b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x01a\x04test\0\0\x01\0\x01";
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.set_read_timeout(Some(std::time::Duration::from_secs(20))).expect("a time-out");
    socket.send_to(QUERY, server).expect("sent");
    let mut reply = [0; 512];
    let length = socket.recv(&mut reply).expect("a reply");
    reply[QUERY.len()..length].last_chunk().copied()
}

#[tokio::test]
async fn a_hosts_file_is_looked_at_as_it_says_and_the_corefile_only_with_reload() {
    for (reload, is_seen) in [("", true), ("reload 1m", true), ("reload 0s", false)] {
        let folder = tempfile::tempdir().expect("a folder");
        let hosts = folder.path().join("hosts");
        fs::write(&hosts, "192.0.2.1 a.test\n").expect("written");
        let (folder, files) = files(&format!(".:1053 {{\nhosts {} {{\n{reload}\n}}\n}}", hosts.display()));
        let listen = |_: &Config| Ok(vec![Listen::named("127.0.0.1:0".parse().expect("an address"))]);
        let mut follower = Follower::start(files, accept, 0, 1, listen).expect("a server");
        let server = follower.server().addresses()[0];
        let world = World::default();
        assert_eq!(address_of_a_test(server), Some([192, 0, 2, 1]));
        follower.look(&world, follower.next_look());
        fs::write(&hosts, "192.0.2.2 a.test\n").expect("written");
        fs::write(folder.path().join("Corefile"), ".:1053 {\n}\n").expect("written");
        follower.look(&world, Instant::now());
        assert_eq!(address_of_a_test(server), Some([192, 0, 2, 1]), "it is not time yet");
        let year = std::time::Duration::from_secs(365 * 24 * 3600);
        follower.look(&world, follower.next_look().min(Instant::now() + year));
        assert_eq!(address_of_a_test(server), Some([192, 0, 2, if is_seen { 2 } else { 1 }]), "{reload}");
    }
}

#[test]
fn where_to_serve() {
    let there = |interface: &str, address: &str| LocalAddress {
        interface: interface.into(),
        address: address.parse().expect("an address"),
    };
    let addresses = [("lo", "127.0.0.1"), ("lo", "::1"), ("eth0", "192.0.2.7"), ("eth0", "fe80::7"), ("eth1", "fe80::8")];
    let local = Local { addresses: addresses.map(|(interface, address)| there(interface, address)).into(), ..Local::default() };
    // Those that nobody named have a question mark.
    let by = |flags: &[&str], corefile: &str| -> Vec<String> {
        let flags: Vec<SocketAddr> = flags.iter().map(|text| text.parse().expect("an address")).collect();
        let listen = listen_addresses(&flags, &config(corefile), &local).expect("addresses");
        listen.iter().map(|listen| format!("{}{}", listen.address, if listen.found { "?" } else { "" })).collect()
    };
    assert_eq!(by(&["192.0.2.1:5353"], ".:1053 {\nbind 192.0.2.9\n}"), ["192.0.2.1:5353"]);
    assert_eq!(by(&[], ".:1053 {\nbind 192.0.2.9 ::1\n}"), ["192.0.2.9:1053", "[::1]:1053"]);
    assert_eq!(by(&[], ".:1053 {\nbind lo\n}"), ["127.0.0.1:1053?", "[::1]:1053?"]);
    assert_eq!(by(&[], ".:1053 {\nbind lo ::1\n}"), ["[::1]:1053", "127.0.0.1:1053?"]);
    assert_eq!(by(&["0.0.0.0:53", "192.0.2.7:53"], ".:1053 {\n}"), ["127.0.0.1:53?", "192.0.2.7:53"]);
    // Never all at once: replies would leave from whichever address the route prefers.
    let all = ["127.0.0.1:1053?", "192.0.2.7:1053?", "[::1]:1053?"];
    assert_eq!(by(&[], ".:1053 {\n}"), all);
    assert_eq!(by(&[], ".:1053 {\nbind 0.0.0.0 :: lo\n}"), all);
    assert_eq!(by(&["[::]:5353"], ".:1053 {\n}"), ["[::1]:5353?"]);
    for nothing in ["nolink0", "eth1"] {
        assert!(listen_addresses(&[], &config(&format!(". {{\nbind {nothing}\n}}")), &local).is_err());
    }
}

#[test]
fn a_machine_of_very_many_addresses_has_to_be_told_which() {
    let there = |last: u8, net: u8| LocalAddress { interface: "eth0".into(), address: [192, 0, net, last].into() };
    let mut local = Local { addresses: (0..=255).map(|last| there(last, 2)).collect(), ..Local::default() };
    let count = |corefile: &str, local: &Local| listen_addresses(&[], &config(corefile), local).map(|listen| listen.len());
    assert_eq!(count(". {\n}", &local).expect("as many as may be"), 256);
    local.addresses.push(there(0, 3));
    let error = count(". {\n}", &local).expect_err("one too many").to_string();
    assert!(error.contains("257 addresses") && error.contains("`bind`"), "{error}");
    assert_eq!(count(". {\nbind 192.0.2.7\n}", &local).expect("named"), 1);
}

#[test]
fn pods_are_verified_only_where_all_of_them_are_known() {
    let verified = config(". {\nkubernetes a.test {\npods verified\n}\n}");
    assert!(accept(&verified).is_ok() && by_services(&verified).is_err());
    assert!(by_services(&config(". {\nkubernetes a.test {\npods insecure\n}\n}")).is_ok());
}

fn get(address: SocketAddr, path: &str) -> (StatusCode, String) {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).expect("connected");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let code = head.split(' ').nth(1).and_then(|code| code.parse::<u16>().ok()).expect("a code");
    (StatusCode::from_u16(code).expect("a code"), body.to_owned())
}

/// A port that is free, most likely still a moment later.
fn free() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("an address")
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_follow_the_configuration() {
    let [health, ready, metrics] = [free(), free(), free()];
    let text = format!(
        ". {{\nhealth {health}\nready {ready}\nprometheus {metrics}\nkubernetes cluster.local\nforward . 192.0.2.1\ncache\n}}"
    );
    let config = config(&text);
    let server = Arc::new(Server::serve(&["127.0.0.1:0".parse().expect("an address")], 1, &config).expect("a server"));
    let mut pages = Servers::new(server.clone(), Arc::default());
    pages.follow(&config.operation);
    assert_eq!(get(health, "/health"), (StatusCode::OK, "OK".into()));
    assert_eq!(get(health, "/ready").0, StatusCode::NOT_FOUND);
    assert_eq!(get(ready, "/ready"), (StatusCode::SERVICE_UNAVAILABLE, "kubernetes".into()));
    server.mark_synced();
    assert_eq!(get(ready, "/ready"), (StatusCode::OK, "OK".into()));
    let (_, text) = get(metrics, "/metrics");
    for name in [
        "coredns_build_info",
        "coredns_panics_total 0",
        "coredns_dns_requests_total",
        "coredns_dns_responses_total",
        "coredns_dns_request_duration_seconds_count",
        "coredns_cache_entries{",
        "coredns_cache_hits_total{",
        "coredns_cache_misses_total{",
        "coredns_forward_healthcheck_broken_total 0",
        "coredns_forward_max_concurrent_rejects_total 0",
        "coredns_forward_requests_total{to=\"192.0.2.1:53\"} 0",
        "coredns_proxy_request_duration_seconds_bucket{proxy_name=\"forward\",to=\"192.0.2.1:53\"",
        "coredns_kubernetes_dns_programming_duration_seconds_count{service_kind=\"any\"} 0",
    ] {
        assert!(text.contains(name), "{name}\n{text}");
    }
    pages.lameduck();
    assert_eq!(get(health, "/health").0, StatusCode::SERVICE_UNAVAILABLE);
    pages.follow(&thalweg_dns::config::Operation { health: config.operation.health.clone(), ..Default::default() });
    assert_eq!(get(health, "/health").0, StatusCode::SERVICE_UNAVAILABLE, "it goes on");
    assert!(std::net::TcpStream::connect(metrics).is_err(), "nobody wants it any more");
}
