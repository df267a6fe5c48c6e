//! Every map of the data path. Keys and values come from `thalweg_abi`; the sizes given here are defaults that the
//! loader may override before it creates a map.
//!
//! What packets look up has a map for each family; what is rare or large serves both, with IPv4 addresses mapped.
//!
//! Hashes that hold configuration are not preallocated: they are sized for the largest cluster and mostly empty.
//! CONNTRACK is: an insert from a packet must not fail for want of an allocation while the map still has room,
//! and its memory is then known from the start.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, SkStorage},
    macros::btf_map,
};
use thalweg_abi::{
    Affinity, AffinityKey, Backend, Be32, Be128, Counter, CtEntry, DnsName, DnsNode, DnsOutcome, DnsServer, DnsZone,
    DropReason, Fragment, FragmentKey, Frontend, FrontendKey, Held, HeldKey, LocalPod, MAX_AFFINITY, MAX_BACKENDS,
    MAX_CONNTRACK, MAX_DNS_NAMES, MAX_DNS_SERVERS, MAX_DNS_ZONES, MAX_FRAGMENTS, MAX_FRONTENDS, MAX_HELD, MAX_LOCAL_PODS,
    MAX_NETNS, MAX_SERVICES, MAX_SLOTS, MAX_SOCK_BACKENDS, MAX_SOURCE_RANGES, Netns, ServiceName, ServiceRanges, ServiceStats,
    Slot, SockBackend, SockNat, SourceRange, StateKey, Tuple,
};

const SPARSE: usize = BPF_F_NO_PREALLOC as usize;

/// What a client dials, to the range of slots that answer.
#[btf_map]
pub static FRONTENDS: HashMap<FrontendKey, Frontend, { MAX_FRONTENDS as usize }, SPARSE> = HashMap::new();
#[btf_map]
pub static FRONTENDS6: HashMap<FrontendKey<Be128>, Frontend, { MAX_FRONTENDS as usize }, SPARSE> = HashMap::new();

/// The ranges of all frontends, backend addresses inline.
#[btf_map]
pub static SLOTS: Array<Slot, { MAX_SLOTS as usize }> = Array::new();

/// Who stands behind a backend id; read only when a remembered backend is checked.
#[btf_map]
pub static BACKENDS: Array<Backend, { MAX_BACKENDS as usize }> = Array::new();

/// Translated flows, one entry per direction.
#[btf_map]
pub static CONNTRACK: HashMap<Tuple, CtEntry, { MAX_CONNTRACK as usize }> = HashMap::new();
#[btf_map]
pub static CONNTRACK6: HashMap<Tuple<Be128>, CtEntry<Be128>, { MAX_CONNTRACK as usize }> = HashMap::new();

/// The tables of flows that are to follow these, or came before, while programs are switched; else of no use.
#[btf_map]
pub static CONNTRACK_OTHER: HashMap<Tuple, CtEntry, 1> = HashMap::new();
#[btf_map]
pub static CONNTRACK6_OTHER: HashMap<Tuple<Be128>, CtEntry<Be128>, 1> = HashMap::new();

/// Which backend a client keeps.
#[btf_map]
pub static AFFINITY: HashMap<AffinityKey, Affinity, { MAX_AFFINITY as usize }, SPARSE> = HashMap::new();

/// Whom a service admits.
#[btf_map]
pub static SOURCE_RANGES: LpmTrie<SourceRange, u32, { MAX_SOURCE_RANGES as usize }, SPARSE> = LpmTrie::new();

/// From which ranges ClusterIPs are.
#[btf_map]
pub static SERVICE_RANGES: Array<ServiceRanges, 1> = Array::new();

/// Datagrams in pieces. Those longest unseen give way: whoever fills it must not end all others.
#[btf_map]
pub static FRAGMENTS: LruHashMap<FragmentKey, Fragment, { MAX_FRAGMENTS as usize }> = LruHashMap::new();

/// Fragments that came before their first.
#[btf_map]
pub static HELD: HashMap<HeldKey, Held, { MAX_HELD as usize }, SPARSE> = HashMap::new();

/// Pods of this node by address.
#[btf_map]
pub static LOCAL_PODS: HashMap<Be32, LocalPod, { MAX_LOCAL_PODS as usize }, SPARSE> = HashMap::new();
#[btf_map]
pub static LOCAL_PODS6: HashMap<Be128, LocalPod, { MAX_LOCAL_PODS as usize }, SPARSE> = HashMap::new();

/// Network namespaces by cookie.
#[btf_map]
pub static NETNS: HashMap<u64, Netns, { MAX_NETNS as usize }, SPARSE> = HashMap::new();

/// Names of services by number; for people, never read by a program.
#[btf_map]
pub static SERVICES: HashMap<u32, ServiceName, { MAX_SERVICES as usize }, SPARSE> = HashMap::new();

/// How often a service is asked, by number.
#[btf_map]
pub static SERVICE_STATS: Array<ServiceStats, { MAX_SERVICES as usize }> = Array::new();

/// Where queries go that may be answered here, the zones that may be, their names, and what becomes of queries by [`DnsOutcome`].
#[btf_map]
pub static DNS_SERVERS: HashMap<DnsServer, u32, { MAX_DNS_SERVERS as usize }, SPARSE> = HashMap::new();
#[btf_map]
pub static DNS_ZONES: Array<DnsZone, { MAX_DNS_ZONES as usize }> = Array::new();
#[btf_map]
pub static DNS_NAMES: HashMap<DnsName, DnsNode, { MAX_DNS_NAMES as usize }, SPARSE> = HashMap::new();
#[btf_map]
pub static DNS_COUNTS: PerCpuArray<u64, { DnsOutcome::COUNT as usize }> = PerCpuArray::new();

/// Events, indexed by [`Counter`].
#[btf_map]
pub static COUNTERS: PerCpuArray<u64, { Counter::COUNT as usize }> = PerCpuArray::new();

/// Dropped packets, indexed by [`DropReason`].
#[btf_map]
pub static DROPS: PerCpuArray<u64, { DropReason::COUNT as usize }> = PerCpuArray::new();

/// What identifies this set of maps, indexed by [`StateKey`]. Programs read only whether they drain.
#[btf_map]
pub static STATE: Array<u64, { StateKey::COUNT as usize }> = Array::new();

/// How a socket's destinations were translated; dies with the socket.
#[btf_map]
pub static SOCK_NAT: SkStorage<SockNat> = SkStorage::new();
#[btf_map]
pub static SOCK_NAT6: SkStorage<SockNat<Be128>> = SkStorage::new();

/// Connected sockets by cookie.
#[btf_map]
pub static SOCK_BACKENDS: HashMap<u64, SockBackend, { MAX_SOCK_BACKENDS as usize }, SPARSE> = HashMap::new();
