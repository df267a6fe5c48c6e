//! Attaches the data path to pods: the pod network says when, the loader does it.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use thalweg_abi::{Be32, LocalPod};
use thalweg_loader::{Datapath, HashTable, Table};
use thalweg_network::{BoxError, PodDatapath, PodLink};

/// The loaded programs and the table of this node's pods.
pub struct PodAttacher(Mutex<Inner>);

struct Inner {
    datapath: Datapath,
    pods: HashTable<Be32, LocalPod>,
}

// === impl PodAttacher ===

impl PodAttacher {
    /// # Errors
    /// When the maps cannot be opened.
    pub fn new(datapath: Datapath) -> Result<Self> {
        let pods = datapath.maps()?.local_pods;
        Ok(Self(Mutex::new(Inner { datapath, pods })))
    }

    /// Forgets the pods that are not among `live`: they went while no agent ran.
    pub fn keep_only(&self, live: &[PodLink]) {
        let live: BTreeSet<Be32> = live.iter().map(|pod| pod.addr.into()).collect();
        let mut inner = self.lock();
        let gone = inner
            .pods
            .entries()
            .map(|entries| entries.into_iter().map(|(addr, _)| addr).filter(|addr| !live.contains(addr)).collect::<Vec<_>>());
        let removed = gone.and_then(|gone| inner.pods.delete(&gone)).and_then(|()| inner.datapath.prune_links());
        match removed {
            Ok(0) => {}
            Ok(links) => tracing::info!(links, "removed links of pods that are gone"),
            Err(error) => tracing::warn!("forget pods that are gone: {error}"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PodDatapath for PodAttacher {
    /// The table first: the program drops what a pod that it does not know sends.
    fn attach(&self, pod: &PodLink) -> Result<(), BoxError> {
        let mut inner = self.lock();
        let addr = Be32::from(pod.addr);
        let entry = LocalPod { ifindex: pod.host_ifindex, pod_mac: pod.pod_mac, host_mac: pod.host_mac };
        inner.pods.update(&[(addr, entry)])?;
        if let Err(error) = inner.datapath.attach_pod(&pod.host_ifname) {
            inner.pods.delete(&[addr])?;
            return Err(error.into());
        }
        Ok(())
    }

    fn detach(&self, pod: &PodLink) -> Result<(), BoxError> {
        let mut inner = self.lock();
        let addr = Be32::from(pod.addr);
        // The address may belong to a newer pod already.
        if inner.pods.get(&addr)?.is_some_and(|held| held.ifindex == pod.host_ifindex) {
            inner.pods.delete(&[addr])?;
        }
        inner.datapath.detach_pod(&pod.host_ifname)?;
        Ok(())
    }
}
