//! Removes every trace of a data path: links, maps, programs, folders, and a bpffs that was mounted for them.

use std::{fs, path::Path};

use crate::{Error, bpffs, links};

/// Detaches every program and removes every pin below `pin_root`, the folders, and the bpffs if it was mounted here.
/// Says what it removed, one line each; nothing when there was nothing. The agent must not be running.
///
/// # Errors
/// [`Error::Busy`] when an agent holds the folder, [`Error::Bpffs`] when something cannot be removed.
pub fn cleanup(pin_root: &Path) -> Result<Vec<String>, Error> {
    let mut removed = Vec::new();
    if !pin_root.is_dir() {
        return Ok(removed);
    }
    let lock = bpffs::lock(pin_root)?;
    removed.extend(links::remove_all(&bpffs::links_dir(pin_root))?.into_iter().map(|name| format!("link {name}")));
    bpffs::remove_pins(&bpffs::staged_dir(pin_root))?;
    for folder in bpffs::map_dirs(pin_root)? {
        removed.extend(bpffs::remove_pins(&folder)?.into_iter().map(|name| format!("map {name}")));
    }
    for folder in bpffs::program_dirs(pin_root)? {
        removed.extend(bpffs::remove_pins(&folder)?.into_iter().map(|name| format!("program {name}")));
    }
    // An open folder would keep the bpffs busy.
    drop(lock);
    let is_mount_point = bpffs::is_mount_point(pin_root)?;
    if !is_mount_point {
        remove_if_empty(pin_root, &mut removed);
    }
    if let Some(line) = bpffs::unmount(pin_root)? {
        removed.push(line);
        if is_mount_point {
            remove_if_empty(pin_root, &mut removed);
        }
    }
    Ok(removed)
}

/// What somebody else keeps there stays, and the folder with it.
fn remove_if_empty(folder: &Path, removed: &mut Vec<String>) {
    if fs::remove_dir(folder).is_ok() {
        removed.push(format!("folder {}", folder.display()));
    }
}
