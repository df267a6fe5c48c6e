//! The source that reads manifests from disk, for labs, tests and nodes without an API server.
//!
//! Files are polled: cheap for the handful there are, and the same on every file system. A file is read once it has
//! kept still for one poll, so that a writer who truncates and then writes is not believed half-way.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};
use std::{fs, io};

use tokio::sync::mpsc;

use super::convert::Key;
use super::manifest::Manifest;
use super::object::Object;
use crate::world::{Batch, Change};

const POLL: Duration = Duration::from_millis(50);

/// Something on disk that its writer should look at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Complaint {
    pub file: PathBuf,
    pub reason: String,
}

/// Follows one file or directory.
#[derive(Debug)]
pub(crate) struct Follower {
    root: PathBuf,
    /// Of an object that several files describe, the last one counts.
    files: BTreeMap<PathBuf, Tracked>,
    /// The root itself is missing or unreadable, and that has been reported.
    root_refused: Option<String>,
    synced: bool,
}

#[derive(Debug, Default)]
struct Tracked {
    /// As of the last poll.
    seen: Option<Signature>,
    /// As of the last time the file was read, readable or not.
    read: Option<Signature>,
    /// Has been read without an error at least once.
    good: bool,
    /// In the order of their keys.
    objects: Box<[Object]>,
}

/// Tells one state of a file from another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Signature {
    modified: Option<SystemTime>,
    len: u64,
    inode: u64,
}

/// What one poll found.
#[derive(Debug, Default)]
pub(crate) struct Poll {
    pub changes: Vec<Change>,
    /// Could not be used: the last good state of it stays.
    pub refused: Vec<Complaint>,
    /// Every file has been read without an error at least once.
    pub synced: bool,
}

/// Polls until the receiver is gone.
pub(crate) async fn run(path: PathBuf, sink: mpsc::Sender<Batch>) {
    let mut follower = Follower::new(path);
    let mut announced = false;
    loop {
        let received = Instant::now();
        let result = tokio::task::spawn_blocking(move || {
            let poll = follower.poll();
            (follower, poll)
        })
        .await;
        // A panic in the poll is a defect that must not be hidden by a source that silently stopped.
        let poll = match result {
            Ok((back, poll)) => {
                follower = back;
                poll
            }
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        for refused in &poll.refused {
            tracing::warn!(file = %refused.file.display(), "{}; what was last good stays in force", refused.reason);
        }
        if !poll.changes.is_empty() || poll.synced != announced {
            announced = poll.synced;
            if sink.send(Batch { changes: poll.changes, synced: poll.synced, received }).await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(POLL) => {}
            () = sink.closed() => return,
        }
    }
}

// === impl Follower ===

impl Follower {
    pub fn new(root: PathBuf) -> Self {
        Self { root, files: BTreeMap::new(), root_refused: None, synced: false }
    }

    /// Looks once; returns what changed since the last time.
    pub fn poll(&mut self) -> Poll {
        let mut poll = Poll { synced: self.synced, ..Poll::default() };
        let listing = match list(&self.root) {
            Ok(listing) => listing,
            Err(error) => {
                let reason = format!("cannot be read: {error}");
                if self.root_refused.as_ref() != Some(&reason) {
                    poll.refused.push(Complaint { file: self.root.clone(), reason: reason.clone() });
                    self.root_refused = Some(reason);
                }
                return poll;
            }
        };
        self.root_refused = None;

        let mut contents: Vec<(PathBuf, Box<[Object]>)> = Vec::new();
        for (path, signature) in &listing {
            let known = self.files.contains_key(path);
            let tracked = self.files.entry(path.clone()).or_default();
            // At the first poll of all there is nothing in force that a half-written file could harm: read at once.
            let still = tracked.seen == Some(*signature) || (!known && !self.synced);
            tracked.seen = Some(*signature);
            if still
                && tracked.read != Some(*signature)
                && let Some(objects) = tracked.load(path, *signature, &mut poll)
            {
                contents.push((path.clone(), objects));
            }
        }
        let gone = self.files.keys().filter(|path| !listing.contains_key(*path));
        contents.extend(gone.map(|path| (path.clone(), Box::default())));
        self.replace(contents, &mut poll.changes);
        self.files.retain(|path, _| listing.contains_key(path));
        self.synced |= self.files.values().all(|tracked| tracked.good);
        poll.synced = self.synced;
        poll
    }

    /// These files hold other objects now. Only what differs is looked at again. Removals come last: whoever follows adds
    /// before it takes away.
    fn replace(&mut self, contents: Vec<(PathBuf, Box<[Object]>)>, changes: &mut Vec<Change>) {
        let mut keys: Vec<Key> = Vec::new();
        for (path, new) in &contents {
            let old = self.files.get(path).map_or(&[][..], |tracked| &tracked.objects);
            keys.extend(old.iter().filter(|object| !holds(new, object)).map(Object::key));
            keys.extend(new.iter().filter(|object| !holds(old, object)).map(Object::key));
        }
        keys.sort_unstable();
        keys.dedup();
        let before = self.in_force(&keys);
        for (path, objects) in contents {
            self.files.entry(path).or_default().objects = objects;
        }
        let mut gone = Vec::new();
        for ((key, before), after) in keys.iter().zip(before).zip(self.in_force(&keys)) {
            match after {
                after if after == before => {}
                Some(after) => changes.push(after.change()),
                None => gone.push(key.clone().gone()),
            }
        }
        changes.append(&mut gone);
    }

    /// What all files together say of these keys, which are in order.
    fn in_force(&self, keys: &[Key]) -> Vec<Option<Object>> {
        let mut found = vec![None; keys.len()];
        for objects in self.files.values().map(|tracked| &tracked.objects) {
            // Whichever are fewer are looked for among the others.
            if keys.len() < objects.len() {
                for (key, found) in keys.iter().zip(&mut found) {
                    if let Some(object) = find(objects, key) {
                        *found = Some(object.clone());
                    }
                }
            } else {
                for object in objects {
                    if let Ok(at) = keys.binary_search_by(|key| object.compare(key).reverse()) {
                        found[at] = Some(object.clone());
                    }
                }
            }
        }
        found
    }
}

// === impl Tracked ===

impl Tracked {
    /// The objects of a file that could be read; those that have not changed are the very ones that are known.
    fn load(&mut self, path: &Path, signature: Signature, poll: &mut Poll) -> Option<Box<[Object]>> {
        let complain = |reason: String| Complaint { file: path.to_owned(), reason };
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                self.read = Some(signature);
                poll.refused.push(complain(format!("cannot be read: {error}")));
                return None;
            }
        };
        if stat(path).ok() != Some(signature) {
            // Written to while it was read: the next polls will see it keep still.
            return None;
        }
        self.read = Some(signature);
        let manifest = match Manifest::parse(&text) {
            Ok(manifest) => manifest,
            Err(reason) => {
                poll.refused.push(complain(reason));
                return None;
            }
        };
        let mut objects = manifest.objects;
        for (key, error) in manifest.refused {
            poll.refused.push(complain(error.to_string()));
            if key.is_none() {
                // It may be any of those that were good before: all of them stay.
                for good in &self.objects {
                    objects.entry(good.key()).or_insert_with(|| Some(good.clone()));
                }
            }
            if let Some(good) = key.as_ref().and_then(|key| find(&self.objects, key)) {
                objects.entry(good.key()).or_insert_with(|| Some(good.clone()));
            }
        }
        self.good = true;
        let known =
            |object: Object| find(&self.objects, &object.key()).filter(|held| **held == object).cloned().unwrap_or(object);
        Some(objects.into_values().flatten().map(known).collect())
    }
}

fn find<'a>(objects: &'a [Object], key: &Key) -> Option<&'a Object> {
    objects.get(objects.binary_search_by(|object| object.compare(key)).ok()?)
}

/// Whether this very object is among them.
fn holds(objects: &[Object], object: &Object) -> bool {
    find(objects, &object.key()) == Some(object)
}

/// The files at `root`, with what tells their states apart.
fn list(root: &Path) -> io::Result<BTreeMap<PathBuf, Signature>> {
    let mut paths = BTreeSet::new();
    if fs::metadata(root)?.is_dir() {
        for entry in fs::read_dir(root)? {
            let path = entry?.path();
            let extension = path.extension().and_then(|extension| extension.to_str());
            let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
            if matches!(extension, Some("yaml" | "yml" | "json")) && !hidden {
                paths.insert(path);
            }
        }
    } else {
        paths.insert(root.to_owned());
    }
    let mut listing = BTreeMap::new();
    for path in paths {
        match stat(&path) {
            Ok(signature) => {
                listing.insert(path, signature);
            }
            // Removed between the listing and now.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(listing)
}

fn stat(path: &Path) -> io::Result<Signature> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = fs::metadata(path)?;
    Ok(Signature { modified: metadata.modified().ok(), len: metadata.len(), inode: metadata.ino() })
}
