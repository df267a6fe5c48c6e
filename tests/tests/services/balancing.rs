//! Who is chosen: all endpoints, one client's own, those of the zone.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::lab::{Ctx, From, Pod, at};
use crate::manifest::Manifest;

const ALL: [Pod; 3] = [Pod::A1, Pod::A2, Pod::B1];

pub fn a_virtual_ip_is_served_by_all_its_endpoints_on_every_node(ctx: &mut Ctx<'_>) -> Result<()> {
    let web = ctx.web("all");
    let web = web.endpoints(ctx.endpoints(&ALL));
    ctx.apply(&[&web])?;
    for from in ctx.inside() {
        ctx.answered_by(from, at(web.vip, 80), &ALL)?;
    }
    Ok(())
}

pub fn udp_is_served_like_tcp(ctx: &mut Ctx<'_>) -> Result<()> {
    let vip = ctx.vip();
    let echo = Manifest::new(&format!("udp-{}", ctx.family_name()), vip).port("UDP", 53, 9090).endpoints(ctx.endpoints(&ALL));
    ctx.apply(&[&echo])?;
    for from in ctx.inside() {
        let (mut pods, target) = (std::collections::BTreeSet::new(), at(vip, 53));
        for _ in 0..4 {
            // Each call is a socket of its own: a socket keeps its backend.
            let report = ctx.udp(from, target, 5)?;
            ensure!(report.lost == 0 && report.source == Some(target), "{from:?}: {report:?}");
            pods.extend(report.pods.into_keys());
        }
        ensure!(pods.iter().all(|pod| ALL.iter().any(|known| known.name() == pod)), "{from:?}: {pods:?}");
    }
    Ok(())
}

pub fn one_port_number_is_two_ports_for_tcp_and_udp(ctx: &mut Ctx<'_>) -> Result<()> {
    let vip = ctx.vip();
    let both = Manifest::new(&format!("both-{}", ctx.family_name()), vip).port("TCP", 80, 8080).port("UDP", 80, 9090);
    let both = both.endpoints(ctx.endpoints(&[Pod::A1]));
    ctx.apply(&[&both])?;
    for from in ctx.inside() {
        ctx.answered_by(from, at(vip, 80), &[Pod::A1])?;
        let report = ctx.udp(from, at(vip, 80), 3)?;
        ensure!(report.lost == 0 && report.pods.contains_key("a1"), "{from:?}: {report:?}");
    }
    Ok(())
}

pub fn a_named_port_may_differ_from_slice_to_slice(ctx: &mut Ctx<'_>) -> Result<()> {
    let web = ctx.web("named");
    // The second slice says another number, on which nobody listens: its endpoint must not be dialled on 8080.
    let web = web.endpoints(ctx.endpoints(&[Pod::A1])).slice(8099, ctx.endpoints(&[Pod::B1]));
    ctx.apply(&[&web])?;
    for from in ctx.inside() {
        let report = ctx.http(from, at(web.vip, 80), 40)?;
        let refused: u64 = report.errors.iter().filter(|(error, _)| error.contains("refused")).map(|(_, count)| count).sum();
        ensure!(
            !report.pods.contains_key("b1") && report.ok > 0 && refused == report.failed && refused > 0,
            "{from:?}: {report:?}"
        );
    }
    Ok(())
}

/// cilium#11810, #18632, #47396: the reply tuples of both services are the same.
pub fn one_backend_behind_two_services_serves_both(ctx: &mut Ctx<'_>) -> Result<()> {
    let (first, second) = (ctx.web("first"), ctx.web("second"));
    let (first, second) = (first.endpoints(ctx.endpoints(&[Pod::B1])), second.endpoints(ctx.endpoints(&[Pod::B1])));
    ctx.apply(&[&first, &second])?;
    for from in ctx.inside() {
        for _ in 0..3 {
            ctx.answered_by(from, at(first.vip, 80), &[Pod::B1])?;
            ctx.answered_by(from, at(second.vip, 80), &[Pod::B1])?;
            ctx.answered_by(from, at(ctx.address(Pod::B1), 8080), &[Pod::B1])?;
        }
    }
    Ok(())
}

pub fn a_pod_reaches_itself_through_its_own_service(ctx: &mut Ctx<'_>) -> Result<()> {
    let web = ctx.web("self");
    let web = web.endpoints(ctx.endpoints(&[Pod::A1]));
    ctx.apply(&[&web])?;
    ctx.answered_by(From::Pod(Pod::A1), at(web.vip, 80), &[Pod::A1])
}

fn sticky(manifest: Manifest, seconds: u32) -> Manifest {
    manifest
        .set("sessionAffinity", json!("ClientIP"))
        .set("sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": seconds}}))
}

/// cilium#26709, #35254.
pub fn affinity_keeps_a_client_on_one_backend_over_all_addresses(ctx: &mut Ctx<'_>) -> Result<()> {
    let (vip, port) = (ctx.vip(), ctx.node_port());
    let web = Manifest::new(&format!("sticky-{}", ctx.family_name()), vip).node_port("TCP", 80, 8080, port);
    let web = sticky(web, 100).endpoints(ctx.endpoints(&ALL));
    ctx.apply(&[&web])?;
    for from in ctx.inside() {
        let kept = ctx.http(from, at(vip, 80), 20)?;
        ensure!(kept.failed == 0 && kept.pods.len() == 1, "{from:?}: {kept:?}");
        // By the NodePort it is the same service port, so the same backend.
        let node = if matches!(from, From::Pod(Pod::BAsks) | From::Node(1)) { 1 } else { 0 };
        let other = ctx.http(from, at(ctx.node_address(node), port), 10)?;
        ensure!(other.pods.keys().eq(kept.pods.keys()), "{from:?}: {kept:?}, then by NodePort {other:?}");
    }
    let outside = ctx.http(From::Outside, at(ctx.node_address(0), port), 20)?;
    ensure!(outside.failed == 0 && outside.pods.len() == 1, "{outside:?}");
    Ok(())
}

/// cilium#26709, #35254.
pub fn affinity_is_switched_on_and_off_at_once(ctx: &mut Ctx<'_>) -> Result<()> {
    let web = ctx.web("switch");
    let web = web.endpoints(ctx.endpoints(&ALL));
    let from = From::Pod(Pod::AAsks);
    ctx.apply(&[&web])?;
    ctx.answered_by(from, at(web.vip, 80), &ALL)?;
    ctx.apply(&[&sticky(web.clone(), 100)])?;
    let kept = ctx.http(from, at(web.vip, 80), 20)?;
    ensure!(kept.failed == 0 && kept.pods.len() == 1, "switched on: {kept:?}");
    ctx.apply(&[&web])?;
    ctx.answered_by(from, at(web.vip, 80), &ALL)
}

pub fn affinity_ends_with_its_endpoint(ctx: &mut Ctx<'_>) -> Result<()> {
    let web = ctx.web("ends");
    let web = sticky(web, 100).endpoints(ctx.endpoints(&ALL));
    ctx.apply(&[&web])?;
    let from = From::Pod(Pod::BAsks);
    let kept = ctx.http(from, at(web.vip, 80), 10)?;
    let left: Vec<Pod> = ALL.into_iter().filter(|pod| !kept.pods.contains_key(pod.name())).collect();
    ensure!(kept.failed == 0 && left.len() == 2, "{kept:?}");
    ctx.apply(&[&web.clone().endpoints(ctx.endpoints(&left))])?;
    let moved = ctx.http(from, at(web.vip, 80), 10)?;
    ensure!(moved.failed == 0 && moved.pods.len() == 1 && !moved.pods.keys().eq(kept.pods.keys()), "{kept:?}, then {moved:?}");
    Ok(())
}

pub fn hints_keep_traffic_in_the_zone(ctx: &mut Ctx<'_>) -> Result<()> {
    let web = ctx.web("zones").set("trafficDistribution", json!("PreferClose"));
    let hinted = [(Pod::A1, "zone-0"), (Pod::A2, "zone-0"), (Pod::B1, "zone-1")];
    let endpoints: Vec<_> = hinted.iter().map(|(pod, zone)| ctx.endpoint(*pod).hinted(zone)).collect();
    let web = web.endpoints(endpoints);
    ctx.apply(&[&web])?;
    ctx.answered_by(From::Pod(Pod::AAsks), at(web.vip, 80), &[Pod::A1, Pod::A2])?;
    ctx.answered_by(From::Pod(Pod::BAsks), at(web.vip, 80), &[Pod::B1])?;
    // One endpoint without a hint, and hints mean nothing.
    let plain = web.clone().endpoints([ctx.endpoint(Pod::A1).hinted("zone-0"), ctx.endpoint(Pod::B1)]);
    ctx.apply(&[&plain])?;
    ctx.answered_by(From::Pod(Pod::AAsks), at(web.vip, 80), &[Pod::A1, Pod::B1])
}

pub fn a_headless_service_is_left_alone(ctx: &mut Ctx<'_>) -> Result<()> {
    let headless = ctx.web("headless");
    let headless =
        headless.set("clusterIP", json!("None")).set("clusterIPs", json!(["None"])).endpoints(ctx.endpoints(&[Pod::B1]));
    ctx.apply(&[&headless])?;
    // Its pods are reached as pods.
    for from in ctx.inside() {
        ctx.answered_by(from, at(ctx.address(Pod::B1), 8080), &[Pod::B1])?;
    }
    Ok(())
}
