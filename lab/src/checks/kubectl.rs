//! What a kubectl user does first.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{DEPLOYMENT, ready_pods, scale};
use crate::cgroup;
use crate::cluster::Cluster;
use crate::process::wait_until;

/// Arguments, and what the output must show.
const READS: &[(&[&str], &[&str])] = &[
    (
        &["get", "deployments,replicasets,services,endpoints,endpointslices", "-o", "wide"],
        &["deployment.apps/web", "SELECTOR", "app=web"],
    ),
    (&["get", DEPLOYMENT, "-o", "yaml"], &["kind: Deployment", "apiVersion: apps/v1", "observedGeneration:"]),
    (&["describe", DEPLOYMENT], &["StrategyType:", "RollingUpdate", "Available      True", "NewReplicaSet:"]),
    (&["describe", "service", "web"], &["Type:", "NodePort", "30080/TCP", "Endpoints:", "10.244."]),
    (&["describe", "node", "node-a"], &["PodCIDR:", "10.244.", "KubeletReady", "Non-terminated Pods:"]),
    (&["describe", "pod", "client"], &["Scheduled", "Started container shell", "QoS Class:"]),
    (&["explain", "deployment.spec.replicas"], &["replicas", "integer", "desired pods"]),
    (&["logs", DEPLOYMENT], &["thalweg echo", "listens"]),
    (&["api-resources"], &["endpointslices", "discovery.k8s.io/v1", "deploy"]),
    (&["get", "pods", "-l", "app in (web,none),app!=client", "--field-selector", "status.phase=Running"], &["web-", "Running"]),
];

pub fn speaks(cluster: &mut Cluster) -> Result<String> {
    ready_pods(cluster, 3)?;
    for (args, wanted) in READS {
        let output = cluster.kubectl(args)?;
        for text in *wanted {
            ensure!(output.contains(text), "`kubectl {}` does not show {text:?}:\n{output}", args.join(" "));
        }
    }
    let minor = client_minor(cluster)?;
    if minor >= 28 {
        let output = cluster.kubectl(&["auth", "whoami"])?;
        ensure!(output.contains("thalweg:admin") && output.contains("system:masters"), "who am I: {output}");
    }
    // Older clients speak SPDY only, which the server refuses with the version that does not.
    if minor >= 31 {
        executes(cluster)?;
    }
    let server = cluster.kubectl(&["version"])?;
    let version = server.lines().find(|line| line.starts_with("Server Version")).unwrap_or("?").to_owned();
    Ok(format!("{} reads by kubectl 1.{minor}; {version}", READS.len()))
}

/// Commands in a container: output, exit code, and nothing left when the client goes away.
fn executes(cluster: &Cluster) -> Result<()> {
    let output = cluster.kubectl(&["exec", "client", "--", "cat", "/etc/hostname", "/etc/resolv.conf"])?;
    for text in ["client", "10.96.0.10", "default.svc.cluster.local"] {
        ensure!(output.contains(text), "hostname and resolv.conf of the pod do not show {text:?}: {output}");
    }
    let ended = cluster.kubectl(&["exec", "client", "--", "sh", "-c", "exit 3"]);
    ensure!(ended.as_ref().is_err_and(|error| error.to_string().contains("exit code 3")), "exit 3 in a container: {ended:?}");

    let pod = super::client(cluster)?;
    let group = cluster.node(&pod.node)?.cgroup.join("kubepods").join(format!("pod{}", pod.uid));
    let before = cgroup::processes(&group)?.len();
    let mut left = cluster.kubectl_command(&["exec", "client", "--", "sleep", "600"]).spawn()?;
    let wait = |what: &str, wanted: fn(usize, usize) -> bool| {
        wait_until(what, Duration::from_secs(10), &mut [], || Ok(wanted(cgroup::processes(&group)?.len(), before)))
    };
    let begun = wait("a command begins in the container", |now, before| now > before);
    left.kill()?;
    left.wait()?;
    begun?;
    wait("a command whose client is gone ends", |now, before| now <= before)
}

/// The second number of the client's version.
fn client_minor(cluster: &Cluster) -> Result<u32> {
    let version: serde_json::Value = serde_json::from_str(&cluster.kubectl(&["version", "-o", "json"])?)?;
    let minor = version.pointer("/clientVersion/minor").and_then(serde_json::Value::as_str).unwrap_or_default();
    let digits: String = minor.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().with_context(|| format!("the client's version: {version}"))
}

pub fn rollout_under_load(cluster: &mut Cluster) -> Result<String> {
    let before = ready_pods(cluster, 3)?;
    let loads = super::scale::start_loads(cluster)?;
    cluster.kubectl(&["rollout", "restart", DEPLOYMENT])?;
    cluster.kubectl(&["rollout", "status", DEPLOYMENT, "--timeout=90s"])?;
    let after = scale(cluster, 3)?;
    let requests = super::scale::finish(loads)?;
    ensure!(after.iter().all(|new| before.iter().all(|old| old.uid != new.uid)), "an old pod is still there: {after:?}");
    Ok(format!("{requests} requests, 3 pods replaced by a new revision, none failed"))
}
