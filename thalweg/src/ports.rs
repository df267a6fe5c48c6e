//! NodePorts are kept from being taken as source ports (`net.ipv4.ip_local_reserved_ports`), where the two ranges overlap: a
//! connection of the node that had one would get the answers of a service's clients, and they its.
//!
//! What somebody else has reserved stays. What is ours is remembered in a file that lives as long as the kernel's setting:
//! below /run.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use thalweg_abi::{SNAT_PORT_MAX, SNAT_PORT_MIN};
use thalweg_cluster::{Name, World, sysctl};
use thalweg_proxy::plan::host_ports::NAMESPACE;

const RESERVED: &str = "ipv4/ip_local_reserved_ports";
const RANGE: &str = "ipv4/ip_local_port_range";
/// Beside the sockets.
const RECORD: &str = "reserved-ports";

/// The NodePorts of all services, and what of them has been reserved.
pub struct ReservedPorts {
    record: PathBuf,
    /// Host ports have a name of their own here.
    by_service: BTreeMap<Name, BTreeSet<u16>>,
    /// Ports that the data path gives to translated flows, which are the node's flows no more.
    translated: BTreeSet<u16>,
    ours: BTreeSet<u16>,
    /// A setting that cannot be written is spoken of once.
    failed: bool,
}

// === impl ReservedPorts ===

impl ReservedPorts {
    /// `run`: the folder of sockets. `translates`: this node's data path gives source ports to flows (eBPF mode).
    pub fn open(run: &Path, translates: bool) -> Self {
        let record = run.join(RECORD);
        let ours = fs::read_to_string(&record).map(|text| parse(&text)).unwrap_or_default();
        let translated = if translates { (SNAT_PORT_MIN..=SNAT_PORT_MAX).collect() } else { BTreeSet::new() };
        Self { record, by_service: BTreeMap::new(), translated, ours, failed: false }
    }

    /// Follows the services that became dirty.
    pub fn follow<'a>(&mut self, world: &World, services: impl IntoIterator<Item = &'a Name>) {
        for name in services {
            let ports: BTreeSet<u16> = world
                .service(name)
                .into_iter()
                .flat_map(|service| service.ports.iter().map(|port| port.node_port))
                .filter(|port| *port != 0)
                .collect();
            self.set(name.clone(), ports);
        }
        self.settle();
    }

    /// Ports of the node that lead to its own pods are kept from being taken in the same way: these are all.
    pub fn set_host_ports(&mut self, ports: BTreeSet<u16>) {
        self.set(Name::new(NAMESPACE, ""), ports);
        self.settle();
    }

    fn set(&mut self, name: Name, ports: BTreeSet<u16>) {
        if ports.is_empty() {
            self.by_service.remove(&name);
        } else {
            self.by_service.insert(name, ports);
        }
    }

    fn settle(&mut self) {
        match self.sync() {
            Ok(()) => self.failed = false,
            Err(error) if !self.failed => {
                self.failed = true;
                tracing::warn!(
                    "NodePorts and ports of translated flows may be taken as source ports: {error:#}{}",
                    hint(&error)
                );
            }
            Err(_) => {}
        }
    }

    fn sync(&mut self) -> Result<()> {
        let range = read(RANGE)?;
        let wanted = overlap(self.by_service.values().flatten().chain(&self.translated), &range);
        if wanted == self.ours {
            return Ok(());
        }
        // The record first: what is reserved and not in it would stay for ever.
        let both: BTreeSet<u16> = wanted.union(&self.ours).copied().collect();
        write(&self.record, &both)?;
        replace(&self.ours, &wanted)?;
        write(&self.record, &wanted)?;
        self.ours = wanted;
        Ok(())
    }
}

/// What to do about it.
fn hint(error: &anyhow::Error) -> String {
    let is_read_only = error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| matches!(error.kind(), ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied));
    if is_read_only {
        format!(": mount the node's /proc/sys/net where it can be written, and name that by {}", sysctl::VARIABLE)
    } else {
        String::new()
    }
}

/// Gives back what an agent with this folder of sockets has reserved; true when there was something.
///
/// # Errors
/// When the setting cannot be written.
pub fn release(run: &Path) -> Result<bool> {
    let record = run.join(RECORD);
    let Ok(text) = fs::read_to_string(&record) else { return Ok(false) };
    let ours = parse(&text);
    if !ours.is_empty() {
        replace(&ours, &BTreeSet::new())?;
    }
    fs::remove_file(&record).with_context(|| format!("remove {}", record.display()))?;
    Ok(!ours.is_empty())
}

/// Others' stay.
fn replace(ours: &BTreeSet<u16>, wanted: &BTreeSet<u16>) -> Result<()> {
    let there = read(RESERVED)?;
    let next = exchanged(&parse(&there), ours, wanted);
    let path = sysctl::path(RESERVED);
    fs::write(&path, text(&next) + "\n").with_context(|| format!("write {}", path.display()))
}

fn read(switch: &str) -> Result<String> {
    let path = sysctl::path(switch);
    fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}

fn exchanged(there: &BTreeSet<u16>, ours: &BTreeSet<u16>, wanted: &BTreeSet<u16>) -> BTreeSet<u16> {
    there.difference(ours).chain(wanted).copied().collect()
}

/// Those that the kernel might choose.
fn overlap<'a>(ports: impl Iterator<Item = &'a u16>, range: &str) -> BTreeSet<u16> {
    let mut bounds = range.split_whitespace().filter_map(|bound| bound.parse::<u16>().ok());
    let (first, last) = (bounds.next().unwrap_or_default(), bounds.next().unwrap_or(u16::MAX));
    ports.copied().filter(|port| (first..=last).contains(port)).collect()
}

fn write(record: &Path, ports: &BTreeSet<u16>) -> Result<()> {
    fs::write(record, text(ports)).with_context(|| format!("write {}", record.display()))
}

/// `1-3,5`: as the kernel writes it.
fn text(ports: &BTreeSet<u16>) -> String {
    let mut text = String::new();
    let mut ports = ports.iter().copied().peekable();
    while let Some(first) = ports.next() {
        let mut last = first;
        while let Some(next) = ports.next_if(|port| Some(*port) == last.checked_add(1)) {
            last = next;
        }
        let comma = if text.is_empty() { "" } else { "," };
        let _ = if first == last { write!(text, "{comma}{first}") } else { write!(text, "{comma}{first}-{last}") };
    }
    text
}

fn parse(text: &str) -> BTreeSet<u16> {
    text.trim()
        .split(',')
        .filter_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some(first.trim().parse::<u16>().ok()?..=last.trim().parse::<u16>().ok()?)
        })
        .flatten()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(text: &str) -> BTreeSet<u16> {
        parse(text)
    }

    #[test]
    fn lists_of_ports_are_written_as_the_kernel_writes_them() {
        for list in ["", "5", "1-3,5", "30000-30001,65534-65535"] {
            assert_eq!(text(&parse(list)), list);
        }
        assert_eq!(text(&parse("3,2,1\n")), "1-3");
    }

    // cilium#23604
    #[test]
    fn node_ports_that_the_kernel_might_choose_are_reserved() {
        let name = |name: &str| Name::new("default", name);
        let services = BTreeMap::from([(name("a"), ports("30080,40000")), (name("b"), ports("60999-61000"))]);
        assert_eq!(overlap(services.values().flatten(), "32768\t60999\n"), ports("40000,60999"));
        assert_eq!(overlap(services.values().flatten(), "1024 65535"), ports("30080,40000,60999,61000"));
    }

    #[test]
    fn ports_of_translated_flows_are_reserved_where_the_ranges_overlap() {
        let nowhere = Path::new("/nonexistent");
        let wanted = |translates, range| overlap(ReservedPorts::open(nowhere, translates).translated.iter(), range);
        assert_eq!(text(&wanted(true, "1024 65535")), "61000-65535");
        assert_eq!(text(&wanted(true, "32768 61001")), "61000-61001");
        assert_eq!(text(&wanted(true, "32768 60999")), "");
        assert_eq!(text(&wanted(false, "1024 65535")), "");
    }

    #[test]
    fn a_setting_that_cannot_be_written_says_what_to_mount() {
        let failed = |kind: ErrorKind| hint(&anyhow::Error::new(std::io::Error::from(kind)).context("write it"));
        assert!(failed(ErrorKind::ReadOnlyFilesystem).contains(sysctl::VARIABLE));
        assert_eq!(failed(ErrorKind::NotFound), "");
    }

    #[test]
    fn what_others_have_reserved_stays() {
        let next = exchanged(&ports("8000-8002,40000"), &ports("40000"), &ports("40001"));
        assert_eq!(next, ports("8000-8002,40001"));
        assert_eq!(exchanged(&next, &ports("40001"), &BTreeSet::new()), ports("8000-8002"));
    }
}
