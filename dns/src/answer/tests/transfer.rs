//! Whole zones, for those who may have them.

use std::collections::BTreeSet;

use super::*;
use crate::testkit::{config, sample_with};
use crate::zone::ZoneConfig;

/// A query of a client that may have whole zones.
fn asked(packet: &[u8], transport: Transport) -> Query<'_> {
    let mut query = Query::parse(packet, transport).expect("a query");
    query.may_transfer = true;
    query
}

#[test]
fn who_may_have_it() {
    let zone = sample(false).publish();
    let mut out = Vec::new();
    let (axfr, ixfr) = (packet("~", "AXFR", None), packet("~", "IXFR", None));
    let mut ask = |packet: &[u8], transport| answer(&asked(packet, transport), &zone, &mut out);
    assert_eq!(ask(&axfr, Transport::Tcp), Outcome::Transfer);
    assert_eq!(ask(&ixfr, Transport::Tcp), Outcome::Transfer, "the whole zone is an answer to what changed");
    assert_eq!(ask(&axfr, Transport::Udp), Outcome::Refused);
    for (name, what) in [("svc.~", "no zone"), ("example.com", "not ours"), ("in-addr.arpa", "no names of the cluster")] {
        assert_eq!(ask(&packet(name, "AXFR", None), Transport::Tcp), Outcome::Refused, "{what}");
    }
    assert_eq!(ask(&ixfr, Transport::Udp), Outcome::Answer);
    assert_eq!(read(&out).brief(), "an[@ SOA]", "the client comes again over TCP");
    let unsynced = crate::testkit::Cluster::new(false).publish();
    assert_eq!(answer(&asked(&axfr, Transport::Tcp), &unsynced, &mut out), Outcome::ServFail);
}

/// Every record of the transfer, in words, with whole names.
fn records(zone: &Zone, origin: &str) -> Vec<String> {
    let packet = packet(origin, "AXFR", None);
    let query = asked(&packet, Transport::Tcp);
    let messages: Vec<_> = transfer(&query, zone).collect();
    assert!(messages.len() > 1, "the sample does not fit into one message");
    let mut records = Vec::new();
    for message in messages {
        assert!(message.len() <= 16_000 && message[..2] == packet[..2]);
        let message = Message::from_vec(&message).expect("a message");
        assert!(message.metadata.authoritative && message.authorities.is_empty() && message.additionals.is_empty());
        records.extend(
            message
                .answers
                .iter()
                .map(|record| format!("{} {} {} {}", record.name, record.ttl, record.record_type(), record.data)),
        );
    }
    records
}

#[test]
fn it_is_what_the_zone_answers() {
    let zone = sample(false).publish();
    let records = records(&zone, "~");
    assert!(records[0].contains(" SOA ") && records.first() == records.last(), "it begins and ends with the SOA");
    let inside = &records[1..records.len() - 1];
    let set: BTreeSet<_> = inside.iter().cloned().collect();
    assert_eq!(set.len(), inside.len(), "nothing is said twice");
    assert!(!inside.iter().any(|record| record.contains(" SOA ")));
    // Every record of an answer of the table is there.
    let mut found = 0;
    for case in tables().filter(|table| (table.cluster)().config == sample(false).config).flat_map(cases::Table::cases) {
        let mut out = Vec::new();
        let outcome = respond(&packet(case.name, case.rtype, None), Transport::Tcp, 0, &zone, &mut out);
        let pods = case.name.to_ascii_lowercase().contains(".pod.");
        if outcome != Outcome::Answer || case.name.ends_with(".arpa") || case.rtype == "SOA" || pods {
            continue;
        }
        for record in Message::from_vec(&out).expect("a reply").answers {
            let owner = record.name.to_string().to_ascii_lowercase();
            let text = format!("{owner} {} {} {}", record.ttl, record.record_type(), record.data);
            // Names of pods are without number.
            let spelled = owner.contains(".pod.") || owner.ends_with("arpa.") || record.record_type().to_string() == "SOA";
            assert!(spelled || set.contains(&text), "{}: {text} is missing", case.behaviour);
            found += 1;
        }
    }
    assert!(found > 100, "{found} records compared");
    assert_eq!(inside.iter().filter(|record| record.starts_with("many.lots.svc.cluster.local. 5 A ")).count(), 200);
}

#[test]
fn each_zone_has_its_own_names() {
    let origins = ["cluster.local", "corp.example"].map(Into::into).into();
    let zone = sample_with(&ZoneConfig { origins, ..config() }).publish();
    let records = records(&zone, "Corp.example");
    assert!(records.contains(&"web.default.svc.Corp.example. 5 A 10.96.0.20".into()), "casing is the client's");
    assert!(records.contains(&"_http._tcp.web.default.svc.Corp.example. 5 SRV 0 100 80 web.default.svc.corp.example.".into()));
    assert!(!records.iter().any(|record| record.split(' ').next().is_some_and(|owner| owner.contains("cluster.local"))));
}
