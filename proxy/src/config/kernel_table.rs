//! What the configuration says of the kernel's connection table, and what that makes of the kernel's switches: kube-proxy's
//! `conntrack` section. Pure.

use std::time::Duration;

use super::model::Conntrack;

/// Entries of the table for each bucket of its index, as kube-proxy has it.
const ENTRIES_PER_BUCKET: u64 = 4;

/// The kernel's connection table as it should be at least; what is `None` is left alone.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct KernelTable {
    /// Entries for each CPU of the machine, and those that there are on the smallest one.
    pub max_per_core: Option<(u64, u64)>,
    /// Seconds.
    pub tcp_established_timeout: Option<u64>,
    pub tcp_close_wait_timeout: Option<u64>,
    pub udp_timeout: Option<u64>,
    pub udp_stream_timeout: Option<u64>,
    /// Packets out of the window are not invalid.
    pub tcp_be_liberal: bool,
}

/// One switch, below `/proc/sys/net`, and what is to be written into it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Write {
    pub switch: &'static str,
    pub value: u64,
}

// === impl KernelTable ===

impl KernelTable {
    pub(super) fn new(section: &Conntrack) -> Self {
        let number = |number: Option<i32>| number.and_then(|number| u64::try_from(number).ok());
        let seconds = |time: Duration| Some(time.as_secs()).filter(|seconds| *seconds > 0);
        Self {
            max_per_core: number(section.max_per_core)
                .filter(|entries| *entries > 0)
                .map(|entries| (entries, number(section.min).unwrap_or_default())),
            tcp_established_timeout: seconds(section.tcp_established_timeout.unwrap_or_default().to_std()),
            tcp_close_wait_timeout: seconds(section.tcp_close_wait_timeout.unwrap_or_default().to_std()),
            udp_timeout: seconds(section.udp_timeout.to_std()),
            udp_stream_timeout: seconds(section.udp_stream_timeout.to_std()),
            tcp_be_liberal: section.tcp_be_liberal,
        }
    }

    /// What is to be written on a machine of so many CPUs, in order, where `current` tells what a switch says now, if that
    /// can be read. As with kube-proxy nothing is ever lowered: whoever has raised it had a reason.
    pub fn writes(&self, cpus: u64, current: impl Fn(&'static str) -> Option<u64>) -> Vec<Write> {
        let max = self.max_per_core.map(|(entries, least)| entries.saturating_mul(cpus).max(least));
        let wanted = [
            ("netfilter/nf_conntrack_max", max),
            // A table that has grown needs an index that has: long chains cost every packet.
            ("netfilter/nf_conntrack_buckets", max.map(|max| max / ENTRIES_PER_BUCKET)),
            ("netfilter/nf_conntrack_tcp_timeout_established", self.tcp_established_timeout),
            ("netfilter/nf_conntrack_tcp_timeout_close_wait", self.tcp_close_wait_timeout),
            ("netfilter/nf_conntrack_udp_timeout", self.udp_timeout),
            ("netfilter/nf_conntrack_udp_timeout_stream", self.udp_stream_timeout),
            ("netfilter/nf_conntrack_tcp_be_liberal", self.tcp_be_liberal.then_some(1)),
        ];
        let known = wanted.into_iter().filter_map(|(switch, value)| Some(Write { switch, value: value? }));
        known.filter(|write| current(write.switch).is_none_or(|value| value < write.value)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::KubeProxyConfiguration;
    use super::super::{GoDuration, decode};
    use super::*;

    const LINUX: [(&str, u64); 7] = [
        ("max", 65_536),
        ("buckets", 65_536),
        ("tcp_timeout_established", 432_000),
        ("tcp_timeout_close_wait", 60),
        ("udp_timeout", 30),
        ("udp_timeout_stream", 120),
        ("tcp_be_liberal", 0),
    ];

    /// A section, on a machine of so many CPUs whose kernel is as Linux is by itself but for `differs`: what is written.
    #[track_caller]
    fn check(section: &str, cpus: u64, differs: &[(&str, Option<u64>)], wanted: &[(&str, u64)]) {
        let header = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
        let mut config = decode(&format!("{header}{section}\n")).expect(section);
        config.complete();
        let current = |switch: &str| {
            let name = switch.strip_prefix("netfilter/nf_conntrack_").expect(switch);
            let differs = differs.iter().find(|(differs, _)| *differs == name).map(|(_, value)| *value);
            differs.unwrap_or_else(|| LINUX.iter().find(|(known, _)| *known == name).map(|(_, value)| *value))
        };
        let writes = KernelTable::new(&config.conntrack).writes(cpus, current);
        let found: Vec<_> =
            writes.iter().map(|write| (&write.switch["netfilter/nf_conntrack_".len()..], write.value)).collect();
        assert_eq!(found, wanted, "{section}");
    }

    const OFF: &str = "conntrack: {maxPerCore: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s";

    #[test]
    fn defaults_are_kube_proxys() {
        check("", 2, &[], &[("max", 131_072), ("tcp_timeout_close_wait", 3600)]);
        check("", 8, &[], &[("max", 262_144), ("tcp_timeout_close_wait", 3600)]);
        check("", 64, &[], &[("max", 2_097_152), ("buckets", 524_288), ("tcp_timeout_close_wait", 3600)]);
    }

    #[test]
    fn zero_leaves_the_kernel_alone() {
        check(&format!("{OFF}}}"), 64, &[], &[]);
        check(&format!("{OFF}, min: 900000}}"), 64, &[], &[]);
        check(&format!("linux: {{{OFF}}}}}"), 64, &[], &[]);
    }

    #[test]
    fn every_setting_has_its_switch() {
        check(&format!("{OFF}, udpTimeout: 1m30s}}"), 2, &[], &[("udp_timeout", 90)]);
        check(&format!("{OFF}, udpStreamTimeout: 5m}}"), 2, &[], &[("udp_timeout_stream", 300)]);
        check(&format!("{OFF}, tcpBeLiberal: true}}"), 2, &[], &[("tcp_be_liberal", 1)]);
        check(
            "conntrack: {maxPerCore: 0, tcpEstablishedTimeout: 200h, tcpCloseWaitTimeout: 61s}",
            2,
            &[],
            &[("tcp_timeout_established", 720_000), ("tcp_timeout_close_wait", 61)],
        );
        check("conntrack: {maxPerCore: 100000, min: 5, tcpCloseWaitTimeout: 0s}", 1, &[], &[("max", 100_000)]);
        check(
            "conntrack: {maxPerCore: 5, min: 1000000, tcpCloseWaitTimeout: 0s}",
            1,
            &[],
            &[("max", 1_000_000), ("buckets", 250_000)],
        );
    }

    #[test]
    fn nothing_is_lowered() {
        check("", 2, &[("max", Some(1 << 20)), ("tcp_timeout_close_wait", Some(3600))], &[]);
        check(&format!("{OFF}, tcpBeLiberal: false}}"), 2, &[("tcp_be_liberal", Some(1))], &[]);
        check(&format!("{OFF}, udpTimeout: 5s}}"), 2, &[], &[]);
        // Parts of a second are none.
        check(&format!("{OFF}, udpTimeout: 900ms}}"), 2, &[("udp_timeout", Some(0))], &[]);
    }

    #[test]
    fn what_cannot_be_read_is_written() {
        check(&format!("{OFF}, udpTimeout: 5s}}"), 2, &[("udp_timeout", None)], &[("udp_timeout", 5)]);
    }

    #[test]
    fn a_section_that_was_not_completed_says_nothing() {
        assert_eq!(KernelTable::new(&Conntrack::default()), KernelTable::default());
        let config = KubeProxyConfiguration::defaults();
        assert_eq!(
            KernelTable::new(&config.conntrack).tcp_established_timeout,
            Some(GoDuration::seconds(86_400).to_std().as_secs())
        );
    }
}
