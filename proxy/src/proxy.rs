//! Ties plan and backend: follows the world, plans what became dirty, applies the difference.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Instant;

use thalweg_cluster::{Dirty, Name, World};

use crate::backend::{Applied, Backend};
use crate::plan::{NodeView, depends_on_nodes, plan, restricts_sources};

/// The service proxy of one node.
pub struct Proxy<B> {
    backend: B,
    /// As configured.
    view: NodeView,
    /// With what the node's own object adds.
    effective: NodeView,
    /// Addresses of all nodes: services that use one as an external address depend on them.
    node_addresses: BTreeSet<IpAddr>,
    view_changed: bool,
    /// NodePorts are served on the view's addresses and no others.
    only_given: bool,
    /// Services whose plan depends on the addresses of nodes.
    dependents: BTreeSet<Name>,
    /// The world is complete, and everything in it has been planned.
    complete: bool,
    synced: bool,
    failing: BTreeSet<Name>,
}

// === impl Proxy ===

impl<B: Backend> Proxy<B> {
    pub fn new(backend: B, view: NodeView) -> Self {
        Self {
            backend,
            effective: view.clone(),
            view,
            node_addresses: BTreeSet::new(),
            view_changed: true,
            only_given: false,
            dependents: BTreeSet::new(),
            complete: false,
            synced: false,
            failing: BTreeSet::new(),
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

    /// Plans what is dirty and applies it, together with whatever an earlier apply left. With an empty `dirty` it
    /// only does the latter; see [`Proxy::next_deadline`].
    ///
    /// # Errors
    /// As [`Backend::apply`]: everything that could be done has been, and the next update tries the rest again.
    pub fn update(&mut self, world: &World, dirty: &Dirty) -> Result<Applied, thalweg_loader::Error> {
        if !self.synced {
            return Ok(Applied::default());
        }
        let nodes_changed = self.follow_nodes(world, dirty);
        if self.complete {
            let mut names = dirty.services.clone();
            if nodes_changed {
                names.extend(self.dependents.iter().cloned());
            }
            for name in &names {
                self.plan(world, name);
            }
        } else {
            for service in world.services() {
                self.plan(world, &service.name);
            }
            self.backend.retain_only_known();
            self.complete = true;
        }
        let applied = self.backend.apply(Instant::now())?;
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

    /// True when addresses or the zone of this node, or the addresses of any node, are not what they were.
    fn follow_nodes(&mut self, world: &World, dirty: &Dirty) -> bool {
        if dirty.nodes.is_empty() && !self.view_changed && self.complete {
            return false;
        }
        self.view_changed = false;
        let mut effective = self.view.clone();
        if let Some(node) = world.node(&self.view.node) {
            for address in &node.addresses {
                if !self.only_given && !effective.addresses.contains(address) {
                    effective.addresses.push(*address);
                }
            }
            effective.zone = node.zone.clone().or(effective.zone);
        }
        let node_addresses: BTreeSet<IpAddr> = world.nodes().flat_map(|node| &node.addresses).copied().collect();
        let changed = effective != self.effective || node_addresses != self.node_addresses;
        // Hints are about zones: a node that changes its zone, which is rare, plans everything again.
        if effective.zone != self.effective.zone {
            self.complete = false;
        }
        self.effective = effective;
        self.node_addresses = node_addresses;
        changed
    }

    fn plan(&mut self, world: &World, name: &Name) {
        let object = world.service(name);
        if object.is_some_and(|object| depends_on_nodes(object)) {
            self.dependents.insert(name.clone());
        } else {
            self.dependents.remove(name);
        }
        if object.is_some_and(|object| restricts_sources(object) && !object.load_balancer.is_empty()) {
            tracing::warn!(service = %name, "loadBalancerSourceRanges cannot be enforced yet: its load balancer addresses are not served");
        }
        let plan = plan(world, name, &self.effective);
        if plan.frontends.is_empty() {
            self.backend.remove(name);
        } else {
            self.backend.set(plan);
        }
    }

    /// Says once that a service fails, and once that it is well again.
    fn report(&mut self, applied: &Applied) {
        let failing: BTreeSet<Name> = applied.failed.iter().map(|failure| failure.service.clone()).collect();
        for failure in &applied.failed {
            if !self.failing.contains(&failure.service) {
                tracing::error!("{failure}; it keeps its old state and is tried again");
            }
        }
        for name in self.failing.difference(&failing) {
            tracing::info!(service = %name, "applied after all");
        }
        self.failing = failing;
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
