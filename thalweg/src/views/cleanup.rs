//! `thalweg cleanup`, and `--cleanup` of the proxy: removes what an agent or a proxy of either mode left on this node.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use thalweg_proxy::iptables;

#[derive(Args, Debug)]
pub struct CleanupArgs {
    /// Folder of pinned programs, links and maps.
    #[arg(long, default_value = "/sys/fs/bpf/thalweg", value_name = "FOLDER")]
    bpffs: PathBuf,
}

/// # Errors
/// When something could not be removed, or an agent still runs.
pub fn cleanup(args: &CleanupArgs) -> Result<()> {
    remove_everything(&args.bpffs)
}

/// Removes what there is of either mode, whichever is in use, and says so. One that fails does not keep the others.
///
/// # Errors
/// The first thing that could not be removed.
pub fn remove_everything(bpffs: &Path) -> Result<()> {
    let mut removed = Vec::new();
    let mut failed = Ok(());
    match thalweg_loader::cleanup(bpffs).context("remove the programs and maps") {
        Ok(lines) => removed.extend(lines),
        Err(error) => failed = failed.and(Err(error)),
    }
    match iptables::cleanup_installed().context("remove the rules of iptables") {
        Ok(true) => removed.push("rules and chains of iptables".to_owned()),
        Ok(false) => {}
        Err(error) => failed = failed.and(Err(error)),
    }
    if removed.is_empty() && failed.is_ok() {
        println!("nothing was there");
    }
    for what in removed {
        println!("removed {what}");
    }
    failed
}
