//! Bad input: a clear error, and nothing half done.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::cluster::Cluster;

/// A manifest, and what the refusal must say.
const REFUSED: &[(&str, &str, &str)] = &[
    (
        "a field that does not exist",
        "apiVersion: v1\nkind: Service\nmetadata: {name: bad}\nspec: {prots: [{port: 80}]}\n",
        "unknown field",
    ),
    (
        "a NodePort out of range",
        "apiVersion: v1\nkind: Service\nmetadata: {name: bad}\nspec: {type: NodePort, ports: [{port: 80, nodePort: 80}]}\n",
        "The range of valid ports is 30000-32767",
    ),
    (
        "a ClusterIP that is taken",
        "apiVersion: v1\nkind: Service\nmetadata: {name: bad}\nspec: {clusterIP: 10.96.0.10, ports: [{port: 80}]}\n",
        "provided IP is already allocated",
    ),
    (
        "a NodePort that is taken",
        "apiVersion: v1\nkind: Service\nmetadata: {name: bad}\nspec: {type: NodePort, ports: [{port: 80, nodePort: 30080}]}\n",
        "provided port is already allocated",
    ),
    (
        "a selector that does not match its template",
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: bad}\nspec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: c}}, spec: {containers: [{name: c, image: i}]}}}\n",
        "selector",
    ),
];

pub fn api(cluster: &mut Cluster) -> Result<String> {
    for (what, manifest, wanted) in REFUSED {
        let file = cluster.data.join("refused.yaml");
        fs::write(&file, manifest)?;
        let result = cluster.kubectl(&["apply", "-f", file.to_str().context("path")?]);
        match result {
            Ok(output) => bail!("{what} was accepted: {output}"),
            Err(error) => {
                ensure!(format!("{error:#}").contains(wanted), "{what}: the error does not say {wanted:?}: {error:#}")
            }
        }
        fs::remove_file(&file)?;
    }
    let left = cluster.kubectl(&["get", "service,deployment", "--ignore-not-found", "-o", "name"])?;
    ensure!(!left.contains("/bad"), "a refused object exists: {left}");
    Ok(format!("{} manifests refused", REFUSED.len()))
}

pub fn cni(cluster: &mut Cluster) -> Result<String> {
    let node = cluster.nodes.first().context("no node")?;
    let netns = cluster.net(&node.name)?;
    let plugin = node.dir.join("cni-bin/thalweg-cni");
    ensure!(plugin.exists(), "the agent has not installed {}", plugin.display());
    let links = || netns.netns.ip("-br link show");
    let before = links()?.lines().count();

    let corrupt = call(cluster, &plugin, "ADD", "tw-corrupt", "{ not json")?;
    ensure!(error_code(&corrupt)? == 6, "a configuration that is no JSON: {corrupt}");
    let version = call(cluster, &plugin, "ADD", "tw-version", r#"{"cniVersion":"9.9.9","name":"x","type":"thalweg-cni"}"#)?;
    ensure!(error_code(&version)? == 1, "a version from the future: {version}");

    let config = config(&node.dir)?;
    let pod_cidr = cluster.kubectl(&["get", "node", &node.name, "-o", "jsonpath={.spec.podCIDR}"])?;
    let mut config: serde_json::Value = serde_json::from_str(&config).context("the agent's CNI configuration")?;
    // Asking for an address outside the node's range is the small sister of a full range: refused before anything is made.
    config["runtimeConfig"] = serde_json::json!({"ips": ["192.0.2.1/32"]});
    let outside = call(cluster, &plugin, "ADD", "tw-outside", &config.to_string())?;
    ensure!(error_code(&outside).is_ok(), "an address outside {pod_cidr}: {outside}");
    ensure!(outside.contains("192.0.2.1"), "the error does not name the address: {outside}");
    ensure!(links()?.lines().count() == before, "a refused ADD left a link behind:\n{}", links()?);
    Ok("corrupt JSON: code 6; unknown version: code 1; foreign address refused; no link left".to_owned())
}

/// Runs the plugin as a runtime does, in the node's namespace, for a container whose namespace is a throw-away one.
fn call(cluster: &Cluster, plugin: &std::path::Path, command: &str, container: &str, stdin: &str) -> Result<String> {
    let node = cluster.nodes.first().context("no node")?;
    let pod = crate::netns::Netns::create(container)?;
    let input = cluster.data.join("cni-stdin");
    fs::write(&input, stdin)?;
    let mut run: Command = cluster.net(&node.name)?.netns.command(plugin);
    run.env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", container)
        .env("CNI_NETNS", pod.path())
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", node.dir.join("cni-bin"))
        .stdin(fs::File::open(&input)?);
    let output = run.output().context("start the CNI plugin")?;
    fs::remove_file(&input)?;
    ensure!(!output.status.success(), "CNI {command} for {container} was accepted");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn error_code(stdout: &str) -> Result<u64> {
    let value: serde_json::Value =
        serde_json::from_str(stdout).with_context(|| format!("the plugin printed no error object: {stdout:?}"))?;
    value.get("code").and_then(serde_json::Value::as_u64).with_context(|| format!("no code in {stdout}"))
}

/// The single-plugin configuration that a runtime would pass, from the list that the agent installed.
fn config(dir: &std::path::Path) -> Result<String> {
    let path = dir.join("cni-conf/05-thalweg.conflist");
    let list: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?)?;
    let mut plugin = list.pointer("/plugins/0").cloned().context("the list has no plugin")?;
    plugin["cniVersion"] = list["cniVersion"].clone();
    plugin["name"] = list["name"].clone();
    Ok(plugin.to_string())
}
