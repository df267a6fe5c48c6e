//! The kernel's switches that routing pods needs. `/proc/sys/net` shows the namespace of the thread that looks.

use std::fs;
use std::path::Path;

use crate::error::{Error, Result};

/// For IPv4: forward; no reverse-path filter, because what the data path translates comes back another way than the
/// routing table thinks; no redirects, because pods and nodes are not neighbours even where they share a link.
/// Neither proxy ARP is needed: both ends of a pod's link have permanent neighbour entries.
///
/// # Errors
/// Names the file and the value it should have.
pub fn prepare_v4(uplink: &str) -> Result<()> {
    set("ipv4/ip_forward", "1")?;
    for interface in ["all", "default", uplink] {
        set(&format!("ipv4/conf/{interface}/rp_filter"), "0")?;
        set(&format!("ipv4/conf/{interface}/send_redirects"), "0")?;
    }
    Ok(())
}

/// For IPv6: forward, and still believe the router of the uplink where it was believed before.
///
/// # Errors
/// Names the file and the value it should have.
pub fn prepare_v6(uplink: &str) -> Result<()> {
    let accept = format!("ipv6/conf/{uplink}/accept_ra");
    if read(&accept).as_deref() == Some("1") {
        set(&accept, "2")?;
    }
    set("ipv6/conf/all/forwarding", "1")
}

fn read(name: &str) -> Option<String> {
    fs::read_to_string(Path::new("/proc/sys/net").join(name)).ok().map(|value| value.trim().to_owned())
}

/// Writes only what differs: a container that sees /proc/sys read-only may have the right values already.
fn set(name: &str, value: &str) -> Result<()> {
    if read(name).as_deref() == Some(value) {
        return Ok(());
    }
    let path = Path::new("/proc/sys/net").join(name);
    fs::write(&path, value).map_err(Error::io(format!("{} must be {value} and cannot be written", path.display())))
}
