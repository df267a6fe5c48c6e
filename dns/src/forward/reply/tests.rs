//! Answers as clients get them, and what is left of those that lie.

use hickory_proto::op::ResponseCode;
use proptest::prelude::*;

use super::*;
use crate::name::encode;
use crate::query::Transport;
use crate::testkit::{packet, words};

fn name(text: &str) -> Name {
    Name::from_ascii(text).expect("a name")
}

/// A record from `owner ttl type data`.
fn record(text: &str) -> Record {
    use hickory_proto::rr::rdata::{A, CNAME, NS, SOA};
    let words: Vec<&str> = text.split(' ').collect();
    let [owner, ttl, rtype, data] = words.as_slice() else { panic!("{text}") };
    let data = match *rtype {
        "A" => RData::A(A(data.parse().expect("an address"))),
        "CNAME" => RData::CNAME(CNAME(name(data))),
        "NS" => RData::NS(NS(name(data))),
        "SOA" => RData::SOA(SOA::new(name("ns."), name("h."), 1, 2, 3, 4, data.parse().expect("seconds"))),
        other => panic!("{other}"),
    };
    Record::from_rdata(name(owner), ttl.parse().expect("seconds"), data)
}

fn message(rcode: ResponseCode, answers: &[&str], authorities: &[&str], additionals: &[&str]) -> Message {
    let mut message = Message::response(1, OpCode::Query);
    message.metadata.response_code = rcode;
    message.add_query(WireQuestion::query(name("www.Example.org."), RecordType::A));
    message.add_answers(answers.iter().map(|text| record(text)));
    message.add_authorities(authorities.iter().map(|text| record(text)));
    message.add_additionals(additionals.iter().map(|text| record(text)));
    message
}

fn asked() -> Question {
    Question::plain(&encode("www.example.org").expect("a name"), rtype::A)
}

fn written(reply: &Reply, query: &[u8], ttl: Option<u32>, most: usize) -> Vec<u8> {
    let query = Query::parse(query, Transport::Udp).expect("a query");
    let mut out = vec![1, 2, 3];
    reply.write(&query, ttl, most, &mut out);
    assert!(out.len() <= query.limit().min(most.max(512)));
    out
}

/// What a client is told, and how long the answer is good for.
fn check(message: Message, expected: &str, kind: Kind, ttl: Option<u32>) {
    let reply = Reply::take(message, &asked()).expect("a reply");
    assert_eq!(words(&written(&reply, &packet("wWw.example.org", "A", None), None, 1232)), expected);
    assert_eq!((reply.kind(), reply.ttl()), (kind, ttl), "{expected}");
}

#[test]
fn what_belongs_to_the_question_is_kept() {
    let ok = ResponseCode::NoError;
    check(
        message(ok, &["www.example.org. 60 A 192.0.2.1", "WWW.example.org. 30 A 192.0.2.2"], &[], &[]),
        "NoError ra an[@ 30 A 192.0.2.2; @ 60 A 192.0.2.1]",
        Kind::Success,
        Some(30),
    );
    check(
        message(ok, &["www.example.org. 60 CNAME a.example.net.", "a.example.net. 9 A 192.0.2.1"], &[], &[]),
        "NoError ra an[@ 60 CNAME a.example.net.; a.example.net. 9 A 192.0.2.1]",
        Kind::Success,
        Some(9),
    );
    check(message(ok, &[], &["example.org. 600 SOA 40"], &[]), "NoError ra ns[example.org. SOA]", Kind::NoData, Some(40));
    check(
        message(ResponseCode::NXDomain, &["www.example.org. 20 CNAME no.example.net."], &["example.net. 30 SOA 400"], &[]),
        "NXDomain ra an[@ 20 CNAME no.example.net.] ns[example.net. SOA]",
        Kind::NxDomain,
        Some(20),
    );
    check(message(ResponseCode::ServFail, &[], &[], &[]), "ServFail ra", Kind::Failure, None);
    check(message(ok, &[], &[], &[]), "NoError ra", Kind::NoData, None);
}

#[test]
fn what_an_upstream_adds_beyond_the_question_is_left_out() {
    let ok = ResponseCode::NoError;
    let true_answer = "www.example.org. 60 A 192.0.2.1";
    let expected = "NoError ra an[@ 60 A 192.0.2.1]";
    for lie in
        ["www.bank.example. 9999 A 192.0.2.66", "example.org. 60 A 192.0.2.66", "www.bank.example. 60 CNAME evil.example."]
    {
        check(message(ok, &[true_answer, lie], &[], &[]), expected, Kind::Success, Some(60));
        check(message(ok, &[lie, true_answer], &[lie], &[lie]), expected, Kind::Success, Some(60));
        check(message(ok, &[lie], &[], &[]), "NoError ra", Kind::NoData, None);
    }
    // Delegations, and addresses of name servers, are for resolvers.
    check(
        message(ok, &[true_answer], &["org. 9999 NS ns.evil.example."], &["ns.evil.example. 9999 A 192.0.2.66"]),
        expected,
        Kind::Success,
        Some(60),
    );
    // An SOA of somebody else would say how long to remember.
    check(message(ResponseCode::NXDomain, &[], &["bank.example. 9999 SOA 9999"], &[]), "NXDomain ra", Kind::NxDomain, None);
}

/// The addresses in the order that a client with this identifier sees them.
fn order(answers: &[&str], id: u8) -> Vec<String> {
    let reply = Reply::take(message(ResponseCode::NoError, answers, &[], &[]), &asked()).expect("a reply");
    let mut query = packet("www.example.org", "A", None);
    query[..2].copy_from_slice(&[0, id]);
    let message = Message::from_vec(&written(&reply, &query, Some(60), 1232)).expect("a message");
    message.answers.iter().map(|record| record.data.to_string()).collect()
}

#[test]
fn clients_get_addresses_in_turn() {
    let plain = ["www.example.org. 60 A 192.0.2.1", "www.example.org. 60 A 192.0.2.2", "www.example.org. 60 A 192.0.2.3"];
    assert_eq!(order(&plain, 0), ["192.0.2.1", "192.0.2.2", "192.0.2.3"]);
    assert_eq!(order(&plain, 4), ["192.0.2.2", "192.0.2.3", "192.0.2.1"]);
    let alias = ["www.example.org. 60 CNAME a.net.", "a.net. 60 A 192.0.2.1", "a.net. 60 A 192.0.2.2"];
    assert_eq!(order(&alias, 0), ["a.net.", "192.0.2.1", "192.0.2.2"]);
    assert_eq!(order(&alias, 1), ["a.net.", "192.0.2.2", "192.0.2.1"], "the alias stays first");
    assert_eq!(order(&plain[..1], 1), ["192.0.2.1"]);
}

#[test]
fn chains_that_go_around_or_never_end_do_not_hold_us_up() {
    let around = ["www.example.org. 60 CNAME b.org.", "b.org. 60 CNAME www.example.org."];
    let reply = Reply::take(message(ResponseCode::NoError, &around, &[], &[]), &asked()).expect("a reply");
    assert_eq!(reply.kind(), Kind::NoData);
    let mut long: Vec<String> = (0..40).map(|index| format!("n{index}.org. 60 CNAME n{}.org.", index + 1)).collect();
    long.push("www.example.org. 60 CNAME n0.org.".into());
    let long: Vec<&str> = long.iter().map(String::as_str).collect();
    let reply = Reply::take(message(ResponseCode::NoError, &long, &[], &[]), &asked()).expect("a reply");
    assert_eq!(reply.answers().len(), MAX_ALIASES + 1);
}

#[test]
fn flags_ttls_and_sizes_are_the_clients() {
    let many: Vec<String> = (0..80).map(|index| format!("www.example.org. 60 A 192.0.2.{index}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let reply = Reply::take(message(ResponseCode::NoError, &many, &[], &[]), &asked()).expect("a reply");
    for (edns, most, fit) in
        [(None, 1232, 29), (Some(800), 1232, 47), (Some(4096), 1232, 74), (Some(4096), 700, 41), (Some(100), 100, 29)]
    {
        let out = written(&reply, &packet("www.example.org", "A", edns), Some(7), most);
        let message = Message::from_vec(&out).expect("a message");
        assert!(message.metadata.truncation && message.answers.len() == fit, "{edns:?} {most}: {}", message.answers.len());
        assert!(message.answers.iter().all(|record| record.ttl == 7));
        assert_eq!(message.edns.is_some(), edns.is_some());
    }
    let mut query = packet("www.example.org", "A", None);
    query[3] = 0x30;
    let out = written(&reply, &query, None, 1232);
    assert_eq!((out[..2].to_vec(), out[3] & 0x30), (query[..2].to_vec(), 0x10), "CD is repeated, AD is not made up");
    let query = Query::parse(&query, Transport::Tcp).expect("a query");
    let mut out = Vec::new();
    reply.write(&query, None, 65535, &mut out);
    assert_eq!(Message::from_vec(&out).expect("a message").answers.len(), 80, "whole over TCP");
}

proptest! {
    /// Whatever a message holds, a client gets a message that can be read, no larger than it takes, of its own question.
    #[test]
    fn no_message_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), edns in proptest::option::of(any::<u16>())) {
        let head = b"\0\0\x81\x80\0\x01\0\x02\0\x01\0\x01\x03www\x07example\x03org\0\0\x01\0\x01";
        let Ok(message) = Message::from_vec(&[&head[..], &bytes].concat()) else { return Ok(()) };
        if let Some(reply) = Reply::take(message, &asked()) {
            let out = written(&reply, &packet("WWW.example.org", "A", edns), Some(5), 1232);
            prop_assert!(Message::from_vec(&out).is_ok());
        }
    }
}
