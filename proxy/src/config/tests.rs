//! Files and command lines as operators write them: what becomes of them, and what they are told.

use clap::Parser;

use super::*;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    flags: Flags,
}

const HEAD: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

fn flags(arguments: &[&str]) -> Flags {
    Cli::try_parse_from([&["proxy"], arguments].concat()).unwrap_or_else(|error| panic!("{error}")).flags
}

fn settings(text: &str) -> Result<Settings, ConfigError> {
    let (config, _) = merge(Some(decode(&format!("{HEAD}{text}"))?), Flags::default());
    Settings::new(&config)
}

/// The file is accepted, and the settings are as `wanted` says.
#[track_caller]
fn check(text: &str, wanted: impl FnOnce(&Settings) -> bool) {
    let settings = settings(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert!(wanted(&settings), "{settings:#?}\n{text}");
}

/// The file is refused, and the message contains every one of `words`.
#[track_caller]
fn refused(text: &str, words: &[&str]) {
    let error = settings(text).expect_err(text).to_string();
    for word in words {
        assert!(error.contains(word), "{error:?} does not say {word:?}");
    }
}

#[track_caller]
fn noted(text: &str, word: &str) {
    check(text, |settings| settings.notes.iter().any(|note| note.contains(word)));
}

fn address(text: &str) -> Option<std::net::SocketAddr> {
    Some(text.parse().expect("address"))
}

#[test]
fn the_file_of_a_kubeadm_cluster_is_accepted_unchanged() {
    let config = decode(include_str!("kubeadm.yaml")).expect("decode");
    let (config, notes) = merge(Some(config), Flags::default());
    assert!(notes.is_empty(), "{notes:?}");
    let settings = Settings::new(&config).expect("settings");
    assert_eq!(settings.mode, Mode::Auto);
    assert_eq!(settings.kubeconfig.as_deref(), Some("/var/lib/kube-proxy/kubeconfig.conf".as_ref()));
    assert_eq!((settings.healthz, settings.metrics), (address("0.0.0.0:10256"), address("127.0.0.1:10249")));
    assert_eq!(settings.node_ports, NodePortAddresses::All);
    assert_eq!(settings.cluster_cidrs, ["10.244.0.0/16".parse().expect("range")]);
    // Nothing but the two fields that say something.
    let fields: Vec<&str> = settings.notes.iter().filter_map(|note| note.split(':').next()).collect();
    assert_eq!(fields, ["mode", "clusterCIDR"]);
}

/// As kubeadm writes them into the ConfigMap kube-proxy: nothing defaulted, null for what is not said. The fields differ
/// from release to release, the subnets from cluster to cluster.
#[test]
fn files_of_kubeadm_from_1_29_to_1_36_are_accepted_unchanged() {
    let check = |text: &str, cidrs: &[&str], healthz: &str, metrics: &str, fields: &[&str]| {
        let (config, _) = merge(Some(decode(text).unwrap_or_else(|error| panic!("{error}\n{text}"))), Flags::default());
        let settings = Settings::new(&config).unwrap_or_else(|error| panic!("{error}\n{text}"));
        let ranges: Vec<ipnetwork::IpNetwork> = cidrs.iter().map(|cidr| cidr.parse().expect("range")).collect();
        assert_eq!(settings.cluster_cidrs, ranges);
        assert_eq!((settings.healthz, settings.metrics), (address(healthz), address(metrics)));
        assert_eq!((settings.mode, &settings.node_ports), (Mode::Auto, &NodePortAddresses::All));
        assert!(settings.localhost_node_ports && settings.node_address.is_none());
        let noted: Vec<&str> = settings.notes.iter().filter_map(|note| note.split(':').next()).collect();
        assert_eq!(noted, fields, "{text}");
    };
    let (v4, v6) = (["0.0.0.0:10256", "127.0.0.1:10249"], ["[::]:10256", "[::1]:10249"]);
    let said = ["mode", "clusterCIDR"];
    check(include_str!("tests/kubeadm-1.29.yaml"), &["10.244.0.0/16"], v4[0], v4[1], &said);
    check(include_str!("tests/kubeadm-1.31.yaml"), &["fd00:10:244::/56"], v6[0], v6[1], &said);
    check(include_str!("tests/kubeadm-1.33.yaml"), &["10.244.0.0/16", "fd00:10:244::/56"], v4[0], v4[1], &said);
    check(include_str!("tests/kubeadm-1.36.yaml"), &[], v4[0], v4[1], &["mode"]);
}

#[test]
fn node_ports_on_localhost_need_the_wish_and_the_address() {
    check("mode: ''", |s| s.localhost_node_ports);
    check("iptables: {localhostNodePorts: false}", |s| !s.localhost_node_ports);
    check("nodePortAddresses: [primary]", |s| !s.localhost_node_ports);
    check("nodePortAddresses: [10.0.0.0/8]", |s| !s.localhost_node_ports);
    check("nodePortAddresses: [10.0.0.0/8, 127.0.0.0/8]", |s| s.localhost_node_ports);
    check("nodePortAddresses: [localhost]\niptables: {localhostNodePorts: false}", |s| !s.localhost_node_ports);
    check("nodePortAddresses: ['::/0']", |s| !s.localhost_node_ports);
    check("nodePortAddresses: [0.0.0.0/0]", |s| s.localhost_node_ports);
}

#[test]
fn both_families_are_configured_alike() {
    check("bindAddress: 2001:db8::7", |s| s.node_address == Some("2001:db8::7".parse().expect("address")));
    check("bindAddress: 2001:db8::7", |s| s.healthz == address("[::]:10256") && s.metrics == address("[::1]:10249"));
    check("clusterCIDR: 'fd00::/8, 10.0.0.0/8'", |s| s.cluster_cidrs.len() == 2 && s.cluster_cidrs[0].is_ipv6());
    check(
        "nodePortAddresses: [10.0.0.0/8, 'fd00::/8']",
        |s| matches!(&s.node_ports, NodePortAddresses::Ranges(ranges) if ranges[0].is_ipv4() && ranges[1].is_ipv6()),
    );
    for mode in ["NodeCIDR", "ClusterCIDR"] {
        check(&format!("mode: iptables\ndetectLocalMode: {mode}\nclusterCIDR: '10.0.0.0/8,fd00::/8'"), |s| {
            s.cluster_cidrs.len() == 2
        });
    }
    refused("clusterCIDR: fd00::/8,fd01::/16", &["clusterCIDR", "two address families"]);
    refused("nodePortAddresses: ['fd00::1']", &["nodePortAddresses[0]"]);
    refused("healthzBindAddress: '[::1'", &["healthzBindAddress"]);
}

#[test]
fn defaults_are_those_of_kube_proxy() {
    let config = KubeProxyConfiguration::defaults();
    assert_eq!(config.iptables.masquerade_bit, Some(14));
    assert_eq!(config.iptables.sync_period.to_string(), "30s");
    assert_eq!(config.iptables.min_sync_period.to_string(), "1s");
    assert_eq!(config.config_sync_period.to_string(), "15m0s");
    assert_eq!((config.conntrack.max_per_core, config.conntrack.min), (Some(32768), Some(131_072)));
    assert_eq!(config.conntrack.tcp_established_timeout.map(|time| time.to_string()).as_deref(), Some("24h0m0s"));
    assert_eq!(config.oom_score_adj, Some(-999));
    assert_eq!(config.client_connection.content_type, "application/vnd.kubernetes.protobuf");
    let settings = Settings::new(&config).expect("settings");
    assert_eq!(settings.health_timeout(), std::time::Duration::from_secs(60));
}

#[test]
fn what_is_written_is_read_again() {
    let config = KubeProxyConfiguration { mode: "iptables".into(), ..KubeProxyConfiguration::defaults() };
    let text = config.to_yaml().expect("YAML");
    assert!(text.contains("clusterCIDR") && text.contains("excludeCIDRs") && text.contains("enableDSR"), "{text}");
    assert_eq!(decode(&text).expect("decode"), config);
}

#[test]
fn fields_become_settings() {
    check("mode: iptables", |s| s.mode == Mode::Iptables);
    check("mode: ebpf", |s| s.mode == Mode::Ebpf && s.notes.is_empty());
    // What nobody said may fall back.
    for mode in ["''", "ipvs", "nftables"] {
        check(&format!("mode: {mode}"), |s| s.mode == Mode::Auto && s.notes.len() == 1);
    }
    check("hostnameOverride: Node-A", |s| s.hostname_override.as_deref() == Some("node-a"));
    check("bindAddress: 192.0.2.7", |s| s.node_address == Some([192, 0, 2, 7].into()));
    check("bindAddress: '::'", |s| s.healthz == address("[::]:10256") && s.metrics == address("[::1]:10249"));
    check("healthzBindAddress: 127.0.0.1", |s| s.healthz == address("127.0.0.1:10256"));
    check("healthzBindAddress: '::1'", |s| s.healthz == address("[::1]:10256"));
    check("metricsBindAddress: 0.0.0.0:9999", |s| s.metrics == address("0.0.0.0:9999"));
    check("bindAddressHardFail: true", |s| s.hard_fail);
    check("nodePortAddresses: [primary]", |s| s.node_ports == NodePortAddresses::Primary);
    check("nodePortAddresses: [10.0.0.0/8]", |s| matches!(&s.node_ports, NodePortAddresses::Ranges(r) if r.len() == 1));
    check("nodePortAddresses: [localhost]", |s| matches!(&s.node_ports, NodePortAddresses::Ranges(r) if r.len() == 2));
    let both = |ranges: &[ipnetwork::IpNetwork]| ranges.len() == 1;
    check(
        "nodePortAddresses: [primary, 10.0.0.0/8]",
        |s| matches!(&s.node_ports, NodePortAddresses::PrimaryAnd(ranges) if both(ranges)),
    );
    check("nodePortAddresses: [10.0.0.0/8, all]", |s| s.node_ports == NodePortAddresses::All);
    check("clusterCIDR: '10.0.0.0/8,fd00::/8'", |s| s.cluster_cidrs.len() == 2);
    check("iptables: {masqueradeBit: 0, masqueradeAll: true, syncPeriod: 1m}", |s| {
        s.masquerade_bit == 0 && s.masquerade_all && s.health_timeout().as_secs() == 120
    });
    check("linux: {masqueradeAll: true, oomScoreAdj: -5}", |s| s.masquerade_all && s.oom_score_adj == -5);
    let pods = |s: &Settings, wanted: Option<&str>| s.pod_interfaces.as_deref() == wanted;
    check("mode: ''", |s| pods(s, None));
    check("detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: cni0}", |s| pods(s, Some("cni0")));
    check("detectLocalMode: InterfaceNamePrefix\ndetectLocal: {interfaceNamePrefix: cali}", |s| pods(s, Some("cali*")));
    check("oomScoreAdj: 0", |s| s.oom_score_adj == 0);
    check("logging: {format: json, vmodule: [{filePattern: a, verbosity: 1}]}", |s| !s.notes.is_empty());
}

#[test]
fn what_means_nothing_here_is_said_and_accepted() {
    noted("mode: ipvs\nipvs: {scheduler: rr, strictARP: true}", "ipvs is not known here");
    noted("mode: ipvs\nipvs: {scheduler: rr, strictARP: true}", "no IPVS");
    noted("mode: nftables", "nftables is not known here");
    noted("conntrack: {min: 5}", "conntrack");
    noted("linux: {conntrack: {maxPerCore: 0}}", "conntrack");
    noted("featureGates: {TopologyAwareHints: true}", "TopologyAwareHints");
    noted("clientConnection: {qps: 50.5, burst: 100}", "clientConnection.qps");
    noted("iptables: {minSyncPeriod: 2s}", "minSyncPeriod");
    noted("detectLocalMode: NodeCIDR", "detectLocalMode");
    noted("enableProfiling: true", "enableProfiling");
    noted("winkernel: {enableDSR: true}", "not Windows");
    noted("logging: {verbosity: 4}", "RUST_LOG");
    check("mode: iptables\nconntrack: {min: 5, udpTimeout: 1m}", |s| s.notes.is_empty());
    check("mode: iptables\nclusterCIDR: 10.0.0.0/8\niptables: {masqueradeAll: true, masqueradeBit: 3}", |s| s.notes.is_empty());
}

#[test]
fn a_field_that_does_not_exist_is_named_with_its_path() {
    refused("iptables: {masqueradebit: 3}", &["iptables.masqueradebit", "did you mean masqueradeBit?"]);
    refused("modes: ebpf\nlinux: {conntrack: {max: 1}}", &["modes: there", "linux.conntrack.max: there"]);
    refused("logging: {options: {text: {colour: true}}}", &["logging.options.text.colour"]);
    refused("clientConnection: {timeout: 5s}", &["clientConnection.timeout"]);
    refused("nodePortAddreses: []", &["nodePortAddreses", "did you mean nodePortAddresses?"]);
    refused("iptables: {syncPeriods: 1s}", &["iptables.syncPeriods", "did you mean syncPeriod?"]);
    refused("iptables: {localhostNodeport: true}", &["did you mean localhostNodePorts?"]);
    let error = settings("nodes: 1").expect_err("unknown").to_string();
    assert!(!error.contains("did you mean"), "{error}");
}

#[test]
fn values_that_make_no_sense_are_named_with_their_path() {
    refused("mode: userspace", &["mode", "userspace", "nftables"]);
    refused("conntrack: {min: many}", &["conntrack.min", "many"]);
    refused("iptables: {syncPeriod: 5}", &["iptables.syncPeriod"]);
    refused("iptables: {syncPeriod: 5 minutes}", &["iptables.syncPeriod", "30s"]);
    refused("iptables: {syncPeriod: 1s, minSyncPeriod: 2s}", &["iptables.minSyncPeriod"]);
    refused("iptables: {masqueradeBit: 32}", &["iptables.masqueradeBit", "31"]);
    refused("configSyncPeriod: -1s", &["configSyncPeriod"]);
    refused("bindAddress: node-a", &["bindAddress", "node-a"]);
    refused("healthzBindAddress: node-a:10256", &["healthzBindAddress"]);
    refused("metricsBindAddress: 127.0.0.1:0", &["metricsBindAddress"]);
    refused("nodePortAddresses: [10.0.0.1]", &["nodePortAddresses[0]", "10.0.0.0/8"]);
    refused("clusterCIDR: 10.0.0.0/8,11.0.0.0/8", &["two address families"]);
    refused("oomScoreAdj: 1001", &["oomScoreAdj"]);
    refused("detectLocalMode: Guess", &["detectLocalMode", "Guess"]);
    refused("detectLocalMode: InterfaceNamePrefix", &["detectLocal.interfaceNamePrefix"]);
    refused("conntrack: {tcpEstablishedTimeout: -5s}\nclientConnection: {burst: -1}", &["tcpEstablishedTimeout", "burst"]);
    refused("mode: ebpf\nmode: iptables", &["mode", "duplicate"]);
}

#[test]
fn another_kind_of_file_is_refused() {
    for (text, word) in [
        ("", "no fields"),
        ("kind: KubeProxyConfiguration\napiVersion: kubeproxy.config.k8s.io/v1", "apiVersion"),
        ("kind: KubeletConfiguration\napiVersion: kubelet.config.k8s.io/v1beta1", "kind"),
        ("kind: [", "not a KubeProxyConfiguration"),
        ("- kind", "no fields"),
    ] {
        let error = decode(text).expect_err(text).to_string();
        assert!(error.contains(word), "{error:?} does not say {word:?}");
    }
}

#[test]
fn without_a_file_the_flags_count() {
    let arguments = [
        "--proxy-mode=iptables",
        "--hostname-override=Node-B",
        "--healthz-bind-address=127.0.0.1",
        "--metrics-bind-address=",
        "--nodeport-addresses=10.0.0.0/8,192.0.2.0/24",
        "--masquerade-all",
        "--iptables-localhost-nodeports=false",
        "--iptables-sync-period=1m",
        "--oom-score-adj=-10",
        "--conntrack-tcp-timeout-established=2h",
        "--feature-gates=A=true,B=false",
        "--kubeconfig=/k",
        "-v=4",
    ];
    let (config, notes) = merge(None, flags(&arguments));
    assert!(notes.is_empty(), "{notes:?}");
    assert_eq!(config.iptables.localhost_node_ports, Some(false));
    assert_eq!(config.feature_gates.get("B"), Some(&false));
    assert_eq!(config.logging.verbosity, 4);
    let settings = Settings::new(&config).expect("settings");
    assert_eq!(settings.mode, Mode::Iptables);
    assert_eq!(settings.hostname_override.as_deref(), Some("node-b"));
    assert_eq!((settings.healthz, settings.metrics), (address("127.0.0.1:10256"), None));
    assert!(settings.masquerade_all && settings.oom_score_adj == -10);
    assert!(matches!(&settings.node_ports, NodePortAddresses::Ranges(ranges) if ranges.len() == 2));

    let (config, _) = merge(None, flags(&["--bind-address=2001:db8::1", "--healthz-port=0"]));
    let settings = Settings::new(&config).expect("settings");
    assert_eq!((settings.healthz, settings.metrics), (None, address("[::1]:10249")));
}

#[test]
fn with_a_file_only_the_host_name_is_taken_from_the_flags() {
    let file = decode(&format!("{HEAD}mode: ebpf\nhostnameOverride: from-file")).expect("decode");
    let (config, notes) = merge(Some(file), flags(&["--hostname-override=from-flag", "--proxy-mode=iptables", "--v=2"]));
    assert_eq!((config.hostname_override.as_str(), config.mode.as_str()), ("from-flag", "ebpf"));
    assert_eq!(notes.len(), 1);
    assert!(notes[0].contains("--proxy-mode") && notes[0].contains("--v"), "{notes:?}");
    assert!(!notes[0].contains("--hostname-override"), "{notes:?}");
}

#[test]
fn durations_read_and_write_as_in_go() {
    for (text, wanted) in [
        ("0", "0s"),
        ("0s", "0s"),
        ("30s", "30s"),
        ("90s", "1m30s"),
        ("1h2m", "1h2m0s"),
        ("1.5h", "1h30m0s"),
        ("500ms", "500ms"),
        ("1s500ms", "1.5s"),
        ("250us", "250µs"),
        ("7ns", "7ns"),
        ("-5s", "-5s"),
    ] {
        let duration: GoDuration = text.parse().expect(text);
        assert_eq!(duration.to_string(), wanted);
    }
    for text in ["", "5", "s", "5 s", "5d", "1m5", "--5s", "1e9s", "999999999h"] {
        assert!(text.parse::<GoDuration>().is_err(), "{text:?}");
    }
}
