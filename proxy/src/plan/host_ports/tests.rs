//! Tables of host ports: a node's view and a pod in words, what is served in words.

use thalweg_abi::ServiceName;

use super::super::tests::words::{address, short, view};
use super::*;

/// `[ip|]port:target/protocol`
fn host_port(word: &str) -> HostPort {
    let (ip, rest) = word.split_once('|').map_or((None, word), |(ip, rest)| (Some(address(ip)), rest));
    let (ports, protocol) = rest.split_once('/').expect("ports/protocol");
    let (port, target) = ports.split_once(':').expect("port:target");
    let protocol = match protocol {
        "tcp" => Proto::TCP,
        "udp" => Proto::UDP,
        "sctp" => Proto::SCTP,
        other => panic!("protocol {other}"),
    };
    HostPort { ip, port: port.parse().expect("port"), target: target.parse().expect("port"), protocol }
}

/// Words: `4` and `6` are addresses of the pod, `view:…` is about the node, all else are ports; `;` begins another pod.
#[track_caller]
fn check(words: &str, wanted: &str) {
    let node = view(words.split_whitespace().filter_map(|word| word.strip_prefix("view:")));
    let pods: Vec<PodHostPorts> = words
        .split(" ; ")
        .enumerate()
        .map(|(index, words)| {
            let mut pod = PodHostPorts { pod: Name::new("default", "web"), addresses: Vec::new(), ports: Vec::new() };
            for word in words.split_whitespace().filter(|word| !word.starts_with("view:")) {
                match word {
                    "4" => pod.addresses.push(format!("10.244.1.{}", 5 + index).parse().expect("address")),
                    "6" => pod.addresses.push(format!("fd00:244:1::{}", 5 + index).parse().expect("address")),
                    word => pod.ports.push(host_port(word)),
                }
            }
            pod
        })
        .collect();
    let plan = plan(&name(&pods[0].pod), &pods, &node);
    assert!(plan.draining.is_empty() && plan.source_ranges.is_empty());
    let mut found: Vec<String> = plan.frontends.iter().map(|frontend| say(frontend, &plan)).collect();
    let mut wanted: Vec<String> =
        wanted.split(';').map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect();
    found.sort();
    wanted.sort();
    assert_eq!(found, wanted, "{words}");
}

fn say(frontend: &PlannedFrontend, plan: &ServicePlan) -> String {
    let protocol = match frontend.protocol {
        Proto::TCP => "tcp",
        Proto::UDP => "udp",
        _ => "sctp",
    };
    assert_eq!((frontend.affinity_seconds, frontend.service_port), (0, frontend.port));
    let outside = frontend.scope == Scope::EXTERNAL;
    let flags = FrontendFlags::NODE_PORT | if outside { FrontendFlags::LOCAL_ONLY } else { 0 };
    assert_eq!(frontend.flags, FrontendFlags(flags), "{frontend:?}");
    let scope = if outside { " ext" } else { "" };
    let [to] = plan.sets[frontend.set].endpoints[..] else { panic!("one endpoint: {plan:?}") };
    format!("{}:{}/{protocol}{scope} -> {}:{}", short(frontend.vip), frontend.port, short(to.ip()), to.port())
}

#[test]
fn tables() {
    // On every address of the node, in the families of the pod, inside and outside.
    check("4 8080:80/tcp", "node:8080/tcp -> 1.5:80; node:8080/tcp ext -> 1.5:80");
    check("6 8080:80/udp", "node6:8080/udp -> 6.1.5:80; node6:8080/udp ext -> 6.1.5:80");
    check(
        "4 6 9:9/sctp",
        "node:9/sctp -> 1.5:9; node:9/sctp ext -> 1.5:9; node6:9/sctp -> 6.1.5:9; node6:9/sctp ext -> 6.1.5:9",
    );
    check(
        "4 80:80/tcp view:address~172.31.0.11",
        "node:80/tcp -> 1.5:80; node:80/tcp ext -> 1.5:80; 172.31.0.11:80/tcp -> 1.5:80; 172.31.0.11:80/tcp ext -> 1.5:80",
    );
    check("4 6 80:80/tcp view:no-addresses", "");

    // On 127.0.0.1 for processes of the node alone, where NodePorts are.
    check("4 6 80:80/tcp view:no-addresses view:localhost", "localhost:80/tcp -> 1.5:80");
    check("4 80:80/tcp view:no-addresses view:address~localhost", "localhost:80/tcp -> 1.5:80");
    check("6 80:80/tcp view:no-addresses view:address~::1", "");

    // On the address that was asked for, whether the node's own object names it or not.
    check("4 6 node|80:81/tcp view:localhost", "node:80/tcp -> 1.5:81; node:80/tcp ext -> 1.5:81");
    check("4 6 192.0.2.9|80:81/tcp", "192.0.2.9:80/tcp -> 1.5:81; 192.0.2.9:80/tcp ext -> 1.5:81");
    check("4 6 localhost|80:81/tcp", "localhost:80/tcp -> 1.5:81");
    check("4 node6|80:81/tcp", "");
    check("4 6 0.0.0.0|80:81/tcp", "node:80/tcp -> 1.5:81; node:80/tcp ext -> 1.5:81");
    check("4 6 ::|80:81/tcp view:localhost", "node6:80/tcp -> 6.1.5:81; node6:80/tcp ext -> 6.1.5:81");

    // Another protocol is another port; the special address comes before the general one, in any order.
    check(
        "4 53:1/tcp 53:2/udp",
        "node:53/tcp -> 1.5:1; node:53/tcp ext -> 1.5:1; node:53/udp -> 1.5:2; node:53/udp ext -> 1.5:2",
    );
    check(
        "4 80:1/tcp localhost|80:2/tcp view:localhost",
        "node:80/tcp -> 1.5:1; node:80/tcp ext -> 1.5:1; localhost:80/tcp -> 1.5:2",
    );

    // Two sandboxes of one pod: the first has what both want.
    check(
        "4 80:1/tcp ; 4 80:1/tcp 81:1/tcp",
        "node:80/tcp -> 1.5:1; node:80/tcp ext -> 1.5:1; node:81/tcp -> 1.6:1; node:81/tcp ext -> 1.6:1",
    );
}

#[test]
fn ports_with_one_target_share_their_set() {
    let pod = PodHostPorts {
        pod: Name::new("default", "web"),
        addresses: vec![address("10.244.1.5")],
        ports: ["80:8080/tcp", "81:8080/tcp", "82:9090/tcp"].map(host_port).to_vec(),
    };
    let plan = plan(&name(&pod.pod), &[pod], &view(std::iter::empty()));
    assert_eq!((plan.frontends.len(), plan.sets.len()), (6, 2));
    assert!(plan.frontends.is_sorted_by_key(PlannedFrontend::key), "in the order of their keys");
}

#[test]
fn names_are_short_enough_for_the_kernel_and_still_differ() {
    assert_eq!(name(&Name::new("default", "web-0")).to_string(), "hostport/default.web-0");
    let long = |end: &str| name(&Name::new("n".repeat(63), format!("{}{end}", "p".repeat(252)))).to_string();
    let (a, b) = (long("a"), long("b"));
    assert_ne!(a, b);
    for text in [a, b] {
        assert_eq!(ServiceName::new(&text).as_str(), text);
        assert!(text.starts_with("hostport/nnn"), "{text}");
    }
}
