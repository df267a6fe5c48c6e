//! A node for tests: a network namespace with a bridge, a cgroup, a state directory and a small CNI plugin. All of it goes
//! when the test ends, however it ends.

use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thalweg_kubelet::process::{Helper, ProcessOptions};
use thalweg_lab::netns::Netns;

/// A veth per pod, the address picked from the pod's name: `web-7` gets 10.77.0.7.
const PLUGIN: &str = r#"#!/bin/sh
input=$(cat)
echo "$CNI_COMMAND $CNI_CONTAINERID $CNI_ARGS" >> "$(dirname "$0")/calls"
[ -e "$(dirname "$0")/broken" ] && { echo '{"code":100,"msg":"the plugin is broken"}'; exit 1; }
link="tw$(echo "$CNI_CONTAINERID" | cut -c1-10)"
number=$(echo "$CNI_ARGS" | sed -n 's/.*K8S_POD_NAME=[^;]*-\([0-9]*\).*/\1/p')
set -e
case "$CNI_COMMAND" in
ADD)
    ip link add "$link" type veth peer name "$CNI_IFNAME" netns "$CNI_NETNS"
    ip link set "$link" master tw-br up
    nsenter --net="$CNI_NETNS" ip addr add "10.77.0.$number/24" dev "$CNI_IFNAME"
    nsenter --net="$CNI_NETNS" ip link set "$CNI_IFNAME" up
    echo "{\"cniVersion\":\"1.0.0\",\"ips\":[{\"address\":\"10.77.0.$number/24\"}]}" ;;
DEL) ip link del "$link" 2>/dev/null || true ;;
esac
"#;

pub struct Node {
    pub netns: Netns,
    pub dir: Dir,
    adopted: bool,
    pub cgroup: PathBuf,
}

/// A directory that goes with the node.
pub struct Dir(PathBuf);

impl Dir {
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Node {
    /// A node whose process was killed: the same directory and cgroup, and its network as it was left.
    #[allow(dead_code, reason = "each test file uses what it needs")]
    pub fn take_over(name: &str, dir: PathBuf) -> Self {
        let netns = Netns::existing(&format!("tw-{name}"));
        let cgroup = cgroup2().join(format!("thalweg-test-{name}"));
        Self { netns, dir: Dir(dir), adopted: true, cgroup }
    }

    /// `name` tells the tests of one run apart, at most 6 characters.
    pub fn new(name: &str) -> Self {
        Self::at(name, tempfile::Builder::new().prefix("thalweg-kubelet-").tempdir().expect("tempdir").keep())
    }

    /// A node whose directory is given.
    pub fn at(name: &str, dir: PathBuf) -> Self {
        let dir = Dir(dir);
        let netns = Netns::create(&format!("tw-{name}")).expect("network namespace");
        netns.ip("link add tw-br type bridge").expect("bridge");
        netns.ip("addr add 10.77.0.1/24 dev tw-br").expect("address");
        netns.ip("link set tw-br up").expect("up");
        let cgroup = cgroup2().join(format!("thalweg-test-{name}"));
        std::fs::create_dir_all(&cgroup).expect("cgroup");
        let node = Self { netns, dir, adopted: false, cgroup };
        for sub in ["bin", "net.d", "state"] {
            std::fs::create_dir(node.dir.path().join(sub)).expect("directory");
        }
        let plugin = node.dir.path().join("bin/tw-test");
        std::fs::write(&plugin, PLUGIN).expect("plugin");
        std::fs::set_permissions(&plugin, std::fs::Permissions::from_mode(0o755)).expect("chmod");
        let list = r#"{"name":"test","cniVersion":"1.0.0","plugins":[{"type":"tw-test"}]}"#;
        std::fs::write(node.dir.path().join("net.d/10-test.conflist"), list).expect("conflist");
        node
    }

    pub fn options(&self) -> ProcessOptions {
        ProcessOptions {
            root: self.dir.path().join("state"),
            cgroup: self.cgroup.clone(),
            cni_bin_dir: self.dir.path().join("bin"),
            cni_conf_dir: self.dir.path().join("net.d"),
            helper: Helper::of(env!("CARGO_BIN_EXE_thalweg-kubelet-helper").into()),
        }
    }

    /// Runs a test's body inside the node's network, bounded in time.
    pub fn run<T: Send, F: Future<Output = T>>(&self, body: impl FnOnce() -> F + Send) -> T {
        let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("tokio");
        let bounded = || runtime().block_on(async { tokio::time::timeout(Duration::from_secs(120), body()).await });
        self.netns.enter(bounded).expect("enter").expect("the test hangs")
    }

    /// The lines the CNI plugin logged.
    #[allow(dead_code, reason = "each test file uses what it needs")]
    pub fn cni_calls(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.dir.path().join("bin/calls")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Everything a pod would leave behind: sandboxes, containers, kept namespaces, cgroups, links.
    #[allow(dead_code, reason = "each test file uses what it needs")]
    pub fn leftovers(&self) -> Vec<String> {
        let state = self.dir.path().join("state");
        let mut found: Vec<String> = Vec::new();
        for dir in ["sandboxes", "containers", "netns", "pods", "logs"] {
            let entries = std::fs::read_dir(state.join(dir)).into_iter().flatten();
            found.extend(entries.flatten().map(|e| e.path().display().to_string()));
        }
        let pods = std::fs::read_dir(self.cgroup.join("kubepods")).into_iter().flatten().flatten();
        found.extend(pods.filter(|e| e.path().is_dir()).map(|e| e.path().display().to_string()));
        let links = self.netns.ip("-o link show type veth").expect("links");
        found.extend(links.lines().map(str::to_owned));
        let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
        let here = self.dir.path().to_string_lossy().into_owned();
        found.extend(mounts.lines().filter(|m| m.contains(&here)).map(str::to_owned));
        found
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = std::fs::write(self.cgroup.join("cgroup.kill"), "1");
        for entry in std::fs::read_dir(self.dir.path().join("state/netns")).into_iter().flatten().flatten() {
            let _ = nix::mount::umount2(&entry.path(), nix::mount::MntFlags::MNT_DETACH);
        }
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let here = self.dir.path().to_string_lossy().into_owned();
        for point in mounts.lines().filter_map(|m| m.split(' ').nth(1)).filter(|p| p.starts_with(&here)) {
            let _ = nix::mount::umount2(point, nix::mount::MntFlags::MNT_DETACH);
        }
        if self.adopted {
            let _ = Netns::remove(self.netns.name());
        }
        for _ in 0..100 {
            if remove_cgroups(&self.cgroup).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn remove_cgroups(path: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_cgroups(&entry.path())?;
        }
    }
    std::fs::remove_dir(path)
}

fn cgroup2() -> PathBuf {
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
    let line = mounts.lines().find(|l| l.split(' ').nth(2) == Some("cgroup2")).expect("a cgroup2 mount");
    line.split(' ').nth(1).expect("mount point").into()
}

/// Waits until `probe` is true, at most `seconds`.
#[allow(dead_code, reason = "each test file uses what it needs")]
pub async fn eventually(what: &str, seconds: u64, mut probe: impl FnMut() -> bool) {
    for _ in 0..seconds * 50 {
        if probe() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("not within {seconds} s: {what}");
}
