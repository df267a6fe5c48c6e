//! Every map of the data path. Keys and values come from `thalweg_abi`; the sizes given here are defaults that the
//! loader may override before it creates a map.
//!
//! Hashes that hold configuration are not preallocated: they are sized for the largest cluster and mostly empty.
//! CONNTRACK is: an insert from a packet must not fail for want of an allocation while the map still has room,
//! and its memory is then known from the start.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{Array, HashMap, PerCpuArray, SkStorage},
    macros::btf_map,
};
use thalweg_abi::{
    Backend, Be32, Counter, CtEntry, DropReason, Frontend, FrontendKey, LocalPod, MAX_BACKENDS, MAX_CONNTRACK, MAX_FRONTENDS,
    MAX_LOCAL_PODS, MAX_SERVICES, MAX_SLOTS, ServiceName, Slot, SockNat, StateKey, Tuple,
};

const SPARSE: usize = BPF_F_NO_PREALLOC as usize;

/// What a client dials, to the range of slots that answer.
#[btf_map]
pub static FRONTENDS: HashMap<FrontendKey, Frontend, { MAX_FRONTENDS as usize }, SPARSE> = HashMap::new();

/// The ranges of all frontends, backend addresses inline.
#[btf_map]
pub static SLOTS: Array<Slot, { MAX_SLOTS as usize }> = Array::new();

/// Who stands behind a backend id; read only when a remembered backend is checked.
#[btf_map]
pub static BACKENDS: Array<Backend, { MAX_BACKENDS as usize }> = Array::new();

/// Translated flows, one entry per direction.
#[btf_map]
pub static CONNTRACK: HashMap<Tuple, CtEntry, { MAX_CONNTRACK as usize }> = HashMap::new();

/// Pods of this node by address.
#[btf_map]
pub static LOCAL_PODS: HashMap<Be32, LocalPod, { MAX_LOCAL_PODS as usize }, SPARSE> = HashMap::new();

/// Names of services by number; for people, never read by a program.
#[btf_map]
pub static SERVICES: HashMap<u32, ServiceName, { MAX_SERVICES as usize }, SPARSE> = HashMap::new();

/// Events, indexed by [`Counter`].
#[btf_map]
pub static COUNTERS: PerCpuArray<u64, { Counter::COUNT as usize }> = PerCpuArray::new();

/// Dropped packets, indexed by [`DropReason`].
#[btf_map]
pub static DROPS: PerCpuArray<u64, { DropReason::COUNT as usize }> = PerCpuArray::new();

/// What identifies this set of maps, indexed by [`StateKey`]; for user space, never read by a program.
#[btf_map]
pub static STATE: Array<u64, { StateKey::COUNT as usize }> = Array::new();

/// How a socket's destinations were translated; dies with the socket.
#[btf_map]
pub static SOCK_NAT: SkStorage<SockNat> = SkStorage::new();
