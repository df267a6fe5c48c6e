//! What `up --once` claims, checked on the running cluster: one function per claim, each returns what it saw.

mod agent;
mod errors;
mod kubectl;
mod names;
mod pods;
mod scale;
mod traffic;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::cluster::{Cluster, Pod, manifest_dir};
use crate::probe::HttpReport;

/// The demo's own service and label, as deploy/demo.yaml has them.
pub const SELECTOR: &str = "app=web";
pub const DEPLOYMENT: &str = "deployment/web";
pub const NODE_PORT: u16 = 30080;
/// How long pods may take to come or go.
const POD_DEADLINE: Duration = Duration::from_secs(60);

/// One claim.
pub struct Check {
    pub name: &'static str,
    run: fn(&mut Cluster) -> Result<String>,
}

/// How a check went.
pub struct Outcome {
    pub name: &'static str,
    /// What was seen, or why it failed.
    pub result: Result<String>,
    pub took: Duration,
}

/// All claims, in the order in which they build on each other.
pub fn all() -> Vec<Check> {
    let check = |name, run| Check { name, run };
    vec![
        check("demo applied; pods Running on every node with addresses of their node's CIDR", pods::demo_runs),
        check("pod to pod, on one node and across nodes", pods::pod_to_pod),
        check("DNS: service name, search path, SRV, headless, NXDOMAIN, over UDP and TCP", names::answers),
        check("300 requests to the VIP from a pod, by socket load balancing", traffic::vip_from_pod),
        check("300 requests to the VIP from a pod, by tc alone", traffic::vip_by_tc),
        check("300 requests to the VIP from the host side of each node", traffic::vip_from_hosts),
        check("300 requests to the NodePort of each node from outside", traffic::node_port_from_outside),
        check("a pod reaches itself through its own service", traffic::hairpin),
        check("UDP to the VIP and to the NodePort", traffic::udp),
        check("kubectl: get, describe, explain, logs, exec, selectors, who am I", kubectl::speaks),
        check("scale to 1, 5 and back under load: VIP follows within a second, no failed request", scale::follows),
        check("a deleted pod under load: no failed request", scale::delete_under_load),
        check("a rolling restart under load: no failed request", kubectl::rollout_under_load),
        check("scale to 0: connection refused at once", scale::zero_refuses),
        check("kill -9 of the agents under load: no failed request, maps adopted", agent::killed_and_restarted),
        check("services, conntrack and status read from the pinned maps", agent::views),
        check("bad manifests, ports, addresses: clear errors, nothing half done", errors::api),
        check("corrupt CNI configuration and a full address range: clear errors, nothing half done", errors::cni),
    ]
}

impl Check {
    pub fn run(&self, cluster: &mut Cluster) -> Outcome {
        let started = Instant::now();
        let result = (self.run)(cluster);
        Outcome { name: self.name, result, took: started.elapsed() }
    }
}

/// Applies the demo and waits until `replicas` pods of it are Ready.
fn demo(cluster: &Cluster, replicas: usize) -> Result<Vec<Pod>> {
    let manifest = manifest_dir().join("demo.yaml");
    cluster.kubectl(&["apply", "-f", manifest.to_str().context("path of demo.yaml")?])?;
    cluster.kubectl(&["rollout", "status", DEPLOYMENT, "--timeout=60s"])?;
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/client", "--timeout=60s"])?;
    ready_pods(cluster, replicas)
}

/// Scales the demo and waits until exactly `replicas` pods are there and Ready.
fn scale(cluster: &Cluster, replicas: usize) -> Result<Vec<Pod>> {
    cluster.kubectl(&["scale", DEPLOYMENT, &format!("--replicas={replicas}")])?;
    ready_pods(cluster, replicas)
}

/// Waits until exactly `count` pods of the demo are there, Ready, and in the service's endpoints.
fn ready_pods(cluster: &Cluster, count: usize) -> Result<Vec<Pod>> {
    let end = Instant::now() + POD_DEADLINE;
    loop {
        let pods = cluster.pods(SELECTOR)?;
        let ready = ready_endpoints(cluster)?;
        if pods.len() == count && ready == count && pods.iter().all(|pod| !pod.ip.is_empty()) {
            return Ok(pods);
        }
        ensure!(
            Instant::now() < end,
            "{count} pods wanted, {} there, {ready} ready endpoints after {POD_DEADLINE:?}: {pods:?}",
            pods.len()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Ready endpoints of service `web`.
fn ready_endpoints(cluster: &Cluster) -> Result<usize> {
    let slices = cluster.get(&["endpointslices", "-l", "kubernetes.io/service-name=web"])?;
    let items = slices.pointer("/items").and_then(serde_json::Value::as_array).cloned().unwrap_or_default();
    Ok(items
        .iter()
        .filter_map(|slice| slice.pointer("/endpoints")?.as_array())
        .flatten()
        .filter(|endpoint| endpoint.pointer("/conditions/ready").and_then(serde_json::Value::as_bool) != Some(false))
        .count())
}

/// ClusterIP of service `web`.
fn vip(cluster: &Cluster) -> Result<String> {
    let ip = cluster.kubectl(&["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"])?;
    ensure!(!ip.is_empty(), "service web has no clusterIP");
    Ok(ip)
}

fn client(cluster: &Cluster) -> Result<Pod> {
    cluster.pods("app=client")?.into_iter().next().context("no pod `client`")
}

/// Every request was answered, and every one of `pods` answered at least one.
fn all_answered(report: &HttpReport, requests: u64, pods: &[Pod]) -> Result<String> {
    ensure!(report.failed == 0, "{} of {requests} requests failed: {:?}", report.failed, report.errors);
    ensure!(report.ok == requests, "{} of {requests} requests were answered", report.ok);
    for pod in pods {
        ensure!(report.pods.contains_key(&pod.name), "pod {} answered none of {requests}: {:?}", pod.name, report.pods);
    }
    let spread: Vec<String> = report.pods.values().map(u64::to_string).collect();
    Ok(format!("{} ok, spread {}, p99 {:.1} ms", report.ok, spread.join("/"), report.latency.p99 as f64 / 1000.0))
}
