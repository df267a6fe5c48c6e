//! Bad input: a clear error, and nothing half done.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::cluster::Cluster;
use crate::netns::Netns;
use crate::topology::NODE_MASK;

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
    // Links that are there now and were not before: a pod of an earlier check may still be on its way out.
    let links = || -> Result<BTreeSet<String>> {
        let text = netns.netns.ip("-br link show")?;
        Ok(text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
    };
    let before = links()?;
    let new_links = || -> Result<Vec<String>> { Ok(links()?.difference(&before).cloned().collect()) };
    let container = Netns::create("tw-errors")?;
    let call = |verb: &str, ifname: &str, stdin: &str| call(cluster, &plugin, &container, verb, ifname, stdin);

    let (_, corrupt) = call("ADD", "eth0", "{ not json")?;
    ensure!(error_code(&corrupt)? == 6, "a configuration that is no JSON: {corrupt}");
    let (_, version) = call("ADD", "eth0", r#"{"cniVersion":"9.9.9","name":"x","type":"thalweg-cni"}"#)?;
    ensure!(error_code(&version)? == 1, "a version from the future: {version}");

    let config = config(&node.dir)?;
    let mut foreign: serde_json::Value = serde_json::from_str(&config).context("the agent's CNI configuration")?;
    foreign["runtimeConfig"] = serde_json::json!({"ips": ["192.0.2.1/32"]});
    let (_, outside) = call("ADD", "eth0", &foreign.to_string())?;
    ensure!(error_code(&outside).is_ok() && outside.contains("192.0.2.1"), "an address outside the node's range: {outside}");
    ensure!(new_links()?.is_empty(), "a refused ADD left a link behind: {:?}", new_links()?);

    // Interfaces of one container until the range is full.
    let mut taken = Vec::new();
    let full = loop {
        let ifname = format!("tw{}", taken.len());
        let (accepted, stdout) = call("ADD", &ifname, &config)?;
        if !accepted {
            break stdout;
        }
        taken.push(ifname);
        ensure!(taken.len() <= 256, "256 addresses of a /{NODE_MASK} were given out");
    };
    ensure!(error_code(&full)? == 11, "a full range is to be tried again later: {full}");
    ensure!(
        new_links()?.len() == taken.len(),
        "{} links of {} interfaces: {:?}",
        new_links()?.len(),
        taken.len(),
        new_links()?
    );
    for ifname in &taken {
        let (accepted, stdout) = call("DEL", ifname, &config)?;
        ensure!(accepted, "DEL of {ifname}: {stdout}");
    }
    ensure!(new_links()?.is_empty(), "a DEL left a link behind: {:?}", new_links()?);
    Ok(format!("codes 6, 1 and 11; range full after {} more addresses; no link left", taken.len()))
}

/// Runs the plugin as a runtime does, in the node's namespace: whether it was accepted, and what it printed.
fn call(cluster: &Cluster, plugin: &Path, container: &Netns, verb: &str, ifname: &str, stdin: &str) -> Result<(bool, String)> {
    let node = cluster.nodes.first().context("no node")?;
    let input = cluster.data.join("cni-stdin");
    fs::write(&input, stdin)?;
    let mut run: Command = cluster.net(&node.name)?.netns.command(plugin);
    run.env("CNI_COMMAND", verb)
        .env("CNI_CONTAINERID", container.name())
        .env("CNI_NETNS", container.path())
        .env("CNI_IFNAME", ifname)
        .env("CNI_PATH", node.dir.join("cni-bin"))
        .stdin(fs::File::open(&input)?);
    let output = run.output().context("start the CNI plugin")?;
    fs::remove_file(&input)?;
    Ok((output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned()))
}

fn error_code(stdout: &str) -> Result<u64> {
    let value: serde_json::Value =
        serde_json::from_str(stdout).with_context(|| format!("the plugin printed no error object: {stdout:?}"))?;
    value.get("code").and_then(serde_json::Value::as_u64).with_context(|| format!("no code in {stdout}"))
}

/// The single-plugin configuration that a runtime would pass, from the list that the agent installed.
fn config(dir: &Path) -> Result<String> {
    let path = dir.join("cni-conf/05-thalweg.conflist");
    let list: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?)?;
    let mut plugin = list.pointer("/plugins/0").cloned().context("the list has no plugin")?;
    plugin["cniVersion"] = list["cniVersion"].clone();
    plugin["name"] = list["name"].clone();
    Ok(plugin.to_string())
}
