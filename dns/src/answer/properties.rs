//! What holds for every packet: no panic, no reply above what the client takes, and a header that tells the truth.

use proptest::prelude::*;

use super::*;
use crate::testkit::{packet, sample};

/// Packets that look enough like queries to reach every branch.
fn nearly_a_query() -> impl Strategy<Value = Vec<u8>> {
    let name = prop::sample::select(vec![
        "web.default.svc.~",
        "many.lots.svc.~",
        "_http._tcp.many.lots.svc.~",
        "set.ext.svc.~",
        "docs.ext.svc.~",
        "1-2-3-4.default.pod.~",
        "20.0.96.10.in-addr.arpa",
        "nothing.~",
        "db-0.db.data.svc.~",
        "10-244-0-6.peers.data.svc.~",
        "ping.ext.svc.~",
        "ns.dns.~",
        "17.0.244.10.in-addr.arpa",
        "0.3.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa",
        "96.10.in-addr.arpa",
        "example.com",
        "~",
        ".",
    ]);
    let rtype = prop::sample::select(vec!["A", "AAAA", "SRV", "ANY", "SOA", "NS", "PTR", "CNAME", "TXT", "AXFR", "OPT"]);
    let damage = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    (name, rtype, any::<Option<u16>>(), damage, any::<Option<prop::sample::Index>>()).prop_map(
        |(name, rtype, edns, damage, cut)| {
            let mut bytes = packet(name, rtype, edns);
            for (at, value) in damage {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            bytes
        },
    )
}

/// Never a panic, never a reply above what the client takes, and counts in the header that match the records.
fn holds(zone: &Zone, bytes: &[u8], transport: Transport, rotation: u32) {
    let mut out = Vec::new();
    let outcome = respond(bytes, transport, rotation, zone, &mut out);
    if matches!(outcome, Outcome::Drop | Outcome::Forward) {
        assert!(out.is_empty());
        return;
    }
    let limit = Query::parse(bytes, transport).map_or(HEADER, |query| query.limit());
    assert!(out.len() >= HEADER && out.len() <= limit, "{} octets, {limit} allowed", out.len());
    assert_eq!(out[..2], bytes[..2]);
    assert_ne!(out[2] & 0x80, 0);
    let mut at = HEADER;
    let counts: Vec<usize> = [4, 6, 8, 10].iter().map(|&at| usize::from(u16::from_be_bytes([out[at], out[at + 1]]))).collect();
    assert!(counts[0] <= 1);
    if counts[0] == 1 {
        at += Query::parse(bytes, transport).expect("it was echoed").question().len();
    }
    for _ in 0..counts[1..].iter().sum() {
        at += if out[at] == 0 { 1 } else { 2 };
        at += 10 + usize::from(u16::from_be_bytes([out[at + 8], out[at + 9]]));
    }
    assert_eq!(at, out.len(), "the counts in the header match the records");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_octets_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..600), rotation: u32, tcp: bool) {
        thread_local!(static ZONE: Zone = sample(false).publish());
        let transport = if tcp { Transport::Tcp } else { Transport::Udp };
        ZONE.with(|zone| holds(zone, &bytes, transport, rotation));
    }

    #[test]
    fn damaged_queries_are_survived(bytes in nearly_a_query(), rotation: u32, tcp: bool, recursion: bool) {
        thread_local!(static ZONES: [Zone; 2] = [sample(false).publish(), sample(true).publish()]);
        let transport = if tcp { Transport::Tcp } else { Transport::Udp };
        ZONES.with(|zones| holds(&zones[usize::from(recursion)], &bytes, transport, rotation));
    }
}
