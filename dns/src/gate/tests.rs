//! Access lists as CoreDNS reads them, and the rate with a clock in the hand.

use hickory_proto::op::Message;

use super::*;
use crate::corefile;
use crate::testkit::{packet, words};

fn gate(corefile: &str) -> Gate {
    let parsed = corefile::parse(corefile, &|_| None).unwrap_or_else(|error| panic!("{error}"));
    Gate::new(&parsed.servers, 0)
}

/// What becomes of a question for A unless the name says another type.
fn check(gate: &Gate, client: &str, name: &str, expected: Admission) {
    let (name, rtype) = name.split_once(' ').unwrap_or((name, "A"));
    let client: IpAddr = client.parse().expect("an address");
    let admission = gate.admit(&packet(name, rtype, None), client, Transport::Udp, Duration::ZERO);
    assert_eq!(admission, expected, "{client} {name} {rtype}");
}

#[test]
fn the_first_rule_of_a_list_that_applies_counts() {
    let gate = gate(
        ". {\nacl {\nallow net 192.168.1.0/24 fd00::/8\nblock type A net 192.168.0.0/16\nfilter type TXT\ndrop net 10.0.0.1\n}\n}",
    );
    check(&gate, "192.168.1.7", "a.org", Admission::Pass);
    check(&gate, "::ffff:192.168.1.7", "a.org", Admission::Pass);
    check(&gate, "192.168.2.7", "a.org", Admission::Refuse);
    check(&gate, "192.168.2.7", "a.org AAAA", Admission::Pass);
    check(&gate, "192.168.2.7", "a.org TXT", Admission::Empty);
    check(&gate, "fd00::1", "a.org TXT", Admission::Pass);
    check(&gate, "10.0.0.1", "a.org", Admission::Drop);
    check(&gate, "10.0.0.2", "a.org", Admission::Pass);
}

#[test]
fn every_list_that_concerns_a_name_has_its_say() {
    let gate = gate("b.org {\n}\n. {\nacl a.org {\nallow net 10.0.0.0/8\nblock\n}\nacl {\nblock net 10.0.0.66\n}\n}");
    check(&gate, "10.0.0.1", "x.a.org", Admission::Pass);
    check(&gate, "10.0.0.66", "x.a.org", Admission::Refuse);
    check(&gate, "192.0.2.1", "x.a.org", Admission::Refuse);
    check(&gate, "192.0.2.1", "c.org", Admission::Pass);
    check(&gate, "10.0.0.66", "c.org", Admission::Refuse);
    check(&gate, "10.0.0.66", "x.b.org", Admission::Pass);
    assert!(!gate.is_open() && self::gate(". {\n}").is_open());
}

#[test]
fn who_does_not_pass_is_told_in_no_more_than_was_asked() {
    let gate = gate(". {\nbufsize 600\n}");
    for (admission, expected) in [
        (Admission::Refuse, Some("Refused ra")),
        (Admission::Empty, Some("NoError ra")),
        (Admission::Cut, Some("NoError tc ra")),
        (Admission::Drop, None),
    ] {
        for edns in [None, Some(4096)] {
            let asked = packet("www.example.org", "A", edns);
            let mut out = vec![1];
            let told = gate.turn_away(admission, &asked, Transport::Udp, &mut out).then(|| words(&out));
            assert_eq!(told.as_deref(), expected);
            assert!(out.len() <= asked.len());
            let announced = Message::from_vec(&out).ok().and_then(|reply| reply.edns).map(|edns| edns.max_payload());
            assert_eq!(announced, edns.and(expected).map(|_| 600));
        }
    }
    assert!(!gate.turn_away(Admission::Refuse, b"rubbish", Transport::Udp, &mut Vec::new()));
}

#[test]
fn a_client_that_keeps_to_its_rate_always_passes() {
    let limiter = Limiter::new(100);
    let client: IpAddr = "10.0.0.1".parse().expect("an address");
    for index in 0..10_000u32 {
        assert_eq!(limiter.admit(client, Duration::from_millis(10) * index), Admission::Pass, "query {index}");
    }
}

#[test]
fn a_client_that_floods_gets_its_rate_and_others_theirs() {
    let limiter = Limiter::new(100);
    let [flood, other]: [IpAddr; 2] = ["10.0.0.1", "10.0.0.2"].map(|ip| ip.parse().expect("an address"));
    let mut seen = [0u32; 3];
    for index in 0..100_000u32 {
        let now = Duration::from_micros(100) * index;
        let slot = match limiter.admit(flood, now) {
            Admission::Pass => 0,
            Admission::Cut => 1,
            _ => 2,
        };
        seen[slot] += 1;
    }
    // Ten seconds, and what may come at once.
    assert!((1100..=1300).contains(&seen[0]), "{seen:?}");
    assert!(seen[1].abs_diff(seen[2]) < 1000, "{seen:?}");
    // Unless chance put both into one bucket, of thousands.
    let again = Limiter::new(100);
    let passes = |client| (0..200).filter(|_| again.admit(client, Duration::ZERO) == Admission::Pass).count();
    assert_eq!(passes(flood), 200);
    assert!(passes(other) == 200 || passes("10.0.0.3".parse().expect("an address")) == 200);
}

#[test]
fn the_addresses_of_a_network_of_ipv6_are_one_client() {
    let limiter = Limiter::new(1);
    let passes = (0..50u16).filter(|host| {
        let client = format!("2001:db8::{host:x}").parse().expect("an address");
        limiter.admit(client, Duration::ZERO) == Admission::Pass
    });
    assert_eq!(passes.count(), 2);
}
