//! Files whose whole set changes at once. They stand in a directory of their own; `..data` points to it, and each name in the
//! volume points through `..data`. A change makes a new directory and turns the one link: a reader sees the old or the new set.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    pub bytes: Vec<u8>,
    pub mode: u32,
}

/// Files by path inside the volume.
pub type Payload = BTreeMap<PathBuf, File>;

const DATA: &str = "..data";

/// Makes the volume hold exactly `payload`; nothing is touched when it does already.
pub fn write(dir: &Path, payload: &Payload, group: Option<u32>) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755))?;
    let current = std::fs::read_link(dir.join(DATA)).ok();
    if current.is_some() && same(&dir.join(DATA), payload) {
        return Ok(());
    }
    let name = format!("..{:x}", Timestamp::now().as_nanosecond());
    let set = dir.join(&name);
    std::fs::create_dir(&set)?;
    for (path, file) in payload {
        let target = set.join(path);
        if let Some(parent) = target.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(&target, &file.bytes)?;
        // The group of fsGroup may read what the owner may.
        let mode = if group.is_some() { file.mode | (file.mode & 0o400) >> 3 } else { file.mode };
        std::fs::set_permissions(&target, std::fs::Permissions::from_mode(mode))?;
        std::os::unix::fs::chown(&target, None, group)?;
    }
    let link = dir.join("..data_new");
    let _ = std::fs::remove_file(&link);
    symlink(&name, &link)?;
    std::fs::rename(&link, dir.join(DATA))?;

    let wanted: BTreeSet<_> = payload.keys().filter_map(|p| p.components().next()).map(|c| c.as_os_str().to_owned()).collect();
    for first in &wanted {
        let target = dir.join(first);
        if std::fs::symlink_metadata(&target).is_err() {
            symlink(Path::new(DATA).join(first), target)?;
        }
    }
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let own = entry.file_name();
        if !own.as_encoded_bytes().starts_with(b"..") && !wanted.contains(&own) {
            std::fs::remove_file(entry.path())?;
        }
    }
    match current {
        Some(old) => std::fs::remove_dir_all(dir.join(old)),
        None => Ok(()),
    }
}

fn same(set: &Path, payload: &Payload) -> bool {
    let mut found = BTreeSet::new();
    let equal = payload.iter().all(|(path, file)| {
        found.insert(path.clone());
        std::fs::read(set.join(path)).is_ok_and(|bytes| bytes == file.bytes)
    });
    equal && count(set) == found.len()
}

fn count(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|e| if e.path().is_dir() { count(&e.path()) } else { 1 }).sum()
}
