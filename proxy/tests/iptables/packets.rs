//! Who is reached, who is refused, who is dropped.

use super::*;

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn packets_reach_who_they_should() {
    for_all("p", |wire, backend, variant, family| {
        let own = |text: &str| of(family, text);
        let case = |what: &str| format!("{variant:?} {family:?}: {what}");
        backend.set(service(
            family,
            "shop/web",
            &[
                "10.96.0.7:80/tcp -> 10.244.0.5:8080 10.244.0.6:8080",
                "172.30.0.11:30080/tcp -> 10.244.0.5:8080 10.244.0.6:8080",
                "172.30.0.11:30080/tcp ext -> 10.244.0.5:8080 10.244.0.6:8080",
                "172.30.0.11:30081/tcp -> 10.244.0.5:8080",
                "172.30.0.11:30081/tcp ext local -> 10.244.0.5:8080",
                "172.30.0.11:30082/tcp -> 10.244.0.5:8080",
                "172.30.0.11:30082/tcp ext local drop ->",
                "172.30.0.11:30083/tcp ->",
                "172.30.0.11:30083/tcp ext ->",
                "ours 10.96.0.7",
            ],
        ));
        let one = ["10.96.0.8:80/tcp -> 10.244.0.5:8080", "10.96.0.8:53/udp -> 10.244.0.5:8080", "ours 10.96.0.8"];
        backend.set(service(family, "shop/a", &one));
        backend.set(service(family, "shop/none", &["10.96.0.9:80/tcp ->", "10.96.0.9:53/udp ->", "ours 10.96.0.9"]));
        backend.set_service_ranges(&["10.96.0.0/16", "fd00::10:96:0:0/96"].map(|range| range.parse().expect("a range")));
        apply(wire, backend);
        let dial = |from, to: &str| wire.dial(from, &own(to));

        // ClusterIP: both endpoints answer, and see who dialled.
        let both = [own("a saw 172.30.0.11"), own("b saw 172.30.0.11")];
        assert_eq!(dial(&wire.b, "10.96.0.8:80"), own("a saw 10.244.0.6"), "{}", case("from a pod"));
        assert_eq!(wire.datagram(&wire.b, &own("10.96.0.8:53")), own("a saw 10.244.0.6"), "{}", case("UDP"));
        assert_eq!(wire.dial_often(&wire.node, &own("10.96.0.7:80"), 40), both, "{}", case("from the node"));
        // Hairpin: a pod reaches itself.
        assert_eq!(dial(&wire.a, "10.96.0.8:80"), own("a saw 172.30.0.11"), "{}", case("hairpin"));
        assert_eq!(wire.datagram(&wire.a, &own("10.96.0.8:53")), own("a saw 172.30.0.11"), "{}", case("hairpin"));
        // From outside.
        assert_eq!(wire.dial_often(&wire.client, &own("172.30.0.11:30080"), 40), both, "{}", case("NodePort"));
        assert_eq!(wire.dial_often(&wire.client, &own("10.96.0.7:80"), 40), both, "{}", case("a ClusterIP from outside"));
        assert_eq!(dial(&wire.client, "172.30.0.11:30081"), own("a saw 172.30.0.100"), "{}", case("Local keeps the source"));
        assert_eq!(dial(&wire.client, "172.30.0.11:30082"), "timed out", "{}", case("Local without an endpoint"));
        assert_eq!(dial(&wire.b, "172.30.0.11:30082"), own("a saw 10.244.0.6"), "{}", case("the short cut from inside"));
        assert_eq!(dial(&wire.node, "172.30.0.11:30082"), own("a saw 172.30.0.11"), "{}", case("the node's short cut"));
        assert_eq!(dial(&wire.client, "172.30.0.11:30083"), "refused", "{}", case("NodePort without endpoints"));
        // Refusal, on every way there is.
        for from in [&wire.a, &wire.node, &wire.client] {
            let case = |what: &str| case(&format!("{what}, from {}", from.name()));
            assert_eq!(dial(from, "10.96.0.9:80"), "refused", "{}", case("no endpoints"));
            // cilium#13329
            assert_eq!(dial(from, "10.96.0.7:81"), "refused", "{}", case("unknown port"));
            // The kernel tells a sender on the node itself that the datagram was not let through, before any ICMP error could.
            let expected = if from.name() == wire.node.name() { "not permitted" } else { "refused" };
            assert_eq!(wire.datagram(from, &own("10.96.0.9:53")), expected, "{}", case("UDP"));
            assert_eq!(dial(from, "10.96.0.99:80"), "timed out", "{}", case("an address of the range that is nobody's"));
        }
        // Who is no service's is left alone.
        assert_eq!(dial(&wire.client, "10.244.0.5:8080"), own("a saw 172.30.0.100"), "{}", case("a pod's own address"));
        assert_eq!(dial(&wire.a, "10.244.0.6:8080"), own("b saw 10.244.0.5"), "{}", case("pod to pod"));
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn load_balancers_admit_who_may_come() {
    for_all("s", |wire, backend, variant, family| {
        let own = |text: &str| of(family, text);
        let mut admit = |ranges: &str| {
            let balanced = [
                "192.0.2.7:80/tcp check -> 10.244.0.5:8080".to_owned(),
                "192.0.2.7:80/tcp ext check -> 10.244.0.5:8080".to_owned(),
                format!("from -> {ranges}"),
            ];
            backend.set(service(family, "shop/lb", &balanced.each_ref().map(String::as_str)));
            apply(wire, backend);
            [&wire.client, &wire.a, &wire.b, &wire.node].map(|from| wire.dial(from, &own("192.0.2.7:80")))
        };
        let served = own("a saw 172.30.0.11");
        let late = || "timed out".to_owned();
        assert_eq!(admit("172.30.0.100/32"), [served.clone(), late(), late(), late()], "{variant:?} {family:?}");
        // The cluster's own pods and nodes are asked too.
        assert_eq!(admit("10.244.0.6/32"), [late(), late(), own("a saw 10.244.0.6"), late()], "{variant:?} {family:?}");
        assert_eq!(admit("172.30.0.11/32"), [late(), late(), late(), served], "{variant:?} {family:?}");
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_client_stays_with_its_endpoint() {
    for_all("f", |wire, backend, variant, family| {
        let own = |text: &str| of(family, text);
        let case = |what: &str| format!("{variant:?} {family:?}: {what}");
        let both = "10.244.0.5:8080 10.244.0.6:8080";
        let lines = |affinity: &str, endpoints: &str| {
            ["10.96.0.12:80/tcp", "172.30.0.11:30012/tcp", "172.30.0.11:30012/tcp ext local"]
                .map(|dialled| format!("{dialled} {affinity} of:80 -> {endpoints}"))
        };
        let mut apply_lines = |affinity: &str, endpoints: &str| {
            backend.set(service(family, "shop/sticky", &lines(affinity, endpoints).each_ref().map(String::as_str)));
            apply(wire, backend);
        };
        apply_lines("affinity", both);
        let ways = [(&wire.node, "10.96.0.12:80"), (&wire.client, "10.96.0.12:80"), (&wire.b, "10.96.0.12:80")];
        for (from, to) in ways {
            let first = wire.dial_often(from, &own(to), 12);
            assert_eq!(first.len(), 1, "{}: {first:?}", case(from.name()));
            // kube-proxy and we alike: one service port, whatever its address. (The source may differ, the endpoint not.)
            let other = wire.dial_often(from, &own("172.30.0.11:30012"), 12);
            assert!(other.len() == 1 && other[0][..1] == first[0][..1], "{}: {first:?} {other:?}", case(from.name()));
        }
        // Who goes takes his clients' memory along; who stays gets them.
        let held = wire.dial(&wire.client, &own("10.96.0.12:80"));
        let rest = if held.starts_with('a') { ("b", "10.244.0.6:8080") } else { ("a", "10.244.0.5:8080") };
        apply_lines("affinity", rest.1);
        assert!(wire.dial(&wire.client, &own("10.96.0.12:80")).starts_with(rest.0), "{}", case("the endpoint is gone"));
        apply_lines("affinity", both);
        assert!(wire.dial_often(&wire.client, &own("10.96.0.12:80"), 12)[0].starts_with(rest.0), "{}", case("and back"));
        // cilium#26709: off is off at once, and so is on.
        apply_lines("", both);
        assert_eq!(wire.dial_often(&wire.client, &own("10.96.0.12:80"), 40).len(), 2, "{}", case("off"));
        apply_lines("affinity", both);
        assert_eq!(wire.dial_often(&wire.client, &own("10.96.0.12:80"), 12).len(), 1, "{}", case("on"));
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn node_ports_on_127_0_0_1() {
    for (index, variant) in BOTH.into_iter().enumerate() {
        let wire = Wire::new(&format!("l{index}"));
        let mut backend = backend(variant);
        let setting = || {
            let path = "/proc/sys/net/ipv4/conf/all/route_localnet";
            wire.node.enter(|| std::fs::read_to_string(path)).expect("the node's namespace").expect("reads").trim().to_owned()
        };
        let node_port = ["172.30.0.11:30080/tcp -> 10.244.0.5:8080", "127.0.0.1:30080/tcp -> 10.244.0.5:8080"];
        backend.set(service(Family::V4, "shop/web", &node_port[..1]));
        apply(&wire, &mut backend);
        assert_eq!(
            (wire.dial(&wire.node, "127.0.0.1:30080"), setting()),
            ("refused".to_owned(), "0".to_owned()),
            "{variant:?}"
        );
        backend.set(service(Family::V4, "shop/web", &node_port));
        apply(&wire, &mut backend);
        assert_eq!(wire.dial(&wire.node, "127.0.0.1:30080"), "a saw 172.30.0.11", "{variant:?}");
        assert_eq!(setting(), "1");
        // kubernetes#90259: the setting opens 127.0.0.1 to neighbours; the rules shut it again.
        let listening = wire.node.enter(|| std::net::TcpListener::bind("127.0.0.1:7777")).expect("enter").expect("binds");
        wire.client.ip("route add 127.0.0.1/32 via 172.30.0.11 dev eth0 table 7").expect("a route");
        for rule in
            ["rule add from all lookup 7 pref 0", "rule del from all lookup local", "rule add from all lookup local pref 10"]
        {
            wire.client.ip(rule).expect("a rule");
        }
        wire::set(&wire.client, &[("ipv4/conf/all/route_localnet", "1"), ("ipv4/conf/eth0/route_localnet", "1")]);
        wire::set(&wire.node, &[("ipv4/conf/eth0/accept_local", "1")]);
        for to in ["127.0.0.1:7777", "127.0.0.1:30080"] {
            assert_eq!(wire.dial(&wire.client, to), "timed out", "{variant:?}: from the wire to {to}");
        }
        drop(listening);
        backend.set(service(Family::V4, "shop/web", &node_port[..1]));
        apply(&wire, &mut backend);
        assert_eq!(setting(), "0", "{variant:?}: nobody needs it any more");
    }
}

/// As the API server's own service is, on its node.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_process_of_the_node_is_an_endpoint() {
    for_all("h", |wire, backend, variant, family| {
        let own = |text: &str| of(family, text);
        let server = wire.serve_on_node();
        backend.set(service(
            family,
            "default/kubernetes",
            &[
                "10.96.0.1:443/tcp -> 172.30.0.11:6443",
                "10.96.0.1:53/udp -> 172.30.0.11:6443",
                "172.30.0.11:30443/tcp -> 172.30.0.11:6443",
                "172.30.0.11:30443/tcp ext local -> 172.30.0.11:6443",
            ],
        ));
        apply(wire, backend);
        for (from, address) in [(&wire.node, "172.30.0.11"), (&wire.a, "10.244.0.5"), (&wire.client, "172.30.0.100")] {
            let case = format!("{variant:?} {family:?}: from {}", from.name());
            // What stays on the node leaves by no interface: nothing is masqueraded.
            let expected = own(&format!("node saw {address}"));
            assert_eq!(wire.dial(from, &own("10.96.0.1:443")), expected, "{case}");
            assert_eq!(wire.datagram(from, &own("10.96.0.1:53")), expected, "{case}: UDP");
            assert_eq!(wire.dial(from, &own("172.30.0.11:30443")), expected, "{case}: NodePort");
        }
        drop(server);
    });
}

/// The kernel's own connection tracking does it; nothing of ours may stand in its way, policies to drop included.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn errors_and_fragments_find_their_way() {
    for_all("g", |wire, backend, variant, family| {
        let own = |text: &str| of(family, text);
        backend.set(service(
            family,
            "shop/udp",
            &[
                "10.96.0.7:53/udp -> 10.244.0.5:8080",
                "10.96.0.7:54/udp -> 10.244.0.5:9",
                "172.30.0.11:30053/udp ext -> 10.244.0.5:8080",
                "172.30.0.11:30054/udp ext -> 10.244.0.5:9",
            ],
        ));
        apply(wire, backend);
        put(wire, variant, family, "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -i tw-b -j ACCEPT\nCOMMIT\n");
        let ways = [
            (&wire.b, "10.96.0.7:53", "10.96.0.7:54", "10.244.0.6"),
            (&wire.node, "10.96.0.7:53", "10.96.0.7:54", "172.30.0.11"),
            (&wire.client, "172.30.0.11:30053", "172.30.0.11:30054", "172.30.0.11"),
        ];
        for (from, open, closed, seen_as) in ways {
            let case = format!("{variant:?} {family:?}: from {}", from.name());
            // cilium#25709, #43781: more than one packet long.
            let socket = wire.udp_socket(from, &own(open));
            let said = wire::ask_with(&socket, &[b'?'; 4000]);
            assert_eq!(said, own(&format!("a saw {seen_as}")), "{case}");
            // cilium#32601, #48784: nobody listens there, and that is said.
            assert_eq!(wire.datagram(from, &own(closed)), "refused", "{case}");
        }
    });
}

/// nf_tables refuses a chain that is more than 15 jumps deep. Addresses that part at every digit, and ports that part too,
/// make the longest way; addresses of IPv6 could part at 32.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn the_deepest_tree_is_shallow_enough() {
    for (index, variant) in BOTH.into_iter().enumerate() {
        let wire = Wire::new(&format!("d{index}"));
        let options = Options { masquerade_all: true, ..options() };
        let mut backend = IptablesBackend::new(Programs::new(variant), options).expect("valid");
        backend.retain_only_known();
        let deep = u32::from(std::net::Ipv4Addr::new(10, 96, 0, 7));
        let parting = (0..7).map(|digit| deep ^ (0x1000_0000 >> (4 * digit)));
        let neighbours = (0..16).map(|last| (deep & !15) | last);
        let v4 = parting.chain(neighbours).map(|vip| std::net::Ipv4Addr::from(vip).to_string());
        let deep = "fd00::10:96:0:7".parse::<std::net::Ipv6Addr>().expect("an address").to_bits();
        let parting = (0..31).map(|digit| deep ^ (1 << (127 - 4 * digit)));
        let neighbours = (0..17).map(|last| (deep & !31) | last);
        let v6 = parting.chain(neighbours).map(|vip| format!("[{}]", std::net::Ipv6Addr::from(vip)));
        for vip in v4.chain(v6) {
            let endpoint = if vip.starts_with('[') { "[fd00::10:244:0:5]:8080" } else { "10.244.0.5:8080" };
            let lines: Vec<String> = (0..20)
                .flat_map(|port| ["", "ext"].map(|scope| format!("{vip}:{}/tcp {scope} -> {endpoint}", 80 + port * 300)))
                .chain([format!("ours {}", vip.trim_matches(['[', ']']))])
                .collect();
            backend.set(words::service(&format!("deep/{vip}"), &lines.iter().map(String::as_str).collect::<Vec<_>>()));
        }
        apply(&wire, &mut backend);
        for family in FAMILIES {
            for from in [&wire.a, &wire.client, &wire.node] {
                let case = format!("{variant:?} {family:?}: from {}", from.name());
                assert_eq!(wire.dial(from, &of(family, "10.96.0.7:5780")), of(family, "a saw 172.30.0.11"), "{case}");
                assert_eq!(wire.dial(from, &of(family, "10.96.0.7:5781")), "refused", "{case}");
            }
            let direct = wire.dial(&wire.a, &of(family, "10.244.0.6:8080"));
            assert_eq!(direct, of(family, "b saw 10.244.0.5"), "{variant:?}: no service");
        }
    }
}
