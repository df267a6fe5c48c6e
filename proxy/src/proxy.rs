//! Ties plan and backend: follows the world, plans what became dirty, applies the difference.

mod host_ports;
mod lonely;
mod nodes;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use thalweg_cluster::{Dirty, Name, World};

use crate::backend::{Applied, Backend};
use crate::metrics::NoLocal;
use crate::plan::host_ports::PodHostPorts;
use crate::plan::{NodeView, ServicePlan, depends_on_node, plan_with};
use host_ports::HostPorts;
use lonely::Lonely;
use nodes::{External, Nodes};

/// How many services the first update plans before it applies them.
const AT_FIRST: usize = 1_024;

/// The service proxy of one node.
pub struct Proxy<B> {
    backend: B,
    /// As configured.
    view: NodeView,
    /// With what the node's own object adds.
    effective: NodeView,
    view_changed: bool,
    /// NodePorts are served on the view's addresses and no others.
    only_given: bool,
    nodes: Nodes,
    external: External,
    /// Services whose plan depends on the addresses of this node.
    dependents: BTreeSet<Name>,
    host_ports: HostPorts,
    lonely: Lonely,
    service_ranges: Vec<IpNetwork>,
    /// The world is complete, and everything in it has been planned.
    complete: bool,
    synced: bool,
    /// What keeps its old state, and why.
    failing: BTreeMap<Name, String>,
}

// === impl Proxy ===

impl<B: Backend> Proxy<B> {
    pub fn new(backend: B, view: NodeView) -> Self {
        Self {
            backend,
            effective: view.clone(),
            view,
            view_changed: true,
            only_given: false,
            nodes: Nodes::default(),
            external: External::default(),
            dependents: BTreeSet::new(),
            host_ports: HostPorts::default(),
            lonely: Lonely::default(),
            service_ranges: Vec::new(),
            complete: false,
            synced: false,
            failing: BTreeMap::new(),
        }
    }

    /// NodePorts are served on the addresses of the view alone. Without it the addresses of the node's own object serve
    /// them too.
    #[must_use]
    pub fn only_given_addresses(self) -> Self {
        Self { only_given: true, ..self }
    }

    /// Every source has listed everything. Before, [`Proxy::update`] leaves the kernel alone: a service whose slices
    /// have not arrived yet looks like one without endpoints. The first update after it plans the whole world and
    /// removes what the kernel holds besides.
    pub fn synced(&mut self) {
        self.synced = true;
    }

    /// [`Proxy::synced`] and the first [`Proxy::update`] in one.
    ///
    /// # Errors
    /// As [`Proxy::update`].
    pub fn first_sync(&mut self, world: &World) -> Result<Applied, thalweg_loader::Error> {
        self.synced();
        self.update(world, &Dirty::default())
    }

    /// The node's addresses as the agent sees them; takes effect with the next update.
    pub fn set_view(&mut self, view: NodeView) {
        self.view_changed |= self.view != view;
        self.view = view;
    }

    /// The pods of this node that have ports of it: all of them. Set them before the first update that follows
    /// [`Proxy::synced`], which removes what is not known; takes effect with the next update. A port that a service has as
    /// well belongs to who came first, as between services; in the first update services come first.
    pub fn set_host_ports(&mut self, pods: Vec<PodHostPorts>) {
        self.host_ports.set(pods);
    }

    /// Plans what is dirty and applies it, together with whatever an earlier apply left. With an empty `dirty` it
    /// only does the latter; see [`Proxy::next_deadline`].
    ///
    /// # Errors
    /// As [`Backend::apply`]: everything that could be done has been, and the next update tries the rest again.
    pub fn update(&mut self, world: &World, dirty: &Dirty) -> Result<Applied, thalweg_loader::Error> {
        if !self.synced {
            return Ok(Applied::default());
        }
        let started = Instant::now();
        let first = !self.complete;
        let mut names = self.follow_nodes(world, dirty);
        if first || !dirty.service_cidrs.is_empty() {
            self.follow_service_ranges(world);
        }
        names.extend(dirty.services.iter().cloned());
        // After `follow_nodes`, which may find that nothing is as it was.
        if !self.complete {
            names.extend(world.services().map(|service| service.name.clone()));
        }
        let mut applied = Applied { stages: vec![("plan", Duration::ZERO)], ..Applied::default() };
        if self.complete {
            self.plan_all(world, &names, &mut applied);
            self.plan_host_ports();
        } else {
            // Part by part: the first services need not wait for the last, and what has been applied needs no plan. What
            // fails here is tried again below or later.
            let names: Vec<Name> = names.into_iter().collect();
            for part in names.chunks(AT_FIRST) {
                self.plan_all(world, part, &mut applied);
                if let Ok(done) = self.backend.apply(Instant::now()) {
                    applied.add(done);
                }
            }
            self.host_ports.all_dirty();
            self.plan_host_ports();
            self.backend.retain_only_known();
            self.complete = true;
        }
        applied.add(self.backend.apply(Instant::now())?);
        applied.add_stage("total", started.elapsed());
        self.report(&applied);
        Ok(applied)
    }

    /// When to call [`Proxy::update`] although nothing changed: something rests before reuse, or is to be tried again.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.backend.next_deadline()
    }

    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// For what only one backend can do; desired state is the proxy's to set.
    pub fn backend_mut(&mut self) -> &mut B {
        &mut self.backend
    }

    /// Services that a Local policy leaves without endpoints on this node.
    pub fn no_local_endpoints(&self) -> NoLocal {
        self.lonely.count()
    }

    /// From now on another backend has the kernel, of which nothing is known: the next update sets everything again.
    pub fn start_over(&mut self) {
        self.complete = false;
        self.service_ranges.clear();
        self.failing.clear();
    }

    /// Services that keep their old state because of an error, with the last one of each.
    pub fn failing(&self) -> &BTreeMap<Name, String> {
        &self.failing
    }

    /// Returns the services that have to be planned again because of what became of nodes.
    fn follow_nodes(&mut self, world: &World, dirty: &Dirty) -> BTreeSet<Name> {
        let mut names = BTreeSet::new();
        if self.complete {
            for name in &dirty.nodes {
                for address in self.nodes.set(name, world.node(name).map(|node| &**node)) {
                    names.extend(self.external.users(address).cloned());
                }
            }
        } else {
            for node in world.nodes() {
                self.nodes.set(&node.name, Some(node));
            }
        }
        if !self.complete || self.view_changed || dirty.nodes.contains(&self.view.node) {
            self.view_changed = false;
            let effective = self.look_at_own_node(world);
            if effective != self.effective {
                names.extend(self.dependents.iter().cloned());
                self.host_ports.all_dirty();
            }
            // Hints are about zones, and the redirect about a service: both change rarely, and then all is planned again.
            if (&effective.zone, &effective.redirect) != (&self.effective.zone, &self.effective.redirect) {
                self.complete = false;
            }
            self.effective = effective;
        }
        names
    }

    /// The view with what the node's own object adds.
    fn look_at_own_node(&self, world: &World) -> NodeView {
        let mut effective = self.view.clone();
        if let Some(node) = world.node(&self.view.node) {
            for address in &node.addresses {
                if !self.only_given && !effective.addresses.contains(address) {
                    effective.addresses.push(*address);
                }
            }
            effective.zone = node.zone.clone().or(effective.zone);
        }
        effective
    }

    fn follow_service_ranges(&mut self, world: &World) {
        // A range that is on its way in or out counts: its addresses may be in use.
        let ranges = world.service_cidrs().flat_map(|range| &range.cidrs);
        let ranges: BTreeSet<IpNetwork> =
            ranges.filter_map(|range| IpNetwork::new(range.network(), range.prefix()).ok()).collect();
        if !ranges.iter().eq(&self.service_ranges) {
            self.service_ranges = ranges.into_iter().collect();
            self.backend.set_service_ranges(&self.service_ranges);
        }
    }

    fn plan_all<'a>(&mut self, world: &World, names: impl IntoIterator<Item = &'a Name>, applied: &mut Applied) {
        let started = Instant::now();
        for name in names {
            self.plan(world, name);
        }
        applied.add_stage("plan", started.elapsed());
    }

    fn plan(&mut self, world: &World, name: &Name) {
        let object = world.service(name).map(|object| &**object);
        if object.is_some_and(depends_on_node) {
            self.dependents.insert(name.clone());
        } else {
            self.dependents.remove(name);
        }
        self.external.set(name, object);
        let plan = plan_with(world, name, &self.effective, &|address| self.nodes.contains(address));
        self.lonely.set(&plan);
        self.hand_over(plan);
    }

    fn plan_host_ports(&mut self) {
        for plan in self.host_ports.take(&self.effective) {
            self.hand_over(plan);
        }
    }

    fn hand_over(&mut self, plan: ServicePlan) {
        if plan.frontends.is_empty() {
            self.backend.remove(&plan.name);
        } else {
            self.backend.set(plan);
        }
    }

    /// What an apply did; for a backend that tells it later than its `apply` returns. Says once that a service fails, and
    /// once that it is well again.
    pub fn report(&mut self, applied: &Applied) {
        for failure in &applied.failed {
            if self.failing.insert(failure.service.clone(), failure.to_string()).is_none() {
                tracing::error!("{failure}: it is not as it should be yet, and is tried again");
            }
        }
        for name in applied.recovered.iter().filter(|name| self.failing.remove(*name).is_some()) {
            tracing::info!(service = %name, "applied after all");
        }
        if applied.changed() {
            tracing::debug!(
                services = applied.services,
                frontends = applied.frontends_written,
                slots = applied.slots_written,
                backends = applied.backends_written,
                removed = applied.removed,
                took = ?applied.took,
                "applied"
            );
        }
    }
}
