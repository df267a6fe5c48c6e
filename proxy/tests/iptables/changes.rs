//! Changes, repair, a new agent, clean-up; and how a refused rule is named.

use thalweg_cluster::Name;
use thalweg_proxy::iptables::{Error, Repaired, cleanup, cleanup_installed};

use super::*;

/// Lines of the nat table with their counters that hold `part`.
fn counted(wire: &Wire, variant: Variant, family: Family, part: &str) -> Vec<String> {
    let program = match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    };
    let kind = if variant == Variant::Nft { "nft" } else { "legacy" };
    let output = wire.node.command(format!("{program}-{kind}-save")).args(["-c", "-t", "nat"]).output().expect("runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().filter(|line| line.contains(part)).map(str::to_owned).collect()
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_change_leaves_others_and_foreign_rules_alone() {
    for (index, variant) in BOTH.into_iter().enumerate() {
        let wire = Wire::new(&format!("c{index}"));
        for family in FAMILIES {
            let foreign = "*nat\n:MINE - [0:0]\n-A PREROUTING -m comment --comment \"mine; -j TW-FILTER \\\"x\\\"\" -j MINE\n\
                           -A MINE -s 192.0.2.0/24 -p tcp -m tcp --dport 7 -j REDIRECT --to-ports 9\nCOMMIT\n\
                           *filter\n:MINE - [0:0]\n:TW-NOTOURS - [0:0]\n-A FORWARD -j MINE\n-A MINE -j TW-NOTOURS\nCOMMIT\n";
            put(&wire, variant, family, &of(family, foreign));
        }
        let before = rules(&wire, variant);
        let mut backend = backend(variant);
        let one = ["10.96.0.8:80/tcp -> 10.244.0.5:8080", "ours 10.96.0.8"];
        let dns = |endpoints: &str| format!("10.96.0.10:53/udp -> {endpoints}");
        set(&mut backend, "shop/a", &one);
        set(&mut backend, "shop/dns", &[&dns("10.244.0.6:8080")]);
        apply(&wire, &mut backend);
        let reached = |wire: &Wire| {
            for family in FAMILIES {
                let seen = wire.dial(&wire.b, &of(family, "10.96.0.8:80"));
                assert_eq!(seen, of(family, "a saw 10.244.0.6"), "{variant:?}");
            }
        };
        reached(&wire);

        let translates = |family| of(family, "DNAT --to-destination 10.244.0.5:8080");
        let kept = FAMILIES.map(|family| counted(&wire, variant, family, &translates(family)));
        assert!(kept.iter().all(|lines| lines.len() == 1 && lines[0].starts_with("[1:")), "{variant:?}: {kept:?}");
        set(&mut backend, "shop/dns", &[&dns("10.244.0.5:8081")]);
        apply(&wire, &mut backend);
        let after = FAMILIES.map(|family| counted(&wire, variant, family, &translates(family)));
        assert_eq!(after, kept, "{variant:?}: untouched, down to the counters");

        // Somebody takes parts away.
        let good = rules(&wire, variant);
        let mut repair = || wire.node.enter(|| backend.repair()).expect("the node's namespace").expect("repairs");
        assert_eq!(repair(), Repaired::default(), "{variant:?}: all is well");
        for family in FAMILIES {
            put(
                &wire,
                variant,
                family,
                "*nat\n:TW-SERVICES - [0:0]\n:TW-PREROUTING - [0:0]\n-D OUTPUT -m comment --comment \"thalweg service proxy\" -j TW-OUTPUT\nCOMMIT\n",
            );
            assert_eq!(repair(), Repaired { chains: 2, jumps: 1 }, "{variant:?} {family:?}");
        }
        assert_eq!(rules(&wire, variant), good, "{variant:?}");
        // Somebody flushes everything.
        for program in ["iptables", "ip6tables"] {
            let kind = if variant == Variant::Nft { "nft" } else { "legacy" };
            for arguments in [["-t", "nat", "-F"], ["-t", "filter", "-F"], ["-t", "nat", "-X"], ["-t", "filter", "-X"]] {
                assert!(wire.node.command(format!("{program}-{kind}")).args(arguments).status().expect("runs").success());
            }
        }
        assert!(repair().chains > 20, "{variant:?}");
        reached(&wire);
        for family in FAMILIES {
            let foreign = "*nat\n:MINE - [0:0]\n-A PREROUTING -m comment --comment \"mine; -j TW-FILTER \\\"x\\\"\" -j MINE\n\
                           -A MINE -s 192.0.2.0/24 -p tcp -m tcp --dport 7 -j REDIRECT --to-ports 9\nCOMMIT\n\
                           *filter\n:MINE - [0:0]\n:TW-NOTOURS - [0:0]\n-A FORWARD -j MINE\n-A MINE -j TW-NOTOURS\nCOMMIT\n";
            put(&wire, variant, family, &of(family, foreign));
        }

        // A new agent takes over what is there, and forgets what is no more.
        let mut backend = self::backend(variant);
        set(&mut backend, "shop/a", &one);
        apply(&wire, &mut backend);
        reached(&wire);
        assert!(!rules(&wire, variant).contains("10.96.0.10/"), "{variant:?}: dns is gone");
        for family in FAMILIES {
            backend.remove(&Name::new("shop", format!("a-{family:?}")));
        }
        apply(&wire, &mut backend);
        let clean =
            || wire.node.enter(|| cleanup(&mut Programs::new(variant))).expect("the node's namespace").expect("cleans up");
        assert!(clean(), "{variant:?}");
        let sorted = |text: &str| {
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        assert_eq!(sorted(&rules(&wire, variant)), sorted(&before), "{variant:?}");
        assert!(!clean(), "{variant:?}: nothing is left");
    }
}

/// Another agent may have used another kind of iptables.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn cleanup_finds_both_kinds_and_both_families() {
    let wire = Wire::new("k");
    for variant in BOTH {
        let mut backend = backend(variant);
        set(&mut backend, "shop/a", &["10.96.0.8:80/tcp -> 10.244.0.5:8080"]);
        apply(&wire, &mut backend);
        assert!(rules(&wire, variant).matches("TW-PREROUTING").count() >= 4, "both families");
    }
    let clean = || wire.node.enter(cleanup_installed).expect("the node's namespace").expect("cleans up");
    assert!(clean());
    assert!(BOTH.iter().all(|variant| !rules(&wire, *variant).contains("TW-")));
    assert!(!clean());
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn what_is_refused_is_named() {
    for_all("e", |wire, _, variant, family| {
        let script = "*nat\n:TW-PROBE - [0:0]\n-A TW-PROBE -j ACCEPT\n-A TW-PROBE -m nonsense -j ACCEPT\n-A TW-PROBE -j RETURN\n-A TW-PROBE -j RETURN\nCOMMIT\n";
        let refused = wire.node.enter(|| Programs::new(variant).restore(family, script)).expect("the node's namespace");
        match refused {
            Err(Error::Refused { line: 4, rule, .. }) => assert_eq!(rule, "-A TW-PROBE -m nonsense -j ACCEPT", "{variant:?}"),
            other => panic!("{variant:?}: {other:?}"),
        }
        assert!(!rules(wire, variant).contains("TW-PROBE"), "{variant:?}: nothing of it was done");
    });
}
