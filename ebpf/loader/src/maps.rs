//! Typed tables over the pinned maps: for the agent, and for views that read the kernel without one.

use std::path::Path;

use thalweg_abi::{
    Backend, Be32, Counter, CtEntry, DropReason, Frontend, FrontendKey, LocalPod, ServiceName, Slot, StateKey, Tuple,
};

use crate::{ArrayTable, Error, HashTable, Table, bpffs, kernel_table::PerCpuCounters};

/// Names of the maps that are pinned; the same as in the kernel programs.
pub(crate) const PINNED: [&str; 10] =
    ["FRONTENDS", "SLOTS", "BACKENDS", "CONNTRACK", "LOCAL_PODS", "SERVICES", "COUNTERS", "DROPS", "STATE", "SOCK_NAT"];

/// The maps of one node.
#[derive(Debug)]
pub struct Maps {
    pub frontends: HashTable<FrontendKey, Frontend>,
    pub slots: ArrayTable<Slot>,
    pub backends: ArrayTable<Backend>,
    pub conntrack: HashTable<Tuple, CtEntry>,
    pub local_pods: HashTable<Be32, LocalPod>,
    /// Names of services by number.
    pub services: HashTable<u32, ServiceName>,
    counters: PerCpuCounters,
    drops: PerCpuCounters,
    state: ArrayTable<u64>,
}

// === impl Maps ===

impl Maps {
    /// Opens the maps that an agent pinned below `pin_root`. Works while the agent runs, and when it does not.
    ///
    /// # Errors
    /// [`Error::NoMaps`] when there are none, [`Error::Incompatible`] when another build made them.
    pub fn open_pinned(pin_root: &Path) -> Result<Self, Error> {
        let folder = bpffs::maps_dir(pin_root);
        Ok(Self {
            frontends: HashTable::open(&folder, "FRONTENDS")?,
            slots: ArrayTable::open(&folder, "SLOTS")?,
            backends: ArrayTable::open(&folder, "BACKENDS")?,
            conntrack: HashTable::open(&folder, "CONNTRACK")?,
            local_pods: HashTable::open(&folder, "LOCAL_PODS")?,
            services: HashTable::open(&folder, "SERVICES")?,
            counters: PerCpuCounters::open(&folder, "COUNTERS")?,
            drops: PerCpuCounters::open(&folder, "DROPS")?,
            state: ArrayTable::open(&folder, "STATE")?,
        })
    }

    /// Every event counter since the maps were made, summed over CPUs, in the order of [`Counter::ALL`].
    ///
    /// # Errors
    /// [`Error::Table`] when the kernel refuses the look-up.
    pub fn counters(&self) -> Result<Vec<(Counter, u64)>, Error> {
        Counter::ALL.iter().map(|counter| Ok((*counter, self.counters.sum(*counter as u32)?))).collect()
    }

    /// Dropped packets by reason, in the order of [`DropReason::ALL`].
    ///
    /// # Errors
    /// [`Error::Table`] when the kernel refuses the look-up.
    pub fn drops(&self) -> Result<Vec<(DropReason, u64)>, Error> {
        DropReason::ALL.iter().map(|reason| Ok((*reason, self.drops.sum(*reason as u32)?))).collect()
    }

    /// One word of what identifies this set of maps.
    ///
    /// # Errors
    /// [`Error::Table`] when the kernel refuses the look-up.
    pub fn state(&self, key: StateKey) -> Result<u64, Error> {
        Ok(self.state.get(&(key as u32))?.unwrap_or_default())
    }

    /// # Errors
    /// [`Error::Table`] when the kernel refuses the write.
    pub fn set_state(&mut self, key: StateKey, value: u64) -> Result<(), Error> {
        self.state.update(&[(key as u32, value)])
    }
}
