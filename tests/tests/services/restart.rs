//! Agents that die while packets flow.

use std::time::Duration;

use anyhow::{Result, ensure};
use thalweg_lab::probe::HttpReport;

use crate::lab::{Ctx, From, Pod, at};

/// cilium#27215, #29667; kubernetes#122740.
pub fn a_killed_agent_loses_no_connection(ctx: &mut Ctx<'_>) -> Result<()> {
    let web = ctx.web("killed");
    let web = web.endpoints(ctx.endpoints(&[Pod::A1, Pod::B1]));
    ctx.apply(&[&web])?;
    let target = at(web.vip, 80).to_string();
    let args = ["http", &target, "--concurrency", "4", "--pause", "2"];
    let loads: Vec<_> =
        [Pod::AAsks, Pod::BAsks].iter().map(|pod| ctx.place(From::Pod(*pod)).load(&args)).collect::<Result<_>>()?;
    for node in 0..2 {
        ctx.lab().restart_agent(node, Duration::from_millis(500))?;
        ctx.until("the new agent has synced", || Ok(ctx.metric(node, "thalweg_services").is_ok_and(|services| services > 0)))?;
    }
    for load in loads {
        let report: HttpReport = load.finish()?;
        ensure!(report.failed == 0 && report.ok > 100, "{report:?}");
    }
    Ok(())
}

pub fn an_agent_that_is_restarted_keeps_services(ctx: &mut Ctx<'_>) -> Result<()> {
    let (web, next) = (ctx.web("kept"), ctx.web("next"));
    let web = web.endpoints(ctx.endpoints(&[Pod::A1, Pod::B1]));
    ctx.apply(&[&web])?;
    ctx.lab().restart_agent(0, Duration::from_millis(300))?;
    let from = From::Pod(Pod::AAsks);
    // While the new agent starts, and afterwards.
    ctx.answered_by(from, at(web.vip, 80), &[Pod::A1, Pod::B1])?;
    ctx.until("the new agent has synced", || Ok(ctx.metric(0, "thalweg_services").is_ok_and(|services| services > 0)))?;
    ctx.answered_by(from, at(web.vip, 80), &[Pod::A1, Pod::B1])?;
    let next = next.endpoints(ctx.endpoints(&[Pod::B1]));
    ctx.apply(&[&next])?;
    ctx.answered_by(from, at(next.vip, 80), &[Pod::B1])
}
