//! Tables and rules by Corefiles, and what clients see of them.

use super::*;
use crate::corefile;
use crate::query::Transport;
use crate::testkit::{packet, words};

const FILE: &str = "# a file\n192.0.2.1 a.org www.a.org # more\n2001:db8::1 a.org\nrubbish b.org\n192.0.2.2\n192.0.2.9 c.net\n";

fn names(lines: &str) -> Names {
    let parsed = corefile::parse(&format!(". {{\n{lines}\n}}"), &|_| None).unwrap_or_else(|error| panic!("{error}"));
    Names::new(&parsed.servers, &|path| (path == Path::new("/etc/hosts")).then(|| FILE.to_owned()))
}

/// What the tables say; `-` when they say nothing.
fn answer(names: &Names, name: &str, rtype: &str) -> String {
    let packet = packet(name, rtype, None);
    let query = Query::parse(&packet, Transport::Udp).expect("a query");
    let mut out = Vec::new();
    if names.answer(&query, &mut out) { words(&out) } else { "-".into() }
}

#[test]
fn hosts() {
    let table = names("hosts /etc/hosts org in-addr.arpa ip6.arpa {\n10.0.0.1 a.org b.org\nttl 60\nfallthrough b.org net\n}");
    for (name, rtype, expected) in [
        ("A.org", "A", "NoError aa ra an[@ 60 A 10.0.0.1; @ 60 A 192.0.2.1]"),
        ("a.org", "AAAA", "NoError aa ra an[@ 60 AAAA 2001:db8::1]"),
        ("a.org", "TXT", "NoError aa ra"),
        ("www.a.org", "AAAA", "NoError aa ra"),
        ("1.0.0.10.in-addr.arpa", "PTR", "NoError aa ra an[@ 60 PTR a.org.; @ 60 PTR b.org.]"),
        ("no.org", "A", "ServFail ra"),
        ("no.b.org", "A", "-"),
        ("c.net", "A", "-"),
        ("9.2.0.192.in-addr.arpa", "PTR", "ServFail ra"),
    ] {
        assert_eq!(answer(&table, name, rtype), expected, "{name} {rtype}");
    }
    let table = names("hosts {\n10.0.0.1 a.org\nno_reverse\nfallthrough\n}");
    assert_eq!(answer(&table, "1.0.0.10.in-addr.arpa", "PTR"), "-");
    assert_eq!(answer(&table, "b.org", "A"), "-");
    assert_eq!(answer(&names("hosts /nonexistent {\nfallthrough\n}"), "a.org", "A"), "-");
    assert!(names("errors").is_empty() && !names("hosts").is_empty());
}

/// The name under which a query is asked; `None` when no rule is for it.
fn asked(names: &Names, name: &str) -> Option<String> {
    let packet = packet(name, "A", Some(4096));
    let query = Query::parse(&packet, Transport::Udp).expect("a query");
    let rewritten = names.rewrite(&query)?;
    let query = Query::parse(&rewritten.packet, Transport::Udp).expect("still a query");
    assert!(query.edns.is_some() && query.packet()[..2] == packet[..2]);
    Some(name::display(query.name.wire()))
}

#[test]
fn rules() {
    for (rule, name, expected) in [
        ("name a.org b.org", "A.org", Some("b.org.")),
        ("name a.org b.org", "x.a.org", None),
        ("name prefix a- b-", "a-x.org", Some("b-x.org.")),
        ("name suffix .a.org .b.org", "x.A.org", Some("x.b.org.")),
        ("name suffix .a.org .b.org", "a.org", None),
        ("name substring mid end", "a.mid.mid.org", Some("a.end.end.org.")),
        (r"name regex ^(.*)\.(.*)\.a\.org$ {2}.{1}.b.org", "x.y.a.org", Some("y.x.b.org.")),
        (r"name regex ^(.*)\.a\.org\.$ {1}.b.org", "x.a.org", Some("x.b.org.")),
        (r"name regex ^(.*)\.a\.org$ {1}..b.org", "x.a.org", None),
        ("continue name a.org b.org\nrewrite name b.org c.org\nrewrite name c.org d.org", "a.org", Some("c.org.")),
        ("ttl a.org 5", "a.org", Some("a.org.")),
    ] {
        assert_eq!(asked(&names(&format!("rewrite {rule}")), name).as_deref(), expected, "{rule}");
    }
}

#[test]
fn the_way_back() {
    let restored = |rule: &str, name: &str, reply: &dyn Fn(&[u8]) -> Vec<u8>| {
        let packet = packet(name, "A", None);
        let query = Query::parse(&packet, Transport::Udp).expect("a query");
        let rewritten = names(&format!("rewrite {rule}")).rewrite(&query).expect("a rule is for it");
        words(&rewritten.restore(&reply(&rewritten.packet)).expect("a reply"))
    };
    let table = names("hosts {\n192.0.2.1 x.b.org\n}");
    let by_table = |packet: &[u8]| {
        let mut out = Vec::new();
        assert!(table.answer(&Query::parse(packet, Transport::Udp).expect("a query"), &mut out));
        out
    };
    let expected = "NoError aa ra an[@ 3600 A 192.0.2.1]";
    assert_eq!(restored("name suffix .a.org .b.org", "x.A.org", &by_table), expected);
    assert_eq!(restored("ttl suffix b.org -30", "x.b.org", &by_table), "NoError aa ra an[@ 30 A 192.0.2.1]");
    assert_eq!(restored("ttl suffix b.org 5000-", "x.b.org", &by_table), "NoError aa ra an[@ 5000 A 192.0.2.1]");
    // The target of an alias has an owner of its own.
    let alias = |packet: &[u8]| {
        let mut reply = by_table(packet);
        let answer = reply.split_off(packet.len());
        reply[7] = 2;
        let target = name::encode("y.b.org").expect("a name");
        reply.extend_from_slice(&[&[0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 9, 0, target.len() as u8][..], &target].concat());
        reply.extend_from_slice(&[&target[..], &answer[2..]].concat());
        reply
    };
    let rule = r"name suffix .a.org .b.org answer name (.*)\.b\.org {1}.a.org";
    assert_eq!(restored(rule, "x.a.org", &alias), "NoError aa ra an[@ 9 CNAME y.b.org.; y.a.org. 3600 A 192.0.2.1]");
}
