//! The loop's share of a service proxy: takes in what the source sends, brings the kernel to it, says how it went.

use std::time::{Duration, Instant};

use anyhow::Result;
use thalweg_abi::StateKey;
use thalweg_cluster::{Batch, Dirty, World};
use thalweg_loader::Maps;
use thalweg_proxy::metrics::Round;
use thalweg_proxy::plan::host_ports::PodHostPorts;
use thalweg_proxy::{Backend, NodeView, Proxy};
use tokio::sync::mpsc;

use crate::backend::AnyBackend;
use crate::keeper::Keeper;
use crate::monitor::Monitor;
use crate::probe::Probe;

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
    /// What became dirty before the first complete listing.
    dirty: Dirty,
    synced: bool,
    /// When the first complete listing arrived.
    listed: Option<Instant>,
    /// What has been listed is in effect.
    serving: bool,
    /// The last apply failed in what belongs to no service.
    is_behind: bool,
}

/// What a batch brought.
pub struct Taken {
    pub dirty: Dirty,
    /// When the first of the changes arrived.
    pub received: Instant,
    /// The world is complete for the first time.
    pub first: bool,
}

/// How an apply went.
pub struct Outcome {
    pub changed: bool,
    /// Nothing failed but single services, which keep their old state.
    pub complete: bool,
    /// What is not as it should be now, one text each.
    pub failures: Vec<String>,
}

// === impl Services ===

impl Services {
    /// A service of our own is dialled, once everything is in effect, to see whether packets flow; or this is why not.
    pub fn set_probe(&mut self, probe: Result<Probe, &'static str>) {
        match probe {
            Ok(probe) => {
                self.proxy.backend_mut().set(probe.plan());
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
        if let Some(probe) = self.probe.take() {
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
            dirty: Dirty::default(),
            synced: false,
            listed: None,
            serving: false,
            is_behind: false,
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
        Some(Taken { dirty: std::mem::take(&mut self.dirty), received, first })
    }

    /// Brings the kernel to the world; `received` is when the cause arrived.
    pub fn apply(&mut self, dirty: &Dirty, received: Option<Instant>) -> Outcome {
        let started = Instant::now();
        let result = self.proxy.update(&self.world, dirty);
        let mut round = Round { took: started.elapsed(), ..Round::default() };
        let mut failures: Vec<String> = self.proxy.failing().values().cloned().collect();
        round.failing = failures.len();
        let mut is_idle = false;
        let outcome = match result {
            Ok(mut applied) => {
                is_idle = dirty.is_empty() && applied.services == 0 && !applied.changed() && !self.is_behind;
                round = Round { stages: std::mem::take(&mut applied.stages), complete: true, ..round };
                if applied.changed() {
                    round.latency = received.map(|received| received.elapsed());
                    self.raise(StateKey::Applies);
                }
                Outcome { changed: applied.changed(), complete: true, failures }
            }
            Err(error) => {
                tracing::error!("service proxy: {error}");
                failures.push(error.to_string());
                Outcome { changed: false, complete: false, failures }
            }
        };
        self.is_behind = !outcome.complete;
        // A look at what rests before reuse, without anything to do, is no sync.
        if !is_idle {
            self.monitor.synced(&round, self.world.services().len());
        }
        if round.complete {
            self.monitor.programmed(&dirty.triggered, self.proxy.backend().rules());
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
        outcome
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

    pub fn backend_mut(&mut self) -> &mut AnyBackend {
        self.proxy.backend_mut()
    }

    /// See [`Proxy::set_backend`].
    pub fn set_backend(&mut self, backend: AnyBackend) {
        self.proxy.set_backend(backend);
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
