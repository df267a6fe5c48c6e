//! Health checks of services as tables, and both servers by real requests on loopback.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use thalweg_cluster::{
    Change, Condition, Dirty, Endpoint, EndpointPort, EndpointSlice, Family, Name, Node, Protocol, Service, ServiceType,
    TrafficPolicy, World,
};

use super::*;
use crate::config::KubeProxyConfiguration;
use crate::http::Server;
use crate::iptables::{Figures, TableFigures};
use crate::metrics::{self, KernelFigures, MapFigure, NoLocal, Round};

const READY: Condition = Condition { ready: true, serving: true, terminating: false };
const TERMINATING: Condition = Condition { ready: false, serving: true, terminating: true };
const NOT_READY: Condition = Condition { ready: false, serving: false, terminating: false };

fn web() -> Name {
    Name::new("shop", "web")
}

fn service(port: u16) -> Service {
    Service {
        service_type: ServiceType::LoadBalancer,
        cluster_ips: vec![Ipv4Addr::new(10, 96, 0, 9).into()],
        external_policy: TrafficPolicy::Local,
        health_check_node_port: port,
        ..Service::new(web())
    }
}

/// A slice of `web` whose endpoints are (address, node, condition).
fn slice(name: &str, endpoints: &[(&str, &str, Condition)]) -> EndpointSlice {
    let endpoint = |(address, node, condition): &(&str, &str, Condition)| Endpoint {
        address: address.parse().expect("address"),
        condition: *condition,
        node: Some((*node).into()),
        hostname: None,
        pod: None,
        hints: None,
    };
    let family = if endpoints.iter().any(|(address, ..)| address.contains(':')) { Family::V6 } else { Family::V4 };
    EndpointSlice {
        name: Name::new("shop", name),
        service: web(),
        family,
        ports: vec![EndpointPort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 }],
        endpoints: endpoints.iter().map(endpoint).collect(),
        last_change: None,
    }
}

fn world(service: Service, slices: &[EndpointSlice]) -> World {
    let mut world = World::default();
    let mut dirty = Dirty::default();
    world.apply(Change::Service(web(), Some(Arc::new(service))), &mut dirty);
    for slice in slices {
        world.apply(Change::EndpointSlice(slice.name.clone(), Some(Arc::new(slice.clone()))), &mut dirty);
    }
    world
}

/// Ready endpoints on node `a`, or `None` when there is no health check.
#[track_caller]
fn check_is(change: impl FnOnce(&mut Service), slices: &[EndpointSlice], wanted: Option<usize>) {
    let mut service = service(30900);
    change(&mut service);
    let found = check(&world(service, slices), &web(), "a");
    assert_eq!(found.map(|check| check.endpoints), wanted);
    assert!(found.is_none_or(|check| check.port == 30900));
}

#[test]
fn only_load_balancers_with_a_local_policy_and_a_port_are_checked() {
    let one = [slice("1", &[("10.1.0.1", "a", READY)])];
    check_is(|_| {}, &one, Some(1));
    check_is(|s| s.external_policy = TrafficPolicy::Cluster, &one, None);
    check_is(|s| s.service_type = ServiceType::NodePort, &one, None);
    check_is(|s| s.health_check_node_port = 0, &one, None);
    check_is(|s| s.proxy_name = Some("other".into()), &one, None);
    check_is(|s| s.headless = true, &one, None);
    assert_eq!(check(&World::default(), &web(), "a"), None);
}

// cilium#11043, cilium#33547: what the health check port answers must follow from this node's ready endpoints alone.
#[test]
fn ready_endpoints_of_this_node_count() {
    let with = |endpoints: &[(&str, &str, Condition)]| [slice("1", endpoints)];
    check_is(|_| {}, &[], Some(0));
    check_is(|_| {}, &with(&[("10.1.0.1", "b", READY)]), Some(0));
    check_is(|_| {}, &with(&[("10.1.0.1", "a", READY), ("10.1.0.2", "b", READY), ("10.1.0.3", "a", READY)]), Some(2));
    check_is(|_| {}, &with(&[("10.1.0.1", "a", NOT_READY)]), Some(0));
    // Traffic goes on to it, while load balancers are sent away.
    check_is(|_| {}, &with(&[("10.1.0.1", "a", TERMINATING)]), Some(0));
}

#[test]
fn an_endpoint_counts_once() {
    let one = ("10.1.0.1", "a", READY);
    check_is(|_| {}, &[slice("1", &[one]), slice("2", &[one])], Some(1));
    let six = [slice("1", &[one]), slice("6", &[("fd00::1", "a", READY)])];
    check_is(|_| {}, &six, Some(1));
    check_is(|_| {}, &[slice("6", &[("fd00::1", "a", READY), ("fd00::2", "a", READY)])], Some(2));
}

#[test]
fn listeners_follow_by_the_smallest_difference() {
    let ports = |entries: &[(&str, u16)]| -> BTreeMap<Name, u16> {
        entries.iter().map(|(name, port)| (Name::new("n", *name), *port)).collect()
    };
    let check = |open: &[(&str, u16)], wanted: &[(&str, u16)], close: &[&str], opened: &[(&str, u16)]| {
        let changes = diff(&ports(open), &ports(wanted));
        assert_eq!(changes.close, close.iter().map(|name| Name::new("n", *name)).collect::<Vec<_>>());
        assert_eq!(changes.open.into_iter().collect::<BTreeMap<_, _>>(), ports(opened));
    };
    check(&[], &[], &[], &[]);
    check(&[], &[("a", 1)], &[], &[("a", 1)]);
    check(&[("a", 1)], &[("a", 1)], &[], &[]);
    check(&[("a", 1)], &[], &["a"], &[]);
    check(&[("a", 1)], &[("a", 2)], &["a"], &[("a", 2)]);
    // The port of a service that goes is free for one that comes.
    check(&[("a", 1), ("c", 3)], &[("b", 1), ("c", 3)], &["a"], &[("b", 1)]);
}

/// GET by a bare socket; returns head and body.
fn get(port: u16, path: &str) -> (String, String) {
    get_at(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port), path)
}

fn get_at(address: SocketAddr, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2)).expect("connect");
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("time-out");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("send");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("receive");
    let (head, body) = text.split_once("\r\n\r\n").expect("head and body");
    (head.to_lowercase(), body.to_owned())
}

fn free_port() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let port = listener.local_addr().expect("address").port();
    (listener, port)
}

fn refused(port: u16) -> bool {
    TcpStream::connect_timeout(&SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port), Duration::from_secs(1)).is_err()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_health_server_answers_as_kube_proxy_does() {
    let (health, metrics) = (Health::new(Duration::from_millis(50)), Metrics::default());
    let (listener, port) = free_port();
    let server = Server::start([listener], &handler(health.clone(), metrics.clone())).expect("server");
    let ask = async |path: &'static str| tokio::task::spawn_blocking(move || get(port, path)).await.expect("ask");

    let (head, body) = ask("/healthz").await;
    assert!(head.starts_with("http/1.1 200") && head.contains("content-type: application/json"), "{head}");
    assert!(head.contains("x-content-type-options: nosniff"), "{head}");
    assert!(body.contains(r#""nodeEligible":true,"healthy":true"#), "{body}");

    health.update(|state| {
        let node = Node {
            name: "a".into(),
            addresses: Vec::new(),
            pod_cidrs: Vec::new(),
            zone: None,
            deleting: true,
            taints: Vec::new(),
        };
        state.sync_node(Some(&node));
    });
    assert!(ask("/healthz").await.0.starts_with("http/1.1 503"));
    let (head, body) = ask("/livez").await;
    assert!(head.starts_with("http/1.1 200") && !body.contains("nodeEligible"), "{head} {body}");

    health.update(|state| state.listed(Moment::now()));
    tokio::time::sleep(Duration::from_millis(80)).await;
    assert!(ask("/livez").await.0.starts_with("http/1.1 503"));
    assert!(ask("/other").await.0.starts_with("http/1.1 404"));

    let text = metrics.render(None);
    for line in [
        "kubeproxy_proxy_healthz_total{code=\"200\"} 1",
        "kubeproxy_proxy_healthz_total{code=\"503\"} 1",
        "kubeproxy_proxy_livez_total{code=\"503\"} 1",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    drop(server);
    assert!(refused(port), "a dropped server still listens");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_metrics_server_shows_what_happened() {
    let metrics = Metrics::default();
    metrics.queued(&[Change::Service(web(), None), Change::EndpointSlice(web(), None), Change::Node("a".into(), None)]);
    let stages =
        vec![("plan", Duration::from_millis(2)), ("slots", Duration::from_millis(1)), ("total", Duration::from_millis(3))];
    let round = Round { took: Duration::from_millis(3), stages, complete: true, ..Round::default() };
    metrics.synced(&round, 7);
    metrics.queued(&[Change::Service(web(), None)]);
    metrics.swept(11, 2);
    metrics.maps([
        MapFigure { map: "FRONTENDS", entries: Some(3), capacity: 8 },
        MapFigure { map: "HELD", entries: None, capacity: 4 },
    ]);
    metrics.no_local_endpoints(NoLocal { internal: [0, 2], external: [1, 0] });
    let now = SystemTime::now();
    // Before this process, a moment ago, and by a clock that is ahead.
    metrics.programmed(&[(Family::V4, SystemTime::UNIX_EPOCH), (Family::V4, now), (Family::V6, now + Duration::from_secs(60))]);
    let table = |family, table, rules| TableFigures { family, table, rules, last_written: 2 };
    metrics.rules(Figures {
        tables: vec![table(Family::V4, "nat", 7), table(Family::V6, "filter", 3)],
        restore_failures: 2,
        partial_restore_failures: 1,
        missing: Vec::new(),
    });
    let kernel = || Some(KernelFigures { drops: vec![("conntrack_full", 5)], events: vec![("lookup", 6)], adoptions: 1 });
    let config = KubeProxyConfiguration { cluster_cidr: "10.0.0.0/8".into(), ..KubeProxyConfiguration::defaults() };
    let (listener, port) = free_port();
    let _server = Server::start([listener], &metrics::handler(metrics, "ebpf", config, kernel)).expect("server");
    let ask = async |path: &'static str| tokio::task::spawn_blocking(move || get(port, path)).await.expect("ask");

    let (head, body) = ask("/metrics").await;
    assert!(head.starts_with("http/1.1 200") && head.contains("text/plain; version=0.0.4"), "{head}");
    for line in [
        "kubeproxy_sync_proxy_rules_service_changes_total 2",
        "kubeproxy_sync_proxy_rules_service_changes_pending 1",
        "kubeproxy_sync_proxy_rules_endpoint_changes_total 1",
        "kubeproxy_sync_proxy_rules_endpoint_changes_pending 0",
        "kubeproxy_sync_proxy_rules_duration_seconds_bucket{ip_family=\"IPv4\",le=\"0.004\"} 1",
        "kubeproxy_sync_proxy_rules_duration_seconds_bucket{ip_family=\"IPv6\",le=\"0.004\"} 1",
        "kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family=\"IPv4\",traffic_policy=\"external\"} 1",
        "kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family=\"IPv6\",traffic_policy=\"internal\"} 2",
        "kubeproxy_network_programming_duration_seconds_bucket{ip_family=\"IPv4\",le=\"0.25\"} 1",
        "kubeproxy_network_programming_duration_seconds_bucket{ip_family=\"IPv4\",le=\"300\"} 1",
        "kubeproxy_network_programming_duration_seconds_count{ip_family=\"IPv4\"} 1",
        "kubeproxy_network_programming_duration_seconds_sum{ip_family=\"IPv6\"} 0",
        "kubeproxy_sync_proxy_rules_iptables_total{ip_family=\"IPv4\",table=\"nat\"} 7",
        "kubeproxy_sync_proxy_rules_iptables_last{ip_family=\"IPv6\",table=\"filter\"} 2",
        "kubeproxy_sync_proxy_rules_iptables_restore_failures_total 2",
        "kubeproxy_sync_proxy_rules_iptables_partial_restore_failures_total 1",
        "thalweg_sync_stage_seconds_count{stage=\"plan\"} 1",
        "thalweg_sync_stage_seconds_sum{stage=\"total\"} 0.003",
        "thalweg_sync_stage_seconds_count{stage=\"frontends\"} 0",
        "thalweg_services 7",
        "thalweg_conntrack_flows 11",
        "thalweg_map_entries{map=\"frontends\"} 3",
        "thalweg_map_capacity{map=\"frontends\"} 8",
        "thalweg_map_capacity{map=\"held\"} 4",
        "thalweg_events_total{event=\"lookup\"} 6",
        "thalweg_adoptions_total 1",
        "thalweg_drops_total{reason=\"conntrack_full\"} 5",
        "# TYPE process_resident_memory_bytes gauge",
    ] {
        assert!(body.lines().any(|found| found == line), "{line} is not in\n{body}");
    }
    assert!(!body.contains("thalweg_map_entries{map=\"held\"}"), "not counted yet is not 0");
    well_formed(&body);
    assert_eq!(ask("/proxyMode").await.1, "ebpf");
    assert_eq!(ask("/healthz").await.1, "ok");
    let configz: serde_json::Value = serde_json::from_str(&ask("/configz").await.1).expect("JSON");
    assert_eq!(configz["kubeproxy.config.k8s.io"]["clusterCIDR"], "10.0.0.0/8");
}

#[test]
fn what_is_not_there_has_no_figures() {
    let text = Metrics::default().render(None);
    for word in ["iptables", "thalweg_map_", "thalweg_drops"] {
        assert!(!text.contains(word), "{word} is in\n{text}");
    }
    well_formed(&text);
}

/// Every family once, with HELP, TYPE and samples of its own, in this order.
fn well_formed(text: &str) {
    let mut families = std::collections::BTreeSet::new();
    let mut family = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            family = rest.split(' ').next().expect("name").to_owned();
            assert!(families.insert(family.clone()), "{family} is there twice");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            assert!(rest.starts_with(&format!("{family} ")), "{line}");
        } else {
            let (series, value) = line.rsplit_once(' ').expect("value");
            assert!(series.starts_with(&family), "{line} is not of {family}");
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }
    assert!(families.len() > 20, "{families:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_s_health_check_opens_answers_and_closes() {
    let health = Health::new(Duration::from_millis(50));
    let mut checks = ServiceChecks::new("a", health.clone());
    checks.set_addresses(&[Ipv4Addr::LOCALHOST.into()]);
    let (held, port) = free_port();
    let ask = async || tokio::task::spawn_blocking(move || get(port, "/any/path")).await.expect("ask");
    let one = slice("1", &[("10.1.0.1", "a", READY), ("10.1.0.2", "a", READY)]);

    // The port is taken, which is outlived.
    checks.update(&world(service(port), std::slice::from_ref(&one)), &[web()]);
    assert_eq!(checks.len(), 0);
    drop(held);
    checks.sync();
    assert_eq!(checks.len(), 1);

    let (head, body) = ask().await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
    for header in ["content-type: application/json", "x-content-type-options: nosniff", "x-load-balancing-endpoint-weight: 2"] {
        assert!(head.lines().any(|line| line == header), "{header} is not in {head}");
    }
    let wanted = r#"{"service":{"namespace":"shop","name":"web"},"localEndpoints":2,"serviceProxyHealthy":true}"#;
    assert_eq!(body, wanted);

    // Unready: 503, on the same listener.
    let none = slice("1", &[("10.1.0.1", "a", TERMINATING)]);
    checks.update(&world(service(port), &[none]), &[web()]);
    let (head, body) = ask().await;
    assert!(head.starts_with("http/1.1 503") && head.contains("endpoint-weight: 0"), "{head}");
    assert!(body.contains(r#""localEndpoints":0,"serviceProxyHealthy":true"#), "{body}");

    // Packets that do not flow: 503, although there are endpoints.
    checks.update(&world(service(port), std::slice::from_ref(&one)), &[web()]);
    health.update(|state| (0..3).for_each(|_| state.data_path.failed(Instant::now(), "refused")));
    let (head, body) = ask().await;
    assert!(
        head.starts_with("http/1.1 503") && body.contains(r#""localEndpoints":2,"serviceProxyHealthy":false"#),
        "{head} {body}"
    );
    health.update(|state| state.data_path.passed(Instant::now()));
    assert!(ask().await.0.starts_with("http/1.1 200"));

    // A proxy that is late: 503, although there are endpoints.
    checks.update(&world(service(port), std::slice::from_ref(&one)), &[web()]);
    health.update(|state| state.listed(Moment::now()));
    tokio::time::sleep(Duration::from_millis(80)).await;
    let (head, body) = ask().await;
    assert!(head.starts_with("http/1.1 503") && body.contains(r#""serviceProxyHealthy":false"#), "{head} {body}");

    // The policy becomes Cluster: the listener goes.
    let cluster = Service { external_policy: TrafficPolicy::Cluster, ..service(port) };
    checks.update(&world(cluster, &[one]), &[web()]);
    assert!(checks.is_empty());
    assert!(refused(port), "still open");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_health_check_answers_in_both_families() {
    let mut checks = ServiceChecks::new("a", Health::new(Duration::from_secs(60)));
    let port = crate::http::listen("0.0.0.0:0".parse().expect("address"))
        .and_then(|listeners| listeners[0].local_addr())
        .expect("a free port")
        .port();
    let one = slice("1", &[("10.1.0.1", "a", READY)]);
    checks.update(&world(service(port), std::slice::from_ref(&one)), &[web()]);
    assert_eq!(checks.len(), 1);
    for ip in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        let answer = tokio::task::spawn_blocking(move || get_at(SocketAddr::new(ip, port), "/")).await.expect("ask");
        assert!(answer.0.starts_with("http/1.1 200"), "{ip}: {answer:?}");
    }
    // The port of a service that goes is free for one that comes.
    let mut swapped = world(service(port), std::slice::from_ref(&one));
    let other = Service { name: Name::new("shop", "other"), ..service(port) };
    let dirty = &mut Dirty::default();
    swapped.apply(Change::Service(web(), None), dirty);
    swapped.apply(Change::Service(other.name.clone(), Some(Arc::new(other))), dirty);
    checks.update(&swapped, &dirty.services);
    assert_eq!(checks.len(), 1);
    // An address of the link is left out, and the others are listened on.
    checks.set_addresses(&["fe80::1".parse().expect("address"), Ipv6Addr::LOCALHOST.into()]);
    checks.sync();
    assert_eq!(checks.len(), 1);
    let answer = tokio::task::spawn_blocking(move || get_at(SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port), "/"));
    assert!(answer.await.expect("ask").1.contains(r#""name":"other""#));
    assert!(refused(port), "IPv4 is not listened on any more");
}
