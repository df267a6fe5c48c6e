//! The rules for choosing endpoints and addresses, as one table; its language is in `words`.

mod words;

use thalweg_cluster::{Change, Dirty};

use super::*;
use words::{name, node, service, slice, view};

const NAME: &str = "shop/web";

/// One line per frontend: what is dialled, `ext` from outside, what it has, `->` who answers.
fn render(plan: &ServicePlan) -> Vec<String> {
    let short = |address: &SocketAddr| address.to_string().replace("10.244.", "");
    let mut lines = Vec::new();
    for frontend in &plan.frontends {
        let flags = frontend.flags;
        let set = &plan.sets[frontend.set].endpoints;
        if flags.has(FrontendFlags::WILDCARD) {
            assert_eq!((frontend.port, frontend.protocol, set.len()), (0, Proto::ANY, 0));
            lines.push(format!("ours {}", frontend.vip));
            continue;
        }
        let protocol = if frontend.protocol == Proto::TCP { "tcp" } else { "udp" };
        let mut line = format!("{}/{protocol}", SocketAddr::new(frontend.vip, frontend.port));
        for (flag, word) in [
            (frontend.scope == Scope::EXTERNAL, "ext"),
            (flags.has(FrontendFlags::NODE_PORT), "nodeport"),
            (flags.has(FrontendFlags::LOCAL_ONLY), "keep-source"),
            (flags.has(FrontendFlags::DROP_WHEN_EMPTY), "drop"),
        ] {
            if flag {
                line += &format!(" {word}");
            }
        }
        assert_eq!(flags.has(FrontendFlags::AFFINITY), frontend.affinity_seconds > 0);
        if frontend.affinity_seconds > 0 {
            line += &format!(" affinity {}", frontend.affinity_seconds);
        }
        line += " ->";
        for endpoint in set {
            line += &format!(" {}", short(endpoint));
        }
        lines.push(line);
    }
    if !plan.draining.is_empty() {
        lines.push(format!("draining {}", plan.draining.iter().map(short).collect::<Vec<_>>().join(" ")));
    }
    lines
}

/// `expected`: the rendered lines, in any order, separated by semicolons.
fn check_named(case: &str, full_name: &str, words: &str, slices: &[&str], expected: &str) {
    let mut world = World::default();
    let dirty = &mut Dirty::default();
    let object = service(full_name, words);
    let name = object.name.clone();
    world.apply(Change::Service(name.clone(), Some(Arc::new(object))), dirty);
    for (index, line) in slices.iter().enumerate() {
        let slice = slice(index, &name, line);
        world.apply(Change::EndpointSlice(slice.name.clone(), Some(Arc::new(slice))), dirty);
    }
    for (node_name, address) in [("n1", [172, 30, 0, 11]), ("n2", [172, 30, 0, 12])] {
        world.apply(Change::Node(node_name.into(), Some(Arc::new(node(node_name, address)))), dirty);
    }
    let plan = plan(&world, &name, &view());
    let mut keys: Vec<_> = plan.frontends.iter().map(PlannedFrontend::key).collect();
    keys.dedup();
    assert_eq!(keys.len(), plan.frontends.len(), "{case}: a key twice");
    assert!(plan.frontends.is_sorted_by_key(PlannedFrontend::key), "{case}: order");
    let mut seen = render(&plan);
    let mut wanted: Vec<String> =
        expected.split(';').map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect();
    seen.sort();
    wanted.sort();
    assert_eq!(seen, wanted, "{case}");
}

fn check(case: &str, words: &str, slices: &[&str], expected: &str) {
    check_named(case, NAME, words, slices, expected);
}

#[test]
fn what_is_served_at_all() {
    check("no ports", "10.96.0.7", &[], "");
    check("no cluster IP yet", "80/tcp", &["8080/tcp | 1.5"], "draining 1.5:8080");
    check("headless", "headless 80/tcp", &["80/tcp | 1.5"], "");
    check("ExternalName", "external-name 10.96.0.7 80/tcp", &["80/tcp | 1.5"], "");
    check("another proxy's", "other-proxy 10.96.0.7 80/tcp", &["80/tcp | 1.5"], "");
    check("SCTP alone", "10.96.0.7 9/sctp", &["9/sctp | 1.5"], "");
    check("IPv6 alone", "fd00::7 80/tcp", &[], "[fd00::7]:80/tcp ->; ours fd00::7");
    check("no endpoints: refused", "10.96.0.7 80/tcp", &[], "10.96.0.7:80/tcp ->; ours 10.96.0.7");
    let unknown = plan(&World::default(), &name(NAME), &view());
    assert!(unknown.frontends.is_empty() && unknown.sets.is_empty() && unknown.draining.is_empty());
}

#[test]
fn slices_are_merged() {
    let web = "10.96.0.7 80/tcp";
    let both = "10.96.0.7:80/tcp -> 1.5:8080 2.6:8080; ours 10.96.0.7";
    check("one slice", web, &["8080/tcp | 2.6 1.5"], both);
    check("two slices", web, &["8080/tcp | 2.6", "8080/tcp | 1.5"], both);
    check("an endpoint twice", web, &["8080/tcp | 1.5 2.6", "8080/tcp | 1.5"], both);
    check("twice, ready in one", web, &["8080/tcp | 1.5! 2.6", "8080/tcp | 1.5"], both);
    check("twice, terminating in one", web, &["8080/tcp | 1.5~ 2.6", "8080/tcp | 1.5"], both);
    check("another port's slice", web, &["8080/tcp | 1.5 2.6", "metrics=9/tcp | 1.7"], both);
    check("another protocol's slice", web, &["8080/tcp | 1.5 2.6", "8080/udp | 1.7"], both);
    check("an empty slice", web, &["8080/tcp |", "8080/tcp | 1.5 2.6"], both);
    check("an IPv6 slice", web, &["8080/tcp | 1.5 2.6", "8080/tcp | [fd00::5]"], &format!("{both}; draining [fd00::5]:8080"));
    check(
        "two ports, one target",
        "10.96.0.7 a=80/tcp b=81/tcp",
        &["a=8080/tcp b=8080/tcp | 1.5"],
        "10.96.0.7:80/tcp -> 1.5:8080; 10.96.0.7:81/tcp -> 1.5:8080; ours 10.96.0.7",
    );
}

#[test]
fn named_ports_and_protocols() {
    check(
        "a named port differs per slice",
        "10.96.0.7 http=80/tcp",
        &["http=8080/tcp | 1.5", "http=9090/tcp | 2.6"],
        "10.96.0.7:80/tcp -> 1.5:8080 2.6:9090; ours 10.96.0.7",
    );
    check(
        "TCP and UDP with one number",
        "10.96.0.7 a=53/tcp b=53/udp",
        &["a=1053/tcp b=2053/udp | 1.5"],
        "10.96.0.7:53/tcp -> 1.5:1053; 10.96.0.7:53/udp -> 1.5:2053; ours 10.96.0.7",
    );
    check(
        "one name, both protocols",
        "10.96.0.7 dns=53/tcp dns=53/udp",
        &["dns=1053/tcp dns=2053/udp | 1.5"],
        "10.96.0.7:53/tcp -> 1.5:1053; 10.96.0.7:53/udp -> 1.5:2053; ours 10.96.0.7",
    );
    check(
        "SCTP beside TCP",
        "10.96.0.7 a=80/tcp b=9/sctp",
        &["a=8080/tcp b=9/sctp | 1.5"],
        "10.96.0.7:80/tcp -> 1.5:8080; ours 10.96.0.7",
    );
    check(
        "two cluster IPs",
        "10.96.0.7 fd00::7 10.96.0.8 80/tcp",
        &["8080/tcp | 1.5"],
        "10.96.0.7:80/tcp -> 1.5:8080; 10.96.0.8:80/tcp -> 1.5:8080; [fd00::7]:80/tcp ->;
         ours 10.96.0.7; ours 10.96.0.8; ours fd00::7",
    );
}

#[test]
fn readiness_and_termination() {
    let web = "10.96.0.7 80/tcp";
    let ours = "; ours 10.96.0.7";
    let is = |case, slices: &[&str], expected: &str| check(case, web, slices, &format!("{expected}{ours}"));
    is("not ready: not chosen, keeps its connections", &["80/tcp | 1.5 2.6!"], "10.96.0.7:80/tcp -> 1.5:80; draining 2.6:80");
    is("nobody ready: refused", &["80/tcp | 1.5! 2.6!"], "10.96.0.7:80/tcp ->; draining 1.5:80 2.6:80");
    is("terminating beside ready: drains", &["80/tcp | 1.5 2.6~"], "10.96.0.7:80/tcp -> 1.5:80; draining 2.6:80");
    // cilium#37613: the fallback serves from all that still serve.
    is("terminating, nobody ready: fallback", &["80/tcp | 1.5~ 2.6~"], "10.96.0.7:80/tcp -> 1.5:80 2.6:80");
    is("fallback only to those that serve", &["80/tcp | 1.5~ 2.6x 2.7!"], "10.96.0.7:80/tcp -> 1.5:80; draining 2.6:80 2.7:80");
    is("terminating and not serving: refused", &["80/tcp | 1.5x"], "10.96.0.7:80/tcp ->; draining 1.5:80");
    check(
        "UDP moves away from what does not serve",
        "10.96.0.7 53/udp",
        &["53/udp | 1.5 2.6! 2.7~ 2.8x"],
        "10.96.0.7:53/udp -> 1.5:53; draining 2.7:53; ours 10.96.0.7",
    );
    check(
        "UDP wins where TCP shares the port",
        "10.96.0.7 a=53/udp b=53/tcp",
        &["a=53/udp b=53/tcp | 1.5 2.6! 2.7~"],
        "10.96.0.7:53/udp -> 1.5:53; 10.96.0.7:53/tcp -> 1.5:53; draining 2.7:53; ours 10.96.0.7",
    );
}

#[test]
fn internal_policy_local() {
    let web = "10.96.0.7 80/tcp internal-local";
    let is = |case, slices: &[&str], expected: &str| check(case, web, slices, &format!("{expected}; ours 10.96.0.7"));
    is("only this node's", &["80/tcp | 1.5 2.6"], "10.96.0.7:80/tcp -> 1.5:80; draining 2.6:80");
    is("none here: drop", &["80/tcp | 2.6"], "10.96.0.7:80/tcp drop ->; draining 2.6:80");
    is("none anywhere: refuse", &[], "10.96.0.7:80/tcp ->");
    is("none ready anywhere: refuse", &["80/tcp | 2.6!"], "10.96.0.7:80/tcp ->; draining 2.6:80");
    is("local fallback although another node is ready", &["80/tcp | 1.5~ 2.6"], "10.96.0.7:80/tcp -> 1.5:80; draining 2.6:80");
    is("terminating elsewhere counts as an endpoint", &["80/tcp | 2.6~"], "10.96.0.7:80/tcp drop ->; draining 2.6:80");
    is("local ready beats local terminating", &["80/tcp | 1.5~ 1.6"], "10.96.0.7:80/tcp -> 1.6:80; draining 1.5:80");
    check("Local inside, Cluster outside", "10.96.0.7 80/tcp:30080 internal-local", &["80/tcp | 1.5 2.6"],
        "10.96.0.7:80/tcp -> 1.5:80; 172.30.0.11:30080/tcp nodeport -> 1.5:80 2.6:80; 172.30.0.11:30080/tcp ext nodeport -> 1.5:80 2.6:80;
         ours 10.96.0.7");
}

#[test]
fn node_ports() {
    let ours = "; ours 10.96.0.7";
    let is = |case, words: &str, slices: &[&str], expected: &str| check(case, words, slices, &format!("{expected}{ours}"));
    is(
        "both scopes",
        "10.96.0.7 80/tcp:30080",
        &["8080/tcp | 1.5 2.6"],
        "10.96.0.7:80/tcp -> 1.5:8080 2.6:8080; 172.30.0.11:30080/tcp nodeport -> 1.5:8080 2.6:8080;
         172.30.0.11:30080/tcp ext nodeport -> 1.5:8080 2.6:8080",
    );
    is(
        "Local: inside is a short cut to the cluster set",
        "10.96.0.7 80/tcp:30080 external-local",
        &["8080/tcp | 1.5 2.6"],
        "10.96.0.7:80/tcp -> 1.5:8080 2.6:8080; 172.30.0.11:30080/tcp nodeport -> 1.5:8080 2.6:8080;
         172.30.0.11:30080/tcp ext nodeport keep-source -> 1.5:8080",
    );
    is(
        "Local, none here: drop outside only",
        "10.96.0.7 80/tcp:30080 external-local",
        &["8080/tcp | 2.6"],
        "10.96.0.7:80/tcp -> 2.6:8080; 172.30.0.11:30080/tcp nodeport -> 2.6:8080;
         172.30.0.11:30080/tcp ext nodeport keep-source drop ->",
    );
    is(
        "Local, none anywhere: refuse",
        "10.96.0.7 80/tcp:30080 external-local",
        &[],
        "10.96.0.7:80/tcp ->; 172.30.0.11:30080/tcp nodeport ->; 172.30.0.11:30080/tcp ext nodeport keep-source ->",
    );
    is(
        "Local, terminating here, ready elsewhere",
        "10.96.0.7 80/tcp:30080 external-local",
        &["8080/tcp | 1.5~ 2.6"],
        "10.96.0.7:80/tcp -> 2.6:8080; 172.30.0.11:30080/tcp nodeport -> 2.6:8080;
         172.30.0.11:30080/tcp ext nodeport keep-source -> 1.5:8080",
    );
    is(
        "Local, ready here only, terminating elsewhere",
        "10.96.0.7 80/tcp:30080 external-local",
        &["8080/tcp | 1.5 2.6~"],
        "10.96.0.7:80/tcp -> 1.5:8080; 172.30.0.11:30080/tcp nodeport -> 1.5:8080;
         172.30.0.11:30080/tcp ext nodeport keep-source -> 1.5:8080; draining 2.6:8080",
    );
    is(
        "both policies Local",
        "10.96.0.7 80/tcp:30080 external-local internal-local",
        &["8080/tcp | 1.5 2.6"],
        "10.96.0.7:80/tcp -> 1.5:8080; 172.30.0.11:30080/tcp nodeport -> 1.5:8080 2.6:8080;
         172.30.0.11:30080/tcp ext nodeport keep-source -> 1.5:8080",
    );
    is(
        "a UDP node port",
        "10.96.0.7 53/udp:30053",
        &["53/udp | 1.5"],
        "10.96.0.7:53/udp -> 1.5:53; 172.30.0.11:30053/udp nodeport -> 1.5:53; 172.30.0.11:30053/udp ext nodeport -> 1.5:53",
    );
    is(
        "a port without a node port beside one",
        "10.96.0.7 a=80/tcp b=81/tcp:30081",
        &["a=80/tcp b=81/tcp | 1.5"],
        "10.96.0.7:80/tcp -> 1.5:80; 10.96.0.7:81/tcp -> 1.5:81; 172.30.0.11:30081/tcp nodeport -> 1.5:81;
         172.30.0.11:30081/tcp ext nodeport -> 1.5:81",
    );
}

#[test]
fn external_addresses() {
    let web = "10.96.0.7:80/tcp -> 1.5:80 2.6:80; ours 10.96.0.7";
    let is = |case, words: &str, expected: &str| {
        check(case, &format!("10.96.0.7 80/tcp {words}"), &["80/tcp | 1.5 2.6"], &format!("{web}; {expected}"));
    };
    let open = "192.0.2.1:80/tcp -> 1.5:80 2.6:80; 192.0.2.1:80/tcp ext -> 1.5:80 2.6:80; ours 192.0.2.1";
    is("externalIPs", "external~192.0.2.1", open);
    is("externalIPs of IPv6", "external~2001:db8::1", "[2001:db8::1]:80/tcp ->; [2001:db8::1]:80/tcp ext ->; ours 2001:db8::1");
    is("load balancer", "lb~192.0.2.1", open);
    is("one address by both ways", "lb~192.0.2.1 external~192.0.2.1", open);
    is("ipMode Proxy is not intercepted", "lb-proxied~192.0.2.1", "");
    is(
        "Local",
        "lb~192.0.2.1 external-local",
        "192.0.2.1:80/tcp -> 1.5:80 2.6:80; 192.0.2.1:80/tcp ext keep-source -> 1.5:80; ours 192.0.2.1",
    );
    is("source ranges fail closed", "lb~192.0.2.1 from~10.0.0.0/8", "");
    is("source ranges that allow all", "lb~192.0.2.1 from~10.0.0.0/8 from~0.0.0.0/0", open);
    is("source ranges say nothing of external IPs", "external~192.0.2.1 from~10.0.0.0/8", open);
    is(
        "this node's address is not refused",
        "external~172.30.0.11",
        "172.30.0.11:80/tcp -> 1.5:80 2.6:80; 172.30.0.11:80/tcp ext -> 1.5:80 2.6:80",
    );
    is(
        "another node's address is not refused",
        "external~172.30.0.12",
        "172.30.0.12:80/tcp -> 1.5:80 2.6:80; 172.30.0.12:80/tcp ext -> 1.5:80 2.6:80",
    );
}

#[test]
fn affinity() {
    check(
        "ClientIP",
        "10.96.0.7 80/tcp:30080 affinity~30",
        &["80/tcp | 1.5"],
        "10.96.0.7:80/tcp affinity 30 -> 1.5:80; 172.30.0.11:30080/tcp nodeport affinity 30 -> 1.5:80;
         172.30.0.11:30080/tcp ext nodeport affinity 30 -> 1.5:80; ours 10.96.0.7",
    );
}

#[test]
fn topology_hints() {
    let is = |case, endpoints: &str, expected: &str| {
        let slice = format!("80/tcp | {endpoints}");
        check(case, "10.96.0.7 80/tcp", &[slice.as_str()], &format!("10.96.0.7:80/tcp -> {expected}; ours 10.96.0.7"));
    };
    is("zone hints on all, one for us", "1.5#z1 2.6#z2", "1.5:80; draining 2.6:80");
    is("none for our zone", "1.5#z3 2.6#z2", "1.5:80 2.6:80");
    is("one without a hint", "1.5#z1 2.6", "1.5:80 2.6:80");
    is("an unready one without a hint does not count", "1.5#z1 2.6#z2 2.7!", "1.5:80; draining 2.6:80 2.7:80");
    is("node hints on all, one for us", "1.5@n1 2.6@n2", "1.5:80; draining 2.6:80");
    is("no node hint for us", "1.5@n3 2.6@n2", "1.5:80 2.6:80");
    is("mixed hints are no hints", "1.5@n1 2.6#z1", "1.5:80 2.6:80");
    is("the fallback ignores hints", "1.5#z2~ 2.6#z1~", "1.5:80 2.6:80");
    check(
        "hints do not touch the local set",
        "10.96.0.7 80/tcp internal-local",
        &["80/tcp | 1.5#z2 1.6#z1"],
        "10.96.0.7:80/tcp -> 1.5:80 1.6:80; ours 10.96.0.7",
    );
    check(
        "twice, hinted where ready",
        "10.96.0.7 80/tcp",
        &["80/tcp | 1.5!", "80/tcp | 1.5#z1 2.6#z2"],
        "10.96.0.7:80/tcp -> 1.5:80; draining 2.6:80; ours 10.96.0.7",
    );
}

#[test]
fn dns_goes_to_the_node() {
    let dns = "kube-system/kube-dns";
    check_named(
        "the DNS ports, not the others",
        dns,
        "10.96.0.10 dns=53/udp dns-tcp=53/tcp metrics=9153/tcp",
        &["dns=53/udp dns-tcp=53/tcp metrics=9153/tcp | 2.9"],
        "10.96.0.10:53/udp -> 172.30.0.11:5353; 10.96.0.10:53/tcp -> 172.30.0.11:5353; 10.96.0.10:9153/tcp -> 2.9:9153; ours 10.96.0.10",
    );
    check_named(
        "without any endpoint",
        dns,
        "10.96.0.10 53/udp",
        &[],
        "10.96.0.10:53/udp -> 172.30.0.11:5353; ours 10.96.0.10",
    );
    check_named(
        "Local too",
        dns,
        "10.96.0.10 53/udp internal-local",
        &[],
        "10.96.0.10:53/udp -> 172.30.0.11:5353; ours 10.96.0.10",
    );
    check(
        "another service's DNS port is its own",
        "10.96.0.7 53/udp",
        &["53/udp | 2.9"],
        "10.96.0.7:53/udp -> 2.9:53; ours 10.96.0.7",
    );
}

#[test]
fn what_depends_on_nodes() {
    for (words, expected) in [
        ("10.96.0.7 80/tcp", false),
        ("10.96.0.7 80/tcp:30080", true),
        ("10.96.0.7 80/tcp external~192.0.2.1", true),
        ("10.96.0.7 80/tcp lb~192.0.2.1", true),
        ("headless 80/tcp:30080", false),
    ] {
        assert_eq!(depends_on_nodes(&service(NAME, words)), expected, "{words}");
    }
}
