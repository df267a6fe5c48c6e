//! A container's root file system: the node's own, read-only, with the pod's names and volumes mounted into it.
//!
//! An overlay with an empty upper layer in memory stands over the node's root, so that mount points can be made that the
//! node does not have; then it is made read-only. The node's other disks are overlaid (or bound) the same way. /proc, /sys,
//! /dev, /tmp and /run are the container's own, and the kubelet's state is hidden. Folders of the node's PATH stay visible
//! wherever they are: they are where a container's programs come from.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::process::state::ContainerRecord;
use crate::runtime::Mount;

/// Where the node's root is while the container's is being built.
const OLD: &str = ".thalweg-old";
/// Never carried over from the node: the container gets its own.
const OWN: [&str; 5] = ["/proc", "/sys", "/dev", "/tmp", "/run"];
const PSEUDO: [&str; 18] = [
    "autofs",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "fusectl",
    "hugetlbfs",
    "mqueue",
    "nsfs",
    "proc",
    "securityfs",
    "sysfs",
    "tracefs",
];
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
/// Files of /proc that concern the node, not the container.
const MASKED: [&str; 4] = ["/proc/kcore", "/proc/keys", "/proc/sysrq-trigger", "/proc/timer_list"];

/// Builds the root file system and moves this process into it.
pub(super) fn enter(dir: &Path, record: &ContainerRecord) -> Result<()> {
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .context("make the mounts private")?;
    let mounts = resolve(&record.config.mounts)?;
    let programs = hidden_programs(&std::env::var_os("PATH").unwrap_or_default());
    let disks = disks(&std::fs::read_to_string("/proc/self/mountinfo")?, &record.state_root);
    let scratch = dir.join("rootfs");
    std::fs::create_dir_all(&scratch)?;
    tmpfs(&scratch, "mode=755", MsFlags::empty()).context("mount the upper layer")?;

    let root = scratch.join("root");
    std::fs::create_dir(&root)?;
    overlay(Path::new("/"), &scratch, 0, &root).context(
        "mount an overlay over the node's root file system; the process runtime needs a kernel with overlayfs (CONFIG_OVERLAY_FS)",
    )?;
    for (number, disk) in disks.iter().enumerate() {
        carry(disk, &scratch, number + 1, &root)?;
    }
    hide(&record.state_root, &root)?;

    std::fs::create_dir_all(root.join(OLD))?;
    nix::unistd::pivot_root(&root, &root.join(OLD)).context("change the root")?;
    std::env::set_current_dir("/")?;
    let old = Path::new("/").join(OLD);
    own_file_systems(&old, record.config.security.privileged)?;
    for folder in &programs {
        let item = Mount { source: folder.clone(), target: folder.clone(), read_only: true };
        bind(&old, &item).with_context(|| format!("show the programs in {}", folder.display()))?;
    }
    for item in &mounts {
        bind(&old, item).with_context(|| format!("mount {} at {}", item.source.display(), item.target.display()))?;
    }
    if let Some(cwd) = &record.config.working_dir {
        std::fs::create_dir_all(cwd).with_context(|| format!("make workingDir {}", cwd.display()))?;
    }
    umount2(&old, MntFlags::MNT_DETACH).context("leave the node's mounts")?;
    std::fs::remove_dir(&old)?;
    read_only(Path::new("/")).context("make the root file system read-only")
}

/// Folders of a PATH that the container's own /tmp and /run would hide.
fn hidden_programs(path: &std::ffi::OsStr) -> Vec<PathBuf> {
    std::env::split_paths(path)
        .filter(|folder| folder.starts_with("/tmp") || folder.starts_with("/run"))
        .filter(|folder| folder.canonicalize().is_ok_and(|real| real == *folder && real.is_dir()))
        .collect()
}

/// Sources by their real paths: afterwards a link in them would lead through the container's root.
fn resolve(mounts: &[Mount]) -> Result<Vec<Mount>> {
    let real = |m: &Mount| {
        let source = m.source.canonicalize().with_context(|| format!("volume source {}", m.source.display()))?;
        Ok(Mount { source, ..m.clone() })
    };
    let mut mounts = mounts.iter().map(real).collect::<Result<Vec<_>>>()?;
    // Outer mount points first, whatever the order in the pod.
    mounts.sort_by_key(|m| m.target.components().count());
    Ok(mounts)
}

/// Mount points of the node's disks, from mountinfo, outer ones first.
fn disks(mountinfo: &str, state_root: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let (Some(path), Some(kind)) = (left.split(' ').nth(4), right.split(' ').next()) else { continue };
        let path = PathBuf::from(unescape(path));
        let own = OWN.iter().any(|o| path.starts_with(o)) || path.starts_with(state_root) || path == Path::new("/");
        // Other overlays are other containers' roots; other FUSE mounts belong to a user.
        let foreign = PSEUDO.contains(&kind) || kind == "overlay" || kind.starts_with("fuse");
        if !own && !foreign && !found.contains(&path) {
            found.push(path);
        }
    }
    found.sort_by_key(|p| p.components().count());
    found
}

/// mountinfo writes blank, tab, newline and backslash in octal.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |t, (a, b)| t.replace(a, b))
}

fn overlay(lower: &Path, scratch: &Path, number: usize, target: &Path) -> Result<()> {
    let (upper, work) = (scratch.join(format!("upper{number}")), scratch.join(format!("work{number}")));
    std::fs::create_dir(&upper)?;
    std::fs::create_dir(&work)?;
    let paths = [lower, &upper, &work].map(|p| p.to_string_lossy().into_owned());
    if paths.iter().any(|p| p.contains([',', ':', '\\'])) {
        bail!("a path has a character that overlayfs options cannot carry: {paths:?}");
    }
    let options = format!("lowerdir={},upperdir={},workdir={}", paths[0], paths[1], paths[2]);
    mount(Some("thalweg-root"), target, Some("overlay"), MsFlags::empty(), Some(options.as_str()))?;
    Ok(())
}

/// Makes one more disk of the node visible, read-only.
fn carry(disk: &Path, scratch: &Path, number: usize, root: &Path) -> Result<()> {
    let target = within(root, disk);
    let Ok(kind) = std::fs::symlink_metadata(disk) else { return Ok(()) };
    if std::fs::symlink_metadata(&target).is_err() {
        return Ok(()); // below something that is not carried
    }
    if !kind.is_dir() || overlay(disk, scratch, number, &target).is_err() {
        mount(Some(disk), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .with_context(|| format!("bind {}", disk.display()))?;
    }
    read_only(&target).with_context(|| format!("make {} read-only", disk.display()))
}

fn hide(path: &Path, root: &Path) -> Result<()> {
    let target = within(root, path);
    if OWN.iter().any(|own| path.starts_with(own)) || !target.is_dir() {
        return Ok(());
    }
    tmpfs(&target, "size=4k,mode=555", MsFlags::MS_RDONLY).with_context(|| format!("hide {}", path.display()))
}

fn own_file_systems(old: &Path, privileged: bool) -> Result<()> {
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    for dir in OWN {
        std::fs::create_dir_all(dir)?;
    }
    mount(Some("proc"), "/proc", Some("proc"), quiet, None::<&str>).context("mount /proc")?;
    let sysfs = if privileged { quiet } else { quiet | MsFlags::MS_RDONLY };
    mount(Some("sysfs"), "/sys", Some("sysfs"), sysfs, None::<&str>).context("mount /sys")?;
    // A convenience for programs that look up their limits; a kernel that refuses it runs them all the same.
    let _ = mount(Some("cgroup2"), "/sys/fs/cgroup", Some("cgroup2"), sysfs, None::<&str>);
    tmpfs(Path::new("/tmp"), "mode=1777", MsFlags::MS_NOSUID | MsFlags::MS_NODEV)?;
    tmpfs(Path::new("/run"), "mode=755", MsFlags::MS_NOSUID | MsFlags::MS_NODEV)?;
    if privileged {
        let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
        return mount(Some(&old.join("dev")), "/dev", None::<&str>, flags, None::<&str>).context("bind /dev");
    }
    devices(old)?;
    for path in MASKED.iter().filter(|p| Path::new(p).exists()) {
        mount(Some("/dev/null"), *path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .with_context(|| format!("mask {path}"))?;
    }
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some("/proc/sys"), "/proc/sys", None::<&str>, flags, None::<&str>).context("bind /proc/sys")?;
    read_only(Path::new("/proc/sys")).context("make /proc/sys read-only")
}

fn devices(old: &Path) -> Result<()> {
    tmpfs(Path::new("/dev"), "mode=755,size=64k", MsFlags::MS_NOSUID).context("mount /dev")?;
    for name in DEVICES {
        let (source, target) = (old.join("dev").join(name), Path::new("/dev").join(name));
        std::fs::File::create(&target)?;
        mount(Some(&source), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .with_context(|| format!("bind /dev/{name}"))?;
    }
    for (link, target) in [("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1")] {
        std::os::unix::fs::symlink(target, Path::new("/dev").join(link))?;
    }
    std::os::unix::fs::symlink("/proc/self/fd/2", "/dev/stderr")?;
    std::fs::create_dir("/dev/pts")?;
    let options = Some("newinstance,ptmxmode=0666,mode=0620");
    mount(Some("devpts"), "/dev/pts", Some("devpts"), MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC, options)
        .context("mount /dev/pts")?;
    std::os::unix::fs::symlink("pts/ptmx", "/dev/ptmx")?;
    std::fs::create_dir("/dev/shm")?;
    tmpfs(Path::new("/dev/shm"), "mode=1777,size=64m", MsFlags::MS_NOSUID | MsFlags::MS_NODEV).context("mount /dev/shm")
}

fn bind(old: &Path, item: &Mount) -> Result<()> {
    let source = within(old, &item.source);
    mount_point(&item.target, source.is_dir()).context("make the mount point")?;
    mount(Some(&source), &item.target, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)?;
    if item.read_only {
        read_only(&item.target)?;
    }
    Ok(())
}

fn mount_point(target: &Path, directory: bool) -> io::Result<()> {
    if target.exists() {
        return Ok(());
    }
    if std::fs::symlink_metadata(target).is_ok() {
        std::fs::remove_file(target)?; // a link to nowhere; only the upper layer loses it
    }
    if directory {
        return std::fs::create_dir_all(target);
    }
    if let Some(parent) = target.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::File::create(target).map(|_| ())
}

fn read_only(path: &Path) -> nix::Result<()> {
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(None::<&str>, path, None::<&str>, flags, None::<&str>)
}

fn tmpfs(path: &Path, options: &str, flags: MsFlags) -> Result<()> {
    mount(Some("thalweg-tmpfs"), path, Some("tmpfs"), flags, Some(options))
        .with_context(|| format!("mount a tmpfs at {}", path.display()))
}

fn within(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

#[cfg(test)]
mod tests {
    #[test]
    fn only_existing_folders_below_tmp_and_run_need_to_be_shown() {
        let folder = tempfile::tempdir_in("/tmp").expect("a folder in /tmp");
        let path = std::env::join_paths(["/usr/bin".as_ref(), folder.path(), "/tmp/thalweg-missing".as_ref(), "tmp".as_ref()])
            .expect("a PATH");
        assert_eq!(super::hidden_programs(&path), [folder.path()]);
    }

    use super::*;

    #[test]
    fn only_disks_of_the_node_are_carried_over() {
        let mountinfo = "\
27 1 254:0 / / rw - ext4 /dev/vda rw
30 27 0:5 / /proc rw - proc proc rw
31 27 0:6 / /sys/fs/cgroup rw - tmpfs tmpfs rw
32 27 8:1 / /home/a\\040b/deep rw shared:3 - ext4 /dev/sda rw
33 27 8:2 / /home rw - ext4 /dev/sdb rw
34 27 0:9 / /tmp rw - tmpfs tmpfs rw
35 27 0:9 / /var/lib/docker/overlay2/x/merged rw - overlay overlay rw
36 27 0:4 net /var/lib/thalweg/netns/x rw - nsfs nsfs rw
37 27 8:3 / /var/lib/thalweg/volumes/x rw - ext4 /dev/sdc rw
38 27 8:2 / /home rw - ext4 /dev/sdb rw
broken";
        let found = disks(mountinfo, Path::new("/var/lib/thalweg"));
        assert_eq!(found, [PathBuf::from("/home"), PathBuf::from("/home/a b/deep")]);
    }

    #[test]
    fn a_missing_volume_source_is_named() {
        let mounts = [Mount { source: "/nowhere/at/all".into(), target: "/x".into(), read_only: true }];
        let error = resolve(&mounts).expect_err("no such source");
        assert!(format!("{error:#}").contains("/nowhere/at/all"), "{error:#}");
    }
}
