//! Corefiles as clusters have them, and every way to get one wrong.

use proptest::prelude::*;

use super::*;
use crate::name::{self, WireName};

const KUBEADM: &str = include_str!("testdata/kubeadm.corefile");
const NODE_LOCAL: &str = include_str!("testdata/nodelocal.corefile");

fn read(text: &str) -> Result<Corefile> {
    parse(text, &|name| (name == "UPSTREAM").then(|| "192.0.2.7".to_owned()))
}

/// A block with these directives.
fn block(directives: &str) -> ServerBlock {
    let text = format!(".:53 {{\n{directives}\n}}\n");
    let mut corefile = read(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    corefile.servers.remove(0)
}

fn zone(text: &str) -> WireName {
    name::encode(text).expect("a name")
}

fn zones(texts: &[&str]) -> Vec<WireName> {
    texts.iter().map(|text| zone(text)).collect()
}

fn seconds(seconds: u64) -> std::time::Duration {
    std::time::Duration::from_secs(seconds)
}

#[test]
fn kubeadms_own_file() {
    let corefile = read(KUBEADM).expect("as it is");
    let [server] = corefile.servers.as_slice() else { panic!("{corefile:?}") };
    assert_eq!(server.keys, [Key { zone: zone("."), port: 53 }]);
    assert!(server.errors && server.detect_loops && server.loadbalance && server.log.is_empty());
    assert_eq!(server.health, Some(Health { listen: "[::]:8080".parse().expect("address"), lameduck: seconds(5) }));
    assert_eq!(server.ready, Some("[::]:8181".parse().expect("address")));
    assert_eq!(server.prometheus, Some("[::]:9153".parse().expect("address")));
    assert_eq!(
        server.kubernetes,
        Some(Kubernetes {
            zones: zones(&["cluster.local"]),
            reverse: zones(&["in-addr.arpa", "ip6.arpa"]),
            pods: Pods::Insecure,
            ttl: 30,
            fallthrough: Fallthrough::Zones(zones(&["in-addr.arpa", "ip6.arpa"])),
            namespaces: Vec::new(),
            endpoint_pod_names: false,
            ignore_empty_service: false,
        })
    );
    let [forward] = server.forwards.as_slice() else { panic!("{:?}", server.forwards) };
    assert_eq!((&forward.from, &forward.to[..]), (&zone("."), &[Target::ResolvConf("/etc/resolv.conf".into())][..]));
    assert_eq!((forward.max_concurrent, forward.policy, forward.max_fails), (1000, Policy::Random, 2));
    let cache = server.cache.as_ref().expect("a cache");
    assert_eq!((cache.success.max_ttl, cache.denial.max_ttl, cache.success.min_ttl), (30, 30, 5));
    assert_eq!((&cache.no_success, &cache.no_denial), (&zones(&["cluster.local"]), &zones(&["cluster.local"])));
    assert!(cache.stale.is_some(), "stale answers are served unless that is turned off");
    assert_eq!(server.reload, Some(Reload { interval: seconds(30), jitter: seconds(15) }));
}

#[test]
fn node_local_dnscaches_file() {
    let corefile = read(NODE_LOCAL).expect("as it is");
    let keys: Vec<String> = corefile.servers.iter().map(|server| name::display(&server.keys[0].zone)).collect();
    assert_eq!(keys, ["cluster.local.", "in-addr.arpa.", "ip6.arpa.", "."]);
    let first = &corefile.servers[0];
    let address = |text: &str| Bind::Address(text.parse().expect("address"));
    assert_eq!(first.bind, [address("169.254.20.10"), address("10.96.0.10")]);
    assert!(first.forwards[0].force_tcp);
    let cache = first.cache.as_ref().expect("a cache");
    assert_eq!((cache.success.capacity, cache.success.max_ttl), (9984, 30));
    assert_eq!((cache.denial.capacity, cache.denial.max_ttl), (9984, 5));
}

#[test]
fn words_comments_quotes_and_variables() {
    let server = block("# a comment\n  errors # another\r\n\tforward . {$UPSTREAM}:5353 # {$UPSTREAM}\n bind \"eth 0\" # \"\n");
    assert!(server.errors);
    assert_eq!(server.forwards[0].to, [Target::Address("192.0.2.7:5353".parse().expect("address"))]);
    assert_eq!(server.bind, [Bind::Interface("eth 0".into())]);
    let server = block("rewrite name regex \"a\\\"b\" x.org\nforward . 192.0.2.{%NONE%}1");
    assert!(
        matches!(&server.rewrites[0].rule, RewriteRule::Name { from: Pattern::Regex(regex), .. } if regex.as_str() == "a\"b")
    );
    assert_eq!(server.forwards[0].to, [Target::Address("192.0.2.1:53".parse().expect("address"))]);
}

#[test]
fn zones_of_blocks() {
    let keys = |text: &str| -> Vec<(String, u16)> {
        let servers = read(text).unwrap_or_else(|error| panic!("{error}")).servers;
        servers.iter().flat_map(|server| &server.keys).map(|key| (name::display(&key.zone), key.port)).collect()
    };
    let key = |zone: &str, port| (zone.to_owned(), port);
    assert_eq!(keys("a.org, b.org:54\n{\nerrors\n}"), [key("a.org.", 53), key("b.org.", 54)]);
    assert_eq!(keys("a.org,\nb.org {\nerrors\n}"), [key("a.org.", 53), key("b.org.", 53)]);
    assert_eq!(keys("dns://.:1053 10.0.0.0/8 {\n}"), [key(".", 1053), key("10.in-addr.arpa.", 53)]);
    assert_eq!(keys(":53\nerrors\nforward . 1.1.1.1\n"), [key(".", 53)], "without braces");
    assert_eq!(keys("a.org {\n}\na.org:54 {\n}\n"), [key("a.org.", 53), key("a.org.", 54)]);
    assert_eq!(keys(". {\nbind 127.0.0.1\n}\n. {\nbind 127.0.0.2\n}\n").len(), 2);
}

#[test]
fn forward_with_every_option() {
    let server = block(
        "forward example.org 1.1.1.1 dns://[2001:db8::1]:54 /run/resolv.conf {\n except a.example.org b.example.org\n force_tcp\n \
         prefer_udp\n expire 20s\n max_fails 3\n max_connect_attempts 4\n policy sequential\n \
         health_check 5s no_rec domain example.net\n max_concurrent 10\n failover SERVFAIL refused\n max_idle_conns 3\n \
         failfast_all_unhealthy_upstreams\n}",
    );
    let expected = Forward {
        line: 2,
        from: zone("example.org"),
        to: vec![
            Target::Address("1.1.1.1:53".parse().expect("address")),
            Target::Address("[2001:db8::1]:54".parse().expect("address")),
            Target::ResolvConf("/run/resolv.conf".into()),
        ],
        except: zones(&["a.example.org", "b.example.org"]),
        policy: Policy::Sequential,
        force_tcp: true,
        prefer_udp: true,
        expire: seconds(20),
        max_fails: 3,
        max_attempts: 4,
        max_concurrent: 10,
        health_check: HealthCheck { interval: seconds(5), recursion_desired: false, domain: zone("example.net") },
        failover: vec![2, 5],
        failfast: true,
    };
    assert_eq!(server.forwards, [expected]);
}

#[test]
fn cache_with_every_option() {
    let server = block(
        "cache 300 example.org {\n success 2000 600 10\n denial 5 20\n prefetch 10 2m 20%\n serve_stale 2h verify\n \
         servfail 1s\n disable denial\n keepttl\n}",
    );
    let expected = Cache {
        zones: zones(&["example.org"]),
        success: CacheClass { capacity: 2000, max_ttl: 600, min_ttl: 10 },
        denial: CacheClass { capacity: 1024, max_ttl: 20, min_ttl: 5 },
        no_success: Vec::new(),
        no_denial: zones(&["."]),
        prefetch: Some(Prefetch { amount: 10, within: seconds(120), percentage: 20 }),
        stale: Some(Stale { keep: seconds(7200), verify: true }),
        servfail: seconds(1),
        keep_ttl: true,
    };
    assert_eq!(server.cache, Some(expected));
    assert_eq!(block("cache").cache, Some(Cache::default()));
    assert_eq!(block("cache {\nprefetch 0\n}").cache.expect("a cache").prefetch, None);
}

#[test]
fn the_other_directives_with_their_options() {
    let server = block(
        "log example.org {\n class denial error\n}\nlog .\nhealth 127.0.0.1:81\nready localhost:82\nreload 10s 3s\nbufsize 1400\n\
         autopath @kubernetes\nloadbalance round_robin\nerrors {\n consolidate 5m \".* timeout$\" warning\n stacktrace\n}\nminimal\n\
         hosts /etc/hosts example.org {\n 10.0.0.1 a.example.org b.example.org\n ::1 a.example.org\n ttl 60\n no_reverse\n \
         reload 1m\n fallthrough\n}\nacl example.org {\n allow type A AAAA net 10.0.0.0/8 192.0.2.1\n block type * net *\n filter\n drop net ::/0\n}",
    );
    let failures = Log { zones: zones(&["example.org"]), classes: vec![LogClass::Denial, LogClass::Error] };
    assert_eq!(server.log, [failures, Log { zones: zones(&["."]), classes: Vec::new() }]);
    assert_eq!(server.health.expect("health").listen, "127.0.0.1:81".parse().expect("address"));
    assert_eq!(server.ready, Some("127.0.0.1:82".parse().expect("address")));
    assert_eq!(server.reload, Some(Reload { interval: seconds(10), jitter: seconds(3) }));
    assert_eq!((server.bufsize, server.loadbalance), (Some(1400), true));
    assert_eq!(server.autopath, Some(Autopath { zones: Vec::new(), resolv_conf: None }));
    let hosts = &server.hosts[0];
    assert_eq!(hosts.inline[0], ("10.0.0.1".parse().expect("address"), zones(&["a.example.org", "b.example.org"])));
    assert_eq!((hosts.inline.len(), hosts.ttl, hosts.reverse, hosts.reload), (2, 60, false, seconds(60)));
    assert_eq!((&hosts.zones, &hosts.fallthrough), (&zones(&["example.org"]), &Fallthrough::Always));
    let acl: Vec<_> = server.acl[0].rules.iter().map(|rule| (rule.action, rule.types.clone(), rule.sources.len())).collect();
    let expected = [
        (AclAction::Allow, vec![1, 28], 2),
        (AclAction::Block, vec![], 0),
        (AclAction::Filter, vec![], 0),
        (AclAction::Drop, vec![], 1),
    ];
    assert_eq!(acl, expected);
    assert_eq!(block("reload off").reload, None);
    assert_eq!(block("reload 4s").reload, Some(Reload { interval: seconds(4), jitter: seconds(2) }));
}

#[test]
fn rewrites() {
    let rule = |text: &str| format!("{:?}", block(&format!("rewrite {text}")).rewrites.remove(0));
    for (one, same) in [
        ("name a.org b.org", "stop name exact A.org b.org"),
        ("a.org b.org", "name exact a.org. b.org"),
        ("name suffix .a.org .b.org answer auto", "{\nname suffix .a.org. .b.org\nanswer auto\n}"),
        (
            "continue name regex (.*)\\.a\\.org {1}.b.org answer name (.*)\\.b\\.org {1}.a.org",
            "continue {\nname regex (.*)\\.a\\.org {1}.b.org\nanswer name (.*)\\.b\\.org {1}.a.org\n}",
        ),
        ("ttl a.org 30", "ttl exact a.org 30-30"),
        ("ttl suffix a.org -30", "ttl suffix a.org 0-30"),
    ] {
        assert_eq!(rule(one), rule(same), "{one}");
    }
    let RewriteRule::Ttl { least, most, .. } = block("rewrite ttl regex .* 30-").rewrites.remove(0).rule else { panic!() };
    assert_eq!((least, most), (30, i32::MAX as u32));
}

#[test]
fn what_is_wrong_is_said_with_its_line_and_what_to_do() {
    // Text, line, words of the problem, words of the advice.
    for (text, line, problem, advice) in include!("testdata/wrong.in") {
        let error = read(text).expect_err(text);
        assert_eq!(error.line, line, "{text}: {error}");
        assert!(error.problem.contains(problem), "{text}: {error}");
        assert!(error.advice.contains(advice), "{text}: {error}");
        assert!(error.to_string().starts_with(&format!("Corefile line {line}: ")), "{error}");
    }
}

#[test]
fn every_directive_that_is_refused_says_what_to_do() {
    for name in ["template", "import", "file", "etcd", "dnssec", "grpc", "trace", "whoami", "proxy"] {
        let error = read(&format!(". {{\n  {name} something\n}}")).expect_err(name);
        assert!(error.problem.contains("not supported") && error.advice.len() > 10, "{error}");
    }
}

proptest! {
    /// Whatever the bytes: a Corefile or an error with a line of the text.
    #[test]
    fn no_text_makes_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let text = String::from_utf8_lossy(&bytes);
        if let Err(error) = read(&text) {
            prop_assert!((1..=text.lines().count().max(1)).contains(&error.line), "{error}");
        }
    }

    /// Words of the language in any order.
    #[test]
    fn no_words_make_the_parser_panic(words in proptest::collection::vec(proptest::sample::select(&include!("testdata/words.in")[..]), 0..60)) {
        let text = words.join(" ").replace(" \n ", "\n");
        if let Err(error) = read(&text) {
            prop_assert!((1..=text.lines().count().max(1)).contains(&error.line), "{error}\n{text}");
        }
    }

    /// A good file with one octet changed, added or taken away.
    #[test]
    fn no_typing_error_makes_the_parser_panic(at in 0..KUBEADM.len(), with in "[ -~\n]{0,2}", gone in 0..3usize) {
        let mut text = KUBEADM.to_owned();
        let end = (at + gone).min(text.len());
        text.replace_range(at..end, &with);
        if let Err(error) = read(&text) {
            prop_assert!((1..=text.lines().count()).contains(&error.line), "{error}");
        }
    }
}
