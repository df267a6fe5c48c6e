//! The folder of the pins: found or mounted, locked by one agent, and its layout.
//!
//! ```text
//! <pin_root>/v<ABI_VERSION>/<MAP>          maps, adopted by the next agent
//! <pin_root>/new/<MAP>                     maps that are being filled from those of a predecessor
//! <pin_root>/old/<MAP>                     maps of a predecessor whose flows are being taken over
//! <pin_root>/links/<program>@<target>      links; the next agent replaces the programs in them
//! <pin_root>/programs-<hash>/<program>     programs; the next agent goes on with those of the same hash
//! ```

use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::statfs::statfs,
};
use thalweg_abi::ABI_VERSION;

use crate::Error;

/// The source that a bpffs mounted here shows in the mount table: that is how cleanup knows it is ours.
const MOUNT_SOURCE: &str = "thalweg";

/// How long a predecessor that is just being killed may hold the lock.
const LOCK_WAIT: Duration = Duration::from_secs(5);

pub fn maps_dir(pin_root: &Path) -> PathBuf {
    pin_root.join(format!("v{ABI_VERSION}"))
}

/// Where new maps are made beside those of a predecessor. What is found there at a start was never in use.
pub fn staged_dir(pin_root: &Path) -> PathBuf {
    pin_root.join("new")
}

/// Where the maps of a predecessor of the same version are when new ones have taken their place.
pub fn retired_dir(pin_root: &Path) -> PathBuf {
    pin_root.join("old")
}

pub fn links_dir(pin_root: &Path) -> PathBuf {
    pin_root.join("links")
}

/// What the names of folders of programs begin with.
const PROGRAMS: &str = "programs-";

pub fn programs_dir(pin_root: &Path, hash: u64) -> PathBuf {
    pin_root.join(format!("{PROGRAMS}{hash:016x}"))
}

/// Every folder of programs.
pub fn program_dirs(pin_root: &Path) -> Result<Vec<PathBuf>, Error> {
    let folders = names(pin_root)?.into_iter().filter(|name| name.starts_with(PROGRAMS));
    Ok(folders.map(|name| pin_root.join(name)).collect())
}

fn error(path: &Path, action: &'static str, source: io::Error) -> Error {
    Error::Bpffs { path: path.to_owned(), action, source }
}

/// Makes the folders, on a bpffs.
pub fn prepare(pin_root: &Path) -> Result<(), Error> {
    if let Err(refused) = make_dir(pin_root) {
        // /sys/fs/bpf exists on every machine, but is a folder of sysfs until a bpffs is mounted there.
        let existing = pin_root.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"));
        if !is_on(existing, libc::SYSFS_MAGIC) {
            return Err(error(pin_root, "cannot create the folder for pins", refused));
        }
        mount_bpffs(existing)?;
        make_dir(pin_root).map_err(|source| error(pin_root, "cannot create the folder for pins", source))?;
    }
    if !is_on(pin_root, libc::BPF_FS_MAGIC) {
        mount_bpffs(pin_root)?;
    }
    make_folder(&links_dir(pin_root))
}

/// Makes a folder for pins; one that is there is not an error.
pub fn make_folder(folder: &Path) -> Result<(), Error> {
    make_dir(folder).map_err(|source| error(folder, "cannot create the folder for pins", source))
}

/// Gives a folder another name, which must be free.
pub fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    fs::rename(from, to).map_err(|source| error(from, "cannot rename the folder of pins", source))
}

fn make_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn is_on(path: &Path, magic: libc::c_long) -> bool {
    statfs(path).is_ok_and(|stat| stat.filesystem_type().0 == magic)
}

/// Agents of several nodes may start at once on one machine: the folder is locked, or two mounts would cover each
/// other and hide what was pinned in the first.
fn mount_bpffs(path: &Path) -> Result<(), Error> {
    let folder = File::open(path).map_err(|source| error(path, "cannot open the folder for pins", source))?;
    folder.lock().map_err(|source| error(path, "cannot lock the folder for pins", source))?;
    if is_on(path, libc::BPF_FS_MAGIC) {
        return Ok(());
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_RELATIME;
    mount(Some(MOUNT_SOURCE), path, Some("bpf"), flags, Some("mode=0700"))
        .map_err(|errno| error(path, "cannot mount a bpffs (is this root, with CAP_SYS_ADMIN?)", errno.into()))?;
    tracing::info!(path = %path.display(), "mounted a bpffs");
    Ok(())
}

/// Holds the folder for one agent; released when dropped, and when the process dies.
#[derive(Debug)]
pub struct Lock {
    _folder: File,
}

/// Waits a little: a predecessor that was killed a moment ago may still be going.
pub fn lock(pin_root: &Path) -> Result<Lock, Error> {
    let folder = File::open(pin_root).map_err(|source| error(pin_root, "cannot open the folder for pins", source))?;
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        match folder.try_lock() {
            Ok(()) => return Ok(Lock { _folder: folder }),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => thread::sleep(Duration::from_millis(20)),
            Err(TryLockError::WouldBlock) => return Err(Error::Busy { path: pin_root.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(error(pin_root, "cannot lock the folder for pins", source)),
        }
    }
}

/// Removes every pin in a folder, and the folder; returns the names.
pub fn remove_pins(folder: &Path) -> Result<Vec<String>, Error> {
    let mut removed = Vec::new();
    for name in names(folder)? {
        let path = folder.join(&name);
        remove(&path)?;
        removed.push(name);
    }
    match fs::remove_dir(folder) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(error(folder, "cannot remove the folder", source)),
        _ => Ok(removed),
    }
}

/// Removes one pin; one that is not there is not an error.
pub fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(error(path, "cannot remove the pin", source)),
        _ => Ok(()),
    }
}

/// Names in a folder, sorted; none when the folder is not there.
pub fn names(folder: &Path) -> Result<Vec<String>, Error> {
    let entries = match fs::read_dir(folder) {
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|source| error(folder, "cannot list the folder", source))?,
    };
    let mut names = entries
        .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<Vec<_>>>()
        .map_err(|source| error(folder, "cannot list the folder", source))?;
    names.sort();
    Ok(names)
}

/// Folders of maps, in the order in which a predecessor is looked for: of this version, what it has replaced, and other
/// versions from the latest on. What was never in use is not among them.
pub fn map_dirs(pin_root: &Path) -> Result<Vec<PathBuf>, Error> {
    let names = names(pin_root)?;
    let mut versions: Vec<u32> = names.iter().filter_map(|name| name.strip_prefix('v')?.parse().ok()).collect();
    versions.sort_by_key(|version| std::cmp::Reverse((*version == ABI_VERSION, *version)));
    let mut folders: Vec<PathBuf> = versions.iter().map(|version| pin_root.join(format!("v{version}"))).collect();
    let retired = retired_dir(pin_root);
    if retired.is_dir() {
        folders.insert(usize::from(versions.first() == Some(&ABI_VERSION)), retired);
    }
    Ok(folders)
}

/// Unmounts the bpffs that holds `pin_root` if it was mounted here and nothing else is pinned in it. Says what it did.
pub fn unmount(pin_root: &Path) -> Result<Option<String>, Error> {
    let table = fs::read_to_string("/proc/thread-self/mountinfo")
        .map_err(|source| error(pin_root, "cannot read the mounts", source))?;
    let Some(mount_point) = mounted_here(&table, pin_root) else { return Ok(None) };
    // Names with dots are the kernel's own (`maps.debug`); nobody can pin under such a name.
    if names(&mount_point)?.iter().any(|name| !name.contains('.')) {
        return Ok(None);
    }
    // Detached rather than refused: a child that is between fork and exec holds a copy of every open file, and with
    // the last of them the mount goes.
    umount2(&mount_point, MntFlags::MNT_DETACH)
        .map_err(|errno| error(&mount_point, "cannot unmount the bpffs", errno.into()))?;
    Ok(Some(format!("bpffs at {}", mount_point.display())))
}

/// Whether `path` is itself where a file system is mounted.
pub fn is_mount_point(path: &Path) -> Result<bool, Error> {
    let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev());
    let parent = path.parent().unwrap_or(path);
    match (device(path), device(parent)) {
        (Ok(own), Ok(above)) => Ok(own != above),
        (Err(source), _) | (_, Err(source)) => Err(error(path, "cannot be looked at", source)),
    }
}

/// The mount point that holds `pin_root`, if that is a bpffs of ours. Later lines of the table cover earlier ones.
fn mounted_here(table: &str, pin_root: &Path) -> Option<PathBuf> {
    let holder = table
        .lines()
        .filter_map(|line| {
            let (mount, filesystem) = line.split_once(" - ")?;
            let mount_point = PathBuf::from(mount.split(' ').nth(4)?.replace("\\040", " "));
            let mut filesystem = filesystem.split(' ');
            pin_root.starts_with(&mount_point).then_some((mount_point, filesystem.next()?, filesystem.next()?))
        })
        .enumerate()
        .max_by_key(|(line, (mount_point, ..))| (mount_point.components().count(), *line));
    match holder {
        Some((_, (mount_point, "bpf", MOUNT_SOURCE))) => Some(mount_point),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::mounted_here;

    const TABLE: &str = "\
22 1 0:20 / / rw - ext4 /dev/vda rw
30 22 0:30 / /sys rw shared:7 - sysfs sysfs rw
31 30 0:31 / /sys/fs/bpf rw - bpf bpf rw
32 22 0:32 / /run/ours rw - bpf thalweg rw,mode=700
33 22 0:33 / /run/covered rw - bpf thalweg rw,mode=700
34 22 0:34 / /run/covered rw - tmpfs tmpfs rw
35 22 0:35 / /run/with\\040space rw - bpf thalweg rw";

    fn check(pin_root: &str, expected: Option<&str>) {
        assert_eq!(mounted_here(TABLE, Path::new(pin_root)), expected.map(PathBuf::from), "{pin_root}");
    }

    #[test]
    fn only_a_bpffs_of_ours_is_unmounted() {
        check("/run/ours", Some("/run/ours"));
        check("/run/ours/node-a", Some("/run/ours"));
        check("/run/ours-not", None);
        check("/sys/fs/bpf/thalweg", None);
        check("/run/covered/x", None);
        check("/run/with space/x", Some("/run/with space"));
        check("/elsewhere", None);
    }
}
