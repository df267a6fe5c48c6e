//! Cluster DNS from a client pod.

use anyhow::{Result, ensure};

use super::{SELECTOR, client, vip};
use crate::cluster::Cluster;
use crate::place::Place;
use crate::probe::{DnsReport, ResolveReport};
use crate::topology::CLUSTER_DNS;

pub fn answers(cluster: &mut Cluster) -> Result<String> {
    let place = Place::pod(cluster, &client(cluster)?)?;
    let by_tc = Place::pod_by_tc(cluster, &client(cluster)?)?;
    let vip = vip(cluster)?;
    let server = format!("{CLUSTER_DNS}:53");
    let ask = |place: &Place, name: &str, record: &str, tcp: bool| -> Result<DnsReport> {
        let mut args = vec!["dns", name, record, "--server", &server];
        if tcp {
            args.push("--tcp");
        }
        place.probe(&args)
    };

    let mut micros = u64::MAX;
    for (place, tcp) in [(&place, false), (&place, true), (&by_tc, false), (&by_tc, true)] {
        let report = ask(place, "web.default.svc.cluster.local.", "A", tcp)?;
        let way = format!("{} over {}", place.label, if tcp { "TCP" } else { "UDP" });
        ensure!(report.rcode == "NoError", "web.default.svc.cluster.local A in {way}: {}", report.rcode);
        ensure!(report.answers.len() == 1 && report.answers[0].ends_with(&vip), "{way}: {:?}, wanted {vip}", report.answers);
        micros = micros.min(report.micros);
    }

    let short: ResolveReport = place.probe(&["resolve", "web"])?;
    ensure!(short.addresses.iter().any(|address| address.to_string() == vip), "`web` by the search path: {short:?}");

    let service = ask(&place, "_http._tcp.web.default.svc.cluster.local.", "SRV", false)?;
    ensure!(service.answers.len() == 1 && service.answers[0].contains(" 80 "), "SRV of port http: {:?}", service.answers);

    let headless = ask(&place, "web-headless.default.svc.cluster.local.", "A", false)?;
    let pods = cluster.pods(SELECTOR)?;
    for pod in &pods {
        ensure!(
            headless.answers.iter().any(|answer| answer.ends_with(&pod.ip)),
            "{} is missing in {:?}",
            pod.ip,
            headless.answers
        );
    }
    ensure!(headless.answers.len() == pods.len(), "{} pods, {:?}", pods.len(), headless.answers);

    let reverse: Vec<&str> = vip.split('.').rev().collect();
    let pointer = ask(&place, &format!("{}.in-addr.arpa.", reverse.join(".")), "PTR", false)?;
    ensure!(
        pointer.answers.iter().any(|answer| answer.contains("web.default.svc.cluster.local")),
        "PTR: {:?}",
        pointer.answers
    );

    let missing = ask(&place, "missing.default.svc.cluster.local.", "A", false)?;
    ensure!(missing.rcode == "NXDomain" && missing.authority == 1, "a name that is not: {missing:?}");
    Ok(format!("web = {vip}, {} headless addresses, fastest {micros} µs", headless.answers.len()))
}
