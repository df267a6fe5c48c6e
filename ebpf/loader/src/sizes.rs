//! How many entries each map can hold: by the machine's memory, or as the operator says.

use std::{fs, io};

use crate::Maps;

/// Entries that each map can hold.
///
/// What each costs: a map of configuration takes 16 bytes for an entry that it could hold, and 100 to 200 more for one that
/// it does hold (DNS_NAMES 340). CONNTRACK takes 128 bytes (CONNTRACK6 176) for every entry that it could hold, and SLOTS, BACKENDS
/// and SERVICE_STATS 32, 32 and 16, from the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sizes {
    pub frontends: u32,
    pub frontends6: u32,
    /// An update needs room for the old and the new range of a service at once.
    pub slots: u32,
    pub backends: u32,
    /// Two for each flow.
    pub conntrack: u32,
    pub conntrack6: u32,
    pub affinity: u32,
    pub source_ranges: u32,
    pub local_pods: u32,
    pub netns: u32,
    pub services: u32,
    pub sock_backends: u32,
    /// Names that DNS answers for in the kernel.
    pub dns_names: u32,
}

const GIB: u64 = 1 << 30;

/// What a family that the node does not have gets: its maps exist all the same, because the programs name them.
const UNUSED: u32 = 1_024;

// === impl Sizes ===

impl Sizes {
    /// Sizes for a machine with `memory` bytes, for the families that the node has. The last column is what all maps take
    /// when they are empty, with both families.
    ///
    /// | memory | services | frontends (each family) | slots | backends | conntrack (each family) | affinity, sockets | source ranges | bytes |
    /// |---|---|---|---|---|---|---|---|---|
    /// | < 1 GiB | 8,192 | 16,384 | 32,768 | 16,384 | 16,384 | 16,384 | 4,096 | 9 MiB |
    /// | < 3 GiB | 32,768 | 65,536 | 131,072 | 65,536 | 65,536 | 65,536 | 16,384 | 32 MiB |
    /// | < 7 GiB | 65,536 | 131,072 | 262,144 | 131,072 | 131,072 | 131,072 | 65,536 | 62 MiB |
    /// | < 28 GiB | 131,072 | 524,288 | 524,288 | 262,144 | 262,144 | 262,144 | 65,536 | 130 MiB |
    /// | more | 131,072 | 524,288 | 1,048,576 | 524,288 | 1,048,576 | 524,288 | 131,072 | 390 MiB |
    ///
    /// From the fourth row on (a machine of 8 GiB has a little less than that to itself), 100,000 services of two endpoints
    /// fit: 200,000 frontends with the wildcards of their addresses, as many for NodePorts, 200,000 slots and backends.
    pub const fn for_memory(memory: u64, has_v4: bool, has_v6: bool) -> Self {
        let (services, frontends, slots, backends, conntrack, clients, source_ranges) = match memory {
            _ if memory < GIB => (8_192, 16_384, 32_768, 16_384, 16_384, 16_384, 4_096),
            _ if memory < 3 * GIB => (32_768, 65_536, 131_072, 65_536, 65_536, 65_536, 16_384),
            _ if memory < 7 * GIB => (65_536, 131_072, 262_144, 131_072, 131_072, 131_072, 65_536),
            _ if memory < 28 * GIB => (131_072, 524_288, 524_288, 262_144, 262_144, 262_144, 65_536),
            _ => (131_072, 524_288, 1_048_576, 524_288, 1_048_576, 524_288, 131_072),
        };
        Self {
            frontends: if has_v4 { frontends } else { UNUSED },
            frontends6: if has_v6 { frontends } else { UNUSED },
            slots,
            backends,
            conntrack: if has_v4 { conntrack } else { UNUSED },
            conntrack6: if has_v6 { conntrack } else { UNUSED },
            affinity: clients,
            source_ranges,
            local_pods: 4_096,
            netns: 8_192,
            services,
            sock_backends: clients,
            dns_names: services,
        }
    }

    /// As [`Sizes::for_memory`], of this machine.
    ///
    /// # Errors
    /// /proc/meminfo cannot be read, or says nothing.
    pub fn for_this_machine(has_v4: bool, has_v6: bool) -> io::Result<Self> {
        let text = fs::read_to_string("/proc/meminfo")?;
        match memory(&text) {
            Some(bytes) => Ok(Self::for_memory(bytes, has_v4, has_v6)),
            None => Err(io::Error::new(io::ErrorKind::InvalidData, "/proc/meminfo has no MemTotal")),
        }
    }

    /// No smaller than the maps that are pinned: for sizes that nobody has asked for. A machine may have less memory than at
    /// the last start, and maps that are in use must not be too small for what they hold.
    #[must_use]
    pub fn no_smaller_than(mut self, pinned: &Maps) -> Self {
        self.raise_to(pinned.capacities());
        self
    }

    /// Of maps that must have the same size, the largest counts.
    fn raise_to(&mut self, found: impl IntoIterator<Item = (&'static str, u32)>) {
        for (name, found) in found {
            if let Some((_, wanted)) = self.by_map().into_iter().find(|(map, _)| *map == name) {
                self.set(name, wanted.max(found));
            }
        }
    }

    /// The same room everywhere, for laboratories and tests.
    pub const fn uniform(entries: u32) -> Self {
        Self {
            frontends: entries,
            frontends6: entries,
            slots: entries,
            backends: entries,
            conntrack: entries,
            conntrack6: entries,
            affinity: entries,
            source_ranges: entries,
            local_pods: entries,
            netns: entries,
            services: entries,
            sock_backends: entries,
            dns_names: entries,
        }
    }

    /// Sets the size of one map by its name in the kernel; false when there is no such map, or its size is fixed. Maps that
    /// must have the same size (LOCAL_PODS6 as LOCAL_PODS, SERVICE_STATS as SERVICES) are set together.
    pub fn set(&mut self, map: &str, entries: u32) -> bool {
        let size = match map {
            "FRONTENDS" => &mut self.frontends,
            "FRONTENDS6" => &mut self.frontends6,
            "SLOTS" => &mut self.slots,
            "BACKENDS" => &mut self.backends,
            "CONNTRACK" => &mut self.conntrack,
            "CONNTRACK6" => &mut self.conntrack6,
            "AFFINITY" => &mut self.affinity,
            "SOURCE_RANGES" => &mut self.source_ranges,
            "LOCAL_PODS" | "LOCAL_PODS6" => &mut self.local_pods,
            "NETNS" => &mut self.netns,
            "SERVICES" | "SERVICE_STATS" => &mut self.services,
            "SOCK_BACKENDS" => &mut self.sock_backends,
            "DNS_NAMES" => &mut self.dns_names,
            _ => return false,
        };
        *size = entries;
        true
    }

    /// Each size with the map's name in the kernel.
    pub fn by_map(&self) -> [(&'static str, u32); 15] {
        [
            ("FRONTENDS", self.frontends),
            ("FRONTENDS6", self.frontends6),
            ("SLOTS", self.slots),
            ("BACKENDS", self.backends),
            ("CONNTRACK", self.conntrack),
            ("CONNTRACK6", self.conntrack6),
            ("AFFINITY", self.affinity),
            ("SOURCE_RANGES", self.source_ranges),
            ("LOCAL_PODS", self.local_pods),
            ("LOCAL_PODS6", self.local_pods),
            ("NETNS", self.netns),
            ("SERVICES", self.services),
            ("SERVICE_STATS", self.services),
            ("SOCK_BACKENDS", self.sock_backends),
            ("DNS_NAMES", self.dns_names),
        ]
    }
}

impl Default for Sizes {
    /// For a machine of 8 GiB with both families.
    fn default() -> Self {
        Self::for_memory(8 * GIB, true, true)
    }
}

/// MemTotal of /proc/meminfo, in bytes.
fn memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1_024)
}

#[cfg(test)]
mod tests {
    use super::{GIB, Sizes, UNUSED, memory};

    /// What maps take while they are empty: see [`Sizes`].
    fn bytes(sizes: &Sizes) -> u64 {
        let arrays = u64::from(sizes.slots) * 32 + u64::from(sizes.backends) * 32 + u64::from(sizes.services) * 16;
        let flows = u64::from(sizes.conntrack) * 128 + u64::from(sizes.conntrack6) * 176;
        let hashes =
            sizes.frontends + sizes.frontends6 + sizes.affinity + sizes.services + sizes.sock_backends + sizes.dns_names;
        arrays + flows + u64::from(hashes) * 16
    }

    #[test]
    fn sizes_grow_with_memory_and_stay_a_small_part_of_it() {
        let mut last = 0;
        for memory in [GIB / 2, GIB, 4 * GIB, 8 * GIB, 64 * GIB] {
            let sizes = Sizes::for_memory(memory, true, true);
            let taken = bytes(&sizes);
            println!("{:>6} MiB: maps take {} MiB", memory >> 20, taken >> 20);
            assert!(taken > last && taken < memory / 30, "{memory}: {taken}");
            last = taken;
        }
    }

    #[test]
    fn a_hundred_thousand_services_fit_on_a_machine_of_8_gib() {
        // The kernel keeps a part of the memory out of MemTotal.
        let sizes = Sizes::for_memory(8 * GIB - 500 * (1 << 20), true, true);
        let services = 100_000;
        assert!(sizes.services >= services);
        for frontends in [sizes.frontends, sizes.frontends6] {
            assert!(frontends >= services * 4, "ClusterIPs, their wildcards, and two NodePort addresses");
        }
        assert!(sizes.backends >= services * 2 && sizes.slots >= services * 2 * 2);
    }

    #[test]
    fn a_family_that_is_not_there_costs_next_to_nothing() {
        let sizes = Sizes::for_memory(8 * GIB, true, false);
        assert_eq!((sizes.conntrack6, sizes.frontends6), (UNUSED, UNUSED));
        assert!(sizes.conntrack > UNUSED && sizes.frontends > UNUSED);
        let sizes = Sizes::for_memory(8 * GIB, false, true);
        assert_eq!((sizes.conntrack, sizes.frontends), (UNUSED, UNUSED));
    }

    #[test]
    fn every_size_can_be_set_by_the_maps_name() {
        let mut sizes = Sizes::uniform(1);
        for (map, _) in sizes.by_map() {
            assert!(sizes.set(map, 77), "{map}");
        }
        assert_eq!(sizes, Sizes::uniform(77));
        assert!(!sizes.set("STATE", 1) && !sizes.set("", 1));
    }

    #[test]
    fn maps_of_one_size_are_as_large_as_the_largest_of_them() {
        let mut sizes = Sizes::uniform(10);
        sizes.raise_to([("LOCAL_PODS", 30), ("LOCAL_PODS6", 20), ("SERVICES", 5), ("SERVICE_STATS", 40), ("SLOTS", 3)]);
        assert_eq!(sizes, Sizes { local_pods: 30, services: 40, ..Sizes::uniform(10) });
    }

    #[test]
    fn memory_is_what_the_kernel_says() {
        assert_eq!(memory("MemTotal:        8123456 kB\nMemFree: 1 kB\n"), Some(8_123_456 * 1_024));
        assert_eq!(memory("MemFree: 1 kB\n"), None);
        assert_eq!(memory("MemTotal: much\n"), None);
    }
}
