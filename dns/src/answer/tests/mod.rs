//! What the zone answers, case by case; replies are read by hickory-proto.

use hickory_proto::op::Message;
use hickory_proto::rr::RData;

use super::*;
use crate::testkit::{packet, read, sample};

mod cases;
mod dig;
mod transfer;
mod wire;

use cases::{Case, tables};

/// Asks over UDP with EDNS and compares the reply in words.
fn check(zone: &Zone, case: &Case) {
    let Case { behaviour, name, rtype, expected } = case;
    let mut out = Vec::new();
    let outcome = respond(&packet(name, rtype, Some(1232)), Transport::Udp, 0, zone, &mut out);
    let got = if out.is_empty() { format!("{outcome:?}") } else { read(&out).brief() };
    assert_eq!(sorted(&got), sorted(expected), "{behaviour}: {name} {rtype}");
    if !out.is_empty() {
        check_soa(zone, &out, behaviour);
    }
}

/// Sections are sets: the order of their records means nothing.
fn sorted(words: &str) -> String {
    let sections = words.split_inclusive(']').map(|section| match section.split_once('[') {
        None => section.into(),
        Some((before, records)) => {
            let mut records: Vec<&str> = records.trim_end_matches(']').split("; ").collect();
            records.sort_unstable();
            format!("{before}[{}]", records.join("; "))
        }
    });
    sections.collect::<Vec<String>>().concat()
}

/// What an SOA says does not depend on the question.
fn check_soa(zone: &Zone, reply: &[u8], behaviour: &str) {
    let message = Message::from_vec(reply).expect("a reply");
    for record in message.answers.iter().chain(&message.authorities) {
        if let RData::SOA(soa) = &record.data {
            let (owner, ttl) = (record.name.to_string(), zone.apex.ttl);
            assert_eq!(record.ttl, ttl, "{behaviour}");
            let expected = format!("ns.dns.{owner} hostmaster.{owner} 42 7200 1800 86400 {ttl}");
            assert_eq!(soa.to_string(), expected.replace("42", &zone.serial.to_string()), "{behaviour}");
        }
    }
}

#[test]
fn every_case() {
    let mut count = 0;
    for table in tables() {
        let zone = (table.cluster)().publish();
        let cases = table.cases();
        assert!(!cases.is_empty());
        cases.iter().for_each(|case| check(&zone, case));
        count += cases.len();
    }
    assert!(count >= 200, "{count} cases");
}

#[test]
fn every_case_has_a_behaviour_of_its_own() {
    for table in tables() {
        let cases = table.cases();
        let behaviours: std::collections::BTreeSet<_> = cases.iter().map(|case| case.behaviour).collect();
        assert_eq!(behaviours.len(), cases.len(), "{:?}", cases.iter().map(|case| case.behaviour).collect::<Vec<_>>());
    }
}

/// The table is right only if a wrong expectation fails.
#[test]
#[should_panic(expected = "a wrong address")]
fn a_wrong_expectation_fails() {
    let expected = "an[@ 5 A 10.96.0.99]".into();
    check(&sample(false).publish(), &Case { behaviour: "a wrong address", name: "web.default.svc.~", rtype: "A", expected });
}
