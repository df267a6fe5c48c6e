//! Who is chosen: all endpoints, one client's own, those of the zone.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use thalweg_cluster::Family;
use thalweg_lab::probe::HttpReport;

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

pub fn slices_are_merged_and_who_is_not_ready_is_left_out(ctx: &mut Ctx<'_>) -> Result<()> {
    let web = ctx.web("merged");
    // A1 is in both; the other pod of its node is in the first and does not serve.
    let first = [ctx.endpoint(Pod::A1), ctx.endpoint(Pod::A2).not_ready()];
    let web = web.endpoints(first).slice(8080, ctx.endpoints(&[Pod::A1, Pod::B1]));
    ctx.apply(&[&web])?;
    for from in ctx.inside() {
        ctx.answered_by(from, at(web.vip, 80), &[Pod::A1, Pod::B1])?;
    }
    Ok(())
}

/// As one object with addresses and slices of both.
pub fn a_service_of_both_families_is_served_in_both(ctx: &mut Ctx<'_>) -> Result<()> {
    let of_family = |ctx: &mut Ctx<'_>, family| {
        ctx.family = family;
        (ctx.vip(), ctx.endpoints(&[Pod::A1, Pod::B1]))
    };
    let ((vip4, pods4), (vip6, pods6)) = (of_family(ctx, Family::V4), of_family(ctx, Family::V6));
    let web = Manifest::new(&format!("dual-{}", ctx.hook.name()), vip4).http().endpoints(pods4).slice(8080, pods6);
    let web = web.set("clusterIPs", json!([vip4, vip6])).set("ipFamilies", json!(["IPv4", "IPv6"]));
    ctx.apply(&[&web])?;
    for vip in [vip4, vip6] {
        for from in ctx.inside() {
            ctx.answered_by(from, at(vip, 80), &[Pod::A1, Pod::B1])?;
        }
    }
    // Without its slice of one family, it refuses there and serves in the other.
    ctx.apply(&[&web.clone().endpoints(ctx.endpoints(&[Pod::B1]))])?;
    ctx.answered_by(From::Pod(Pod::AAsks), at(vip6, 80), &[Pod::B1])?;
    ctx.connect_ends(From::Pod(Pod::AAsks), at(vip4, 80), "refused")
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

/// The endpoint that a client has been given is another one's again some time after it was last used, not before.
pub fn affinity_ends_after_its_time(ctx: &mut Ctx<'_>) -> Result<()> {
    let (short, long) = (ctx.web("short"), ctx.web("long"));
    let [short, long] = [(short, 1), (long, 100)].map(|(web, seconds)| sticky(web, seconds).endpoints(ctx.endpoints(&ALL)));
    ctx.apply(&[&short, &long])?;
    let from = From::Pod(Pod::AAsks);
    let chosen = |web: &Manifest| Ok::<_, anyhow::Error>(ctx.http(from, at(web.vip, 80), 1)?.pods);
    let (first, kept) = (chosen(&short)?, chosen(&long)?);
    ctx.until("another endpoint is chosen", || {
        std::thread::sleep(Duration::from_secs(2));
        ensure!(chosen(&long)?.keys().eq(kept.keys()), "who has time left has another endpoint");
        Ok(!chosen(&short)?.keys().eq(first.keys()))
    })
}

/// cilium#26709: who is balanced at connect and who by packets, of one pod, is one client.
pub fn affinity_is_one_for_sockets_and_packets(ctx: &mut Ctx<'_>) -> Result<()> {
    for times in 0..4 {
        let web = ctx.web("either");
        let web = sticky(web, 100).endpoints(ctx.endpoints(&ALL));
        ctx.apply(&[&web])?;
        let pod = ctx.pod(Pod::BAsks);
        let mut places = [pod.place(), pod.by_tc()];
        places.rotate_left(times % 2);
        let args = ["http", &at(web.vip, 80).to_string(), "--count", "10"];
        let [first, second]: [HttpReport; 2] = [places[0].probe(&args)?, places[1].probe(&args)?];
        let is_one = first.pods.len() == 1 && first.pods.keys().eq(second.pods.keys());
        ensure!(is_one && first.failed + second.failed == 0, "{first:?}, then {second:?}");
    }
    Ok(())
}

pub fn hints_keep_traffic_in_the_zone(ctx: &mut Ctx<'_>) -> Result<()> {
    for distribution in ["PreferClose", "PreferSameZone"] {
        let web = ctx.web("zones").set("trafficDistribution", json!(distribution));
        let hinted = [(Pod::A1, "zone-0"), (Pod::A2, "zone-0"), (Pod::B1, "zone-1")];
        let endpoints: Vec<_> = hinted.iter().map(|(pod, zone)| ctx.endpoint(*pod).hinted(zone)).collect();
        let web = web.endpoints(endpoints);
        ctx.apply(&[&web])?;
        ctx.answered_by(From::Pod(Pod::AAsks), at(web.vip, 80), &[Pod::A1, Pod::A2])?;
        ctx.answered_by(From::Pod(Pod::BAsks), at(web.vip, 80), &[Pod::B1])?;
        // One endpoint without a hint, and hints mean nothing.
        let plain = web.clone().endpoints([ctx.endpoint(Pod::A1).hinted("zone-0"), ctx.endpoint(Pod::B1)]);
        ctx.apply(&[&plain])?;
        ctx.answered_by(From::Pod(Pod::AAsks), at(web.vip, 80), &[Pod::A1, Pod::B1])?;
    }
    Ok(())
}

pub fn hints_keep_traffic_on_the_node(ctx: &mut Ctx<'_>) -> Result<()> {
    let web = ctx.web("home").set("trafficDistribution", json!("PreferSameNode"));
    let nodes = [0, 1].map(|node| ctx.node_name(node).to_owned());
    // All are of one zone: the node comes first.
    let hinted = [(Pod::A1, 0), (Pod::A2, 0), (Pod::B1, 1)];
    let near = hinted.map(|(pod, node)| ctx.endpoint(pod).hinted("zone-0").for_node(&nodes[node]));
    let web = web.endpoints(near);
    ctx.apply(&[&web])?;
    ctx.answered_by(From::Pod(Pod::AAsks), at(web.vip, 80), &[Pod::A1, Pod::A2])?;
    ctx.answered_by(From::Pod(Pod::BAsks), at(web.vip, 80), &[Pod::B1])?;
    // None is hinted to the first node: there the zone decides.
    let far = [(Pod::A1, "zone-1"), (Pod::B1, "zone-0")];
    let far = far.map(|(pod, zone)| ctx.endpoint(pod).hinted(zone).for_node(&nodes[1]));
    ctx.apply(&[&web.clone().endpoints(far)])?;
    ctx.answered_by(From::Pod(Pod::AAsks), at(web.vip, 80), &[Pod::B1])?;
    ctx.answered_by(From::Pod(Pod::BAsks), at(web.vip, 80), &[Pod::A1, Pod::B1])?;
    // One without a hint for a node, and those mean nothing; here there is none of a zone either.
    let plain = web.clone().endpoints([ctx.endpoint(Pod::A1).for_node(&nodes[0]), ctx.endpoint(Pod::B1)]);
    ctx.apply(&[&plain])?;
    ctx.answered_by(From::Pod(Pod::AAsks), at(web.vip, 80), &[Pod::A1, Pod::B1])
}

/// Another proxy's by its label, and one that is only a name: neither has an address here.
pub fn services_of_others_are_left_alone(ctx: &mut Ctx<'_>) -> Result<()> {
    let (others, name) = (ctx.web("others"), ctx.web("name"));
    let pods = ctx.endpoints(&[Pod::A1]);
    let others = others.label("service.kubernetes.io/service-proxy-name", "another").endpoints(pods.clone());
    let name = name.set("type", json!("ExternalName")).set("externalName", json!("example.org")).endpoints(pods);
    // Beside one that is ours, which says when all have been read.
    let ours = ctx.web("ours");
    let ours = ours.endpoints(ctx.endpoints(&[Pod::A1]));
    ctx.apply_text(&format!("{}.yaml", others.name), &others.text())?;
    ctx.apply_text(&format!("{}.yaml", name.name), &name.text())?;
    ctx.apply(&[&ours])?;
    let from = From::Pod(Pod::AAsks);
    ctx.answered_by(from, at(ours.vip, 80), &[Pod::A1])?;
    for left in [&others, &name] {
        let report = ctx.connect(from, at(left.vip, 80))?;
        ensure!(report.outcome != "connected", "{}: {report:?}", left.name);
    }
    // The label goes, and the service is ours.
    ctx.apply_text(&format!("{}.yaml", others.name), &others.clone().unlabelled().text())?;
    ctx.until("it is served", || Ok(ctx.connect(from, at(others.vip, 80))?.outcome == "connected"))?;
    ctx.answered_by(from, at(others.vip, 80), &[Pod::A1])
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
