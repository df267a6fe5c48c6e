//! Restarts, clean-up, others' rules, and what others do to ours.

use super::*;

#[test]
fn a_restart_leaves_no_old_chain_behind_and_touches_nothing_foreign() {
    let kernel = Kernel::default();
    let foreign = "*nat\n:MINE - [0:0]\n:TW-MINE - [0:0]\n-A MINE -j TW-MINE\n-A PREROUTING -j MINE\n-A POSTROUTING -s 192.0.2.0/24 -j MASQUERADE\nCOMMIT\n\
                   *filter\n:MINE - [0:0]\n-A FORWARD -j MINE\nCOMMIT\n";
    kernel.clone().restore(Family::V4, foreign).expect("the machine's own rules");
    let untouched = kernel.clone().save(Family::V4).expect("saves");

    let mut first = backend(&kernel);
    first.set(service(Family::V4, "shop/web", &WEB));
    first.set(service(Family::V4, "shop/old", &["10.96.7.7:80/tcp -> 10.244.0.7:80"]));
    apply(&mut first);
    let mut second = backend(&kernel);
    second.set(service(Family::V4, "shop/web", &WEB));
    apply(&mut second);
    let fresh = Kernel::default();
    fresh.clone().restore(Family::V4, foreign).expect("the machine's own rules");
    let mut third = backend(&fresh);
    third.set(service(Family::V4, "shop/web", &WEB));
    apply(&mut third);
    assert_eq!(kernel.rules(Family::V4, "nat"), fresh.rules(Family::V4, "nat"));
    assert_eq!(kernel.rules(Family::V4, "filter"), fresh.rules(Family::V4, "filter"));

    assert!(cleanup(&mut kernel.clone()).expect("cleans up"));
    assert_eq!(kernel.clone().save(Family::V4).expect("saves"), untouched);
    assert!(!cleanup(&mut kernel.clone()).expect("cleans up"));
}

#[test]
fn what_somebody_broke_is_repaired() {
    let packets =
        [("10.244.0.9 > 10.96.0.7:80/tcp", "10.244.0.5:8080 10.244.1.6:8080"), ("node > 10.96.0.7:81/tcp", "refused")];
    for (case, script) in [
        ("a jump", "*nat\n-D OUTPUT -m comment --comment \"thalweg service proxy\" -j TW-OUTPUT\nCOMMIT\n"),
        ("a jump twice", "*nat\n-A OUTPUT -m comment --comment \"thalweg service proxy\" -j TW-OUTPUT\nCOMMIT\n"),
        (
            "a jump of another mark",
            "*filter\n-A INPUT -m comment --comment \"thalweg service proxy\" -m mark --mark 0x1/0x1 -j TW-FILTER\nCOMMIT\n",
        ),
        ("a chain's rules", "*nat\n:TW-SERVICES - [0:0]\n:TW-MASQ - [0:0]\nCOMMIT\n"),
        ("everything", "*nat\n*flush\nCOMMIT\n*filter\n*flush\nCOMMIT\n"),
    ] {
        let kernel = Kernel::default();
        let mut backend = backend(&kernel);
        backend.set(service(Family::V4, "shop/web", &WEB));
        apply(&mut backend);
        let good = (kernel.rules(Family::V4, "nat"), kernel.rules(Family::V4, "filter"));
        kernel.forget_scripts();
        assert_eq!(backend.repair().expect("looks"), Repaired::default());
        assert!(kernel.scripts().is_empty(), "{case}: nothing to repair");
        kernel.clone().restore(Family::V4, script).expect("breaks");
        assert_ne!((kernel.rules(Family::V4, "nat"), kernel.rules(Family::V4, "filter")), good, "{case}");
        assert_ne!(backend.repair().expect("repairs"), Repaired::default(), "{case}");
        assert_eq!((kernel.rules(Family::V4, "nat"), kernel.rules(Family::V4, "filter")), good, "{case}");
        assert_eq!(backend.repair().expect("looks"), Repaired::default(), "{case}");
        check(&kernel, Family::V4, &packets);
    }
}

#[test]
fn drained_rules_are_gone_and_come_back() {
    let kernel = Kernel::default();
    let untouched = FAMILIES.map(|family| kernel.clone().save(family).expect("saves"));
    let mut backend = backend(&kernel);
    for family in FAMILIES {
        backend.set(service(family, &format!("shop/{family:?}"), &WEB));
    }
    apply(&mut backend);
    backend.drain().expect("drains");
    for family in FAMILIES {
        let left: Vec<String> = kernel.rules(family, "nat").into_iter().filter(|line| line.contains("TW-")).collect();
        assert_eq!(left, [":TW-KEEP", "-A TW-KEEP -j MASQUERADE"], "what keeps the kernel translating");
        assert!(!kernel.rules(family, "filter").iter().any(|line| line.contains("TW-")));
    }
    assert!(!drain(&mut kernel.clone()).expect("drains"), "nothing is left to remove");
    assert!(cleanup(&mut kernel.clone()).expect("cleans up"), "but for what keeps");
    assert_eq!(FAMILIES.map(|family| kernel.clone().save(family).expect("saves")), untouched);
    backend.set(service(Family::V6, "shop/V6", &WEB));
    assert_eq!(apply(&mut backend).services, 0, "nothing is known of the cluster any more");
    backend.retain_only_known();
    apply(&mut backend);
    check(&kernel, Family::V6, &[("node > 10.96.0.7:81/tcp", "refused")]);
}
