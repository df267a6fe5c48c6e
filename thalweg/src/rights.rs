//! What this process may do: its capabilities, as far as a way to the kernel needs them.

use std::fs;

/// Capabilities that a service proxy needs, by their number in `linux/capability.h`. Those of later kernels are part of
/// CAP_SYS_ADMIN in earlier ones.
const EBPF: [(u32, &str); 4] = [(12, "CAP_NET_ADMIN"), (21, "CAP_SYS_ADMIN"), (38, "CAP_PERFMON"), (39, "CAP_BPF")];
/// The legacy kind wants CAP_NET_RAW too, and says so itself.
const IPTABLES: [(u32, &str); 1] = [(12, "CAP_NET_ADMIN")];

/// The effective capabilities of a process, as a set of bits.
#[derive(Clone, Copy, Debug)]
pub struct Rights(u64);

// === impl Rights ===

impl Rights {
    /// This process's; who cannot be asked has all.
    pub fn own() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        Self(effective(&status).unwrap_or(u64::MAX))
    }

    /// What eBPF lacks here.
    pub fn missing_for_ebpf(self) -> Vec<&'static str> {
        self.missing(&EBPF)
    }

    /// What iptables lack here.
    pub fn missing_for_iptables(self) -> Vec<&'static str> {
        self.missing(&IPTABLES)
    }

    fn missing(self, needed: &[(u32, &'static str)]) -> Vec<&'static str> {
        needed.iter().filter(|(bit, _)| self.0 & (1 << bit) == 0).map(|(_, name)| *name).collect()
    }
}

#[cfg(test)]
impl Rights {
    pub const ALL: Self = Self(u64::MAX);
    pub const NONE: Self = Self(0);
    /// What a container gets that asks for NET_ADMIN alone.
    pub const NETWORK: Self = Self(1 << 12);
}

fn effective(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_as_the_kernel_writes_them() {
        assert_eq!(effective("Name:\tx\nCapPrm:\t0\nCapEff:\t00000000a80435fb\nCapBnd:\t0\n"), Some(0xa804_35fb));
        assert_eq!(effective("Name:\tx\n"), None);
    }

    #[test]
    fn what_is_missing_is_named() {
        assert!(Rights::ALL.missing_for_ebpf().is_empty() && Rights::ALL.missing_for_iptables().is_empty());
        assert_eq!(Rights::NETWORK.missing_for_ebpf(), ["CAP_SYS_ADMIN", "CAP_PERFMON", "CAP_BPF"]);
        assert!(Rights::NETWORK.missing_for_iptables().is_empty());
        assert_eq!(Rights::NONE.missing_for_iptables(), ["CAP_NET_ADMIN"]);
    }
}
