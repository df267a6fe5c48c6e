//! Names, and why they get what they get.

use super::*;
use crate::query::rtype;
use crate::testkit::{config, sample, sample_with};
use crate::zone::{PodMode, ZoneConfig};

/// The steps in words, as seen by a pod of namespace `default`.
fn check(zone: &Zone, name: &str, rtype: u16, expected: &[&str]) {
    let search = Search::of_pod("default", "cluster.local");
    let explanation = explain(zone, name, rtype, &search).expect("a name");
    let steps: Vec<_> = explanation.steps.iter().map(|step| step.to_string().replace("cluster.local", "~")).collect();
    assert_eq!(steps, expected, "{name}");
}

#[test]
fn search_steps() {
    let zone = sample(true).publish();
    check(
        &zone,
        "web",
        rtype::A,
        &["web.default.svc.~. (search default.svc.~): answered, services: service default/web (cluster IP)"],
    );
    check(
        &zone,
        "db.data",
        rtype::A,
        &[
            "db.data.default.svc.~. (search default.svc.~): does not exist, in no table",
            "db.data.svc.~. (search svc.~): answered, services: service data/db (headless)",
        ],
    );
    check(
        &zone,
        "www.example.com",
        rtype::A,
        &[
            "www.example.com.default.svc.~. (search default.svc.~): does not exist, in no table",
            "www.example.com.svc.~. (search svc.~): does not exist, in no table",
            "www.example.com.~. (search ~): does not exist, in no table",
            "www.example.com.: forwarded, no zone of ours",
        ],
    );
    check(&zone, "www.example.com.", rtype::A, &["www.example.com.: forwarded, no zone of ours"]);
    check(&zone, "a.b.c.d.example.com", rtype::A, &["a.b.c.d.example.com.: forwarded, no zone of ours"]);
    check(
        &zone,
        "web",
        rtype::AAAA,
        &[
            "web.default.svc.~. (search default.svc.~): exists without such records, services: service default/web (cluster IP)",
            "web.svc.~. (search svc.~): does not exist, in no table",
            "web.~. (search ~): does not exist, in no table",
            "web.: forwarded, no zone of ours",
        ],
    );
}

#[test]
fn sources() {
    let zone = sample(false).publish();
    let one = |name: &str, rtype, expected: &str| {
        check(&zone, &format!("{name}."), rtype, &[&format!("{name}.: {expected}").replace("cluster.local", "~")])
    };
    one("db-0.db.data.svc.cluster.local", rtype::A, "answered, endpoints: endpoint db-0 (10.244.0.5) of service data/db");
    one(
        "10-244-0-2.web.default.svc.cluster.local",
        rtype::A,
        "answered, endpoints: endpoint 10.244.0.2 of service default/web",
    );
    one("_http._tcp.web.default.svc.cluster.local", rtype::SRV, "answered, services: port http (80) of service default/web");
    one("1-2-3-4.default.pod.cluster.local", rtype::A, "answered, pods: 1.2.3.4, as the name spells it");
    one("20.0.96.10.in-addr.arpa", rtype::PTR, "answered, reverse names: service default/web (cluster IP)");
    one("5.0.244.10.in-addr.arpa", rtype::PTR, "answered, reverse names: endpoint db-0 (10.244.0.5) of service data/db");
    one("dns-version.cluster.local", rtype::TXT, "answered, the zone itself");
    one("svc.cluster.local", rtype::A, "exists without such records, the zone itself");
    one("www.example.com", rtype::A, "refused, no zone of ours");
    one("docs.ext.svc.cluster.local", rtype::A, "answered, services: service ext/docs (ExternalName)");
    one("round.ext.svc.cluster.local", rtype::A, "answered, services: service ext/round (ExternalName)");
    let chain = "service ext/chain (ExternalName), service ext/inside (ExternalName), service default/web (cluster IP)";
    one("chain.ext.svc.cluster.local", rtype::A, &format!("answered, services: {chain}"));
    let zone = sample_with(&ZoneConfig { pods: PodMode::Verified, ..config() }).publish();
    check(
        &zone,
        "10-244-0-77.default.pod.~.".replace('~', "cluster.local").as_str(),
        rtype::A,
        &["10-244-0-77.default.pod.~.: answered, pods: pod default/client"],
    );
}

#[test]
fn what_cannot_be_asked() {
    let zone = sample(false).publish();
    assert_eq!(explain(&zone, "a..b", rtype::A, &Search::default()), None);
    // Only completed it is too long: what remains is asked as it is.
    let long = "abcdefg.".repeat(31);
    let steps =
        explain(&zone, long.trim_end_matches('.'), rtype::A, &Search { ndots: 99, ..Search::of_pod("x", "cluster.local") });
    assert_eq!(steps.expect("a name").steps.len(), 1);
    let missing = explain(&zone, "nothing.", rtype::A, &Search::default()).expect("a name");
    assert_eq!(missing.answered().map(|step| step.outcome), Some(Outcome::Refused));
    let denied = explain(&zone, "nothing.svc.cluster.local.", rtype::A, &Search::default()).expect("a name");
    assert_eq!((denied.answered(), denied.steps[0].reply.is_empty()), (None, false));
}
