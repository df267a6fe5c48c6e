//! Requests to virtual IPs and NodePorts, from everywhere.

use anyhow::{Context, Result, ensure};

use super::{NODE_PORT, SELECTOR, all_answered, client, vip};
use crate::cluster::Cluster;
use crate::place::Place;
use crate::probe::{HttpReport, UdpReport};

const REQUESTS: u64 = 300;

fn load(cluster: &Cluster, place: &Place, target: &str) -> Result<String> {
    let report: HttpReport = place.probe(&["http", target, "--count", &REQUESTS.to_string(), "--concurrency", "4"])?;
    all_answered(&report, REQUESTS, &cluster.pods(SELECTOR)?).with_context(|| format!("{} to {target}", place.label))
}

pub fn vip_from_pod(cluster: &mut Cluster) -> Result<String> {
    load(cluster, &Place::pod(cluster, &client(cluster)?)?, "web:80")
}

pub fn vip_by_tc(cluster: &mut Cluster) -> Result<String> {
    load(cluster, &Place::pod_by_tc(cluster, &client(cluster)?)?, &format!("{}:80", vip(cluster)?))
}

pub fn vip_from_hosts(cluster: &mut Cluster) -> Result<String> {
    let target = format!("{}:80", vip(cluster)?);
    let seen: Result<Vec<String>> =
        cluster.nodes.iter().map(|node| load(cluster, &Place::host(cluster, &node.name)?, &target)).collect();
    Ok(seen?.join("; "))
}

pub fn node_port_from_outside(cluster: &mut Cluster) -> Result<String> {
    let place = Place::outside(cluster);
    let seen: Result<Vec<String>> =
        cluster.topology.nodes.iter().map(|node| load(cluster, &place, &format!("{}:{NODE_PORT}", node.addr))).collect();
    Ok(seen?.join("; "))
}

/// By both ways; a request counts only when the pod itself answered, so requests go on until each pod has met itself.
pub fn hairpin(cluster: &mut Cluster) -> Result<String> {
    let target = format!("{}:80", vip(cluster)?);
    let pods = cluster.pods(SELECTOR)?;
    let mut own = 0;
    for pod in &pods {
        for place in [Place::pod(cluster, pod)?, Place::pod_by_tc(cluster, pod)?] {
            let report: HttpReport = place.probe(&["http", &target, "--count", "100"])?;
            all_answered(&report, 100, &pods).with_context(|| place.label.clone())?;
            own += report.pods.get(&pod.name).copied().unwrap_or(0);
        }
    }
    ensure!(own > 0, "no pod was ever answered by itself");
    Ok(format!("{own} requests of {} were answered by the pod that asked", pods.len() * 200))
}

pub fn udp(cluster: &mut Cluster) -> Result<String> {
    let from = client(cluster)?;
    let vip = format!("{}:9090", vip(cluster)?);
    let node_port = format!("{}:30091", cluster.topology.nodes[0].addr);
    let places = [
        (Place::pod(cluster, &from)?, &vip),
        (Place::pod_by_tc(cluster, &from)?, &vip),
        (Place::host(cluster, &from.node)?, &vip),
        (Place::outside(cluster), &node_port),
    ];
    for (place, target) in &places {
        for _ in 0..5 {
            let report: UdpReport = place.probe(&["udp", target, "--count", "10"])?;
            ensure!(report.lost == 0, "{} to {target}: {} of 10 lost, {:?}", place.label, report.lost, report.error);
            let source = report.source.map(|source| source.to_string()).unwrap_or_default();
            ensure!(source == **target, "{}: the answer came from {source}, not from {target}", place.label);
        }
    }
    Ok(format!("{} ways, 50 datagrams each, source as dialled", places.len()))
}
