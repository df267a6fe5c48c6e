//! The loop's share of a service proxy: takes in what the source sends, brings the kernel to it, says how it went.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::Result;
use thalweg_abi::StateKey;
use thalweg_cluster::{Batch, Dirty, World};
use thalweg_loader::{Error, Maps};
use thalweg_proxy::iptables;
use thalweg_proxy::metrics::Round;
use thalweg_proxy::plan::ServicePlan;
use thalweg_proxy::plan::host_ports::PodHostPorts;
use thalweg_proxy::{Applied, Backend, NodeView, Proxy};
use tokio::sync::mpsc;

use crate::backend::AnyBackend;
use crate::keeper::Keeper;
use crate::monitor::Monitor;
use crate::probe::Probe;
use crate::rules::{Report, Ticket};

/// The cluster's state, the proxy that follows it, and what watches both.
pub struct Services {
    pub world: World,
    pub monitor: Monitor,
    proxy: Proxy<AnyBackend>,
    view: NodeView,
    /// For the STATE map; `None` when the backend has no maps.
    maps: Option<Maps>,
    keeper: Option<Keeper>,
    /// Until it dials.
    probe: Option<Probe>,
    /// The service that is dialled.
    probed: Option<ServicePlan>,
    /// What became dirty before the first complete listing.
    dirty: Dirty,
    synced: bool,
    /// When the first complete listing arrived.
    listed: Option<Instant>,
    /// What has been listed is in effect.
    serving: bool,
    /// The kernel has held the whole world.
    is_whole: bool,
    /// The last apply failed in what belongs to no service.
    is_behind: bool,
    /// In order.
    pending: VecDeque<Pending>,
}

/// What is to take effect: what became dirty, and since when.
#[derive(Default)]
pub struct Taken {
    pub dirty: Dirty,
    /// When the first of the changes arrived; `None` for what nobody has sent.
    pub received: Option<Instant>,
    /// The world is complete for the first time.
    pub first: bool,
}

/// What has taken effect, and how that went.
pub struct Settled {
    pub taken: Taken,
    pub changed: bool,
    /// The kernel has held the whole world, and nothing failed now but single services, which keep their old state.
    pub complete: bool,
    /// What is not as it should be now, one text each.
    pub failures: Vec<String>,
}

/// An apply that somebody else does.
struct Pending {
    ticket: Ticket,
    taken: Taken,
    started: Instant,
    stages: Vec<(&'static str, Duration)>,
}

// === impl Services ===

impl Services {
    /// A service of our own is dialled, once everything is in effect, to see whether packets flow; or this is why not.
    pub fn set_probe(&mut self, probe: Result<Probe, &'static str>) {
        match probe {
            Ok(probe) => {
                let plan = probe.plan();
                self.proxy.backend_mut().set(plan.clone());
                self.probed = Some(plan);
                self.probe = Some(probe);
            }
            Err(reason) => self.monitor.unprobed(reason),
        }
    }

    /// Everything is in effect, and the programs or rules are in place. The first time it says how long that took since
    /// everything was listed.
    pub fn serves(&mut self) -> Option<Duration> {
        if std::mem::replace(&mut self.serving, true) {
            return None;
        }
        self.mark_synced();
        if let Some(mut probe) = self.probe.take() {
            let missing = self.proxy.backend().rules().map(|figures| figures.missing).unwrap_or_default();
            if !missing.is_empty() {
                probe.leave_out(&missing);
                let plan = probe.plan();
                self.proxy.backend_mut().set(plan.clone());
                self.probed = Some(plan);
            }
            self.monitor.probe(probe.dial());
        }
        let took = self.listed.map(|listed| listed.elapsed()).unwrap_or_default();
        tracing::info!(services = self.world.services().len(), ?took, "synced");
        Some(took)
    }

    /// `keeper` looks after the maps.
    pub fn new(proxy: Proxy<AnyBackend>, view: NodeView, maps: Option<(Maps, Keeper)>, monitor: Monitor) -> Self {
        let (maps, keeper) = maps.unzip();
        Self {
            world: World::default(),
            monitor,
            proxy,
            view,
            maps,
            keeper,
            probe: None,
            probed: None,
            dirty: Dirty::default(),
            synced: false,
            listed: None,
            serving: false,
            is_whole: false,
            is_behind: false,
            pending: VecDeque::new(),
        }
    }

    /// Takes in a batch, together with those that wait behind it. `None` until everything has been listed: the first
    /// listing takes effect as a whole, so that nothing half known is ever live, and nothing is removed for it.
    pub fn take(&mut self, first: Batch, waiting: &mut mpsc::Receiver<Batch>) -> Option<Taken> {
        let received = first.received;
        let mut synced = self.synced;
        let mut next = Some(first);
        while let Some(batch) = next {
            synced |= batch.synced;
            self.monitor.queued(&batch.changes);
            for change in batch.changes {
                self.world.apply(change, &mut self.dirty);
            }
            next = waiting.try_recv().ok();
        }
        if !synced {
            return None;
        }
        let first = !self.synced;
        if first {
            self.synced = true;
            self.listed = Some(received);
            self.monitor.listed();
            self.proxy.synced();
        }
        Some(Taken { dirty: std::mem::take(&mut self.dirty), received: Some(received), first })
    }

    /// Brings the kernel to the world. `None` when somebody else is at it: then [`Self::settled`] tells.
    pub fn apply(&mut self, taken: Taken) -> Option<Settled> {
        let started = Instant::now();
        let result = self.proxy.update(&self.world, &taken.dirty);
        let Some(ticket) = self.proxy.backend().asked() else {
            let is_idle = |applied: &Applied| taken.dirty.is_empty() && applied.services == 0 && !applied.changed();
            let is_idle = !self.is_behind && result.as_ref().is_ok_and(is_idle);
            return Some(self.conclude(taken, result, started.elapsed(), is_idle));
        };
        let stages = result.map(|applied| applied.stages).unwrap_or_default();
        self.pending.push_back(Pending { ticket, taken, started, stages });
        None
    }

    /// What has taken effect since, of all that was left to somebody else. Nothing is lost when this is dropped before it
    /// is done.
    pub async fn settled(&mut self) -> Settled {
        loop {
            let Report { ticket, result } = self.proxy.backend_mut().report().await;
            if let Ok(applied) = &result {
                self.proxy.report(applied);
            }
            let (mut all, mut started, mut stages) = (Taken::default(), None, Vec::new());
            while let Some(next) = self.pending.pop_front_if(|next| next.ticket <= ticket) {
                started = started.or(Some(next.started));
                stages.extend(next.stages);
                all.add(next.taken);
            }
            // A part of the first sync, of which nothing is in the kernel, has nothing to say; but that it has been made up for
            // after a failure, has.
            let is_part = !self.synced || !self.pending.is_empty();
            if started.is_none() && !self.is_whole && is_part {
                continue;
            }
            let result = result.map(|mut applied| {
                let own = std::mem::take(&mut applied.stages);
                stages.into_iter().filter(|(stage, _)| *stage != "total").chain(own).for_each(|(stage, took)| {
                    applied.add_stage(stage, took);
                });
                applied
            });
            let took = started.map(|started| started.elapsed()).unwrap_or_default();
            return self.conclude(all, result, took, false);
        }
    }

    /// Says how it went.
    fn conclude(&mut self, taken: Taken, result: Result<Applied, Error>, took: Duration, is_idle: bool) -> Settled {
        let mut failures: Vec<String> = self.proxy.failing().values().cloned().collect();
        let behind = self.pending.front().map(|next| next.taken.received.unwrap_or(next.started));
        let mut round = Round { took, failing: failures.len(), behind, ..Round::default() };
        let changed = match result {
            Ok(applied) => {
                let changed = applied.changed();
                round = Round { stages: applied.stages, complete: true, ..round };
                if changed {
                    round.latency = taken.received.map(|received| received.elapsed());
                    self.raise(StateKey::Applies);
                }
                changed
            }
            Err(error) => {
                tracing::error!("service proxy: {error}");
                failures.push(error.to_string());
                false
            }
        };
        self.is_behind = !round.complete;
        self.is_whole |= round.complete && self.synced;
        // A look at what rests before reuse, without anything to do, is no sync.
        if !is_idle {
            self.monitor.synced(&round, self.world.services().len());
        }
        if round.complete {
            self.monitor.programmed(&taken.dirty.triggered, self.proxy.backend().rules());
        }
        if self.proxy.backend_mut().has_lost()
            && let Some(keeper) = &self.keeper
        {
            keeper.backends_gone();
        }
        let left = self.proxy.backend_mut().take_left();
        if !left.is_empty()
            && let Some(keeper) = &self.keeper
        {
            keeper.backends_left(left);
        }
        Settled { taken, changed, complete: round.complete && self.is_whole, failures }
    }

    /// Health checks follow what has become dirty, and is in effect now.
    pub fn follow(&mut self, dirty: &Dirty) {
        self.monitor.follow(&self.world, &dirty.services, self.proxy.no_local_endpoints());
    }

    /// The kernel holds a complete snapshot.
    fn mark_synced(&mut self) {
        if let Some(keeper) = &self.keeper {
            // What an earlier agent has missed.
            keeper.backends_gone();
        }
        let Some(maps) = &mut self.maps else { return };
        if let Err(error) = maps.set_state(StateKey::Synced, 1) {
            tracing::warn!("mark the maps as synced: {error}");
        }
    }

    /// From time to time: what could not be done before is tried again.
    pub fn tend(&mut self) {
        self.monitor.retry();
    }

    /// The node's addresses are these from now on; true when that is news, and an apply is due.
    pub fn set_view(&mut self, view: NodeView) -> bool {
        let news = view != self.view;
        if news {
            self.view = view.clone();
            self.proxy.set_view(view);
        }
        news && self.synced
    }

    /// See [`Proxy::set_host_ports`].
    pub fn set_host_ports(&mut self, pods: Vec<PodHostPorts>) {
        self.proxy.set_host_ports(pods);
    }

    /// Every source has been listed.
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// The kernel has held the whole world.
    pub fn is_whole(&self) -> bool {
        self.is_whole
    }

    pub fn backend(&self) -> &AnyBackend {
        self.proxy.backend()
    }

    /// Rules by other options from now on; takes effect with the next apply.
    ///
    /// # Errors
    /// As [`AnyBackend::replace`].
    pub fn replace_rules(&mut self, options: iptables::Options) -> Result<()> {
        self.proxy.backend().replace(options)?;
        self.proxy.start_over();
        if let Some(plan) = self.probed.clone() {
            self.proxy.backend_mut().set(plan);
        }
        Ok(())
    }

    pub fn view(&self) -> &NodeView {
        &self.view
    }

    /// When to apply although nothing changed.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.proxy.next_deadline()
    }

    fn raise(&mut self, key: StateKey) {
        let Some(maps) = &mut self.maps else { return };
        let raised = maps.state(key).and_then(|value| maps.set_state(key, value + 1));
        if let Err(error) = raised {
            tracing::warn!("state {key:?}: {error}");
        }
    }
}

// === impl Taken ===

impl Taken {
    pub fn is_nothing(&self) -> bool {
        self.dirty.is_empty() && !self.first
    }

    /// Adds what came later.
    pub fn add(&mut self, later: Self) {
        let Self { dirty, received, first } = later;
        let Dirty { services, nodes, pods, service_cidrs, triggered } = dirty;
        self.dirty.services.extend(services);
        self.dirty.nodes.extend(nodes);
        self.dirty.pods.extend(pods);
        self.dirty.service_cidrs.extend(service_cidrs);
        self.dirty.triggered.extend(triggered);
        self.received = self.received.or(received);
        self.first |= first;
    }
}

/// Comes round every `period`; one that is late moves the next ones.
pub fn ticks(period: Duration) -> tokio::time::Interval {
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    interval
}

/// Sleeps until `deadline`; for ever without one.
pub async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// Why the channel of the source ended.
///
/// # Errors
/// Always: a source does not end by itself.
pub async fn source_ended(watching: tokio::task::JoinHandle<Result<(), thalweg_cluster::SourceError>>) -> Result<()> {
    use anyhow::Context;
    watching.await.context("the source of the cluster's state")??;
    anyhow::bail!("the source of the cluster's state ended");
}

#[cfg(test)]
mod tests;
