//! What the zone answers, case by case; replies are read by hickory-proto.

use hickory_proto::op::Message;
use hickory_proto::rr::RData;

use super::*;
use crate::testkit::{Cluster, TTL, external, packet, sample, service, words};

/// Asks over UDP with EDNS and compares the reply in words.
fn check(zone: &Zone, question: &str, expected: &str) {
    let (name, rtype) = question.split_once(' ').expect("name and type");
    let mut out = Vec::new();
    let packet = packet(name, rtype, Some(1232));
    let outcome = respond(&packet, Transport::Udp, 0, zone, &mut out);
    let got = if out.is_empty() { format!("{outcome:?}") } else { words(&out) };
    assert_eq!(got, expected, "{question}");
}

fn sample_zone() -> Zone {
    sample(false).publish()
}

#[test]
fn cluster_ip_services() {
    let zone = sample_zone();
    for (question, expected) in [
        ("web.default.svc.~ A", "NoError aa an[@ 5 A 10.96.0.20]"),
        ("web.default.svc.~ AAAA", "NoError aa ns[~ SOA]"),
        ("web.default.svc.~ TXT", "NoError aa ns[~ SOA]"),
        ("web.default.svc.~ MX", "NoError aa ns[~ SOA]"),
        ("web.default.svc.~ CNAME", "NoError aa ns[~ SOA]"),
        ("web.default.svc.~ SOA", "NoError aa ns[~ SOA]"),
        ("web.default.svc.~ NS", "NoError aa ns[~ SOA]"),
        ("web.default.svc.~ PTR", "NoError aa ns[~ SOA]"),
        ("web.default.svc.~ HTTPS", "NoError aa ns[~ SOA]"),
        ("web.default.svc.~ ANY", "NoError aa an[@ 5 A 10.96.0.20]"),
        ("kubernetes.default.svc.~ A", "NoError aa an[@ 5 A 10.96.0.1]"),
        ("unnamed.default.svc.~ A", "NoError aa an[@ 5 A 10.96.0.21]"),
        ("dual.default.svc.~ A", "NoError aa an[@ 5 A 10.96.0.30]"),
        ("dual.default.svc.~ AAAA", "NoError aa an[@ 5 AAAA fd00::30]"),
        ("six.default.svc.~ AAAA", "NoError aa an[@ 5 AAAA fd00::31]"),
        ("six.default.svc.~ A", "NoError aa ns[~ SOA]"),
    ] {
        check(&zone, question, expected);
    }
}

#[test]
fn names_that_do_not_exist() {
    let zone = sample_zone();
    for name in [
        "nothing.default.svc.~",
        "web.nowhere.svc.~",
        "nowhere.svc.~",
        "web.default.~",
        "web.~",
        "default.~",
        "x.web.default.svc.~",
        "10-244-1-3.web.default.svc.~",
        "10-244-1-4.web.default.svc.~",
        "*.default.svc.~",
        "_http._udp.web.default.svc.~",
        "_other._tcp.web.default.svc.~",
        "_udp.web.default.svc.~",
        "_._tcp.unnamed.default.svc.~",
        "_http.web.default.svc.~",
        "none.data.svc.~",
        "10-244-0-7.none.data.svc.~",
        "db-2.db.data.svc.~",
        "10-244-0-5.db.data.svc.~",
        "x.dns-version.~",
        "x.ns.dns.~",
        "web.default.svc.~.default.svc.~",
        "web.default.svc.~.svc.~",
        "web.default.svc.~.~",
        "www.example.com.default.svc.~",
    ] {
        for rtype in ["A", "AAAA", "SRV", "TXT"] {
            check(&zone, &format!("{name} {rtype}"), "NXDomain aa ns[~ SOA]");
        }
    }
}

#[test]
fn names_between() {
    let zone = sample_zone();
    for name in ["~", "svc.~", "pod.~", "dns.~", "default.svc.~", "data.svc.~", "default.pod.~", "_tcp.web.default.svc.~"] {
        for rtype in ["A", "AAAA", "TXT"] {
            check(&zone, &format!("{name} {rtype}"), "NoError aa ns[~ SOA]".replace("~ SOA", apex_owner(name)).as_str());
        }
    }
}

/// At the apex itself the SOA's owner is the question's name.
fn apex_owner(name: &str) -> &'static str {
    if name == "~" { "@ SOA" } else { "~ SOA" }
}

#[test]
fn ports() {
    let zone = sample_zone();
    let glue = "ar[web.default.svc.~ 5 A 10.96.0.20]";
    let web = format!("NoError aa an[@ 5 SRV 0 100 80 web.default.svc.~] {glue}");
    check(&zone, "_http._tcp.web.default.svc.~ SRV", &web);
    check(&zone, "_http._tcp.web.default.svc.~ A", "NoError aa ns[~ SOA]");
    check(&zone, "web.default.svc.~ SRV", "NoError aa an[@ 5 SRV 0 100 80 web.default.svc.~] ar[@ 5 A 10.96.0.20]");
    check(&zone, "unnamed.default.svc.~ SRV", "NoError aa an[@ 5 SRV 0 100 8080 unnamed.default.svc.~] ar[@ 5 A 10.96.0.21]");
    check(
        &zone,
        "_dns._udp.kube-dns.kube-system.svc.~ SRV",
        "NoError aa an[@ 5 SRV 0 100 53 kube-dns.kube-system.svc.~] ar[kube-dns.kube-system.svc.~ 5 A 10.96.0.10]",
    );
    check(
        &zone,
        "_http._tcp.dual.default.svc.~ SRV",
        "NoError aa an[@ 5 SRV 0 100 80 dual.default.svc.~] ar[dual.default.svc.~ 5 A 10.96.0.30; \
         dual.default.svc.~ 5 AAAA fd00::30]",
    );
    check(
        &zone,
        "_mysql._tcp.db.data.svc.~ SRV",
        "NoError aa an[@ 5 SRV 0 50 3306 db-0.db.data.svc.~; @ 5 SRV 0 50 3306 db-1.db.data.svc.~] \
         ar[db-0.db.data.svc.~ 5 A 10.244.0.5; db-1.db.data.svc.~ 5 A 10.244.1.5]",
    );
    check(
        &zone,
        "db.data.svc.~ SRV",
        "NoError aa an[@ 5 SRV 0 25 3306 db-0.db.data.svc.~; @ 5 SRV 0 25 3306 db-1.db.data.svc.~; \
         @ 5 SRV 0 25 9 db-0.db.data.svc.~; @ 5 SRV 0 25 9 db-1.db.data.svc.~] \
         ar[db-0.db.data.svc.~ 5 A 10.244.0.5; db-1.db.data.svc.~ 5 A 10.244.1.5]",
    );
    check(
        &zone,
        "_http._tcp.peers.data.svc.~ SRV",
        "NoError aa an[@ 5 SRV 0 50 80 10-244-0-6.peers.data.svc.~; @ 5 SRV 0 50 80 fd00--6.peers.data.svc.~] \
         ar[10-244-0-6.peers.data.svc.~ 5 A 10.244.0.6; fd00--6.peers.data.svc.~ 5 AAAA fd00::6]",
    );
    check(&zone, "portless.data.svc.~ SRV", "NoError aa ns[~ SOA]");
}

#[test]
fn headless_services() {
    let zone = sample_zone();
    for (question, expected) in [
        ("db.data.svc.~ A", "NoError aa an[@ 5 A 10.244.0.5; @ 5 A 10.244.1.5]"),
        ("db.data.svc.~ AAAA", "NoError aa ns[~ SOA]"),
        ("db-0.db.data.svc.~ A", "NoError aa an[@ 5 A 10.244.0.5]"),
        ("db-1.db.data.svc.~ A", "NoError aa an[@ 5 A 10.244.1.5]"),
        ("db-1.db.data.svc.~ AAAA", "NoError aa ns[~ SOA]"),
        ("db-1.db.data.svc.~ SRV", "NoError aa ns[~ SOA]"),
        ("peers.data.svc.~ A", "NoError aa an[@ 5 A 10.244.0.6]"),
        ("peers.data.svc.~ AAAA", "NoError aa an[@ 5 AAAA fd00::6]"),
        ("10-244-0-6.peers.data.svc.~ A", "NoError aa an[@ 5 A 10.244.0.6]"),
        ("10-244-0-6.peers.data.svc.~ AAAA", "NoError aa ns[~ SOA]"),
        ("fd00--6.peers.data.svc.~ AAAA", "NoError aa an[@ 5 AAAA fd00::6]"),
        ("early.data.svc.~ A", "NoError aa an[@ 5 A 10.244.0.8]"),
        ("e-0.early.data.svc.~ A", "NoError aa an[@ 5 A 10.244.0.8]"),
        ("portless.data.svc.~ A", "NoError aa an[@ 5 A 10.244.0.9]"),
        // Endpoints have names below services with a cluster IP, too.
        ("10-244-0-2.web.default.svc.~ A", "NoError aa an[@ 5 A 10.244.0.2]"),
        ("canary.web.default.svc.~ A", "NoError aa an[@ 5 A 10.244.1.4]"),
    ] {
        check(&zone, question, expected);
    }
}

#[test]
fn reverse_names() {
    let zone = sample_zone();
    let negative = "NXDomain aa ns[in-addr.arpa. SOA]";
    for (question, expected) in [
        ("20.0.96.10.in-addr.arpa PTR", "NoError aa an[@ 5 PTR web.default.svc.~]"),
        ("1.0.96.10.in-addr.arpa PTR", "NoError aa an[@ 5 PTR kubernetes.default.svc.~]"),
        ("1.0.96.10.IN-ADDR.arpa PTR", "NoError aa an[@ 5 PTR kubernetes.default.svc.~]"),
        ("5.0.244.10.in-addr.arpa PTR", "NoError aa an[@ 5 PTR db-0.db.data.svc.~]"),
        ("6.0.244.10.in-addr.arpa PTR", "NoError aa an[@ 5 PTR 10-244-0-6.peers.data.svc.~]"),
        ("4.1.244.10.in-addr.arpa PTR", "NoError aa an[@ 5 PTR canary.web.default.svc.~]"),
        ("20.0.96.10.in-addr.arpa A", "NoError aa ns[in-addr.arpa. SOA]"),
        // Not ready, without a hostname below a cluster IP, unknown, not an address.
        ("7.0.244.10.in-addr.arpa PTR", negative),
        ("2.0.244.10.in-addr.arpa PTR", negative),
        ("9.9.9.9.in-addr.arpa PTR", negative),
        ("x.9.9.9.9.in-addr.arpa PTR", negative),
        ("300.9.9.9.in-addr.arpa PTR", negative),
        ("96.10.in-addr.arpa PTR", "NoError aa ns[in-addr.arpa. SOA]"),
        ("in-addr.arpa PTR", "NoError aa ns[@ SOA]"),
        (
            "0.3.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa PTR",
            "NoError aa an[@ 5 PTR dual.default.svc.~]",
        ),
        (
            "6.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa PTR",
            "NoError aa an[@ 5 PTR fd00--6.peers.data.svc.~]",
        ),
        ("7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa PTR", "NXDomain aa ns[ip6.arpa. SOA]"),
        ("arpa PTR", "Refused"),
        ("xin-addr.arpa PTR", "Refused"),
    ] {
        check(&zone, question, expected);
    }
}

#[test]
fn an_address_with_several_names() {
    let mut cluster = Cluster::new(false);
    cluster.builder.set_synced();
    for name in ["a/one", "b/two"] {
        cluster.service(service(name, &[], &[])).slice(name, &["h=10.0.0.1"], &[]);
    }
    let both = "NoError aa an[@ 5 PTR h.one.a.svc.~; @ 5 PTR h.two.b.svc.~]";
    check(&cluster.publish(), "1.0.0.10.in-addr.arpa PTR", both);
    cluster.service(service("c/three", &["10.0.0.1"], &[]));
    check(&cluster.publish(), "1.0.0.10.in-addr.arpa PTR", "NoError aa an[@ 5 PTR three.c.svc.~]");
}

#[test]
fn external_names() {
    let zone = sample_zone();
    let web = "web.default.svc.~ 5 A 10.96.0.20";
    for (question, expected) in [
        ("docs.ext.svc.~ A", "NoError aa an[@ 5 CNAME docs.example.com.]".to_owned()),
        ("docs.ext.svc.~ AAAA", "NoError aa an[@ 5 CNAME docs.example.com.]".to_owned()),
        ("docs.ext.svc.~ CNAME", "NoError aa an[@ 5 CNAME docs.example.com.]".to_owned()),
        ("docs.ext.svc.~ ANY", "NoError aa an[@ 5 CNAME docs.example.com.]".to_owned()),
        ("inside.ext.svc.~ A", format!("NoError aa an[@ 5 CNAME web.default.svc.~; {web}]")),
        ("inside.ext.svc.~ CNAME", "NoError aa an[@ 5 CNAME web.default.svc.~]".to_owned()),
        ("inside.ext.svc.~ AAAA", "NoError aa an[@ 5 CNAME web.default.svc.~] ns[~ SOA]".to_owned()),
        (
            "chain.ext.svc.~ A",
            format!("NoError aa an[@ 5 CNAME inside.ext.svc.~; inside.ext.svc.~ 5 CNAME web.default.svc.~; {web}]"),
        ),
        ("dangling.ext.svc.~ A", "NXDomain aa an[@ 5 CNAME nothing.default.svc.~] ns[~ SOA]".to_owned()),
        ("pod.ext.svc.~ A", "NoError aa an[10-0-0-9.default.pod.~ 5 A 10.0.0.9; @ 5 CNAME 10-0-0-9.default.pod.~]".into()),
        ("number.ext.svc.~ A", "NoError aa ns[~ SOA]".to_owned()),
        ("bad.ext.svc.~ A", "NoError aa ns[~ SOA]".to_owned()),
        (
            "set.ext.svc.~ A",
            "NoError aa an[@ 5 CNAME db.data.svc.~; db.data.svc.~ 5 A 10.244.0.5; db.data.svc.~ 5 A 10.244.1.5]".into(),
        ),
    ] {
        check(&zone, question, &expected);
    }
    let mut out = Vec::new();
    let round = packet("round.ext.svc.~", "A", None);
    assert_eq!(respond(&round, Transport::Udp, 0, &zone, &mut out), Outcome::Answer);
    assert_eq!(Message::from_vec(&out).expect("a reply").answers.len(), MAX_ALIASES, "an alias of itself ends");
}

#[test]
fn pods() {
    let zone = sample_zone();
    for (question, expected) in [
        ("10-244-0-2.default.pod.~ A", "NoError aa an[@ 5 A 10.244.0.2]"),
        ("192-0-2-200.data.pod.~ A", "NoError aa an[@ 5 A 192.0.2.200]"),
        ("10-244-0-2.default.pod.~ AAAA", "NoError aa ns[~ SOA]"),
        ("10-244-0-2.default.pod.~ ANY", "NoError aa an[@ 5 A 10.244.0.2]"),
        ("fd00--9.default.pod.~ AAAA", "NoError aa an[@ 5 AAAA fd00::9]"),
        ("--1.default.pod.~ AAAA", "NoError aa an[@ 5 AAAA ::1]"),
        ("FD00--9.default.pod.~ A", "NoError aa ns[~ SOA]"),
        ("1-2-3-4-5-6-7-8.default.pod.~ AAAA", "NoError aa an[@ 5 AAAA 1:2:3:4:5:6:7:8]"),
        ("10-244-0.default.pod.~ A", "NXDomain aa ns[~ SOA]"),
        ("10-244-0-256.default.pod.~ A", "NXDomain aa ns[~ SOA]"),
        ("10-244-0-2-1.default.pod.~ A", "NXDomain aa ns[~ SOA]"),
        ("10-244-0-2.nowhere.pod.~ A", "NXDomain aa ns[~ SOA]"),
        ("x.10-244-0-2.default.pod.~ A", "NXDomain aa ns[~ SOA]"),
        ("10-244-0-2.pod.~ A", "NXDomain aa ns[~ SOA]"),
        ("10-244-0-2.default.svc.~ A", "NXDomain aa ns[~ SOA]"),
        ("web.default.pod.~ A", "NXDomain aa ns[~ SOA]"),
    ] {
        check(&zone, question, expected);
    }
}

#[test]
fn the_zone_itself() {
    let zone = sample_zone();
    let ns = "an[@ 5 NS ns.dns.~] ar[ns.dns.~ 5 A 10.96.0.10]";
    for (question, expected) in [
        ("dns-version.~ TXT", "NoError aa an[@ 5 TXT 1.1.0]"),
        ("dns-version.~ A", "NoError aa ns[~ SOA]"),
        ("~ SOA", "NoError aa an[@ SOA]"),
        ("CLUSTER.local SOA", "NoError aa an[@ SOA]"),
        ("~ NS", &format!("NoError aa {ns}")),
        ("ns.dns.~ A", "NoError aa an[@ 5 A 10.96.0.10]"),
        ("ns.dns.~ AAAA", "NoError aa ns[~ SOA]"),
    ] {
        check(&zone, question, expected);
    }
    // Without a kube-dns service the name server is where this one listens.
    let mut bare = Cluster::new(false);
    bare.builder.set_synced();
    check(&bare.publish(), "ns.dns.~ A", "NoError aa an[@ 5 A 172.30.0.11]");
}

#[test]
fn what_the_soa_says() {
    let zone = sample_zone();
    let mut out = Vec::new();
    for (name, owner) in [("nothing.default.svc.~", "cluster.local."), ("9.9.9.9.in-addr.arpa", "in-addr.arpa.")] {
        respond(&packet(name, "A", None), Transport::Udp, 0, &zone, &mut out);
        let message = Message::from_vec(&out).expect("a reply");
        let record = &message.authorities[0];
        let RData::SOA(soa) = &record.data else { panic!("{record}") };
        assert_eq!((record.name.to_string().as_str(), record.ttl), (owner, TTL));
        assert_eq!(soa.to_string(), "ns.dns.cluster.local. hostmaster.cluster.local. 42 7200 1800 86400 5");
    }
}

#[test]
fn casing_is_the_clients() {
    let zone = sample_zone();
    let mut out = Vec::new();
    respond(&packet("wEB.Default.SVC.CLUSTER.loCAL", "A", None), Transport::Udp, 0, &zone, &mut out);
    let message = Message::from_vec(&out).expect("a reply");
    assert_eq!(message.queries[0].name().to_string(), "wEB.Default.SVC.CLUSTER.loCAL.");
    assert_eq!(message.answers[0].name.to_string(), "wEB.Default.SVC.CLUSTER.loCAL.");
    respond(&packet("No.Default.SVC.CLUSTER.loCAL", "A", None), Transport::Udp, 0, &zone, &mut out);
    assert_eq!(Message::from_vec(&out).expect("a reply").authorities[0].name.to_string(), "CLUSTER.loCAL.");
}

#[test]
fn names_of_others() {
    let (zone, forwarding) = (sample_zone(), sample(true).publish());
    for question in ["www.example.com A", "xcluster.local A", "local A", ". NS", "cluster.local.example.com A"] {
        check(&zone, question, "Refused");
        check(&forwarding, question, "Forward");
    }
    check(&forwarding, "9.9.9.9.in-addr.arpa PTR", "Forward");
    check(&forwarding, "20.0.96.10.in-addr.arpa PTR", "NoError aa ra an[@ 5 PTR web.default.svc.~]");
    check(&forwarding, "nothing.default.svc.~ A", "NXDomain aa ra ns[~ SOA]");
    check(&forwarding, "docs.ext.svc.~ A", "NoError aa ra an[@ 5 CNAME docs.example.com.]");
    let asked = packet("docs.ext.svc.~", "A", None);
    let mut out = Vec::new();
    assert_eq!(respond(&asked, Transport::Udp, 0, &forwarding, &mut out), Outcome::ForwardTarget);
    let query = Query::parse(&asked, Transport::Udp).expect("a query");
    assert_eq!(last_target(&out, &query).as_deref(), Some(&b"\x04docs\x07example\x03com\0"[..]));
}

#[test]
fn before_the_first_sync_absence_means_nothing() {
    let zone = Cluster::new(false).publish();
    for question in ["web.default.svc.~ A", "~ SOA", "20.0.96.10.in-addr.arpa PTR", "dns-version.~ TXT"] {
        check(&zone, question, "ServFail");
    }
    check(&zone, "www.example.com A", "Refused");
    check(&Cluster::new(true).publish(), "20.0.96.10.in-addr.arpa PTR", "ServFail ra");
}

#[test]
fn what_is_not_served() {
    let zone = sample_zone();
    for rtype in ["AXFR", "IXFR", "TSIG"] {
        check(&zone, &format!("~ {rtype}"), "Refused");
    }
    let mut out = Vec::new();
    let mut chaos = packet("version.bind", "TXT", None);
    let class_at = chaos.len() - 1;
    chaos[class_at] = 3;
    assert_eq!(respond(&chaos, Transport::Udp, 0, &zone, &mut out), Outcome::Answer);
    assert_eq!(words(&out), "NoError aa an[@ 0 TXT thalweg]");
    for class in [0, 2, 4, 255] {
        chaos[class_at] = class;
        assert_eq!(respond(&chaos, Transport::Udp, 0, &zone, &mut out), Outcome::Refused);
    }
    let mut other = packet("web.default.svc.~", "TXT", None);
    *other.last_mut().expect("not empty") = 3;
    assert_eq!(respond(&other, Transport::Udp, 0, &zone, &mut out), Outcome::Refused);
}

#[test]
fn malformed_packets() {
    let zone = sample_zone();
    let mut out = vec![1];
    assert_eq!(respond(b"short", Transport::Udp, 0, &zone, &mut out), Outcome::Drop);
    assert!(out.is_empty());
    let good = packet("web.default.svc.~", "A", None);
    assert_eq!(respond(&good[..20], Transport::Udp, 0, &zone, &mut out), Outcome::FormErr);
    assert_eq!((words(&out).as_str(), &out[..2], out.len()), ("FormErr", &good[..2], 12));
    let mut notify = good.clone();
    notify[2] |= 4 << 3;
    assert_eq!(respond(&notify, Transport::Udp, 0, &zone, &mut out), Outcome::NotImp);
    assert_eq!(out[2], 0x80 | 4 << 3 | 1, "the opcode is the client's");
}

#[test]
fn edns_is_answered_with_edns() {
    let zone = sample_zone();
    let mut out = Vec::new();
    respond(&packet("web.default.svc.~", "A", None), Transport::Udp, 0, &zone, &mut out);
    assert_eq!(Message::from_vec(&out).expect("a reply").edns, None);
    let mut asked = packet("web.default.svc.~", "A", Some(4096));
    let opt = asked.len() - 11;
    asked[opt + 7] = 0x80;
    respond(&asked, Transport::Udp, 0, &zone, &mut out);
    let edns = Message::from_vec(&out).expect("a reply").edns.expect("EDNS");
    assert_eq!((edns.max_payload(), edns.version(), edns.flags().dnssec_ok), (1232, 0, true));
    asked[opt + 6] = 1;
    assert_eq!(respond(&asked, Transport::Udp, 0, &zone, &mut out), Outcome::BadVers);
    let message = Message::from_vec(&out).expect("a reply");
    assert_eq!((u16::from(message.metadata.response_code), message.answers.len()), (16, 0));
}

#[test]
fn flags_of_the_question_come_back() {
    let zone = sample_zone();
    let mut out = Vec::new();
    let mut asked = packet("web.default.svc.~", "A", None);
    (asked[2], asked[3]) = (0, 0x10);
    respond(&asked, Transport::Udp, 0, &zone, &mut out);
    assert_eq!((out[2], out[3]), (0x84, 0x10), "aa, no rd, cd");
    (asked[2], asked[3]) = (1, 0x20);
    respond(&asked, Transport::Udp, 0, &zone, &mut out);
    assert_eq!((out[2], out[3]), (0x85, 0), "aa, rd, ad is not ours to give");
}

#[test]
fn replies_rotate() {
    let zone = sample_zone();
    let asked = packet("db.data.svc.~", "A", None);
    let first = |rotation| {
        let mut out = Vec::new();
        respond(&asked, Transport::Udp, rotation, &zone, &mut out);
        let answers = Message::from_vec(&out).expect("a reply").answers;
        answers.iter().map(|record| record.data.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(first(0), ["10.244.0.5", "10.244.1.5"]);
    assert_eq!(first(1 << 31), ["10.244.1.5", "10.244.0.5"]);
    assert_eq!((first((1 << 31) - 1), first(u32::MAX)), (first(0), first(1 << 31)));
    // Glue follows its target through every rotation; records of different lengths, too.
    for (name, hosts) in [("_http._tcp.many.lots.svc.~", 200), ("db.data.svc.~", 2)] {
        for rotation in [0, 1 << 26, 1 << 30, 3 << 30, u32::MAX] {
            let mut out = Vec::new();
            respond(&packet(name, "SRV", None), Transport::Tcp, rotation, &zone, &mut out);
            let message = Message::from_vec(&out).expect("a reply");
            assert!(message.additionals.len() == hosts, "{} of {hosts}", message.additionals.len());
            for record in &message.additionals {
                let label = record.name.iter().next().map(|label| String::from_utf8_lossy(label).into_owned());
                let (label, address) = (label.expect("a label"), record.data.to_string());
                let expected = match label.strip_prefix("m-") {
                    Some(index) => format!("10.245.0.{index}"),
                    None => format!("10.244.{}.5", label.trim_start_matches("db-")),
                };
                assert_eq!(address, expected, "{label} at rotation {rotation}");
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_cut_between_records() {
    let zone = sample_zone();
    let mut out = Vec::new();
    for (edns, limit) in [(None, 512), (Some(600), 600), (Some(65535), 1232)] {
        for rtype in ["A", "SRV"] {
            let outcome = respond(&packet("many.lots.svc.~", rtype, edns), Transport::Udp, 3 << 30, &zone, &mut out);
            assert_eq!(outcome, Outcome::Truncated);
            let message = Message::from_vec(&out).expect("a reply");
            assert!(message.metadata.truncation && out.len() <= limit, "{}", out.len());
            let record = if rtype == "A" { 16 } else { 49 };
            assert!(out.len() + record > limit, "{} of {limit} used", out.len());
            assert_eq!(message.edns.is_some(), edns.is_some());
            assert!(message.additionals.is_empty());
        }
    }
    assert_eq!(respond(&packet("many.lots.svc.~", "A", None), Transport::Tcp, 0, &zone, &mut out), Outcome::Answer);
    assert_eq!(Message::from_vec(&out).expect("a reply").answers.len(), 200);
}

#[test]
fn glue_is_there_and_left_out_when_it_does_not_fit() {
    let mut cluster = Cluster::new(false);
    cluster.builder.set_synced();
    let hosts: Vec<String> = (0..9).map(|index| format!("h{index}=10.0.0.{index}")).collect();
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    cluster.service(service("a/b", &[], &[])).slice("a/b", &hosts, &["p/tcp/1"]);
    cluster.service(service("a/c", &[], &[])).slice("a/c", &["10.0.1.1"], &["p/tcp/1"]);
    let zone = cluster.publish();
    let lonely = "NoError aa an[@ 5 SRV 0 100 1 10-0-1-1.c.a.svc.~] ar[10-0-1-1.c.a.svc.~ 5 A 10.0.1.1]";
    check(&zone, "c.a.svc.~ SRV", lonely);
    let mut out = Vec::new();
    assert_eq!(respond(&packet("b.a.svc.~", "SRV", None), Transport::Udp, 1 << 30, &zone, &mut out), Outcome::Answer);
    let message = Message::from_vec(&out).expect("a reply");
    assert_eq!((message.answers.len(), message.metadata.truncation), (9, false));
    assert!(message.additionals.len() < 9 && out.len() <= 512);
}

#[test]
fn a_service_too_long_for_the_zone_has_no_name() {
    let mut cluster = Cluster::new(false);
    cluster.builder.set_synced();
    let long = "x".repeat(64);
    cluster.service(service(&format!("a/{long}"), &["10.0.0.1"], &[]));
    cluster.service(external("a/e", &format!("{}.example", "y".repeat(64))));
    let zone = cluster.publish();
    check(&zone, "1.0.0.10.in-addr.arpa PTR", "NXDomain aa ns[in-addr.arpa. SOA]");
    check(&zone, "e.a.svc.~ A", "NoError aa ns[~ SOA]");
}
