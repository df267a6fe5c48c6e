//! Ways in from outside: NodePorts, load balancer and external addresses, health checks for balancers.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use thalweg_cluster::Family;
use thalweg_lab::file::FilePod;
use thalweg_lab::http::get;
use thalweg_lab::netns::Netns;
use thalweg_lab::probe::HttpReport;
use thalweg_lab::topology::UPLINK;

use crate::lab::{Ctx, From, Hook, Pod, at};
use crate::manifest::Manifest;

const BOTH: [Pod; 2] = [Pod::A1, Pod::B1];

pub fn a_node_port_leads_to_pods_of_any_node(ctx: &mut Ctx<'_>) -> Result<()> {
    let (vip, port) = (ctx.vip(), ctx.node_port());
    let web = Manifest::new(&format!("nodeport-{}", ctx.family_name()), vip).node_port("TCP", 80, 8080, port);
    let web = web.endpoints(ctx.endpoints(&BOTH));
    ctx.apply(&[&web])?;
    for node in 0..2 {
        ctx.answered_by(From::Outside, at(ctx.node_address(node), port), &BOTH)?;
    }
    // The answer of a remote backend comes back through the node, so that sees the node.
    let report = ctx.http(From::Outside, at(ctx.node_address(0), port), 40)?;
    let node = ctx.node_address(0).to_string();
    ensure!(report.clients.contains_key(&node), "nobody saw {node}: {report:?}");
    for from in ctx.inside() {
        ctx.answered_by(from, at(ctx.node_address(0), port), &BOTH)?;
    }
    Ok(())
}

pub fn a_node_port_serves_udp(ctx: &mut Ctx<'_>) -> Result<()> {
    let (vip, port) = (ctx.vip(), ctx.node_port());
    let echo = Manifest::new(&format!("nodeudp-{}", ctx.family_name()), vip).node_port("UDP", 53, 9090, port);
    let echo = echo.endpoints(ctx.endpoints(&[Pod::B1]));
    ctx.apply(&[&echo])?;
    for node in 0..2 {
        let target = at(ctx.node_address(node), port);
        let report = ctx.udp(From::Outside, target, 5)?;
        ensure!(report.lost == 0 && report.source == Some(target), "{report:?}");
    }
    Ok(())
}

pub fn load_balancer_and_external_addresses_are_served(ctx: &mut Ctx<'_>) -> Result<()> {
    let (balanced, external) = (ctx.external_address()?, ctx.external_address()?);
    let web = ctx.web("addresses").ingress(balanced, "VIP").set("externalIPs", json!([external]));
    let web = web.endpoints(ctx.endpoints(&BOTH));
    ctx.apply(&[&web])?;
    for address in [balanced, external] {
        ctx.answered_by(From::Outside, at(address, 80), &BOTH)?;
        for from in ctx.inside() {
            ctx.answered_by(from, at(address, 80), &BOTH)?;
        }
    }
    Ok(())
}

/// The balancer itself wants to see such packets: here nobody is there to answer.
pub fn a_load_balancer_in_proxy_mode_is_not_intercepted(ctx: &mut Ctx<'_>) -> Result<()> {
    let address = ctx.external_address()?;
    let web = ctx.web("proxied").ingress(address, "Proxy");
    let web = web.endpoints(ctx.endpoints(&BOTH));
    ctx.apply(&[&web])?;
    let report = ctx.connect(From::Pod(Pod::AAsks), at(address, 80))?;
    ensure!(report.outcome != "connected", "{report:?}");
    ctx.answered_by(From::Pod(Pod::AAsks), at(web.vip, 80), &BOTH)
}

pub fn a_node_port_is_served_on_localhost(ctx: &mut Ctx<'_>) -> Result<()> {
    let (vip, port) = (ctx.vip(), ctx.node_port());
    let web = Manifest::new(&format!("localhost-{}", ctx.family_name()), vip).node_port("TCP", 80, 8080, port);
    let web = web.endpoints(ctx.endpoints(&BOTH));
    ctx.apply(&[&web])?;
    let localhost = at(Ipv4Addr::LOCALHOST.into(), port);
    ctx.answered_by(From::Node(0), localhost, &BOTH)?;
    // A pod's loopback is its own.
    ctx.connect_ends(From::Pod(Pod::AAsks), localhost, "refused")
}

/// An address more of a machine's, for as long as this lives.
struct Given(Netns, String);

impl Given {
    fn new(machine: &Netns, address: &str, flags: &str) -> Result<Self> {
        machine.ip(&format!("addr add {address} dev {UPLINK} {flags}"))?;
        Ok(Self(Netns::existing(machine.name()), address.to_owned()))
    }
}

impl Drop for Given {
    fn drop(&mut self) {
        if let Err(error) = self.0.ip(&format!("addr del {} dev {UPLINK}", self.1)) {
            eprintln!("{} stays: {error:#}", self.1);
        }
    }
}

pub fn a_node_port_follows_the_nodes_addresses(ctx: &mut Ctx<'_>) -> Result<()> {
    let (address, spelled, flags): (IpAddr, _, _) = match ctx.family {
        Family::V4 => (Ipv4Addr::new(172, 30, 0, 79).into(), "172.30.0.79/24", ""),
        Family::V6 => (Ipv6Addr::new(0xfd00, 0x30, 0, 0, 0, 0, 0, 0x79).into(), "fd00:30::79/64", "nodad"),
    };
    let port = ctx.node_port();
    let web = Manifest::new(&format!("followed-{}", ctx.family_name()), ctx.vip()).node_port("TCP", 80, 8080, port);
    let web = web.endpoints(ctx.endpoints(&BOTH));
    ctx.apply(&[&web])?;
    ctx.answered_by(From::Outside, at(ctx.node_address(0), port), &BOTH)?;
    let target = at(address, port);
    let given = Given::new(ctx.node_netns(0), spelled, flags)?;
    ctx.until("the new address is served", || Ok(ctx.connect(From::Outside, target)?.outcome == "connected"))?;
    for from in [From::Outside, From::Pod(Pod::AAsks)] {
        ctx.answered_by(from, target, &BOTH)?;
    }
    drop(given);
    let asks = From::Pod(Pod::AAsks);
    ctx.until("the address is not served any more", || Ok(ctx.connect(asks, target)?.outcome != "connected"))?;
    ctx.answered_by(asks, at(ctx.node_address(0), port), &BOTH)
}

/// One number at two addresses of a node is two pods'; at all addresses it is nobody else's then.
pub fn host_ports_of_one_number_differ_by_address(ctx: &mut Ctx<'_>) -> Result<()> {
    let (port, own) = (ctx.host_port(), ctx.node_address(0));
    let (second, spelled, flags): (IpAddr, _, _) = match ctx.family {
        Family::V4 => (Ipv4Addr::new(172, 30, 0, 78).into(), "172.30.0.78/24", ""),
        Family::V6 => (Ipv6Addr::new(0xfd00, 0x30, 0, 0, 0, 0, 0, 0x78).into(), "fd00:30::78/64", "nodad"),
    };
    let _given = Given::new(ctx.node_netns(0), spelled, flags)?;
    let made = |ctx: &mut Ctx<'_>, name: &str, ip: &str| {
        let mapping = json!([{"hostPort": port, "containerPort": 8080, "protocol": "tcp", "hostIP": ip}]);
        ctx.lab().pod_with(0, &format!("{name}{port}"), true, &json!({ "portMappings": mapping }))
    };
    let pods = [(own, made(ctx, "own", &own.to_string())?), (second, made(ctx, "second", &second.to_string())?)];
    for (address, pod) in &pods {
        let target = at(*address, port);
        ctx.until("the port is served", || Ok(ctx.connect(From::Outside, target)?.outcome == "connected"))?;
        for from in [From::Outside, From::Pod(Pod::AAsks), From::Pod(Pod::BAsks)] {
            let report = ctx.http(from, target, 5)?;
            ensure!(is_answered_by(&report.pods, pod) && report.failed == 0, "{from:?} to {target}: {report:?}");
        }
    }
    ensure!(made(ctx, "third", "").is_err(), "a third pod has port {port} of all addresses");
    for (_, pod) in &pods {
        ctx.lab().cni(0, "DEL", &pod.name, pod.netns())?;
    }
    Ok(())
}

/// Two pods of one node share the port's number by two protocols, and a pod of the other node has it too.
pub fn a_host_port_leads_to_its_pod(ctx: &mut Ctx<'_>) -> Result<()> {
    let port = ctx.host_port();
    let made = |ctx: &mut Ctx<'_>, node: usize, name: &str, protocol: &str, target: u16| {
        let mapping = json!([{"hostPort": port, "containerPort": target, "protocol": protocol, "hostIP": ""}]);
        ctx.lab().pod_with(node, &format!("{name}{port}"), true, &json!({ "portMappings": mapping }))
    };
    let web = made(ctx, 0, "web", "tcp", 8080)?;
    let echo = made(ctx, 0, "echo", "udp", 9090)?;
    let other = made(ctx, 1, "other", "tcp", 8080)?;
    // Node by node: who is to answer there.
    let served = [(0, &web), (1, &other)];
    for (node, pod) in served {
        let target = at(ctx.node_address(node), port);
        ctx.until("the port is served", || Ok(ctx.connect(From::Outside, target)?.outcome == "connected"))?;
        let report = ctx.http(From::Outside, target, 5)?;
        let client = ctx.client_address().to_string();
        ensure!(is_answered_by(&report.pods, pod) && report.failed == 0, "{target}: {report:?}");
        ensure!(report.clients.keys().eq([&client]), "the client's address is kept: {report:?}");
        for from in ctx.inside() {
            let report = ctx.http(from, target, 5)?;
            ensure!(is_answered_by(&report.pods, pod) && report.failed == 0, "{from:?} to {target}: {report:?}");
        }
    }
    // The same number by UDP, and the pod's way to itself.
    let target = at(ctx.node_address(0), port);
    for from in [From::Outside, From::Pod(Pod::AAsks), From::Pod(Pod::BAsks)] {
        let report = ctx.udp(from, target, 5)?;
        ensure!(report.lost == 0 && report.source == Some(target), "{from:?} by UDP: {report:?}");
    }
    let itself = if ctx.hook == Hook::Tc { web.by_tc() } else { web.place() };
    let report: HttpReport = itself.probe(&["http", &target.to_string(), "--count", "5", "--timeout", "2000"])?;
    ensure!(is_answered_by(&report.pods, &web) && report.failed == 0, "hairpin: {report:?}");
    if ctx.hook == Hook::Socket {
        ensure!(ctx.bind(From::Node(0), target, false)?.error.is_some(), "{target} was given to a process");
    }
    ensure!(reserved(ctx)?.contains(&port.to_string()), "the node may choose {port}: {:?} is reserved", reserved(ctx)?);
    if ctx.hook != Hook::Tc && target.is_ipv4() {
        let report = ctx.http(From::Node(0), at(Ipv4Addr::LOCALHOST.into(), port), 5)?;
        ensure!(is_answered_by(&report.pods, &web) && report.failed == 0, "localhost: {report:?}");
    }

    // It is one pod's, also for an agent that starts anew, until that pod goes.
    let refused = |ctx: &mut Ctx<'_>| match made(ctx, 0, "late", "TCP", 8080) {
        Ok(_) => bail!("two pods have port {port}"),
        Err(error) => {
            ensure!(format!("{error:#}").contains(&format!("pod default/{}'s", web.name)), "{error:#}");
            Ok(())
        }
    };
    refused(ctx)?;
    ctx.lab().restart_agent(0, Duration::ZERO)?;
    let last_sync = "kubeproxy_sync_proxy_rules_last_timestamp_seconds";
    ctx.until("the new agent has synced", || Ok(ctx.metric(0, last_sync).is_ok_and(|seconds| seconds > 0)))?;
    refused(ctx)?;
    let report = ctx.http(From::Outside, target, 5)?;
    ensure!(is_answered_by(&report.pods, &web) && report.failed == 0, "after a restart: {report:?}");
    ctx.lab().cni(0, "DEL", &web.name, web.netns())?;
    ctx.until("the port is free", || Ok(ctx.connect(From::Outside, target)?.outcome == "refused"))?;
    let late = made(ctx, 0, "late", "tcp", 8080)?;
    ctx.until("the next pod has the port", || Ok(is_answered_by(&ctx.http(From::Outside, target, 1)?.pods, &late)))?;
    for (node, pod) in [(0, &late), (0, &echo), (1, &other)] {
        ctx.lab().cni(node, "DEL", &pod.name, pod.netns())?;
    }
    ctx.until("the port is nobody's", || Ok(!reserved(ctx)?.contains(&port.to_string())))?;
    Ok(())
}

/// Ports that the first node does not choose for its own connections.
fn reserved(ctx: &Ctx<'_>) -> Result<String> {
    let read = || std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_reserved_ports");
    ctx.node_netns(0).enter(read)?.context("read which ports are reserved")
}

fn is_answered_by<N: AsRef<str>, C>(pods: &BTreeMap<N, C>, pod: &FilePod) -> bool {
    pods.keys().map(AsRef::as_ref).eq([pod.name.as_str()])
}

/// cilium#11043, #33547.
pub fn health_checks_answer_for_local_endpoints(ctx: &mut Ctx<'_>) -> Result<()> {
    let (vip, port, check) = (ctx.vip(), ctx.node_port(), ctx.node_port());
    let address = ctx.external_address()?;
    let web = Manifest::new(&format!("checked-{}", ctx.family_name()), vip)
        .node_port("TCP", 80, 8080, port)
        .ingress(address, "VIP")
        .set("externalTrafficPolicy", json!("Local"))
        .set("healthCheckNodePort", json!(check));
    let one = web.clone().endpoints(ctx.endpoints(&[Pod::A1]));
    ctx.apply(&[&one])?;
    let status = |ctx: &Ctx<'_>, node: usize| get(ctx.client(), at(ctx.node_address(node), check), "/any/path");
    ctx.until("200 where the endpoint is", || Ok(status(ctx, 0)?.status == 200))?;
    ctx.until("503 where none is", || Ok(status(ctx, 1)?.status == 503))?;
    let answer = status(ctx, 0)?.body;
    ensure!(answer.contains("\"localEndpoints\":1"), "{answer}");
    // It serves while it terminates, but balancers are to look elsewhere.
    let ending = web.clone().endpoints([ctx.endpoint(Pod::A1).terminating()]);
    ctx.apply(&[&ending])?;
    ctx.until("503 while the last endpoint terminates", || Ok(status(ctx, 0)?.status == 503))?;
    ctx.answered_by(From::Outside, at(ctx.node_address(0), port), &[Pod::A1])
}
