//! Programs that the machine must have, installed from Debian's archive when they are missing.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::step;

/// A program and the Debian package that brings it.
#[derive(Clone, Copy)]
pub struct Tool {
    pub program: &'static str,
    pub package: &'static str,
}

/// What a cluster on this machine needs.
pub const LAB: &[Tool] = &[
    Tool { program: "ip", package: "iproute2" },
    Tool { program: "tc", package: "iproute2" },
    Tool { program: "nsenter", package: "util-linux" },
    Tool { program: "kubectl", package: "kubernetes-client" },
];

/// What the tests need besides: real peers and tools to look at the kernel.
pub const TESTS: &[Tool] = &[
    Tool { program: "iptables-save", package: "iptables" },
    Tool { program: "conntrack", package: "conntrack" },
    Tool { program: "dig", package: "bind9-dnsutils" },
];

/// Installs the packages of the tools that are not on the PATH, and says so.
///
/// # Errors
/// When one is missing and cannot be installed (not root, no Debian, no network): names the packages.
pub fn ensure_installed(tools: &[Tool]) -> Result<()> {
    let mut packages: Vec<&str> = tools.iter().filter(|tool| !on_path(tool.program)).map(|tool| tool.package).collect();
    packages.sort_unstable();
    packages.dedup();
    if packages.is_empty() {
        return Ok(());
    }
    let list = packages.join(" ");
    ensure!(on_path("apt-get"), "please install {list}: this machine has no apt-get");
    eprintln!("installing from Debian's archive: {list}");
    let hint = || format!("cannot install {list}: install them by hand and try again");
    step::run("apt-get update", Command::new("apt-get").args(["update", "-qq"])).with_context(hint)?;
    let mut install = Command::new("apt-get");
    install.args(["install", "-y", "-qq", "--no-install-recommends"]).args(&packages).env("DEBIAN_FRONTEND", "noninteractive");
    step::run(&format!("apt-get install {list}"), &mut install).with_context(hint)?;
    for tool in tools {
        ensure!(on_path(tool.program), "package {} was installed, but {} is still not on the PATH", tool.package, tool.program);
    }
    Ok(())
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(|dir| Path::new(dir).to_owned()))
        .any(|dir| dir.join(program).is_file())
}

/// # Errors
/// When this is not root: what needs it, and what works without.
pub fn ensure_root(verb: &str) -> Result<()> {
    let status = std::fs::read_to_string("/proc/self/status").context("read /proc/self/status")?;
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().nth(1)).unwrap_or("");
    ensure!(
        uid == "0",
        "`cargo xtask {verb}` makes network namespaces and loads kernel programs: run it as root (plain `cargo test` works without)"
    );
    Ok(())
}
