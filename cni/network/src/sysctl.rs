//! The kernel's switches that routing pods needs. `/proc/sys/net` shows the namespace of the thread that looks.
//!
//! What the node's switches were before is kept beside the journal, for [`restore`]. Those of pods' links go with them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thalweg_cluster::sysctl;
use tracing::{info, warn};

use crate::error::{Error, Result};

const FILE: &str = "sysctls";

/// The node's switches, and what they were.
#[derive(Debug)]
pub struct Switches {
    file: PathBuf,
    record: Record,
}

/// Void after the boot that it was made in: the kernel starts from its defaults.
#[derive(Default, Debug, Serialize, Deserialize)]
struct Record {
    boot: String,
    /// By their path below `/proc/sys/net`.
    changed: BTreeMap<String, Changed>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Changed {
    was: String,
    ours: String,
}

// === impl Switches ===

impl Switches {
    /// A record that cannot be read is begun anew: it only serves a clean-up.
    pub fn open(directory: &Path, boot: &str) -> Self {
        let file = directory.join(FILE);
        let mut record = read_record(&file);
        if record.boot != boot {
            record = Record { boot: boot.to_owned(), ..Record::default() };
        }
        Self { file, record }
    }

    /// For IPv4: forward; no reverse-path filter, because what the data path translates comes back another way than the
    /// routing table thinks; no redirects, because pods and nodes are not neighbours even where they share a link.
    /// Neither proxy ARP is needed: both ends of a pod's link have permanent neighbour entries.
    ///
    /// # Errors
    /// Names the file and the value it should have.
    pub fn prepare_v4(&mut self, uplink: &str) -> Result<()> {
        self.set("ipv4/ip_forward", "1")?;
        for interface in ["all", "default", uplink] {
            self.set(&format!("ipv4/conf/{interface}/rp_filter"), "0")?;
            self.set(&format!("ipv4/conf/{interface}/send_redirects"), "0")?;
        }
        Ok(())
    }

    /// For IPv6: forward, and still believe the routers that were believed before. A host that forwards takes
    /// advertisements only on interfaces that say 2, and drops its default routes of all others at once: so that comes
    /// first, and on every interface that there is. No proxy of neighbour discovery is needed, as with ARP.
    ///
    /// # Errors
    /// Names the file and the value it should have.
    pub fn prepare_v6(&mut self, uplink: &str) -> Result<()> {
        let mut believing = vec![uplink.to_owned()];
        if read("ipv6/conf/all/forwarding").as_deref() == Some("0") {
            let interfaces = fs::read_dir(sysctl::path("ipv6/conf")).into_iter().flatten().flatten();
            let names = interfaces.filter_map(|interface| interface.file_name().into_string().ok());
            // Pods are no routers; and the defaults are those of their links too.
            believing
                .extend(names.filter(|name| !matches!(name.as_str(), "all" | "default" | "lo") && !name.starts_with("tw")));
        }
        for interface in believing {
            let accept = format!("ipv6/conf/{interface}/accept_ra");
            if read(&accept).as_deref() == Some("1") {
                self.set(&accept, "2")?;
            }
        }
        self.set("ipv6/conf/all/forwarding", "1")
    }

    /// What was before is on disk first.
    fn set(&mut self, name: &str, value: &str) -> Result<()> {
        let Some(was) = read(name).filter(|was| was != value) else { return set(name, value) };
        if !self.record.changed.contains_key(name) {
            self.record.changed.insert(name.to_owned(), Changed { was, ours: value.to_owned() });
            let failed = || Error::io(format!("{} cannot be written", self.file.display()));
            let text = serde_json::to_vec(&self.record).map_err(|error| failed()(error.into()))?;
            let temporary = self.file.with_extension("new");
            fs::write(&temporary, text).and_then(|()| fs::rename(&temporary, &self.file)).map_err(failed())?;
        }
        set(name, value)
    }
}

// === functions ===

/// Puts back what the node's switches were, except those that somebody else has changed since. Returns their names.
pub fn restore(directory: &Path, boot: &str) -> Vec<String> {
    let Record { boot: made, changed } = read_record(&directory.join(FILE));
    let mut restored = Vec::new();
    if made != boot {
        return restored;
    }
    // In the order of their names, so that IPv6 forwarding ends before advertisements are believed as usual again.
    for (name, Changed { was, ours }) in changed {
        if read(&name).as_deref() != Some(&ours) {
            continue;
        }
        match set(&name, &was) {
            Ok(()) => {
                info!(name, was, "put back");
                restored.push(name);
            }
            Err(error) => warn!(%error, "a switch is not put back"),
        }
    }
    restored
}

/// For an IPv6 address on the host's end of a pod's link, in the node's namespace: IPv6 there whatever the node's default
/// says, and no router on the other end, whatever it advertises (CVE-2020-10749).
///
/// # Errors
/// Names the file and the value it should have.
pub fn host_end_v6(interface: &str) -> Result<()> {
    end_v6(interface)
}

/// The same inside, where runtimes like to turn IPv6 off; there the loopback too.
///
/// # Errors
/// Names the file and the value it should have.
pub fn pod_end_v6(interface: &str) -> Result<()> {
    set("ipv6/conf/lo/disable_ipv6", "0")?;
    end_v6(interface)
}

/// Both ends know each other by permanent entries: nothing is to be detected and nobody to be asked.
fn end_v6(interface: &str) -> Result<()> {
    for (switch, value) in [("accept_ra", "0"), ("accept_dad", "0"), ("disable_ipv6", "0")] {
        set(&format!("ipv6/conf/{interface}/{switch}"), value)?;
    }
    Ok(())
}

fn read_record(file: &Path) -> Record {
    fs::read(file).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

fn read(name: &str) -> Option<String> {
    fs::read_to_string(sysctl::path(name)).ok().map(|value| value.trim().to_owned())
}

/// Writes only what differs: a container that sees /proc/sys read-only may have the right values already.
fn set(name: &str, value: &str) -> Result<()> {
    if read(name).as_deref() == Some(value) {
        return Ok(());
    }
    let path = sysctl::path(name);
    fs::write(&path, value).map_err(Error::io(format!("{} must be {value} and cannot be written", path.display())))
}
