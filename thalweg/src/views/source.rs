//! Where views read: the pinned maps; and what to say when there are none.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::Args;
use thalweg_loader::{Error, Maps};

#[derive(Args, Debug)]
pub struct SourceArgs {
    /// Folder of pinned programs, links and maps.
    #[arg(long, default_value = "/sys/fs/bpf/thalweg", value_name = "FOLDER")]
    pub bpffs: PathBuf,
}

/// The head of our trees of chains in the nat table.
const ROOT_CHAIN: &str = ":TW-SERVICES ";

// === impl SourceArgs ===

impl SourceArgs {
    /// Opens the maps.
    ///
    /// # Errors
    /// When there are none: says whether iptables does the work, and where to look then.
    pub fn open(&self) -> Result<Maps> {
        let bpffs = self.bpffs.display();
        let error = match Maps::open_pinned(&self.bpffs) {
            Ok(maps) => return Ok(maps),
            Err(error @ Error::NoMaps { .. }) => error,
            Err(error) => return Err(error).with_context(|| format!("open the maps below {bpffs}")),
        };
        if has_rules() {
            bail!(
                "this node is in iptables mode: there are no maps to read below {bpffs}. Look at the rules instead: \
                 `iptables-save -t nat | grep TW-` and `ip6tables-save -t nat | grep TW-` for services and endpoints, \
                 `conntrack -L` for flows"
            );
        }
        if other_version(&self.bpffs) {
            bail!("{error}; maps of another version are there: use the `thalweg` of the agent that runs on this node");
        }
        bail!(
            "no maps below {bpffs}: no agent has run on this node with these pins. Start `thalweg agent` or `thalweg proxy`, \
             or give the folder that it was started with by --bpffs (and be root)"
        )
    }
}

/// Whether the iptables backend has rules here.
fn has_rules() -> bool {
    ["iptables-save", "ip6tables-save"].iter().any(|program| {
        let listed = Command::new(program).args(["-t", "nat"]).stdin(Stdio::null()).stderr(Stdio::null()).output();
        listed.is_ok_and(|output| {
            output.status.success() && String::from_utf8_lossy(&output.stdout).lines().any(|line| line.starts_with(ROOT_CHAIN))
        })
    })
}

/// Whether there are maps, but those of a build with another layout.
fn other_version(bpffs: &Path) -> bool {
    let entries = std::fs::read_dir(bpffs).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.into_iter().any(|name| name.strip_prefix('v').is_some_and(|number| number.parse::<u32>().is_ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_maps_it_says_what_to_do() {
        let folder = std::env::temp_dir().join(format!("tw-no-maps-{}", std::process::id()));
        let source = SourceArgs { bpffs: folder.clone() };
        let said = format!("{:#}", source.open().expect_err("no maps"));
        assert!(said.contains(&folder.display().to_string()), "{said}");
        assert!(said.contains("--bpffs") || said.contains("iptables-save"), "{said}");
    }

    #[test]
    fn maps_of_another_version_are_told_apart() {
        let folder = std::env::temp_dir().join(format!("tw-other-maps-{}", std::process::id()));
        assert!(!other_version(&folder));
        std::fs::create_dir_all(folder.join("v999")).expect("a folder");
        let found = other_version(&folder);
        std::fs::remove_dir_all(&folder).expect("removed");
        assert!(found);
    }
}
