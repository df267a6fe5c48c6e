//! Typed tables over the pinned maps: for the agent, and for views that read the kernel without one.

use std::path::Path;

use thalweg_abi::{
    Affinity, AffinityKey, Backend, Be32, Be128, Counter, CtEntry, DnsName, DnsNode, DnsOutcome, DnsServer, DnsZone,
    DropReason, Fragment, FragmentKey, Frontend, FrontendKey, Held, HeldKey, LocalPod, Netns, ServiceName, ServiceRanges,
    ServiceStats, Slot, SockBackend, SourceRangeKey, StateKey, Tuple,
};

use crate::{ArrayTable, Error, HashTable, Table, bpffs, kernel_table::PerCpuCounters, pressure::Counts};

/// Names of the maps that are pinned; the same as in the kernel programs.
pub(crate) const PINNED: [&str; 26] = [
    "FRONTENDS",
    "FRONTENDS6",
    "SLOTS",
    "BACKENDS",
    "CONNTRACK",
    "CONNTRACK6",
    "AFFINITY",
    "SOURCE_RANGES",
    "SERVICE_RANGES",
    "FRAGMENTS",
    "HELD",
    "LOCAL_PODS",
    "LOCAL_PODS6",
    "NETNS",
    "SERVICES",
    "SERVICE_STATS",
    "DNS_SERVERS",
    "DNS_ZONES",
    "DNS_NAMES",
    "DNS_COUNTS",
    "COUNTERS",
    "DROPS",
    "STATE",
    "SOCK_NAT",
    "SOCK_NAT6",
    "SOCK_BACKENDS",
];

/// The maps of one node.
#[derive(Debug)]
pub struct Maps {
    pub frontends: HashTable<FrontendKey, Frontend>,
    pub frontends6: HashTable<FrontendKey<Be128>, Frontend>,
    pub slots: ArrayTable<Slot>,
    pub backends: ArrayTable<Backend>,
    pub conntrack: HashTable<Tuple, CtEntry>,
    pub conntrack6: HashTable<Tuple<Be128>, CtEntry<Be128>>,
    pub affinity: HashTable<AffinityKey, Affinity>,
    pub source_ranges: HashTable<SourceRangeKey, u32>,
    /// One entry, at index 0.
    pub service_ranges: ArrayTable<ServiceRanges>,
    pub fragments: HashTable<FragmentKey, Fragment>,
    pub held: HashTable<HeldKey, Held>,
    pub local_pods: HashTable<Be32, LocalPod>,
    pub local_pods6: HashTable<Be128, LocalPod>,
    /// Network namespaces by cookie.
    pub netns: HashTable<u64, Netns>,
    /// Names of services by number.
    pub services: HashTable<u32, ServiceName>,
    /// By service number.
    pub service_stats: ArrayTable<ServiceStats>,
    /// Connected sockets by cookie.
    pub sock_backends: HashTable<u64, SockBackend>,
    /// Where queries go that are answered in the kernel.
    pub dns_servers: HashTable<DnsServer, u32>,
    pub dns_zones: ArrayTable<DnsZone>,
    pub dns_names: HashTable<DnsName, DnsNode>,
    dns_counts: PerCpuCounters,
    counters: PerCpuCounters,
    drops: PerCpuCounters,
    state: ArrayTable<u64>,
    pub(crate) counts: Counts,
}

// === impl Maps ===

impl Maps {
    /// Opens the maps that an agent pinned below `pin_root`. Works while the agent runs, and when it does not.
    ///
    /// # Errors
    /// [`Error::NoMaps`] when there are none, [`Error::Incompatible`] when another build made them.
    pub fn open_pinned(pin_root: &Path) -> Result<Self, Error> {
        Self::open_in(&bpffs::maps_dir(pin_root))
    }

    /// Opens the maps that are pinned in a folder.
    pub(crate) fn open_in(folder: &Path) -> Result<Self, Error> {
        Ok(Self {
            frontends: HashTable::open(folder, "FRONTENDS")?,
            frontends6: HashTable::open(folder, "FRONTENDS6")?,
            slots: ArrayTable::open(folder, "SLOTS")?,
            backends: ArrayTable::open(folder, "BACKENDS")?,
            conntrack: HashTable::open(folder, "CONNTRACK")?,
            conntrack6: HashTable::open(folder, "CONNTRACK6")?,
            affinity: HashTable::open(folder, "AFFINITY")?,
            source_ranges: HashTable::open(folder, "SOURCE_RANGES")?,
            service_ranges: ArrayTable::open(folder, "SERVICE_RANGES")?,
            fragments: HashTable::open(folder, "FRAGMENTS")?,
            held: HashTable::open(folder, "HELD")?,
            local_pods: HashTable::open(folder, "LOCAL_PODS")?,
            local_pods6: HashTable::open(folder, "LOCAL_PODS6")?,
            netns: HashTable::open(folder, "NETNS")?,
            services: HashTable::open(folder, "SERVICES")?,
            service_stats: ArrayTable::open(folder, "SERVICE_STATS")?,
            sock_backends: HashTable::open(folder, "SOCK_BACKENDS")?,
            dns_servers: HashTable::open(folder, "DNS_SERVERS")?,
            dns_zones: ArrayTable::open(folder, "DNS_ZONES")?,
            dns_names: HashTable::open(folder, "DNS_NAMES")?,
            dns_counts: PerCpuCounters::open(folder, "DNS_COUNTS")?,
            counters: PerCpuCounters::open(folder, "COUNTERS")?,
            drops: PerCpuCounters::open(folder, "DROPS")?,
            state: ArrayTable::open(folder, "STATE")?,
            counts: Counts::default(),
        })
    }

    /// How many entries each map of which the size can be chosen has room for.
    pub fn capacities(&self) -> [(&'static str, u32); 15] {
        [
            ("FRONTENDS", self.frontends.capacity()),
            ("FRONTENDS6", self.frontends6.capacity()),
            ("SLOTS", self.slots.capacity()),
            ("BACKENDS", self.backends.capacity()),
            ("CONNTRACK", self.conntrack.capacity()),
            ("CONNTRACK6", self.conntrack6.capacity()),
            ("AFFINITY", self.affinity.capacity()),
            ("SOURCE_RANGES", self.source_ranges.capacity()),
            ("LOCAL_PODS", self.local_pods.capacity()),
            ("LOCAL_PODS6", self.local_pods6.capacity()),
            ("NETNS", self.netns.capacity()),
            ("SERVICES", self.services.capacity()),
            ("SERVICE_STATS", self.service_stats.capacity()),
            ("SOCK_BACKENDS", self.sock_backends.capacity()),
            ("DNS_NAMES", self.dns_names.capacity()),
        ]
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

    /// What became of queries of pods for the cluster's DNS, in the order of [`DnsOutcome::ALL`].
    ///
    /// # Errors
    /// [`Error::Table`] when the kernel refuses the look-up.
    pub fn dns_outcomes(&self) -> Result<Vec<(DnsOutcome, u64)>, Error> {
        DnsOutcome::ALL.iter().map(|outcome| Ok((*outcome, self.dns_counts.sum(*outcome as u32)?))).collect()
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
