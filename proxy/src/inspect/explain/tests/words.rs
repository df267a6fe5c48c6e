//! How questions are written, and how answers read.

use thalweg_abi::BackendState;

use super::super::{Question, explain};
use super::tables::NOW;
use super::{IN, node};

#[test]
fn long_lists_are_cut_in_the_text_and_whole_in_json() {
    let mut tables = node();
    let ids: Vec<u32> = (100..112).collect();
    for id in &ids {
        tables = tables.backend(*id, &format!("10.244.2.{id}:80"), BackendState::READY);
    }
    let tables = tables.frontend(1, "10.96.0.20:80", IN, 0, &ids);
    let question = Question::parse("10.244.0.5", "10.96.0.20:80", None).expect("clear");
    let explanation = explain(&tables, &tables.facts, &question, NOW).expect("memory");
    assert!(explanation.verdict.to_string().ends_with("10.244.2.109:80 and 2 more"), "{}", explanation.verdict);
    let json = serde_json::to_value(&explanation).expect("serialises");
    assert_eq!((&json["verdict"], &json["hook"], &json["from"]), (&"translated".into(), &"socket".into(), &"pod".into()));
    assert_eq!(json["to"].as_array().map(Vec::len), Some(12));
    assert_eq!(json["candidates"].as_array().map(Vec::len), Some(12));
    assert_eq!(json["packet"], "10.244.0.5 -> 10.96.0.20:80/tcp");
}

#[test]
fn questions_are_read_as_people_write_them() {
    let check = |source: &str, destination: &str, shown: &str| {
        assert_eq!(Question::parse(source, destination, None).expect(destination).to_string(), shown);
    };
    check("10.0.0.1", "10.96.0.1:443", "10.0.0.1 -> 10.96.0.1:443/tcp");
    check("10.0.0.1:5000", "10.96.0.1:53/UDP", "10.0.0.1:5000 -> 10.96.0.1:53/udp");
    check("fd00::1", "[fd96::1]:80/sctp", "fd00::1 -> [fd96::1]:80/sctp");
    check("[fd00::1]:99", "fd96::1/icmp", "[fd00::1]:99 -> fd96::1/icmpv6");
    check("::ffff:10.0.0.1", "10.96.0.1/icmp", "10.0.0.1 -> 10.96.0.1/icmp");
}

#[test]
fn unclear_questions_say_what_to_write() {
    let check = |source: &str, destination: &str, said: &str| {
        let error = Question::parse(source, destination, None).expect_err(destination).to_string();
        assert!(error.contains(said), "{error}");
    };
    check("web", "10.96.0.1:80", "write ADDRESS or ADDRESS:PORT");
    check("10.0.0.1", "web:80", "write ADDRESS:PORT/PROTOCOL");
    check("10.0.0.1", "10.96.0.1:80/http", "write tcp, udp, sctp or icmp");
    check("10.0.0.1", "10.96.0.1/tcp", "write 10.96.0.1:PORT/tcp");
    check("fd00::1", "fd96::1", "write [fd96::1]:PORT/tcp");
    check("10.0.0.1", "10.96.0.1:80/icmp", "write ADDRESS:PORT/PROTOCOL");
    check("10.0.0.1", "[fd96::1]:80", "a packet has one family");
}
