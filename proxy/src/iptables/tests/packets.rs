//! What packets meet.

use super::*;

#[test]
fn what_packets_meet() {
    for family in FAMILIES {
        let kernel = Kernel::default();
        let mut backend = backend(&kernel);
        backend.set(service(family, "shop/web", &WEB));
        backend.set(service(
            family,
            "shop/dns",
            &[
                "10.96.0.10:53/udp -> 10.244.0.5:53",
                "10.96.0.10:53/tcp -> 10.244.0.5:53",
                "10.96.0.10:53/sctp -> 10.244.1.6:53",
                "ours 10.96.0.10",
            ],
        ));
        backend.set(service(family, "shop/none", &["10.96.0.8:80/tcp ->", "10.96.0.8:81/tcp drop ->", "ours 10.96.0.8"]));
        backend.set(service(
            family,
            "shop/local",
            &[
                "172.30.0.11:30090/tcp -> 10.244.1.6:80",
                "172.30.0.11:30090/tcp ext local drop ->",
                "172.30.0.11:30091/tcp -> 10.244.0.5:80 10.244.1.6:80",
                "172.30.0.11:30091/tcp ext local -> 10.244.0.5:80",
                "172.30.0.11:30092/tcp ext local ->",
                "172.30.0.11:30092/tcp -> 10.244.1.6:80",
            ],
        ));
        let applied = apply(&mut backend);
        assert_eq!((applied.services, applied.frontends_written), (4, 17));
        let node_meets_web = "10.244.0.5:8080/masquerade 10.244.1.6:8080/masquerade";
        check(
            &kernel,
            family,
            &[
                ("10.244.0.9 > 10.96.0.7:80/tcp", "10.244.0.5:8080 10.244.1.6:8080"),
                ("node > 10.96.0.7:80/tcp", node_meets_web),
                // A pod reaches itself.
                ("10.244.0.5 > 10.96.0.7:80/tcp", "10.244.0.5:8080/masquerade 10.244.1.6:8080"),
                ("172.30.0.100 > 10.96.0.7:80/tcp", "10.244.0.5:8080/masquerade 10.244.1.6:8080/masquerade"),
                ("10.244.0.9 > 10.96.0.7:81/tcp", "refused"),
                ("10.244.0.9 > 10.96.0.7:80/udp", "refused"),
                ("172.30.0.100 > 10.96.0.7:81/tcp", "refused"),
                ("10.244.0.9 > 10.96.0.9:80/tcp", "passed"),
                ("10.244.0.9 > 10.244.1.6:8080/tcp", "passed"),
                ("172.30.0.100 > 10.244.1.6:8080/tcp", "passed"),
                ("172.30.0.100 > 172.30.0.11:22/tcp", "passed"),
                ("node > 10.244.1.6:8080/tcp", "passed"),
                // One number, three ports.
                ("10.244.0.9 > 10.96.0.10:53/udp", "10.244.0.5:53"),
                ("10.244.0.9 > 10.96.0.10:53/tcp", "10.244.0.5:53"),
                ("10.244.0.9 > 10.96.0.10:53/sctp", "10.244.1.6:53"),
                ("10.244.0.9 > 10.96.0.8:80/tcp", "refused"),
                ("node > 10.96.0.8:80/tcp", "refused"),
                ("172.30.0.100 > 10.96.0.8:80/tcp", "refused"),
                ("10.244.0.9 > 10.96.0.8:81/tcp", "dropped"),
                ("172.30.0.100 > 172.30.0.11:30080/tcp", "10.244.0.5:8080/masquerade 10.244.1.6:8080/masquerade"),
                ("10.244.0.9 > 172.30.0.11:30080/tcp", "10.244.0.5:8080 10.244.1.6:8080"),
                ("node > 172.30.0.11:30080/tcp", node_meets_web),
                ("172.30.0.100 > 172.30.0.11:30090/tcp", "dropped"),
                ("10.244.0.9 > 172.30.0.11:30090/tcp", "10.244.1.6:80"),
                ("172.30.0.100 > 172.30.0.11:30091/tcp", "10.244.0.5:80"),
                ("172.30.0.100 > 172.30.0.11:30092/tcp", "refused"),
            ],
        );
        assert!(backend.next_deadline().is_none());
        // What metrics say is what is there.
        let listed = |table: &str, system: [&str; 3]| {
            let ours = |line: &&String| {
                line.starts_with("-A") && !system.iter().any(|chain| line.starts_with(&format!("-A {chain} ")))
            };
            kernel.rules(family, table).iter().filter(ours).count()
        };
        let expected = [
            ("filter", listed("filter", ["INPUT", "FORWARD", "OUTPUT"])),
            ("nat", listed("nat", ["PREROUTING", "OUTPUT", "POSTROUTING"])),
        ];
        let figures = backend.figures();
        let found: Vec<_> =
            figures.tables.iter().filter(|one| one.family == family).map(|one| (one.table, one.rules)).collect();
        assert_eq!(found, expected);
        assert!(figures.tables.iter().all(|one| one.rules == one.last_written), "the first sync writes all: {figures:?}");
    }
}

#[test]
fn masquerade_all() {
    for family in FAMILIES {
        let kernel = Kernel::default();
        let mut backend = backend_with(&kernel, Options { masquerade_all: true, ..options() });
        backend.set(service(family, "shop/web", &WEB));
        apply(&mut backend);
        let both = "10.244.0.5:8080/masquerade 10.244.1.6:8080/masquerade";
        check(
            &kernel,
            family,
            &[
                ("10.244.0.9 > 10.96.0.7:80/tcp", both),
                ("node > 10.96.0.7:80/tcp", both),
                ("node > 10.96.0.7:81/tcp", "refused"),
                ("10.244.0.9 > 10.244.1.6:80/tcp", "passed"),
                ("node > 10.244.1.6:80/tcp", "passed"),
            ],
        );
    }
}

#[test]
fn one_service_of_both_families() {
    let kernel = Kernel::default();
    let mut backend = backend(&kernel);
    let lines = [
        "10.96.0.7:80/tcp -> 10.244.0.5:8080",
        "[fd00::96:7]:80/tcp -> [fd00::244:5]:8080",
        "ours 10.96.0.7",
        "ours fd00::96:7",
    ];
    backend.set(words::service("shop/web", &lines));
    assert_eq!(apply(&mut backend).services, 1);
    check(
        &kernel,
        Family::V4,
        &[("10.244.0.9 > 10.96.0.7:80/tcp", "10.244.0.5:8080"), ("10.244.0.9 > 10.96.0.7:81/tcp", "refused")],
    );
    assert_eq!(meets(&kernel, "node > [fd00::96:7]:80/tcp"), "[fd00::244:5]:8080/masquerade");
    assert_eq!(meets(&kernel, "fd00::10:244:0:9 > [fd00::96:7]:81/tcp"), "refused");
    // A change of one family leaves the other alone.
    kernel.forget_scripts();
    backend.set(words::service("shop/web", &[lines[0], "[fd00::96:7]:80/tcp -> [fd00::244:6]:8080", lines[2], lines[3]]));
    apply(&mut backend);
    let scripts = kernel.scripts();
    assert!(scripts.len() == 1 && scripts[0].contains("[fd00::244:6]:8080"), "{scripts:?}");
}

#[test]
fn source_ranges() {
    for family in FAMILIES {
        let kernel = Kernel::default();
        let mut backend = backend(&kernel);
        let balanced = |ranges: &str| {
            service(
                family,
                "shop/web",
                &[
                    "10.96.0.7:80/tcp -> 10.244.0.5:8080",
                    "192.0.2.7:80/tcp check -> 10.244.0.5:8080",
                    "192.0.2.7:80/tcp ext check -> 10.244.0.5:8080",
                    "192.0.2.7:81/tcp ext check ->",
                    &format!("from -> {ranges}"),
                ],
            )
        };
        backend.set(balanced("203.0.113.0/24 10.244.1.0/24"));
        apply(&mut backend);
        let cases = [
            ("203.0.113.9 > 192.0.2.7:80/tcp", "10.244.0.5:8080/masquerade"),
            ("198.51.100.9 > 192.0.2.7:80/tcp", "dropped"),
            ("10.244.1.9 > 192.0.2.7:80/tcp", "10.244.0.5:8080"),
            ("10.244.0.9 > 192.0.2.7:80/tcp", "dropped"),
            ("203.0.113.9 > 192.0.2.7:81/tcp", "refused"),
            ("198.51.100.9 > 192.0.2.7:81/tcp", "dropped"),
            // The ranges are about the load balancer's address only.
            ("198.51.100.9 > 10.96.0.7:80/tcp", "10.244.0.5:8080/masquerade"),
        ];
        check(&kernel, family, &cases);
        // They change, and nothing else does.
        kernel.forget_scripts();
        backend.set(balanced("198.51.100.0/24"));
        apply(&mut backend);
        check(
            &kernel,
            family,
            &[cases[1], cases[0]].map(|(packet, _)| packet).map(|packet| match packet {
                "198.51.100.9 > 192.0.2.7:80/tcp" => (packet, "10.244.0.5:8080/masquerade"),
                other => (other, "dropped"),
            }),
        );
        let scripts = kernel.scripts();
        let chains: Vec<&str> = scripts[0].lines().filter(|line| line.starts_with(':')).collect();
        assert!(scripts.len() == 1 && chains.len() == 1 && chains[0].starts_with(":TW-SRC-"), "{scripts:?}");
        // Ranges of the other family only: nobody of this one is named, so nobody is let in.
        let mut closed = balanced("192.0.2.0/24");
        closed.source_ranges.clear();
        backend.set(closed);
        apply(&mut backend);
        check(&kernel, family, &[("203.0.113.9 > 192.0.2.7:80/tcp", "dropped")]);
        backend.remove(&name("shop/web"));
        apply(&mut backend);
        assert!(!kernel.rules(family, "nat").iter().any(|rule| rule.contains("TW-SRC")));
    }
}

#[test]
fn addresses_of_a_service_range_that_are_nobodys() {
    for family in FAMILIES {
        let kernel = Kernel::default();
        let mut backend = backend(&kernel);
        backend.set(service(family, "shop/web", &WEB));
        backend.set_service_ranges(&["10.96.0.0/16", "fd00::10:96:0:0/96"].map(|range| range.parse().expect("a range")));
        apply(&mut backend);
        let cases = ["10.244.0.9", "node", "172.30.0.100"].map(|from| format!("{from} > 10.96.0.99:80/tcp"));
        for packet in &cases {
            check(&kernel, family, &[(packet, "dropped")]);
        }
        check(
            &kernel,
            family,
            &[
                ("10.244.0.9 > 10.96.0.7:80/tcp", "10.244.0.5:8080 10.244.1.6:8080"),
                ("10.244.0.9 > 10.96.0.7:81/tcp", "refused"),
                ("10.244.0.9 > 10.97.0.7:80/tcp", "passed"),
                ("172.30.0.100 > 172.30.0.11:22/tcp", "passed"),
            ],
        );
        backend.set_service_ranges(&[]);
        apply(&mut backend);
        for packet in &cases {
            check(&kernel, family, &[(packet, "passed")]);
        }
    }
}

#[test]
fn node_ports_on_127_0_0_1() {
    let kernel = Kernel::default();
    let mut backend = backend(&kernel);
    backend.set(service(Family::V4, "shop/web", &WEB));
    apply(&mut backend);
    assert!(!kernel.routes_localnet(), "only when asked for");
    // Who is served by the node itself needs nothing of the kernel.
    backend.set(service(Family::V4, "own/health", &["127.0.0.1:40001/tcp -> 127.0.0.1:40002"]));
    apply(&mut backend);
    assert!(!kernel.routes_localnet());
    check(&kernel, Family::V4, &[("node > 127.0.0.1:40001/tcp", "127.0.0.1:40002/masquerade")]);
    let with = [WEB.as_slice(), &["127.0.0.1:30080/tcp -> 10.244.0.5:8080"]].concat();
    backend.set(service(Family::V4, "shop/web", &with));
    apply(&mut backend);
    assert!(kernel.routes_localnet());
    check(
        &kernel,
        Family::V4,
        &[("node > 127.0.0.1:30080/tcp", "10.244.0.5:8080/masquerade"), ("172.30.0.100 > 127.0.0.1:30080/tcp", "passed")],
    );
    let input =
        kernel.rules(Family::V4, "filter").into_iter().find(|rule| rule.starts_with("-A INPUT") && rule.contains("127."));
    assert_eq!(
        input.expect("a rule"),
        "-A INPUT -m comment --comment \"thalweg service proxy\" ! -s 127.0.0.0/8 -d 127.0.0.0/8 -j TW-LOCALNET"
    );
    backend.set(service(Family::V4, "shop/web", &WEB));
    apply(&mut backend);
    assert!(!kernel.routes_localnet());
    // What a cleaned-up node had on, nobody needs.
    backend.set(service(Family::V4, "shop/web", &with));
    apply(&mut backend);
    assert!(cleanup(&mut kernel.clone()).expect("cleans up") && !kernel.routes_localnet());
    // Draining takes the chain that keeps the wire out, too (kubernetes#90259).
    kernel.clone().route_localnet(true).expect("a setting");
    let guard =
        "*nat\n:TW-PREROUTING - [0:0]\n-A TW-PREROUTING -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j ACCEPT\nCOMMIT\n";
    kernel.clone().restore(Family::V4, guard).expect("a rule");
    assert!(drain(&mut kernel.clone()).expect("drains") && !kernel.routes_localnet());
}

#[test]
fn affinity_is_a_service_ports() {
    for family in FAMILIES {
        let kernel = Kernel::default();
        let mut backend = backend(&kernel);
        let two_ports = [
            "10.96.0.9:80/tcp affinity -> 10.244.0.5:80 10.244.1.6:80",
            "10.96.0.9:443/tcp affinity -> 10.244.0.5:80 10.244.1.6:80",
            "172.30.0.11:30080/tcp ext affinity of:80 -> 10.244.0.5:80 10.244.1.6:80",
            "172.30.0.11:30080/tcp affinity of:80 -> 10.244.0.5:80 10.244.1.6:80",
        ];
        backend.set(service(family, "shop/sticky", &two_ports));
        apply(&mut backend);
        let remembering =
            |kernel: &Kernel| kernel.rules(family, "nat").iter().filter(|rule| rule.contains("--set -j DNAT")).count();
        assert_eq!(remembering(&kernel), 4, "two endpoints of two ports; the NodePort is the first port's");
        let asking =
            kernel.rules(family, "nat").iter().filter(|rule| rule.contains("--rcheck --seconds 30 --reap -j TW-SEP-")).count();
        assert_eq!(asking, 2 * 2, "two ports of two endpoints; what leads there is shared");
        backend.set(service(
            family,
            "shop/sticky",
            &two_ports.map(|line| line.replace(" affinity", "")).each_ref().map(String::as_str),
        ));
        apply(&mut backend);
        assert_eq!(remembering(&kernel), 0);
        check(&kernel, family, &[("10.244.0.9 > 10.96.0.9:443/tcp", "10.244.0.5:80 10.244.1.6:80")]);
    }
}

/// nf_tables follows 16 jumps; addresses of IPv6 could part 32 times.
#[test]
fn no_tree_is_too_deep() {
    let deep = 0xfd00_0000_0000_0000_0000_0000_0000_0007_u128;
    let parting = (0..31).map(|digit| deep ^ (1 << (127 - 4 * digit)));
    let crowd = (0x100..0x120).map(|last| deep + last);
    let kernel = Kernel::default();
    let mut backend = backend_with(&kernel, Options { masquerade_all: true, ..options() });
    let vips: Vec<std::net::Ipv6Addr> = parting.chain(crowd).chain([deep]).map(std::net::Ipv6Addr::from).collect();
    for vip in &vips {
        let lines: Vec<String> = (0..20).map(|port| format!("[{vip}]:{}/tcp -> [fd00::5]:8080", 80 + port * 300)).collect();
        backend.set(words::service(&format!("deep/{vip}"), &lines.iter().map(String::as_str).collect::<Vec<_>>()));
    }
    apply(&mut backend);
    let rules = kernel.rules(Family::V6, "nat");
    assert!(depth(&rules, "PREROUTING") <= 15, "{}", depth(&rules, "PREROUTING"));
    for vip in &vips {
        assert_eq!(meets(&kernel, &format!("node > [{vip}]:5780/tcp")), "[fd00::5]:8080/masquerade", "{vip}");
        assert_eq!(meets(&kernel, &format!("node > [{vip}]:81/tcp")), "passed", "{vip}");
    }
}

/// Jumps in a row below a chain.
fn depth(rules: &[String], chain: &str) -> usize {
    let mut leads: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for rule in rules {
        let words: Vec<&str> = rule.split(' ').collect();
        let target = words.windows(2).find(|pair| matches!(pair[0], "-j" | "-g")).map(|pair| pair[1]);
        if let (["-A", chain, ..], Some(target)) = (words.as_slice(), target) {
            leads.entry(chain).or_default().insert(target);
        }
    }
    let (mut depth, mut level) = (0, BTreeSet::from([chain]));
    loop {
        level =
            level.iter().filter_map(|chain| leads.get(chain)).flatten().filter(|to| to.starts_with("TW-")).copied().collect();
        if level.is_empty() {
            return depth;
        }
        depth += 1;
    }
}
