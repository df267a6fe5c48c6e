//! What goes out, and what is believed of what comes in.

use hickory_proto::rr::RecordType;
use proptest::prelude::*;

use super::*;
use crate::name::encode;
use crate::query::rtype;

fn question() -> Question {
    Question::plain(&encode("www.example-1.org").expect("a name"), rtype::A)
}

fn sent(random: &[u8; RANDOM]) -> Vec<u8> {
    let mut out = Vec::new();
    write_query(&question(), true, random, &mut out);
    out
}

/// An answer as an honest server gives it.
fn answer(sent: &[u8]) -> Vec<u8> {
    let mut reply = sent.to_vec();
    reply[2] |= 0x80;
    reply
}

#[test]
fn the_query_is_what_it_should_be() {
    let message = Message::from_vec(&sent(&[0; RANDOM])).expect("a message");
    assert_eq!(message.queries[0].name().to_string(), "www.example-1.org.");
    assert_eq!(message.queries[0].query_type(), RecordType::A);
    assert!(message.metadata.recursion_desired && message.edns.expect("EDNS").max_payload() == MAX_UDP as u16);
    let upper = Message::from_vec(&sent(&[0xff; RANDOM])).expect("a message");
    assert_eq!(upper.queries[0].name().to_string(), "WWW.EXAMPLE-1.ORG.");
    assert_eq!(upper.metadata.id, 0xffff);
    let mut out = Vec::new();
    write_query(&Question::plain(&[0], rtype::NS), false, &[0xff; RANDOM], &mut out);
    assert!(Message::from_vec(&out).is_ok_and(|message| !message.metadata.recursion_desired), "the root has no letters");
}

#[test]
fn liars_are_not_believed() {
    let mut random = [0; RANDOM];
    random[2..].fill(0x5a);
    let sent = sent(&random);
    let verdict = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut reply = answer(&sent);
        change(&mut reply);
        judge(&sent, &reply, &question(), false)
    };
    assert!(matches!(verdict(&|_| {}), Verdict::Answer(_)));
    type Change<'a> = &'a dyn Fn(&mut Vec<u8>);
    let lies: [(&str, Change<'_>); 9] = [
        ("another identifier", &|reply| reply[1] ^= 1),
        ("a query", &|reply| reply[2] &= 0x7f),
        ("another opcode", &|reply| reply[2] |= 0x28),
        ("no question", &|reply| reply[5] = 0),
        ("two questions", &|reply| reply[5] = 2),
        ("another name", &|reply| reply[HEADER + 2] = b'x'),
        ("another type", &|reply| reply[HEADER + 20] = 28),
        ("a stump", &|reply| reply.truncate(20)),
        ("nothing", &|reply| reply.clear()),
    ];
    for (what, change) in lies {
        assert_eq!(verdict(change), Verdict::Ignore, "{what}");
    }
    assert_eq!(verdict(&|reply| reply[HEADER + 1] ^= 0x20), Verdict::Casing);
    assert_eq!(verdict(&|reply| reply[2] |= 2), Verdict::Truncated);
    assert_eq!(verdict(&|reply| (reply[3], reply[5]) = (4, 0)), Verdict::Refused(4));
    assert_eq!(verdict(&|reply| reply[7] = 9), Verdict::Malformed, "fewer records than it says");
    let mut reply = answer(&sent);
    reply[HEADER + 1] ^= 0x20;
    assert!(matches!(judge(&sent, &reply, &question(), true), Verdict::Answer(_)), "TCP cannot be forged");
}

proptest! {
    #[test]
    fn casing_only_touches_letters(random in proptest::array::uniform32(any::<u8>())) {
        let mut bits = [0; RANDOM];
        bits[2..].copy_from_slice(&random);
        let asked = sent(&bits);
        let wire = &asked[HEADER..HEADER + question().wire().len()];
        prop_assert!(wire.eq_ignore_ascii_case(question().wire()));
        prop_assert!(matches!(judge(&asked, &answer(&asked), &question(), false), Verdict::Answer(_)));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), prefix in 0..40usize) {
        let asked = sent(&[7; RANDOM]);
        let reply = [&answer(&asked)[..prefix.min(asked.len())], &bytes].concat();
        judge(&asked, &reply, &question(), false);
        judge(&asked, &reply, &question(), true);
    }
}
