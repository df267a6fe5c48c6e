//! What is in a reply beside its records: header, EDNS, order and size.

use super::*;
use crate::testkit::{Cluster, external, service, words};

fn sample_zone() -> Zone {
    sample(false).publish()
}

/// The reply in words.
fn ask(zone: &Zone, name: &str, rtype: &str) -> String {
    let mut out = Vec::new();
    respond(&packet(name, rtype, Some(1232)), Transport::Udp, 0, zone, &mut out);
    read(&out).brief()
}

#[test]
fn the_target_that_is_left_to_the_upstreams() {
    let asked = packet("docs.ext.svc.~", "A", None);
    let mut out = Vec::new();
    let forwarding = sample(true).publish();
    assert_eq!(respond(&asked, Transport::Udp, 0, &forwarding, &mut out), Outcome::ForwardTarget);
    let query = Query::parse(&asked, Transport::Udp).expect("a query");
    assert_eq!(last_target(&out, &query).as_deref(), Some(&b"\x04docs\x07example\x03com\0"[..]));
    // The same without upstreams: the alias is all there is.
    assert_eq!(respond(&asked, Transport::Udp, 0, &sample_zone(), &mut out), Outcome::Answer);
}

#[test]
fn casing_is_the_clients() {
    let mut out = Vec::new();
    respond(&packet("wEB.Default.SVC.CLUSTER.loCAL", "A", None), Transport::Udp, 0, &sample_zone(), &mut out);
    let message = Message::from_vec(&out).expect("a reply");
    assert_eq!(message.queries[0].name().to_string(), "wEB.Default.SVC.CLUSTER.loCAL.");
    assert_eq!(message.answers[0].name.to_string(), "wEB.Default.SVC.CLUSTER.loCAL.");
    respond(&packet("No.Default.SVC.CLUSTER.loCAL", "A", None), Transport::Udp, 0, &sample_zone(), &mut out);
    assert_eq!(Message::from_vec(&out).expect("a reply").authorities[0].name.to_string(), "CLUSTER.loCAL.");
}

#[test]
fn an_address_with_several_names() {
    let mut cluster = Cluster::new(false);
    for name in ["a/one", "b/two"] {
        cluster.service(service(name, &[], &[])).slice(name, &["h=10.0.0.1"], &[]);
    }
    let both = "an[@ 5 PTR h.one.a.svc.~; @ 5 PTR h.two.b.svc.~]";
    assert_eq!(ask(&cluster.synced(), "1.0.0.10.in-addr.arpa", "PTR"), both);
    cluster.service(service("c/three", &["10.0.0.1"], &[]));
    let cluster_ip = "an[@ 5 PTR three.c.svc.~]";
    assert_eq!(ask(&cluster.synced(), "1.0.0.10.in-addr.arpa", "PTR"), cluster_ip);
}

#[test]
fn other_classes() {
    let zone = sample_zone();
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
    let lonely = "an[@ 5 SRV 0 100 1 10-0-1-1.c.a.svc.~] ar[10-0-1-1.c.a.svc.~ 5 A 10.0.1.1]";
    assert_eq!(ask(&zone, "c.a.svc.~", "SRV"), lonely);
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
    assert_eq!(ask(&zone, "1.0.0.10.in-addr.arpa", "PTR"), "NXDOMAIN in-addr.arpa.");
    assert_eq!(ask(&zone, "e.a.svc.~", "A"), "NODATA ~");
}
