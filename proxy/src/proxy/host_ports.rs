//! The host ports of this node's pods, by the names of their plans; and which of these have to be made anew.

use std::collections::{BTreeMap, BTreeSet};

use thalweg_cluster::Name;

use crate::plan::host_ports::{PodHostPorts, name, plan};
use crate::plan::{NodeView, ServicePlan};

#[derive(Default, Debug)]
pub(super) struct HostPorts {
    pods: BTreeMap<Name, Vec<PodHostPorts>>,
    dirty: BTreeSet<Name>,
}

// === impl HostPorts ===

impl HostPorts {
    /// These are all there are.
    pub fn set(&mut self, pods: Vec<PodHostPorts>) {
        let mut new: BTreeMap<Name, Vec<PodHostPorts>> = BTreeMap::new();
        for pod in pods.into_iter().filter(|pod| !pod.ports.is_empty()) {
            new.entry(name(&pod.pod)).or_default().push(pod);
        }
        self.dirty.extend(self.pods.keys().filter(|name| !new.contains_key(*name)).cloned());
        self.dirty.extend(new.iter().filter(|(name, pods)| self.pods.get(*name) != Some(pods)).map(|(name, _)| name.clone()));
        self.pods = new;
    }

    /// The node's addresses are others, or the backend is to be told everything.
    pub fn all_dirty(&mut self) {
        self.dirty.extend(self.pods.keys().cloned());
    }

    /// Plans for what changed; one without frontends is to go.
    pub fn take(&mut self, view: &NodeView) -> Vec<ServicePlan> {
        let dirty = std::mem::take(&mut self.dirty);
        dirty.iter().map(|name| plan(name, self.pods.get(name).map_or(&[], Vec::as_slice), view)).collect()
    }
}
