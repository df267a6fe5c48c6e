//! What a change writes, and what becomes of services that fail.

use super::*;

#[test]
fn nothing_is_written_before_every_service_is_known() {
    let kernel = Kernel::default();
    let mut backend = IptablesBackend::new(kernel.clone(), options()).expect("valid options");
    backend.set(service(Family::V4, "shop/web", &WEB));
    assert_eq!(apply(&mut backend).services, 0);
    assert!(backend.repair().expect("repairs") == Repaired::default() && kernel.scripts().is_empty());
    backend.retain_only_known();
    assert_eq!(apply(&mut backend).services, 1);
}

#[test]
fn a_change_writes_its_own_chains_only() {
    let kernel = Kernel::default();
    let mut backend = backend(&kernel);
    for index in 1..=200_u8 {
        let vip = format!("10.96.{}.{index}:80/tcp -> 10.244.0.{index}:80 10.244.1.{index}:80", index % 3);
        backend.set(service(Family::V4, &format!("s{index}"), &[&vip, &format!("ours 10.96.{}.{index}", index % 3)]));
    }
    apply(&mut backend);
    kernel.forget_scripts();

    // Nothing changed: nothing is written.
    let again = service(Family::V4, "s7", &["10.96.1.7:80/tcp -> 10.244.0.7:80 10.244.1.7:80", "ours 10.96.1.7"]);
    backend.set(again);
    assert!(!apply(&mut backend).changed() && kernel.scripts().is_empty());

    // One endpoint less: the set is written, the endpoint goes.
    backend.set(service(Family::V4, "s7", &["10.96.1.7:80/tcp -> 10.244.1.7:80", "ours 10.96.1.7"]));
    let applied = apply(&mut backend);
    assert_eq!((applied.slots_written, applied.backends_written), (1, 0));
    let scripts = kernel.scripts();
    assert_eq!(scripts.len(), 1);
    let lines: Vec<&str> = scripts[0].lines().collect();
    assert_eq!(lines.len(), 6, "{lines:?}");
    assert!(
        lines[1].starts_with(":TW-SEP-") && lines[2].starts_with(":TW-SVC-") && lines[3].starts_with("-A TW-SVC-"),
        "{lines:?}"
    );
    assert!(lines[4].starts_with("-X TW-SEP-"), "{lines:?}");

    // A service goes: its own chains, and the one chain that named it.
    kernel.forget_scripts();
    backend.remove(&name("s8"));
    assert_eq!(apply(&mut backend).removed, 2);
    let chains: Vec<String> =
        kernel.scripts()[0].lines().filter_map(|line| line.strip_prefix(':')).map(|line| line[..6].to_owned()).collect();
    assert_eq!(chains, ["TW-I-0", "TW-SEP", "TW-SEP", "TW-SVC"]);
}

#[test]
fn affinity_needs_the_kernel_to_remember() {
    let kernel = Kernel::default();
    kernel.refuse("-m recent");
    let mut backend = backend(&kernel);
    let sticky = service(Family::V4, "shop/sticky", &["10.96.0.9:80/tcp affinity -> 10.244.0.5:80 10.244.1.6:80"]);
    backend.set(sticky.clone());
    backend.set(service(Family::V4, "shop/web", &WEB));
    let applied = sync(&mut backend);
    let [failure] = &applied.failed[..] else { panic!("{:?}", applied.failed) };
    assert!(failure.service == name("shop/sticky") && failure.error.to_string().contains("xt_recent"), "{failure}");
    check(&kernel, Family::V4, &[("10.244.0.9 > 10.96.0.9:80/tcp", "passed"), ("10.244.0.9 > 10.96.0.7:81/tcp", "refused")]);
    assert!(backend.next_deadline().is_some(), "it is tried again");

    kernel.refuse("");
    backend.repair().expect("asks the kernel again");
    apply(&mut backend);
    check(&kernel, Family::V4, &[("10.244.0.9 > 10.96.0.9:80/tcp", "10.244.0.5:80 10.244.1.6:80")]);
    let rules = kernel.rules(Family::V4, "nat");
    assert!(rules.iter().any(|rule| rule.contains("--rcheck --seconds 30 --reap -j TW-SEP-")), "{rules:?}");
    assert_eq!(rules.iter().filter(|rule| rule.contains("--set -j DNAT")).count(), 2);
    assert!(!rules.iter().any(|rule| rule.contains("TW-PROBE")));
}

#[test]
fn one_bad_service_does_not_hold_up_the_others() {
    let kernel = Kernel::default();
    let mut backend = backend(&kernel);
    backend.set(service(Family::V4, "bad", &["10.96.0.66:80/tcp -> 10.244.6.6:80"]));
    apply(&mut backend);
    kernel.refuse("10.244.6.7");
    for index in 1..=20_u8 {
        backend.set(service(Family::V4, &format!("s{index}"), &[&format!("10.96.0.{index}:80/tcp -> 10.244.0.{index}:80")]));
    }
    backend.set(service(Family::V4, "bad", &["10.96.0.66:80/tcp -> 10.244.6.7:80"]));
    let applied = sync(&mut backend);
    let [failure] = &applied.failed[..] else { panic!("{:?}", applied.failed) };
    assert_eq!(failure.service, name("bad"));
    assert!(failure.error.to_string().contains("-s 10.244.6.7/32 -j MARK"), "the rule is named: {failure}");
    check(
        &kernel,
        Family::V4,
        &[
            ("10.244.0.9 > 10.96.0.20:80/tcp", "10.244.0.20:80"),
            ("10.244.0.9 > 10.96.0.1:80/tcp", "10.244.0.1:80"),
            ("10.244.0.9 > 10.96.0.66:80/tcp", "10.244.6.6:80"),
        ],
    );
    kernel.refuse("");
    apply(&mut backend);
    check(&kernel, Family::V4, &[("10.244.0.9 > 10.96.0.66:80/tcp", "10.244.6.7:80")]);
}

#[test]
fn what_failed_waits_while_others_change() {
    let kernel = Kernel::default();
    let mut backend = backend(&kernel);
    kernel.refuse("10.244.6.7");
    backend.set(service(Family::V4, "bad", &["10.96.0.66:80/tcp -> 10.244.6.7:80"]));
    let now = Instant::now();
    assert_eq!(backend.sync(now).expect("applies").failed.len(), 1);
    kernel.forget_scripts();
    backend.set(service(Family::V4, "good", &["10.96.0.1:80/tcp -> 10.244.0.1:80"]));
    let applied = backend.sync(now).expect("applies");
    assert!(applied.failed.is_empty() && applied.recovered.is_empty() && kernel.scripts().len() == 1, "{applied:?}");
    let later = backend.next_deadline().expect("it is tried again");
    assert!(later > now && backend.sync(later).expect("applies").failed.len() == 1, "still");
    kernel.refuse("");
    let at = backend.next_deadline().expect("and again");
    assert_eq!(backend.sync(at).expect("applies").recovered, [name("bad")]);
    assert!(backend.next_deadline().is_none());
}

#[test]
fn two_services_want_one_address() {
    let kernel = Kernel::default();
    let mut backend = backend(&kernel);
    backend.set(service(Family::V4, "a", &["192.0.2.1:80/tcp -> 10.244.0.1:80", "ours 192.0.2.1"]));
    apply(&mut backend);
    backend.set(service(
        Family::V4,
        "b",
        &["192.0.2.1:80/tcp -> 10.244.0.2:80", "192.0.2.1:81/tcp -> 10.244.0.2:80", "ours 192.0.2.1"],
    ));
    apply(&mut backend);
    let held = [("10.244.0.9 > 192.0.2.1:80/tcp", "10.244.0.1:80"), ("10.244.0.9 > 192.0.2.1:81/tcp", "10.244.0.2:80")];
    check(&kernel, Family::V4, &held);
    backend.remove(&name("a"));
    apply(&mut backend);
    check(
        &kernel,
        Family::V4,
        &[("10.244.0.9 > 192.0.2.1:80/tcp", "10.244.0.2:80"), ("10.244.0.9 > 192.0.2.1:82/tcp", "refused")],
    );
}

#[test]
fn a_family_that_this_machine_cannot_do_is_left_out() {
    let kernel = Kernel::default();
    kernel.lack(Some(Family::V6));
    let mut backend = backend(&kernel);
    backend.set(service(Family::V4, "shop/old", &["10.96.0.7:80/tcp -> 10.244.0.5:80"]));
    backend.set(service(Family::V6, "shop/new", &["10.96.0.8:80/tcp -> 10.244.0.5:80"]));
    let both = ["10.96.0.9:80/tcp -> 10.244.0.5:80", "[fd00::9]:80/tcp -> [fd00::5]:80"];
    backend.set(words::service("shop/both", &both));
    let applied = sync(&mut backend);
    let failed: Vec<String> = applied.failed.iter().map(|failure| failure.service.to_string()).collect();
    assert_eq!(failed, ["shop/both", "shop/new"]);
    let said = applied.failed[0].error.to_string();
    assert!(said.contains("IPv6 is left out") && said.contains("ip6tables-restore is not installed"), "{said}");
    assert!(backend.next_deadline().is_some());
    check(
        &kernel,
        Family::V4,
        &[("node > 10.96.0.7:80/tcp", "10.244.0.5:80/masquerade"), ("node > 10.96.0.9:80/tcp", "10.244.0.5:80/masquerade")],
    );

    // Somebody installs it.
    kernel.lack(None);
    assert_eq!(sync(&mut backend).failed.len(), 2, "not asked again with every apply");
    backend.repair().expect("asks again");
    apply(&mut backend);
    check(&kernel, Family::V6, &[("node > 10.96.0.8:80/tcp", "10.244.0.5:80/masquerade")]);
    assert_eq!(meets(&kernel, "node > [fd00::9]:80/tcp"), "[fd00::5]:80/masquerade");
}

#[test]
fn failures_are_counted() {
    let kernel = Kernel::default();
    let mut backend = backend(&kernel);
    let counts = |backend: &IptablesBackend| {
        let figures = backend.figures();
        (figures.restore_failures, figures.partial_restore_failures)
    };
    kernel.refuse("10.244.6.7");
    let bad = |port: u16| service(Family::V4, "shop/bad", &[&format!("10.96.0.7:{port}/tcp -> 10.244.6.7:80")]);
    backend.set(bad(80));
    assert_eq!(sync(&mut backend).failed.len(), 1);
    assert_eq!(counts(&backend), (1, 0));
    // The first sync is over, though one service failed: what somebody breaks is repaired.
    kernel.clone().restore(Family::V4, "*nat\n:TW-OUTPUT - [0:0]\nCOMMIT\n").expect("breaks");
    assert_eq!(backend.repair().expect("repairs").chains, 1);
    backend.set(bad(81));
    assert_eq!(sync(&mut backend).failed.len(), 1);
    assert_eq!(counts(&backend), (2, 1));
    kernel.refuse("");
    apply(&mut backend);
    let nat = backend.figures().tables[1];
    assert_eq!((nat.family, nat.table, nat.last_written), (Family::V4, "nat", 4), "{nat:?}");
}

#[test]
fn what_fits_no_flow_is_dropped_unless_somebody_is_lenient() {
    for family in FAMILIES {
        let kernel = Kernel::default();
        let mut backend = backend(&kernel);
        let drops = || {
            kernel
                .rules(family, "filter")
                .iter()
                .filter(|rule| rule.contains("TW-INVALID") && rule.ends_with("-j DROP"))
                .count()
        };
        backend.set_lenient(true);
        backend.set(service(family, "shop/web", &WEB));
        apply(&mut backend);
        assert_eq!(drops(), 0);
        backend.set_lenient(false);
        apply(&mut backend);
        assert_eq!(drops(), 2, "TCP and SCTP");
        kernel.forget_scripts();
        backend.set_lenient(false);
        apply(&mut backend);
        assert!(kernel.scripts().is_empty(), "nothing is written twice");
        backend.set_lenient(true);
        apply(&mut backend);
        assert_eq!(drops(), 0);
    }
}
