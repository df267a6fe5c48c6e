//! Pods and the pod network.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};

use super::{client, demo};
use crate::cluster::Cluster;
use crate::place::Place;
use crate::probe::HttpReport;

pub fn demo_runs(cluster: &mut Cluster) -> Result<String> {
    let pods = demo(cluster, 3)?;
    let used: BTreeSet<_> = pods.iter().map(|pod| pod.node.as_str()).collect();
    ensure!(used.len() == cluster.nodes.len().min(3), "the pods run on {used:?} only");
    let addresses: BTreeSet<_> = pods.iter().map(|pod| pod.ip.as_str()).collect();
    ensure!(addresses.len() == pods.len(), "two pods share an address: {pods:?}");
    for pod in &pods {
        let cidr = cluster.kubectl(&["get", "node", &pod.node, "-o", "jsonpath={.spec.podCIDR}"])?;
        ensure!(contains(&cidr, &pod.ip)?, "pod {} has {}, outside its node's {cidr}", pod.name, pod.ip);
    }
    Ok(format!("{} pods on {}", pods.len(), used.into_iter().collect::<Vec<_>>().join(", ")))
}

pub fn pod_to_pod(cluster: &mut Cluster) -> Result<String> {
    let from = client(cluster)?;
    let pods = cluster.pods(super::SELECTOR)?;
    let (mut same, mut across) = (0, 0);
    for pod in &pods {
        let target = format!("{}:8080", pod.ip);
        let report: HttpReport = Place::pod(cluster, &from)?.probe(&["http", &target, "--count", "20"])?;
        ensure!(report.failed == 0 && report.ok == 20, "{} to {} ({target}): {:?}", from.name, pod.name, report.errors);
        ensure!(report.pods.contains_key(&pod.name), "{target} was answered by {:?}", report.pods);
        ensure!(
            report.clients.keys().collect::<Vec<_>>() == [&from.ip],
            "{} saw the client as {:?} instead of {}",
            pod.name,
            report.clients,
            from.ip
        );
        if pod.node == from.node { same += 1 } else { across += 1 }
    }
    ensure!(same > 0 || pods.len() < cluster.nodes.len(), "no pod of the demo runs on the client's node");
    ensure!(across > 0 || cluster.nodes.len() == 1, "no pod of the demo runs on another node");
    Ok(format!("{same} on the same node, {across} across, source address kept"))
}

fn contains(cidr: &str, address: &str) -> Result<bool> {
    let (base, length) = cidr.split_once('/').with_context(|| format!("podCIDR {cidr:?}"))?;
    let (base, address): (Ipv4Addr, Ipv4Addr) =
        (base.parse()?, address.parse().with_context(|| format!("pod address {address:?}"))?);
    let length: u32 = length.parse()?;
    ensure!(length <= 32, "podCIDR {cidr}");
    let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
    Ok(u32::from(base) & mask == u32::from(address) & mask)
}

#[cfg(test)]
mod tests {
    use super::contains;

    #[test]
    fn addresses_are_told_from_those_of_the_next_range() {
        assert!(contains("10.244.1.0/24", "10.244.1.255").expect("valid"));
        assert!(!contains("10.244.1.0/24", "10.244.2.0").expect("valid"));
        assert!(contains("0.0.0.0/0", "10.244.2.0").expect("valid"));
        assert!(contains("10.244.1.0/24", "").is_err());
    }
}
