//! What the socket load balancer alone does.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use thalweg_lab::netns::run;

use crate::lab::{Ctx, From, Pod, at};
use crate::manifest::Manifest;

pub fn a_socket_is_told_the_address_it_dialled(ctx: &mut Ctx<'_>) -> Result<()> {
    let vip = ctx.vip();
    let both = Manifest::new(&format!("peer-{}", ctx.family_name()), vip).port("TCP", 90, 9090).port("UDP", 90, 9090);
    let both = both.endpoints(ctx.endpoints(&[Pod::B1]));
    ctx.apply(&[&both])?;
    let target = at(vip, 90);
    for from in ctx.inside() {
        for kind in ["tcp", "udp", "udp-unconnected"] {
            let said = ctx.place(from).session(&[kind, &target.to_string()])?.say()?;
            ensure!(said.peer == Some(target), "{from:?} by {kind}: {said:?}");
        }
    }
    Ok(())
}

/// cilium#25322, calico#6908: what a mesh of the pod's own takes by the service's address is there to be taken.
pub fn a_pod_that_opts_out_is_served_by_packets(ctx: &mut Ctx<'_>) -> Result<()> {
    let web = ctx.web("optout");
    let web = web.endpoints(ctx.endpoints(&[Pod::A1, Pod::B1]));
    ctx.apply(&[&web])?;
    let from = From::Pod(Pod::AAsks);
    let event = |ctx: &Ctx<'_>, name: &str| ctx.metric_of(0, "thalweg_events_total", &format!("event=\"{name}\""));
    let counts = |ctx: &Ctx<'_>| Ok::<_, anyhow::Error>((event(ctx, "sock_translated")?, event(ctx, "tc_flows")?));
    // What a rule in the pod itself sees of the service, as a sidecar's would.
    let (iptables, netns) = (if web.vip.is_ipv4() { "iptables" } else { "ip6tables" }, ctx.pod(Pod::AAsks).netns());
    run(netns.command(iptables).args(["-w", "-A", "OUTPUT", "-d"]).arg(web.vip.to_string()))?;
    let dialled = |ctx: &Ctx<'_>| {
        let shown = run(ctx.pod(Pod::AAsks).netns().command(iptables).args(["-w", "-vxnL", "OUTPUT"]))?;
        let rule = shown.lines().find(|line| line.contains(&web.vip.to_string())).context("the rule")?;
        Ok::<u64, anyhow::Error>(rule.split_whitespace().next().context("packets")?.parse()?)
    };
    let start = counts(ctx)?;
    ctx.answered_by(from, at(web.vip, 80), &[Pod::A1, Pod::B1])?;
    let by_socket = counts(ctx)?;
    ensure!(by_socket.0 > start.0 && by_socket.1 == start.1, "before it opts out: {start:?}, {by_socket:?}");
    ensure!(dialled(ctx)? == 0, "the pod's packets go to the service's address before it opts out");

    let pod = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: default, uid: {name}, annotations: {{thalweg.dev/socket-lb: \"false\"}}}}\n\
         spec: {{nodeName: {node}, containers: [{{name: c, image: i}}]}}\nstatus: {{podIP: {addr}, podIPs: [{{ip: {addr}}}]}}\n",
        name = Pod::AAsks.name(),
        node = ctx.node_name(0),
        addr = ctx.pod(Pod::AAsks).addr,
    );
    ctx.apply_text("optout-pod.yaml", &pod)?;
    let seen = std::cell::Cell::new(by_socket.0);
    ctx.until("its sockets are left alone", || {
        ctx.answered_by(from, at(web.vip, 80), &[Pod::A1, Pod::B1])?;
        let now = counts(ctx)?.0;
        Ok(seen.replace(now) == now)
    })?;
    let before = counts(ctx)?;
    ctx.answered_by(from, at(web.vip, 80), &[Pod::A1, Pod::B1])?;
    let after = counts(ctx)?;
    ensure!(after.0 == before.0 && after.1 > before.1, "{before:?}, {after:?}");
    ensure!(dialled(ctx)? > 0, "the pod's packets do not go to the service's address");
    run(ctx.pod(Pod::AAsks).netns().command(iptables).args(["-w", "-F", "OUTPUT"])).map(drop)
}

/// cilium#23604.
pub fn a_node_port_cannot_be_taken_by_a_process(ctx: &mut Ctx<'_>) -> Result<()> {
    let (vip, port) = (ctx.vip(), ctx.node_port());
    let web = Manifest::new(&format!("taken-{}", ctx.family_name()), vip).node_port("TCP", 80, 8080, port);
    let web = web.endpoints(ctx.endpoints(&[Pod::A1]));
    let any: SocketAddr = if vip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().context("an address")?;
    let own = at(ctx.node_address(0), port);
    let everywhere = at(any.ip(), port);
    ensure!(ctx.bind(From::Node(0), own, false)?.error.is_none(), "before the service is there");
    ctx.apply(&[&web])?;
    for address in [own, everywhere] {
        let report = ctx.bind(From::Node(0), address, false)?;
        ensure!(report.error.is_some(), "{address} was given away");
    }
    // Another protocol is another port, and pods have ports of their own.
    ensure!(ctx.bind(From::Node(0), own, true)?.error.is_none(), "UDP is not the service's");
    ensure!(ctx.bind(From::Pod(Pod::AAsks), everywhere, false)?.error.is_none(), "a pod's port is not the node's");
    ctx.remove(&web)?;
    ensure!(ctx.bind(From::Node(0), own, false)?.error.is_none(), "after the service is gone");
    Ok(())
}
