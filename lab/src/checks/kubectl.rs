//! What a kubectl user does first.

use anyhow::{Result, ensure};

use super::{DEPLOYMENT, ready_pods, scale};
use crate::cluster::Cluster;

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
    (
        &["exec", "client", "--", "cat", "/etc/hostname", "/etc/resolv.conf"],
        &["client", "10.96.0.10", "default.svc.cluster.local"],
    ),
    (&["auth", "whoami"], &["thalweg:admin", "system:masters"]),
];

pub fn speaks(cluster: &mut Cluster) -> Result<String> {
    ready_pods(cluster, 3)?;
    for (args, wanted) in READS {
        let output = cluster.kubectl(args)?;
        for text in *wanted {
            ensure!(output.contains(text), "`kubectl {}` does not show {text:?}:\n{output}", args.join(" "));
        }
    }
    let ended = cluster.kubectl(&["exec", "client", "--", "sh", "-c", "exit 3"]);
    ensure!(ended.as_ref().is_err_and(|error| error.to_string().contains("exit code 3")), "exit 3 in a container: {ended:?}");
    let server = cluster.kubectl(&["version"])?;
    let version = server.lines().find(|line| line.starts_with("Server Version")).unwrap_or("?").to_owned();
    Ok(format!("{} commands; {version}", READS.len() + 2))
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
