//! Counting: events and drops, per CPU, so that nothing on the hot path is shared between CPUs; and the use of
//! services, once per connection, by all CPUs together. The steps that no other CPU may come between are here too.

use thalweg_abi::{Counter, DnsOutcome, DropReason};

use crate::maps::{COUNTERS, DNS_COUNTS, DROPS, SERVICE_STATS};

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

#[inline(always)]
pub fn count_dns(outcome: DnsOutcome) {
    if let Some(value) = DNS_COUNTS.get_ptr_mut(outcome as u32) {
        // SAFETY: as above.
        unsafe { *value += 1 };
    }
}

/// One more socket, or first datagram, for a service.
#[inline(always)]
pub fn count_socket(service: u32) {
    if let Some(stats) = SERVICE_STATS.get_ptr_mut(service) {
        // SAFETY: the verifier has seen the null check.
        unsafe { add(&raw mut (*stats).sockets, 1) };
    }
}

/// One more flow that tc began for a service.
#[inline(always)]
pub fn count_flow(service: u32) {
    if let Some(stats) = SERVICE_STATS.get_ptr_mut(service) {
        // SAFETY: as in `count_socket`.
        unsafe { add(&raw mut (*stats).flows, 1) };
    }
}

/// Adds as one step: another CPU may add at the same time. `core` has this for the target only together with
/// operations that older instruction sets lack.
///
/// # Safety
/// `counter` is aligned and lies in a map's value.
#[inline(always)]
pub unsafe fn add(counter: *mut u64, amount: u64) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: the caller's promise.
    unsafe {
        core::arch::asm!("lock *(u64 *)({counter} + 0) += {amount}", counter = in(reg) counter, amount = in(reg) amount);
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: the caller's promise; only the kernel runs this, this is for what checks the source elsewhere.
    unsafe {
        *counter += amount;
    }
}

/// Writes as one step, and returns what was there.
///
/// # Safety
/// `value` is aligned and lies in a map's value.
#[inline(always)]
pub unsafe fn swap(value: *mut u64, new: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut old = new;
        // SAFETY: the caller's promise.
        unsafe {
            core::arch::asm!("{old} = xchg_64({value} + 0, {old})", value = in(reg) value, old = inout(reg) old);
        }
        old
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: the caller's promise; only the kernel runs this, this is for what checks the source elsewhere.
    unsafe {
        core::mem::replace(&mut *value, new)
    }
}
