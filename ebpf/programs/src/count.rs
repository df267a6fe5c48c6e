//! Counting: events and drops, per CPU, so that nothing on the hot path is shared between CPUs.

use thalweg_abi::{Counter, DropReason};

use crate::maps::{COUNTERS, DROPS};

#[inline(always)]
pub fn count(counter: Counter) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: the verifier has seen the null check; the slot belongs to this CPU.
        unsafe { *value += 1 };
    }
}

#[inline(always)]
pub fn count_drop(reason: DropReason) {
    if let Some(value) = DROPS.get_ptr_mut(reason as u32) {
        // SAFETY: as above.
        unsafe { *value += 1 };
    }
}
