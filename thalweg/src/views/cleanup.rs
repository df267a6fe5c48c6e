//! `thalweg cleanup`, and `--cleanup` of the proxy: removes what an agent or a proxy of either mode left on this node.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use thalweg_proxy::iptables;

use crate::ports;

#[derive(Args, Debug)]
pub struct CleanupArgs {
    /// Folder of pinned programs, links and maps.
    #[arg(long, default_value = "/sys/fs/bpf/thalweg", value_name = "FOLDER")]
    bpffs: PathBuf,
    /// The agent's folder of sockets.
    #[arg(long, default_value = "/run/thalweg", value_name = "FOLDER")]
    run: PathBuf,
    /// Remove the pod network too: the links of the pods of this node, which have no network then, and routes to others
    #[arg(long)]
    pod_network: bool,
    /// The agent's folder of what outlives a restart, for --pod-network
    #[arg(long, default_value = "/var/lib/thalweg", value_name = "FOLDER")]
    state: PathBuf,
}

/// # Errors
/// When something could not be removed, or an agent still runs.
pub fn cleanup(args: &CleanupArgs) -> Result<()> {
    remove_everything(&args.bpffs, &args.run, args.pod_network.then_some(args.state.as_path()))
}

/// Removes what there is of either mode, whichever is in use, and says so; the pod network too, when the agent's folder of
/// state is given. What fails does not keep the rest.
///
/// # Errors
/// The first thing that could not be removed.
pub fn remove_everything(bpffs: &Path, run: &Path, pod_network: Option<&Path>) -> Result<()> {
    let mut removed = Vec::new();
    let mut failed = Ok(());
    let mut note = |result: Result<Vec<String>>| match result {
        Ok(lines) => removed.extend(lines),
        Err(error) => {
            let first = std::mem::replace(&mut failed, Ok(()));
            failed = first.and(Err(error));
        }
    };
    note(thalweg_loader::cleanup(bpffs).context("remove the programs and maps"));
    let line = |text: &'static str| move |found: bool| if found { vec![text.to_owned()] } else { Vec::new() };
    note(iptables::cleanup_installed().context("remove the rules of iptables").map(line("rules and chains of iptables")));
    note(ports::release(run).context("give back reserved ports").map(line("reserved ports")));
    if let Some(state) = pod_network {
        note(thalweg_network::cleanup(state).context("remove the pod network").map(|network| {
            let links = network.links.iter().map(|link| format!("link {link}"));
            let routes = (network.routes > 0).then(|| format!("{} routes", network.routes));
            links.chain(routes).chain(network.sysctls.iter().map(|name| format!("setting {name}"))).collect()
        }));
    }
    if removed.is_empty() && failed.is_ok() {
        println!("nothing was there");
    }
    for what in removed {
        println!("removed {what}");
    }
    failed
}
