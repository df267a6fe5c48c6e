//! Access to the tables of flows. While the programs of a node are switched from one pair of tables to another, link by
//! link, each packet may meet a program on either side: for that moment there are programs that know both pairs. They look
//! in both and begin flows in their own, so that no flow is lost. Two of them on two CPUs may begin one flow in both tables
//! at one moment: its own table's entry is what each of them then follows.

use aya_ebpf::{bindings::BPF_NOEXIST, btf_maps::HashMap};

use crate::config::SWITCHING;

const EEXIST: i32 = -17;

#[inline(always)]
pub fn find<K, V, const N: usize, const M: usize>(own: &HashMap<K, V, N>, other: &HashMap<K, V, M>, key: &K) -> Option<*mut V> {
    match own.get_ptr_mut(key) {
        None if SWITCHING.load() != 0 => other.get_ptr_mut(key),
        found => found,
    }
}

#[inline(always)]
pub fn insert<K, V, const N: usize, const M: usize>(
    own: &HashMap<K, V, N>,
    other: &HashMap<K, V, M>,
    key: &K,
    value: &V,
    flags: u64,
) -> Result<(), i32> {
    if SWITCHING.load() != 0 {
        if flags != u64::from(BPF_NOEXIST) {
            let _ = other.remove(key);
        } else if other.get_ptr(key).is_some() {
            return Err(EEXIST);
        }
    }
    own.insert(key, value, flags)
}

#[inline(always)]
pub fn remove<K, V, const N: usize, const M: usize>(own: &HashMap<K, V, N>, other: &HashMap<K, V, M>, key: &K) {
    let _ = own.remove(key);
    if SWITCHING.load() != 0 {
        let _ = other.remove(key);
    }
}
