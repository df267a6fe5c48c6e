//! Services from YAML files on two nodes, without any API server: virtual IPs and NodePorts on real packets, from
//! everywhere, by the socket and by tc; changes, broken files, and an agent that dies under load.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;
use thalweg_lab::file::{FileLab, FilePod, web};
use thalweg_lab::place::Place;
use thalweg_lab::probe::{ConnectReport, HttpReport, UdpReport};
use thalweg_lab::process::wait_until;

const VIP: &str = "10.96.7.7";

/// Backends of the VIP's port 80 in a `thalweg services` listing.
fn backends(rows: &Value) -> usize {
    rows.as_array()
        .into_iter()
        .flatten()
        .filter(|row| row["address"] == format!("{VIP}:80"))
        .filter_map(|row| row["endpoints"].as_array().map(Vec::len))
        .max()
        .unwrap_or(0)
}

/// 60 requests: none fails, and exactly `pods` answer.
fn spread(place: &Place, target: &str, pods: &[&FilePod]) -> Result<()> {
    let report: HttpReport = place.probe(&["http", target, "--count", "60"])?;
    ensure!(report.failed == 0, "{} to {target}: {:?}", place.label, report.errors);
    let answered: Vec<&String> = report.pods.keys().collect();
    let mut wanted: Vec<&String> = pods.iter().map(|pod| &pod.name).collect();
    wanted.sort();
    ensure!(answered == wanted, "{} to {target} was answered by {answered:?}, wanted {wanted:?}", place.label);
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn services_from_files_reach_their_pods_from_everywhere() {
    let mut lab = FileLab::start("files").expect("lab");
    let result = scenario(&mut lab);
    let log = lab.nodes[0].agent.log_tail(20);
    let removed = lab.remove();
    result.unwrap_or_else(|error| panic!("{error:#}\nagent of the first node:\n{log}"));
    removed.expect("nothing is left behind");
}

fn scenario(lab: &mut FileLab) -> Result<()> {
    let client = lab.pod(0, "client", false)?;
    let near = lab.pod(0, "near", true)?;
    let far = lab.pod(1, "far", true)?;
    let both = [&near, &far];
    let vip = format!("{VIP}:80");
    let node_ports: Vec<String> = lab.topology.nodes.iter().map(|node| format!("{}:30080", node.addr)).collect();

    lab.apply("web.yaml", &web(VIP, &both, &lab.nodes))?;
    lab.wait_services("two backends", |rows| backends(rows) == 2)?;
    for place in [client.place(), client.by_tc(), near.place(), near.by_tc(), lab.host(0), lab.host(1)] {
        spread(&place, &vip, &both)?;
    }
    for target in &node_ports {
        spread(&lab.outside(), target, &both)?;
        spread(&client.place(), target, &both)?;
    }
    for (place, target) in [(client.place(), format!("{VIP}:9090")), (client.by_tc(), format!("{VIP}:9090"))] {
        let report: UdpReport = place.probe(&["udp", &target, "--count", "20"])?;
        ensure!(report.lost == 0, "{}: {report:?}", place.label);
    }

    // A half-written file changes nothing, valid YAML or not; the next whole one takes effect.
    for half in ["apiVersion: v1\nkind: Serv", "apiVersion: v1\nkind: Service\nmetadata: {name: we"] {
        std::fs::write(lab.manifests.join("web.yaml"), half)?;
        std::thread::sleep(Duration::from_millis(800));
        spread(&client.place(), &vip, &both)?;
    }
    lab.apply("web.yaml", &web(VIP, &[&far], &lab.nodes))?;
    lab.wait_services("one backend", |rows| backends(rows) == 1)?;
    spread(&client.place(), &vip, &[&far])?;
    spread(&client.by_tc(), &vip, &[&far])?;

    agent_dies_under_load(lab, &client, &vip)?;

    lab.apply("web.yaml", &web(VIP, &[], &lab.nodes))?;
    lab.wait_services("no backend", |rows| backends(rows) == 0)?;
    for (place, target) in [
        (client.place(), vip.clone()),
        (client.by_tc(), vip.clone()),
        (lab.host(0), vip.clone()),
        (lab.outside(), node_ports[0].clone()),
        (client.place(), format!("{VIP}:81")),
        (client.by_tc(), format!("{VIP}:81")),
    ] {
        let report: ConnectReport = place.probe(&["connect", &target])?;
        ensure!(report.outcome == "refused", "{} to {target} without endpoints: {}", place.label, report.outcome);
    }
    for pod in [&client, &near, &far] {
        lab.cni(pod.node, "DEL", &pod.name, pod.netns())?;
        lab.cni(pod.node, "DEL", &pod.name, pod.netns())?;
    }
    Ok(())
}

/// kill -9 and a new agent while requests run: none fails, the maps are adopted, a change made while it was away arrives.
fn agent_dies_under_load(lab: &mut FileLab, client: &FilePod, vip: &str) -> Result<()> {
    let before = lab.view(0, "status")?;
    let loads = [client.place(), client.by_tc()].map(|place| place.load(&["http", vip, "--concurrency", "2", "--pause", "1"]));
    std::thread::sleep(Duration::from_millis(300));
    lab.restart_agent(0, Duration::from_millis(700))?;
    // The services are there before the agent is: whether it has taken the maps over is said by themselves.
    wait_until("the new agent adopts the maps", Duration::from_secs(30), &mut [], || {
        Ok(lab.view(0, "status")?["adoptions"].as_u64() > before["adoptions"].as_u64())
    })?;
    lab.wait_services("services after the restart", |rows| backends(rows) == 1)?;
    std::thread::sleep(Duration::from_millis(1500));
    let reports = loads.into_iter().map(|load| load?.finish::<HttpReport>()).collect::<Result<Vec<_>>>()?;
    let after = lab.view(0, "status")?;
    for (report, way) in reports.iter().zip(["socket LB", "tc"]) {
        let HttpReport { ok, failed, errors, .. } = report;
        ensure!(*failed == 0 && *ok > 0, "{way}: {failed} failed of {}: {errors:?}; drops {}", ok + failed, after["drops"]);
    }
    ensure!(after["created_at"] == before["created_at"], "the maps were made anew: {before} then {after}");
    ensure!(after["adoptions"].as_u64() > before["adoptions"].as_u64(), "no adoption counted: {after}");
    Ok(())
}
