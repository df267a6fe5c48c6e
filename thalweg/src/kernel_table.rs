//! The kernel's connection table, as the configuration wants it: the shell around
//! [`KernelTable`](thalweg_proxy::config::KernelTable).

use std::fs;
use std::io;

use nix::unistd::{SysconfVar, sysconf};
use thalweg_cluster::sysctl;
use thalweg_proxy::config::{KernelTable, Write};

const LIBERAL: &str = "netfilter/nf_conntrack_tcp_be_liberal";

/// Writes what differs. What cannot be written is said, and left as it is: packets flow all the same.
pub fn apply(table: &KernelTable) {
    for Write { switch, value } in table.writes(cpus(), read) {
        match fs::write(sysctl::path(switch), value.to_string()) {
            Ok(()) => tracing::info!(switch, value, "set, as configured (conntrack)"),
            Err(error) => tracing::warn!(switch, value, "{}", explain(&error)),
        }
    }
}

/// Whether packets out of the window are not invalid: as configured, or as the kernel has been told by somebody else.
pub fn is_liberal(table: &KernelTable) -> bool {
    table.tcp_be_liberal || read(LIBERAL).is_some_and(|value| value != 0)
}

fn read(switch: &'static str) -> Option<u64> {
    fs::read_to_string(sysctl::path(switch)).ok()?.trim().parse().ok()
}

/// Of the machine, whatever this process may use of it.
fn cpus() -> u64 {
    let online = sysconf(SysconfVar::_NPROCESSORS_ONLN).ok().flatten();
    online.and_then(|online| u64::try_from(online).ok()).unwrap_or(1)
}

fn explain(error: &io::Error) -> String {
    let hint = match error.kind() {
        io::ErrorKind::PermissionDenied => ": it belongs to the machine's first network namespace, or CAP_NET_ADMIN is missing",
        io::ErrorKind::ReadOnlyFilesystem => {
            return format!(
                "stays as it is: {error}: mount the node's /proc/sys/net where it can be written, and name that by {}",
                sysctl::VARIABLE
            );
        }
        io::ErrorKind::NotFound => ": this kernel does not track connections, or not yet",
        _ => "",
    };
    format!("stays as it is: {error}{hint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_cannot_write_is_told_what_to_do() {
        let check = |kind: io::ErrorKind, wanted: &str| {
            let said = explain(&kind.into());
            assert!(said.contains(wanted), "{said}");
        };
        check(io::ErrorKind::ReadOnlyFilesystem, sysctl::VARIABLE);
        check(io::ErrorKind::PermissionDenied, "CAP_NET_ADMIN");
        check(io::ErrorKind::NotFound, "does not track");
        check(io::ErrorKind::InvalidInput, "stays as it is");
    }

    #[test]
    fn a_machine_has_a_cpu() {
        assert!(cpus() >= 1);
    }
}
