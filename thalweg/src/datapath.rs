//! Opening the data path: what the agent and the lone service proxy have in common.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use thalweg_cluster::source::{KubeOptions, Source};
use thalweg_loader::{Datapath, Sizes};
use thalweg_proxy::EbpfBackend;

use crate::addresses::NodeAddresses;

/// Loads the kernel programs on the pins below `pins`; without a control group, the root of cgroup2 is balanced.
///
/// # Errors
/// When there is no cgroup2, or the kernel refuses.
pub fn open(pins: &Path, cgroup: Option<&Path>, node: NodeAddresses, socket_lb: bool) -> Result<Datapath> {
    let cgroup = match cgroup {
        Some(cgroup) => cgroup.to_owned(),
        None => cgroup_root()?,
    };
    let options = thalweg_loader::Options {
        pin_root: pins.to_owned(),
        cgroup,
        node_addr: node.v4,
        node_addr6: node.v6,
        sizes: Sizes::default(),
        socket_lb,
    };
    let datapath = Datapath::open(&options).context("load the kernel programs")?;
    tracing::info!(adopted = datapath.adopted(), pins = %pins.display(), "data path open");
    Ok(datapath)
}

/// A backend on the maps, knowing what an earlier process left in them.
///
/// # Errors
/// When the maps cannot be read.
pub fn backend(datapath: &Datapath) -> Result<EbpfBackend> {
    EbpfBackend::adopt(datapath.maps()?).context("read what an earlier agent left in the maps")
}

/// Where the cluster's state comes from: `--source file:PATH`, or the API server.
///
/// # Errors
/// When the text is no `file:PATH`.
pub fn source(source: Option<&str>, kubeconfig: Option<&Path>, node: &str) -> Result<Source> {
    match source {
        Some(text) => match text.strip_prefix("file:") {
            Some(path) => Ok(Source::File(PathBuf::from(path))),
            None => bail!("--source {text}: use file:PATH with a YAML file or a directory of them"),
        },
        None => {
            Ok(Source::Kube(KubeOptions { kubeconfig: kubeconfig.map(Path::to_owned), node: node.to_owned(), pods: false }))
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
    found.next().context("no cgroup2 is mounted: mount one (`mount -t cgroup2 none /sys/fs/cgroup`) or give --cgroup")
}
