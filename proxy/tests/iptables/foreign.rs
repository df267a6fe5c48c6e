//! Together with others: what kube-proxy left, Docker's policy, rules before ours.

use super::*;

/// As an earlier kube-proxy leaves them: its own idea of our services, and of services without endpoints.
const KUBE_PROXY: &str = "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-SVC-X - [0:0]\n:KUBE-POSTROUTING - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n\
    -A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
    -A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
    -A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING\n\
    -A KUBE-SERVICES -d 10.96.0.7/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-X\n\
    -A KUBE-SVC-X -p tcp -m tcp -j DNAT --to-destination 10.244.0.66:9\n\
    -A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000\n\
    -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
    -A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0\n\
    -A KUBE-POSTROUTING -j MASQUERADE --random-fully\nCOMMIT\n\
    *filter\n:KUBE-SERVICES - [0:0]\n:KUBE-FORWARD - [0:0]\n\
    -A FORWARD -m conntrack --ctstate NEW -j KUBE-SERVICES\n-A OUTPUT -m conntrack --ctstate NEW -j KUBE-SERVICES\n\
    -A FORWARD -j KUBE-FORWARD\n-A KUBE-SERVICES -d 10.96.0.7/32 -p tcp -m tcp --dport 80 -j REJECT\n\
    -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP\nCOMMIT\n";

/// Docker's own chains, and its policy.
const DOCKER: &str =
    "*filter\n:FORWARD DROP [0:0]\n:DOCKER-USER - [0:0]\n-A FORWARD -j DOCKER-USER\n-A DOCKER-USER -j RETURN\nCOMMIT\n";

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn what_kube_proxy_left_does_not_matter() {
    for_all("q", |wire, backend, variant, family| {
        put(wire, variant, family, &of(family, KUBE_PROXY));
        let before = rules(wire, variant);
        backend.set(service(family, "shop/web", &["10.96.0.7:80/tcp -> 10.244.0.5:8080", "ours 10.96.0.7"]));
        apply(wire, backend);
        for (from, seen) in [(&wire.b, "10.244.0.6"), (&wire.node, "172.30.0.11"), (&wire.client, "172.30.0.11")] {
            let said = wire.dial(from, &of(family, "10.96.0.7:80"));
            assert_eq!(said, of(family, &format!("a saw {seen}")), "{variant:?} {family:?}: {}", from.name());
            assert_eq!(wire.dial(from, &of(family, "10.96.0.7:81")), "refused", "{variant:?} {family:?}: {}", from.name());
        }
        for line in before.lines().filter(|line| line.contains("KUBE-")) {
            assert!(rules(wire, variant).contains(line), "{variant:?} {family:?}: {line}");
        }
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_policy_to_drop_does_not_stop_services() {
    for_all("o", |wire, backend, variant, family| {
        backend.set(service(
            family,
            "shop/web",
            &[
                "172.30.0.11:30080/tcp ext -> 10.244.0.5:8080",
                "172.30.0.11:30081/tcp ext ->",
                "172.30.0.11:30082/tcp ext drop ->",
            ],
        ));
        apply(wire, backend);
        // Docker starts later, and flushes nothing.
        put(wire, variant, family, DOCKER);
        assert_eq!(
            wire.dial(&wire.client, &of(family, "10.244.0.5:8080")),
            "timed out",
            "{variant:?} {family:?}: the policy holds"
        );
        let served = wire.dial(&wire.client, &of(family, "172.30.0.11:30080"));
        assert_eq!(served, of(family, "a saw 172.30.0.11"), "{variant:?} {family:?}");
        assert_eq!(wire.dial(&wire.client, &of(family, "172.30.0.11:30081")), "refused", "{variant:?} {family:?}");
        assert_eq!(wire.dial(&wire.client, &of(family, "172.30.0.11:30082")), "timed out", "{variant:?} {family:?}");
    });
}
