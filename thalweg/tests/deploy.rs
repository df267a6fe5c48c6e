//! The arguments in deploy/ are arguments that this executable takes: it is run with them, and with one more that ends
//! it before it touches the machine.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use thalweg_deploy::{Chart, Manifest, folder};

const API: &str = "https://192.0.2.10:6443";
/// Where the proxy's manifests mount the configuration.
const CONFIG: &str = "/var/lib/kube-proxy/";

/// Exit status and what was said.
fn run(args: &[String]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_thalweg")).args(args).output().expect("run thalweg");
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

/// Arguments of a container as the kubelet passes them; the folder of the configuration is `config`.
fn args(container: &Value, config: &Path) -> Vec<String> {
    let config = format!("{}/", config.display());
    let said = container["args"].as_array().expect("args").iter().filter_map(Value::as_str);
    said.map(|arg| {
        let arg = arg.replace("$(NODE_NAME)", "node-a").replace("$(NODE_ADDRESS)", "192.0.2.4").replace(CONFIG, &config);
        assert!(!arg.contains("$("), "{arg}: nobody fills it in here");
        arg
    })
    .collect()
}

/// Containers of all DaemonSets that run this executable.
fn containers(manifests: &[Manifest]) -> Vec<&Value> {
    let sets = manifests.iter().filter(|manifest| manifest.kind() == "DaemonSet");
    let lists = sets.flat_map(|set| {
        ["initContainers", "containers"].map(|field| set.object.pointer(&format!("/spec/template/spec/{field}")))
    });
    let all = lists.flatten().filter_map(Value::as_array).flatten();
    all.filter(|container| container["command"] == json!(["thalweg"])).collect()
}

/// Every container's arguments are taken; says which subcommands they were.
fn check(manifests: &[Manifest]) -> Vec<String> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for manifest in manifests.iter().filter(|manifest| manifest.kind() == "ConfigMap") {
        for (name, text) in manifest.object["data"].as_object().expect("data") {
            std::fs::write(dir.path().join(name), text.as_str().expect("text")).expect("write");
        }
    }
    let mut verbs = Vec::new();
    for container in containers(manifests) {
        let mut args = args(container, dir.path());
        // The proxy reads and checks its configuration first, and ends; the agent is asked for its help.
        let harmless = if args.iter().any(|arg| arg.starts_with("--config=")) { "--init-only" } else { "--help" };
        args.push(harmless.to_owned());
        let (taken, said) = run(&args);
        assert!(taken, "{args:?}: {said}");
        verbs.push(args.swap_remove(0));
    }
    verbs
}

#[test]
fn arguments_of_the_plain_manifests_are_taken() {
    let load = |name: &str| Manifest::load(&folder().join(name)).expect("manifests");
    assert_eq!(check(&load("proxy")), ["proxy"]);
    assert_eq!(check(&load("cleanup")), ["proxy"]);
    assert_eq!(check(&load("agent")), ["agent"]);
}

#[test]
fn arguments_of_the_chart_are_taken() {
    let chart = Chart::open(&folder().join("chart/thalweg")).expect("the chart");
    let proxy = json!({"socketLB": false, "uplinks": ["eth0", "cali*"], "configuration": {"mode": "iptables", "clusterCIDR": "10.0.0.0/8"}});
    let agent =
        json!({"uplink": "eth0", "mtu": 9000, "socketLB": false, "dns": {"upstreams": ["192.0.2.53:53", "[2001:db8::53]:53"]}});
    for (values, verb) in [
        (json!({"apiServer": API}), "proxy"),
        (json!({"apiServer": API, "proxy": proxy}), "proxy"),
        (json!({"apiServer": API, "mode": "agent", "agent": {"uplink": "eth0"}}), "agent"),
        (json!({"apiServer": API, "mode": "agent", "agent": agent}), "agent"),
    ] {
        assert_eq!(check(&chart.render(&values).expect("rendered").manifests), [verb], "{values}");
    }
}

/// Or the tests above would prove nothing: what is harmless does not keep the rest from being checked.
#[test]
fn an_argument_that_does_not_exist_is_refused() {
    let words = |text: &str| -> Vec<String> { text.split(' ').map(str::to_owned).collect() };
    for (args, word) in [
        ("agent --node=a --node-adress=192.0.2.4 --help", "--node-adress"),
        ("agent --node=a --node-address=somewhere --help", "--node-address"),
        ("proxy --cgruop=/x --init-only", "--cgruop"),
        ("proxy --clenup --help", "--clenup"),
        ("proxy --config=/nonexistent/config.conf --init-only", "/nonexistent/config.conf"),
    ] {
        let (taken, said) = run(&words(args));
        assert!(!taken && said.contains(word), "{args}: {said}");
    }
}

#[test]
fn a_configuration_that_is_wrong_is_refused() {
    let chart = Chart::open(&folder().join("chart/thalweg")).expect("the chart");
    let values = json!({"apiServer": API, "proxy": {"configuration": {"clusterCidr": "10.0.0.0/8"}}});
    let manifests = chart.render(&values).expect("rendered").manifests;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let map = manifests.iter().find(|manifest| manifest.kind() == "ConfigMap").expect("a ConfigMap");
    std::fs::write(dir.path().join("config.conf"), map.text("/data/config.conf")).expect("write");
    let mut args = args(containers(&manifests)[0], dir.path());
    args.push("--init-only".to_owned());
    let (taken, said) = run(&args);
    assert!(!taken && said.contains("did you mean clusterCIDR?"), "{said}");
}

/// Lines of shell in the page that run this executable, here or in a pod, are taken by it.
#[test]
fn commands_in_the_documents_are_taken() {
    let path = folder().with_file_name("docs/replacing-kube-proxy.md");
    let text = std::fs::read_to_string(&path).expect("the page");
    // Every second part is between fences.
    let lines = text.split("```").skip(1).step_by(2).flat_map(str::lines).map(str::trim);
    let commands: Vec<&str> = lines
        .filter_map(|line| {
            line.split_once(" -- thalweg ").map(|(_, command)| command).or_else(|| line.strip_prefix("thalweg "))
        })
        .collect();
    assert!(commands.len() >= 5, "{commands:?}");
    for command in commands {
        // Without the comment behind it.
        let command = command.split(" #").next().unwrap_or_default();
        let mut args: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
        args.push("--help".to_owned());
        let (taken, said) = run(&args);
        assert!(taken, "thalweg {command}: {said}");
    }
}
