//! Attaches the data path to pods: the pod network says when, the loader does it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use thalweg_abi::{Be32, Be128, LocalPod};
use thalweg_cluster::{Name, World};
use thalweg_loader::{Datapath, Error, HashTable, Table};
use thalweg_network::{BoxError, PodDatapath, PodLink};

use crate::clients::{self, Clients};

/// The loaded programs and the tables of this node's pods.
pub struct PodAttacher(Mutex<Inner>);

struct Inner {
    datapath: Datapath,
    tables: PodTables,
    clients: Clients,
    /// By the name of the host's end.
    links: BTreeMap<String, PodLink>,
    /// Pods that leave socket load balancing to tc.
    opted_out: BTreeSet<Name>,
    /// Links that wait until the maps are complete; `None` once they are.
    held: Option<BTreeSet<String>>,
}

/// LOCAL_PODS of both families.
pub struct PodTables {
    v4: HashTable<Be32, LocalPod>,
    v6: HashTable<Be128, LocalPod>,
}

// === impl PodAttacher ===

impl PodAttacher {
    /// Pods are attached once [`PodAttacher::go_live`] has been called: programs on empty maps would know of no service.
    ///
    /// # Errors
    /// When the maps cannot be opened.
    pub fn new(datapath: Datapath) -> Result<Self> {
        let maps = datapath.maps()?;
        Ok(Self(Mutex::new(Inner {
            tables: PodTables { v4: maps.local_pods, v6: maps.local_pods6 },
            clients: Clients::adopt(maps.netns).context("read which network namespaces are known")?,
            datapath,
            links: BTreeMap::new(),
            opted_out: BTreeSet::new(),
            held: Some(BTreeSet::new()),
        })))
    }

    /// Attaches the programs to the control group, the uplink and the pods.
    ///
    /// # Errors
    /// When the kernel refuses the control group or the uplink; pods that it refuses are named in the log.
    pub fn go_live(&self, uplink: &str) -> Result<()> {
        let mut inner = self.lock();
        inner.datapath.go_live().context("put the programs into their links")?;
        inner.datapath.attach_cgroup().context("attach to the control group")?;
        inner.datapath.attach_uplink(uplink).context("attach to the uplink")?;
        for link in inner.held.take().unwrap_or_default() {
            if let Err(error) = inner.datapath.attach_pod(&link) {
                tracing::error!(link, "attach to a pod: {error}");
            }
        }
        Ok(())
    }

    /// Forgets the pods that are not among `live`: they went while no agent ran.
    pub fn keep_only(&self, live: &[PodLink]) {
        let mut inner = self.lock();
        let namespaces: BTreeMap<u64, _> = live.iter().filter_map(|pod| Some((pod.netns_cookie?, inner.netns(pod)))).collect();
        let addresses: BTreeSet<IpAddr> = live.iter().flat_map(addresses).collect();
        let removed = inner.tables.keep_only(&addresses).and_then(|()| inner.clients.sync(&namespaces));
        match removed.and_then(|_| inner.datapath.prune_links()) {
            Ok(0) => {}
            Ok(links) => tracing::info!(links, "removed links of pods that are gone"),
            Err(error) => tracing::warn!("forget pods that are gone: {error}"),
        }
    }

    /// Follows what pods say about socket load balancing.
    pub fn follow<'a>(&self, world: &World, pods: impl IntoIterator<Item = &'a Name>) {
        let mut pods = pods.into_iter().peekable();
        // Whoever goes live has the lock for a while.
        if pods.peek().is_none() {
            return;
        }
        let mut inner = self.lock();
        for name in pods {
            let opts_out = world.pod(name).is_some_and(|pod| clients::opts_out(pod));
            let news = if opts_out { inner.opted_out.insert(name.clone()) } else { inner.opted_out.remove(name) };
            if !news {
                continue;
            }
            let is_its = |link: &&PodLink| link.namespace == *name.namespace && link.pod_name == *name.name;
            let links: Vec<PodLink> = inner.links.values().filter(is_its).cloned().collect();
            for link in links {
                if let Err(error) = inner.list(&link) {
                    tracing::warn!(pod = %name, "socket load balancing of a pod: {error}");
                }
            }
        }
    }

    /// Paths of the pods' network namespaces, as far as they are known.
    pub fn namespaces(&self) -> Vec<PathBuf> {
        self.lock().links.values().filter_map(|link| link.netns.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PodDatapath for PodAttacher {
    /// The tables first: the program drops what a pod that it does not know sends.
    fn attach(&self, pod: &PodLink) -> Result<(), BoxError> {
        let mut inner = self.lock();
        inner.tables.insert(pod)?;
        inner.list(pod)?;
        inner.links.insert(pod.host_ifname.clone(), pod.clone());
        if let Some(held) = &mut inner.held {
            held.insert(pod.host_ifname.clone());
            return Ok(());
        }
        if let Err(error) = inner.datapath.attach_pod(&pod.host_ifname) {
            inner.forget(pod)?;
            return Err(error.into());
        }
        Ok(())
    }

    fn detach(&self, pod: &PodLink) -> Result<(), BoxError> {
        let mut inner = self.lock();
        inner.forget(pod)?;
        inner.datapath.detach_pod(&pod.host_ifname)?;
        Ok(())
    }
}

// === impl Inner ===

impl Inner {
    fn netns(&self, pod: &PodLink) -> thalweg_abi::Netns {
        let name = Name::new(pod.namespace.as_str(), pod.pod_name.as_str());
        clients::netns(addresses(pod), self.opted_out.contains(&name))
    }

    /// The pod's namespace, with what is known of it.
    fn list(&mut self, pod: &PodLink) -> Result<(), Error> {
        let netns = self.netns(pod);
        pod.netns_cookie.map_or(Ok(()), |cookie| self.clients.set(cookie, netns))
    }

    fn forget(&mut self, pod: &PodLink) -> Result<(), Error> {
        self.links.remove(&pod.host_ifname);
        if let Some(held) = &mut self.held {
            held.remove(&pod.host_ifname);
        }
        if let Some(cookie) = pod.netns_cookie {
            self.clients.remove(cookie)?;
        }
        self.tables.remove(pod)
    }
}

// === impl PodTables ===

impl PodTables {
    pub fn new(v4: HashTable<Be32, LocalPod>, v6: HashTable<Be128, LocalPod>) -> Self {
        Self { v4, v6 }
    }

    fn insert(&mut self, pod: &PodLink) -> Result<(), Error> {
        let entry = LocalPod { ifindex: pod.host_ifindex, pod_mac: pod.pod_mac, host_mac: pod.host_mac };
        if !pod.addr.is_unspecified() {
            self.v4.update(&[(pod.addr.into(), entry)])?;
        }
        pod.addr6.map_or(Ok(()), |addr| self.v6.update(&[(addr.into(), entry)]))
    }

    /// The addresses may belong to a newer pod already.
    pub fn remove(&mut self, pod: &PodLink) -> Result<(), Error> {
        // The index is 0 when the link has gone by itself.
        let is_same = |held: LocalPod| match pod.host_ifindex {
            0 => held.pod_mac == pod.pod_mac,
            index => held.ifindex == index,
        };
        let is_its = |held: Option<LocalPod>| held.is_some_and(is_same);
        let addr = Be32::from(pod.addr);
        if is_its(self.v4.get(&addr)?) {
            self.v4.delete(&[addr])?;
        }
        if let Some(addr) = pod.addr6.map(Be128::from)
            && is_its(self.v6.get(&addr)?)
        {
            self.v6.delete(&[addr])?;
        }
        Ok(())
    }

    fn keep_only(&mut self, live: &BTreeSet<IpAddr>) -> Result<(), Error> {
        let v4: Vec<Be32> = self.v4.entries()?.into_iter().map(|(addr, _)| addr).collect();
        let v6: Vec<Be128> = self.v6.entries()?.into_iter().map(|(addr, _)| addr).collect();
        self.v4.delete(&v4.into_iter().filter(|addr| !live.contains(&IpAddr::from(*addr))).collect::<Vec<_>>())?;
        self.v6.delete(&v6.into_iter().filter(|addr| !live.contains(&IpAddr::from(*addr))).collect::<Vec<_>>())
    }
}

/// Those of a pod.
fn addresses(pod: &PodLink) -> impl Iterator<Item = IpAddr> + use<> {
    let v4 = (!pod.addr.is_unspecified()).then_some(IpAddr::V4(pod.addr));
    v4.into_iter().chain(pod.addr6.map(IpAddr::V6))
}
