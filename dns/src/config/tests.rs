//! What follows from Corefiles and stub domains.

use super::*;
use crate::corefile;

fn read(text: &str, stubs: &str, upstreams: &str) -> Result<Config, Error> {
    let parsed = corefile::parse(text, &|_| None).unwrap_or_else(|error| panic!("{error}"));
    let stubs = StubDomains::parse(|key| match key {
        "stubDomains" => Some(stubs),
        _ => Some(upstreams),
    });
    Config::from_corefile(&parsed, &stubs.expect("stub domains"))
}

fn forwards(config: &Config) -> Vec<String> {
    let text = |forward: &Forward| format!("{} {:?}", name::display(&forward.from), forward.to);
    config.servers.iter().flat_map(|server| &server.forwards).map(text).collect()
}

#[test]
fn kubeadms_file() {
    let config = read(include_str!("../corefile/testdata/kubeadm.corefile"), "", "").expect("as it is");
    let zone = config.zone.as_ref().expect("a zone");
    assert_eq!((&zone.origins[..], zone.ttl, zone.pods), (&["cluster.local".to_owned()][..], 30, PodMode::Insecure));
    let reverse: Vec<String> = zone.reverse.iter().map(ToString::to_string).collect();
    assert_eq!(reverse, ["0.0.0.0/0", "::/0"]);
    assert_eq!(zone.fallthrough, zone::Fallthrough::Below(vec!["in-addr.arpa".into(), "ip6.arpa".into()]));
    assert_eq!((config.operation.lameduck(), config.port()), (Duration::from_secs(5), Some(53)));
    assert!(config.operation.ready.is_some() && config.operation.prometheus.is_some() && config.operation.reload.is_some());
    assert!(zone::ZoneBuilder::new(zone).is_ok());
}

#[test]
fn node_local_dnscaches_file_has_no_zone_of_its_own() {
    let config = read(include_str!("../corefile/testdata/nodelocal.corefile"), "", "").expect("as it is");
    assert!(config.zone.is_none() && config.servers.len() == 4);
    assert_eq!(config.binds().0.len(), 2);
}

#[test]
fn other_options_of_the_clusters_zone() {
    let config = read(". {\nkubernetes a.org b.org 10.96.0.0/15 {\npods verified\nfallthrough\nnamespaces x y\nignore empty_service\nendpoint_pod_names\n}\n}", "", "").expect("a zone");
    let zone = config.zone.expect("a zone");
    assert_eq!((zone.origins.len(), zone.ttl, zone.pods), (2, 5, PodMode::Verified));
    let reverse: Vec<String> = zone.reverse.iter().map(ToString::to_string).collect();
    assert_eq!(reverse, ["10.96.0.0/16", "10.97.0.0/16"]);
    assert_eq!(zone.fallthrough, zone::Fallthrough::Always);
    assert_eq!(zone.namespaces, Some(vec!["x".into(), "y".into()]));
    assert!(zone.ignore_empty_service && zone.endpoint_pod_names);
}

#[test]
fn stub_domains_come_before_the_rest() {
    let corefile = ". {\nforward . 1.1.1.1\n}";
    let stubs = r#"{"acme.local": ["10.0.0.1"]}"#;
    let rest = ". [Address(1.1.1.1:53)]";
    let acme = "acme.local. [Address(10.0.0.1:53)]";
    assert_eq!(forwards(&read(corefile, "", "").expect("valid")), [rest]);
    assert_eq!(forwards(&read(corefile, stubs, "").expect("valid")), [acme, rest]);
    let replaced = forwards(&read(corefile, stubs, r#"["8.8.8.8"]"#).expect("valid"));
    assert_eq!(replaced, [acme, ". [Address(8.8.8.8:53)]"], "upstreams of the ConfigMap replace those of the root");
    let config = read("a.org {\nforward . 1.1.1.1\n}", stubs, "").expect("valid");
    assert_eq!((config.servers.len(), forwards(&config).len()), (2, 2), "a block of the root is made");
}

#[test]
fn a_more_specific_block_or_stub_domain_takes_its_names() {
    const ONE: &str = ". {\nkubernetes cluster.local in-addr.arpa\nforward . 1.1.1.1\n}\n";
    const TWO: &str = "cluster.local {\nkubernetes cluster.local in-addr.arpa\n}\n. {\nforward . 1.1.1.1\n}\n";
    let corp = "corp.cluster.local {\nforward . 10.0.0.9\n}";
    let stub = r#"{"corp.cluster.local": ["10.0.0.9"], "10.in-addr.arpa": ["10.0.0.9"], "acme.local": ["10.0.0.9"]}"#;
    for (corefile, stubs, name, ours) in [
        (ONE.to_owned(), "", "x.corp.cluster.local", true),
        (ONE.to_owned() + corp, "", "x.corp.cluster.local", false),
        (ONE.to_owned() + corp, "", "corp.cluster.local", false),
        (ONE.to_owned() + corp, "", "xcorp.cluster.local", true),
        (ONE.to_owned() + corp, "", "1.2.0.10.in-addr.arpa", true),
        (ONE.to_owned(), stub, "x.corp.cluster.local", false),
        (ONE.to_owned(), stub, "web.default.svc.cluster.local", true),
        (ONE.to_owned(), stub, "1.2.0.10.in-addr.arpa", false),
        (ONE.to_owned(), stub, "1.2.0.192.in-addr.arpa", true),
        (TWO.to_owned() + corp, "", "x.corp.cluster.local", false),
        (TWO.to_owned() + corp, "", "web.default.svc.cluster.local", true),
        (TWO.to_owned(), "", "1.2.0.10.in-addr.arpa", false),
        (ONE.to_owned() + "cluster.local {\nforward . 10.0.0.9\n}", "", "web.default.svc.cluster.local", false),
    ] {
        let config = read(&corefile, stubs, "").expect("a configuration");
        let zone = zone::ZoneBuilder::new(config.zone.as_ref().expect("a zone")).expect("a zone").snapshot();
        let realm = zone.realm(&name::encode(name).expect("a name"));
        assert_eq!(realm != zone::Realm::Outside, ours, "{name} by {corefile} and {stubs}");
    }
    let config = read(ONE, "", "").expect("a configuration");
    assert!(config.zone.expect("a zone").shares.is_empty(), "nothing is looked at where nothing is shared");
    let error = read(ONE, r#"{"cluster.local": ["10.0.0.9"]}"#, "").expect_err("the cluster's zone").to_string();
    assert!(error.contains("`cluster.local.` is the cluster's own zone"), "{error}");
}

#[test]
fn a_stub_domain_is_asked_in_the_block_that_it_is_in() {
    let corefile = "cluster.local {\nkubernetes\n}\n. {\nforward . 1.1.1.1\n}";
    let config = read(corefile, r#"{"a.cluster.local": ["10.0.0.1"], "acme.local": ["10.0.0.2"]}"#, "").expect("valid");
    let of = |at: usize| config.servers[at].forwards.iter().map(|forward| name::display(&forward.from)).collect::<Vec<_>>();
    assert_eq!((of(0), of(1)), (vec!["a.cluster.local.".to_owned()], vec!["acme.local.".to_owned(), ".".to_owned()]));
}

#[test]
fn the_smallest_bufsize_counts() {
    let size = |text: &str| max_udp(&read(text, "", "").expect("valid").servers);
    assert_eq!(size(". {\n}"), 1232);
    assert_eq!(size(". {\nbufsize 4096\n}"), 1232);
    assert_eq!(size("a.org {\nbufsize 700\n}\nb.org {\nbufsize 600\n}\nc.org {\n}"), 600);
}

#[test]
fn blocks_that_contradict_each_other() {
    for (text, words) in [
        ("a.org {\n}\nb.org:54 {\n}", "line 3: this block is for port 54"),
        ("a.org {\nbind 10.0.0.1\n}\nb.org {\nbind 10.0.0.2\n}", "line 4: this block listens elsewhere"),
        ("a.org {\nkubernetes\n}\nb.org {\nkubernetes\n}", "line 4: a second `kubernetes`"),
        ("a.org {\nhealth\n}\nb.org {\nhealth :81\n}", "line 4: `health` differs"),
        ("a.org {\nprometheus\n}\nb.org {\nprometheus :81\n}", "line 4: `prometheus` differs"),
        (". {\nkubernetes a.org x.in-addr.arpa\n}", "no zone of addresses"),
    ] {
        let error = read(text, "", "").expect_err(text).to_string();
        assert!(error.contains(words), "{error}");
    }
    assert!(read("a.org {\nhealth\n}\nb.org {\nhealth\n}", "", "").is_ok(), "said twice and the same");
}

#[test]
fn a_few_options() {
    let config = Config::simple(ZoneConfig::default(), &["1.1.1.1:53".parse().expect("an address")]);
    assert_eq!(forwards(&config), [". [Address(1.1.1.1:53)]"]);
    assert_eq!(config.servers[0].cache.as_ref().expect("a cache").success.max_ttl, CACHE_TTL);
    assert!(Config::simple(ZoneConfig::default(), &[]).servers.is_empty());
}
