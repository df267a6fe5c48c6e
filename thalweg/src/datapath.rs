//! Opening the data path: what the agent and the lone service proxy have in common.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use thalweg_abi::StateKey;
use thalweg_cluster::source::{KubeOptions, ServiceScope, Source};
use thalweg_loader::{Datapath, Options, Sizes};

use crate::addresses::NodeAddresses;
use crate::probe::{self, Probe};

/// Flags of whoever loads kernel programs.
#[derive(Args, Clone, Debug)]
pub struct DatapathArgs {
    /// Folder of pinned programs, links and maps; a bpffs is mounted there when it is not on one.
    #[arg(long, default_value = "/sys/fs/bpf/thalweg")]
    pub bpffs: PathBuf,
    /// Control group whose processes get socket load balancing (default: the root of cgroup2).
    #[arg(long)]
    pub cgroup: Option<PathBuf>,
    /// Translate at the socket; without it tc does all the work.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    pub socket_lb: bool,
    /// Entries that a map can hold, such as CONNTRACK=524288 (default: by the machine's memory; `thalweg maps` lists
    /// them). A map of another size takes over what the old one holds.
    #[arg(long, value_name = "NAME=N", value_delimiter = ',', value_parser = map_size)]
    pub map_size: Vec<(String, u32)>,
}

/// This machine has no unified hierarchy of control groups, as far as this process sees.
#[derive(Debug)]
pub struct NoCgroup2;

// === impl NoCgroup2 ===

impl std::fmt::Display for NoCgroup2 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("no cgroup2 is mounted: mount one (`mount -t cgroup2 none /sys/fs/cgroup`) or give --cgroup")
    }
}

impl std::error::Error for NoCgroup2 {}

// === impl DatapathArgs ===

impl DatapathArgs {
    /// Loads the kernel programs on the pins.
    ///
    /// # Errors
    /// When there is no cgroup2, or the kernel refuses.
    pub fn open(&self, node: NodeAddresses) -> Result<Datapath> {
        let options = Options {
            pin_root: self.bpffs.clone(),
            cgroup: self.cgroup()?,
            node_addr: node.v4,
            node_addr6: node.v6,
            sizes: self.sizes(node)?,
            socket_lb: self.socket_lb,
        };
        let datapath = Datapath::open(&options).context("load the kernel programs")?;
        tracing::info!(start = ?datapath.start(), pins = %self.bpffs.display(), "data path open");
        Ok(datapath)
    }

    /// The control group that is balanced.
    ///
    /// # Errors
    /// When none is given, and no cgroup2 is mounted.
    pub fn cgroup(&self) -> Result<PathBuf> {
        self.cgroup.clone().map_or_else(cgroup_root, Ok)
    }

    /// A health service of our own, dialled as others dial theirs; or, where sockets of this process are not translated,
    /// by packets that the tc programs are run on.
    ///
    /// # Errors
    /// Why there is none, for people: services are served all the same.
    pub fn probe(&self, node: NodeAddresses) -> Result<Probe, &'static str> {
        let is_balanced = self.socket_lb && self.cgroup().is_ok_and(|cgroup| probe::is_inside(&cgroup));
        if is_balanced { Probe::of_sockets(node).map_err(probe::no_port) } else { Ok(Probe::of_packets(node, &self.bpffs)) }
    }

    fn sizes(&self, node: NodeAddresses) -> Result<Sizes> {
        let mut sizes = Sizes::for_this_machine(node.v4.is_some(), node.v6.is_some()).context("the machine's memory")?;
        for (map, entries) in &self.map_size {
            if !sizes.set(map, *entries) {
                let names = sizes.by_map().map(|(name, _)| name).join(", ");
                bail!("--map-size {map}={entries}: no such map; there are {names}");
            }
        }
        Ok(sizes)
    }
}

/// Whether an earlier agent has filled the maps: then the programs may work on them at once. One that died before knew of
/// no service, or of some.
///
/// # Errors
/// When the maps cannot be read.
pub fn is_filled(datapath: &Datapath) -> Result<bool> {
    Ok(datapath.adopted() && datapath.maps()?.state(StateKey::Synced)? == 1)
}

/// `NAME=N`
fn map_size(text: &str) -> Result<(String, u32), String> {
    let size = text.split_once('=').and_then(|(name, entries)| Some((name.trim(), entries.trim().parse::<u32>().ok()?)));
    match size {
        Some((name, entries @ 1..)) => Ok((name.to_ascii_uppercase(), entries)),
        _ => Err(format!("{text:?}: write NAME=N, such as CONNTRACK=524288")),
    }
}

/// Where the cluster's state comes from: `--source file:PATH`, or the API server.
///
/// # Errors
/// When the text is no `file:PATH`.
pub fn source(source: Option<&str>, kubeconfig: Option<&Path>, node: &str, services: ServiceScope) -> Result<Source> {
    match source {
        Some(text) => match text.strip_prefix("file:") {
            Some(path) => Ok(Source::File(PathBuf::from(path))),
            None => bail!("--source {text}: use file:PATH with a YAML file or a directory of them"),
        },
        // Pods too: which of them leave socket load balancing to tc.
        None => {
            let (kubeconfig, node) = (kubeconfig.map(Path::to_owned), node.to_owned());
            Ok(Source::Kube(KubeOptions { kubeconfig, node, pods: true, services }))
        }
    }
}

/// Where cgroup2 is mounted.
fn cgroup_root() -> Result<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").context("read /proc/self/mounts")?;
    let mut found = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let path = fields.next()?;
        (fields.next()? == "cgroup2").then(|| PathBuf::from(path))
    });
    Ok(found.next().ok_or(NoCgroup2)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(sizes: &[&str]) -> DatapathArgs {
        DatapathArgs {
            bpffs: PathBuf::new(),
            cgroup: None,
            socket_lb: true,
            map_size: sizes.iter().map(|text| map_size(text).expect(text)).collect(),
        }
    }

    #[test]
    fn sizes_of_maps_are_said_by_name() {
        let node = NodeAddresses { v4: Some([10, 0, 0, 1].into()), v6: None };
        let sizes = args(&["conntrack=4096", "SLOTS=99"]).sizes(node).expect("sizes");
        assert_eq!((sizes.conntrack, sizes.slots), (4_096, 99));
        let said = args(&["NOPE=1"]).sizes(node).expect_err("no such map").to_string();
        assert!(said.contains("NOPE") && said.contains("CONNTRACK6"), "{said}");
    }

    #[test]
    fn a_size_is_a_name_and_a_number() {
        for text in ["", "SLOTS", "SLOTS=", "SLOTS=0", "SLOTS=-1", "SLOTS=x", "SLOTS=99999999999"] {
            assert!(map_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_source_is_a_file_or_the_api_server() {
        assert!(
            matches!(source(Some("file:/x"), None, "a", ServiceScope::All), Ok(Source::File(path)) if path == Path::new("/x"))
        );
        assert!(source(Some("/x"), None, "a", ServiceScope::All).is_err());
        assert!(
            matches!(source(None, None, "a", ServiceScope::All), Ok(Source::Kube(options)) if options.pods && options.node == "a")
        );
    }
}
