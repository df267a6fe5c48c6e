//! SOURCE_RANGES and SERVICE_RANGES: which clients a service admits, and which addresses are services'.
//!
//! A service that restricts its clients is never open for want of room: its frontends ask for the ranges first of all,
//! and what could not be written admits nobody.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use thalweg_abi::{
    Be32, Be128, Frontend, FrontendFlags, Range, SERVICE_RANGES_EACH, ServiceRanges, SourceRange, SourceRangeKey,
};

use super::apply::Loose;
use super::stage::{Outcome, Staged};
use super::write::{delete_blindly, write_blindly};
use super::{EbpfBackend, full};
use crate::plan::{Key, ServicePlan};

/// Bits of a key before the client's address.
const SERVICE_BITS: u32 = 32;
/// Bits of a mapped address before those of IPv4.
const MAPPED_BITS: u32 = 96;

/// True when some frontend asks who the client is.
pub(super) fn is_restricted(plan: &ServicePlan) -> bool {
    plan.frontends.iter().any(|frontend| frontend.flags.has(FrontendFlags::CHECK_SOURCE))
}

/// The entries of a service, in order.
fn admitted(service: u32, plan: &ServicePlan) -> Vec<SourceRangeKey> {
    let mut keys: Vec<SourceRangeKey> = plan.source_ranges.iter().map(|range| source_range(service, *range)).collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

fn source_range(service: u32, range: IpNetwork) -> SourceRangeKey {
    let bits = u32::from(range.prefix()) + if range.is_ipv4() { MAPPED_BITS } else { 0 };
    SourceRangeKey { prefix: SERVICE_BITS + bits, range: SourceRange { service, addr: range.network().into() } }
}

/// The only entry of SERVICE_RANGES. What finds no room is left out: its unused addresses are then not dropped.
pub(super) fn service_ranges(ranges: &[IpNetwork]) -> ServiceRanges {
    let mut entry = ServiceRanges::default();
    for range in ranges {
        match (range.network(), range.mask()) {
            (IpAddr::V4(addr), IpAddr::V4(mask)) => {
                put(&mut entry.v4, &mut entry.used, Range { addr: Be32::from(addr), mask: Be32::from(mask) }, *range);
            }
            (IpAddr::V6(addr), IpAddr::V6(mask)) => {
                put(&mut entry.v6, &mut entry.used6, Range { addr: Be128::from(addr), mask: Be128::from(mask) }, *range);
            }
            _ => {}
        }
    }
    entry
}

fn put<A: PartialEq>(ranges: &mut [Range<A>; SERVICE_RANGES_EACH], used: &mut u32, range: Range<A>, source: IpNetwork) {
    let known = ranges.iter().take(*used as usize).any(|held| *held == range);
    match ranges.get_mut(*used as usize) {
        _ if known => {}
        Some(free) => {
            *free = range;
            *used += 1;
        }
        None => tracing::warn!(
            "service range {source} is one too many ({SERVICE_RANGES_EACH} of each family are known to the data path): \
             packets to its unused addresses are not dropped"
        ),
    }
}

// === impl EbpfBackend ===

impl EbpfBackend {
    /// Writes what new plans admit. Whatever else fails for a service, this does not wait.
    pub(super) fn write_source_ranges(&mut self, staged: &mut [Staged]) {
        let capacity = self.tables.source_ranges.capacity();
        let mut room = (capacity as usize).saturating_sub(self.source_ranges);
        let mut entries = Vec::new();
        let mut owners = Vec::new();
        for (index, service) in staged.iter_mut().enumerate() {
            let Some(plan) = service.plan.as_deref().filter(|plan| is_restricted(plan)) else { continue };
            // Ranges without a name would be nobody's after a restart.
            let Some(record) = self.services.get(&service.name).filter(|record| record.named) else { continue };
            let Some(number) = record.number else { continue };
            let is_held = |key: &SourceRangeKey| record.source_ranges().binary_search(key).is_ok();
            let wanted = admitted(number, plan);
            let new = wanted.iter().filter(|key| !is_held(key)).count();
            if new > room {
                service.shut = Some(full("SOURCE_RANGES", capacity));
                continue;
            }
            room -= new;
            for key in wanted.into_iter().filter(|key| record.unsure || !is_held(key)) {
                entries.push((key, 1));
                owners.push(index);
            }
        }
        let mut failed = write_blindly(&mut *self.tables.source_ranges, &entries);
        for index in &owners {
            if let Some(record) = self.services.get_mut(&staged[*index].name) {
                record.unsure = false;
            }
        }
        for ((key, _), index) in entries.into_iter().zip(owners) {
            let Some(record) = self.services.get_mut(&staged[index].name) else { continue };
            if let Some(error) = failed.remove(&key) {
                staged[index].shut = Some(error);
                record.unsure = true;
            }
            if let Err(at) = record.source_ranges().binary_search(&key) {
                record.change_rare(|rare| rare.source_ranges.insert(at, key));
                self.source_ranges += 1;
            }
        }
    }

    /// What a service that keeps its old state must change all the same: frontends that served everybody, and are
    /// to serve some.
    pub(super) fn closing(&self, service: &Staged) -> Vec<(Key, Frontend, Option<u32>)> {
        let (Some(plan), Some(record)) = (&service.plan, self.services.get(&service.name)) else { return Vec::new() };
        let restricted = plan.frontends.iter().filter(|frontend| frontend.flags.has(FrontendFlags::CHECK_SOURCE));
        restricted
            .filter_map(|frontend| {
                let held = self.mirror.get(&frontend.key())?;
                let open = Some(held.value.service) == record.number && !held.value.flags.has(FrontendFlags::CHECK_SOURCE);
                let mut value = held.value;
                value.flags.0 |= FrontendFlags::CHECK_SOURCE;
                value.generation = value.generation.wrapping_add(1);
                open.then_some((frontend.key(), value, held.block))
            })
            .collect()
    }

    /// Removes what nobody is admitted by any more: of a service that still restricts its clients at once, else when no
    /// frontend asks.
    pub(super) fn remove_source_ranges(&mut self, outcomes: &mut [Outcome], loose: &mut Loose) {
        let mut keys = Vec::new();
        let mut owners = Vec::new();
        for (index, outcome) in outcomes.iter().enumerate() {
            let Some(record) = self.services.get(&outcome.name).filter(|record| !record.source_ranges().is_empty()) else {
                continue;
            };
            let Some(number) = record.number else { continue };
            let wanted = match outcome.plan.as_deref().filter(|plan| is_restricted(plan)) {
                Some(plan) => admitted(number, plan),
                None if record.frontends.iter().any(|key| self.asks(key)) => continue,
                None => Vec::new(),
            };
            let unwanted = record.source_ranges().iter().filter(|key| wanted.binary_search(key).is_err()).copied();
            keys.extend(unwanted);
            owners.resize(keys.len(), Some(index));
        }
        if self.mirror.nobodys().is_empty() {
            keys.extend(self.stale_ranges.iter().copied());
            owners.resize(keys.len(), None);
        }
        let mut failed = delete_blindly(&mut *self.tables.source_ranges, &keys);
        for (key, index) in keys.into_iter().zip(owners) {
            match (failed.remove(&key), index) {
                (Some(error), Some(index)) => {
                    outcomes[index].fail(error);
                    if let Some(record) = self.services.get_mut(&outcomes[index].name) {
                        record.unsure = true;
                    }
                }
                (Some(error), None) => loose.note(error),
                (None, index) => {
                    self.source_ranges = self.source_ranges.saturating_sub(1);
                    match index.and_then(|index| self.services.get_mut(&outcomes[index].name)) {
                        Some(record) => record.change_rare(|rare| rare.source_ranges.retain(|held| *held != key)),
                        None => drop(self.stale_ranges.remove(&key)),
                    }
                }
            }
        }
    }

    fn asks(&self, key: &Key) -> bool {
        self.mirror.get(key).is_some_and(|held| held.value.flags.has(FrontendFlags::CHECK_SOURCE))
    }

    /// After the frontends: an address that has just become a service's must not be taken for nobody's.
    pub(super) fn write_service_ranges(&mut self, loose: &mut Loose) {
        let Some(wanted) = self.wanted_service_ranges else { return };
        match self.tables.service_ranges.update(&[(0, wanted)]) {
            Ok(()) => {
                self.service_ranges = wanted;
                self.wanted_service_ranges = None;
            }
            Err(error) => loose.note(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(texts: &[&str]) -> Vec<IpNetwork> {
        texts.iter().map(|text| text.parse().expect("a network")).collect()
    }

    #[test]
    fn keys_of_both_families() {
        let keys: Vec<(u32, String)> = ranges(&["10.1.2.3/8", "0.0.0.0/0", "10.9.9.9/32", "fd00:1:2::9/48", "::/0"])
            .into_iter()
            .map(|range| source_range(7, range))
            .map(|key| (key.prefix, format!("{:?}", key.range.addr)))
            .collect();
        let expected = [(136, "10.0.0.0"), (128, "0.0.0.0"), (160, "10.9.9.9"), (80, "fd00:1:2::"), (32, "::")];
        assert_eq!(keys, expected.map(|(prefix, addr)| (prefix, addr.to_owned())));
    }

    #[test]
    fn service_ranges_keep_the_first_of_each_family() {
        let many: Vec<String> = (0..10).map(|n| format!("10.{n}.0.1/16")).collect();
        let mut texts: Vec<&str> = many.iter().map(String::as_str).collect();
        texts.extend(["fd00::/112", "10.0.0.0/16"]);
        let entry = service_ranges(&ranges(&texts));
        assert_eq!((entry.used, entry.used6), (8, 1));
        let contains = |text: &str| {
            let addr: std::net::Ipv4Addr = text.parse().expect("an address");
            entry.v4[..entry.used as usize].iter().any(|range| range.contains(addr.into()))
        };
        assert!(contains("10.0.255.255") && contains("10.7.0.0") && !contains("10.8.0.1") && !contains("11.0.0.1"));
        assert_eq!(service_ranges(&[]), ServiceRanges::default());
    }
}
