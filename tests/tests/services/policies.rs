//! Traffic policies, termination, and whom a service admits.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::lab::{Ctx, From, Pod, at};
use crate::manifest::Manifest;

/// cilium#37613.
pub fn terminating_endpoints_serve_when_nobody_else_does(ctx: &mut Ctx<'_>) -> Result<()> {
    let web = ctx.web("ending");
    let mixed = web.clone().endpoints([ctx.endpoint(Pod::A1).terminating(), ctx.endpoint(Pod::B1)]);
    ctx.apply(&[&mixed])?;
    let from = From::Pod(Pod::AAsks);
    ctx.answered_by(from, at(web.vip, 80), &[Pod::B1])?;
    let ending = web.clone().endpoints([ctx.endpoint(Pod::A1).terminating(), ctx.endpoint(Pod::B1).terminating()]);
    ctx.apply(&[&ending])?;
    ctx.answered_by(from, at(web.vip, 80), &[Pod::A1, Pod::B1])
}

/// cilium#37613: the node's own endpoints and the cluster's fall back each by itself.
pub fn a_nodes_terminating_endpoints_serve_while_others_are_ready(ctx: &mut Ctx<'_>) -> Result<()> {
    let (web, port) = local(ctx, "fallback", &[]);
    let mixed = web.clone().endpoints([ctx.endpoint(Pod::A1).terminating(), ctx.endpoint(Pod::B1)]);
    ctx.apply(&[&mixed])?;
    ctx.answered_by(From::Outside, at(ctx.node_address(0), port), &[Pod::A1])?;
    ctx.answered_by(From::Outside, at(ctx.node_address(1), port), &[Pod::B1])?;
    for from in ctx.inside() {
        ctx.answered_by(from, at(web.vip, 80), &[Pod::B1])?;
    }
    // One of the node's own is ready: it alone serves there.
    let own = [ctx.endpoint(Pod::A1).terminating(), ctx.endpoint(Pod::A2), ctx.endpoint(Pod::B1).terminating()];
    ctx.apply(&[&web.clone().endpoints(own)])?;
    ctx.answered_by(From::Outside, at(ctx.node_address(0), port), &[Pod::A2])?;
    ctx.answered_by(From::Outside, at(ctx.node_address(1), port), &[Pod::B1])?;
    ctx.answered_by(From::Pod(Pod::BAsks), at(web.vip, 80), &[Pod::A2])?;
    // The same for an internal policy.
    let near = ctx.web("fallin").set("internalTrafficPolicy", json!("Local"));
    let near = near.endpoints([ctx.endpoint(Pod::A1).terminating(), ctx.endpoint(Pod::B1)]);
    ctx.apply(&[&near])?;
    ctx.answered_by(From::Pod(Pod::AAsks), at(near.vip, 80), &[Pod::A1])?;
    ctx.answered_by(From::Pod(Pod::BAsks), at(near.vip, 80), &[Pod::B1])
}

pub fn internal_policy_local_stays_on_the_node(ctx: &mut Ctx<'_>) -> Result<()> {
    let web = ctx.web("near").set("internalTrafficPolicy", json!("Local"));
    let web = web.endpoints(ctx.endpoints(&[Pod::A1, Pod::A2, Pod::B1]));
    ctx.apply(&[&web])?;
    ctx.answered_by(From::Pod(Pod::AAsks), at(web.vip, 80), &[Pod::A1, Pod::A2])?;
    ctx.answered_by(From::Pod(Pod::BAsks), at(web.vip, 80), &[Pod::B1])
}

pub fn internal_policy_local_drops_where_nobody_is(ctx: &mut Ctx<'_>) -> Result<()> {
    let web = ctx.web("far").set("internalTrafficPolicy", json!("Local"));
    let web = web.endpoints(ctx.endpoints(&[Pod::B1]));
    ctx.apply(&[&web])?;
    ctx.connect_ends(From::Pod(Pod::AAsks), at(web.vip, 80), "timeout")?;
    ctx.answered_by(From::Pod(Pod::BAsks), at(web.vip, 80), &[Pod::B1])?;
    // No endpoint anywhere is another matter.
    ctx.apply(&[&web.clone().endpoints([])])?;
    ctx.connect_ends(From::Pod(Pod::AAsks), at(web.vip, 80), "refused")
}

fn local(ctx: &mut Ctx<'_>, name: &str, pods: &[Pod]) -> (Manifest, u16) {
    let (vip, port) = (ctx.vip(), ctx.node_port());
    let web = Manifest::new(&format!("{name}-{}", ctx.family_name()), vip).node_port("TCP", 80, 8080, port);
    (web.set("externalTrafficPolicy", json!("Local")).endpoints(ctx.endpoints(pods)), port)
}

pub fn external_policy_local_keeps_the_clients_address(ctx: &mut Ctx<'_>) -> Result<()> {
    let (web, port) = local(ctx, "seen", &[Pod::A1, Pod::A2]);
    ctx.apply(&[&web])?;
    let report = ctx.http(From::Outside, at(ctx.node_address(0), port), 24)?;
    let client = ctx.client_address().to_string();
    ensure!(report.failed == 0 && report.pods.len() == 2, "{report:?}");
    ensure!(report.clients.keys().eq([&client]), "wanted {client}: {report:?}");
    ctx.connect_ends(From::Outside, at(ctx.node_address(1), port), "timeout")?;
    // No endpoint anywhere is another matter.
    ctx.apply(&[&web.clone().endpoints([])])?;
    ctx.connect_ends(From::Outside, at(ctx.node_address(1), port), "refused")
}

pub fn external_policy_local_holds_for_all_external_addresses(ctx: &mut Ctx<'_>) -> Result<()> {
    let (balanced, external) = (ctx.external_address()?, ctx.external_address()?);
    let web = ctx.web("local").ingress(balanced, "VIP").set("externalIPs", json!([external]));
    let web = web.set("externalTrafficPolicy", json!("Local"));
    let here = web.clone().endpoints(ctx.endpoints(&[Pod::A1, Pod::B1]));
    ctx.apply(&[&here])?;
    let client = ctx.client_address().to_string();
    for address in [balanced, external] {
        let report = ctx.http(From::Outside, at(address, 80), 24)?;
        let is_local = report.pods.keys().eq(["a1"]) && report.clients.keys().eq([&client]);
        ensure!(report.failed == 0 && is_local, "{address}: {report:?}");
        ctx.answered_by(From::Pod(Pod::AAsks), at(address, 80), &[Pod::A1, Pod::B1])?;
    }
    ctx.apply(&[&web.clone().endpoints(ctx.endpoints(&[Pod::B1]))])?;
    for address in [balanced, external] {
        ctx.connect_ends(From::Outside, at(address, 80), "timeout")?;
        ctx.answered_by(From::Pod(Pod::AAsks), at(address, 80), &[Pod::B1])?;
    }
    Ok(())
}

pub fn external_policy_local_is_a_short_cut_from_inside(ctx: &mut Ctx<'_>) -> Result<()> {
    let (web, port) = local(ctx, "short", &[Pod::B1]);
    ctx.apply(&[&web])?;
    // The node has no endpoint; a pod or the node itself is served by the cluster's all the same.
    for from in ctx.inside().into_iter().filter(|from| matches!(from, From::Pod(Pod::AAsks) | From::Node(0))) {
        ctx.answered_by(from, at(ctx.node_address(0), port), &[Pod::B1])?;
    }
    Ok(())
}

pub fn source_ranges_hold_outside_and_inside(ctx: &mut Ctx<'_>) -> Result<()> {
    let (open, shut) = (ctx.external_address()?, ctx.external_address()?);
    let web = ctx.web("ranges");
    let bits = if open.is_ipv4() { 32 } else { 128 };
    let (client, pod) = (ctx.client_address(), ctx.address(Pod::BAsks));
    let admits = |manifest: Manifest, who: &[std::net::IpAddr]| {
        let ranges: Vec<String> = who.iter().map(|who| format!("{who}/{bits}")).collect();
        manifest.set("loadBalancerSourceRanges", json!(ranges))
    };
    let pods = ctx.endpoints(&[Pod::A1, Pod::B1]);
    let web = admits(web.ingress(open, "VIP"), &[client, pod]).endpoints(pods.clone());
    let other = ctx.web("elsewhere").ingress(shut, "VIP").endpoints(pods);
    let other = admits(other, &[ctx.address(Pod::A2)]);
    ctx.apply(&[&web, &other])?;
    let both = [Pod::A1, Pod::B1];
    ctx.answered_by(From::Outside, at(open, 80), &both)?;
    ctx.answered_by(From::Pod(Pod::BAsks), at(open, 80), &both)?;
    ctx.connect_ends(From::Pod(Pod::AAsks), at(open, 80), "timeout")?;
    ctx.connect_ends(From::Outside, at(shut, 80), "timeout")?;
    // Only the load balancer's address is guarded.
    ctx.answered_by(From::Pod(Pod::AAsks), at(web.vip, 80), &both)?;
    // A range of all addresses admits all, whatever stands beside it.
    let all = if open.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
    let everyone = json!([all, format!("{}/{bits}", ctx.address(Pod::A2))]);
    ctx.apply(&[&other.clone().set("loadBalancerSourceRanges", everyone)])?;
    ctx.answered_by(From::Outside, at(shut, 80), &both)?;
    ctx.apply(&[&other])?;
    ctx.connect_ends(From::Outside, at(shut, 80), "timeout")?;
    // And no longer once nothing is said.
    ctx.apply(&[&other.clone().unset("loadBalancerSourceRanges")])?;
    ctx.answered_by(From::Outside, at(shut, 80), &both)
}
