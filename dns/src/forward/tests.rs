//! The whole way on loopback: a client, our server, and upstreams that fail in every way.

use std::net::{SocketAddr, UdpSocket};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record};

use super::script::{Asked, Script, bytes};
use super::*;
use crate::corefile;
use crate::server::Server;
use crate::stub_domains::StubDomains;
use crate::testkit::{packet, sample, words};
use thalweg_cluster::World;

const PATIENCE: Duration = Duration::from_secs(20);
const SERVFAIL: &str = "ServFail ra";

fn config(corefile: &str) -> crate::Config {
    let parsed = corefile::parse(corefile, &|_| None).unwrap_or_else(|error| panic!("{error}"));
    crate::Config::from_corefile(&parsed, &StubDomains::default()).expect("a configuration")
}

/// A server of a block of the root with these lines.
fn server(lines: &str) -> Server {
    serve(&format!(".:53 {{\n{lines}\n}}"))
}

fn serve(corefile: &str) -> Server {
    Server::serve(&["127.0.0.1:0".parse().expect("an address")], 1, &config(corefile)).expect("a server")
}

/// What a client is told.
fn ask(server: &Server, name: &str) -> String {
    words(&ask_with(server, &packet(name, "A", None)))
}

fn ask_with(server: &Server, packet: &[u8]) -> Vec<u8> {
    let client = client(server);
    client.send(packet).expect("sent");
    receive(&client)
}

fn client(server: &Server) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    socket.connect(server.addresses()[0]).expect("connected");
    socket
}

fn receive(client: &UdpSocket) -> Vec<u8> {
    let mut reply = [0; 4096];
    let length = client.recv(&mut reply).expect("a reply");
    reply[..length].to_vec()
}

fn says(last: u8) -> String {
    format!("NoError ra an[@ 60 A 192.0.2.{last}]")
}

fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Lines that ask these in turn.
fn forward(upstreams: &[SocketAddr], options: &str) -> String {
    let to: Vec<String> = upstreams.iter().map(ToString::to_string).collect();
    format!("forward . {} {{\npolicy sequential\n{options}\n}}", to.join(" "))
}

/// A Corefile that asks this one and keeps what it says.
fn remembering(upstream: &Script) -> String {
    format!(".:53 {{\n{}\ncache 300\n}}", forward(&[upstream.address], ""))
}

#[test]
fn an_upstream_that_is_not_there_is_passed_over() {
    let good = Script::new(|asked| asked.says(1));
    let server = server(&forward(&[Script::nobody(), good.address], ""));
    for index in 0..5 {
        assert_eq!(ask(&server, &format!("n{index}.example.org")), says(1));
    }
    assert_eq!(ask(&self::server(&forward(&[Script::nobody()], "")), "a.example.org"), SERVFAIL);
}

#[test]
fn an_upstream_that_is_silent_is_not_waited_for() {
    let (silent, good) = (Script::new(|_| Vec::new()), Script::new(|asked| asked.says(1)));
    let server = server(&forward(&[silent.address, good.address], "max_fails 0"));
    assert_eq!(ask(&server, "a.example.org"), says(1));
    assert_eq!((silent.asked().len(), good.asked().len()), (1, 1));
    assert_eq!(server.upstreams()[0].hedges, 1, "the other was asked while the first might still have answered");
}

#[test]
fn a_lost_packet_is_sent_again() {
    let once = Script::new(|asked| if asked.number == 0 { Vec::new() } else { asked.says(1) });
    let server = server(&forward(&[once.address], "max_fails 0"));
    assert_eq!(ask(&server, "a.example.org"), says(1));
    let asked = once.asked();
    assert!(asked[0].id() != asked[1].id() && asked[0].from != asked[1].from, "as a new question");
}

#[test]
fn lies_are_ignored_and_the_truth_is_waited_for() {
    let liar = Script::new(|asked| {
        let mut wrong_id = asked.reply(ResponseCode::NoError, 60, &[[192, 0, 2, 66]]);
        wrong_id.metadata.id ^= 1;
        let mut wrong_name = bytes(&asked.reply(ResponseCode::NoError, 60, &[[192, 0, 2, 66]]));
        wrong_name[13] = b'x';
        let mut all = vec![bytes(&wrong_id), wrong_name, b"rubbish".to_vec()];
        all.extend(asked.says(1));
        all
    });
    let server = server(&forward(&[liar.address], ""));
    assert_eq!(ask(&server, "a.example.org"), says(1));
    assert_eq!(liar.asked().len(), 1);
}

#[test]
fn who_only_lies_is_not_believed() {
    let liar = Script::new(|asked| {
        let mut wrong = asked.reply(ResponseCode::NoError, 60, &[[192, 0, 2, 66]]);
        wrong.metadata.id = wrong.metadata.id.wrapping_add(7);
        if asked.tcp { Vec::new() } else { vec![bytes(&wrong); 3] }
    });
    let server = server(&forward(&[liar.address], "max_connect_attempts 1"));
    assert_eq!(ask(&server, "a.example.org"), SERVFAIL);
}

#[test]
fn records_that_were_not_asked_for_are_not_passed_on() {
    let liar = Script::new(|asked| {
        let mut reply = asked.reply(ResponseCode::NoError, 60, &[[192, 0, 2, 1]]);
        let bank = Name::from_ascii("www.bank.example.").expect("a name");
        let lie = Record::from_rdata(bank, 9999, RData::A(A::new(192, 0, 2, 66)));
        reply.add_answer(lie.clone()).add_authority(lie.clone()).add_additional(lie);
        vec![bytes(&reply)]
    });
    let server = server(&format!("{}\ncache", forward(&[liar.address], "")));
    assert_eq!(ask(&server, "a.example.org"), says(1));
    ask(&server, "www.bank.example");
    assert_eq!(liar.asked().last().expect("asked").lower_name(), "www.bank.example.", "the cache did not learn the lie");
}

#[test]
fn who_does_not_repeat_the_casing_is_asked_over_tcp() {
    let flat = Script::new(|asked| {
        let mut reply = asked.says(1).remove(0);
        if !asked.tcp {
            reply[12..].iter_mut().take(20).for_each(|octet| octet.make_ascii_lowercase());
        }
        vec![reply]
    });
    let server = server(&forward(&[flat.address], ""));
    assert_eq!(ask(&server, "a-name-with-many-letters.example.org"), says(1));
    assert!(flat.asked().iter().any(|asked| asked.tcp));
}

#[test]
fn what_is_cut_comes_whole_over_tcp() {
    let addresses: Vec<[u8; 4]> = (0..20).map(|last| [192, 0, 2, last]).collect();
    let cutting = Script::new(move |asked| {
        let mut reply = asked.reply(ResponseCode::NoError, 60, if asked.tcp { &addresses } else { &[] });
        reply.metadata.truncation = !asked.tcp;
        vec![bytes(&reply)]
    });
    let server = server(&forward(&[cutting.address], ""));
    let reply = Message::from_vec(&ask_with(&server, &packet("a.example.org", "A", None))).expect("a reply");
    assert_eq!((reply.answers.len(), reply.metadata.truncation), (20, false));
    assert_eq!(cutting.asked().iter().map(|asked| asked.tcp).collect::<Vec<_>>(), [false, true]);
    let only_tcp = Script::new(|asked| if asked.tcp { asked.says(2) } else { Vec::new() });
    let server = self::server(&forward(&[only_tcp.address], "force_tcp"));
    assert_eq!(ask(&server, "a.example.org"), says(2));
    assert!(only_tcp.asked().iter().all(|asked| asked.tcp));
}

#[test]
fn codes_that_count_as_failures() {
    let failing = Script::new(|asked| asked.fails(ResponseCode::ServFail));
    let good = Script::new(|asked| asked.says(1));
    let upstreams = [failing.address, good.address];
    assert_eq!(ask(&server(&forward(&upstreams, "failover SERVFAIL")), "a.example.org"), says(1));
    assert_eq!(ask(&server(&forward(&upstreams, "")), "a.example.org"), SERVFAIL, "the first answer counts");
    assert_eq!(ask(&server(&forward(&upstreams[..1], "failover SERVFAIL")), "a.example.org"), SERVFAIL);
    let rude = Script::new(|asked| vec![[&asked.packet[..2], b"\x80\x01\0\0\0\0\0\0\0\0"].concat()]);
    assert_eq!(
        ask(&server(&forward(&[rude.address, good.address], "")), "a.example.org"),
        says(1),
        "FORMERR without a question"
    );
}

/// Passes on what it is asked, as a resolver on this machine would whose upstream we are.
fn relay(asked: &Asked, ours: SocketAddr) -> Vec<Vec<u8>> {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.set_read_timeout(Some(Duration::from_secs(1))).expect("a time-out");
    socket.send_to(&asked.packet, ours).expect("sent");
    let mut reply = [0; 4096];
    socket.recv(&mut reply).map(|length| vec![reply[..length].to_vec()]).unwrap_or_default()
}

#[test]
fn a_loop_is_found_and_not_followed() {
    for manner in ["", "force_tcp"] {
        let ours = Arc::new(OnceLock::new());
        let known = ours.clone();
        let relay = Script::new(move |asked| known.get().map(|ours| relay(asked, *ours)).unwrap_or_default());
        let server = server(&format!("loop\n{}", forward(&[relay.address], manner)));
        ours.set(server.addresses()[0]).expect("once");
        wait_for("the loop is found", || !server.upstreams()[0].upstreams[0].up);
        assert_eq!(ask(&server, "a.example.org"), SERVFAIL);
        assert!(relay.asked().is_empty());
    }
}

#[test]
fn equal_questions_are_asked_once() {
    let gate = Arc::new(AtomicBool::new(false));
    let open = gate.clone();
    let slow = Script::new(move |asked| {
        wait_for("the gate", || open.load(Ordering::Relaxed));
        asked.says(1)
    });
    let server = server(&forward(&[slow.address], "max_connect_attempts 1"));
    let clients: Vec<UdpSocket> = (0..20).map(|_| client(&server)).collect();
    for (index, client) in clients.iter().enumerate() {
        let name = if index % 2 == 0 { "a.example.org" } else { "A.exAmple.org" };
        client.send(&packet(name, "A", None)).expect("sent");
    }
    wait_for("all have arrived", || server.stats().udp == 20);
    gate.store(true, Ordering::Relaxed);
    for client in &clients {
        assert_eq!(words(&receive(client)), says(1), "each with its own casing");
    }
    assert_eq!(slow.asked().len(), 1);
}

#[test]
fn no_more_questions_at_once_than_allowed() {
    let silent = Script::new(|asked| if asked.lower_name() == "fast.example.org." { asked.says(1) } else { Vec::new() });
    let lines = forward(&[silent.address], "max_concurrent 1\nmax_connect_attempts 1\nmax_fails 0");
    for (round, cache) in ["", "cache"].into_iter().enumerate() {
        let server = server(&format!("{lines}\n{cache}"));
        let waiting = client(&server);
        waiting.send(&packet("slow.example.org", "A", None)).expect("sent");
        wait_for("it is asked", || {
            silent.asked().iter().filter(|asked| asked.lower_name().starts_with("slow")).count() > round
        });
        assert_eq!(ask(&server, "fast.example.org"), "Refused ra");
        assert_eq!(words(&receive(&waiting)), SERVFAIL);
        assert_eq!(ask(&server, "fast.example.org"), says(1), "the place is free again, and {cache:?} does not say otherwise");
    }
}

#[test]
fn that_nobody_answered_is_not_remembered() {
    let once = Script::new(|asked| if asked.number == 0 { Vec::new() } else { asked.says(1) });
    let server = server(&format!("{}\ncache", forward(&[once.address], "max_connect_attempts 1\nmax_fails 0")));
    assert_eq!(ask(&server, "a.example.org"), SERVFAIL);
    assert_eq!(ask(&server, "a.example.org"), says(1));
}

#[test]
fn no_answer_is_larger_than_the_operator_allows() {
    let addresses: Vec<[u8; 4]> = (0..60).map(|last| [192, 0, 2, last]).collect();
    let upstream = Script::new(move |asked| vec![bytes(&asked.reply(ResponseCode::NoError, 60, &addresses))]);
    let hosts: String = (0..60).map(|last| format!("10.0.0.{last} many.example.net\n")).collect();
    let server = server(&format!(
        "bufsize 600\nkubernetes cluster.local\nhosts {{\n{hosts}fallthrough\n}}\n{}\ncache",
        forward(&[upstream.address], "")
    ));
    let cluster = sample(true);
    server.publish(&cluster.world, &cluster.dirty);
    server.mark_synced();
    // Of the zone, of the hosts, of an upstream and of the cache, and of an alias with both.
    for name in ["many.lots.svc.~", "many.example.net", "www.example.org", "www.example.org", "docs.ext.svc.~"] {
        let reply = ask_with(&server, &packet(name, "A", Some(4096)));
        let message = Message::from_vec(&reply).expect("a reply");
        let edns = message.edns.as_ref().expect("EDNS");
        assert!(message.metadata.truncation && reply.len() <= 600, "{name}: {} octets: {}", reply.len(), words(&reply));
        assert_eq!(edns.max_payload(), 600, "{name}");
    }
}

#[test]
fn names_go_where_their_zone_says() {
    let [inner, outer, rest] = [1, 2, 3].map(|last| Script::new(move |asked| asked.says(last)));
    let server = serve(&format!(
        "acme.local:53 {{\nforward . {}\n}}\n.:53 {{\nforward corp.example {}\nforward . {} {{\nexcept never.example\n}}\n}}",
        inner.address, outer.address, rest.address
    ));
    for (name, expected) in [
        ("www.acme.local", says(1)),
        ("acme.local", says(1)),
        ("a.corp.example", says(2)),
        ("xcorp.example", says(3)),
        ("org", says(3)),
        ("a.never.example", "Refused ra".into()),
    ] {
        assert_eq!(ask(&server, name), expected, "{name}");
    }
}

#[test]
fn identifiers_ports_and_casing_are_hard_to_guess() {
    let honest = Script::new(|asked| asked.says(1));
    let server = server(&forward(&[honest.address], ""));
    for index in 0..60 {
        assert_eq!(ask(&server, &format!("n{index}.a-long-name-with-many-letters.example.org")), says(1));
    }
    let asked = honest.asked();
    let different = |of: &dyn Fn(&Asked) -> String| asked.iter().map(of).collect::<std::collections::BTreeSet<_>>().len();
    assert!(different(&|asked| asked.id().to_string()) > 55);
    assert!(different(&|asked| asked.from.port().to_string()) > 40);
    assert!(different(&|asked| asked.name().split_once('.').expect("labels").1.to_owned()) > 55);
}

#[test]
fn answers_are_remembered() {
    let upstream = Script::new(|asked| asked.says(1));
    let server = server(&format!("{}\ncache", forward(&[upstream.address], "")));
    for name in ["a.example.org", "A.example.orG", "a.exaMple.org"] {
        assert!(ask(&server, name).ends_with("A 192.0.2.1]"));
    }
    assert_eq!(upstream.asked().len(), 1);
    let (zone, stats) = server.caches().remove(0);
    assert_eq!((zone.as_str(), stats.misses, stats.success_hits, stats.success_entries), (".", 1, 2, 1));
}

#[test]
fn answers_are_given_stale_when_nobody_answers() {
    let up = Arc::new(AtomicBool::new(true));
    let is_up = up.clone();
    let upstream = Script::new(move |asked| match is_up.load(Ordering::Relaxed) {
        true => vec![bytes(&asked.reply(ResponseCode::NoError, 1, &[[192, 0, 2, 1]]))],
        false => asked.fails(ResponseCode::ServFail),
    });
    let server = server(&format!("{}\ncache {{\nsuccess 1024 1 1\n}}", forward(&[upstream.address], "")));
    assert_eq!(ask(&server, "a.example.org"), "NoError ra an[@ 1 A 192.0.2.1]");
    up.store(false, Ordering::Relaxed);
    wait_for("its time is over", || ask(&server, "a.example.org") == "NoError ra an[@ 30 A 192.0.2.1]");
    assert_eq!(ask(&server, "b.example.org"), SERVFAIL, "there is nothing stale of what was never known");
    let before = upstream.asked().len();
    assert_eq!(ask(&server, "a.example.org"), "NoError ra an[@ 30 A 192.0.2.1]");
    assert_eq!(upstream.asked().len(), before, "the upstream is left in peace");
}

#[test]
fn the_first_client_is_told_how_long_it_is_kept() {
    let upstream = Script::new(|asked| vec![bytes(&asked.reply(ResponseCode::NoError, 9999, &[[192, 0, 2, 1]]))]);
    for (options, ttl) in [("cache 30", 30), ("cache {\nkeepttl\n}", 9999)] {
        let server = server(&format!("{}\n{options}", forward(&[upstream.address], "")));
        assert_eq!(ask(&server, "a.example.org"), format!("NoError ra an[@ {ttl} A 192.0.2.1]"), "{options}");
    }
}

#[test]
fn an_upstream_that_fails_is_left_out_until_it_is_back() {
    let up = Arc::new(AtomicBool::new(false));
    let is_up = up.clone();
    let first = Script::new(move |asked| if is_up.load(Ordering::Relaxed) { asked.says(1) } else { Vec::new() });
    let second = Script::new(|asked| asked.says(2));
    let server = server(&forward(&[first.address, second.address], "max_fails 1\nhealth_check 10ms"));
    let forwarder = server.forwarder().expect("a forwarder");
    let upstream = forwarder.plan().groups().next().expect("a group").upstreams[0].clone();
    // A question is over when the second upstream has answered; the checks begin when the first one's time is over.
    let mut number = 0;
    let mut next = || {
        number += 1;
        ask(&server, &format!("n{number}.example.org"))
    };
    let begin = Instant::now();
    while upstream.is_up(1) {
        assert!(begin.elapsed() < PATIENCE, "it is found to be down");
        assert_eq!(next(), says(2));
    }
    let before = first.asked().len();
    (0..5).for_each(|_| assert_eq!(next(), says(2)));
    assert_eq!(first.asked().len(), before, "it is not asked while it is down");
    up.store(true, Ordering::Relaxed);
    wait_for("it is found to be up", || upstream.is_up(1));
    assert_eq!(next(), says(1));
    assert!(first.checks() > 0);
}

#[test]
fn a_reload_loses_no_query_and_keeps_what_the_same_upstreams_said() {
    let [old, new] = [1, 2].map(|last| Script::new(move |asked| asked.says(last)));
    let server = serve(&remembering(&old));
    assert_eq!(ask(&server, "known.example.org"), says(1));
    server.reload(&config(&remembering(&old).replace("policy", "max_fails 7\npolicy")), &World::default()).expect("reloaded");
    assert!(ask(&server, "known.example.org").ends_with("A 192.0.2.1]"));
    assert_eq!(old.asked().len(), 1, "the cache went on");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut asked = 0;
            while !done.load(Ordering::Relaxed) {
                let reply = ask(&server, &format!("n{asked}.example.org"));
                assert!(reply == says(1) || reply == says(2), "{reply}");
                asked += 1;
            }
            asked
        });
        for round in 0..20 {
            let upstream = if round % 2 == 0 { &new } else { &old };
            server.reload(&config(&remembering(upstream)), &World::default()).expect("reloaded");
            std::thread::sleep(Duration::from_millis(5));
        }
        server.reload(&config(&remembering(&new)), &World::default()).expect("reloaded");
        done.store(true, Ordering::Relaxed);
        assert!(asking.join().expect("every query was answered") > 0);
    });
    assert_eq!(ask(&server, "other.example.org"), says(2));
    assert_eq!(ask(&server, "known.example.org"), says(2), "who is not configured any more has no say");
}

#[test]
fn what_an_upstream_of_before_says_late_is_not_remembered() {
    let gate = Arc::new(AtomicBool::new(false));
    let open = gate.clone();
    let old = Script::new(move |asked| {
        wait_for("the gate", || open.load(Ordering::Relaxed));
        asked.says(1)
    });
    let new = Script::new(|asked| asked.says(2));
    let server = serve(&remembering(&old));
    let waiting = client(&server);
    waiting.send(&packet("a.example.org", "A", None)).expect("sent");
    wait_for("it is asked", || !old.asked().is_empty());
    server.reload(&config(&remembering(&new)), &World::default()).expect("reloaded");
    gate.store(true, Ordering::Relaxed);
    assert_eq!(words(&receive(&waiting)), says(1), "who asked before is answered");
    assert_eq!(ask(&server, "a.example.org"), says(2));
}

#[test]
fn names_are_rewritten_on_the_way_out_and_back() {
    let upstream = Script::new(|asked| asked.says(1));
    let lines = "rewrite name suffix .inside.test .example.org\nhosts {\n192.0.2.9 fixed.example.org\nfallthrough\n}";
    let server = server(&format!("{lines}\n{}", forward(&[upstream.address], "")));
    assert_eq!(ask(&server, "wWw.inside.test"), says(1));
    assert_eq!(ask(&server, "www.example.org"), says(1));
    let asked: Vec<String> = upstream.asked().iter().map(Asked::lower_name).collect();
    assert_eq!(asked, ["www.example.org.", "www.example.org."]);
    let fixed = "NoError aa ra an[@ 3600 A 192.0.2.9]";
    assert_eq!((ask(&server, "fixed.example.org"), ask(&server, "fixed.inside.test")), (fixed.into(), fixed.into()));
    assert_eq!(upstream.asked().len(), 2);
}
