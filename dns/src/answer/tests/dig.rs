//! The same cases through the server's sockets, asked and read by `dig`: another decoder, another way in.

use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use super::*;
use crate::config::Config;
use crate::server::Server;
use crate::testkit::{Cluster, Words, record_words};

/// What dig asks only in ways of its own.
const NOT_FOR_DIG: [&str; 4] = ["AXFR", "IXFR", "OPT", "TSIG"];

#[test]
fn dig_reads_the_same() {
    let mut replayed = 0;
    for table in tables() {
        let mut cluster = (table.cluster)();
        let (dirty, zone) = (cluster.dirty.clone(), cluster.publish());
        let cases: Vec<Case> = table.cases().into_iter().filter(|case| is_ours(&zone, case)).collect();
        let server = server(&cluster, &dirty, zone.synced);
        let replies = dig(server.addresses()[0], &cases);
        assert_eq!(replies.len(), cases.len(), "dig got no reply to one of {cases:#?}");
        for (case, reply) in cases.iter().zip(&replies) {
            let got = reply.brief();
            assert_eq!(sorted(&got), sorted(&case.expected), "{}: dig {} {}", case.behaviour, case.name, case.rtype);
        }
        replayed += cases.len();
    }
    assert!(replayed >= 200, "{replayed} cases");
}

/// Whether the whole reply is the zone's, and not the upstreams'.
fn is_ours(zone: &Zone, case: &Case) -> bool {
    let mut out = Vec::new();
    let outcome = respond(&packet(case.name, case.rtype, None), Transport::Udp, 0, zone, &mut out);
    !matches!(outcome, Outcome::Forward | Outcome::ForwardTarget) && !NOT_FOR_DIG.contains(&case.rtype)
}

fn server(cluster: &Cluster, dirty: &thalweg_cluster::Dirty, synced: bool) -> Server {
    // Nothing that is asked here goes to the upstream.
    let upstreams: Vec<SocketAddr> =
        cluster.config.recursion.then(|| "127.0.0.1:9".parse().expect("an address")).into_iter().collect();
    let listen = "127.0.0.1:0".parse().expect("an address");
    let server = Server::serve(&[listen], 1, &Config::simple(cluster.config.clone(), &upstreams)).expect("a server");
    server.publish(&cluster.world, dirty);
    if synced {
        server.mark_synced();
    }
    server
}

/// Asks all of them, one after the other, in one run.
fn dig(server: SocketAddr, cases: &[Case]) -> Vec<Words> {
    let mut command = Command::new("dig");
    // Without what the user's own configuration says.
    command.arg("-r").args([&format!("@{}", server.ip()), "-p", &server.port().to_string(), "+noall", "+comments", "+answer"]);
    command.args(["+authority", "+additional", "+nottlunits", "-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("dig runs: install the package bind9-dnsutils");
    let mut questions = child.stdin.take().expect("a pipe");
    for Case { name, rtype, .. } in cases {
        let name = name.replace('~', "cluster.local");
        let dot = if name.ends_with('.') { "" } else { "." };
        writeln!(questions, "-q {name}{dot} -t {rtype}").expect("dig reads");
    }
    drop(questions);
    let output = child.wait_with_output().expect("dig ends");
    let text = String::from_utf8(output.stdout).expect("text");
    let replies = text.split(";; Got answer:").skip(1);
    replies.zip(cases).map(|(reply, case)| words(reply, &case.name.replace('~', "cluster.local"))).collect()
}

/// One reply as dig prints it.
fn words(text: &str, question: &str) -> Words {
    let question = format!("{}.", question.trim_end_matches('.'));
    let between =
        |start: &str, end: char| text.split_once(start).and_then(|(_, rest)| rest.split(end).next()).unwrap_or_default();
    let flags: Vec<&str> = between(";; flags:", ';').split_whitespace().collect();
    let rcode = match between("status: ", ',') {
        "NOERROR" => "NoError",
        "NXDOMAIN" => "NXDomain",
        "SERVFAIL" => "ServFail",
        "REFUSED" => "Refused",
        other => other,
    };
    let section = |title: &str| {
        let lines = text.split_once(title).map(|(_, rest)| rest.lines().skip(1)).into_iter().flatten();
        lines.take_while(|line| !line.is_empty() && !line.starts_with(';')).map(|line| record(line, &question)).collect()
    };
    Words {
        rcode: rcode.into(),
        flags: ["aa", "tc", "ra"].map(|flag| flags.contains(&flag)),
        sections: [";; ANSWER SECTION:", ";; AUTHORITY SECTION:", ";; ADDITIONAL SECTION:"].map(section),
    }
}

fn record(line: &str, question: &str) -> String {
    let mut fields = line.split_whitespace();
    let mut next = || fields.next().unwrap_or_else(|| panic!("no record: {line}"));
    let (owner, ttl, _class, rtype) = (next(), next(), next(), next());
    let data: Vec<&str> = fields.map(|field| field.trim_matches('"')).collect();
    record_words(question, owner, ttl.parse().expect("a TTL"), rtype, &data.join(" "))
}
