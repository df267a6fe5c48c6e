//! From a name to what is there, or to the closest name above it.

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use thalweg_abi::{DNS_NAME_LABELS, DNS_NAME_OCTETS, DnsName, DnsNode, DnsNodeFlags, DnsOutcome, DnsZone, DnsZoneFlags};

use super::Scratch;
use crate::maps::{DNS_NAMES, DNS_ZONES};

/// What answers a question.
pub struct Found {
    /// `None`: there is no such name.
    pub node: Option<&'static DnsNode>,
    pub zone: &'static DnsZone,
}

#[inline(always)]
pub fn find(scratch: &Scratch) -> Result<Found, DnsOutcome> {
    let (node, is_parent) = closest(scratch).ok_or(DnsOutcome::PassedOutside)?;
    let zone = DNS_ZONES.get(u32::from(node.zone)).ok_or(DnsOutcome::PassedOutside)?;
    // SAFETY: a helper without pointers.
    if unsafe { bpf_ktime_get_ns() } >= zone.valid_until {
        return Err(DnsOutcome::PassedStale);
    }
    if !is_parent {
        return Ok(Found { node: Some(node), zone });
    }
    if node.flags.has(DnsNodeFlags::OTHERS_BELOW) || !zone.flags.has(DnsZoneFlags::COMPLETE) {
        return Err(DnsOutcome::PassedUnknown);
    }
    Ok(Found { node: None, zone })
}

/// The node of the name, or of its closest parent that has one, and which of both it is.
#[inline(always)]
fn closest(scratch: &Scratch) -> Option<(&'static DnsNode, bool)> {
    let name: *const u8 = scratch.name.as_ptr().cast();
    for index in 0..DNS_NAME_LABELS {
        let start = usize::from(scratch.starts[index]) % DNS_NAME_OCTETS;
        // SAFETY: a name and as many zeros are there.
        let key = unsafe { &*name.add(start).cast::<DnsName>() };
        // SAFETY: user space replaces a value as a whole.
        if let Some(node) = unsafe { DNS_NAMES.get(key) } {
            return Some((node, index != 0));
        }
        // The root label: starts of longer names may follow.
        if start + 1 >= scratch.name_len as usize {
            return None;
        }
    }
    None
}
