//! What nobody serves: refused at once where that is known, dropped where nobody may say.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Result, ensure};
use thalweg_cluster::Family;

use crate::lab::{Ctx, From, Hook, Pod, at};
use crate::manifest::Manifest;

pub fn a_service_without_endpoints_refuses_at_once(ctx: &mut Ctx<'_>) -> Result<()> {
    let (vip, port) = (ctx.vip(), ctx.node_port());
    let nobody =
        Manifest::new(&format!("nobody-{}", ctx.family_name()), vip).node_port("TCP", 80, 8080, port).port("UDP", 53, 9090);
    let nobody = nobody.endpoints([]);
    ctx.apply(&[&nobody])?;
    for from in ctx.inside() {
        ctx.connect_ends(from, at(vip, 80), "refused")?;
        ctx.datagram_is_refused(from, at(vip, 53))?;
    }
    ctx.connect_ends(From::Outside, at(ctx.node_address(0), port), "refused")
}

/// cilium#13329, #14118.
pub fn a_port_that_a_virtual_ip_does_not_have_is_refused(ctx: &mut Ctx<'_>) -> Result<()> {
    let web = ctx.web("ports");
    let web = web.endpoints(ctx.endpoints(&[Pod::A1]));
    ctx.apply(&[&web])?;
    for from in ctx.inside() {
        ctx.connect_ends(from, at(web.vip, 81), "refused")?;
        ctx.datagram_is_refused(from, at(web.vip, 80))?;
    }
    Ok(())
}

pub fn an_address_of_no_service_is_dropped_in_the_service_range(ctx: &mut Ctx<'_>) -> Result<()> {
    let address: IpAddr = match ctx.family {
        Family::V4 => Ipv4Addr::new(10, 96, 250, 250).into(),
        Family::V6 => Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0xfafa, 1).into(),
    };
    let dropped = |ctx: &Ctx<'_>| ctx.metric_of(0, "thalweg_drops_total", "reason=\"no_service\"");
    let before = if ctx.hook == Hook::Iptables { 0 } else { dropped(ctx)? };
    ctx.connect_ends(From::Pod(Pod::AAsks), at(address, 80), "timeout")?;
    if ctx.hook != Hook::Iptables {
        ctx.until("the drop is counted", || Ok(dropped(ctx)? > before))?;
    }
    Ok(())
}

pub fn a_service_that_goes_is_gone_and_may_come_back(ctx: &mut Ctx<'_>) -> Result<()> {
    let web = ctx.web("away");
    let web = web.endpoints(ctx.endpoints(&[Pod::A1, Pod::B1]));
    ctx.apply(&[&web])?;
    let from = From::Pod(Pod::AAsks);
    ctx.answered_by(from, at(web.vip, 80), &[Pod::A1, Pod::B1])?;
    ctx.remove(&web)?;
    let report = ctx.connect(from, at(web.vip, 80))?;
    ensure!(report.outcome != "connected", "{report:?}");
    ctx.apply(&[&web])?;
    ctx.answered_by(from, at(web.vip, 80), &[Pod::A1, Pod::B1])
}
